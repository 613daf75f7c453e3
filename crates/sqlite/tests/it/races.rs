//! Who writes when somebody else does: other tasks, and others who have opened the file, as other processes do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use diesel::connection::SimpleConnection as _;
use leadr_auth_domain::{AccountName, ApiKeyStatus, KeyName};
use leadr_auth_ports::{
    CreateKeyError, KeyFilter, KeyUse, Rows, StoreError,
    contract::fixtures::{account, at, entry, key, noted},
};
use leadr_auth_sqlite::{IfMissing, Sqlite};

use crate::support::{Scratch, opened_twice};

/// Between the read and the write somebody else changes the key: the change is made again, of the key as it is then, and
/// neither is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_key_starts_over_where_somebody_was_quicker() {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    stores.keys.create(&key(1, &owner), &entry()).await.unwrap();
    let others = [
        "UPDATE api_keys SET status = 'revoked'",
        "UPDATE api_keys SET name = 'Theirs'",
        "UPDATE api_keys SET updated_at = updated_at + 1",
        "UPDATE api_keys SET deleted_at = 1",
        "UPDATE api_keys SET deleted_at = NULL",
        "UPDATE api_keys SET scopes = ''",
        // As nobody here spells it: it has to be found again all the same.
        "UPDATE api_keys SET scopes = 'docs:write  docs:read docs:write'",
        "UPDATE api_keys SET scopes = NULL",
    ];
    for other in others {
        let mut seen = Vec::new();
        let changed = stores
            .keys
            .update(key(1, &owner).id, &mut |mut key| {
                if seen.is_empty() {
                    scratch.raw().batch_execute(other).unwrap();
                }
                seen.push((
                    key.status,
                    key.name.clone(),
                    key.scopes.clone(),
                    key.updated_at,
                    key.deleted_at,
                ));
                key.last_used_at = None;
                Ok(noted(key))
            })
            .await
            .unwrap();
        assert_eq!(seen.len(), 2, "{other}");
        assert_ne!(seen[0], seen[1], "{other}");
        let now = (
            changed.status,
            changed.name.clone(),
            changed.scopes.clone(),
            changed.updated_at,
            changed.deleted_at,
        );
        assert_eq!(seen[1], now, "{other}");
    }
    // A use is no change.
    let mut runs = 0;
    stores
        .keys
        .update(key(1, &owner).id, &mut |mut key| {
            runs += 1;
            scratch
                .raw()
                .batch_execute("UPDATE api_keys SET last_used_at = 7")
                .unwrap();
            key.rename(KeyName::parse("Ours").unwrap(), at(900));
            Ok(noted(key))
        })
        .await
        .unwrap();
    assert_eq!(runs, 1);
    let read = stores
        .keys
        .get(key(1, &owner).id, Rows::Live)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(read.status, ApiKeyStatus::Revoked);
    assert!(read.last_used_at.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_an_account_starts_over_where_somebody_was_quicker() {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let others = [
        "UPDATE accounts SET status = 'suspended'",
        "UPDATE accounts SET name = 'Theirs'",
        "UPDATE accounts SET slug = 'theirs'",
        "UPDATE accounts SET is_operator = 1",
        "UPDATE accounts SET updated_at = updated_at + 1",
        "UPDATE accounts SET deleted_at = 1",
        "UPDATE accounts SET deleted_at = NULL",
    ];
    for other in others {
        let mut seen = Vec::new();
        let changed = stores
            .accounts
            .update(owner.id, &mut |account| {
                if seen.is_empty() {
                    scratch.raw().batch_execute(other).unwrap();
                }
                seen.push(account.clone());
                Ok(noted(account))
            })
            .await
            .unwrap();
        assert_eq!(seen.len(), 2, "{other}");
        assert_ne!(seen[0], seen[1], "{other}");
        assert_eq!(seen[1], changed, "{other}");
    }
    let gone = stores
        .accounts
        .update(owner.id, &mut |account| {
            scratch.raw().batch_execute("DELETE FROM accounts").unwrap();
            Ok(noted(account))
        })
        .await;
    assert!(gone.is_err(), "{gone:?}");
}

/// As a server and a command line on one file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_write_at_once_lose_nothing() {
    let (_scratch, one, two) = opened_twice().await;
    let owner = account(1);
    one.accounts.create(&owner, &entry()).await.unwrap();
    let shared = key(0, &owner);
    one.keys.create(&shared, &entry()).await.unwrap();
    let mut race = Vec::new();
    for n in 1..=100_u8 {
        let stores = if n % 2 == 0 { one.clone() } else { two.clone() };
        let (owner, id) = (owner.clone(), shared.id);
        race.push(tokio::spawn(async move {
            stores.keys.create(&key(n, &owner), &entry()).await.unwrap();
            let used_at = at(u32::from(n));
            stores
                .usage
                .record(&[KeyUse {
                    key_id: id,
                    used_at,
                }])
                .await
                .unwrap();
            if n <= 20 {
                let longer = &mut |mut key: leadr_auth_domain::ApiKey| {
                    let name = format!("{}+", key.name);
                    key.rename(KeyName::parse(&name).unwrap(), at(500));
                    Ok(noted(key))
                };
                stores.keys.update(id, longer).await.unwrap();
            }
        }));
    }
    for racer in race {
        racer.await.unwrap();
    }
    let keys = two.keys.list(KeyFilter::of(owner.id)).await.unwrap();
    assert_eq!(keys.len(), 101);
    let read = one.keys.get(shared.id, Rows::Live).await.unwrap().unwrap();
    assert_eq!(read.last_used_at, Some(at(100)));
    assert_eq!(read.name.as_str().len(), shared.name.as_str().len() + 20);
}

/// Somebody else has the write lock and keeps it: reads go on, writes give up in time and can be repeated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_does_not_end_is_unavailable_and_reads_go_on() {
    let scratch = Scratch::new();
    drop(scratch.open().await);
    let mut config = scratch.config();
    config.busy_timeout = Duration::from_millis(200);
    config.statement_timeout = Duration::from_secs(2);
    let stores = Sqlite::open(config, IfMissing::Fail).unwrap().stores();
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    let mut holder = scratch.raw();
    holder.batch_execute("BEGIN IMMEDIATE").unwrap();
    let start = Instant::now();
    let refused = stores.keys.create(&key(1, &owner), &entry()).await;
    assert!(
        matches!(
            refused,
            Err(CreateKeyError::Store(StoreError::Unavailable(_)))
        ),
        "{refused:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(
        stores
            .accounts
            .get(owner.id, Rows::Live)
            .await
            .unwrap()
            .is_some()
    );
    stores.health.ping().await.unwrap();
    holder.batch_execute("ROLLBACK").unwrap();
    stores.keys.create(&key(1, &owner), &entry()).await.unwrap();
}

/// A snapshot is of when it was asked for, not of when it was first read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_at_once() {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    let mut snapshot = stores.transfer.snapshot().await.unwrap();
    stores.accounts.create(&account(1), &entry()).await.unwrap();
    assert!(snapshot.accounts(None, 10).await.unwrap().is_empty());
    let mut later = stores.transfer.snapshot().await.unwrap();
    assert_eq!(later.accounts(None, 10).await.unwrap(), [account(1)]);
}

/// Names the name, whichever index SQLite looks at first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_name_is_named_first_whatever_the_order_of_the_indexes() {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    let (one, two) = (account(1), account(2));
    stores.accounts.create(&one, &entry()).await.unwrap();
    stores.accounts.create(&two, &entry()).await.unwrap();
    for (name, column) in [("name", "name"), ("slug", "slug")] {
        scratch
            .raw()
            .batch_execute(&format!(
                "DROP INDEX accounts_live_{name}_key;
                 CREATE UNIQUE INDEX accounts_live_{name}_key ON accounts ({column}) WHERE deleted_at IS NULL"
            ))
            .unwrap();
        let mut both = account(3);
        both.name = one.name.clone();
        both.slug = one.slug.clone();
        let created = stores.accounts.create(&both, &entry()).await;
        assert!(
            matches!(
                created,
                Err(leadr_auth_ports::CreateAccountError::NameTaken)
            ),
            "{created:?}"
        );
        let updated = stores
            .accounts
            .update(two.id, &mut |mut account| {
                account.name = one.name.clone();
                account.slug = one.slug.clone();
                Ok(noted(account))
            })
            .await;
        assert!(
            matches!(
                updated,
                Err(leadr_auth_ports::UpdateAccountError::NameTaken)
            ),
            "{updated:?}"
        );
    }
}

/// Taking the last handle away closes every connection, and what is in the log ahead is in the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_handle_leaves_one_file() {
    let scratch = Scratch::new();
    let stores = scratch.open().await.stores();
    let accounts = Arc::clone(&stores.accounts);
    let mut named = account(1);
    named.name = AccountName::parse("Kept").unwrap();
    accounts.create(&named, &entry()).await.unwrap();
    drop(stores);
    assert_eq!(
        scratch.names().len(),
        3,
        "the file, its log, and the log's index"
    );
    drop(accounts);
    assert_eq!(scratch.names(), ["keys.db"]);
}
