use super::*;

fn run(args: &[&str]) -> Result<(Settings, Parsed), clap::Error> {
    let parsed = parse(std::iter::once("gnomon").chain(args.iter().copied()))?;
    match &parsed.command {
        Command::Run(settings) => Ok((settings.as_ref().clone(), parsed)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_flag_everything_has_its_default() {
    let (settings, parsed) = run(&[]).unwrap();
    let retention = settings.retention(&crate::config::StorageConfig::default());
    assert_eq!((retention.time_ms, retention.size_bytes), (Some(15 * 86_400_000), None));
    assert_eq!(settings.roles, Roles::ALL);
    assert_eq!(settings.grpc_listen_address, "127.0.0.1:9095");
    assert_eq!(settings.listen_addresses, ["0.0.0.0:9090"]);
    assert!(parsed.without_effect.is_empty(), "{:?}", parsed.without_effect);
    assert_eq!(parsed.values["storage.tsdb.path"], "data/");
    // Where a crate has the default too, it is the same.
    assert_eq!(settings.flush_bytes, gnomon_cluster::raft::FLUSH_LOG_BYTES);
    assert_eq!(settings.seal_quiet, gnomon_ingester::DutyOptions::default().quiet);
    let grace = gnomon_compactor::Grace::default().condemned_ms;
    assert_eq!(settings.compactor_grace.as_millis() as i64, grace);
}

/// What the Prometheus operator (0.6x) passes to the server it runs.
#[test]
fn the_operators_arguments_are_taken() {
    let (settings, parsed) = run(&[
        "--web.console.templates=/etc/prometheus/consoles",
        "--web.console.libraries=/etc/prometheus/console_libraries",
        "--config.file=/etc/prometheus/config_out/prometheus.env.yaml",
        "--web.enable-lifecycle",
        "--web.external-url=http://prometheus.example.com/prom",
        "--web.route-prefix=/",
        "--log.level=info",
        "--storage.tsdb.retention.time=24h",
        "--storage.tsdb.retention.size=10GB",
        "--storage.tsdb.path=/prometheus",
        "--no-storage.tsdb.wal-compression",
        "--web.config.file=/etc/prometheus/web_config/web-config.yaml",
        "--enable-feature=exemplar-storage,memory-snapshot-on-shutdown",
    ])
    .unwrap();
    assert_eq!(settings.retention_ms, Some(86_400_000));
    assert_eq!(settings.retention_bytes, Some(10 << 30));
    assert_eq!(settings.route_prefix, "/");
    assert!(settings.enable_lifecycle);
    let names: Vec<_> = parsed.without_effect.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(
        names,
        [
            "web.console.templates",
            "web.console.libraries",
            "storage.tsdb.wal-compression",
            "enable-feature=memory-snapshot-on-shutdown"
        ]
    );
}

#[test]
fn ways_to_write_are_off_unless_they_are_asked_for() {
    let (settings, _) = run(&[]).unwrap();
    assert!(!settings.enable_otlp && !settings.otlp_deltas && settings.ha.is_none());
    assert_eq!(settings.writers_listen_address, None);
    let (settings, parsed) = run(&[
        "--web.enable-otlp-receiver",
        "--enable-feature=otlp-native-delta-ingestion",
        "--ingest.grpc-listen-address=:4317",
        "--ingest.ha-tracker",
        "--ingest.ha-replica-label=prometheus_replica",
        "--ingest.ha-failover-timeout=1m",
    ])
    .unwrap();
    assert!(settings.enable_otlp && settings.otlp_deltas && parsed.without_effect.is_empty());
    assert_eq!(settings.writers_listen_address.as_deref(), Some(":4317"));
    let expected = gnomon_ingester::HaOptions {
        replica_label: "prometheus_replica".into(),
        failover_timeout: std::time::Duration::from_secs(60),
        ..gnomon_ingester::HaOptions::default()
    };
    assert_eq!(settings.ha, Some(expected));
    assert!(run(&["--enable-feature=otlp-write-receiver"]).unwrap().0.enable_otlp);
}

#[test]
fn a_feature_that_the_file_turns_on_is_said_to_be_there() {
    let (_, parsed) = run(&["--enable-feature=native-histograms,exemplar-storage"]).unwrap();
    let [(flag, why)] = &parsed.without_effect[..] else {
        panic!("{:?}", parsed.without_effect);
    };
    assert_eq!(flag, "enable-feature=native-histograms");
    assert!(why.contains("scrape_native_histograms"), "{why}");
    let (settings, parsed) = run(&["--enable-feature=created-timestamp-zero-ingestion"]).unwrap();
    assert!(parsed.without_effect.is_empty() && settings.features.contains(CREATED_ZERO));
    assert_eq!(settings.auto_reload, None);
    let interval = "--config.auto-reload-interval=";
    let reloading = |every: &str| {
        let (settings, parsed) = run(&["--enable-feature=auto-reload-config", &format!("{interval}{every}")]).unwrap();
        assert!(parsed.without_effect.is_empty());
        settings.auto_reload.unwrap().as_millis()
    };
    assert_eq!((reloading("10s"), reloading("10ms")), (10_000, 1_000));
}

#[test]
fn errors_name_the_flag_and_what_it_takes() {
    for (args, part) in [
        (&["--query.timeout=soon"][..], "query.timeout"),
        (&["--target=cook"], "cook"),
        (&["--agent"], "agent"),
        (&["--enable-feature=agent"], "agent"),
        (&["--ingest.ha-replica-label=cluster"], "two labels"),
        (&["--ingest.ha-cluster-label=__name__"], "names the label"),
        (&["--ingest.ha-failover-timeout=15s"], "longer than"),
        (&["--ingest.ha-failover-timeout=2h"], "at most"),
        (&["--ingest.ha-update-timeout=0s"], "longer than nothing"),
        (&["--ingest.ha-max-clusters=0"], "at least 1"),
        (&["--compactor.lease=4s"], "from 5s to 600s"),
        (&["--compactor.lease=11m"], "from 5s to 600s"),
        (&["--ingest.grpc-listen-address=4317"], "HOST:PORT"),
        (&["--ingest.replicas=2"], "1, 3, 5"),
        (&["--ingest.replicas=3"], "--cluster.peers"),
        (
            &["--ingest.replicas=5", "--cluster.expect=3", "--cluster.peers=a:1"],
            "expect as many",
        ),
        (&["--cluster.expect=3"], "--cluster.peers"),
        (&["--cluster.expect=0"], "at least 1"),
        (&["--ingest.shards=0"], "at least 1"),
        (&["--ingest.shards=100000"], "more than 1024"),
        (&["--cluster.peers=ingester"], "HOST:PORT"),
        (
            &["--cluster.peers=a:1"],
            "--cluster.peers=a:1: a cluster needs an object store",
        ),
        (
            &["--cluster.peers=a:1", "--target=compactor"],
            "--storage.object-store names none",
        ),
        (
            &["--cluster.tls.cert-file=c"],
            "--cluster.tls.cert-file needs --cluster.tls.key-file and --cluster.tls.ca-file too",
        ),
        (&["--cluster.advertise-address=host"], "HOST:PORT"),
        (&["--log.level=loud"], "debug"),
        (&["--no.such"], "no.such"),
        (&["--query.max-samples=0"], "query.max-samples"),
        (&["--query.max-bytes=1"], "query.max-bytes"),
        (&["--query.max-total-bytes=0"], "more than nothing"),
        (
            &["--enable-feature=native-histograms,otlp-deltatocumulative"],
            "cumulative",
        ),
        (&["--web.external-url=example.com:9090"], "must begin with http"),
        (&["--web.max-connections=0"], "at least 1"),
        (&["--web.read-timeout=soon"], "web.read-timeout"),
        (&["--query.max-samples=2.5"], "query.max-samples"),
        (&["--web.external-url='http://x'"], "quotes"),
        (&["--web.listen-address=9090"], "HOST:PORT"),
        (&["--storage.tsdb.retention.size=10"], "retention.size"),
        (&["--storage.tsdb.retention.time=1x"], "retention.time"),
        (&["--web.enable-lifecycle=true"], "web.enable-lifecycle"),
        (&["--config.file=a", "--config.file=b"], "config.file"),
        (&["stray"], "stray"),
    ] {
        let text = run(args).unwrap_err().to_string();
        assert!(text.contains(part), "{args:?}: {text}");
    }
}

#[test]
fn values_may_follow_a_space_and_lists_may_repeat() {
    let (settings, _) = run(&[
        "--web.listen-address",
        "127.0.0.1:1",
        "--web.listen-address=127.0.0.1:2",
        "--target=scraper",
        "--target=querier",
        "--cluster.peers=a:1,b:2",
        "--storage.object-store=s3://b",
    ])
    .unwrap();
    assert_eq!(settings.listen_addresses, ["127.0.0.1:1", "127.0.0.1:2"]);
    assert!(settings.roles.scraper && settings.roles.querier && !settings.roles.ingester);
    assert_eq!(settings.peers, ["a:1", "b:2"]);
    assert_eq!(settings.grpc_listen_address, "0.0.0.0:9095");
}

#[test]
fn the_external_urls_path_is_the_default_prefix() {
    assert_eq!(
        run(&["--web.external-url=https://h/prom/"]).unwrap().0.route_prefix,
        "/prom"
    );
    assert_eq!(run(&["--web.external-url=https://h"]).unwrap().0.route_prefix, "/");
    let (settings, _) = run(&["--web.external-url=https://h/prom?a=/b#c"]).unwrap();
    assert_eq!(
        (settings.route_prefix.as_str(), settings.external_url.as_str()),
        ("/prom", "https://h/prom")
    );
    let (settings, _) = run(&["--web.external-url=foo/"]).unwrap();
    assert_eq!(
        (settings.route_prefix.as_str(), settings.external_url.as_str()),
        ("/foo", "/foo")
    );
}

#[test]
fn numbers_are_taken_as_prometheus_prints_them() {
    let (settings, _) = run(&[
        "--storage.remote.read-sample-limit=5e7",
        "--query.max-samples=5e+07",
        "--query.max-concurrency=2e1",
    ])
    .unwrap();
    assert_eq!(
        (
            settings.read_sample_limit,
            settings.query_max_samples,
            settings.query_max_concurrency
        ),
        (50_000_000, 50_000_000, 20)
    );
}

#[test]
fn connections_are_bounded_as_in_prometheus() {
    let (settings, parsed) = run(&["--web.read-timeout=30s", "--web.max-connections=7"]).unwrap();
    assert!(parsed.without_effect.is_empty(), "{:?}", parsed.without_effect);
    let bounds = |settings: &Settings| (settings.read_timeout.map(|t| t.as_secs()), settings.max_connections);
    assert_eq!(bounds(&settings), (Some(30), 7));
    assert_eq!(bounds(&run(&[]).unwrap().0), (Some(300), 512));
    assert_eq!(bounds(&run(&["--web.read-timeout=0s"]).unwrap().0), (None, 512));
}

#[test]
fn a_prefix_has_one_slash_and_old_spellings_hold() {
    let (settings, _) = run(&["--web.route-prefix=prom/", "--web.external-url=http://h/x"]).unwrap();
    assert_eq!(settings.route_prefix, "/prom");
    let (settings, parsed) = run(&["--enable-feature=remote-write-receiver", "--storage.tsdb.retention=3d"]).unwrap();
    assert!(settings.enable_remote_write && parsed.without_effect.is_empty());
    assert_eq!(settings.retention_ms, Some(3 * 86_400_000));
    let (settings, _) = run(&["--web.enable-lifecycle", "--no-web.enable-lifecycle"]).unwrap();
    assert!(!settings.enable_lifecycle);
}

/// Whatever the packaged server prints in its help can be given here: accepted or refused, but never unknown.
#[test]
fn every_flag_of_the_debian_package_is_known() {
    let Some(prometheus) = crate::peers::find("prometheus", "prometheus") else {
        return;
    };
    let help = std::process::Command::new(prometheus).arg("--help-long").output();
    let output = help.unwrap();
    // kingpin prints its help to standard error.
    let help = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let own = ["help", "help-long", "help-man", "version"];
    let mut seen = 0;
    for line in help.lines() {
        // Deeper lines are of the description.
        let Some(flag) = line.strip_prefix("      --") else {
            continue;
        };
        let name = flag.split(['=', ' ']).next().unwrap_or_default();
        if own.contains(&name) || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)) {
            continue;
        }
        seen += 1;
        assert!(flags().iter().any(|known| known.name == name), "--{name} is unknown");
    }
    assert!(seen > 30, "{seen} flags in:\n{help}");
}

#[test]
fn the_file_goes_before_the_flags_of_retention() {
    use crate::config::StorageConfig;
    let taken = |args: &[&str], time_s: u64, size: u64| {
        let (settings, _) = run(args).unwrap();
        let retention = settings.retention(&StorageConfig {
            retention_time: (time_s > 0).then(|| std::time::Duration::from_secs(time_s)),
            retention_size_bytes: (size > 0).then_some(size),
            ..StorageConfig::default()
        });
        (retention.time_ms, retention.size_bytes)
    };
    let time = "--storage.tsdb.retention.time=2d";
    assert_eq!(taken(&[time], 3600, 0), (Some(3_600_000), None));
    assert_eq!(taken(&[time], 0, 7), (Some(2 * 86_400_000), Some(7)));
    assert_eq!(taken(&[], 0, 7), (None, Some(7)));
    assert_eq!(taken(&[], 0, 0), (Some(15 * 86_400_000), None));
    assert_eq!(taken(&["--storage.tsdb.retention.size=1KB"], 0, 0), (None, Some(1024)));
}

#[test]
fn check_takes_files() {
    let parsed = parse(["gnomon", "check", "config", "--strict", "a.yml", "b.yml"]).unwrap();
    assert!(
        matches!(parsed.command, Command::CheckConfig(CheckConfig { files, strict: true, syntax_only: false }) if files.len() == 2)
    );
    assert!(parse(["gnomon", "check", "config"]).is_err());
}

#[test]
fn blocks_are_looked_into() {
    let parsed = parse(["gnomon", "block", "verify", "a.gnb", "b.gnb"]).unwrap();
    let of = |what: &Command| matches!(what, Command::Block(Block { task: BlockTask::Verify, blocks, object_store: None }) if blocks.len() == 2);
    assert!(of(&parsed.command));
    assert!(parse(["gnomon", "block", "diff", "a.gnb"]).is_err());
    assert!(
        parse([
            "gnomon",
            "block",
            "diff",
            "a.gnb",
            "b.gnb",
            "--storage.object-store=s3://b"
        ])
        .is_ok()
    );
    assert!(parse(["gnomon", "block", "inspect"]).is_err());
}

#[test]
fn blocks_come_in_and_go_out() {
    let import = |more: &[&str]| match parse([&["gnomon", "block", "import", "folder"], more].concat())
        .unwrap()
        .command
    {
        Command::Import(import) => import,
        other => panic!("{other:?}"),
    };
    let day_ms = 86_400_000;
    assert_eq!(import(&[]).retention.time_ms, Some(15 * day_ms));
    let sized = import(&[
        "--storage.tsdb.retention.size=1GB",
        "--cluster.peers=a:1,b:2",
        "--skip-damaged",
    ]);
    assert_eq!(
        (sized.retention.time_ms, sized.retention.size_bytes),
        (None, Some(1 << 30))
    );
    assert!(sized.to.peers == ["a:1", "b:2"] && sized.skip_damaged);
    assert!(parse(["gnomon", "block", "import"]).is_err());

    let export = [
        "gnomon",
        "block",
        "export",
        "--format=parquet",
        "-o",
        "out",
        "--start=-1.5",
        "--match=up{a=\"b\"}",
    ];
    let Command::Export(export) = parse(export).unwrap().command else {
        panic!("an export");
    };
    assert_eq!(
        (export.format, export.start_ms, export.end_ms),
        (ExportFormat::Parquet, -1500, i64::MAX)
    );
    assert_eq!((export.matchers[0].len(), export.width_ms), (2, 7_200_000));
    for wrong in [
        "--format=csv",
        "--format=parquet --block-duration=1s",
        "--format=parquet --match={",
        "--format=parquet --start=x",
    ] {
        let args = ["gnomon block export -o out", wrong].join(" ");
        assert!(parse(args.split(' ')).is_err(), "{wrong}");
    }
}

#[test]
fn whatever_is_asked_of_a_cluster_is_told_as_json_too() {
    let asked = |args: &str| match parse(format!("gnomon cluster {args}").split_whitespace().map(str::to_owned)) {
        Ok(parsed) => match parsed.command {
            Command::Cluster(cluster) => cluster,
            other => panic!("{args}: {other:?}"),
        },
        Err(error) => panic!("{args}: {error}"),
    };
    for args in [
        "status",
        "drain 3",
        "drain 3 --undo",
        "drain 3 --wait",
        "move 0 --from=1 --to=2",
        "rebalance",
        "replicas 3",
        "reshard 8",
        "reshard --cancel",
        "forget 3",
    ] {
        let (words, json) = (asked(args), asked(&format!("{args} --json")));
        assert!(!words.json && json.json, "{args}");
        assert_eq!(words.task, json.task);
    }
}

#[test]
fn a_cluster_is_recovered_by_peers_that_can_be_asked_and_its_id() {
    let recover = |args: &str| {
        parse(
            format!("gnomon cluster recover {args}")
                .split_whitespace()
                .map(str::to_owned),
        )
    };
    let wanted = |args: &str| match recover(args).unwrap().command {
        Command::Recover(recover) => recover,
        other => panic!("{other:?}"),
    };
    let shown = wanted("--cluster.peers=a:1,b:2 --peer-is-gone=b:2");
    assert!(shown.peers == ["a:1", "b:2"] && shown.gone == ["b:2"]);
    assert_eq!(
        (shown.confirm, shown.bucket.found_anew, shown.cluster_id),
        (false, false, None)
    );
    let confirmed = wanted("--cluster.peers=a:1 --confirm=2a");
    assert_eq!((confirmed.confirm, confirmed.bucket.found_anew), (true, true));
    assert_eq!(confirmed.cluster_id.as_deref(), Some("2a"));
    let minority = wanted("--from-minority --cluster.peers=a:1 --confirm");
    assert_eq!((minority.confirm, minority.cluster_id), (true, None));
    for wrong in [
        "",
        "--from-minority",
        "--cluster.peers=a",
        "--cluster.peers=:1",
        "--cluster.peers=a:1,b",
    ] {
        assert!(recover(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn the_table_is_sound() {
    command().debug_assert();
}

#[test]
fn a_cluster_names_a_store_that_all_reach_and_one_node_need_not() {
    for args in [
        &["--cluster.peers=a:1", "--target=scraper"][..],
        &["--cluster.peers=a:1", "--cluster.advertise-address=a:1"],
        &["--cluster.peers=a:1", "--storage.object-store=file:///mnt/blocks"],
    ] {
        assert!(run(args).is_ok(), "{args:?}");
    }
}

#[test]
fn certificates_between_nodes_are_named_together() {
    assert_eq!(run(&[]).unwrap().0.cluster_tls, None);
    let files = [
        "--cluster.tls.cert-file=c",
        "--cluster.tls.key-file=k",
        "--cluster.tls.ca-file=a",
    ];
    let tls = run(&files).unwrap().0.cluster_tls.unwrap();
    assert_eq!(
        [tls.cert, tls.key, tls.ca],
        ["c", "k", "a"].map(std::path::PathBuf::from)
    );
    let task = [&["gnomon", "bucket", "check", "--cluster.peers=a:1"], &files[..]].concat();
    let Command::BucketCheck(check) = parse(task).unwrap().command else {
        panic!("another command");
    };
    assert!(check.tls.is_some());
    assert!(parse(["gnomon", "block", "import", "x", files[0]]).is_err());
}
