//! The audit trail against somebody who can write to the tables, against other nodes, and against failures.

use std::{net::Ipv6Addr, time::Duration};

use leadr_auth_domain::{
    AccountRole, AuditDraft, AuditFault, ChainCheck, ChainId, HashedKey, KeyHash, PepperCheck,
    PepperId, SealedAuditKey,
};
use leadr_auth_ports::{
    AuditQuery, Audited, ImportMode, ImportOutcome, Rehash, StoredPepper, Stores,
    contract::fixtures::{account, account_of, at, audit_key, entry, entry_in, key, noted, upto},
};
use leadr_auth_postgres::testing::TestDatabase;

use crate::{
    locks::{hold, somebody_waits},
    transfer::everything,
};

/// The chain of the `n`th account.
fn chain(n: u8) -> ChainId {
    ChainId::Account(account(n).id)
}

/// What is wrong with a chain.
pub(crate) async fn faults(stores: &Stores, chain: ChainId) -> Vec<AuditFault> {
    let mut snapshot = stores.transfer.snapshot().await.unwrap();
    let heads = snapshot.audit_heads(None, 1000).await.unwrap();
    let checkpoints = snapshot.audit_checkpoints(None, 1000).await.unwrap();
    let audit_key = audit_key();
    let checkpoint = checkpoints.iter().find(|point| point.chain == chain);
    let mut check = ChainCheck::new(&audit_key, checkpoint);
    for entry in snapshot.audit_entries(None, 10_000).await.unwrap() {
        if entry.chain == chain {
            check.entry(&entry);
        }
    }
    check.end(heads.iter().find(|head| head.chain == chain))
}

/// Issues the `n`th key of the first account.
async fn issue(stores: &Stores, n: u8) {
    let owner = account(1);
    let mut said = entry_in(chain(1));
    said.origin.client = Some(Ipv6Addr::LOCALHOST.into());
    stores.keys.create(&key(n, &owner), &said).await.unwrap();
}

/// A database in which the first account's chain has five entries, and the adapter that wrote them.
async fn with_trail() -> (TestDatabase, Stores) {
    let database = TestDatabase::create().await;
    let stores = database.stores();
    stores
        .accounts
        .create(&account(1), &entry_in(chain(1)))
        .await
        .unwrap();
    for n in 1..=4 {
        issue(&stores, n).await;
    }
    assert_eq!(faults(&stores, chain(1)).await, []);
    (database, stores)
}

/// What is done to the rows shows, and keeps nobody from changing anything: neither the process that knows how the chain
/// ended, nor another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_to_entries_shows_and_stops_nothing() {
    let altered = |seq| AuditFault::Altered { seq };
    let missing = |from, to| AuditFault::Missing { from, to };
    for (tampering, expected) in [
        ("UPDATE audit_entries SET action = 'key.eaten' WHERE seq = 3", vec![altered(3)]),
        ("UPDATE audit_entries SET after = '{}' WHERE seq = 1", vec![altered(1)]),
        ("UPDATE audit_entries SET at = 'infinity' WHERE seq = 3", vec![altered(3)]),
        ("UPDATE audit_entries SET actor = 'nobody' WHERE seq = 3", vec![altered(3)]),
        ("UPDATE audit_entries SET actor_key_id = chain WHERE seq = 3", vec![altered(3)]),
        ("UPDATE audit_entries SET client = 'somewhere' WHERE seq = 3", vec![altered(3)]),
        ("UPDATE audit_entries SET hash = '' WHERE seq = 5", vec![altered(5)]),
        ("UPDATE audit_entries SET previous = '' WHERE seq = 5", vec![altered(5)]),
        // Before the first there is none, which is written in one way only.
        ("UPDATE audit_entries SET previous = '' WHERE seq = 1", vec![altered(1)]),
        ("UPDATE audit_entries SET client = '0:0:0:0:0:0:0:1' WHERE seq = 3", vec![altered(3)]),
        ("UPDATE audit_entries SET seq = 9223372036854775807 WHERE seq = 5", vec![altered(i64::MAX.cast_unsigned())]),
        ("DELETE FROM audit_entries WHERE seq = 1", vec![missing(1, 1)]),
        ("DELETE FROM audit_entries WHERE seq = 3", vec![missing(3, 3)]),
        ("DELETE FROM audit_entries WHERE seq = 5", vec![missing(5, 5)]),
        ("DELETE FROM audit_entries", vec![missing(1, 5)]),
        (
            "UPDATE audit_entries SET seq = -seq WHERE seq IN (2, 3);
             UPDATE audit_entries SET seq = 5 + seq WHERE seq < 0",
            vec![altered(2), altered(3)],
        ),
        (
            "INSERT INTO audit_checkpoints SELECT chain, 3, hash, now(), hash FROM audit_entries WHERE seq = 3;
             DELETE FROM audit_entries WHERE seq <= 3",
            vec![AuditFault::CheckpointAltered, missing(1, 3)],
        ),
    ] {
        for knows in [true, false] {
            let (database, stores) = with_trail().await;
            database.client().await.batch_execute(tampering).await.unwrap();
            let found = faults(&stores, chain(1)).await;
            assert!(expected.iter().all(|fault| found.contains(fault)), "{tampering}: {found:?}");
            let stores = if knows { stores } else { database.stores() };
            for n in 5..=7 {
                issue(&stores, n).await;
            }
            let found = faults(&stores, chain(1)).await;
            assert!(expected.iter().all(|fault| found.contains(fault)), "{tampering}, later: {found:?}");
        }
    }
}

/// Nor does what is done to the record of the chain's end; and what follows leaves a number out for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_to_a_head_shows_and_stops_nothing() {
    for (tampering, expected) in [
        ("DELETE FROM audit_heads", AuditFault::HeadMissing),
        ("UPDATE audit_heads SET code = ''", AuditFault::HeadAltered),
        ("UPDATE audit_heads SET seq = 4", AuditFault::HeadAltered),
        (
            "UPDATE audit_heads SET seq = 0, code = ''",
            AuditFault::HeadAltered,
        ),
        ("UPDATE audit_heads SET seq = -1", AuditFault::HeadAltered),
        (
            "UPDATE audit_heads SET seq = 9223372036854775807",
            AuditFault::HeadAltered,
        ),
        // The genuine one of an earlier time.
        (
            "UPDATE audit_heads SET seq = kept.seq, hash = kept.hash, code = kept.code FROM kept",
            AuditFault::HeadAltered,
        ),
    ] {
        for knows in [true, false] {
            let database = TestDatabase::create().await;
            let stores = database.stores();
            let client = database.client().await;
            stores
                .accounts
                .create(&account(1), &entry_in(chain(1)))
                .await
                .unwrap();
            issue(&stores, 1).await;
            client
                .batch_execute("CREATE TABLE kept AS SELECT * FROM audit_heads")
                .await
                .unwrap();
            for n in 2..=4 {
                issue(&stores, n).await;
            }
            assert_eq!(faults(&stores, chain(1)).await, []);
            client.batch_execute(tampering).await.unwrap();
            assert_eq!(faults(&stores, chain(1)).await, [expected], "{tampering}");
            let stores = if knows { stores } else { database.stores() };
            for n in 5..=7 {
                issue(&stores, n).await;
            }
            assert_eq!(
                faults(&stores, chain(1)).await,
                [AuditFault::Missing { from: 6, to: 6 }],
                "{tampering}, {knows}"
            );
        }
    }
}

/// A change of which nothing can be written down is not made, whichever it is.
#[expect(clippy::too_many_lines, reason = "a list of all that can be done")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_down_is_not_done() {
    let (database, stores) = with_trail().await;
    let pepper = |id: &str| {
        StoredPepper::new(
            PepperId::parse(id).unwrap(),
            PepperCheck::from_store("a check value".to_owned()),
            SealedAuditKey::from_store("a sealed key".to_owned()),
        )
    };
    for (id, founding) in [("old", true), ("kept", false)] {
        stores
            .secrets
            .register(&pepper(id), founding, &entry())
            .await
            .unwrap();
    }
    let client = database.client().await;
    let owner = account(1);
    let operator = account_of(7, AccountRole::Operator);
    let held = key(1, &owner);
    let rehash = Rehash {
        key_id: held.id,
        was: held.key_hash.clone(),
        becomes: HashedKey {
            pepper_id: PepperId::default(),
            hash: KeyHash::from_store("1".repeat(64)),
        },
    };
    let mine = || entry_in(chain(1));
    let all = async |stores: &Stores| {
        let mut done = Vec::new();
        done.push((
            "create",
            stores.keys.create(&key(20, &owner), &mine()).await.is_ok(),
        ));
        done.push((
            "update",
            stores
                .keys
                .update(held.id, &mut |mut key| {
                    key.revoke(at(50));
                    Ok(Audited::new(key, mine()))
                })
                .await
                .is_ok(),
        ));
        done.push((
            "account",
            stores
                .accounts
                .create(&account(2), &entry_in(chain(2)))
                .await
                .is_ok(),
        ));
        done.push((
            "account update",
            stores
                .accounts
                .update(owner.id, &mut |mut account| {
                    account.suspend(at(50));
                    Ok(Audited::new(account, mine()))
                })
                .await
                .is_ok(),
        ));
        let first = key(21, &operator);
        let with_key = stores
            .accounts
            .create_with_key(&operator, &first, &entry_in(chain(7)))
            .await;
        done.push(("create with key", with_key.is_ok()));
        let accounts = [noted(account(3))];
        let imported = stores
            .transfer
            .import_accounts(&accounts, ImportMode::Commit)
            .await;
        done.push(("import accounts", imported.is_ok()));
        let keys = [Audited::new(key(22, &owner), mine())];
        let imported = stores.transfer.import_keys(&keys, ImportMode::Commit).await;
        done.push(("import keys", imported.is_ok()));
        let dropped = stores
            .secrets
            .drop_pepper(&pepper("old").id, at(9), &entry())
            .await;
        done.push(("drop", dropped.is_ok()));
        let rehashed = stores
            .secrets
            .rehash(std::slice::from_ref(&rehash), &entry())
            .await;
        done.push(("rehash", rehashed.is_ok()));
        let registered = stores
            .secrets
            .register(&pepper("new"), false, &entry())
            .await;
        done.push(("register", registered.is_ok()));
        done.push(("append", stores.audit.append(&mine()).await.is_ok()));
        let query = AuditQuery::of(Some(chain(1)), 1);
        let last = &stores.audit.page(&query).await.unwrap().rows[0];
        let pruned = stores.audit.prune(&[upto(last, at(9))], &entry()).await;
        done.push(("prune", pruned.is_ok()));
        done
    };
    client
        .batch_execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON audit_entries FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    let before = everything(&client).await;
    // A process that knows how the chains end does it otherwise than one that does not.
    for stores in [stores.clone(), database.stores()] {
        for (what, done) in all(&stores).await {
            assert!(!done, "{what} was done");
        }
        assert_eq!(everything(&client).await, before);
    }
    client
        .batch_execute("DROP TRIGGER refuse ON audit_entries")
        .await
        .unwrap();
    // Nothing else was in the way, and nothing of what was undone is remembered.
    for (what, done) in all(&stores).await {
        assert!(done, "{what} was not done");
    }
    for chain in [chain(1), chain(2), chain(7), ChainId::System] {
        assert_eq!(faults(&stores, chain).await, [], "{chain}");
    }
}

/// Nodes that write to the same chains, each of which knows only how they ended when it wrote last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_nodes_keep_a_chain_whole() {
    let (database, _) = with_trail().await;
    // First in turns, so that what each knows is old with certainty.
    let nodes = [database.stores(), database.stores(), database.stores()];
    for n in 10..40 {
        issue(&nodes[usize::from(n) % 3], n).await;
    }
    assert_eq!(faults(&nodes[0], chain(1)).await, []);
    let writers: Vec<_> = nodes
        .iter()
        .cloned()
        .zip([50, 100, 150])
        .map(|(stores, first)| {
            tokio::spawn(async move {
                for n in first..first + 40 {
                    issue(&stores, n).await;
                    stores.audit.append(&entry()).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for chain in [chain(1), ChainId::System] {
        assert_eq!(faults(&nodes[0], chain).await, []);
    }
    let count = "SELECT max(seq) FROM audit_entries GROUP BY chain ORDER BY 1";
    let counts = database.client().await.query(count, &[]).await.unwrap();
    let counts: Vec<i64> = counts.iter().map(|row| row.get(0)).collect();
    assert_eq!(counts, [120, 155]);
}

/// The accounts of before there was a trail have no heads. Who changes them at once makes one each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_to_begin_a_chain_has_one_winner() {
    let database = TestDatabase::create().await;
    let nodes = [database.stores(), database.stores()];
    for round in 0..10 {
        let owner = account(100 + round);
        let chain = ChainId::Account(owner.id);
        nodes[0].accounts.create(&owner, &entry()).await.unwrap();
        let writers: Vec<_> = (0..4)
            .map(|n| {
                let (stores, owner) = (nodes[usize::from(n) % 2].clone(), owner.clone());
                tokio::spawn(async move {
                    let key = key(round * 4 + n, &owner);
                    if n < 2 {
                        stores.keys.create(&key, &entry_in(chain)).await.unwrap();
                    } else {
                        let keys = [Audited::new(key.clone(), entry_in(chain)), {
                            let mut other = key.clone();
                            other.id = leadr_auth_domain::KeyId::from_random_bytes([200 + n; 16]);
                            noted(other)
                        }];
                        let done = stores.transfer.import_keys(&keys, ImportMode::Commit);
                        assert_eq!(done.await.unwrap()[0], ImportOutcome::Stored);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(faults(&nodes[0], chain).await, []);
    }
}

/// What locks the head of a chain.
fn head_of(chain: ChainId) -> String {
    format!("SELECT FROM audit_heads WHERE chain = '{chain}' FOR UPDATE")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_wait_for_those_of_their_own_chain_only() {
    let (database, stores) = with_trail().await;
    stores
        .accounts
        .create(&account(2), &entry_in(chain(2)))
        .await
        .unwrap();
    let (holder, watcher) = hold(&database, &head_of(chain(1))).await;
    let other = key(30, &account(2));
    let entry = entry_in(chain(2));
    let created = tokio::time::timeout(Duration::from_secs(5), stores.keys.create(&other, &entry));
    created.await.unwrap().unwrap();
    let waiting = tokio::spawn(async move { issue(&stores, 31).await });
    somebody_waits(&watcher).await;
    holder.batch_execute("COMMIT").await.unwrap();
    waiting.await.unwrap();
    assert_eq!(faults(&database.stores(), chain(1)).await, []);
}

/// Imports a key into each of nine accounts while somebody else holds the lowest of their chains by the statement `held`,
/// and sees that the statement `take` can take all others meanwhile.
///
/// The accounts are made, and the keys named, from the highest downwards, so that nothing is upwards that was not put in
/// order.
async fn import_while_the_lowest_is_held(database: &TestDatabase, held: &str, take: &str) {
    let stores = database.stores();
    let (holder, watcher) = hold(database, held).await;
    let keys = (1..=9)
        .rev()
        .map(|n| Audited::new(key(n, &account(n)), entry_in(chain(n))));
    let keys: Vec<_> = keys.collect();
    let transfer = stores.transfer.clone();
    let imported =
        tokio::spawn(async move { transfer.import_keys(&keys, ImportMode::Commit).await });
    somebody_waits(&watcher).await;
    watcher
        .batch_execute("BEGIN; SET LOCAL lock_timeout = '1s'")
        .await
        .unwrap();
    assert_eq!(watcher.query(take, &[]).await.unwrap().len(), 8);
    watcher.batch_execute("ROLLBACK").await.unwrap();
    holder.batch_execute("ROLLBACK").await.unwrap();
    let imported = imported.await.unwrap().unwrap();
    assert_eq!(imported, [ImportOutcome::Stored; 9]);
    for n in 1..=9 {
        assert_eq!(faults(&stores, chain(n)).await, []);
    }
}

/// Nine accounts, made from the one of the highest chain downwards, each with an entry in a chain.
async fn nine_accounts(entry: fn(u8) -> AuditDraft) -> TestDatabase {
    let database = TestDatabase::create().await;
    let accounts = database.stores().accounts;
    assert!((1..9).all(|n| chain(n).as_uuid() < chain(n + 1).as_uuid()));
    for n in (1..=9).rev() {
        accounts.create(&account(n), &entry(n)).await.unwrap();
    }
    database
}

/// While the lowest is held by somebody else, none of the others is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_locked_from_the_lowest_chain_upwards() {
    let database = nine_accounts(|n| entry_in(chain(n))).await;
    let take = "SELECT FROM audit_heads FOR UPDATE SKIP LOCKED";
    import_while_the_lowest_is_held(&database, &head_of(chain(1)), take).await;
}

/// So it is with those that are not there yet: while somebody else makes the lowest, none of the others is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_are_made_from_the_lowest_chain_upwards() {
    let database = nine_accounts(|_| entry()).await;
    let held = format!("INSERT INTO audit_heads VALUES ('{}', 0, '', '')", chain(1));
    let take = "INSERT INTO audit_heads SELECT id, 0, '', '' FROM accounts ORDER BY id OFFSET 1 RETURNING chain";
    import_while_the_lowest_is_held(&database, &held, take).await;
}
