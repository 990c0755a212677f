use super::acceptance::run_acceptance;
use super::faults::{Faults, FaultyStore};
use super::*;
use crate::block::tests::{collect, meta, page, write};
use crate::block::{BlockReader, BlockWriter, UploadSink};
use crate::{Selection, SeriesPages};
use futures::TryStreamExt;
use gnomon_model::{BlockId, Labels, ShardId, TenantId, TimestampMs};
use object_store::memory::InMemory;

fn memory() -> Bucket {
    Bucket::from_store(Arc::new(InMemory::new()), "memory")
}

#[tokio::test]
async fn memory_is_accepted() {
    run_acceptance(&memory()).await.unwrap();
}

#[tokio::test]
async fn a_folder_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    run_acceptance(&Bucket::open(None, folder.path()).unwrap())
        .await
        .unwrap();
    let url = format!("file://{}/below it/b", folder.path().display());
    run_acceptance(&Bucket::open(Some(&url), folder.path()).unwrap())
        .await
        .unwrap();
    assert!(folder.path().join("below it/b").is_dir());
}

#[test]
fn urls_that_cannot_be_used_say_what_can() {
    let folder = tempfile::tempdir().unwrap();
    for (url, part) in [
        ("ftp://x", "scheme \"ftp\" is unknown"),
        (
            "/tmp/x",
            "file:///folder, s3://bucket/prefix, gs://bucket/prefix and az://container/prefix are accepted",
        ),
        ("s3:///x", "bucket name is missing"),
        ("gs:///x", "bucket name is missing"),
        ("az:///x", "container name is missing"),
        ("az://a.b/x", "\"a.b\" is no container's name"),
        (
            "abfss://c@a.example/x",
            "\"a.example\" is not ACCOUNT.dfs.core.windows.net",
        ),
        (
            "abfss://c@.dfs.core.windows.net/x",
            "is not ACCOUNT.dfs.core.windows.net",
        ),
    ] {
        let message = Bucket::open(Some(url), folder.path()).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(url), "{message}");
    }
    let secret = Bucket::open(Some("s3://key:hunter2@b/x"), folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        secret.contains("a password in it") && !secret.contains("hunter2"),
        "{secret}"
    );
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    assert!(matches!(
        Bucket::open(None, &file.join("b")),
        Err(BucketError::Folder { .. })
    ));
}

/// A URL, the environment, and a part of what comes of them.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);

/// An account's key as it may be: base64 of anything.
const CONNECTION: &str = "AZURE_STORAGE_CONNECTION_STRING";
const AZURE_KEY: &str = "bm90IGEga2V5";

#[test]
fn stores_are_opened_by_what_the_environment_says() {
    let service_account = r#"{"private_key": "x", "private_key_id": "y", "client_email": "z", "disable_oauth": true}"#;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("account.json");
    std::fs::write(&file, service_account).unwrap();
    let file = file.to_str().unwrap();
    let azure = ("AZURE_STORAGE_ACCOUNT_NAME", "acct");
    let cases: &[Case<'_>] = &[
        (
            "s3://b/some/prefix",
            &[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")],
            "bucket: \"b\"|some/prefix",
        ),
        ("gs://b/p", &[("GOOGLE_SERVICE_ACCOUNT", file)], "bucket_name: \"b\""),
        ("gcs://b", &[("SERVICE_ACCOUNT", file)], "bucket_name: \"b\""),
        (
            "gs://b/p",
            &[("GOOGLE_SERVICE_ACCOUNT_KEY", service_account)],
            "bucket_name: \"b\"",
        ),
        (
            "gs://b/p",
            &[("STORAGE_EMULATOR_HOST", "127.0.0.1:4443")],
            "bucket_name: \"b\"",
        ),
        (
            "az://c/p",
            &[azure, ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)],
            "account: \"acct\"|container: \"c\"",
        ),
        (
            "azure://c/p",
            &[("AZURE_STORAGE_ACCOUNT", "acct"), ("AZURE_STORAGE_KEY", AZURE_KEY)],
            "account: \"acct\"|container: \"c\"",
        ),
        (
            "az://c",
            &[azure, ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=x")],
            "account: \"acct\"|container: \"c\"",
        ),
        ("az://c", &[azure], "account: \"acct\"|container: \"c\""),
        ("abfs://c/p", &[azure], "account: \"acct\"|container: \"c\""),
        (
            "abfss://c@other.dfs.core.windows.net/p",
            &[azure],
            "account: \"other\"|container: \"c\"",
        ),
        (
            "abfss://c@cn.blob.core.chinacloudapi.cn/p",
            &[],
            "account: \"cn\"|blob.core.chinacloudapi.cn",
        ),
        (
            "az://c/p",
            &[(
                CONNECTION,
                "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=bm90IGEga2V5;EndpointSuffix=core.windows.net",
            )],
            "account: \"acct\"|acct.blob.core.windows.net|AccessKey(",
        ),
        (
            "az://c/p",
            &[(
                CONNECTION,
                "AccountName=cn;AccountKey=bm90IGEga2U9PT0=;EndpointSuffix=core.chinacloudapi.cn;",
            )],
            "account: \"cn\"|cn.blob.core.chinacloudapi.cn",
        ),
        (
            "az://c/p",
            &[(
                CONNECTION,
                "AccountName=a;AccountKey=bm90IGEga2V5;BlobEndpoint=http://127.0.0.1:10000/a;QueueEndpoint=x",
            )],
            "account: \"a\"|127.0.0.1|port: Some(10000)|path: \"/a",
        ),
        (
            "abfss://c@acct.dfs.core.windows.net/p",
            &[(
                CONNECTION,
                "BlobEndpoint=https://acct.blob.core.windows.net/;SharedAccessSignature=?sv=1&sig=x%3D",
            )],
            "account: \"acct\"|acct.blob.core.windows.net|SASToken",
        ),
        (
            "az://c/p",
            &[(CONNECTION, "UseDevelopmentStorage=true")],
            "account: \"devstoreaccount1\"|is_emulator: true",
        ),
        (
            "az://c/p",
            &[("AZURE_STORAGE_USE_EMULATOR", "true")],
            "account: \"devstoreaccount1\"|is_emulator: true",
        ),
    ];
    for (url, environment, shown) in cases {
        let bucket = Bucket::of_url(url, &Environment::of(environment)).unwrap();
        assert_eq!(bucket.url(), *url);
        assert!(bucket.attempts().is_some(), "{url}: attempts are counted");
        let store = format!("{:?}", bucket.store());
        assert!(shown.split('|').all(|part| store.contains(part)), "{url}: {store}");
    }
}

#[test]
fn what_the_environment_lacks_is_named() {
    let cases: &[Case<'_>] = &[
        (
            "az://c/p",
            &[],
            "the storage account is not named: set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or write abfss://",
        ),
        (
            "az://c/p",
            &[("AZURE_STORAGE_ACCOUNT_NAME", "")],
            "the storage account is not named",
        ),
        (
            "az://c/p",
            &[(CONNECTION, "secret")],
            "AZURE_STORAGE_CONNECTION_STRING: it is NAME=VALUE",
        ),
        (
            "az://c/p",
            &[(CONNECTION, "AccountKey=bm90IGEga2V5")],
            "AZURE_STORAGE_CONNECTION_STRING: AccountName is missing",
        ),
        (
            "abfss://c@other.dfs.core.windows.net/p",
            &[(CONNECTION, "AccountName=acct;AccountKey=bm90IGEga2V5")],
            "AZURE_STORAGE_CONNECTION_STRING: it is of the account \"acct\", and \"other\" is named",
        ),
        (
            "s3://b/p",
            &[("AWS_PROFILE", "none"), ("HOME", "/nonexistent")],
            "AWS_PROFILE=none: there is no such profile in /nonexistent/.aws/credentials or /nonexistent/.aws/config",
        ),
        (
            "gs://b",
            &[("GOOGLE_SERVICE_ACCOUNT", "/a"), ("GOOGLE_SERVICE_ACCOUNT_KEY", "{}")],
            "both GOOGLE_SERVICE_ACCOUNT and GOOGLE_SERVICE_ACCOUNT_KEY are set",
        ),
        (
            "gs://b",
            &[("GOOGLE_SERVICE_ACCOUNT", "/nonexistent/account.json")],
            "/nonexistent/account.json",
        ),
        (
            "gs://b",
            &[("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/adc.json")],
            "/nonexistent/adc.json",
        ),
        ("file:blocks", &[], "file:///folder/blocks"),
        (
            "gs://b",
            &[("STORAGE_EMULATOR_HOST", "http://")],
            "STORAGE_EMULATOR_HOST=\"http://\" is neither",
        ),
    ];
    for (url, environment, part) in cases {
        let message = Bucket::of_url(url, &Environment::of(environment))
            .unwrap_err()
            .to_string();
        assert!(message.contains(part) && message.contains(url), "{message}");
    }
}

#[tokio::test]
async fn what_a_crash_left_of_an_upload_is_removed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = Bucket::folder(folder.path()).unwrap();
    let path = block_path(&TenantId::anonymous(), ShardId(0), TimestampMs(0), BlockId(1));
    bucket.store().put(&path, "whole".into()).await.unwrap();
    let object = folder.path().join(path.as_ref());
    let beside = |suffix: &str| std::path::PathBuf::from(format!("{}{suffix}", object.display()));
    std::fs::write(beside("#1"), "half").unwrap();
    let others = [
        "anonymous/tombstones/1.gnt#2",
        "catalogue/checkpoint-00000000000000000007#1",
        "cluster.json#12",
    ];
    for name in others {
        let file = folder.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "half").unwrap();
    }
    std::fs::write(beside("#x"), "not an upload").unwrap();
    std::fs::write(folder.path().join("notes#1"), "not ours").unwrap();
    Bucket::folder(folder.path()).unwrap();
    assert!(!beside("#1").exists());
    assert!(others.iter().all(|name| !folder.path().join(name).exists()));
    assert!(object.exists() && beside("#x").exists() && folder.path().join("notes#1").exists());
}

#[tokio::test]
async fn no_more_is_uploaded_than_was_reserved() {
    let series = [SeriesPages {
        labels: Labels::from_pairs([("__name__", "m")]),
        pages: vec![page(0, (0..480).map(|k| f64::from(k) * 0.37))],
    }];
    let whole = write(meta(), &series).await.output.len() as u64;
    for (reserved, fits) in [(whole, true), (whole - 1, false), (10, false)] {
        let store = Arc::new(InMemory::new());
        let sink = UploadSink::within(store.clone(), Path::from("b.gnb"), reserved);
        let mut writer = BlockWriter::new(meta(), sink);
        let added = writer
            .add_series(series[0].labels.as_ref(), series[0].pages.clone())
            .await;
        let outcome = match added {
            Ok(()) => writer.finish().await.map(drop),
            Err(error) => Err(error),
        };
        assert_eq!(outcome.is_ok(), fits, "{reserved} of {whole}");
        assert!(outcome.err().is_none_or(|e| e.is_over_reservation()));
        assert_eq!(store.head(&Path::from("b.gnb")).await.is_ok(), fits);
    }
}

#[test]
fn block_names_say_what_they_hold() {
    let key = BlockKey {
        tenant: TenantId::anonymous(),
        shard: ShardId(12),
        window_start: TimestampMs(1_700_000_000_000),
        block: BlockId(0xabc),
    };
    let path = key.path();
    assert_eq!(
        path.as_ref(),
        "anonymous/blocks/12/1700000000000/00000000000000000000000000000abc.gnb"
    );
    assert_eq!(BlockKey::parse(&path), Some(key));
    for other in [
        "cluster.json",
        "anonymous/blocks/12/0/abc.gnb",
        "anonymous/parts/1/0/00000000000000000000000000000abc.gnb",
    ] {
        assert_eq!(BlockKey::parse(&Path::from(other)), None);
    }
    assert_eq!(checkpoint_revision(&checkpoint_path(77)), Some(77));
}

/// An uploaded block is whole or absent, and reads give the truth or an error, whatever the store does.
#[tokio::test]
async fn under_faults_blocks_are_whole_or_absent_and_reads_true_or_errors() {
    // Values that do not compress: several parts of an upload, several reads.
    let value = |i: u64, k: u64| f64::from_bits((k + i * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let series: Vec<SeriesPages> = (0..2500)
        .map(|i| SeriesPages {
            labels: Labels::from_pairs([("__name__", format!("m{i:04}"))]),
            pages: vec![page(0, (0..480).map(|k| value(i, k)))],
        })
        .collect();
    let expected = write(meta(), &series).await.output;
    let (mut whole, mut absent, mut read, mut failed) = (0, 0, 0, 0);
    for seed in 0..150 {
        let inner = Arc::new(InMemory::new());
        let faults = Faults {
            refused: 0.05,
            lost_response: 0.1,
            torn: 0.1,
            latency: std::time::Duration::from_micros(50),
        };
        let store = FaultyStore::new(inner.clone(), seed, faults);
        let path = Path::from("b.gnb");
        let mut writer = BlockWriter::new(meta(), UploadSink::new(Arc::new(store.clone()), path.clone()));
        let mut outcome = Ok(());
        for s in &series {
            outcome = writer.add_series(s.labels.as_ref(), s.pages.clone()).await;
            if outcome.is_err() {
                break;
            }
        }
        let is_acknowledged = outcome.is_ok() && writer.finish().await.is_ok();
        match inner.get(&path).await {
            Ok(object) => {
                whole += 1;
                assert_eq!(object.bytes().await.unwrap(), expected);
            }
            Err(_) => {
                absent += 1;
                assert!(!is_acknowledged, "an acknowledged block is there");
                continue;
            }
        }
        let attempt = async {
            let reader = Arc::new(BlockReader::open(Arc::new(store.clone()), path.clone()).await?);
            let selection: Selection = reader.select(&[], i64::MIN, i64::MAX).await?;
            collect(selection).await
        };
        match attempt.await {
            Ok(found) => {
                read += 1;
                assert!(found == series);
            }
            Err(error) => {
                failed += 1;
                assert!(!error.is_damage(), "{error}");
            }
        }
    }
    assert!(
        whole > 5 && absent > 5 && read > 5 && failed > 5,
        "{whole} {absent} {read} {failed}"
    );
}

#[tokio::test(start_paused = true)]
async fn conditional_creation_finds_its_own_content_after_a_lost_answer() {
    let store = FaultyStore::new(
        Arc::new(InMemory::new()),
        1,
        Faults {
            lost_response: 1.0,
            ..Faults::default()
        },
    );
    let bucket = Bucket::from_store(Arc::new(store.clone()), "faults");
    let path = Path::from(CLUSTER_MARKER);
    let me = || bucket.create(&path, Bytes::from_static(b"me"));
    assert!(me().await.is_err());
    let (told, ()) = tokio::join!(me(), async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        store.set(Faults::default());
    });
    assert_eq!(told.unwrap(), Created::Existing(Bytes::from_static(b"me")));
}

/// Two that are about to found a cluster in one folder, while others open it.
#[test]
fn a_folder_that_others_open_has_one_winner() {
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let open = || Bucket::open(Some(&url), std::path::Path::new("/nonexistent")).unwrap();
        let create = |who: u8| {
            let bucket = open();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime
                .block_on(bucket.create(&Path::from(CLUSTER_MARKER), vec![who].into()))
                .unwrap()
        };
        let told: Vec<Created> = std::thread::scope(|scope| {
            let founders: Vec<_> = (0..3).map(|who| scope.spawn(move || create(who))).collect();
            let others: Vec<_> = (0..3)
                .map(|_| scope.spawn(|| (0..5).for_each(|_| drop(open()))))
                .collect();
            others.into_iter().for_each(|other| other.join().unwrap());
            founders.into_iter().map(|founder| founder.join().unwrap()).collect()
        });
        let content = std::fs::read(folder.path().join(CLUSTER_MARKER)).unwrap();
        for (who, told) in (0..).zip(told) {
            let expected = if content == [who] {
                Created::New
            } else {
                Created::Existing(content.clone().into())
            };
            assert_eq!(told, expected, "founder {who}");
        }
    }
}

/// As a disk that is unmounted, and mounted again: below it there is an empty folder.
#[tokio::test]
async fn a_folder_that_is_gone_is_not_begun_anew() {
    let place = tempfile::tempdir().unwrap();
    let (folder, away) = (place.path().join("bucket"), place.path().join("away"));
    let (block, content) = (Path::from("t/blocks/0/0/1.gnb"), Bytes::from_static(b"block"));
    for marked_before in [false, true] {
        let bucket = Bucket::folder(&folder).unwrap();
        let store = bucket.store();
        if !marked_before {
            store.put(&block, content.clone().into()).await.unwrap();
            bucket
                .create(&Path::from(CLUSTER_MARKER), Bytes::from_static(b"me"))
                .await
                .unwrap();
        }
        std::fs::rename(&folder, &away).unwrap();
        for is_empty_folder in [false, true] {
            if is_empty_folder {
                std::fs::create_dir(&folder).unwrap();
            }
            let mut told = vec![
                store.put(&block, content.clone().into()).await.map(drop),
                store.put_multipart(&block).await.map(drop),
                store.get(&block).await.map(drop),
                store.get_ranges(&block, &[0..1, 2..3]).await.map(drop),
                store.delete(&block).await,
                store.list_with_delimiter(None).await.map(drop),
                store.copy(&block, &Path::from("other")).await,
            ];
            told.push(store.list(None).try_collect::<Vec<_>>().await.map(drop));
            for (n, told) in told.into_iter().enumerate() {
                let error = told.unwrap_err();
                assert!(matches!(error, object_store::Error::Generic { .. }), "{n}: {error}");
                assert!(error.to_string().contains("Is its disk mounted?"), "{n}: {error}");
            }
        }
        assert_eq!(
            std::fs::read_dir(&folder).unwrap().count(),
            0,
            "nothing was written to it"
        );
        std::fs::remove_dir(&folder).unwrap();
        std::fs::rename(&away, &folder).unwrap();
        assert_eq!(store.get(&block).await.unwrap().bytes().await.unwrap(), content);
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_mark_that_is_deleted_is_not_missed() {
    let place = tempfile::tempdir().unwrap();
    let bucket = Bucket::folder(place.path()).unwrap();
    let mark = Path::from(CLUSTER_MARKER);
    bucket.create(&mark, Bytes::from_static(b"me")).await.unwrap();
    delete_object(bucket.store().as_ref(), &mark).await.unwrap();
    delete_object(bucket.store().as_ref(), &mark).await.unwrap();
    let another = bucket.create(&mark, Bytes::from_static(b"other")).await;
    assert_eq!(another.unwrap(), Created::New);
}

/// An upload that was begun before: what it publishes may be below the mount point.
#[tokio::test]
async fn an_upload_into_a_folder_that_goes_meanwhile_fails() {
    let place = tempfile::tempdir().unwrap();
    let (folder, away) = (place.path().join("bucket"), place.path().join("away"));
    let bucket = Bucket::folder(&folder).unwrap();
    bucket
        .create(&Path::from(CLUSTER_MARKER), Bytes::from_static(b"me"))
        .await
        .unwrap();
    let mut upload = bucket.store().put_multipart(&Path::from("t/block")).await.unwrap();
    upload.put_part(Bytes::from_static(b"block").into()).await.unwrap();
    std::fs::rename(&folder, &away).unwrap();
    std::fs::create_dir(&folder).unwrap();
    assert!(upload.complete().await.is_err());
}
