//! Debian's servers, as `make peers` unpacks them, or as they are installed.

use std::path::PathBuf;

/// The path of a peer's program; none (with a word) where it is missing, a failure where CI runs.
pub fn find(package: &str, program: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let unpacked = cache
        .or(home)
        .map(|c| c.join("gnomon/peers").join(package).join("usr/bin").join(program));
    let installed = PathBuf::from("/usr/bin").join(program);
    let found = unpacked.into_iter().chain([installed]).find(|p| p.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{program} is missing: run `make peers`"
        );
        eprintln!("skipped: {program} is missing (`make peers` fetches it)");
    }
    found
}
