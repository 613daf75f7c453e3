//! Rows with instants that only PostgreSQL has, which another program has put there.

use leadr_auth_domain::{ApiKey, Timestamp, Verdict, decide};
use leadr_auth_ports::{
    ImportMode, KeyFilter, Rows,
    contract::fixtures::{account, all_noted, at, entry, key, noted},
};

use crate::fresh;

/// What is stored, and the timestamp that is nearest to it.
const INSTANTS: [(&str, Timestamp); 4] = [
    ("infinity", Timestamp::MAX),
    ("-infinity", Timestamp::MIN),
    ("294276-12-31 23:59:59.999999Z", Timestamp::MAX),
    ("4714-11-24 00:00:00Z BC", Timestamp::MIN),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instant_outside_of_all_years_is_read_as_the_nearest_one() {
    let (database, stores) = fresh().await;
    let (owner, client) = (account(1), database.client().await);
    let (foreign, ours) = (key(1, &owner), key(2, &owner));
    stores.accounts.create(&owner, &entry()).await.unwrap();
    for key in [&foreign, &ours] {
        stores.keys.create(key, &entry()).await.unwrap();
    }
    for (written, nearest) in INSTANTS {
        let rows = format!(
            "UPDATE accounts SET created_at = '{written}', updated_at = '{written}';
             UPDATE api_keys SET created_at = '{written}', updated_at = '{written}', last_used_at = '{written}'
             WHERE key_prefix = '{}'",
            foreign.key_prefix
        );
        client.batch_execute(&rows).await.unwrap();
        let listed = stores.accounts.list().await.unwrap();
        assert_eq!(
            (listed[0].created_at, listed[0].updated_at),
            (nearest, nearest),
            "{written}"
        );
        let listed = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        assert_eq!(listed.len(), 2, "{written}");
        let read = listed.iter().find(|key| key.id == foreign.id).unwrap();
        assert_eq!(
            (read.created_at, read.updated_at, read.last_used_at),
            (nearest, nearest, Some(nearest)),
            "{written}"
        );
        let found = stores.lookup.find(&foreign.key_prefix).await.unwrap();
        assert_eq!(decide(&found.unwrap(), at(9)), Verdict::Valid, "{written}");
        // It can be changed as any other.
        let mut change = |mut key: ApiKey| {
            key.updated_at = at(9);
            Ok(noted(key))
        };
        let changed = stores.keys.update(foreign.id, &mut change).await.unwrap();
        assert_eq!(changed.updated_at, at(9), "{written}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_expires_at_no_infinity_and_is_long_over_at_the_other() {
    let (database, stores) = fresh().await;
    let (owner, client) = (account(1), database.client().await);
    let foreign = key(1, &owner);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    stores.keys.create(&foreign, &entry()).await.unwrap();
    for (written, nearest) in INSTANTS {
        client
            .batch_execute(&format!("UPDATE api_keys SET expires_at = '{written}'"))
            .await
            .unwrap();
        let found = stores.lookup.find(&foreign.key_prefix).await.unwrap();
        let found = found.unwrap();
        let expires_at = (written != "infinity").then_some(nearest);
        let verdict = if nearest == Timestamp::MIN {
            Verdict::Expired
        } else {
            Verdict::Valid
        };
        assert_eq!(found.key.expires_at, expires_at, "{written}");
        assert_eq!(decide(&found, at(9)), verdict, "{written}");
        let last = decide(&found, Timestamp::MAX);
        assert_eq!(last == Verdict::Valid, expires_at.is_none(), "{written}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_at_infinity_is_deleted() {
    let (database, stores) = fresh().await;
    let (owner, client) = (account(1), database.client().await);
    let keys = [key(1, &owner), key(2, &owner)];
    stores.accounts.create(&owner, &entry()).await.unwrap();
    stores
        .transfer
        .import_keys(&all_noted(&keys), ImportMode::Commit)
        .await
        .unwrap();
    let [foreign, _] = &keys;
    for (written, nearest) in INSTANTS {
        let row = format!(
            "UPDATE api_keys SET deleted_at = '{written}' WHERE key_prefix = '{}';
             UPDATE accounts SET deleted_at = NULL",
            foreign.key_prefix
        );
        client.batch_execute(&row).await.unwrap();
        let found = stores.lookup.find(&foreign.key_prefix).await.unwrap();
        assert_eq!(
            decide(&found.unwrap(), at(9)),
            Verdict::Deleted,
            "{written}"
        );
        let listed = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        assert_eq!(listed.len(), 1, "{written}");
        let read = stores.keys.get(foreign.id, Rows::WithDeleted).await;
        assert_eq!(
            read.unwrap().unwrap().deleted_at,
            Some(nearest),
            "{written}"
        );

        client
            .batch_execute(&format!("UPDATE accounts SET deleted_at = '{written}'"))
            .await
            .unwrap();
        assert!(
            stores.accounts.list().await.unwrap().is_empty(),
            "{written}"
        );
        let found = stores.lookup.find(&keys[1].key_prefix).await.unwrap();
        assert_eq!(
            decide(&found.unwrap(), at(9)),
            Verdict::AccountDeleted,
            "{written}"
        );
    }
}

/// Nobody starts, and `nodes` and `peppers` show nothing, where these cannot be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_and_nodes_of_no_year_can_be_read() {
    let (database, stores) = fresh().await;
    let client = database.client().await;
    for (written, nearest) in INSTANTS {
        let rows = format!(
            "INSERT INTO peppers (id, check_value, dropped_at) VALUES ('old', '', '{written}')
             ON CONFLICT (id) DO UPDATE SET dropped_at = excluded.dropped_at;
             DELETE FROM server_nodes;
             INSERT INTO server_nodes (id, name, version, tick, started_at, seen_at, patience)
             VALUES (gen_random_uuid(), 'theirs', '1', 1, '{written}', '{written}', 1)"
        );
        client.batch_execute(&rows).await.unwrap();
        let secrets = stores.secrets.registered().await.unwrap();
        assert_eq!(secrets[0].dropped_at, Some(nearest), "{written}");
        let nodes = stores.feed.nodes().await.unwrap().readable;
        assert_eq!(
            (nodes[0].started_at, nodes[0].seen_at),
            (nearest, nearest),
            "{written}"
        );
    }
}
