//! How much memory the process may use, as far as the system says.

use std::path::Path;

const KIB: u64 = 1024;

/// The least of what the machine has and what control groups and resource limits leave the process; none where the
/// system tells nothing.
#[must_use]
pub fn allowed_bytes() -> Option<u64> {
    allowed_under(Path::new("/"))
}

fn allowed_under(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let machine = of_machine(&read("proc/meminfo"));
    let limits = of_limits(&read("proc/self/limits"));
    let groups = read("proc/self/cgroup");
    let mut least = machine.into_iter().chain(limits).min();
    for file in group_files(&groups) {
        // `max`, and what is absent, is no limit.
        let limit = read(&file).trim().parse::<u64>().ok();
        least = least.into_iter().chain(limit).min();
    }
    least
}

/// `MemTotal: 16384 kB`
fn of_machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?;
    Some(kib * KIB)
}

/// The soft limits of the address space and of data: `Max data size  1048576  unlimited  bytes`.
fn of_limits(limits: &str) -> impl Iterator<Item = u64> + use<> {
    let soft = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    [soft("Max address space"), soft("Max data size")].into_iter().flatten()
}

/// The files with the limits of the groups that the process is in, and of those around them; in a container the own
/// group is the root of what is seen.
fn group_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let (mounts, file): (&[&str], _) = match controllers {
            "" => (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max"),
            "memory" => (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_matches('/');
        loop {
            files.extend(mounts.iter().map(|mount| format!("{mount}/{path}/{file}")));
            if path.is_empty() {
                break;
            }
            path = path.rsplit_once('/').map_or("", |(above, _)| above);
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_least_limit_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        assert_eq!(allowed_under(root), None);
        put(root, "proc/meminfo", "MemFree: 1 kB\nMemTotal:       24684000 kB\n");
        assert_eq!(allowed_under(root), Some(24_684_000 * 1024));
        put(root, "proc/self/cgroup", "4:memory:/a/b\n0::/c/d\n");
        put(root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "8000000000\n");
        put(
            root,
            "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(allowed_under(root), Some(8_000_000_000));
        put(root, "sys/fs/cgroup/c/d/memory.max", "max\n");
        put(root, "sys/fs/cgroup/c/memory.max", "7000000000\n");
        assert_eq!(allowed_under(root), Some(7_000_000_000));
        let limits = "Limit Soft Hard\nMax data size   1073741824   unlimited  bytes\nMax address space unlimited unlimited bytes\n";
        put(root, "proc/self/limits", limits);
        assert_eq!(allowed_under(root), Some(1 << 30));
    }

    #[test]
    fn this_machine_tells_something() {
        if cfg!(target_os = "linux") {
            assert!(allowed_bytes().is_some_and(|bytes| bytes > 1 << 20));
        }
    }
}
