//! How PostgreSQL runs the queries that have to stay quick when a store grows.

use leadr_auth_domain::{ApiKeyStatus, HashedKey, KeyHash, KeyId, PepperId};
use leadr_auth_ports::{
    KeyFilter, KeyUse, Rehash,
    contract::fixtures::{account, at, entry},
};
use leadr_auth_postgres::testing::TestDatabase;
use uuid::Uuid;

/// One account with a hundred thousand keys, and two hundred with a hundred each.
async fn crowded() -> TestDatabase {
    let database = TestDatabase::create().await;
    let owner = account(1);
    database
        .stores()
        .accounts
        .create(&owner, &entry())
        .await
        .unwrap();
    let client = database.client().await;
    client
        .batch_execute(&format!(
            "INSERT INTO accounts (name, slug) SELECT 'Other ' || n, 'other-' || n FROM generate_series(1, 200) n;
             INSERT INTO api_keys (account_id, name, key_hash, key_prefix, created_at)
             SELECT '{}', 'Key', repeat('0', 64), 'ldr_a' || n, '2026-01-01'::timestamptz + n * interval '1 s'
             FROM generate_series(1, 100000) n;
             INSERT INTO api_keys (account_id, name, key_hash, key_prefix)
             SELECT id, 'Key', repeat('0', 64), 'ldr_b' || row_number() OVER ()
             FROM accounts, generate_series(1, 100) WHERE slug LIKE 'other-%';
             ANALYZE",
            owner.id
        ))
        .await
        .unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_of_a_crowded_store_use_their_indexes() {
    let database = crowded().await;
    let postgres = database.postgres();

    let all = KeyFilter::of(account(1).id);
    let filters = [
        all,
        KeyFilter {
            status: Some(ApiKeyStatus::Active),
            ..all
        },
        KeyFilter {
            active_only: true,
            ..all
        },
    ];
    let other = database
        .client()
        .await
        .query_one("SELECT id::text FROM accounts WHERE slug = 'other-7'", &[])
        .await
        .unwrap();
    let other: Uuid = other.get::<_, String>(0).parse().unwrap();
    let small = KeyFilter::of(leadr_auth_domain::AccountId::new(other));
    for filter in filters.into_iter().chain([small]) {
        let plan = postgres.explain_list(filter).await;
        if filter == small {
            // A hundred rows may as well be fetched and sorted, but never found by reading the table.
            assert!(!plan.contains("Seq Scan"), "{plan}");
        } else {
            assert!(
                plan.contains("Index Scan using api_keys_live_by_account"),
                "{plan}"
            );
            assert!(!plan.contains("Sort"), "{plan}");
        }
    }

    let plan = postgres.explain_find("ldr_a77").await;
    assert!(
        plan.contains("Index Scan using ix_api_keys_key_prefix"),
        "{plan}"
    );
    assert!(!plan.contains("Seq Scan on api_keys"), "{plan}");

    let uses: Vec<KeyUse> = (0..100)
        .map(|n| KeyUse {
            key_id: KeyId::from_random_bytes([n; 16]),
            used_at: at(1),
        })
        .collect();
    let hash = KeyHash::from_store("0".repeat(64));
    let rehashes: Vec<Rehash> = uses
        .iter()
        .map(|used| Rehash {
            key_id: used.key_id,
            was: hash.clone(),
            becomes: HashedKey {
                pepper_id: PepperId::default(),
                hash: hash.clone(),
            },
        })
        .collect();
    for plan in [
        postgres.explain_record(&uses).await,
        postgres.explain_rehash(&rehashes).await,
    ] {
        assert!(plan.contains("Index Scan using api_keys_pkey"), "{plan}");
        assert!(!plan.contains("Seq Scan on api_keys"), "{plan}");
    }
}
