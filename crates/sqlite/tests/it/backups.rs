//! Copies of a database that is being written to.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::Duration,
};

use diesel::connection::SimpleConnection as _;

use leadr_auth_ports::{
    KeyFilter, Rows,
    contract::fixtures::{account, at, entry, key, noted},
};
use leadr_auth_sqlite::{BackupError, IfMissing, Sqlite, SqliteConfig};

use crate::support::Scratch;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_holds_what_was_acknowledged_before_it_began() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    let stores = sqlite.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let (acknowledged, stop) = (Arc::new(AtomicU8::new(0)), Arc::new(AtomicBool::new(false)));
    let writing = {
        let (stores, owner) = (stores.clone(), owner.clone());
        let (acknowledged, stop) = (Arc::clone(&acknowledged), Arc::clone(&stop));
        tokio::spawn(async move {
            for n in 1..=u8::MAX {
                stores.keys.create(&key(n, &owner), &entry()).await.unwrap();
                acknowledged.store(n, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    break;
                }
            }
        })
    };
    for round in 0..3 {
        while acknowledged.load(Ordering::SeqCst) < 10 * (round + 1) {
            tokio::task::yield_now().await;
        }
        let before = acknowledged.load(Ordering::SeqCst);
        let to = scratch.folder().join(format!("copy{round}.db"));
        let report = sqlite.backup(&to).await.unwrap();
        assert!(report.keys >= u64::from(before), "{report:?}");
        assert_eq!(report.accounts, 1);
        let metadata = fs::metadata(&to).unwrap();
        assert_eq!(metadata.len(), report.bytes);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        // Whoever opens it first has nothing to change that could be cut short.
        assert_eq!(
            fs::read(&to).unwrap()[18..20],
            [2, 2],
            "it has no log ahead"
        );

        let copy = Sqlite::open(SqliteConfig::new(&to), IfMissing::Fail).unwrap();
        assert_eq!(copy.integrity().await.unwrap(), [""; 0]);
        let keys = copy.stores().keys;
        let listed = keys.list(KeyFilter::of(owner.id)).await.unwrap();
        assert_eq!(u64::try_from(listed.len()).unwrap(), report.keys);
        for n in 1..=before {
            let id = key(n, &owner).id;
            assert!(keys.get(id, Rows::Live).await.unwrap().is_some(), "{n}");
        }
    }
    stop.store(true, Ordering::SeqCst);
    writing.await.unwrap();
    drop((sqlite, stores));
    assert_eq!(
        scratch.names(),
        ["copy0.db", "copy1.db", "copy2.db", "keys.db"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_overwrites_nothing_and_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    let there = scratch.folder().join("there");
    fs::write(&there, "precious").unwrap();
    let link = scratch.folder().join("link");
    std::os::unix::fs::symlink("/nowhere/at/all", &link).unwrap();
    for path in [&there, &link, &scratch.path()] {
        let refused = sqlite.backup(path).await.unwrap_err();
        assert!(matches!(refused, BackupError::Exists(_)), "{refused:?}");
    }
    assert_eq!(fs::read(&there).unwrap(), b"precious");
    let nowhere = scratch.folder().join("nowhere").join("copy.db");
    let refused = sqlite.backup(&nowhere).await.unwrap_err();
    assert!(matches!(refused, BackupError::Target(..)), "{refused:?}");
    drop(sqlite);
    assert_eq!(scratch.names(), ["keys.db", "link", "there"]);
}

/// Whenever it is that nobody waits for it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_given_up_leaves_nothing() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    // Enough for a copy to take a while.
    scratch
        .raw()
        .batch_execute(
            "CREATE TABLE much (a);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO much SELECT randomblob(1000) FROM n",
        )
        .unwrap();
    let to = scratch.folder().join("copy.db");
    let ours = ["keys.db", "keys.db-shm", "keys.db-wal"];
    let (mut given_up, mut begun, mut patience) = (0, 0, Duration::from_millis(1));
    loop {
        let backup = sqlite.backup(&to);
        let watch = async {
            tokio::time::sleep(patience).await;
            begun += usize::from(scratch.names().len() > ours.len());
        };
        tokio::select! {
            done = backup => {
                done.unwrap();
                break;
            }
            () = watch => given_up += 1,
        }
        let mut left = scratch.names();
        // It had just been done.
        left.retain(|name| name != "copy.db");
        assert_eq!(left, ours, "given up after {patience:?}");
        if to.exists() {
            break;
        }
        patience += Duration::from_millis(4);
    }
    assert!(
        given_up > 1 && begun > 1,
        "{given_up} given up, {begun} of them begun"
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(sqlite);
    assert_eq!(scratch.names(), ["copy.db", "keys.db"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_write_is_of_any_record() {
    let scratch = Scratch::new();
    let sqlite = scratch.open().await;
    let stores = sqlite.stores();
    assert_eq!(sqlite.newest_write().await.unwrap(), None);
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    assert_eq!(sqlite.newest_write().await.unwrap(), Some(at(1)));
    let issued = key(5, &owner);
    stores.keys.create(&issued, &entry()).await.unwrap();
    assert_eq!(sqlite.newest_write().await.unwrap(), Some(at(5)));
    let revoke = &mut |mut key: leadr_auth_domain::ApiKey| {
        key.revoke(at(9));
        Ok(noted(key))
    };
    stores.keys.update(issued.id, revoke).await.unwrap();
    assert_eq!(sqlite.newest_write().await.unwrap(), Some(at(9)));
}
