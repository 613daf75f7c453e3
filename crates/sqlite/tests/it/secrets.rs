//! Several secrets in one file: what only a file can do to them, and what the contract suite leaves open.

use diesel::connection::SimpleConnection as _;
use leadr_auth_domain::{Account, ApiKey, HashedKey, KeyHash, KeyId, KeyPrefix, Pepper, PepperId};
use leadr_auth_ports::{
    CreateKeyError, DropPepperError, ImportConflict, ImportMode, ImportOutcome, Rehash, Rows,
    StoredPepper, Stores, UpdateKeyError,
    contract::fixtures::{account, all_noted, at, entry, fields, key, noted},
};

use crate::support::{Scratch, fresh, opened_twice, sealed};

/// A file with one account.
async fn with_owner() -> (Scratch, Stores, Account) {
    let (scratch, stores) = fresh().await;
    let owner = account(1);
    stores.accounts.create(&owner, &entry()).await.unwrap();
    (scratch, stores, owner)
}

/// A secret that the store was told of.
async fn registered(stores: &Stores, id: &str) -> StoredPepper {
    let secret = format!("the secret of {id}, long enough to be one");
    let pepper = Pepper::new(&secret).unwrap();
    let secret = StoredPepper::new(
        PepperId::parse(id).unwrap(),
        pepper.check(),
        sealed(&secret),
    );
    let registered = stores.secrets.register(&secret, false, &entry()).await;
    registered.unwrap();
    secret
}

/// The key is hashed anew, to a hash that is as good as any other here.
fn anew(key: &ApiKey, under: &PepperId) -> Rehash {
    Rehash {
        key_id: key.id,
        was: key.key_hash.clone(),
        becomes: HashedKey {
            pepper_id: under.clone(),
            hash: KeyHash::from_store("5".repeat(64)),
        },
    }
}

async fn read(stores: &Stores, id: KeyId) -> ApiKey {
    let read = stores.keys.get(id, Rows::WithDeleted).await.unwrap();
    read.unwrap()
}

/// A long list of keys is cut, and their number is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_keys_the_first_are_listed() {
    let (_scratch, stores, owner) = with_owner().await;
    let given = registered(&stores, "default").await;
    let listed = usize::try_from(DropPepperError::LISTED).unwrap();
    let mut keys: Vec<_> = (0..=listed)
        .map(|n| {
            let mut key = key(1, &owner);
            let mut bytes = [7; 16];
            bytes[..8].copy_from_slice(&u64::try_from(n).unwrap().to_be_bytes());
            key.id = KeyId::from_random_bytes(bytes);
            key.key_prefix = KeyPrefix::parse(&format!("ldr_{n:08}")).unwrap();
            key
        })
        .collect();
    keys.reverse();
    let imported = stores
        .transfer
        .import_keys(&all_noted(&keys), ImportMode::Commit)
        .await;
    assert_eq!(imported.unwrap(), vec![ImportOutcome::Stored; listed + 1]);
    let dropped = stores.secrets.drop_pepper(&given.id, at(9), &entry()).await;
    let Err(DropPepperError::InUse { count, first }) = dropped else {
        panic!("{dropped:?}");
    };
    assert_eq!(count, u64::from(DropPepperError::LISTED) + 1);
    keys.reverse();
    let ids = |keys: &[ApiKey]| keys.iter().map(|key| key.id).collect::<Vec<_>>();
    assert_eq!(ids(&first), ids(&keys[..listed]));
}

/// As a server that issues a key while a command line drops the secret: one of them comes first, and the other one knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_leave_no_key_under_a_dropped_secret() {
    let (_scratch, one, two) = opened_twice().await;
    let owner = account(1);
    one.accounts.create(&owner, &entry()).await.unwrap();
    registered(&one, "kept").await;
    for n in 1..=50 {
        let given = registered(&one, &format!("s{n}")).await;
        let mut key = key(n, &owner);
        key.pepper_id = given.id.clone();
        let issue = tokio::spawn({
            let (keys, key) = (one.keys.clone(), key.clone());
            async move { keys.create(&key, &entry()).await }
        });
        let dropped = two.secrets.drop_pepper(&given.id, at(99), &entry()).await;
        match (issue.await.unwrap(), dropped) {
            (Ok(()), Err(DropPepperError::InUse { count: 1, .. }))
            | (Err(CreateKeyError::PepperDropped), Ok(())) => {}
            other => panic!("round {n}: {other:?}"),
        }
    }
}

/// A restoration is decided on what was read before; whether the secret was dropped, when it is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_dropped_while_a_key_is_restored_is_noticed() {
    let (scratch, stores, owner) = with_owner().await;
    for id in ["default", "new"] {
        registered(&stores, id).await;
    }
    let mut deleted = key(1, &owner);
    deleted.soft_delete(at(3));
    stores.keys.create(&deleted, &entry()).await.unwrap();
    let restore = async |meanwhile: &str| {
        let change = &mut |mut key: ApiKey| {
            scratch.raw().batch_execute(meanwhile).unwrap();
            key.restore(at(9));
            Ok(noted(key))
        };
        stores.keys.update(deleted.id, change).await
    };
    let restored = restore("UPDATE peppers SET dropped_at = 9 WHERE id = 'default'").await;
    assert!(
        matches!(restored, Err(UpdateKeyError::PepperDropped)),
        "{restored:?}"
    );
    assert_eq!(
        fields(&read(&stores, deleted.id).await),
        fields(&deleted),
        "what was written is rolled back"
    );
    // It is the secret of the row as it is then that counts.
    let restored = restore("UPDATE api_keys SET pepper_id = 'new'").await;
    assert!(!restored.unwrap().is_deleted());
}

/// What was stored before the secret was dropped is there; what is new is refused, and whatever else is wrong with it is
/// named first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_tells_what_is_there_from_what_comes_too_late() {
    let (_scratch, stores, owner) = with_owner().await;
    let given = registered(&stores, "default").await;
    registered(&stores, "kept").await;
    let mut there = key(1, &owner);
    there.soft_delete(at(5));
    let import = async |keys: &[ApiKey], mode| {
        stores
            .transfer
            .import_keys(&all_noted(keys), mode)
            .await
            .unwrap()
    };
    let first = import(std::slice::from_ref(&there), ImportMode::Commit).await;
    assert_eq!(first, [ImportOutcome::Stored]);
    stores
        .secrets
        .drop_pepper(&given.id, at(9), &entry())
        .await
        .unwrap();
    let (late, orphan) = (key(2, &owner), key(3, &account(99)));
    let mut same_prefix = key(4, &owner);
    same_prefix.key_prefix = there.key_prefix.clone();
    let mut elsewhere = key(5, &owner);
    elsewhere.pepper_id = PepperId::parse("unheard-of").unwrap();
    let mut deleted = key(6, &owner);
    deleted.soft_delete(at(7));
    let keys = [
        there.clone(),
        late.clone(),
        orphan,
        same_prefix,
        elsewhere,
        deleted,
    ];
    for mode in [ImportMode::DryRun, ImportMode::Commit] {
        let imported = import(&keys, mode).await;
        let expected = [
            ImportOutcome::Present,
            ImportOutcome::Conflict(ImportConflict::PepperDropped),
            ImportOutcome::Conflict(ImportConflict::AccountMissing),
            ImportOutcome::Conflict(ImportConflict::PrefixTaken),
            ImportOutcome::Stored,
            ImportOutcome::Conflict(ImportConflict::PepperDropped),
        ];
        assert_eq!(imported, expected, "{mode:?}");
    }
    let late = stores.keys.get(late.id, Rows::WithDeleted).await.unwrap();
    assert!(late.is_none());
    let mut other = there;
    other.revoke(at(8));
    let imported = import(&[other], ImportMode::Commit).await;
    assert_eq!(imported, [ImportOutcome::Conflict(ImportConflict::IdTaken)]);
}

/// Where one key fails, none has its new hash.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_hashed_anew_all_or_none() {
    let (scratch, stores, owner) = with_owner().await;
    let keys: Vec<_> = (1..=3).map(|n| key(n, &owner)).collect();
    for key in &keys {
        stores.keys.create(key, &entry()).await.unwrap();
    }
    let trigger = format!(
        "CREATE TRIGGER one_fails BEFORE UPDATE ON api_keys WHEN NEW.id = x'{}'
         BEGIN SELECT RAISE(ABORT, 'not this one'); END",
        keys[1].id.as_uuid().simple()
    );
    scratch.raw().batch_execute(&trigger).unwrap();
    let new = PepperId::parse("new").unwrap();
    let batch: Vec<_> = keys.iter().map(|key| anew(key, &new)).collect();
    assert!(stores.secrets.rehash(&batch, &entry()).await.is_err());
    for key in &keys {
        assert_eq!(fields(&read(&stores, key.id).await), fields(key));
    }
    let end = "DROP TRIGGER one_fails";
    scratch.raw().batch_execute(end).unwrap();
    assert_eq!(stores.secrets.rehash(&batch, &entry()).await.unwrap(), 3);
}

/// A change that was decided before the key got its new hash does not take that back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_leaves_a_new_hash_as_it_is() {
    let (scratch, stores, owner) = with_owner().await;
    let was = key(1, &owner);
    stores.keys.create(&was, &entry()).await.unwrap();
    let mut runs = 0;
    let change = &mut |mut key: ApiKey| {
        runs += 1;
        let theirs = "UPDATE api_keys SET key_hash = 'theirs', pepper_id = 'new'";
        scratch.raw().batch_execute(theirs).unwrap();
        key.revoke(at(9));
        Ok(noted(key))
    };
    let changed = stores.keys.update(was.id, change).await.unwrap();
    assert_eq!(runs, 1, "a new hash is no change");
    assert_eq!(changed.key_hash.expose_hex(), "theirs");
    assert_eq!(changed.pepper_id.as_str(), "new");
}
