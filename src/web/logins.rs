//! Passwords against bcrypt hashes. One check takes some 60 ms of a processor at the usual cost, by design: those that
//! succeeded are remembered, few run at a time, and few wait.
//!
//! Invariant: a name that nobody has costs the same as one that somebody has.

use aws_lc_rs::hmac;
use gnomon_scraper::config::Secret;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Checks that run at a time; the processors are for other work.
const AT_A_TIME: usize = 2;
/// Checks that run or wait.
const MOST_WAITING: usize = 64;
/// Logins that are remembered.
const MOST_KNOWN: usize = 256;

/// What became of a login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
    /// Too many are waiting.
    Busy,
}

type Fingerprint = [u8; 32];

/// Remembers logins that succeeded, by keyed hashes of user, password and the hash it was good for: no password is kept,
/// and one that was changed is asked anew.
pub(super) struct Logins {
    key: hmac::Key,
    known: Mutex<Known>,
    running: Arc<Semaphore>,
    waiting: Semaphore,
}

#[derive(Default)]
struct Known {
    all: HashSet<Fingerprint>,
    by_age: VecDeque<Fingerprint>,
}

impl Known {
    fn insert(&mut self, login: Fingerprint) {
        if !self.all.insert(login) {
            return;
        }
        self.by_age.push_back(login);
        if self.by_age.len() > MOST_KNOWN
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.all.remove(&oldest);
        }
    }
}

impl Logins {
    pub(super) fn new() -> Self {
        // It lives as long as the process.
        let key: [u8; 32] = rand::random();
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
            known: Mutex::default(),
            running: Arc::new(Semaphore::new(AT_A_TIME)),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }

    fn fingerprint(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        let mut out = Fingerprint::default();
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    /// For a name that nobody has: the hash of somebody, the same one each time, so that it takes as long as if it were
    /// theirs.
    fn stand_in<'u>(&self, users: &'u BTreeMap<String, Secret>, name: &[u8]) -> Option<&'u Secret> {
        let print = self.fingerprint(&[name]);
        let n = usize::from(u16::from_le_bytes([print[0], print[1]]));
        users.values().nth(n % users.len().max(1))
    }

    pub(super) async fn check(&self, users: &BTreeMap<String, Secret>, name: &[u8], password: &[u8]) -> Verdict {
        let theirs = std::str::from_utf8(name).ok().and_then(|name| users.get(name));
        let Some(hash) = theirs.or_else(|| self.stand_in(users, name)) else {
            return Verdict::Refused;
        };
        let login = self.fingerprint(&[name, password, hash.expose().as_bytes()]);
        // One who was removed may have had a password, and a hash, that another still has.
        let is_known = || theirs.is_some() && self.is_known(&login);
        if is_known() {
            return Verdict::Accepted;
        }
        let Ok(_waits) = self.waiting.try_acquire() else {
            return Verdict::Busy;
        };
        let Ok(runs) = Arc::clone(&self.running).acquire_owned().await else {
            return Verdict::Busy;
        };
        // The same login may have come several times at once, as from a dashboard.
        if is_known() {
            return Verdict::Accepted;
        }
        let (hash, password) = (hash.clone(), password.to_vec());
        let checked = tokio::task::spawn_blocking(move || {
            // It runs to its end, and keeps its place, whether or not the client still waits.
            let _runs = runs;
            bcrypt::verify(password, hash.expose()).unwrap_or(false)
        });
        let is_right = checked.await.unwrap_or(false);
        if !is_right || theirs.is_none() {
            return Verdict::Refused;
        }
        self.known.lock().insert(login);
        Verdict::Accepted
    }

    fn is_known(&self, login: &Fingerprint) -> bool {
        self.known.lock().all.contains(login)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(all: &[(&str, &str)]) -> BTreeMap<String, Secret> {
        // The lowest cost there is: a millisecond or two.
        let hash = |password: &str| Secret::new(bcrypt::hash_with_salt(password, 4, [7; 16]).unwrap().to_string());
        all.iter()
            .map(|(name, password)| ((*name).to_owned(), hash(password)))
            .collect()
    }

    #[tokio::test]
    async fn the_right_password_of_the_right_user_is_taken() {
        let users = users(&[("alice", "wonder"), ("bob", "builder")]);
        let logins = Logins::new();
        for (name, password, verdict) in [
            ("alice", "wonder", Verdict::Accepted),
            ("alice", "wonder", Verdict::Accepted),
            ("alice", "builder", Verdict::Refused),
            ("alice", "", Verdict::Refused),
            ("bob", "builder", Verdict::Accepted),
            ("carol", "wonder", Verdict::Refused),
            ("carol", "builder", Verdict::Refused),
            ("", "wonder", Verdict::Refused),
        ] {
            let told = logins.check(&users, name.as_bytes(), password.as_bytes()).await;
            assert_eq!(told, verdict, "{name}:{password}");
        }
        assert_eq!(
            logins.known.lock().all.len(),
            2,
            "only those that succeeded are remembered"
        );
    }

    #[tokio::test]
    async fn a_password_that_was_changed_is_good_no_more() {
        let logins = Logins::new();
        let before = users(&[("alice", "old")]);
        assert_eq!(logins.check(&before, b"alice", b"old").await, Verdict::Accepted);
        let after = users(&[("alice", "new")]);
        assert_eq!(logins.check(&after, b"alice", b"old").await, Verdict::Refused);
        assert_eq!(
            logins.check(&users(&[("bob", "x")]), b"alice", b"old").await,
            Verdict::Refused
        );
        // Another has the same hash.
        let twin = users(&[("bob", "old")]);
        assert_eq!(logins.check(&twin, b"alice", b"old").await, Verdict::Refused);
        assert_eq!(logins.check(&BTreeMap::new(), b"alice", b"old").await, Verdict::Refused);
    }

    #[tokio::test]
    async fn few_are_checked_at_a_time_and_few_wait() {
        let users = users(&[("alice", "wonder")]);
        let logins = Logins::new();
        assert_eq!(logins.check(&users, b"alice", b"wonder").await, Verdict::Accepted);
        let all = logins
            .running
            .clone()
            .acquire_many_owned(AT_A_TIME as u32)
            .await
            .unwrap();
        let wrong = |n: usize| {
            let (logins, users) = (&logins, &users);
            async move { logins.check(users, b"alice", n.to_string().as_bytes()).await }
        };
        let mut waiting: Vec<_> = (0..MOST_WAITING).map(|n| Box::pin(wrong(n))).collect();
        for login in &mut waiting {
            assert!(futures::poll!(login.as_mut()).is_pending());
        }
        assert_eq!(wrong(1000).await, Verdict::Busy);
        // Those who are known are not kept out.
        assert_eq!(logins.check(&users, b"alice", b"wonder").await, Verdict::Accepted);
        drop(all);
        for verdict in futures::future::join_all(waiting).await {
            assert_eq!(verdict, Verdict::Refused);
        }
        assert_eq!(wrong(1001).await, Verdict::Refused);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let logins = Logins::new();
        for n in 0..2 * MOST_KNOWN as u64 {
            let login = logins.fingerprint(&[&n.to_le_bytes()]);
            logins.known.lock().insert(login);
        }
        let known = logins.known.lock();
        assert!(known.all.len() == MOST_KNOWN && known.by_age.len() == MOST_KNOWN);
        drop(known);
        assert!(logins.is_known(&logins.fingerprint(&[&(2 * MOST_KNOWN as u64 - 1).to_le_bytes()])));
    }

    #[test]
    fn names_that_nobody_has_go_the_way_of_somebody() {
        let users = users(&[("alice", "wonder"), ("bob", "builder")]);
        let logins = Logins::new();
        let of = |name: &str| {
            logins
                .stand_in(&users, name.as_bytes())
                .map(|hash| hash.expose().to_owned())
        };
        assert_eq!(of("carol"), of("carol"));
        let several: HashSet<_> = (0..64).map(|n| of(&format!("user{n}"))).collect();
        assert_eq!(several.len(), 2);
    }
}
