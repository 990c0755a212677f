//! How well a name fits what is searched for, from 0 to 1: as Prometheus scores it, so that lists are in its order.

/// How what is not exactly there is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// All characters, in order, with gaps.
    Subsequence,
    /// Similar texts, by the measure of Jaro and Winkler.
    JaroWinkler,
}

/// Terms of which one must fit.
pub(super) struct Search {
    terms: Vec<Vec<char>>,
    algorithm: Algorithm,
    threshold: f64,
    case_sensitive: bool,
}

impl Search {
    pub(super) fn new(terms: Vec<String>, algorithm: Algorithm, threshold: f64, case_sensitive: bool) -> Self {
        let folded = |term: String| if case_sensitive { term } else { term.to_lowercase() };
        Self {
            terms: terms.into_iter().map(|term| folded(term).chars().collect()).collect(),
            algorithm,
            threshold,
            case_sensitive,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// None if no term fits. Where nothing is searched for everything fits.
    pub(super) fn score(&self, text: &str) -> Option<f64> {
        if self.terms.is_empty() {
            return Some(1.0);
        }
        let text: Vec<char> = if self.case_sensitive {
            text.chars().collect()
        } else {
            text.to_lowercase().chars().collect()
        };
        let scores = self.terms.iter().filter_map(|term| self.of_term(term, &text));
        scores.reduce(f64::max)
    }

    fn of_term(&self, term: &[char], text: &[char]) -> Option<f64> {
        if term.is_empty() || text.starts_with(term) {
            return Some(1.0);
        }
        match self.algorithm {
            Algorithm::Subsequence => {
                let score = subsequence(term, text);
                (score > 0.0 && score >= self.threshold).then_some(score)
            }
            Algorithm::JaroWinkler => {
                if text.windows(term.len()).any(|window| window == term) {
                    return Some(0.9);
                }
                let score = jaro_winkler(term, text);
                (self.threshold > 0.0 && score >= self.threshold).then_some(score)
            }
        }
    }
}

/// The best of the matches that begin at each occurrence of the first character: runs count by their length squared,
/// gaps take away, all in proportion to what an exact match would have.
fn subsequence(term: &[char], text: &[char]) -> f64 {
    let Some(last_start) = text.len().checked_sub(term.len()) else {
        return 0.0;
    };
    let starts = (0..=last_start).filter(|at| text[*at] == term[0]);
    // What cannot be completed from one place cannot be from a later one.
    let scores = starts.map_while(|start| runs_from(start, term, text));
    let best = scores.fold(-1.0, f64::max);
    best.max(0.0) / (term.len() * term.len()) as f64
}

fn runs_from(start: usize, term: &[char], text: &[char]) -> Option<f64> {
    let length = text.len() as f64;
    let (mut at, mut score, mut after_run) = (start, 0.0, 0);
    let mut rest = term;
    while let Some(first) = rest.first() {
        at += text[at..].iter().position(|c| c == first)?;
        score -= (at - after_run) as f64 / length;
        let run = rest.iter().zip(&text[at..]).take_while(|(a, b)| a == b).count();
        score += (run * run) as f64;
        at += run;
        after_run = at;
        rest = &rest[run..];
    }
    // What follows the match weighs half.
    Some(score - (text.len() - after_run) as f64 / length * 0.5)
}

fn jaro_winkler(a: &[char], b: &[char]) -> f64 {
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let (short, long) = if a.len() > b.len() { (b, a) } else { (a, b) };
    let reach = (long.len() / 2).saturating_sub(1);
    let mut taken = vec![false; long.len()];
    let mut matched = Vec::new();
    for (at, c) in short.iter().enumerate() {
        let window = at.saturating_sub(reach)..(at + reach + 1).min(long.len());
        if let Some(found) = window.into_iter().find(|i| !taken[*i] && long[*i] == *c) {
            taken[found] = true;
            matched.push(*c);
        }
    }
    if matched.is_empty() {
        return 0.0;
    }
    let of_long = long.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(c, _)| c);
    let moved = matched.iter().zip(of_long).filter(|(x, y)| x != y).count() as f64 / 2.0;
    let matches = matched.len() as f64;
    let jaro = (matches / short.len() as f64 + matches / long.len() as f64 + (matches - moved) / matches) / 3.0;
    let prefix = short.iter().zip(long).take(4).take_while(|(x, y)| x == y).count() as f64;
    jaro + prefix * 0.1 * (1.0 - jaro)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(term: &str, algorithm: Algorithm, threshold: f64, case_sensitive: bool) -> Search {
        Search::new(vec![term.to_owned()], algorithm, threshold, case_sensitive)
    }

    #[test]
    fn runs_count_and_gaps_take_away() {
        let of = |term: &str, text: &str| search(term, Algorithm::Subsequence, 0.0, true).score(text);
        assert_eq!(of("up", "up"), Some(1.0));
        assert_eq!(of("up", "up_total"), Some(1.0));
        assert_eq!(of("up", "down"), None);
        assert_eq!(of("Up", "up"), None);
        // One run after 5 of 7 characters.
        assert_eq!(of("up", "node_up"), Some((4.0 - 5.0 / 7.0) / 4.0));
        // Two runs with one between, two before, one after.
        assert_eq!(
            of("ac", "xxabcd"),
            Some((2.0 - 2.0 / 6.0 - 1.0 / 6.0 - 0.5 / 6.0) / 4.0)
        );
        let close = of("cpu", "node_cpu_seconds").unwrap();
        assert!(close > of("cpu", "container_pids_usage").unwrap());
    }

    #[test]
    fn similar_texts_are_found_above_the_threshold() {
        let of = |term: &str, text: &str, threshold| search(term, Algorithm::JaroWinkler, threshold, false).score(text);
        let score = of("MARTHA", "marhta", 0.9).unwrap();
        assert!((score - 0.961_111).abs() < 1e-6);
        assert_eq!(of("martha", "marhta", 0.0), None);
        assert_eq!(of("cpu", "node_CPU_seconds", 0.0), Some(0.9));
        assert_eq!(of("node", "node_cpu", 0.0), Some(1.0));
        assert_eq!(of("zzz", "node", 0.5), None);
    }

    #[test]
    fn one_term_of_several_is_enough() {
        let terms = vec!["nothing".to_owned(), "cpu".to_owned()];
        let search = Search::new(terms, Algorithm::Subsequence, 0.0, true);
        assert_eq!(search.score("cpu_seconds"), Some(1.0));
        assert_eq!(
            Search::new(Vec::new(), Algorithm::Subsequence, 0.0, true).score("x"),
            Some(1.0)
        );
    }
}
