//! A disk that is really full: a small tmpfs, where the system allows one to be mounted.

use super::*;
use std::path::PathBuf;
use std::process::Command;

struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// None where mounting is not allowed.
    fn mount(mib: u32) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        println!("skipped: a tmpfs cannot be mounted here");
        None
    }

    fn filler(&self) -> PathBuf {
        self.folder.path().join("filler")
    }

    fn fill_leaving(&self, mib: u64) {
        loop {
            let stat = rustix::fs::statvfs(self.folder.path()).unwrap();
            let free = stat.f_bavail * stat.f_frsize;
            let bytes = free
                .checked_sub(mib << 20)
                .unwrap_or_else(|| panic!("only {free} bytes are free"));
            if std::fs::write(self.filler(), vec![1u8; bytes as usize]).is_ok() {
                return;
            }
            // The store has taken room meanwhile.
            std::fs::remove_file(self.filler()).unwrap();
        }
    }

    fn fill(&self) {
        use std::io::Write;
        let mut filler = std::fs::File::options().append(true).open(self.filler()).unwrap();
        for piece in [1 << 16, 1] {
            while filler.write_all(&vec![1u8; piece]).is_ok() {}
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.folder.path()).output());
    }
}

struct One {
    host: GroupHost,
    group: Group,
    kv: Arc<Kv>,
}

async fn start(disk: &SmallDisk, watermark_bytes: u64) -> One {
    let store_options = StoreOptions {
        log_memtable_bytes: 4 << 20,
        state_memtable_bytes: 4 << 20,
        watermark_bytes,
        ballast_bytes: 4 << 20,
        ..StoreOptions::default()
    };
    let folder = disk.folder.path().join("data");
    let store = NodeStore::open(&folder, store_options, SystemClock::shared(), &Registry::new()).unwrap();
    let network = LocalNetwork::new(1);
    let host = GroupHost::new(options(1, store, network.transport(NodeId(1)))).unwrap();
    let kv = Arc::new(Kv::default());
    let group = host.open(GROUP, kv.clone()).await.unwrap();
    if !group.is_initialized().await.unwrap() {
        group.initialize(&[NodeId(1)]).await.unwrap();
    }
    eventually("it leads", || group.is_leader()).await;
    One { host, group, kv }
}

/// Writes until refused; returns the keys that were acknowledged and what refused the next.
async fn until_refused(one: &One, phase: &str) -> (Vec<String>, ProposeError) {
    let value = "v".repeat(64 << 10);
    let mut taken = Vec::new();
    for i in 0..2000 {
        let key = format!("{phase}{i}");
        match set(&one.group, &key, &value).await {
            Ok(_) => taken.push(key),
            Err(error) => return (taken, error),
        }
    }
    panic!("the disk is not full after 125 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_before_the_disk_is_full_and_taken_again_after() {
    let Some(disk) = SmallDisk::mount(96) else { return };
    let one = start(&disk, 16 << 20).await;
    disk.fill_leaving(30);
    let (taken, refused) = until_refused(&one, "a").await;
    assert!(matches!(refused, ProposeError::LowDisk { .. }), "{refused}");
    assert!(one.group.read_index().await.is_ok());
    assert!(taken.iter().all(|key| one.kv.sets(key) == 1));
    assert_eq!(one.group.inner.machine.metrics.restarts.get(), 0);
    std::fs::remove_file(disk.filler()).unwrap();
    eventually("there is space", || one.group.inner.machine.store.low_disk().is_none()).await;
    set(&one.group, "again", "1").await.unwrap();
    one.host.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_ran_full_loses_nothing_and_needs_no_restart() {
    let Some(disk) = SmallDisk::mount(512) else { return };
    // No watermark: into the wall.
    let one = start(&disk, 0).await;
    let mut taken = Vec::new();
    for round in 0..10 {
        disk.fill_leaving(12);
        let (more, refused) = until_refused(&one, &format!("{round}-")).await;
        assert!(!more.is_empty());
        taken.extend(more);
        assert!(!matches!(refused, ProposeError::LowDisk { .. }), "{refused}");
        let folder = disk.folder.path().display().to_string();
        assert!(refused.to_string().contains(&folder), "{refused}");
        // The rest goes to someone else, to the last byte.
        disk.fill();
        let refused = set(&one.group, "refused", "1").await;
        assert!(matches!(refused, Err(ProposeError::BadDisk(_))), "{refused:?}");
        one.group.read_index().await.unwrap();
        assert!(taken.iter().all(|key| one.kv.sets(key) == 1));
        std::fs::remove_file(disk.filler()).unwrap();
        let store = &one.group.inner.machine.store;
        eventually("the disk takes writes", || store.trouble().is_none()).await;
        set(&one.group, &format!("again{round}"), "1").await.unwrap();
    }
    assert_eq!(one.group.inner.machine.metrics.restarts.get(), 0);
    assert_eq!(one.kv.sets("refused"), 0);
    one.host.shutdown().await;
    let one = start(&disk, 0).await;
    one.group.read_index().await.unwrap();
    assert!(taken.iter().all(|key| one.kv.sets(key) == 1));
    assert!((0..10).all(|round| one.kv.sets(&format!("again{round}")) == 1));
    one.host.shutdown().await;
}
