//! A database in a file: who else may touch it, and what happens while somebody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection as _;
use diesel::{Connection as _, SqliteConnection};
use leadr_auth_app::system::{OsEntropy, SystemClock};
use leadr_auth_domain::{Origin, Pepper, PlainKey, Principal};
use leadr_auth_service::{Authentication, Service};
use leadr_auth_sqlite::{IfMissing, Sqlite, SqliteConfig};
use serde_json::json;

use crate::support::{Folder, SECRET, System};

/// The use cases on a file that a server has open, as the tools of the command line have them.
fn tools(folder: &Folder) -> Service {
    let config = SqliteConfig::new(folder.database());
    let sqlite = Sqlite::open(config, IfMissing::Fail).unwrap();
    Service::new(
        sqlite.stores(),
        Arc::new(SystemClock),
        Arc::new(OsEntropy::new()),
        Pepper::new(SECRET).unwrap(),
    )
}

/// What a tool changes beside the server, the server's next answer knows; and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_commits_counts_at_once() {
    let folder = Folder::new();
    let system = System::on(&folder.url()).await;
    let account = system.account("Acme", "acme").await;
    let (path, key) = system.key(&account, "K").await;
    let tools = tools(&folder);
    let plain = PlainKey::parse(&key).unwrap();
    let Authentication::Accepted(caller) = tools.authenticate(&plain).await.unwrap() else {
        panic!("the server has committed the key");
    };
    let by = Principal::deployment(Origin::TOOL);
    for _ in 0..10 {
        system.get(&path, Some(&key)).await.expect(200);
        tools.revoke_key(&by, caller.record.key.id).await.unwrap();
        system.get(&path, Some(&key)).await.expect(401);
        tools
            .reactivate_key(&by, caller.record.key.id)
            .await
            .unwrap();
    }
    let change = json!({"status": "revoked"});
    system
        .patch(&path, &system.operator, change)
        .await
        .expect(200);
    let refused = tools.authenticate(&plain).await.unwrap();
    assert!(!matches!(refused, Authentication::Accepted(_)));
    system.stop().await;
}

/// While another process keeps the file locked, reads go on, writes are 503 within their time, and what was refused is
/// never done later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_somebody_else_keeps_locked() {
    const PATIENCE: Duration = Duration::from_millis(500);
    /// What changes a record may take four times that; the room is for a busy machine.
    const BOUND: Duration = Duration::from_secs(4);
    let folder = Folder::new();
    let patience = PATIENCE.as_millis().to_string();
    let system = System::start(&folder.url(), &[("STATEMENT_TIMEOUT_MS", &patience)]).await;
    system.ready_within(Duration::from_secs(30)).await;
    let account = system.account("Acme", "acme").await;
    let (path, key) = system.key(&account, "Before").await;

    let mut other = SqliteConnection::establish(&folder.database().to_string_lossy()).unwrap();
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    for n in 0..3 {
        let rename = json!({"name": format!("While locked {n}")});
        let refused = system.patch(&path, &system.operator, rename).await;
        assert!(refused.headers.contains_key("retry-after"));
        assert!(refused.took < BOUND, "took {:?}", refused.took);
        assert_eq!(refused.expect(503)["code"], "service_unavailable");
        let new = json!({"account_id": account, "name": format!("Made while locked {n}")});
        let refused = system.post("/v1/api-keys", &system.operator, new).await;
        assert!(refused.took < BOUND, "took {:?}", refused.took);
        refused.expect(503);
        let read = system.get(&path, Some(&key)).await.expect(200);
        assert_eq!(read["name"], "Before");
    }
    system.get("/livez", None).await.expect(200);
    other.batch_execute("ROLLBACK").unwrap();

    let unlocked = Instant::now();
    let rename = json!({"name": "After"});
    while system
        .patch(&path, &system.operator, rename.clone())
        .await
        .status
        .as_u16()
        != 200
    {
        assert!(
            unlocked.elapsed() < Duration::from_secs(10),
            "does not write again"
        );
    }
    let read = system.get(&path, Some(&key)).await.expect(200);
    assert_eq!(read["name"], "After");
    let listed = system.get("/v1/api-keys", Some(&key)).await.expect(200);
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    system.stop().await;
}

/// What was noted when the process was asked to stop is in the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_there_after_a_restart() {
    let folder = Folder::new();
    let first = System::on(&folder.url()).await;
    let account = first.account("Acme", "acme").await;
    let (path, key) = first.key(&account, "K").await;
    let used = first.get(&path, Some(&key)).await.expect(200)["last_used_at"].clone();
    first.stop().await;
    let second = System::on(&folder.url()).await;
    let read = second.get(&path, Some(&second.operator)).await.expect(200);
    assert_eq!(read["last_used_at"], used);
    second.get(&path, Some(&key)).await.expect(200);
    second.stop().await;
}
