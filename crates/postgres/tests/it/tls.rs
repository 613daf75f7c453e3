//! TLS to the database: what demands it gets it, with the right server, or nothing.

use leadr_auth_ports::{
    StoreError, Totals,
    contract::fixtures::{account, entry, key},
};
use leadr_auth_postgres::{
    Postgres, PostgresConfig,
    migrate::{self, MigrateError},
    testing::{TestDatabase, TlsProxy},
};

/// The parameters of a URL that demands TLS as `mode` says, from a server of this proxy's authority.
fn demand(mode: &str, proxy: &TlsProxy) -> String {
    let root = proxy.root().to_str().unwrap().replace(' ', "%20");
    format!("sslmode={mode}&sslrootcert={root}")
}

fn patient(database: &TestDatabase, url: String) -> PostgresConfig {
    PostgresConfig {
        url,
        ..database.config()
    }
}

/// An error and all its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error} {error:?}");
        cause = error.source();
    }
    text
}

/// What a person reads who has configured it wrongly: from the pool, from the snapshot, from a listener, and from a migration.
async fn refusals(database: &TestDatabase, url: &str) -> Vec<String> {
    // TLS comes before the password, so any will do.
    let (scheme, rest) = url.split_once("://").unwrap();
    let (_, rest) = rest.split_once('@').unwrap_or(("", rest));
    let config = patient(database, format!("{scheme}://me:hunter2@{rest}"));
    let mut texts = Vec::new();
    let stores = Postgres::new(config.clone()).unwrap().stores();
    let lookup = stores.lookup.find(&key(1, &account(1)).key_prefix).await;
    let snapshot = stores.transfer.snapshot().await.map(drop);
    let subscription = stores.feed.subscribe().await.map(drop);
    for refused in [lookup.map(drop), snapshot, subscription] {
        let error = refused.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        texts.push(whole(&error));
    }
    let error = migrate::run(&config).await.unwrap_err();
    // It will not be another server the next time.
    assert!(matches!(error, MigrateError::Failed(_)), "{error:?}");
    texts.push(whole(&error));
    for text in &texts {
        assert!(!text.contains("hunter2"), "{text}");
    }
    texts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_goes_by_tls_where_it_is_demanded() {
    for (mode, host) in [
        ("require", "127.0.0.1"),
        ("verify-ca", "localhost"),
        ("verify-full", "localhost"),
    ] {
        let database = TestDatabase::create_empty().await;
        let proxy = TlsProxy::start(database.url(), &[host]).await;
        let url = proxy.url(database.url(), &demand(mode, &proxy));
        let config = patient(&database, url.replace("127.0.0.1", host));

        assert!(!migrate::run(&config).await.unwrap().is_empty(), "{mode}");
        let stores = Postgres::new(config).unwrap().stores();
        let owner = account(1);
        let first = key(1, &owner);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.keys.create(&first, &entry()).await.unwrap();
        let found = stores.lookup.find(&first.key_prefix).await.unwrap();
        assert_eq!(found.unwrap().account, owner, "{mode}");
        let mut snapshot = stores.transfer.snapshot().await.unwrap();
        let totals = Totals {
            accounts: 1,
            keys: 1,
        };
        assert_eq!(snapshot.totals().await.unwrap(), totals, "{mode}");
        let mut subscription = stores.feed.subscribe().await.unwrap();
        let heard = crate::change_feed::news(&stores, &mut subscription, 1).await;
        assert_eq!(heard, [], "{mode}");
    }
}

/// The proxy serves nobody who does not ask for TLS: so the test above would fail if it was not spoken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tls_is_tried_where_it_is_not_demanded() {
    let database = TestDatabase::create_empty().await;
    let proxy = TlsProxy::start(database.url(), &["127.0.0.1"]).await;
    for parameters in ["", "sslmode=prefer", "sslmode=disable"] {
        let config = patient(&database, proxy.url(database.url(), parameters));
        let error = migrate::run(&config).await.unwrap_err();
        assert!(matches!(error, MigrateError::Unavailable(_)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_is_refused() {
    let database = TestDatabase::create_empty().await;
    let proxy = TlsProxy::start(database.url(), &["127.0.0.1"]).await;
    let other = TlsProxy::start(database.url(), &["127.0.0.1"]).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = proxy.url(database.url(), &demand(mode, &other));
        for text in refusals(&database, &url).await {
            assert!(text.contains("invalid peer certificate"), "{mode}: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_another_host_is_refused() {
    let database = TestDatabase::create_empty().await;
    let proxy = TlsProxy::start(database.url(), &["elsewhere.test", "127.0.0.2"]).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = proxy.url(database.url(), &demand(mode, &proxy));
        for host in ["127.0.0.1", "localhost"] {
            let url = url.replace("127.0.0.1", host);
            for text in refusals(&database, &url).await {
                assert!(text.contains("not valid for name"), "{mode}: {text}");
            }
        }
    }
}

/// What `openssl req -x509` makes by default is an authority's, and other clients of PostgreSQL take it. So the refusal says
/// what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_signs_its_own_certificate_must_be_no_authority() {
    let database = TestDatabase::create_empty().await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let proxy = TlsProxy::start_self_signed(database.url(), &["127.0.0.1"], true).await;
        let url = proxy.url(database.url(), &demand(mode, &proxy));
        for text in refusals(&database, &url).await {
            assert!(text.contains("CaUsedAsEndEntity"), "{mode}: {text}");
            assert!(
                text.contains("the server's certificate is that of an authority")
                    && text.contains("basicConstraints=critical,CA:FALSE"),
                "{mode}: {text}"
            );
        }
        let proxy = TlsProxy::start_self_signed(database.url(), &["127.0.0.1"], false).await;
        let url = proxy.url(database.url(), &demand(mode, &proxy));
        migrate::pending(&patient(&database, url)).await.unwrap();
    }
}

/// Nobody is served in the clear who demanded something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused() {
    let database = TestDatabase::create_empty().await;
    let proxy = TlsProxy::start(database.url(), &["127.0.0.1"]).await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = format!("{}?{}", database.url(), demand(mode, &proxy));
        for text in refusals(&database, &url).await {
            // The server of TEST_DATABASE_URL may have TLS, with a certificate that this authority has not made.
            assert!(text.contains("TLS"), "{mode}: {text}");
        }
    }
}
