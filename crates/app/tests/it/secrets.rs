//! Secrets stay where they belong: the whole log at its most talkative is searched for them.

use serde_json::json;

use crate::support::{ANYWHERE, Place, Running, status};

#[tokio::test]
async fn no_key_gets_into_the_log_by_any_way() {
    let secret = "a secret for tests, of 32 bytes and more";
    let superadmin = leadr_auth_domain::generate_api_key([77; 32]);
    let superadmin = superadmin.expose();
    for format in ["json", "text"] {
        let environment = [
            ANYWHERE,
            ("DATABASE_URL", "memory:"),
            ("RUST_LOG", "trace"),
            ("LOG_FORMAT", format),
            ("API_KEY_SECRET", secret),
            ("SUPERADMIN_API_KEY", superadmin),
        ];
        let mut running = Running::start(&[], &environment);
        let base = running.base();
        running.wait_for("ready");
        let client = reqwest::Client::new();
        let mut keys = vec![superadmin.to_owned()];
        let account: serde_json::Value = client
            .post(format!("{base}/v1/accounts"))
            .bearer_auth(superadmin)
            .json(&json!({"name": "Acme", "slug": "acme"}))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        for n in 0..20 {
            let issued: serde_json::Value = client
                .post(format!("{base}/v1/api-keys"))
                .header("x-api-key", superadmin)
                .json(&json!({"account_id": account["id"], "name": format!("Key {n}")}))
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap();
            let key = issued["key"].as_str().unwrap().to_owned();
            // In every place that a client may put it, right or wrong.
            for request in [
                client
                    .get(format!("{base}/v1/api-keys"))
                    .header("leadr-api-key", &key),
                client
                    .get(format!("{base}/v1/api-keys/{key}"))
                    .header("leadr-api-key", &key),
                client
                    .get(format!("{base}/{key}"))
                    .header("x-request-id", &key),
                client
                    .get(format!("{base}/livez?api_key={key}"))
                    .header("user-agent", &key),
                client
                    .get(format!("{base}/docs/{key}"))
                    .header("cookie", &key),
                client
                    .get(format!("{base}/v1/api-keys?status={key}"))
                    .bearer_auth(&key),
                client
                    .get(format!("{base}/v1/accounts"))
                    .basic_auth(&key, Some(&key)),
                client
                    .post(format!("{base}/v1/api-keys"))
                    .bearer_auth(&key)
                    .json(&json!({&key: &key, "name": &key, "expires_at": &key})),
                client.request(reqwest::Method::from_bytes(key.as_bytes()).unwrap(), &base),
            ] {
                request.send().await.unwrap();
            }
            keys.push(key);
        }
        let (status, log) = running.end("-TERM");
        assert_eq!(status.code(), Some(0));
        assert!(log.lines().count() > 100, "a talkative log: {log}");
        assert!(!log.contains(secret));
        for key in keys {
            assert!(!log.contains(&key), "a key is in the log");
            let body = key.split_at(14).1;
            assert!(
                !log.contains(body),
                "the secret part of a key is in the log"
            );
        }
    }
}

/// A key is said once, where it is made; the secret never, by whatever tool.
#[tokio::test]
async fn no_tool_and_no_list_of_processes_shows_a_key_or_the_secret() {
    let place = Place::new();
    let configured = leadr_auth_domain::generate_api_key([78; 32]);
    let environment = [ANYWHERE, ("SUPERADMIN_API_KEY", configured.expose())];
    let mut running = place.serve(&["serve"], &environment);
    let base = running.base();
    running.wait_for("ready");
    assert_eq!(status(&base, configured.expose()).await, 200);
    place.tool(
        0,
        &["account", "create", "--name", "acme", "--slug", "acme"],
    );
    let arguments = [
        "key",
        "create",
        "--account",
        "acme",
        "--name",
        "CI",
        "--json",
    ];
    let made = place.tool(0, &arguments).json();
    let key = made["key"].as_str().unwrap();
    assert_eq!(status(&base, key).await, 200);
    let secret = place.read("data/secret");
    let secrets = [configured.expose(), key, secret.trim()];

    let mut seen = Vec::new();
    for command in [
        &["doctor"][..],
        &["doctor", "--json"],
        &["export"],
        &["export", "all"],
        &["backup", "copy.db"],
        &["account", "list", "--json"],
        &["key", "list", "--account", "acme", "--json"],
        &["key", "show", made["id"].as_str().unwrap(), "--json"],
        &["migrate"],
    ] {
        let told = place.run(command, &environment).with(0);
        seen.extend([told.out, told.err]);
    }
    let verdict = place.tell(0, &["key", "verify", "--json"], key);
    seen.extend([verdict.out, verdict.err]);
    let wrong = [("API_KEY_SECRET", "another secret, of 32 bytes and more")];
    for command in [&["doctor"][..], &["account", "list"], &["serve"]] {
        let told = place.run(command, &wrong).with(1);
        assert!(!told.err.contains("another secret, of 32"), "{}", told.err);
        seen.extend([told.out, told.err]);
    }
    seen.push(place.read("all"));
    let arguments = std::fs::read(format!("/proc/{}/cmdline", running.id())).unwrap_or_default();
    seen.push(String::from_utf8_lossy(&arguments).into_owned());
    running.signal("-TERM");
    let (ended, said, log) = running.wait_and_hear();
    assert_eq!(ended.code(), Some(0));
    seen.extend([said.join("\n"), log]);
    for secret in secrets {
        let end = &secret[secret.len() - 30..];
        for text in &seen {
            assert!(!text.contains(end), "{text}");
        }
        // Nor is it in what is kept, but for the file that is for it.
        for (path, (_, content)) in place.files() {
            let is_there = content
                .windows(end.len())
                .any(|part| part == end.as_bytes());
            let may_be_there = path.ends_with("data/secret") && secret.len() == 64;
            assert_eq!(is_there, may_be_there, "{}", path.display());
        }
    }
}
