//! Secrets stay where they belong: the whole log at its most talkative is searched for them.

use serde_json::json;

use crate::support::Running;

#[tokio::test]
async fn no_key_gets_into_the_log_by_any_way() {
    let secret = "a secret for tests, of 32 bytes and more";
    let superadmin = leadr_auth_domain::generate_api_key([77; 32]);
    let superadmin = superadmin.expose();
    for format in ["json", "text"] {
        let environment = [
            ("LISTEN", "127.0.0.1:0"),
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
