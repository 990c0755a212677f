//! Debian's servers, as `make peers` unpacks them, or as they are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

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

/// Debian's libfaketime, which gives a process a clock of its own; none (with a word) where it is missing, a failure where
/// CI runs.
pub fn faketime() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let unpacked = cache.or(home).map(|c| c.join("gnomon/peers/libfaketime/usr/lib"));
    let folders = unpacked.into_iter().chain([PathBuf::from("/usr/lib")]);
    let below = folders.flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten());
    let found = below
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "libfaketime is missing: run `make peers`"
        );
        eprintln!("without clocks that jump: libfaketime is missing (`make peers` fetches it)");
    }
    found
}

/// A command that starts Debian's Alertmanager, to be given arguments. It reads its templates from /usr/share, where an
/// unpacked package is not: it is shown them there, in a mount namespace of its own.
pub fn alertmanager() -> Option<Command> {
    let program = find("prometheus-alertmanager", "prometheus-alertmanager")?;
    let templates = "/usr/share/prometheus/alertmanager";
    let all = ["default.tmpl", "email.tmpl"];
    if all.iter().all(|name| Path::new(templates).join(name).exists()) {
        return Some(Command::new(program));
    }
    let package = program.ancestors().nth(3)?;
    let script = "mount -t tmpfs none /usr/share && mkdir -p /usr/share/prometheus && \
                  cp -r \"$1\" /usr/share/prometheus && shift && exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(package.join(&templates[1..]))
        .arg(program);
    Some(command)
}
