//! How PostgreSQL runs the queries that have to stay quick when a store grows.

use leadr_auth_domain::{ChainId, HashedKey, KeyHash, KeyId, PepperId};
use leadr_auth_ports::{
    KeyFilter, KeyQuery, KeyUse, Rehash,
    contract::fixtures::{account, at, audit_lists, entry, key_filters, key_sorts},
    listing::{Direction, Period, Sort},
};
use leadr_auth_postgres::testing::TestDatabase;
use uuid::Uuid;

/// One account with a hundred thousand keys, and two hundred with a hundred each, all made around the instants that are asked
/// for: what a query costs is guessed by how many come after those.
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
             SELECT '{}', 'Key', repeat('0', 64), 'ldr_a' || n, '{}'::timestamptz + (n - 50000) * interval '1 s'
             FROM generate_series(1, 100000) n;
             INSERT INTO api_keys (account_id, name, key_hash, key_prefix, created_at)
             SELECT id, 'Key', repeat('0', 64), 'ldr_b' || row_number() OVER (), '{}'::timestamptz + (n - 50) * interval '1 s'
             FROM accounts, generate_series(1, 100) n WHERE slug LIKE 'other-%';
             ANALYZE",
            owner.id,
            at(0),
            at(0),
        ))
        .await
        .unwrap();
    database
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_of_a_crowded_store_use_their_indexes() {
    let database = crowded().await;
    let postgres = database.postgres();

    let later = KeyId::from_random_bytes([1; 16]);
    for filter in key_filters(account(1).id) {
        for first in key_sorts() {
            for sort in [first.after(at(7), "Key", later), first] {
                let query = KeyQuery {
                    filter: filter.clone(),
                    sort,
                    limit: 100,
                };
                let index = match query.sort {
                    Sort::CreatedAt { .. } => "api_keys_live_by_account",
                    Sort::Name { .. } => "api_keys_live_by_name",
                };
                let is_narrow = query.looks_at().is_some();
                for plan in postgres.explain_keys(&query).await {
                    // What is looked for by a whole prefix may be found by that.
                    let by_prefix = plan.contains("ix_api_keys_key_prefix");
                    assert!(by_prefix || plan.contains(index), "{query:?}: {plan}");
                    assert!(!plan.contains("Seq Scan"), "{query:?}: {plan}");
                    // Of the so many that are looked at, few that pass may as well be sorted.
                    let is_sorted = is_narrow || by_prefix || !plan.contains("Sort");
                    assert!(is_sorted, "{query:?}: {plan}");
                }
            }
        }
    }
    // Where a page goes on is where the index is entered, also where a span of time would do.
    let mut spanned = KeyFilter::of(account(1).id);
    spanned.created = Period {
        since: Some(at(1)),
        until: Some(at(9_000_000)),
    };
    for first in key_sorts() {
        let Sort::CreatedAt { direction, .. } = first else {
            continue;
        };
        let query = KeyQuery {
            filter: spanned.clone(),
            sort: first.after(at(7), "Key", later),
            limit: 100,
        };
        let [horizon, page] = postgres.explain_keys(&query).await;
        let (enters, is_passed) = match direction {
            Direction::Ascending => ("ROW(created_at, id) > ROW(", "(created_at >= "),
            Direction::Descending => ("ROW(created_at, id) < ROW(", "(created_at < "),
        };
        for plan in [horizon, page] {
            assert!(plan.contains(enters) && !plan.contains(is_passed), "{plan}");
        }
    }
    let other = database
        .client()
        .await
        .query_one("SELECT id::text FROM accounts WHERE slug = 'other-7'", &[])
        .await
        .unwrap();
    let other: Uuid = other.get::<_, String>(0).parse().unwrap();
    let small = KeyQuery {
        filter: KeyFilter::of(leadr_auth_domain::AccountId::new(other)),
        sort: Sort::NEWEST_FIRST,
        limit: 100,
    };
    for plan in postgres.explain_keys(&small).await {
        // A hundred rows may as well be fetched and sorted, but never found by reading the table.
        assert!(!plan.contains("Seq Scan"), "{plan}");
    }

    let plan = postgres.explain_find("ldr_a77").await;
    assert!(
        plan.contains("Index Scan using ix_api_keys_key_prefix"),
        "{plan}"
    );
    assert!(!plan.contains("Seq Scan on api_keys"), "{plan}");

    let plan = postgres.explain_get(later).await;
    assert!(plan.contains("Index Scan using api_keys_pkey"), "{plan}");
    assert!(!plan.contains("Sort"), "{plan}");

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

/// A trail of an hour, in which an account has half of the entries, and two hundred have the other half.
async fn long_trail() -> TestDatabase {
    let database = TestDatabase::create().await;
    let client = database.client().await;
    client
        .batch_execute(&format!(
            "INSERT INTO audit_entries (chain, seq, at, action, actor, actor_key_id, actor_account_id, key_id, previous, hash)
             SELECT chain, row_number() OVER (PARTITION BY chain ORDER BY n), '{}'::timestamptz + n * interval '36 ms',
                 CASE WHEN n % 3 = 0 THEN 'key.created' ELSE 'key.renamed' END, (ARRAY['key', 'key', 'tool', 'server'])[1 + n / 2 % 4],
                 CASE WHEN n / 2 % 4 < 2 THEN key END, CASE WHEN n / 2 % 4 < 2 THEN chain END, key,
                 repeat('0', 32)::bytea, repeat('0', 32)::bytea
             FROM (
                 SELECT n, CASE WHEN n % 2 = 0 THEN '{}' ELSE md5('chain ' || n % 200)::uuid END AS chain,
                     CASE WHEN n / 4 % 10 = 0 THEN '{}' ELSE md5('key ' || n % 5000)::uuid END AS key
                 FROM generate_series(1, 100000) n
             ) AS made;
             ANALYZE",
            at(0),
            account(1).id,
            KeyId::from_random_bytes([1; 16]),
        ))
        .await
        .unwrap();
    database
}

/// Looking for how far a page looks, and the page up to there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_a_long_trail_come_sorted_from_their_indexes() {
    let database = long_trail().await;
    let postgres = database.postgres();
    let of_one = Some(ChainId::Account(account(1).id));
    for (chain, scan, after) in [
        (
            of_one,
            "Scan Backward using audit_entries_pkey",
            "(seq < '30000'",
        ),
        (
            None,
            "Scan using audit_entries_by_time",
            "(ROW(at, chain, seq) < ROW(",
        ),
    ] {
        for list in audit_lists(chain) {
            for plan in postgres.explain_audit(&list).await {
                assert!(plan.contains(scan), "{list:?}\n{plan}");
                assert!(!plan.contains("Sort"), "{list:?}\n{plan}");
                // Where a page goes on is where the index is entered, and not what is then passed over.
                let range = plan.lines().find(|line| line.contains("Index Cond"));
                let goes_on = range.is_some_and(|range| range.contains(after));
                assert_eq!(goes_on, list.after.is_some(), "{list:?}\n{plan}");
            }
        }
    }
}
