//! A disk without room. A limit on the size of files stands in for it: what the process writes beyond that fails, and
//! others on the machine do not notice.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Serving, binary, tool};

/// How long the answer to a write may take on a machine that does other things too.
const SOON: Duration = Duration::from_secs(4);

fn limit_files(process: u32, bytes: &str) {
    let limited = Command::new("prlimit")
        .args(["--pid", &process.to_string(), &format!("--fsize={bytes}:")])
        .status()
        .unwrap();
    assert!(limited.success());
}

/// Reads go on, writes are 503 and not done, and when there is room again, so are writes.
#[tokio::test]
async fn a_full_disk_stops_writes_only_and_only_while_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("leadr-auth.db");
    let url = format!("sqlite:{}", database.display());
    tool(&url, &["migrate"]);
    let operator: serde_json::Value =
        serde_json::from_str(&tool(&url, &["operator", "new-key", "--json"])).unwrap();
    let operator = operator["key"].as_str().unwrap();

    // What would end the process otherwise is a signal that comes with the failed write.
    let line = "trap '' XFSZ; exec \"$0\" serve";
    let server = binary("sh", &url, &["-c", line, env!("CARGO_BIN_EXE_leadr-auth")]);
    let server = Serving::start(server).await;
    let (status, account) = server
        .post(
            "/v1/accounts",
            operator,
            &json!({"name": "Acme", "slug": "acme"}),
        )
        .await;
    assert_eq!(status, 201);
    let issue = async |name: &str| {
        server
            .post(
                "/v1/api-keys",
                operator,
                &json!({"account_id": account["id"], "name": name}),
            )
            .await
    };
    let (status, first) = issue("Before").await;
    assert_eq!(status, 201);
    let path = format!("/v1/api-keys/{}", first["id"].as_str().unwrap());
    let key = first["key"].as_str().unwrap();

    let log = database.with_file_name("leadr-auth.db-wal");
    limit_files(server.id(), &fs::metadata(log).unwrap().len().to_string());
    for n in 0..5 {
        let asked = Instant::now();
        let (status, answer) = issue(&format!("Without room {n}")).await;
        assert_eq!(status, 503, "{answer}");
        assert!(asked.elapsed() < SOON, "took {:?}", asked.elapsed());
        assert_eq!(server.get(&path, key).await.0, 200);
    }
    assert_eq!(server.get("/livez", "").await.0, 200);

    limit_files(server.id(), "unlimited");
    let (status, second) = issue("After").await;
    assert_eq!(status, 201, "{second}");
    let (_, listed) = server.get("/v1/api-keys", key).await;
    assert_eq!(listed.as_array().unwrap().len(), 2, "{listed}");
    server.stop();

    tool(&url, &["doctor"]);
    let restarted = binary(env!("CARGO_BIN_EXE_leadr-auth"), &url, &["serve"]);
    let restarted = Serving::start(restarted).await;
    assert_eq!(restarted.get(&path, key).await.0, 200);
    let key = second["key"].as_str().unwrap();
    assert_eq!(restarted.get("/v1/api-keys", key).await.0, 200);
    restarted.stop();
}
