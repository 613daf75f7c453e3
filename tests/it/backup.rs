//! A backup that is taken while the server writes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leadr_auth_app::archive;
use leadr_auth_service::{Exporter, Record};
use leadr_auth_sqlite::{IfMissing, Sqlite, SqliteConfig};

use crate::support::{Folder, System, sqlite_url};

const WRITERS: usize = 8;

/// How the names of the keys begin that are compared. The operator's key is in use all the time, and its line changes.
const NAMED: &str = "Writer ";

/// The keys of a database, each as a line.
async fn exported(sqlite: &Sqlite) -> BTreeSet<String> {
    let mut exporter = Exporter::new(sqlite.stores().transfer.as_ref())
        .await
        .unwrap();
    let mut lines = BTreeSet::new();
    loop {
        let page = exporter.next().await.unwrap();
        if page.is_empty() {
            return lines;
        }
        for record in &page {
            if matches!(record, Record::Key(key) if key.name.as_str().starts_with(NAMED)) {
                lines.insert(archive::write_record(record).unwrap());
            }
        }
    }
}

fn open(path: &Path) -> Sqlite {
    Sqlite::open(SqliteConfig::new(path), IfMissing::Fail).unwrap()
}

/// The copy is sound, has all that was acknowledged before it was begun, and nothing that was never written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_taken_under_load_is_whole() {
    let folder = Folder::new();
    let copy = folder.path("copy.db");
    let system = Arc::new(System::on(&folder.url()).await);
    let account = system.account("Acme", "acme").await;
    let (stop, written) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(std::sync::Mutex::new(Vec::new())),
    );
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (system, account) = (Arc::clone(&system), account.clone());
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            tokio::spawn(async move {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let key = system.key(&account, &format!("{NAMED}{writer}: {n}")).await;
                    written.lock().unwrap().push(key);
                }
            })
        })
        .collect();
    let acknowledged = || written.lock().unwrap().clone();
    while acknowledged().len() < 200 {
        tokio::task::yield_now().await;
    }

    let before = acknowledged();
    let report = open(&folder.database()).backup(&copy).await.unwrap();
    while acknowledged().len() < before.len() + 100 {
        tokio::task::yield_now().await;
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let original = exported(&open(&folder.database())).await;
    assert_eq!(original.len(), acknowledged().len());
    Arc::into_inner(system).unwrap().stop().await;

    let copied = {
        let copy = open(&copy);
        assert_eq!(copy.integrity().await.unwrap(), Vec::<String>::new());
        exported(&copy).await
    };
    assert!(copied.is_subset(&original));
    assert!(
        copied.len() < original.len(),
        "nothing was written after it"
    );
    // The operator's key is the one that nobody here made.
    assert_eq!(report.keys, u64::try_from(copied.len()).unwrap() + 1);

    let restored = System::on(&sqlite_url(&copy)).await;
    for (path, key) in &before {
        restored.get(path, Some(key)).await.expect(200);
    }
    restored.stop().await;
}
