//! Tokens of OpenMetrics 1.0 text. Single blanks belong to tokens here, since the format allows no others.

use super::lexer::{COLON, Lexer, NAME_START, Token, is, name_end, quoted_end, run_end};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Init,
    MetadataName,
    MetadataText,
    Labels,
    LabelValue,
    Value,
    Timestamp,
    Exemplar,
    ExemplarLabelValue,
    ExemplarValue,
    ExemplarTimestamp,
}

#[derive(Debug)]
pub(super) struct OpenMetricsLexer<'a> {
    pub(super) input: &'a [u8],
    start: usize,
    pos: usize,
    state: State,
}

impl<'a> OpenMetricsLexer<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            start: 0,
            pos: 0,
            state: State::Init,
        }
    }

    fn take(&mut self, end: usize, next: State, token: Token) -> Token {
        self.pos = end;
        self.state = next;
        token
    }

    fn rest(&self) -> &'a [u8] {
        self.input.get(self.pos..).unwrap_or_default()
    }

    fn init(&mut self) -> Token {
        match self.input.get(self.pos) {
            None => Token::Eof,
            Some(b'{') => self.take(self.pos + 1, State::Labels, Token::BraceOpen),
            Some(b'#') => self.metadata_word(),
            _ => match name_end(self.input, self.pos, NAME_START | COLON) {
                end if end > self.pos => self.take(end, State::Value, Token::MetricName),
                _ => Token::Invalid,
            },
        }
    }

    fn metadata_word(&mut self) -> Token {
        let rest = self.rest();
        if rest.starts_with(b"# EOF") {
            let newline = usize::from(rest.get(5) == Some(&b'\n'));
            return self.take(self.pos + 5 + newline, State::Init, Token::EofWord);
        }
        for (word, token) in [
            (b"# HELP ", Token::Help),
            (b"# TYPE ", Token::Type),
            (b"# UNIT ", Token::Unit),
        ] {
            if rest.starts_with(word) {
                return self.take(self.pos + 7, State::MetadataName, token);
            }
        }
        Token::Invalid
    }

    fn metadata_name(&mut self) -> Token {
        let end = quoted_end(self.input, self.pos, true)
            .unwrap_or_else(|| name_end(self.input, self.pos, NAME_START | COLON));
        if end == self.pos {
            return Token::Invalid;
        }
        self.take(end, State::MetadataText, Token::MetricName)
    }

    /// A blank, then anything up to the newline, which belongs to the token.
    fn metadata_text(&mut self) -> Token {
        if self.input.get(self.pos) != Some(&b' ') {
            return Token::Invalid;
        }
        let end = run_end(self.input, self.pos, b"\n");
        if end == self.input.len() {
            return Token::Invalid;
        }
        self.take(end + 1, State::Init, Token::Text)
    }

    /// Labels of a series, or of an exemplar.
    fn labels(&mut self, own: State, value: State, after: State) -> Token {
        match self.input.get(self.pos) {
            Some(b'}') => self.take(self.pos + 1, after, Token::BraceClose),
            Some(b'=') => self.take(self.pos + 1, value, Token::Equal),
            Some(b',') => self.take(self.pos + 1, own, Token::Comma),
            Some(b'"') => match quoted_end(self.input, self.pos, own == State::Labels) {
                Some(end) => self.take(end, own, Token::QuotedString),
                None => Token::Invalid,
            },
            byte if is(byte, NAME_START) => {
                let end = name_end(self.input, self.pos, NAME_START);
                self.take(end, own, Token::LabelName)
            }
            None => Token::Eof,
            Some(_) => Token::Invalid,
        }
    }

    fn label_value(&mut self, after: State) -> Token {
        match quoted_end(self.input, self.pos, false) {
            Some(end) => self.take(end, after, Token::LabelValue),
            None => Token::Invalid,
        }
    }

    /// A blank and a word.
    fn word(&mut self, next: State, token: Token) -> Token {
        if self.input.get(self.pos) != Some(&b' ') {
            return if self.pos >= self.input.len() {
                Token::Eof
            } else {
                Token::Invalid
            };
        }
        match run_end(self.input, self.pos + 1, b" \n") {
            end if end > self.pos + 1 => self.take(end, next, token),
            _ => Token::Invalid,
        }
    }
}

impl Lexer for OpenMetricsLexer<'_> {
    fn lex(&mut self) -> Token {
        self.start = self.pos;
        match self.state {
            State::Init => self.init(),
            State::MetadataName => self.metadata_name(),
            State::MetadataText => self.metadata_text(),
            State::Labels => self.labels(State::Labels, State::LabelValue, State::Value),
            State::LabelValue => self.label_value(State::Labels),
            State::Value => {
                if self.input.get(self.pos) == Some(&b'{') {
                    return self.take(self.pos + 1, State::Labels, Token::BraceOpen);
                }
                self.word(State::Timestamp, Token::Value)
            }
            State::Timestamp => {
                let rest = self.rest();
                if rest.first() == Some(&b'\n') {
                    return self.take(self.pos + 1, State::Init, Token::Linebreak);
                }
                if rest.starts_with(b" # {") {
                    return self.take(self.pos + 4, State::Exemplar, Token::Comment);
                }
                self.word(State::Timestamp, Token::Timestamp)
            }
            State::Exemplar => self.labels(State::Exemplar, State::ExemplarLabelValue, State::ExemplarValue),
            State::ExemplarLabelValue => self.label_value(State::Exemplar),
            State::ExemplarValue => self.word(State::ExemplarTimestamp, Token::Value),
            State::ExemplarTimestamp => {
                if self.input.get(self.pos) == Some(&b'\n') {
                    return self.take(self.pos + 1, State::Init, Token::Linebreak);
                }
                self.word(State::ExemplarTimestamp, Token::Timestamp)
            }
        }
    }

    fn input(&self) -> &[u8] {
        self.input
    }

    fn start(&self) -> usize {
        self.start
    }

    fn pos(&self) -> usize {
        self.pos
    }
}
