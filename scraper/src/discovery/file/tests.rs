use super::*;
use std::sync::atomic::AtomicU32;

#[test]
fn patterns_stand_for_names() {
    for (pattern, name, wanted) in [
        ("*.yml", "a.yml", true),
        ("a*.yml", "b.yml", false),
        ("a*b*.json", "axxbyy.json", true),
        ("a*b.json", "axc.json", false),
        ("*", "anything", true),
        ("a*a", "a", false),
    ] {
        assert_eq!(matches(pattern, name), wanted, "{pattern} {name}");
    }
}

fn source(files: PathBuf) -> FileSource {
    let registry = prometheus::Registry::new();
    let metrics = Arc::new(ScraperMetrics::register(&registry).unwrap());
    let config = FileSdConfig {
        files: vec![files],
        refresh_interval: Duration::from_secs(300),
    };
    FileSource::new(config, metrics)
}

fn told() -> (Told, mpsc::UnboundedReceiver<String>) {
    let (changed, changes) = mpsc::unbounded_channel();
    let job = "job".to_owned();
    (Told { job, changed }, changes)
}

fn targets(groups: &Groups) -> Vec<String> {
    groups.iter().flat_map(|g| g.targets.clone()).collect()
}

#[test]
fn files_that_change_break_or_go_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let source = source(folder.path().join("*.json"));
    // Whether the targets have changed, and what they are.
    let look = |full| {
        source.look(full);
        (source.differs.swap(false, Ordering::Relaxed), targets(&source.groups()))
    };
    let is = |differs, names: &[&str]| (differs, names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
    assert_eq!(look(true), is(false, &[]));
    let path = folder.path().join("a.json");
    std::fs::write(&path, r#"[{"targets":["one"]}]"#).unwrap();
    assert_eq!(look(false), is(true, &["one"]));
    assert_eq!(look(false), is(false, &["one"]));
    std::fs::write(&path, "broken").unwrap();
    assert_eq!(look(false), is(false, &["one"]));
    assert_eq!(source.metrics.file_read_errors.get(), 1);
    std::fs::write(&path, r#"[{"targets":["two"]}]"#).unwrap();
    assert_eq!(look(false), is(true, &["two"]));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(look(false), is(true, &[]));
}

#[test]
fn what_is_no_regular_file_is_refused_and_never_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link.json"));
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::symlink(&pipe, &link).unwrap();
    for path in [&pipe, &link, &folder.path().to_owned()] {
        let (done, answer) = std::sync::mpsc::channel();
        let one = path.clone();
        std::thread::spawn(move || done.send(read(&one)));
        let refused = answer.recv_timeout(Duration::from_secs(5)).unwrap().unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("is not a regular file"), "{text}");
        assert!(text.contains(&path.display().to_string()), "{text}");
    }
    let source = source(link.clone());
    source.look(true);
    assert_eq!(source.metrics.file_read_errors.get(), 1);
    std::fs::remove_file(&link).unwrap();
    std::fs::write(&link, r#"[{"targets":["one"]}]"#).unwrap();
    source.look(false);
    assert_eq!(targets(&source.groups()), ["one"], "it recovers");
}

/// Reads that have begun.
static BEGUN: AtomicU32 = AtomicU32::new(0);
/// Whether `b.json` can be read.
static IS_WELL: AtomicBool = AtomicBool::new(false);

fn read_if_well(path: &Path) -> Result<Vec<TargetGroup>, BadGroups> {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    // Not without end, for a test that fails.
    for _ in 0..2000 {
        if path.ends_with("a.json") || IS_WELL.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    read(path)
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_not_begun_again_and_its_file_recovers() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let text = format!(r#"[{{"targets":["{name}"]}}]"#);
        std::fs::write(folder.path().join(format!("{name}.json")), text).unwrap();
    }
    let mut source = source(folder.path().join("*.json"));
    source.read = read_if_well;
    let errors = source.metrics.file_read_errors.clone();
    let (told, mut changes) = told();
    let cancel = CancellationToken::new();
    let mut receiver = source.start(told, cancel.clone());
    while BEGUN.load(Ordering::Relaxed) < 2 {
        tokio::task::yield_now().await;
    }
    assert!(receiver.borrow().is_none());
    // While a thread is busy the clock moves only where it is told to.
    tokio::time::advance(LOOK_LIMIT).await;
    receiver.wait_for(Option::is_some).await.unwrap();
    let now = |receiver: &watch::Receiver<Option<Groups>>| targets(receiver.borrow().as_ref().unwrap());
    assert_eq!(now(&receiver), ["a"], "what was read before is taken");
    for _ in 0..10 {
        tokio::time::advance(LOOK_LIMIT).await;
    }
    assert_eq!(BEGUN.load(Ordering::Relaxed), 2, "one look at a time");
    assert_eq!(errors.get(), 1);
    assert_eq!(changes.recv().await.as_deref(), Some("job"));
    IS_WELL.store(true, Ordering::Relaxed);
    assert_eq!(changes.recv().await.as_deref(), Some("job"));
    assert_eq!(now(&receiver), ["a", "b"]);
    cancel.cancel();
}
