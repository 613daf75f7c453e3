//! The audit trail in a file: what somebody who can write to the file does to it, and what fails with it.

use std::net::Ipv6Addr;

use diesel::{SqliteConnection, connection::SimpleConnection as _, prelude::*};
use leadr_auth_domain::{
    AccountRole, ApiKey, AuditAction, AuditDraft, AuditEntry, AuditFault, ChainCheck, ChainHead,
    ChainId, Checkpoint, HashedKey, KeyHash, KeyName, Origin, Pepper, PepperId,
};
use leadr_auth_ports::{
    AuditQuery, Audited, ImportMode, Pruned, Rehash, Rows, StoreError, StoredPepper, Stores,
    contract::fixtures::{
        SECRET, account, account_of, at, audit_key, entry, entry_in, key, noted, upto,
    },
};

use crate::support::{Scratch, fresh, opened_twice, sealed};

/// The chain of the account that the tests below write of.
fn chain() -> ChainId {
    ChainId::Account(account(1).id)
}

/// A file with a chain of five entries, and one of one.
async fn written() -> (Scratch, Stores) {
    let (scratch, stores) = fresh().await;
    let owner = account(1);
    let made = entry_in(chain());
    stores.accounts.create(&owner, &made).await.unwrap();
    for n in 1..=4 {
        let mut said = entry_in(chain()).about(key(n, &owner).id);
        said.origin.request_id = Some(format!("request-{n}").into());
        said.origin.client = Some(Ipv6Addr::LOCALHOST.into());
        said.at = at(u32::from(n));
        stores.keys.create(&key(n, &owner), &said).await.unwrap();
    }
    stores.audit.append(&entry()).await.unwrap();
    (scratch, stores)
}

/// All that is in the trail, page by page.
async fn everything(stores: &Stores) -> (Vec<AuditEntry>, Vec<ChainHead>, Vec<Checkpoint>) {
    let mut snapshot = stores.transfer.snapshot().await.unwrap();
    let mut entries: Vec<AuditEntry> = Vec::new();
    loop {
        let last = entries.last().map(|last| (last.chain, last.seq));
        let page = snapshot.audit_entries(last, 3).await.unwrap();
        if page.is_empty() {
            let heads = snapshot.audit_heads(None, 100).await.unwrap();
            let checkpoints = snapshot.audit_checkpoints(None, 100).await.unwrap();
            return (entries, heads, checkpoints);
        }
        entries.extend(page);
        assert!(entries.len() < 1000, "the pages do not end");
    }
}

/// What is wrong with a chain.
async fn faults_of(stores: &Stores, chain: ChainId) -> Vec<AuditFault> {
    let (entries, heads, checkpoints) = everything(stores).await;
    let key = audit_key();
    let checkpoint = checkpoints.iter().find(|one| one.chain == chain);
    let mut check = ChainCheck::new(&key, checkpoint);
    for entry in entries.iter().filter(|entry| entry.chain == chain) {
        check.entry(entry);
    }
    check.end(heads.iter().find(|head| head.chain == chain))
}

/// Writes one more entry, with a change.
async fn go_on(stores: &Stores) {
    let owner = account(1);
    let revoke = &mut |mut key: ApiKey| {
        key.revoke(at(90));
        Ok(Audited::new(key, entry_in(chain())))
    };
    let changed = stores.keys.update(key(1, &owner).id, revoke).await;
    changed.unwrap();
}

/// `x'…'` of the chain.
fn blob() -> String {
    format!("x'{}'", chain().as_uuid().simple())
}

/// Runs statements, with `CHAIN` for the chain's id.
fn tamper(raw: &mut SqliteConnection, statements: &str) {
    raw.batch_execute(&statements.replace("CHAIN", &blob()))
        .unwrap();
}

/// What may be done to the columns of an entry.
const ALTERING: [&str; 25] = [
    "at = at + 1",
    "at = 9223372036854775807",
    "at = -9223372036854775808",
    "action = 'key.deleted'",
    "action = CAST(x'ff' AS TEXT)",
    "actor = 'server'",
    "actor = 'nobody'",
    "actor = 'key'",
    "actor_key_id = x'00'",
    "actor_account_id = zeroblob(16)",
    "request_id = NULL",
    "request_id = CAST(x'ff' AS TEXT)",
    "client = '127.0.0.1'",
    "client = '0:0:0:0:0:0:0:1'",
    "client = 'nowhere'",
    "key_id = NULL",
    "key_id = zeroblob(16)",
    "key_id = x'00'",
    "before = '{}'",
    "after = '{}'",
    "after = CAST(x'ff' AS TEXT)",
    "previous = zeroblob(32)",
    "previous = x''",
    "hash = zeroblob(32)",
    "hash = x'0102'",
];

/// What may be done to a chain of five entries, and what there is to be found then.
fn doings() -> Vec<(&'static str, Vec<AuditFault>)> {
    use AuditFault::{Altered, HeadAltered, HeadMissing, Missing, OutOfOrder};
    let missing = |from, to| vec![Missing { from, to }];
    vec![
        ("DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 1", missing(1, 1)),
        ("DELETE FROM audit_entries WHERE chain = CHAIN AND seq IN (2, 3)", missing(2, 3)),
        ("DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 5", missing(5, 5)),
        ("DELETE FROM audit_entries WHERE chain = CHAIN", missing(1, 5)),
        // One that is of no chain any more is missing where it was.
        (
            "PRAGMA ignore_check_constraints = ON;
             UPDATE audit_entries SET chain = CAST(chain || x'00' AS BLOB) WHERE chain = CHAIN AND seq = 3",
            missing(3, 3),
        ),
        (
            "PRAGMA ignore_check_constraints = ON;
             UPDATE audit_entries SET chain = x'ff' WHERE chain = CHAIN AND seq = 3",
            missing(3, 3),
        ),
        // Swapped, numbers and all.
        (
            "UPDATE audit_entries SET seq = 100 WHERE chain = CHAIN AND seq = 2;
             UPDATE audit_entries SET seq = 2 WHERE chain = CHAIN AND seq = 3;
             UPDATE audit_entries SET seq = 3 WHERE chain = CHAIN AND seq = 100",
            vec![Altered { seq: 2 }, Altered { seq: 3 }],
        ),
        ("UPDATE audit_entries SET seq = -1 WHERE chain = CHAIN AND seq = 3",
            vec![Altered { seq: 0 }, OutOfOrder { seq: 0 }, Missing { from: 3, to: 3 }]),
        // An entry of another chain.
        (
            "UPDATE audit_entries SET chain = CHAIN, seq = 6 WHERE chain = zeroblob(16)",
            vec![Altered { seq: 6 }],
        ),
        ("DELETE FROM audit_heads WHERE chain = CHAIN", vec![HeadMissing]),
        ("UPDATE audit_heads SET seq = 4 WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET seq = -4 WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET seq = 9223372036854775807 WHERE chain = CHAIN", vec![HeadAltered]),
        // Close to where the numbers run out, and to where they are not believed any more.
        ("UPDATE audit_heads SET seq = 9223372036854775805 WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET seq = 9223372036854775804 WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET seq = 4611686018427387905 WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET seq = 4611686018427387904 WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET hash = x'00' WHERE chain = CHAIN", vec![HeadAltered]),
        ("UPDATE audit_heads SET code = x'00' WHERE chain = CHAIN", vec![HeadAltered]),
        // The head of another chain.
        (
            "UPDATE audit_heads SET (seq, hash, code) = (SELECT seq, hash, code FROM audit_heads WHERE chain = zeroblob(16))
             WHERE chain = CHAIN",
            vec![HeadAltered],
        ),
        // The last entry, and that there was one.
        (
            "DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 5;
             UPDATE audit_heads SET seq = 4, hash = (SELECT hash FROM audit_entries WHERE chain = CHAIN AND seq = 4)
             WHERE chain = CHAIN",
            vec![HeadAltered],
        ),
        (
            "DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 5;
             DELETE FROM audit_heads WHERE chain = CHAIN",
            vec![HeadMissing],
        ),
        // One where the next one belongs; with no end known, and where there is none after it.
        (
            "INSERT INTO audit_entries SELECT chain, 6, at, action, actor, actor_key_id, actor_account_id, request_id,
                 client, key_id, before, after, previous, hash FROM audit_entries WHERE chain = CHAIN AND seq = 5",
            vec![Altered { seq: 6 }],
        ),
        (
            "UPDATE audit_entries SET seq = 9223372036854775807 WHERE chain = CHAIN AND seq = 5;
             DELETE FROM audit_heads WHERE chain = CHAIN",
            vec![HeadMissing, Altered { seq: i64::MAX.unsigned_abs() }],
        ),
    ]
}

/// What is left of the chain says what was done to it, before and after it has gone on; and nothing done to it keeps it from
/// going on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_done_to_the_trail_is_found_and_blocks_nothing() {
    use AuditFault::{Altered, HeadAltered, HeadMissing};
    let altering = ALTERING.iter().map(|set| {
        let statement = format!(
            "PRAGMA ignore_check_constraints = ON;
             UPDATE audit_entries SET {set} WHERE chain = CHAIN AND seq = 3"
        );
        (statement, vec![Altered { seq: 3 }])
    });
    let doings = doings().into_iter();
    let doings = doings.map(|(statement, faults)| (statement.to_owned(), faults));
    for (statement, expected) in altering.chain(doings) {
        let (scratch, stores) = written().await;
        assert_eq!(faults_of(&stores, chain()).await, []);
        tamper(&mut scratch.raw(), &statement);
        let found = faults_of(&stores, chain()).await;
        for fault in &expected {
            assert!(found.contains(fault), "{statement}: {found:?}");
        }
        for _ in 0..3 {
            go_on(&stores).await;
        }
        let later = faults_of(&stores, chain()).await;
        // What was said of the end is written anew, and shows as a number that is left out.
        let lasting = |fault: &&AuditFault| !matches!(fault, HeadAltered | HeadMissing);
        for fault in expected.iter().filter(lasting) {
            assert!(later.contains(fault), "{statement}: {later:?}");
        }
        assert_ne!(later, [], "{statement}");
        // Each entry can be listed.
        let (entries, ..) = everything(&stores).await;
        let listed = stores.audit.page(&AuditQuery::of(None, 100)).await.unwrap();
        assert_eq!(listed.rows.len(), entries.len(), "{statement}");
    }
}

/// A list goes on from a row that no list could have come from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_gets_past_what_was_altered() {
    let (scratch, stores) = written().await;
    tamper(
        &mut scratch.raw(),
        "UPDATE audit_entries SET at = 9223372036854775807 WHERE chain = CHAIN AND seq = 2;
         UPDATE audit_entries SET at = -9223372036854775808 WHERE chain = CHAIN AND seq = 3",
    );
    for of in [None, Some(chain())] {
        let mut query = AuditQuery::of(of, 1);
        let mut seen = Vec::new();
        loop {
            let page = stores.audit.page(&query).await.unwrap();
            seen.extend(page.rows.iter().map(|entry| (entry.chain, entry.seq)));
            assert!(seen.len() <= 6, "{seen:?}");
            query.after = page.next;
            if page.next.is_none() {
                break;
            }
        }
        let of_chain = seen.iter().filter(|(of, _)| *of == chain()).count();
        assert_eq!(of_chain, 5, "{seen:?}");
    }
}

/// Somebody puts back an end of before, which is genuine: what came after it shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_put_back_is_found() {
    for forgotten in [false, true] {
        let (scratch, stores) = written().await;
        let mut raw = scratch.raw();
        tamper(&mut raw, "CREATE TABLE kept AS SELECT * FROM audit_heads");
        go_on(&stores).await;
        tamper(
            &mut raw,
            "INSERT OR REPLACE INTO audit_heads SELECT * FROM kept",
        );
        assert_eq!(faults_of(&stores, chain()).await, [AuditFault::HeadAltered]);
        if forgotten {
            // As it was before, which nothing in the file can show. What else there is of it (a copy of an export) can.
            tamper(
                &mut raw,
                "DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 6",
            );
            go_on(&stores).await;
            assert_eq!(faults_of(&stores, chain()).await, []);
        } else {
            go_on(&stores).await;
            let faults = faults_of(&stores, chain()).await;
            assert_eq!(faults, [AuditFault::Missing { from: 7, to: 7 }]);
        }
    }
}

/// A checkpoint that was altered, taken away or made up is found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_was_altered_is_found() {
    use AuditFault::{CheckpointAltered, Missing};
    let missing = |to| Missing { from: 1, to };
    for (statement, expected) in [
        (
            "UPDATE audit_checkpoints SET seq = 3; DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 3",
            vec![CheckpointAltered, missing(3)],
        ),
        (
            "UPDATE audit_checkpoints SET pruned_at = 9223372036854775807",
            vec![CheckpointAltered],
        ),
        (
            "UPDATE audit_checkpoints SET hash = x'00'",
            vec![CheckpointAltered],
        ),
        (
            "UPDATE audit_checkpoints SET code = x''",
            vec![CheckpointAltered],
        ),
        ("DELETE FROM audit_checkpoints", vec![missing(2)]),
    ] {
        let (scratch, stores) = written().await;
        let pruned = prune(&stores, 2, 1);
        // Of the chain the first two, the account's making and the first key's; of the deployment's the one there is.
        let expected_pruned = Pruned {
            chains: 2,
            entries: 3,
        };
        assert_eq!(pruned.await.unwrap(), expected_pruned);
        assert_eq!(faults_of(&stores, chain()).await, []);
        tamper(&mut scratch.raw(), statement);
        go_on(&stores).await;
        let found = faults_of(&stores, chain()).await;
        for fault in &expected {
            assert!(found.contains(fault), "{statement}: {found:?}");
        }
    }
}

/// What is altered behind the back of who prunes is not signed for: what goes is remembered as it was read, and what stays
/// shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_altered_before_it_is_pruned_is_not_signed_for() {
    let (scratch, stores) = written().await;
    let (entries, _, _) = everything(&stores).await;
    let last = entries
        .iter()
        .find(|entry| (entry.chain, entry.seq) == (chain(), 3));
    let point = upto(last.unwrap(), at(500));
    tamper(
        &mut scratch.raw(),
        "UPDATE audit_entries SET at = 0 WHERE chain = CHAIN AND seq > 1;
         UPDATE audit_entries SET hash = zeroblob(32) WHERE chain = CHAIN AND seq IN (2, 3);
         DELETE FROM audit_entries WHERE chain = CHAIN AND seq = 5",
    );
    let pruned = stores.audit.prune(&[point], &entry()).await.unwrap();
    let expected = Pruned {
        chains: 1,
        entries: 3,
    };
    assert_eq!(pruned, expected);
    let (entries, _, checkpoints) = everything(&stores).await;
    assert_eq!(checkpoints, [point]);
    assert!(entries.iter().any(|entry| entry.chain == chain()));
    assert_eq!(
        faults_of(&stores, chain()).await,
        [
            AuditFault::Altered { seq: 4 },
            AuditFault::Missing { from: 5, to: 5 }
        ]
    );
}

/// Pruning is one unit, also with what is said of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_pruned_as_a_whole_is_not_pruned() {
    let (scratch, stores) = written().await;
    let before = everything(&stores).await;
    for table in ["audit_checkpoints", "audit_entries", "audit_heads"] {
        forbid(&mut scratch.raw(), table);
        let pruned = prune(&stores, 3, 1);
        assert!(pruned.await.is_err(), "{table}");
        assert_eq!(everything(&stores).await, before, "{table}");
        allow(&mut scratch.raw());
    }
    let pruned = prune(&stores, 3, 1);
    let expected = Pruned {
        chains: 2,
        entries: 4,
    };
    assert_eq!(pruned.await.unwrap(), expected);
    assert_eq!(faults_of(&stores, chain()).await, []);
    assert_eq!(faults_of(&stores, ChainId::System).await, []);
    let pruned = prune(&stores, 5, 2);
    let expected = Pruned {
        chains: 2,
        entries: 3,
    };
    assert_eq!(pruned.await.unwrap(), expected);
    go_on(&stores).await;
    assert_eq!(faults_of(&stores, chain()).await, []);
    assert_eq!(faults_of(&stores, ChainId::System).await, []);
}

/// Takes away what is up to and with these numbers: of the chain, and of the deployment's.
async fn prune(stores: &Stores, of_chain: u64, of_system: u64) -> Result<Pruned, StoreError> {
    let (entries, _, _) = everything(stores).await;
    let points = [(ChainId::System, of_system), (chain(), of_chain)].map(|place| {
        let mut entries = entries.iter();
        let last = entries.find(|entry| (entry.chain, entry.seq) == place);
        upto(last.unwrap(), at(500))
    });
    stores.audit.prune(&points, &entry()).await
}

/// Makes every insertion into a table fail.
fn forbid(raw: &mut SqliteConnection, table: &str) {
    raw.batch_execute(&format!(
        "CREATE TRIGGER forbidden BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'not this'); END"
    ))
    .unwrap();
}

fn allow(raw: &mut SqliteConnection) {
    raw.batch_execute("DROP TRIGGER forbidden").unwrap();
}

fn secret(id: &str) -> StoredPepper {
    let check = Pepper::new(SECRET).unwrap().check();
    StoredPepper::new(PepperId::parse(id).unwrap(), check, sealed(SECRET))
}

/// Whatever is in the file, but the trail: as text, to compare.
fn records(raw: &mut SqliteConnection) -> Vec<String> {
    #[derive(QueryableByName)]
    struct Text {
        #[diesel(sql_type = diesel::sql_types::Text)]
        text: String,
    }
    #[expect(clippy::disallowed_methods, reason = "asks for whatever there is")]
    let query = diesel::sql_query(
        "SELECT concat_ws('|', hex(id), name, slug, status, updated_at, deleted_at) AS text FROM accounts
         UNION ALL SELECT concat_ws('|', hex(id), name, status, key_hash, pepper_id, updated_at, deleted_at) FROM api_keys
         UNION ALL SELECT concat_ws('|', id, check_value, audit_key, dropped_at) FROM peppers ORDER BY 1",
    );
    let rows: Vec<Text> = query.load(raw).unwrap();
    rows.into_iter().map(|row| row.text).collect()
}

/// Does each kind of change once. Answers which were done.
async fn every_change(stores: &Stores) -> Vec<bool> {
    let owner = account(1);
    let held = key(1, &owner);
    let rename = &mut |mut key: ApiKey| {
        key.rename(KeyName::parse("Renamed").unwrap(), at(80));
        Ok(noted(key))
    };
    let suspend = &mut |mut account: leadr_auth_domain::Account| {
        account.suspend(at(80));
        Ok(noted(account))
    };
    let operator = account_of(3, AccountRole::Operator);
    let rehash = Rehash {
        key_id: held.id,
        was: held.key_hash.clone(),
        becomes: HashedKey {
            pepper_id: PepperId::parse("new").unwrap(),
            hash: KeyHash::from_store("5".repeat(64)),
        },
    };
    let (keys, accounts) = ([noted(key(7, &owner))], [noted(account(8))]);
    let first_key = key(6, &operator);
    let new = secret("new");
    let gains = secret("keyless");
    let unused = PepperId::parse("unused").unwrap();
    vec![
        stores.keys.create(&key(5, &owner), &entry()).await.is_ok(),
        stores.keys.update(held.id, rename).await.is_ok(),
        stores.accounts.create(&account(2), &entry()).await.is_ok(),
        stores.accounts.update(owner.id, suspend).await.is_ok(),
        stores
            .accounts
            .create_with_key(&operator, &first_key, &entry())
            .await
            .is_ok(),
        stores
            .transfer
            .import_keys(&keys, ImportMode::Commit)
            .await
            .is_ok(),
        stores
            .transfer
            .import_accounts(&accounts, ImportMode::Commit)
            .await
            .is_ok(),
        stores
            .secrets
            .drop_pepper(&unused, at(80), &entry())
            .await
            .is_ok(),
        stores.secrets.rehash(&[rehash], &entry()).await.is_ok(),
        stores.secrets.register(&new, false, &entry()).await.is_ok(),
        stores
            .secrets
            .register(&gains, false, &entry())
            .await
            .is_ok(),
        stores.audit.append(&entry()).await.is_ok(),
    ]
}

/// A change of which nothing can be written down is not made; and when it can be, it is, with one entry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_written_down_is_not_done() {
    let (scratch, stores) = written().await;
    for id in ["unused", "keyless", "kept"] {
        let registered = stores.secrets.register(&secret(id), false, &entry()).await;
        registered.unwrap();
    }
    let mut raw = scratch.raw();
    tamper(
        &mut raw,
        "UPDATE peppers SET audit_key = NULL WHERE id = 'keyless'",
    );
    let (before, trail) = (records(&mut raw), everything(&stores).await);
    for table in ["audit_entries", "audit_heads"] {
        forbid(&mut raw, table);
        assert_eq!(every_change(&stores).await, [false; 12], "{table}");
        assert_eq!(records(&mut raw), before, "{table}");
        assert_eq!(everything(&stores).await, trail, "{table}");
        allow(&mut raw);
    }
    assert_eq!(every_change(&stores).await, [true; 12]);
    let after = everything(&stores).await;
    assert_eq!(after.0.len(), trail.0.len() + 12);
    assert_ne!(records(&mut raw), before);
    assert_eq!(faults_of(&stores, ChainId::System).await, []);
}

/// An entry is of the attempt that succeeded: one for one change, and what it says is what was changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_came_too_late_leaves_no_entry() {
    let (scratch, stores) = written().await;
    let owner = account(1);
    let said = |runs: u32, action| {
        let origin = Origin::TOOL;
        let mut said = AuditDraft::new(audit_key(), chain(), at(runs), action, origin);
        said.origin.request_id = Some(format!("attempt {runs}").into());
        said
    };
    let mut runs = 0;
    let change = &mut |mut key: ApiKey| {
        runs += 1;
        if runs == 1 {
            let theirs = "UPDATE api_keys SET name = 'Theirs'";
            scratch.raw().batch_execute(theirs).unwrap();
        }
        key.revoke(at(80));
        Ok(Audited::new(key, said(runs, AuditAction::KeyRevoked)))
    };
    stores.keys.update(key(1, &owner).id, change).await.unwrap();
    let mut runs = 0;
    let change = &mut |mut account: leadr_auth_domain::Account| {
        runs += 1;
        if runs == 1 {
            let theirs = "UPDATE accounts SET name = 'Theirs'";
            scratch.raw().batch_execute(theirs).unwrap();
        }
        account.suspend(at(80));
        Ok(Audited::new(
            account,
            said(runs, AuditAction::AccountSuspended),
        ))
    };
    stores.accounts.update(owner.id, change).await.unwrap();
    // Nor does one of a record that is gone.
    let mut runs = 0;
    let change = &mut |key: ApiKey| {
        runs += 1;
        let theirs = "DELETE FROM api_keys";
        scratch.raw().batch_execute(theirs).unwrap();
        Ok(Audited::new(key, said(runs, AuditAction::KeyRenamed)))
    };
    assert!(stores.keys.update(key(1, &owner).id, change).await.is_err());
    let mut runs = 0;
    let change = &mut |account: leadr_auth_domain::Account| {
        runs += 1;
        let theirs = "DELETE FROM accounts";
        scratch.raw().batch_execute(theirs).unwrap();
        Ok(Audited::new(
            account,
            said(runs, AuditAction::AccountRenamed),
        ))
    };
    assert!(stores.accounts.update(owner.id, change).await.is_err());
    let (entries, ..) = everything(&stores).await;
    let attempts: Vec<_> = entries
        .iter()
        .filter(|entry| entry.chain == chain() && entry.seq > 5)
        .map(|entry| (entry.action.as_str(), entry.origin.request_id.as_deref()))
        .collect();
    assert_eq!(
        attempts,
        [
            ("key.revoked", Some("attempt 2")),
            ("account.suspended", Some("attempt 2"))
        ]
    );
    assert_eq!(faults_of(&stores, chain()).await, []);
}

/// As a server and a command line on one file: each finds the other's entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_write_one_chain_keep_it_whole() {
    let (_scratch, one, two) = opened_twice().await;
    let owner = account(1);
    let made = entry_in(chain());
    one.accounts.create(&owner, &made).await.unwrap();
    let mut race = Vec::new();
    for n in 1..=100_u8 {
        let stores = if n % 2 == 0 { one.clone() } else { two.clone() };
        let owner = owner.clone();
        race.push(tokio::spawn(async move {
            let entry = entry_in(chain());
            stores.keys.create(&key(n, &owner), &entry).await.unwrap();
            stores.audit.append(&entry).await.unwrap();
        }));
    }
    for racer in race {
        racer.await.unwrap();
    }
    for stores in [&one, &two] {
        assert_eq!(faults_of(stores, chain()).await, []);
        assert_eq!(everything(stores).await.0.len(), 201);
    }
}

/// What is known of an account or a key stays when it is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trail_outlives_what_it_is_about() {
    let (scratch, stores) = written().await;
    tamper(&mut scratch.raw(), "DELETE FROM accounts");
    let gone = stores.keys.get(key(1, &account(1)).id, Rows::WithDeleted);
    assert!(gone.await.unwrap().is_none());
    assert_eq!(faults_of(&stores, chain()).await, []);
    stores.audit.append(&entry_in(chain())).await.unwrap();
    assert_eq!(faults_of(&stores, chain()).await, []);
}
