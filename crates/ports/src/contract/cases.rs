//! The cases.

use std::sync::Arc;
use std::time::Duration;

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRefusal, AccountRole, AccountStatus, Actor, ApiKey,
    ApiKeyStatus, AuditAction, AuditEntry, ChainCheck, ChainHead, ChainId, Checkpoint, Facts,
    Fingerprint, HashedKey, IdempotencyKey, IdempotentRequest, KeyChange, KeyHash, KeyId, KeyLimit,
    KeyName, KeyPrefix, KeyRefusal, Keyring, Origin, Pepper, PepperId, Scope, ScopeSet, Scopes,
    SealedAuditKey, Slug, Timestamp,
};

use super::fixtures::{
    SECRET, account, account_of, all_noted, at, audit_key, entry, entry_in, fields, heard,
    heard_until_tick, key, key_filters, key_sorts, listed_keys, noted, numbered_account,
    numbered_key, plain_key, record, report, upto,
};
use crate::listing::{Page, Sort, looked_at};
use crate::{
    AccountFilter, AccountQuery, ActorFilter, AuditPlace, AuditQuery, Audited, Change,
    CreateAccountError, CreateKeyError, CreateOperatorError, DropPepperError, Heard,
    ImportConflict, ImportMode, ImportOutcome, KeyFilter, KeyQuery, KeyUse, NodeReports, Once,
    Probe, Pruned, Rehash, Rows, Signal, StoredPepper, Stores, Totals, UpdateAccountError,
    UpdateKeyError,
};

/// How many change the same record at once in the races.
const RACERS: usize = 16;

/// Declares the cases and the macro that runs them. The first token is a `$`, which the inner macro needs and an outer
/// one cannot write.
macro_rules! cases {
    ($d:tt $($(#[$doc:meta])* async fn $name:ident($stores:ident) $body:block)*) => {
        $($(#[$doc])* pub async fn $name($stores: Stores) $body)*

        /// Makes a test of every case, on the stores that `$factory` gives: the path of an
        /// `async fn() -> (guard, Stores)`.
        #[macro_export]
        macro_rules! store_contract {
            ($d factory:path) => {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $name() {
                        let (guard, stores) = $d factory().await;
                        $crate::contract::$name(stores).await;
                        drop(guard);
                    }
                )*
            };
        }
    };
}

/// The pages of a list one after the other, and how many they were.
async fn paged(
    stores: &Stores,
    filter: &KeyFilter,
    sort: &Sort<KeyId>,
    limit: u32,
) -> (Vec<ApiKey>, usize) {
    let mut query = KeyQuery {
        filter: filter.clone(),
        sort: sort.clone(),
        limit,
    };
    let (mut listed, mut pages) = (Vec::new(), 0);
    loop {
        let Page { rows, next } = stores.keys.page(&query).await.unwrap();
        assert!(rows.len() <= usize::try_from(limit).unwrap());
        listed.extend(rows);
        pages += 1;
        match next {
            Some(next) => query.sort = next,
            None => return (listed, pages),
        }
    }
}

/// The pages of a list of the audit trail one after the other, and how many they were.
async fn paged_trail(stores: &Stores, mut query: AuditQuery) -> (Vec<AuditEntry>, usize) {
    let (mut listed, mut pages) = (Vec::new(), 0);
    loop {
        let Page { rows, next } = stores.audit.page(&query).await.unwrap();
        assert!(rows.len() <= usize::try_from(query.limit).unwrap());
        listed.extend(rows);
        pages += 1;
        query.after = next;
        if next.is_none() {
            return (listed, pages);
        }
    }
}

/// The `n`th tenant, which may have so many live keys.
fn limited(n: u8, keys: u32) -> Account {
    let mut account = account(n);
    account.key_limit = KeyLimit::new(keys).unwrap();
    account
}

/// A request of the `n`th caller's, called so, for this, at [`at`]`(micros)`.
fn request(n: u8, name: &str, body: &str, micros: u32) -> IdempotentRequest {
    IdempotentRequest {
        caller: KeyId::from_random_bytes([n; 16]),
        key: IdempotencyKey::parse(&name.replace(' ', "-")).unwrap(),
        fingerprint: Fingerprint::of("POST", body.as_bytes()),
        at: at(micros),
    }
}

/// A set of scopes.
fn scopes(scopes: impl IntoIterator<Item = String>) -> Scopes {
    let scopes = scopes
        .into_iter()
        .map(|scope| Scope::parse(&scope).unwrap());
    Scopes::Only(ScopeSet::new(scopes).unwrap())
}

/// A secret as it is registered, and the ring that has it as its current one.
fn pepper(id: &str) -> (StoredPepper, Keyring) {
    let id = PepperId::parse(id).unwrap();
    let secret = format!("the secret of {id}, long enough to be one");
    let ring = Keyring::new(&id, [(id.clone(), secret.as_str())]).unwrap();
    (
        StoredPepper::new(id, ring.current().check(), sealed(ring.current())),
        ring,
    )
}

/// The key of the trail, encrypted under a secret.
fn sealed(pepper: &Pepper) -> SealedAuditKey {
    pepper
        .seal_audit_key(&audit_key(), [3; SealedAuditKey::NONCE_BYTES])
        .unwrap()
}

/// Registers a secret, and answers it as it then is.
async fn register(stores: &Stores, pepper: &StoredPepper) -> StoredPepper {
    let all = stores
        .secrets
        .register(pepper, false, &entry())
        .await
        .unwrap();
    all.into_iter()
        .find(|stored| stored.id == pepper.id)
        .unwrap()
}

/// The whole trail, which has to be whole: its entries by their chains' UUIDs and numbers.
async fn trail(stores: &Stores) -> Vec<AuditEntry> {
    let mut snapshot = stores.transfer.snapshot().await.unwrap();
    let (mut entries, mut heads, mut checkpoints) = (
        Vec::<AuditEntry>::new(),
        Vec::<ChainHead>::new(),
        Vec::<Checkpoint>::new(),
    );
    loop {
        let page = snapshot
            .audit_entries(entries.last().map(|last| (last.chain, last.seq)), 7)
            .await
            .unwrap();
        assert!(page.len() <= 7);
        if page.is_empty() {
            break;
        }
        entries.extend(page);
    }
    loop {
        let page = snapshot
            .audit_heads(heads.last().map(|last| last.chain), 2)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        heads.extend(page);
    }
    loop {
        let page = snapshot
            .audit_checkpoints(checkpoints.last().map(|last| last.chain), 2)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        checkpoints.extend(page);
    }
    let key = audit_key();
    assert!(entries.is_sorted_by_key(|entry| (entry.chain.as_uuid(), entry.seq)));
    assert!(
        entries
            .iter()
            .all(|entry| heads.iter().any(|head| head.chain == entry.chain))
    );
    for head in &heads {
        let checkpoint = checkpoints
            .iter()
            .find(|checkpoint| checkpoint.chain == head.chain);
        let mut check = ChainCheck::new(&key, checkpoint);
        for entry in entries.iter().filter(|entry| entry.chain == head.chain) {
            check.entry(entry);
        }
        assert_eq!(check.end(Some(head)), [], "{}", head.chain);
    }
    entries
}

/// How many entries there are.
async fn entries(stores: &Stores) -> usize {
    trail(stores).await.len()
}

/// A key that is hashed under the current secret of `ring`.
fn key_under(ring: &Keyring, n: u8, owner: &Account) -> ApiKey {
    let HashedKey { pepper_id, hash } = ring.hash(&plain_key(n));
    let mut key = key(n, owner);
    key.pepper_id = pepper_id;
    key.key_hash = hash;
    key
}

/// Was it said of a key, or of everything, that it may have changed?
fn concerns_key(heard: &[Heard], prefix: &KeyPrefix) -> bool {
    heard.iter().any(|heard| match heard {
        Heard::Change(Change::Key(changed)) => changed == prefix,
        Heard::Change(Change::Everything) => true,
        Heard::Change(Change::Account(_)) | Heard::Signal(_) => false,
    })
}

/// Was it said of an account, or of everything, that it may have changed?
fn concerns_account(heard: &[Heard], id: AccountId) -> bool {
    heard.iter().any(|heard| match heard {
        Heard::Change(Change::Account(changed)) => *changed == id,
        Heard::Change(Change::Everything) => true,
        Heard::Change(Change::Key(_)) | Heard::Signal(_) => false,
    })
}

cases! { $
    /// What was stored is what is read, field by field, also at the ends of what a field can hold.
    async fn a_stored_key_reads_back_unchanged(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let mut longest = key(1, &owner);
        longest.name = KeyName::parse(&"🔑".repeat(KeyName::MAX_CHARS)).unwrap();
        longest.expires_at = Some(Timestamp::parse("9999-12-31T23:59:59.999999Z").unwrap());
        longest.last_used_at = Some(at(123_457));
        longest.status = ApiKeyStatus::Revoked;
        longest.scopes = scopes((0..ScopeSet::MAX).map(|n| format!("{n:02}:{}:*", "s".repeat(Scope::MAX_CHARS - 5))));
        longest.pepper_id = PepperId::parse(&"p".repeat(PepperId::MAX_CHARS)).unwrap();
        let mut shortest = key(2, &owner);
        shortest.name = KeyName::from_store(String::new());
        shortest.scopes = scopes([]);
        shortest.expires_at = Some(Timestamp::parse("0001-01-01T00:00:00Z").unwrap());
        for stored in [longest, shortest] {
            stores.keys.create(&stored, &entry()).await.unwrap();
            let read = stores.keys.get(stored.id, Rows::Live).await.unwrap().unwrap();
            assert_eq!(fields(&read), fields(&stored));
        }
    }

    /// As for keys.
    async fn a_stored_account_reads_back_unchanged(stores) {
        let mut stored = account_of(1, AccountRole::Operator);
        stored.name = AccountName::parse(&"ß".repeat(AccountName::MAX_CHARS)).unwrap();
        stored.slug = Slug::parse(&"a".repeat(Slug::MAX_CHARS)).unwrap();
        stored.status = AccountStatus::Suspended;
        stored.updated_at = at(654_321);
        stores.accounts.create(&stored, &entry()).await.unwrap();
        assert_eq!(stores.accounts.get(stored.id, Rows::Live).await.unwrap(), Some(stored));
    }

    /// Nothing is found where nothing is, and that is no error.
    async fn what_is_not_there_is_not_found(stores) {
        let nobody = account(1);
        let nothing = key(1, &nobody);
        assert!(stores.keys.get(nothing.id, Rows::WithDeleted).await.unwrap().is_none());
        assert!(stores.accounts.get(nobody.id, Rows::WithDeleted).await.unwrap().is_none());
        assert!(stores.lookup.find(&nothing.key_prefix).await.unwrap().is_none());
        assert!(stores.keys.list(KeyFilter::of(nobody.id)).await.unwrap().is_empty());
        assert_eq!(stores.keys.count_active(nobody.id).await.unwrap(), 0);
        assert!(matches!(
            stores.keys.update(nothing.id, &mut |record| Ok(noted(record))).await,
            Err(UpdateKeyError::NotFound)
        ));
        assert!(matches!(
            stores.accounts.update(nobody.id, &mut |record| Ok(noted(record))).await,
            Err(UpdateAccountError::NotFound)
        ));
    }

    /// A key needs a live account.
    async fn a_key_needs_a_live_account(stores) {
        let mut owner = account(1);
        let orphan = key(1, &owner);
        assert!(matches!(
            stores.keys.create(&orphan, &entry()).await,
            Err(CreateKeyError::AccountNotFound)
        ));
        owner.soft_delete(at(2));
        stores.accounts.create(&owner, &entry()).await.unwrap();
        assert!(matches!(
            stores.keys.create(&orphan, &entry()).await,
            Err(CreateKeyError::AccountNotFound)
        ));
        assert!(stores.keys.get(orphan.id, Rows::WithDeleted).await.unwrap().is_none());
    }

    /// A suspended account may be prepared for its return.
    async fn a_suspended_account_can_be_given_keys(stores) {
        let mut owner = account(1);
        owner.suspend(at(2));
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.keys.create(&key(1, &owner), &entry()).await.unwrap();
    }

    /// Prefixes are unique among all keys, deleted ones and other accounts' included.
    async fn a_prefix_is_given_once(stores) {
        let (owner, other) = (account(1), account(2));
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.accounts.create(&other, &entry()).await.unwrap();
        let first = key(1, &owner);
        stores.keys.create(&first, &entry()).await.unwrap();
        let mut second = key(2, &other);
        second.key_prefix = first.key_prefix.clone();
        assert!(matches!(stores.keys.create(&second, &entry()).await, Err(CreateKeyError::PrefixTaken)));
        stores
            .keys
            .update(first.id, &mut |mut key| {
                key.soft_delete(at(3));
                Ok(noted(key))
            })
            .await
            .unwrap();
        assert!(matches!(stores.keys.create(&second, &entry()).await, Err(CreateKeyError::PrefixTaken)));
        assert!(stores.keys.get(second.id, Rows::WithDeleted).await.unwrap().is_none());
    }

    /// Of many that want one prefix, one gets it.
    async fn racing_for_a_prefix_has_one_winner(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let prefix = plain_key(99).prefix();
        let mut race = Vec::new();
        for n in 0..RACERS {
            let mut key = key(u8::try_from(n).unwrap(), &owner);
            key.key_prefix = prefix.clone();
            let keys = Arc::clone(&stores.keys);
            race.push(tokio::spawn(async move { keys.create(&key, &entry()).await }));
        }
        let mut winners = 0;
        for racer in race {
            match racer.await.unwrap() {
                Ok(()) => winners += 1,
                Err(CreateKeyError::PrefixTaken) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(winners, 1);
        assert_eq!(stores.keys.list(KeyFilter::of(owner.id)).await.unwrap().len(), 1);
    }

    /// Of many that each count on being first, one is.
    async fn racing_changes_of_a_key_have_one_winner(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let contested = key(1, &owner);
        stores.keys.create(&contested, &entry()).await.unwrap();
        let mut race = Vec::new();
        for n in 0..RACERS {
            let keys = Arc::clone(&stores.keys);
            let id = contested.id;
            race.push(tokio::spawn(async move {
                keys.update(id, &mut |mut key| {
                    if key.status == ApiKeyStatus::Revoked {
                        return Err(KeyRefusal::Deleted);
                    }
                    key.revoke(at(100 + u32::try_from(n).unwrap()));
                    Ok(noted(key))
                })
                .await
            }));
        }
        let mut winner = None;
        for racer in race {
            match racer.await.unwrap() {
                Ok(key) => assert!(winner.replace(key).is_none(), "two winners"),
                Err(UpdateKeyError::Refused(KeyRefusal::Deleted)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        let read = stores.keys.get(contested.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&winner.expect("no winner")));
    }

    /// Of many that revoke a key exactly one has done it, and the trail says it once.
    async fn racing_revocations_of_a_key_are_one(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let contested = key(1, &owner);
        stores.keys.create(&contested, &entry()).await.unwrap();
        let before = entries(&stores).await;
        let mut race = Vec::new();
        for n in 0..RACERS {
            let keys = Arc::clone(&stores.keys);
            let id = contested.id;
            race.push(tokio::spawn(async move {
                keys.update(id, &mut |mut key| {
                    if key.status == ApiKeyStatus::Revoked {
                        return Ok(Audited::unchanged(key));
                    }
                    key.revoke(at(100 + u32::try_from(n).unwrap()));
                    Ok(noted(key))
                })
                .await
                .unwrap()
            }));
        }
        let mut answered = Vec::new();
        for racer in race {
            answered.push(racer.await.unwrap());
        }
        let read = stores.keys.get(contested.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(read.status, ApiKeyStatus::Revoked);
        for key in &answered {
            assert_eq!(fields(key), fields(&read));
        }
        assert_eq!(entries(&stores).await, before + 1);
    }

    /// Of many changes that are for the one state in which all have seen a key, one is made.
    async fn racing_changes_of_a_seen_state_have_one_winner(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let contested = key(1, &owner);
        stores.keys.create(&contested, &entry()).await.unwrap();
        let seen = stores.keys.get(contested.id, Rows::Live).await.unwrap().unwrap().revision();
        let mut race = Vec::new();
        for n in 0..RACERS {
            let keys = Arc::clone(&stores.keys);
            let id = contested.id;
            let change = KeyChange {
                name: Some(KeyName::parse(&format!("By {n}")).unwrap()),
                only_if: Some(vec![seen]),
                ..KeyChange::default()
            };
            race.push(tokio::spawn(async move {
                keys.update(id, &mut |key| {
                    // All at one time, so that it is not by their times that they differ.
                    let (_, changed) = key.apply(&change, at(100))?;
                    Ok(noted(changed))
                })
                .await
            }));
        }
        let mut winner = None;
        for racer in race {
            match racer.await.unwrap() {
                Ok(key) => assert!(winner.replace(key).is_none(), "two winners"),
                Err(UpdateKeyError::Refused(KeyRefusal::Changed)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        let read = stores.keys.get(contested.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&winner.expect("no winner")));
    }

    /// No change is lost where many change different fields of one record.
    async fn racing_changes_of_different_fields_all_stay(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let shared = key(1, &owner);
        stores.keys.create(&shared, &entry()).await.unwrap();
        let mut race = Vec::new();
        for n in 0..RACERS {
            let keys = Arc::clone(&stores.keys);
            let id = shared.id;
            race.push(tokio::spawn(async move {
                let mark = char::from(b'a' + u8::try_from(n).unwrap());
                keys.update(id, &mut |mut key| {
                    let name = format!("{}{mark}", key.name);
                    key.rename(KeyName::parse(&name).unwrap(), at(500));
                    Ok(noted(key))
                })
                .await
            }));
        }
        for racer in race {
            racer.await.unwrap().unwrap();
        }
        let read = stores.keys.get(shared.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(read.name.as_str().len(), shared.name.as_str().len() + RACERS);
    }

    /// A refusal rolls back: the record is what it was.
    async fn a_refused_change_leaves_the_key(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let kept = key(1, &owner);
        stores.keys.create(&kept, &entry()).await.unwrap();
        let refused = stores
            .keys
            .update(kept.id, &mut |mut key| {
                key.revoke(at(9));
                Err(KeyRefusal::OutOfReach)
            })
            .await;
        assert!(matches!(refused, Err(UpdateKeyError::Refused(KeyRefusal::OutOfReach))));
        let read = stores.keys.get(kept.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&kept));
    }

    /// An update answers with what is stored, and writes the documented fields only.
    async fn an_update_writes_what_it_says(stores) {
        let (owner, other) = (account(1), account(2));
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.accounts.create(&other, &entry()).await.unwrap();
        let mut stored = key(1, &owner);
        stored.last_used_at = Some(at(7));
        stores.keys.create(&stored, &entry()).await.unwrap();
        let answered = stores
            .keys
            .update(stored.id, &mut |mut key| {
                key.rename(KeyName::parse("Renamed").unwrap(), at(9));
                key.revoke(at(9));
                key.soft_delete(at(9));
                key.account_id = other.id;
                key.last_used_at = None;
                key.key_prefix = KeyPrefix::parse("ldr_other").unwrap();
                key.key_hash = KeyHash::from_store("0".repeat(64));
                key.pepper_id = PepperId::parse("other").unwrap();
                key.set_scopes(scopes(["docs:read".to_owned()]), at(9));
                Ok(noted(key))
            })
            .await
            .unwrap();
        stored.name = KeyName::parse("Renamed").unwrap();
        stored.status = ApiKeyStatus::Revoked;
        stored.scopes = scopes(["docs:read".to_owned()]);
        stored.deleted_at = Some(at(9));
        stored.updated_at = at(9);
        let read = stores.keys.get(stored.id, Rows::WithDeleted).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&stored));
        assert_eq!(fields(&answered), fields(&stored));
    }

    /// Deleted keys are seen by those who ask for them, and by `update`.
    async fn deleted_keys_are_hidden_and_can_be_restored(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let kept = key(1, &owner);
        stores.keys.create(&kept, &entry()).await.unwrap();
        stores
            .keys
            .update(kept.id, &mut |mut key| {
                key.soft_delete(at(9));
                Ok(noted(key))
            })
            .await
            .unwrap();
        assert!(stores.keys.get(kept.id, Rows::Live).await.unwrap().is_none());
        let deleted = stores.keys.get(kept.id, Rows::WithDeleted).await.unwrap().unwrap();
        assert_eq!(deleted.deleted_at, Some(at(9)));
        assert!(stores.keys.list(KeyFilter::of(owner.id)).await.unwrap().is_empty());
        assert_eq!(stores.keys.count_active(owner.id).await.unwrap(), 0);
        stores
            .keys
            .update(kept.id, &mut |mut key| {
                key.restore(at(10));
                Ok(noted(key))
            })
            .await
            .unwrap();
        assert!(stores.keys.get(kept.id, Rows::Live).await.unwrap().is_some());
    }

    /// Newest first, then by id; other accounts' keys never.
    async fn lists_are_ordered_and_stay_inside_the_account(stores) {
        let (owner, other) = (account(1), account(2));
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.accounts.create(&other, &entry()).await.unwrap();
        // Stored in an order that is neither that of time nor that of ids.
        for n in [5, 2, 9, 7, 1] {
            let mut key = key(n, &owner);
            if n > 5 {
                key.created_at = at(5);
            }
            stores.keys.create(&key, &entry()).await.unwrap();
        }
        stores.keys.create(&key(50, &other), &entry()).await.unwrap();
        let listed = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        let order: Vec<_> = listed.iter().map(|key| key.id).collect();
        let expected: Vec<_> = [9, 7, 5, 2, 1].map(|n| key(n, &owner).id).to_vec();
        assert_eq!(order, expected);
    }

    /// The filters, and the count of active keys.
    async fn filters_by_status_and_activity(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        for n in 1..=3 {
            stores.keys.create(&key(n, &owner), &entry()).await.unwrap();
        }
        let mut revoked = key(4, &owner);
        revoked.revoke(at(4));
        stores.keys.create(&revoked, &entry()).await.unwrap();
        let mut expired = key(5, &owner);
        expired.expires_at = Some(at(0));
        stores.keys.create(&expired, &entry()).await.unwrap();

        let all = KeyFilter::of(owner.id);
        let active = KeyFilter { status: Some(ApiKeyStatus::Active), ..all.clone() };
        let stopped = KeyFilter { status: Some(ApiKeyStatus::Revoked), ..all.clone() };
        for (filter, expected) in [
            (all.clone(), 5),
            (active.clone(), 4),
            (stopped.clone(), 1),
            (KeyFilter { active_only: true, ..all }, 4),
            (KeyFilter { active_only: true, ..active }, 4),
            (KeyFilter { active_only: true, ..stopped }, 0),
        ] {
            let found = stores.keys.list(filter.clone()).await.unwrap().len();
            assert_eq!(found, expected, "{filter:?}");
        }
        // An expired key is not revoked, as in the reference.
        assert_eq!(stores.keys.count_active(owner.id).await.unwrap(), 4);
    }

    /// Every order, every filter, every length of page: together the pages are what passes the filter, in its order, once each.
    async fn pages_are_the_list_in_parts(stores) {
        let owner = account(1);
        let keys = listed_keys(&owner);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        for key in &keys {
            stores.keys.create(key, &entry()).await.unwrap();
        }
        let stranger = account(2);
        stores.accounts.create(&stranger, &entry()).await.unwrap();
        stores.keys.create(&key(200, &stranger), &entry()).await.unwrap();
        for filter in key_filters(owner.id) {
            for sort in key_sorts() {
                for limit in [1, 3, 100] {
                    let place = |key: &ApiKey| (key.created_at, key.name.to_string(), key.id);
                    let (listed, pages) = paged(&stores, &filter, &sort, limit).await;
                    let mut expected: Vec<_> = keys
                        .iter()
                        .filter(|key| !key.is_deleted() && filter.matches(key))
                        .map(place)
                        .collect();
                    expected.sort_by(|(at, name, id), (other_at, other_name, other_id)| {
                        sort.compare((*at, name, *id), (*other_at, other_name, *other_id))
                    });
                    let listed: Vec<_> = listed.iter().map(place).collect();
                    assert_eq!(listed, expected, "{filter:?} {sort:?} {limit}");
                    let full = expected.len().div_ceil(usize::try_from(limit).unwrap()).max(1);
                    assert_eq!(pages, full, "{filter:?} {sort:?} {limit}");
                }
            }
        }
    }

    /// Where next to nothing passes, a page ends after so many that were looked at, and the next one goes on there.
    async fn a_page_looks_at_so_many_and_no_more(stores) {
        const LIMIT: u32 = 100;
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let many = 2 * looked_at(LIMIT) + 10;
        let keys: Vec<_> = (0..many).map(|n| numbered_key(n, &owner)).collect();
        for batch in keys.chunks(1_000) {
            let noted = all_noted(batch);
            let imported = stores.transfer.import_keys(&noted, ImportMode::Commit);
            assert!(imported.await.unwrap().iter().all(|came| *came == ImportOutcome::Stored));
        }
        // The oldest and the newest.
        let wanted = [0, many - 1].map(|n| numbered_key(n, &owner).id);
        for (n, id) in [0, many - 1].into_iter().zip(wanted) {
            let name = KeyName::parse(&format!("The one {n}")).unwrap();
            let mut rename = |mut key: ApiKey| {
                key.name = name.clone();
                Ok(noted(key))
            };
            stores.keys.update(id, &mut rename).await.unwrap();
        }
        let filter = KeyFilter {
            name_contains: Some("THE ONE".to_owned()),
            ..KeyFilter::of(owner.id)
        };
        for sort in key_sorts() {
            let (listed, pages) = paged(&stores, &filter, &sort, LIMIT).await;
            let mut found: Vec<_> = listed.iter().map(|key| key.id).collect();
            found.sort();
            let mut expected = wanted.to_vec();
            expected.sort();
            assert_eq!(found, expected, "{sort:?}");
            assert_eq!(pages, 3, "{sort:?}");
        }
        let all = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        assert_eq!(all.len(), usize::try_from(many).unwrap());
    }

    /// So does one of accounts.
    async fn a_page_of_accounts_looks_at_so_many_and_no_more(stores) {
        const LIMIT: u32 = 100;
        let many = looked_at(LIMIT) + 10;
        let accounts: Vec<_> = (0..many).map(|n| numbered_account(n, many)).collect();
        for batch in accounts.chunks(1_000) {
            let noted = all_noted(batch);
            let imported = stores.transfer.import_accounts(&noted, ImportMode::Commit);
            assert!(imported.await.unwrap().iter().all(|came| *came == ImportOutcome::Stored));
        }
        let mut query = AccountQuery {
            filter: AccountFilter {
                // The oldest and the newest.
                name_contains: Some("AN END".to_owned()),
                ..AccountFilter::ALL
            },
            sort: Sort::NEWEST_FIRST,
            limit: LIMIT,
        };
        let mut found = Vec::new();
        let mut pages = 0;
        loop {
            let Page { rows, next } = stores.accounts.page(&query).await.unwrap();
            found.extend(rows.into_iter().map(|account| account.id));
            pages += 1;
            let Some(next) = next else { break };
            query.sort = next;
        }
        assert_eq!(found, [many - 1, 0].map(|n| numbered_account(n, many).id));
        assert_eq!(pages, 2);
    }

    /// What is between others is not taken for one of them.
    async fn what_others_surround_is_not_there(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let all: Vec<_> = (0..40).map(|n| key(n, &owner)).collect();
        for stored in all.iter().step_by(2) {
            stores.keys.create(stored, &entry()).await.unwrap();
        }
        for (n, wanted) in all.iter().enumerate() {
            let is_stored = n % 2 == 0;
            let found = stores.lookup.find(&wanted.key_prefix).await.unwrap();
            let found = found.map(|record| record.key.id);
            assert_eq!(found, is_stored.then_some(wanted.id), "{n}");
            for rows in [Rows::Live, Rows::WithDeleted] {
                let got = stores.keys.get(wanted.id, rows).await.unwrap();
                assert_eq!(got.map(|key| key.id), is_stored.then_some(wanted.id), "{n}");
            }
        }
    }

    /// The hot path gets key and account, whatever their state.
    async fn lookup_finds_key_and_account_in_any_state(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let mut wanted = key(1, &owner);
        wanted.revoke(at(2));
        wanted.soft_delete(at(3));
        stores.keys.create(&wanted, &entry()).await.unwrap();
        stores.keys.create(&key(2, &owner), &entry()).await.unwrap();
        stores
            .accounts
            .update(owner.id, &mut |mut account| {
                account.suspend(at(4));
                account.soft_delete(at(5));
                Ok(noted(account))
            })
            .await
            .unwrap();
        let found = stores.lookup.find(&wanted.key_prefix).await.unwrap().unwrap();
        assert_eq!(fields(&found.key), fields(&wanted));
        assert_eq!(found.account.status, AccountStatus::Suspended);
        assert_eq!(found.account.deleted_at, Some(at(5)));
    }

    /// A lookup that starts after a change has been acknowledged sees it.
    async fn lookup_sees_an_acknowledged_revocation(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        for n in 1..=20 {
            let key = key(n, &owner);
            stores.keys.create(&key, &entry()).await.unwrap();
            stores.lookup.find(&key.key_prefix).await.unwrap().unwrap();
            stores
                .keys
                .update(key.id, &mut |mut key| {
                    key.revoke(at(900));
                    Ok(noted(key))
                })
                .await
                .unwrap();
            let found = stores.lookup.find(&key.key_prefix).await.unwrap().unwrap();
            assert_eq!(found.key.status, ApiKeyStatus::Revoked);
        }
    }

    /// `last_used_at` moves forward only, unknown keys are passed over, and nothing else moves.
    async fn usage_moves_forward_only(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let (first, second) = (key(1, &owner), key(2, &owner));
        stores.keys.create(&first, &entry()).await.unwrap();
        stores.keys.create(&second, &entry()).await.unwrap();
        let uses = |list: &[(_, u32)]| -> Vec<KeyUse> {
            list.iter().map(|&(key_id, used)| KeyUse { key_id, used_at: at(used) }).collect()
        };
        stores.usage.record(&[]).await.unwrap();
        stores
            .usage
            .record(&uses(&[(first.id, 50), (key(99, &owner).id, 60), (second.id, 70)]))
            .await
            .unwrap();
        stores
            .usage
            .record(&uses(&[(second.id, 60), (first.id, 80), (first.id, 40), (first.id, 81)]))
            .await
            .unwrap();
        for (key, last) in [(&first, 81), (&second, 70)] {
            let read = stores.keys.get(key.id, Rows::Live).await.unwrap().unwrap();
            assert_eq!(read.last_used_at, Some(at(last)));
            assert_eq!(read.updated_at, key.updated_at);
        }
    }

    /// Batches that name the same keys in different orders neither block each other for ever nor lose a use.
    async fn racing_usage_batches_keep_the_latest(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let keys: Vec<_> = (1..=20).map(|n| key(n, &owner)).collect();
        for key in &keys {
            stores.keys.create(key, &entry()).await.unwrap();
        }
        let mut race = Vec::new();
        for n in 0..RACERS {
            let mut uses: Vec<_> = keys
                .iter()
                .map(|key| KeyUse { key_id: key.id, used_at: at(u32::try_from(n).unwrap() + 100) })
                .collect();
            if n % 2 == 1 {
                uses.reverse();
            }
            let usage = Arc::clone(&stores.usage);
            race.push(tokio::spawn(async move { record(usage.as_ref(), &uses).await }));
        }
        for racer in race {
            racer.await.unwrap();
        }
        let last = at(u32::try_from(RACERS).unwrap() + 99);
        for key in stores.keys.list(KeyFilter::of(owner.id)).await.unwrap() {
            assert_eq!(key.last_used_at, Some(last));
        }
    }

    /// A change that began before a use was recorded does not undo it.
    async fn a_change_and_a_use_do_not_undo_each_other(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let shared = key(1, &owner);
        stores.keys.create(&shared, &entry()).await.unwrap();
        let mut race = Vec::new();
        for n in 0..u32::try_from(RACERS).unwrap() {
            let (keys, usage, id) =
                (Arc::clone(&stores.keys), Arc::clone(&stores.usage), shared.id);
            race.push(tokio::spawn(async move {
                record(usage.as_ref(), &[KeyUse { key_id: id, used_at: at(200 + n) }]).await;
            }));
            race.push(tokio::spawn(async move {
                keys.update(id, &mut |mut key| {
                    key.rename(KeyName::parse(&format!("Name {n}")).unwrap(), at(300 + n));
                    Ok(noted(key))
                })
                .await
                .unwrap();
            }));
        }
        for racer in race {
            racer.await.unwrap();
        }
        let read = stores.keys.get(shared.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(read.last_used_at, Some(at(199 + u32::try_from(RACERS).unwrap())));
        assert!(read.name.as_str().starts_with("Name "));
    }

    /// An account has as many live keys as its limit says: also where one comes back, and not where one is adopted. Deleted ones
    /// do not count, revoked and expired ones do.
    async fn an_account_has_no_more_keys_than_its_limit(stores) {
        let owner = limited(1, 3);
        let chain = ChainId::Account(owner.id);
        stores.accounts.create(&owner, &entry_in(chain)).await.unwrap();
        let neighbour = limited(2, 1);
        stores.accounts.create(&neighbour, &entry()).await.unwrap();
        stores.keys.create(&key(20, &neighbour), &entry()).await.unwrap();
        let create = async |n| stores.keys.create(&key(n, &owner), &entry_in(chain)).await;
        for n in 1..=3 {
            create(n).await.unwrap();
        }
        let stop = |mut key: ApiKey| {
            key.revoke(at(9));
            Ok(noted(key))
        };
        stores.keys.update(key(1, &owner).id, &mut { stop }).await.unwrap();
        assert!(matches!(create(4).await, Err(CreateKeyError::LimitReached)));
        assert!(stores.lookup.find(&key(4, &owner).key_prefix).await.unwrap().is_none());
        let set_deleted = async |n, deleted: bool| {
            let mut change = |mut key: ApiKey| {
                if deleted {
                    key.soft_delete(at(10));
                } else {
                    key.restore(at(11));
                }
                Ok(Audited::new(key, entry_in(chain)))
            };
            stores.keys.update(key(n, &owner).id, &mut change).await
        };
        set_deleted(2, true).await.unwrap();
        create(4).await.unwrap();
        let restored = set_deleted(2, false).await;
        assert!(matches!(restored, Err(UpdateKeyError::LimitReached)), "{restored:?}");
        // Other changes of a deleted key are made all the same, and nothing of what was refused is left.
        stores.keys.update(key(2, &owner).id, &mut { stop }).await.unwrap();
        set_deleted(3, true).await.unwrap();
        set_deleted(2, false).await.unwrap();
        stores.keys.adopt(&key(5, &owner), &entry_in(chain)).await.unwrap();
        assert!(matches!(create(6).await, Err(CreateKeyError::LimitReached)));
        // The operator says otherwise.
        let raise = async |keys| {
            let mut raise = |mut account: Account| {
                account.key_limit = KeyLimit::new(keys).unwrap();
                Ok(noted(account))
            };
            stores.accounts.update(owner.id, &mut raise).await.unwrap();
        };
        raise(5).await;
        create(6).await.unwrap();
        assert!(matches!(create(7).await, Err(CreateKeyError::LimitReached)));
        raise(0).await;
        assert!(matches!(create(7).await, Err(CreateKeyError::LimitReached)));
        assert_eq!(stores.keys.list(KeyFilter::of(owner.id)).await.unwrap().len(), 5);
        let neighbours = stores.keys.list(KeyFilter::of(neighbour.id)).await.unwrap();
        assert_eq!(neighbours.len(), 1);
    }

    /// What was imported counts, and is imported whatever the limit.
    async fn imported_keys_count(stores) {
        let owner = limited(1, 2);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let mut gone = key(4, &owner);
        gone.soft_delete(at(9));
        let keys = [key(1, &owner), key(2, &owner), key(3, &owner), gone];
        let tried = stores.transfer.import_keys(&all_noted(&keys), ImportMode::DryRun).await;
        assert_eq!(tried.unwrap(), [ImportOutcome::Stored; 4]);
        stores.keys.create(&key(5, &owner), &entry()).await.unwrap();
        let came = stores.transfer.import_keys(&all_noted(&keys), ImportMode::Commit).await;
        assert_eq!(came.unwrap(), [ImportOutcome::Stored; 4]);
        let mut raise = |mut account: Account| {
            account.key_limit = KeyLimit::new(5).unwrap();
            Ok(noted(account))
        };
        stores.accounts.update(owner.id, &mut raise).await.unwrap();
        stores.keys.create(&key(6, &owner), &entry()).await.unwrap();
        let full = stores.keys.create(&key(7, &owner), &entry()).await;
        assert!(matches!(full, Err(CreateKeyError::LimitReached)), "{full:?}");
    }

    /// However many come at once, and whichever way, no more are there than may be.
    async fn racing_for_the_last_keys_of_an_account_has_so_many_winners(stores) {
        const ROOM: usize = 5;
        let owner = limited(1, u32::try_from(ROOM + 1).unwrap());
        let chain = ChainId::Account(owner.id);
        stores.accounts.create(&owner, &entry_in(chain)).await.unwrap();
        let mut back = key(100, &owner);
        back.soft_delete(at(9));
        stores.keys.create(&back, &entry_in(chain)).await.unwrap();
        stores.keys.create(&key(101, &owner), &entry_in(chain)).await.unwrap();
        let mut race = Vec::new();
        for n in 0..RACERS {
            let keys = Arc::clone(&stores.keys);
            let key = key(u8::try_from(n).unwrap(), &owner);
            race.push(tokio::spawn(async move {
                match keys.create(&key, &entry_in(chain)).await {
                    Ok(()) => true,
                    Err(CreateKeyError::LimitReached) => false,
                    Err(other) => panic!("{other:?}"),
                }
            }));
        }
        let keys = Arc::clone(&stores.keys);
        race.push(tokio::spawn(async move {
            let mut restore = |mut key: ApiKey| {
                key.restore(at(20));
                Ok(Audited::new(key, entry_in(chain)))
            };
            match keys.update(back.id, &mut restore).await {
                Ok(_) => true,
                Err(UpdateKeyError::LimitReached) => false,
                Err(other) => panic!("{other:?}"),
            }
        }));
        let mut winners = 0;
        for racer in race {
            winners += usize::from(racer.await.unwrap());
        }
        assert_eq!(winners, ROOM);
        let listed = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        assert_eq!(listed.len(), ROOM + 1);
    }

    /// A request that is sent again makes no second key, whatever has become of the first; another one with its name makes none.
    async fn a_request_that_is_sent_again_makes_no_second_key(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let (first, second) = (key(1, &owner), key(2, &owner));
        let request = request(1, "order 7", "a key", 1);
        let once = stores.keys.create_once(&first, &entry(), &request).await.unwrap();
        assert_eq!(once, Once::Now(first.id));
        let mut delete = |mut key: ApiKey| {
            key.soft_delete(at(9));
            Ok(noted(key))
        };
        stores.keys.update(first.id, &mut delete).await.unwrap();
        let again = stores.keys.create_once(&second, &entry(), &request).await.unwrap();
        assert_eq!(again, Once::Before(first.id));
        assert!(stores.keys.get(second.id, Rows::WithDeleted).await.unwrap().is_none());
        let other = IdempotentRequest {
            fingerprint: Fingerprint::of("POST", b"another key"),
            ..request.clone()
        };
        let refused = stores.keys.create_once(&second, &entry(), &other).await;
        assert!(matches!(refused, Err(CreateKeyError::OtherRequest)), "{refused:?}");
        // The name is another caller's too.
        let of_another = IdempotentRequest { caller: key(9, &owner).id, ..other };
        let once = stores.keys.create_once(&second, &entry(), &of_another).await.unwrap();
        assert_eq!(once, Once::Now(second.id));
        assert_eq!(stores.keys.list(KeyFilter::of(owner.id)).await.unwrap().len(), 1);
    }

    /// What could not be done is not noted, and a day later what was is forgotten.
    async fn a_request_that_failed_is_free_and_one_of_yesterday_is_forgotten(stores) {
        let owner = limited(1, 1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.keys.create(&key(1, &owner), &entry()).await.unwrap();
        let mut request = request(1, "n", "a key", 1);
        let full = stores.keys.create_once(&key(2, &owner), &entry(), &request).await;
        assert!(matches!(full, Err(CreateKeyError::LimitReached)), "{full:?}");
        let nobody = account(7);
        let none = stores.keys.create_once(&key(2, &nobody), &entry(), &request).await;
        assert!(matches!(none, Err(CreateKeyError::AccountNotFound)), "{none:?}");
        let mut raise = |mut account: Account| {
            account.key_limit = KeyLimit::new(9).unwrap();
            Ok(noted(account))
        };
        stores.accounts.update(owner.id, &mut raise).await.unwrap();
        let once = stores.keys.create_once(&key(2, &owner), &entry(), &request).await.unwrap();
        assert_eq!(once, Once::Now(key(2, &owner).id));
        let made = request.at;
        let later = |span| Timestamp::from_unix_micros(made.unix_micros() + span).unwrap();
        let day = 24 * 60 * 60 * 1_000_000;
        request.at = later(day - 1);
        let again = stores.keys.create_once(&key(3, &owner), &entry(), &request).await.unwrap();
        assert_eq!(again, Once::Before(key(2, &owner).id));
        request.at = later(day);
        request.fingerprint = Fingerprint::of("POST", b"something else by now");
        let once = stores.keys.create_once(&key(3, &owner), &entry(), &request).await.unwrap();
        assert_eq!(once, Once::Now(key(3, &owner).id));
    }

    /// Of many that are one request, exactly one is done.
    async fn racing_with_one_request_makes_one_key(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let mut race = Vec::new();
        for n in 0..RACERS {
            let keys = Arc::clone(&stores.keys);
            let key = key(u8::try_from(n).unwrap(), &owner);
            race.push(tokio::spawn(async move {
                keys.create_once(&key, &entry(), &request(1, "n", "a key", 1)).await.unwrap()
            }));
        }
        let (mut made, mut named) = (Vec::new(), Vec::new());
        for racer in race {
            match racer.await.unwrap() {
                Once::Now(id) => made.push(id),
                Once::Before(id) => named.push(id),
            }
        }
        let listed = stores.keys.list(KeyFilter::of(owner.id)).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|key| key.id).collect();
        assert_eq!(made, listed);
        assert_eq!(named, vec![made[0]; RACERS - 1]);
    }

    /// The same of accounts.
    async fn a_request_that_is_sent_again_makes_no_second_account(stores) {
        let request = request(1, "n", "an account", 1);
        let (first, mut second) = (account(1), account(2));
        let once = stores.accounts.create_once(&first, &entry(), &request).await.unwrap();
        assert_eq!(once, Once::Now(first.id));
        let again = stores.accounts.create_once(&second, &entry(), &request).await.unwrap();
        assert_eq!(again, Once::Before(first.id));
        let other = IdempotentRequest {
            fingerprint: Fingerprint::of("POST", b"another account"),
            ..request.clone()
        };
        let refused = stores.accounts.create_once(&second, &entry(), &other).await;
        assert!(matches!(refused, Err(CreateAccountError::OtherRequest)), "{refused:?}");
        second.name = first.name.clone();
        let free = IdempotentRequest { key: IdempotencyKey::parse("m").unwrap(), ..request };
        let taken = stores.accounts.create_once(&second, &entry(), &free).await;
        assert!(matches!(taken, Err(CreateAccountError::NameTaken)), "{taken:?}");
        second.name = AccountName::parse("Its own").unwrap();
        let once = stores.accounts.create_once(&second, &entry(), &free).await.unwrap();
        assert_eq!(once, Once::Now(second.id));
        assert_eq!(stores.accounts.list().await.unwrap().len(), 2);
    }

    /// Of many that are one request for an account, exactly one is done.
    async fn racing_with_one_request_makes_one_account(stores) {
        let mut race = Vec::new();
        for n in 0..RACERS {
            let accounts = Arc::clone(&stores.accounts);
            let account = account(u8::try_from(n).unwrap());
            race.push(tokio::spawn(async move {
                let request = request(1, "n", "an account", 1);
                accounts.create_once(&account, &entry(), &request).await.unwrap()
            }));
        }
        let (mut made, mut named) = (Vec::new(), Vec::new());
        for racer in race {
            match racer.await.unwrap() {
                Once::Now(id) => made.push(id),
                Once::Before(id) => named.push(id),
            }
        }
        let listed = stores.accounts.list().await.unwrap();
        let listed: Vec<_> = listed.iter().map(|account| account.id).collect();
        assert_eq!(made, listed);
        assert_eq!(named, vec![made[0]; RACERS - 1]);
    }

    /// Names and slugs are unique among live accounts; the name is named first.
    async fn names_and_slugs_are_unique_among_live_accounts(stores) {
        let taken = account(1);
        stores.accounts.create(&taken, &entry()).await.unwrap();
        let mut both = account(2);
        both.name = taken.name.clone();
        both.slug = taken.slug.clone();
        assert!(matches!(
            stores.accounts.create(&both, &entry()).await,
            Err(CreateAccountError::NameTaken)
        ));
        both.name = AccountName::parse("Another name").unwrap();
        assert!(matches!(
            stores.accounts.create(&both, &entry()).await,
            Err(CreateAccountError::SlugTaken)
        ));
        assert!(stores.accounts.get(both.id, Rows::WithDeleted).await.unwrap().is_none());
        stores
            .accounts
            .update(taken.id, &mut |mut account| {
                account.soft_delete(at(9));
                Ok(noted(account))
            })
            .await
            .unwrap();
        both.name = taken.name.clone();
        stores.accounts.create(&both, &entry()).await.unwrap();
        // And now the deleted one cannot come back.
        let restored = stores
            .accounts
            .update(taken.id, &mut |mut account| {
                account.restore(at(10));
                Ok(noted(account))
            })
            .await;
        assert!(matches!(restored, Err(UpdateAccountError::NameTaken)));
        assert!(stores.accounts.get(taken.id, Rows::Live).await.unwrap().is_none());
    }

    /// Also when an account is changed; and the refused change leaves everything.
    async fn an_account_cannot_be_changed_to_what_another_has(stores) {
        let (one, two) = (account(1), account(2));
        stores.accounts.create(&one, &entry()).await.unwrap();
        stores.accounts.create(&two, &entry()).await.unwrap();
        let renamed = stores
            .accounts
            .update(two.id, &mut |mut account| {
                account.suspend(at(9));
                account.name = one.name.clone();
                Ok(noted(account))
            })
            .await;
        assert!(matches!(renamed, Err(UpdateAccountError::NameTaken)));
        let moved = stores
            .accounts
            .update(two.id, &mut |mut account| {
                account.slug = one.slug.clone();
                Ok(noted(account))
            })
            .await;
        assert!(matches!(moved, Err(UpdateAccountError::SlugTaken)));
        assert_eq!(stores.accounts.get(two.id, Rows::Live).await.unwrap(), Some(two));
    }

    /// Of many that want one name, one gets it.
    async fn racing_for_an_account_name_has_one_winner(stores) {
        let mut race = Vec::new();
        for n in 0..RACERS {
            let mut account = account(u8::try_from(n).unwrap());
            account.name = AccountName::parse("Contested").unwrap();
            let accounts = Arc::clone(&stores.accounts);
            race.push(tokio::spawn(async move { accounts.create(&account, &entry()).await }));
        }
        let mut winners = 0;
        for racer in race {
            match racer.await.unwrap() {
                Ok(()) => winners += 1,
                Err(CreateAccountError::NameTaken) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(winners, 1);
        assert_eq!(stores.accounts.list().await.unwrap().len(), 1);
    }

    /// Of many that each count on being first, one is.
    async fn racing_changes_of_an_account_have_one_winner(stores) {
        let contested = account(1);
        stores.accounts.create(&contested, &entry()).await.unwrap();
        let mut race = Vec::new();
        for _ in 0..RACERS {
            let (accounts, id) = (Arc::clone(&stores.accounts), contested.id);
            race.push(tokio::spawn(async move {
                accounts
                    .update(id, &mut |mut account| {
                        if account.status == AccountStatus::Suspended {
                            return Err(AccountRefusal::Deleted);
                        }
                        account.suspend(at(100));
                        Ok(noted(account))
                    })
                    .await
            }));
        }
        let mut winners = 0;
        for racer in race {
            match racer.await.unwrap() {
                Ok(_) => winners += 1,
                Err(UpdateAccountError::Refused(AccountRefusal::Deleted)) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(winners, 1);
    }

    /// A refusal rolls back, and an update writes every field that may change.
    async fn an_account_update_is_all_or_nothing(stores) {
        let kept = account(1);
        stores.accounts.create(&kept, &entry()).await.unwrap();
        let refused = stores
            .accounts
            .update(kept.id, &mut |mut account| {
                account.suspend(at(9));
                Err(AccountRefusal::OperatorProtected)
            })
            .await;
        assert!(matches!(
            refused,
            Err(UpdateAccountError::Refused(AccountRefusal::OperatorProtected))
        ));
        assert_eq!(stores.accounts.get(kept.id, Rows::Live).await.unwrap(), Some(kept.clone()));

        let mut expected = kept.clone();
        expected.name = AccountName::parse("Renamed").unwrap();
        expected.slug = Slug::parse("renamed").unwrap();
        expected.status = AccountStatus::Suspended;
        expected.role = AccountRole::Operator;
        expected.key_limit = KeyLimit::new(7).unwrap();
        expected.updated_at = at(9);
        expected.deleted_at = Some(at(9));
        let answered =
            stores.accounts.update(kept.id, &mut |_| Ok(noted(expected.clone()))).await.unwrap();
        assert_eq!(answered, expected);
        let read = stores.accounts.get(kept.id, Rows::WithDeleted).await.unwrap();
        assert_eq!(read, Some(expected));
    }

    /// Live accounts, newest first.
    async fn accounts_are_listed_newest_first(stores) {
        for n in [2, 5, 1, 3] {
            stores.accounts.create(&account(n), &entry()).await.unwrap();
        }
        let mut deleted = account(4);
        deleted.soft_delete(at(9));
        stores.accounts.create(&deleted, &entry()).await.unwrap();
        let listed = stores.accounts.list().await.unwrap();
        assert_eq!(listed, [5, 3, 2, 1].map(account).to_vec());
    }

    /// The first operator comes with a key or not at all.
    async fn an_account_and_its_first_key_are_one_unit(stores) {
        assert!(stores.accounts.is_empty().await.unwrap());
        let operator = account_of(1, AccountRole::Operator);
        let first = key(1, &operator);
        stores.accounts.create_with_key(&operator, &first, &entry()).await.unwrap();
        assert!(!stores.accounts.is_empty().await.unwrap());
        let found = stores.lookup.find(&first.key_prefix).await.unwrap().unwrap();
        assert_eq!(found.account, operator);
        assert_eq!(stores.accounts.find_operator().await.unwrap(), Some(operator.clone()));

        // A clash of the key leaves no account behind, a clash of the account no key.
        let second = account_of(2, AccountRole::Operator);
        let mut clashing = key(2, &second);
        clashing.key_prefix = first.key_prefix.clone();
        assert!(matches!(
            stores.accounts.create_with_key(&second, &clashing, &entry()).await,
            Err(CreateOperatorError::PrefixTaken)
        ));
        assert!(stores.accounts.get(second.id, Rows::WithDeleted).await.unwrap().is_none());
        let mut third = account_of(3, AccountRole::Operator);
        third.slug = operator.slug.clone();
        let unowned = key(3, &third);
        assert!(matches!(
            stores.accounts.create_with_key(&third, &unowned, &entry()).await,
            Err(CreateOperatorError::AccountTaken)
        ));
        assert!(stores.keys.get(unowned.id, Rows::WithDeleted).await.unwrap().is_none());
    }

    /// An id is given once, deleted records included: nothing is stored, nothing is overwritten, and trying again does not help.
    async fn an_id_is_given_once(stores) {
        let (owner, mut gone) = (account(1), account(2));
        gone.soft_delete(at(3));
        stores.accounts.create(&owner, &entry()).await.unwrap();
        stores.accounts.create(&gone, &entry()).await.unwrap();
        let held = key(1, &owner);
        stores.keys.create(&held, &entry()).await.unwrap();

        for there in [&owner, &gone] {
            let mut account = account_of(9, AccountRole::Operator);
            account.id = there.id;
            let created = stores.accounts.create(&account, &entry()).await;
            assert!(
                matches!(&created, Err(CreateAccountError::Store(error)) if !error.is_retryable()),
                "{created:?}"
            );
            let first = key(9, &account);
            let created = stores.accounts.create_with_key(&account, &first, &entry()).await;
            assert!(
                matches!(&created, Err(CreateOperatorError::Store(error)) if !error.is_retryable()),
                "{created:?}"
            );
            assert!(stores.lookup.find(&first.key_prefix).await.unwrap().is_none());
        }
        let other = account_of(8, AccountRole::Operator);
        let mut first = key(8, &other);
        first.id = held.id;
        let created = stores.accounts.create_with_key(&other, &first, &entry()).await;
        assert!(
            matches!(&created, Err(CreateOperatorError::Store(error)) if !error.is_retryable()),
            "{created:?}"
        );
        assert!(stores.accounts.get(other.id, Rows::WithDeleted).await.unwrap().is_none());
        assert!(stores.lookup.find(&first.key_prefix).await.unwrap().is_none());
        let mut again = key(9, &owner);
        again.id = held.id;
        let created = stores.keys.create(&again, &entry()).await;
        assert!(
            matches!(&created, Err(CreateKeyError::Store(error)) if !error.is_retryable()),
            "{created:?}"
        );
        assert!(stores.lookup.find(&again.key_prefix).await.unwrap().is_none());

        for there in [&owner, &gone] {
            let read = stores.accounts.get(there.id, Rows::WithDeleted).await.unwrap();
            assert_eq!(read.as_ref(), Some(there));
        }
        let read = stores.keys.get(held.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&held));
        assert_eq!(stores.keys.list(KeyFilter::of(owner.id)).await.unwrap().len(), 1);
    }

    /// A deleted account makes a store not empty, and is no operator.
    async fn deleted_accounts_count_for_emptiness_only(stores) {
        stores.accounts.create(&account(1), &entry()).await.unwrap();
        assert!(stores.accounts.find_operator().await.unwrap().is_none(), "a tenant is none");
        let mut gone = account_of(2, AccountRole::Operator);
        gone.soft_delete(at(3));
        stores.accounts.create(&gone, &entry()).await.unwrap();
        assert!(stores.accounts.find_operator().await.unwrap().is_none());
        assert!(!stores.accounts.is_empty().await.unwrap());
        for n in [8, 6, 7] {
            stores.accounts.create(&account_of(n, AccountRole::Operator), &entry()).await.unwrap();
        }
        let oldest = stores.accounts.find_operator().await.unwrap().unwrap();
        assert_eq!(oldest, account_of(6, AccountRole::Operator));
    }

    /// A slug finds its live account.
    async fn a_slug_finds_its_live_account(stores) {
        let mut gone = account(1);
        gone.soft_delete(at(3));
        stores.accounts.create(&gone, &entry()).await.unwrap();
        assert_eq!(stores.accounts.find_by_slug(&gone.slug).await.unwrap(), None);
        let mut heir = account(2);
        heir.slug = gone.slug.clone();
        stores.accounts.create(&heir, &entry()).await.unwrap();
        stores.accounts.create(&account(3), &entry()).await.unwrap();
        assert_eq!(stores.accounts.find_by_slug(&gone.slug).await.unwrap(), Some(heir));
    }

    /// Of those that register a secret under one id the first stays registered, and all hear of it.
    async fn a_secret_is_registered_once(stores) {
        assert!(stores.secrets.registered().await.unwrap().is_empty());
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let secrets = Arc::clone(&stores.secrets);
                let pepper = Pepper::new(&format!("the secret of racer {n}, long enough")).unwrap();
                let pepper = StoredPepper::new(PepperId::default(), pepper.check(), sealed(&pepper));
                tokio::spawn(async move { secrets.register(&pepper, true, &entry()).await.unwrap() })
            })
            .collect();
        let mut answered = Vec::new();
        for racer in racers {
            for pepper in racer.await.unwrap() {
                answered.push(pepper.check.expose_hex().to_owned());
            }
        }
        assert_eq!(answered.len(), RACERS);
        answered.dedup();
        let registered = stores.secrets.registered().await.unwrap();
        let registered: Vec<_> = registered.iter().map(|pepper| pepper.check.expose_hex()).collect();
        assert_eq!(answered, registered);
        assert_eq!(entries(&stores).await, 1, "one of them was written down");
    }

    /// A store never has two keys of the trail, whoever founds one at the same time under which secret.
    async fn racing_to_found_the_trail_has_one_winner(stores) {
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let secrets = Arc::clone(&stores.secrets);
                let (stored, _) = pepper(&format!("racer-{n}"));
                tokio::spawn(async move { secrets.register(&stored, true, &entry()).await.unwrap() })
            })
            .collect();
        for racer in racers {
            assert_eq!(racer.await.unwrap().len(), 1, "all are answered what the first brought");
        }
        // Whoever has the store's own key shares it under another secret; what is registered is not registered again.
        let (other, _) = pepper("other");
        for _ in 0..2 {
            let stored = register(&stores, &other).await;
            assert_eq!(stored.audit_key, other.audit_key);
        }
        assert_eq!(stores.secrets.registered().await.unwrap().len(), 2);
        assert_eq!(entries(&stores).await, 2);
    }

    /// A secret that was registered before there was a trail is given its key; one of another check value is not.
    async fn a_registered_secret_is_given_the_key_of_the_trail(stores) {
        let (with, ring) = pepper("a");
        let without = StoredPepper { audit_key: None, ..with.clone() };
        assert_eq!(register(&stores, &without).await.audit_key, None);
        let impostor = StoredPepper { check: Pepper::new(SECRET).unwrap().check(), ..with.clone() };
        let answered = stores.secrets.register(&impostor, true, &entry()).await.unwrap();
        assert_eq!(answered[0].audit_key, None);
        let answered = stores.secrets.register(&with, true, &entry()).await.unwrap();
        assert_eq!(answered[0].audit_key, with.audit_key);
        assert!(ring.current().open_audit_key(answered[0].audit_key.as_ref().unwrap()).is_some());
        assert_eq!(entries(&stores).await, 2);
    }

    /// Secrets of other ids stand beside one another, in the order of the ids.
    async fn secrets_are_told_apart_by_their_ids(stores) {
        for id in ["b", "a", "c"] {
            let (stored, _) = pepper(id);
            let answered = register(&stores, &stored).await;
            assert_eq!(answered.check.expose_hex(), stored.check.expose_hex());
        }
        let registered = stores.secrets.registered().await.unwrap();
        let seen = registered.iter().map(|pepper| (pepper.id.as_str(), pepper.dropped_at));
        assert_eq!(seen.collect::<Vec<_>>(), [("a", None), ("b", None), ("c", None)]);
    }

    /// What a key depends on is its row's secret, as long as the key could still work.
    async fn keys_are_counted_by_their_secret(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let ((_, old), (_, new)) = (pepper("old"), pepper("new"));
        let mut revoked = key_under(&old, 1, &owner);
        revoked.revoke(at(2));
        let mut deleted = key_under(&old, 2, &owner);
        deleted.soft_delete(at(3));
        let mut expiring = key_under(&old, 3, &owner);
        expiring.expires_at = Some(at(50));
        for key in [revoked, deleted, expiring, key_under(&new, 4, &owner)] {
            stores.keys.create(&key, &entry()).await.unwrap();
        }
        for (now, old) in [(at(49), 2), (at(50), 1)] {
            let counts = stores.secrets.count_keys(now).await.unwrap();
            let counts: Vec<_> = counts.iter().map(|count| (count.id.as_str(), count.keys)).collect();
            assert_eq!(counts, [("new", 1), ("old", old)]);
        }
    }

    /// A secret that a key depends on is not dropped, and the keys are named; one that none does is.
    async fn a_secret_is_dropped_when_no_key_depends_on_it(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let ((stored, old), (_, new)) = (pepper("old"), pepper("new"));
        assert!(matches!(
            stores.secrets.drop_pepper(&stored.id, at(9), &entry()).await,
            Err(DropPepperError::NotRegistered)
        ));
        for secret in [&stored, &pepper("kept").0] {
            register(&stores, secret).await;
        }
        let mut expired = key_under(&old, 1, &owner);
        expired.expires_at = Some(at(5));
        let mut deleted = key_under(&old, 2, &owner);
        deleted.soft_delete(at(3));
        let (held, other) = (key_under(&old, 3, &owner), key_under(&new, 4, &owner));
        for key in [&expired, &deleted, &held, &other] {
            stores.keys.create(key, &entry()).await.unwrap();
        }
        let Err(DropPepperError::InUse { count, first }) = stores.secrets.drop_pepper(&stored.id, at(9), &entry()).await else {
            panic!("a key depends on it");
        };
        assert_eq!((count, first.iter().map(fields).collect::<Vec<_>>()), (1, vec![fields(&held)]));
        assert_eq!(stores.secrets.registered().await.unwrap()[1].dropped_at, None);
        stores.keys.update(held.id, &mut |mut key| { key.soft_delete(at(9)); Ok(noted(key)) }).await.unwrap();
        for now in [at(9), at(10)] {
            stores.secrets.drop_pepper(&stored.id, now, &entry()).await.unwrap();
        }
        let registered = register(&stores, &stored).await;
        assert_eq!(registered.dropped_at, Some(at(9)), "the first time counts, and it stays dropped");
        // From now on nothing is stored under it.
        let late = key_under(&old, 5, &owner);
        let second = account_of(2, AccountRole::Operator);
        let first_key = key_under(&old, 6, &second);
        // Also where the prefix is taken: another one would not help.
        for prefix in [None, Some(&other.key_prefix)] {
            let (mut late, mut first_key) = (late.clone(), first_key.clone());
            for key in [&mut late, &mut first_key] {
                key.key_prefix = prefix.unwrap_or(&key.key_prefix).clone();
            }
            assert!(matches!(stores.keys.create(&late, &entry()).await, Err(CreateKeyError::PepperDropped)));
            assert!(matches!(
                stores.accounts.create_with_key(&second, &first_key, &entry()).await,
                Err(CreateOperatorError::PepperDropped)
            ));
        }
        let imported = stores.transfer.import_keys(&[noted(late.clone())], ImportMode::Commit).await.unwrap();
        assert_eq!(imported, [ImportOutcome::Conflict(ImportConflict::PepperDropped)]);
        assert!(stores.keys.get(late.id, Rows::WithDeleted).await.unwrap().is_none());
        assert!(stores.accounts.get(second.id, Rows::WithDeleted).await.unwrap().is_none());
        let back = Rehash { key_id: other.id, was: other.key_hash, becomes: old.hash(&plain_key(4)) };
        assert_eq!(stores.secrets.rehash(&[back], &entry()).await.unwrap(), 0);
    }

    /// The audit trail's key can be read as long as there is a trail: the last secret that has it is not dropped.
    async fn the_last_secret_with_the_key_of_the_trail_is_not_dropped(stores) {
        let ((old, _), (new, _)) = (pepper("old"), pepper("new"));
        let keyless = |id: &str| StoredPepper { audit_key: None, ..pepper(id).0 };
        let drop = async |id: &PepperId| stores.secrets.drop_pepper(id, at(9), &entry()).await;
        // Before there is a trail there is nothing to lose.
        for id in ["early", "gone", "other"] {
            register(&stores, &keyless(id)).await;
        }
        drop(&keyless("early").id).await.unwrap();
        register(&stores, &old).await;
        let gone = register(&stores, &pepper("gone").0).await;
        drop(&gone.id).await.unwrap();
        // Neither one that does not have the key nor one that was dropped is of use.
        let before = entries(&stores).await;
        let refused = drop(&old.id).await;
        assert!(matches!(refused, Err(DropPepperError::LastWithAuditKey)), "{refused:?}");
        let kept = register(&stores, &old).await;
        assert!(kept.dropped_at.is_none() && kept.audit_key.is_some());
        assert_eq!(entries(&stores).await, before, "nothing was done, and nothing said");
        drop(&keyless("other").id).await.unwrap();
        register(&stores, &new).await;
        drop(&old.id).await.unwrap();
        let refused = drop(&new.id).await;
        assert!(matches!(refused, Err(DropPepperError::LastWithAuditKey)), "{refused:?}");
        // What was dropped stays so.
        drop(&old.id).await.unwrap();
    }

    /// Whoever knows a secret that was dropped cannot read the audit trail's key with it, from then on.
    async fn a_dropped_secret_does_not_have_the_key_of_the_trail(stores) {
        let ((old, _), (new, _)) = (pepper("old"), pepper("new"));
        for secret in [&old, &new] {
            assert!(register(&stores, secret).await.audit_key.is_some());
        }
        stores.secrets.drop_pepper(&old.id, at(9), &entry()).await.unwrap();
        let before = entries(&stores).await;
        // Nor does it get it again, whoever has it in a keyring still.
        for _ in 0..2 {
            let with_key: Vec<_> = stores.secrets.registered().await.unwrap().into_iter()
                .map(|stored| (stored.id, stored.audit_key.is_some()))
                .collect();
            assert_eq!(with_key, [(new.id.clone(), true), (old.id.clone(), false)]);
            assert_eq!(register(&stores, &old).await.dropped_at, Some(at(9)));
        }
        assert_eq!(entries(&stores).await, before, "nothing was done, and nothing said");
    }

    /// Of several that are dropped at once one is left, with which the audit trail's key can be read.
    async fn racing_drops_leave_one_secret_with_the_key_of_the_trail(stores) {
        let ids: Vec<_> = (0..RACERS).map(|n| pepper(&format!("racer-{n}")).0).collect();
        for secret in &ids {
            register(&stores, secret).await;
        }
        let racers: Vec<_> = ids.into_iter().map(|StoredPepper { id, .. }| {
            let secrets = Arc::clone(&stores.secrets);
            tokio::spawn(async move { secrets.drop_pepper(&id, at(9), &entry()).await })
        }).collect();
        let mut refused = 0;
        for racer in racers {
            match racer.await.unwrap() {
                Ok(()) => {}
                Err(DropPepperError::LastWithAuditKey) => refused += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(refused, 1);
    }

    /// Of keys that are issued under a secret while it is dropped, none is left that nobody can use.
    async fn racing_issue_and_drop_leave_no_orphan(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        register(&stores, &pepper("kept").0).await;
        for round in 0..RACERS {
            let (stored, ring) = pepper(&format!("round-{round}"));
            register(&stores, &stored).await;
            let key = key_under(&ring, u8::try_from(round + 1).unwrap(), &owner);
            let issue = tokio::spawn({
                let (keys, key) = (Arc::clone(&stores.keys), key.clone());
                async move { keys.create(&key, &entry()).await }
            });
            let dropped = stores.secrets.drop_pepper(&stored.id, at(99), &entry()).await;
            let issued = issue.await.unwrap();
            assert_ne!(dropped.is_ok(), issued.is_ok(), "round {round}: {dropped:?} {issued:?}");
        }
    }

    /// Nobody brings a key back that could never be used again. Whatever else is done to keys under a secret that was dropped
    /// is done.
    async fn a_key_is_not_restored_under_a_secret_that_was_dropped(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let ((stored, old), (other, new)) = (pepper("old"), pepper("new"));
        register(&stores, &stored).await;
        register(&stores, &other).await;
        let mut deleted = key_under(&old, 1, &owner);
        deleted.soft_delete(at(3));
        let mut elsewhere = key_under(&new, 2, &owner);
        elsewhere.soft_delete(at(3));
        let mut expired = key_under(&old, 3, &owner);
        expired.expires_at = Some(at(5));
        for key in [&deleted, &elsewhere, &expired] {
            stores.keys.create(key, &entry()).await.unwrap();
        }
        stores.secrets.drop_pepper(&stored.id, at(9), &entry()).await.unwrap();
        let before = entries(&stores).await;
        let mut restore = |mut key: ApiKey| {
            key.restore(at(10));
            key.rename(KeyName::parse("Back").unwrap(), at(10));
            Ok(noted(key))
        };
        let restored = stores.keys.update(deleted.id, &mut restore).await;
        assert!(matches!(restored, Err(UpdateKeyError::PepperDropped)), "{restored:?}");
        let read = stores.keys.get(deleted.id, Rows::WithDeleted).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&deleted));
        assert_eq!(entries(&stores).await, before, "nothing was done, and nothing said");

        let restored = stores.keys.update(elsewhere.id, &mut restore).await.unwrap();
        assert!(!restored.is_deleted());
        // A key that is live stays so, and one that is deleted may be changed as long as it stays that.
        let renamed = stores.keys.update(expired.id, &mut restore).await.unwrap();
        assert_eq!(renamed.name.as_str(), "Back");
        let changes: [fn(&mut ApiKey); 3] =
            [|key| key.revoke(at(11)), |key| key.reactivate(at(12)), |key| key.soft_delete(at(13))];
        for change in changes {
            stores.keys.update(expired.id, &mut |mut key| {
                change(&mut key);
                Ok(noted(key))
            }).await.unwrap();
        }
        let revoked = stores.keys.update(deleted.id, &mut |mut key| {
            key.revoke(at(14));
            Ok(noted(key))
        }).await.unwrap();
        assert_eq!((revoked.status, revoked.deleted_at), (ApiKeyStatus::Revoked, Some(at(3))));
        let restored = stores.keys.update(expired.id, &mut restore).await;
        assert!(matches!(restored, Err(UpdateKeyError::PepperDropped)), "{restored:?}");
        assert_eq!(entries(&stores).await, before + 6);
    }

    /// Of keys that are restored while their secret is dropped, none is left that nobody can use.
    async fn racing_restore_and_drop_leave_no_orphan(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        register(&stores, &pepper("kept").0).await;
        for round in 0..RACERS {
            let (stored, ring) = pepper(&format!("round-{round}"));
            register(&stores, &stored).await;
            let mut key = key_under(&ring, u8::try_from(round + 1).unwrap(), &owner);
            key.soft_delete(at(3));
            stores.keys.create(&key, &entry()).await.unwrap();
            let restore = tokio::spawn({
                let (keys, id) = (Arc::clone(&stores.keys), key.id);
                async move {
                    let mut restore = |mut key: ApiKey| {
                        key.restore(at(10));
                        Ok(noted(key))
                    };
                    keys.update(id, &mut restore).await
                }
            });
            let dropped = stores.secrets.drop_pepper(&stored.id, at(99), &entry()).await;
            let restored = restore.await.unwrap();
            assert_ne!(dropped.is_ok(), restored.is_ok(), "round {round}: {dropped:?} {restored:?}");
        }
    }

    /// A key is given its new hash where it has the old one, and nothing else of it changes.
    async fn a_key_is_hashed_anew(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let ((_, old), (_, new)) = (pepper("old"), pepper("new"));
        let mut keys: Vec<_> = (1..=3).map(|n| key_under(&old, n, &owner)).collect();
        for key in &keys {
            stores.keys.create(key, &entry()).await.unwrap();
        }
        let anew = |n: u8| {
            let key = &keys[usize::from(n) - 1];
            Rehash { key_id: key.id, was: key.key_hash.clone(), becomes: new.hash(&plain_key(n)) }
        };
        let mut elsewhere = anew(3);
        elsewhere.was = new.hash(&plain_key(3)).hash;
        let mut nobody = anew(3);
        nobody.key_id = key(9, &owner).id;
        let batch = [anew(1), anew(2), elsewhere, nobody];
        assert_eq!(stores.secrets.rehash(&batch, &entry()).await.unwrap(), 2);
        assert_eq!(stores.secrets.rehash(&batch, &entry()).await.unwrap(), 0, "they have it already");
        assert_eq!(stores.secrets.rehash(&[], &entry()).await.unwrap(), 0);
        for (n, key) in (1..).zip(&mut keys).take(2) {
            let HashedKey { pepper_id, hash } = new.hash(&plain_key(n));
            key.pepper_id = pepper_id;
            key.key_hash = hash;
        }
        for key in &keys {
            let read = stores.keys.get(key.id, Rows::Live).await.unwrap().unwrap();
            assert_eq!(fields(&read), fields(key));
        }
    }

    /// The trail names the keys that were given a new hash, each with its secret, and none that was to be and was not.
    async fn an_entry_names_the_keys_that_were_hashed_anew(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let ((_, old), (_, new), (_, newer)) = (pepper("old"), pepper("new"), pepper("newer"));
        let (stored, dropped) = pepper("dropped");
        for secret in [&stored, &pepper("kept").0] {
            register(&stores, secret).await;
        }
        stores.secrets.drop_pepper(&stored.id, at(9), &entry()).await.unwrap();
        let keys: Vec<_> = (1..=5).map(|n| key_under(&old, n, &owner)).collect();
        for key in &keys {
            stores.keys.create(key, &entry()).await.unwrap();
        }
        let anew = |n: u8, ring: &Keyring| {
            let key = &keys[usize::from(n) - 1];
            Rehash { key_id: key.id, was: key.key_hash.clone(), becomes: ring.hash(&plain_key(n)) }
        };
        let said = async |batch: &[Rehash]| {
            let before = entries(&stores).await;
            let moved = stores.secrets.rehash(batch, &entry()).await.unwrap();
            let said: Vec<_> = trail(&stores).await.split_off(before);
            let said = said.iter().map(|entry| entry.after.as_ref().unwrap().as_str().to_owned());
            (moved, said.collect::<Vec<_>>())
        };
        let named = |secret: &str, keys: &[u8]| {
            let ids: Vec<_> = keys.iter().map(|n| format!("\"{}\"", key(*n, &owner).id)).collect();
            format!(r#"{{"key_ids":[{}],"secret_id":"{secret}"}}"#, ids.join(","))
        };
        // One of two has got another hash meanwhile.
        assert_eq!(said(&[anew(1, &newer)]).await, (1, vec![named("newer", &[1])]));
        assert_eq!(said(&[anew(1, &new), anew(2, &new)]).await, (1, vec![named("new", &[2])]));
        let batch = [anew(5, &newer), anew(4, &new), anew(3, &newer), anew(2, &newer)];
        assert_eq!(said(&batch).await, (3, vec![named("new", &[4]), named("newer", &[3, 5])]));
        let nobody = Rehash { key_id: key(9, &owner).id, ..anew(1, &new) };
        assert_eq!(said(&[anew(2, &dropped), nobody]).await, (0, vec![]));
    }

    /// Everything comes out, in the order of ids, page by page, deleted records too.
    async fn a_snapshot_holds_everything_in_the_order_of_ids(stores) {
        let mut owners: Vec<_> = (1..=5).map(account).collect();
        owners[1].soft_delete(at(9));
        for owner in [3, 0, 4, 1, 2] {
            stores.transfer.import_accounts(&all_noted(&owners[owner..=owner]), ImportMode::Commit).await.unwrap();
        }
        let mut stored: Vec<_> = (1..=7).map(|n| key(n, &owners[usize::from(n) % 5])).collect();
        stored[2].soft_delete(at(9));
        for n in [6, 2, 0, 5, 1, 4, 3] {
            stores.transfer.import_keys(&all_noted(&stored[n..=n]), ImportMode::Commit).await.unwrap();
        }
        let check = Pepper::new(SECRET).unwrap().check();
        let secret = StoredPepper::new(PepperId::default(), check.clone(), sealed(&Pepper::new(SECRET).unwrap()));
        register(&stores, &secret).await;
        let (dropped, _) = pepper("a");
        register(&stores, &dropped).await;
        stores.secrets.drop_pepper(&dropped.id, at(8), &entry()).await.unwrap();

        let mut snapshot = stores.transfer.snapshot().await.unwrap();
        let registered = snapshot.secrets().await.unwrap();
        let seen = registered.iter().map(|pepper| (pepper.id.as_str(), pepper.dropped_at, pepper.check.expose_hex()));
        let expected = [("a", Some(at(8)), dropped.check.expose_hex()), ("default", None, check.expose_hex())];
        assert_eq!(seen.collect::<Vec<_>>(), expected);
        assert_eq!(snapshot.totals().await.unwrap(), Totals { accounts: 5, keys: 7 });
        let (mut accounts, mut keys) = (Vec::new(), Vec::new());
        loop {
            let page = snapshot.accounts(accounts.last().map(|last: &Account| last.id), 2).await.unwrap();
            assert!(page.len() <= 2);
            if page.is_empty() {
                break;
            }
            accounts.extend(page);
        }
        loop {
            let page = snapshot.keys(keys.last().map(|last: &ApiKey| last.id), 3).await.unwrap();
            assert!(page.len() <= 3);
            if page.is_empty() {
                break;
            }
            keys.extend(page);
        }
        assert_eq!(accounts, owners);
        assert_eq!(
            keys.iter().map(fields).collect::<Vec<_>>(),
            stored.iter().map(fields).collect::<Vec<_>>()
        );
    }

    /// What changes while a snapshot is held is not in it, and is not held up by it.
    async fn a_snapshot_stands_still(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        for n in [2, 4] {
            stores.keys.create(&key(n, &owner), &entry()).await.unwrap();
        }
        let mut snapshot = stores.transfer.snapshot().await.unwrap();
        assert_eq!(snapshot.totals().await.unwrap(), Totals { accounts: 1, keys: 2 });
        stores.keys.create(&key(3, &owner), &entry()).await.unwrap();
        let id = key(4, &owner).id;
        stores.keys.update(id, &mut |mut key| { key.soft_delete(at(9)); Ok(noted(key)) }).await.unwrap();
        stores.accounts.create(&account(2), &entry()).await.unwrap();
        let keys = snapshot.keys(None, 10).await.unwrap();
        let expected = [key(2, &owner), key(4, &owner)];
        assert_eq!(
            keys.iter().map(fields).collect::<Vec<_>>(),
            expected.iter().map(fields).collect::<Vec<_>>()
        );
        assert_eq!(snapshot.accounts(None, 10).await.unwrap(), [owner]);
        assert_eq!(snapshot.totals().await.unwrap(), Totals { accounts: 1, keys: 2 });
    }

    /// A record is stored as it is, once; again it is present; a dry run says so and stores nothing.
    async fn an_import_stores_once(stores) {
        use ImportOutcome::{Present, Stored};
        let owners: Vec<_> = (1..=3).map(|n| account_of(n, AccountRole::Operator)).collect();
        let keys: Vec<_> = (1..=3).map(|n| key(n, &owners[0])).collect();
        let import = |accounts: Vec<Account>, keys: Vec<ApiKey>, mode| {
            let transfer = Arc::clone(&stores.transfer);
            async move {
                (
                    transfer.import_accounts(&all_noted(&accounts), mode).await.unwrap(),
                    transfer.import_keys(&all_noted(&keys), mode).await.unwrap(),
                )
            }
        };
        let (dry, _) = import(owners.clone(), Vec::new(), ImportMode::DryRun).await;
        assert_eq!(dry, [Stored; 3]);
        assert!(stores.accounts.is_empty().await.unwrap(), "a dry run stores nothing");
        let (first, none) = import(owners[..2].to_vec(), Vec::new(), ImportMode::Commit).await;
        assert_eq!((first, none), (vec![Stored; 2], vec![]));
        let (_, dry) = import(Vec::new(), keys.clone(), ImportMode::DryRun).await;
        assert_eq!(dry, [Stored; 3]);
        assert!(stores.keys.get(keys[0].id, Rows::WithDeleted).await.unwrap().is_none());
        let (_, first) = import(Vec::new(), keys[1..].to_vec(), ImportMode::Commit).await;
        assert_eq!(first, [Stored; 2]);
        // A use is no difference, and what the store knows of it stays.
        let used = KeyUse { key_id: keys[1].id, used_at: at(77) };
        stores.usage.record(&[used]).await.unwrap();
        for mode in [ImportMode::DryRun, ImportMode::Commit, ImportMode::Commit] {
            let (accounts, imported) = import(owners.clone(), keys.clone(), mode).await;
            assert_eq!(accounts[..2], [Present; 2]);
            assert_eq!(imported[1..], [Present; 2]);
        }
        for (n, stored) in keys.iter().enumerate() {
            let read = stores.keys.get(stored.id, Rows::Live).await.unwrap().unwrap();
            assert!(read.is_same_record(stored));
            assert_eq!(read.last_used_at, (n == 1).then(|| at(77)));
        }
    }

    /// What does not fit is named in its place, and the rest is stored.
    async fn an_import_names_what_does_not_fit(stores) {
        use ImportOutcome::{Conflict, Present, Stored};
        let there = account(1);
        stores.accounts.create(&there, &entry()).await.unwrap();
        let held = key(1, &there);
        stores.keys.create(&held, &entry()).await.unwrap();

        let mut other_content = there.clone();
        other_content.suspend(at(9));
        let (mut same_name, mut same_slug, mut deleted) = (account(2), account(3), account(4));
        same_name.name = there.name.clone();
        same_slug.slug = there.slug.clone();
        deleted.name = there.name.clone();
        deleted.slug = there.slug.clone();
        deleted.soft_delete(at(9));
        let mut within = account(6);
        within.slug = account(5).slug;
        let accounts = [other_content, same_name, same_slug, deleted.clone(), account(5), within, there.clone()];
        // Ids are different within a call.
        let imported = stores.transfer.import_accounts(&all_noted(&accounts[..6]), ImportMode::Commit).await.unwrap();
        assert_eq!(imported, [
            Conflict(ImportConflict::IdTaken),
            Conflict(ImportConflict::NameTaken),
            Conflict(ImportConflict::SlugTaken),
            Stored,
            Stored,
            Conflict(ImportConflict::SlugTaken),
        ]);
        let again = stores.transfer.import_accounts(&all_noted(&accounts[6..]), ImportMode::Commit).await.unwrap();
        assert_eq!(again, [Present]);
        assert_eq!(stores.accounts.get(there.id, Rows::Live).await.unwrap(), Some(there.clone()));

        let mut other_content = held.clone();
        other_content.revoke(at(9));
        let mut same_prefix = key(2, &there);
        same_prefix.key_prefix = held.key_prefix.clone();
        let orphan = key(3, &account(99));
        let of_deleted = key(4, &deleted);
        let mut within = key(6, &there);
        within.key_prefix = key(5, &there).key_prefix;
        let keys = [other_content, same_prefix, orphan, of_deleted, key(5, &there), within];
        for mode in [ImportMode::DryRun, ImportMode::Commit] {
            let imported = stores.transfer.import_keys(&all_noted(&keys), mode).await.unwrap();
            assert_eq!(imported, [
                Conflict(ImportConflict::IdTaken),
                Conflict(ImportConflict::PrefixTaken),
                Conflict(ImportConflict::AccountMissing),
                Stored,
                Stored,
                Conflict(ImportConflict::PrefixTaken),
            ], "{mode:?}");
        }
        let read = stores.keys.get(held.id, Rows::Live).await.unwrap().unwrap();
        assert_eq!(fields(&read), fields(&held));
    }

    /// Every change is written down with it, in the chain that it says, with all that its entry says.
    async fn every_change_leaves_its_entry(stores) {
        let (owner, operator) = (account(1), account_of(2, AccountRole::Operator));
        let (of_owner, of_operator) = (ChainId::Account(owner.id), ChainId::Account(operator.id));
        let (first, second) = (key(1, &owner), key(2, &operator));
        stores.accounts.create(&owner, &entry_in(of_owner)).await.unwrap();
        let mut said = entry_in(of_owner).about(first.id).changed(&Facts::of_key(&first), &Facts::of_key(&second));
        said.at = at(77);
        said.action = AuditAction::KeyRenamed;
        said.origin = Origin {
            actor: Actor::Key { key_id: second.id, account_id: operator.id },
            request_id: Some("request-1".into()),
            client: Some("2001:db8::7".parse().unwrap()),
        };
        stores.keys.create(&first, &said).await.unwrap();
        stores.accounts.create_with_key(&operator, &second, &entry_in(of_operator)).await.unwrap();
        stores.keys.update(first.id, &mut |mut key| {
            key.revoke(at(5));
            Ok(Audited::new(key, entry_in(of_owner)))
        }).await.unwrap();
        stores.accounts.update(owner.id, &mut |mut account| {
            account.suspend(at(5));
            Ok(Audited::new(account, entry_in(of_owner)))
        }).await.unwrap();
        stores.audit.append(&entry_in(of_owner)).await.unwrap();
        let (old, ring) = pepper("old");
        register(&stores, &old).await;
        let becomes = ring.hash(&plain_key(1));
        let rehash = Rehash { key_id: first.id, was: first.key_hash.clone(), becomes };
        stores.secrets.rehash(std::slice::from_ref(&rehash), &entry()).await.unwrap();
        let (unused, _) = pepper("unused");
        register(&stores, &unused).await;
        stores.secrets.drop_pepper(&unused.id, at(9), &entry()).await.unwrap();
        let imported = key(3, &owner);
        let audited = Audited::new(imported.clone(), entry_in(of_owner));
        stores.transfer.import_keys(&[audited], ImportMode::Commit).await.unwrap();
        let third = account(3);
        let audited = Audited::new(third.clone(), entry_in(ChainId::Account(third.id)));
        stores.transfer.import_accounts(&[audited], ImportMode::Commit).await.unwrap();

        let all = trail(&stores).await;
        let of = |chain| all.iter().filter(move |entry| entry.chain == chain).count();
        assert_eq!(
            (of(of_owner), of(of_operator), of(ChainId::Account(third.id)), of(ChainId::System), all.len()),
            (6, 1, 1, 4, 12)
        );
        let read = all.iter().find(|entry| (entry.chain, entry.seq) == (of_owner, 2)).unwrap();
        assert_eq!((read.at, read.action.as_str(), read.key_id), (at(77), "key.renamed", Some(first.id)));
        assert_eq!((&read.origin, &read.before, &read.after), (&said.origin, &said.before, &said.after));

        // What changes nothing leaves nothing.
        stores.keys.update(first.id, &mut |key| Ok(Audited::unchanged(key))).await.unwrap();
        stores.accounts.update(owner.id, &mut |account| Ok(Audited::unchanged(account))).await.unwrap();
        stores.secrets.rehash(&[rehash], &entry()).await.unwrap();
        stores.secrets.drop_pepper(&unused.id, at(9), &entry()).await.unwrap();
        register(&stores, &old).await;
        let audited = Audited::new(imported, entry_in(of_owner));
        stores.transfer.import_keys(&[audited], ImportMode::Commit).await.unwrap();
        let audited = Audited::new(key(4, &owner), entry_in(of_owner));
        stores.transfer.import_keys(&[audited], ImportMode::DryRun).await.unwrap();
        let audited = Audited::new(account(5), entry());
        stores.transfer.import_accounts(&[audited], ImportMode::DryRun).await.unwrap();
        assert_eq!(entries(&stores).await, 12);
    }

    /// Secrets come as they are, each once.
    async fn imported_secrets_are_taken_once(stores) {
        let ((known, _), (dropped, _), (live, _)) = (pepper("known"), pepper("dropped"), pepper("live"));
        register(&stores, &known).await;
        let dropped = StoredPepper { dropped_at: Some(at(7)), audit_key: None, ..dropped };
        let impostor = StoredPepper { id: known.id.clone(), ..live.clone() };
        let secrets = [noted(dropped), Audited::unchanged(live.clone()), noted(impostor)];
        for _ in 0..2 {
            let all = stores.transfer.import_secrets(&secrets).await.unwrap();
            let seen = all.iter().map(|secret| (secret.id.as_str(), secret.dropped_at, secret.check.expose_hex()));
            assert_eq!(seen.collect::<Vec<_>>(), [
                ("dropped", Some(at(7)), secrets[0].record.check.expose_hex()),
                ("known", None, known.check.expose_hex()),
                ("live", None, live.check.expose_hex()),
            ]);
        }
        assert_eq!(entries(&stores).await, 2, "that it was registered, and that one was imported");
    }

    /// A change that is refused leaves no entry.
    async fn a_refused_change_leaves_no_entry(stores) {
        let owner = account(1);
        let held = key(1, &owner);
        assert!(stores.keys.create(&held, &entry()).await.is_err());
        assert!(stores.keys.update(held.id, &mut |record| Ok(noted(record))).await.is_err());
        assert!(stores.accounts.update(owner.id, &mut |record| Ok(noted(record))).await.is_err());
        assert!(stores.secrets.drop_pepper(&PepperId::default(), at(9), &entry()).await.is_err());
        assert_eq!(entries(&stores).await, 0);
        stores.accounts.create_with_key(&owner, &held, &entry()).await.unwrap();
        register(&stores, &StoredPepper::new(PepperId::default(), Pepper::new(SECRET).unwrap().check(), sealed(&Pepper::new(SECRET).unwrap()))).await;
        let before = entries(&stores).await;
        let mut same_prefix = key(2, &owner);
        same_prefix.key_prefix = held.key_prefix.clone();
        assert!(stores.keys.create(&same_prefix, &entry()).await.is_err());
        let mut same_name = account(2);
        same_name.name = owner.name.clone();
        assert!(stores.accounts.create(&same_name, &entry()).await.is_err());
        assert!(stores.accounts.create_with_key(&same_name, &key(3, &same_name), &entry()).await.is_err());
        assert!(stores.accounts.create_with_key(&account(4), &same_prefix, &entry()).await.is_err());
        assert!(stores.keys.update(held.id, &mut |_| Err(KeyRefusal::OutOfReach)).await.is_err());
        assert!(stores.accounts.update(owner.id, &mut |_| Err(AccountRefusal::Deleted)).await.is_err());
        stores.accounts.create(&account(2), &entry()).await.unwrap();
        let taken = owner.name.clone();
        assert!(stores.accounts.update(account(2).id, &mut |mut other| {
            other.name = taken.clone();
            Ok(noted(other))
        }).await.is_err());
        assert!(stores.secrets.drop_pepper(&PepperId::default(), at(9), &entry()).await.is_err());
        assert_eq!(entries(&stores).await, before + 1);
    }

    /// Of many changes at once, each has its number, and none is left out, in one chain and in several.
    async fn racing_changes_make_whole_chains(stores) {
        const CHANGES: usize = 10;
        let owners: Vec<_> = (1..=4).map(account).collect();
        for owner in &owners {
            stores.accounts.create(owner, &entry_in(ChainId::Account(owner.id))).await.unwrap();
        }
        let racers: Vec<_> = (0..RACERS)
            .map(|n| {
                let (stores, owner) = (stores.clone(), owners[n % owners.len()].clone());
                tokio::spawn(async move {
                    let chain = ChainId::Account(owner.id);
                    let mine = key(u8::try_from(n + 1).unwrap(), &owner);
                    stores.keys.create(&mine, &entry_in(chain)).await.unwrap();
                    for _ in 1..CHANGES {
                        stores.keys.update(mine.id, &mut |mut key| {
                            key.revoke(at(9));
                            key.reactivate(at(9));
                            Ok(Audited::new(key, entry_in(chain)))
                        }).await.unwrap();
                        stores.audit.append(&entry()).await.unwrap();
                    }
                })
            })
            .collect();
        for racer in racers {
            racer.await.unwrap();
        }
        let all = trail(&stores).await;
        assert_eq!(all.len(), owners.len() + RACERS * (CHANGES + CHANGES - 1));
        for owner in &owners {
            let mine = all.iter().filter(|entry| entry.chain == ChainId::Account(owner.id));
            let numbers: Vec<_> = mine.map(|entry| usize::try_from(entry.seq).unwrap()).collect();
            assert_eq!(numbers, (1..=1 + CHANGES * RACERS / owners.len()).collect::<Vec<_>>());
        }
    }

    /// Lists are newest first, of one chain or of all, filtered, and go on where they stopped.
    async fn the_trail_is_listed_newest_first_and_filtered(stores) {
        let (one, two) = (account(1), account(2));
        let of = |account: &Account| ChainId::Account(account.id);
        let by = |n: u8| Actor::Key { key_id: key(n, &one).id, account_id: one.id };
        // The clock steps back between the second and the third.
        let written = [
            (of(&one), 10, AuditAction::KeyCreated, by(1), Some(1)),
            (of(&two), 20, AuditAction::KeyCreated, by(1), Some(2)),
            (of(&one), 5, AuditAction::KeyRevoked, by(2), Some(1)),
            (of(&one), 20, AuditAction::KeyRevoked, Actor::Tool, Some(3)),
            (ChainId::System, 30, AuditAction::PepperDropped, Actor::Server, None),
        ];
        for (chain, micros, action, actor, about) in written {
            let mut draft = entry_in(chain);
            draft.at = at(micros);
            draft.action = action;
            draft.origin.actor = actor;
            draft.key_id = about.map(|n| key(n, &one).id);
            stores.audit.append(&draft).await.unwrap();
        }
        let list = async |change: &dyn Fn(&mut AuditQuery)| {
            let mut query = AuditQuery::of(None, 100);
            change(&mut query);
            let page = stores.audit.page(&query).await.unwrap();
            page.rows.into_iter().map(|entry| (entry.chain, entry.seq)).collect::<Vec<_>>()
        };
        let (s, a, b) = (ChainId::System, of(&one), of(&two));
        assert_eq!(list(&|_| {}).await, [(s, 1), (b, 1), (a, 3), (a, 1), (a, 2)]);
        assert_eq!(list(&|query| query.chain = Some(a)).await, [(a, 3), (a, 2), (a, 1)]);
        assert_eq!(list(&|query| query.limit = 2).await, [(s, 1), (b, 1)]);
        assert_eq!(list(&|query| query.action = Some(AuditAction::KeyRevoked)).await, [(a, 3), (a, 2)]);
        assert_eq!(list(&|query| query.key_id = Some(key(1, &one).id)).await, [(a, 1), (a, 2)]);
        assert_eq!(list(&|query| query.actor = Some(ActorFilter::Key(key(1, &one).id))).await, [(b, 1), (a, 1)]);
        assert_eq!(list(&|query| query.actor = Some(ActorFilter::Tool)).await, [(a, 3)]);
        assert_eq!(list(&|query| query.actor = Some(ActorFilter::Server)).await, [(s, 1)]);
        assert_eq!(list(&|query| query.since = Some(at(20))).await, [(s, 1), (b, 1), (a, 3)]);
        assert_eq!(list(&|query| query.until = Some(at(20))).await, [(a, 1), (a, 2)]);
        let of_one_since = list(&|query| { query.chain = Some(a); query.since = Some(at(6)); }).await;
        assert_eq!(of_one_since, [(a, 3), (a, 1)]);
        for chain in [None, Some(a)] {
            let whole = list(&|query| query.chain = chain).await;
            for limit in [1, 2, 100] {
                let (listed, pages) = paged_trail(&stores, AuditQuery::of(chain, limit)).await;
                let places: Vec<_> = listed.iter().map(|entry| (entry.chain, entry.seq)).collect();
                assert_eq!(places, whole);
                assert_eq!(pages, whole.len().div_ceil(usize::try_from(limit).unwrap()));
            }
        }
        // A span of time is not passed over where a list of all chains goes on.
        for (since, until) in [(None, Some(at(20))), (Some(at(10)), None), (Some(at(10)), Some(at(21)))] {
            let spanned = list(&|query| (query.since, query.until) = (since, until)).await;
            let query = AuditQuery { since, until, ..AuditQuery::of(None, 1) };
            let (listed, _) = paged_trail(&stores, query).await;
            let places: Vec<_> = listed.iter().map(|entry| (entry.chain, entry.seq)).collect();
            assert_eq!(places, spanned);
            // And what is asked for after a place that is not in it begins with it.
            let after = Some(AuditPlace { at: at(40), chain: s, seq: 9 });
            let (listed, _) = paged_trail(&stores, AuditQuery { after, ..query }).await;
            assert_eq!(listed.len(), spanned.len());
        }
    }

    /// Where next to nothing passes, a page of the trail ends after so many entries that were looked at, and the next one goes on
    /// there; also where that is in the midst of entries of one time.
    async fn a_page_of_the_trail_looks_at_so_many_and_no_more(stores) {
        let owner = account(1);
        let wanted = async || {
            let mut draft = entry();
            draft.action = AuditAction::KeyRevoked;
            stores.audit.append(&draft).await.unwrap();
        };
        stores.accounts.create(&owner, &entry_in(ChainId::Account(owner.id))).await.unwrap();
        wanted().await;
        let keys: Vec<_> = (0..AuditQuery::LOOKED_AT).map(|n| numbered_key(n, &owner)).collect();
        for batch in keys.chunks(1_000) {
            stores.transfer.import_keys(&all_noted(batch), ImportMode::Commit).await.unwrap();
        }
        wanted().await;
        let last = u64::from(AuditQuery::LOOKED_AT) + 2;
        for chain in [None, Some(ChainId::System)] {
            let query = AuditQuery { action: Some(AuditAction::KeyRevoked), ..AuditQuery::of(chain, 100) };
            let (found, pages) = paged_trail(&stores, query).await;
            assert_eq!(found.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [last, 1], "{chain:?}");
            assert_eq!(pages, 2, "{chain:?}");
        }
        // What all pass is no narrower list.
        let query = AuditQuery { until: Some(at(2)), ..AuditQuery::of(None, 20_000) };
        let (found, pages) = paged_trail(&stores, query).await;
        assert_eq!(u64::try_from(found.len()).unwrap(), last + 1);
        assert_eq!(pages, 1);
        // In one chain time is passed over, since it may go back.
        let query = AuditQuery { since: Some(at(2)), ..AuditQuery::of(Some(ChainId::System), 100) };
        let (found, pages) = paged_trail(&stores, query).await;
        assert_eq!((found, pages), (Vec::new(), 2));
    }

    /// What is pruned leaves the checkpoint that was given, from which the rest still holds, and the chain goes on. What
    /// the entries say of their times is not asked.
    async fn pruning_takes_what_it_is_told_and_leaves_checkpoints(stores) {
        let (one, two, three) = (ChainId::Account(account(1).id), ChainId::Account(account(2).id), ChainId::Account(account(3).id));
        let append = async |chain, micros| {
            let mut draft = entry_in(chain);
            draft.at = at(micros);
            stores.audit.append(&draft).await.unwrap();
        };
        for micros in [10, 90, 60, 30, 70] {
            append(one, micros).await;
        }
        append(two, 15).await;
        append(three, 90).await;
        let point = async |chain, seq, now| {
            let entries = trail(&stores).await;
            let last = entries.iter().find(|entry| (entry.chain, entry.seq) == (chain, seq));
            upto(last.unwrap(), at(now))
        };
        let prune = async |upto: &[Checkpoint]| stores.audit.prune(upto, &entry()).await.unwrap();
        let checkpoints = async || {
            let mut snapshot = stores.transfer.snapshot().await.unwrap();
            snapshot.audit_checkpoints(None, 10).await.unwrap()
        };
        let left = async || -> Vec<_> {
            trail(&stores).await.iter().map(|entry| (entry.chain, entry.seq)).collect()
        };
        assert_eq!(prune(&[]).await, Pruned::default());
        assert_eq!(entries(&stores).await, 7, "nothing was taken, and nothing said");
        let (early, of_one, of_two) = (point(one, 1, 99).await, point(one, 2, 100).await, point(two, 1, 100).await);
        assert_eq!(prune(&[of_two, of_one]).await, Pruned { chains: 2, entries: 3 });
        assert_eq!(left().await, [(ChainId::System, 1), (one, 3), (one, 4), (one, 5), (three, 1)]);
        assert_eq!(checkpoints().await, [of_one, of_two]);
        // Nobody is there any more, of another chain nobody ever was; and a checkpoint does not go back.
        let nowhere = Checkpoint::new(&audit_key(), ChainId::Account(account(9).id), 1, early.hash, at(100));
        assert_eq!(prune(&[of_one, of_two, early, nowhere]).await, Pruned::default());
        assert_eq!(checkpoints().await, [of_one, of_two]);
        assert_eq!(entries(&stores).await, 5);
        append(two, 80).await;
        append(one, 80).await;
        let of_system = point(ChainId::System, 1, 101).await;
        assert_eq!(prune(&[early, nowhere, of_system]).await, Pruned { chains: 1, entries: 1 });
        assert_eq!(checkpoints().await, [of_system, of_one, of_two]);
        let of_one = point(one, 5, 101).await;
        assert_eq!(prune(&[of_one]).await, Pruned { chains: 1, entries: 3 });
        assert_eq!(left().await, [(ChainId::System, 2), (ChainId::System, 3), (one, 6), (two, 2), (three, 1)]);
        assert_eq!(checkpoints().await, [of_system, of_one, of_two]);
        // Somebody has put entries in front of a checkpoint: it does not go back for them.
        let far = Checkpoint::new(&audit_key(), three, 5, early.hash, at(102));
        assert_eq!(prune(&[far]).await, Pruned { chains: 1, entries: 1 });
        append(three, 95).await;
        let query = AuditQuery::of(Some(three), 10);
        let listed = stores.audit.page(&query).await.unwrap();
        let back = upto(&listed.rows[0], at(103));
        assert!(back.seq < far.seq);
        assert_eq!(prune(&[back]).await, Pruned::default());
        assert_eq!(stores.audit.page(&query).await.unwrap(), listed);
        assert_eq!(checkpoints().await, [of_system, of_one, of_two, far]);
    }

    /// A snapshot of the trail stands still.
    async fn a_snapshot_of_the_trail_stands_still(stores) {
        let chain = ChainId::Account(account(1).id);
        stores.audit.append(&entry_in(chain)).await.unwrap();
        let mut snapshot = stores.transfer.snapshot().await.unwrap();
        let head = snapshot.audit_heads(None, 10).await.unwrap();
        stores.audit.append(&entry_in(chain)).await.unwrap();
        stores.audit.append(&entry()).await.unwrap();
        assert_eq!(snapshot.audit_entries(None, 10).await.unwrap().len(), 1);
        assert_eq!(snapshot.audit_heads(None, 10).await.unwrap(), head);
        assert_eq!(entries(&stores).await, 3);
    }

    /// A store that answers says so, and how busy it is makes sense.
    async fn a_store_that_answers_is_healthy(stores) {
        stores.health.ping().await.unwrap();
        let load = stores.health.load();
        assert!(load.in_use <= load.open && load.open <= load.max, "{load:?}");
    }

    /// Whatever changes a key is heard before a tick that is sent after it, by whoever listens: also by those that listened
    /// before there was anything.
    async fn every_change_of_a_key_is_heard_before_a_later_tick(stores) {
        let mut subscription = stores.feed.subscribe().await.unwrap();
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let first = key(1, &owner);
        stores.keys.create(&first, &entry()).await.unwrap();
        heard_until_tick(&stores, &mut subscription, &report(1, 1)).await;

        let changes: [fn(&mut ApiKey); 5] = [
            |key| key.revoke(at(5)),
            |key| key.name = KeyName::parse("Renamed").unwrap(),
            |key| key.scopes = scopes(["docs:read".to_owned()]),
            |key| key.soft_delete(at(6)),
            |key| key.restore(at(7)),
        ];
        for (n, change) in (2..).zip(changes) {
            stores.keys.update(first.id, &mut |mut key| {
                change(&mut key);
                Ok(noted(key))
            }).await.unwrap();
            let heard = heard_until_tick(&stores, &mut subscription, &report(1, n)).await;
            assert!(concerns_key(&heard, &first.key_prefix), "{n}: {heard:?}");
        }

        let (pepper, ring) = pepper("new");
        register(&stores, &pepper).await;
        let rehash = Rehash {
            key_id: first.id,
            was: first.key_hash.clone(),
            becomes: ring.hash(&plain_key(1)),
        };
        assert_eq!(stores.secrets.rehash(&[rehash], &entry()).await.unwrap(), 1);
        let heard = heard_until_tick(&stores, &mut subscription, &report(1, 8)).await;
        assert!(concerns_key(&heard, &first.key_prefix), "hashed anew: {heard:?}");

        let (operator, its_key) = (account_of(2, AccountRole::Operator), key(2, &account(2)));
        stores.accounts.create_with_key(&operator, &its_key, &entry()).await.unwrap();
        let heard = heard_until_tick(&stores, &mut subscription, &report(1, 9)).await;
        assert!(concerns_key(&heard, &its_key.key_prefix), "with its account: {heard:?}");

        let chosen = key(4, &owner);
        stores.keys.adopt(&chosen, &entry()).await.unwrap();
        let heard = heard_until_tick(&stores, &mut subscription, &report(1, 11)).await;
        assert!(concerns_key(&heard, &chosen.key_prefix), "chosen: {heard:?}");

        let imported = key(3, &owner);
        let done = stores.transfer.import_keys(&all_noted(std::slice::from_ref(&imported)), ImportMode::Commit).await;
        assert_eq!(done.unwrap(), [ImportOutcome::Stored]);
        let heard = heard_until_tick(&stores, &mut subscription, &report(1, 12)).await;
        assert!(concerns_key(&heard, &imported.key_prefix), "imported: {heard:?}");
    }

    /// As for keys.
    async fn every_change_of_an_account_is_heard_before_a_later_tick(stores) {
        let mut subscription = stores.feed.subscribe().await.unwrap();
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let changes: [fn(&mut Account); 4] = [
            |account| account.suspend(at(5)),
            |account| account.activate(at(6)),
            |account| account.soft_delete(at(7)),
            |account| account.deleted_at = None,
        ];
        for (n, change) in (1..).zip(changes) {
            stores.accounts.update(owner.id, &mut |mut account| {
                change(&mut account);
                Ok(noted(account))
            }).await.unwrap();
            let heard = heard_until_tick(&stores, &mut subscription, &report(1, n)).await;
            assert!(concerns_account(&heard, owner.id), "{n}: {heard:?}");
        }
    }

    /// A use is no change: nobody is told.
    async fn a_use_is_not_heard(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let used = key(1, &owner);
        stores.keys.create(&used, &entry()).await.unwrap();
        let mut subscription = stores.feed.subscribe().await.unwrap();
        heard_until_tick(&stores, &mut subscription, &report(1, 1)).await;
        let use_of_it = KeyUse { key_id: used.id, used_at: at(9) };
        stores.usage.record(&[use_of_it]).await.unwrap();
        let heard = heard_until_tick(&stores, &mut subscription, &report(1, 2)).await;
        assert_eq!(heard, []);
    }

    /// Who has heard of a change finds it done.
    async fn what_was_heard_is_there_to_be_read(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        let contested = key(1, &owner);
        stores.keys.create(&contested, &entry()).await.unwrap();
        let mut subscription = stores.feed.subscribe().await.unwrap();
        for n in 0..50 {
            let (keys, id) = (Arc::clone(&stores.keys), contested.id);
            let status = if n % 2 == 0 { ApiKeyStatus::Revoked } else { ApiKeyStatus::Active };
            let changing = tokio::spawn(async move {
                keys.update(id, &mut |mut key| {
                    key.status = status;
                    Ok(noted(key))
                }).await.unwrap();
            });
            loop {
                if concerns_key(&[heard(&mut subscription).await], &contested.key_prefix) {
                    break;
                }
            }
            let found = stores.lookup.find(&contested.key_prefix).await.unwrap().unwrap();
            assert_eq!(found.key.status, status, "{n}");
            changing.await.unwrap();
        }
    }

    /// All who listen hear the same, in the same order, whoever says it.
    async fn everybody_hears_in_one_order(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        for n in 0..RACERS {
            let n = u8::try_from(n).unwrap();
            stores.keys.create(&key(n, &owner), &entry()).await.unwrap();
        }
        let mut subscriptions = [
            stores.feed.subscribe().await.unwrap(),
            stores.feed.subscribe().await.unwrap(),
        ];
        let mut at_work = Vec::new();
        for n in 0..RACERS {
            let (stores, owner) = (stores.clone(), owner.clone());
            at_work.push(tokio::spawn(async move {
                let n = u8::try_from(n).unwrap();
                let id = key(n, &owner).id;
                stores
                    .keys
                    .update(id, &mut |mut key| {
                        key.revoke(at(5));
                        Ok(noted(key))
                    })
                    .await
                    .unwrap();
                stores.feed.tick(&report(n, 1)).await.unwrap();
            }));
        }
        for work in at_work {
            work.await.unwrap();
        }
        let last = report(99, 1);
        let [one, other] = &mut subscriptions;
        let first = heard_until_tick(&stores, one, &last).await;
        let mut second = Vec::new();
        while second.len() < first.len() {
            second.push(heard(other).await);
        }
        assert_eq!(first, second);
        for n in 0..RACERS {
            let n = u8::try_from(n).unwrap();
            let said = |wanted: &dyn Fn(&Heard) -> bool| first.iter().position(wanted);
            let prefix = key(n, &owner).key_prefix;
            let changed = said(&|heard| concerns_key(std::slice::from_ref(heard), &prefix));
            let ticked = said(&|heard| matches!(heard, Heard::Signal(Signal::Tick { node, .. }) if *node == report(n, 1).id));
            assert!(changed.unwrap() < ticked.unwrap(), "{n}: {first:?}");
        }
    }

    /// Every signal is heard as it was sent, by its sender too.
    async fn signals_are_heard_as_they_were_sent(stores) {
        let mut subscription = stores.feed.subscribe().await.unwrap();
        let [one, two] = [report(1, 1).id, report(2, 1).id];
        let probe = Probe { node: one, number: u64::from(u32::MAX) };
        let signals = [
            Signal::Tick { node: two, number: 7, patience: Duration::from_millis(1_500) },
            Signal::Probe(probe),
            Signal::Seen { by: two, probe },
            Signal::Farewell(one),
        ];
        for signal in signals {
            stores.feed.send(&signal).await.unwrap();
            assert_eq!(heard(&mut subscription).await, Heard::Signal(signal));
        }
    }

    /// The last that each node said of itself is kept, until it is forgotten.
    async fn nodes_are_known_by_what_they_said_last(stores) {
        let nodes = async || {
            let NodeReports { readable, unreadable } = stores.feed.nodes().await.unwrap();
            assert_eq!(unreadable, []);
            readable
        };
        assert_eq!(nodes().await, []);
        for (n, number) in [(1, 1), (2, 1), (1, 2), (3, 1), (1, 3)] {
            stores.feed.tick(&report(n, number)).await.unwrap();
        }
        assert_eq!(nodes().await, [report(1, 3), report(3, 1), report(2, 1)]);
        stores.feed.forget(report(2, 1).id, Some(1)).await.unwrap();
        for other in [0, 2, u64::MAX] {
            stores.feed.forget(report(1, 3).id, Some(other)).await.unwrap();
        }
        assert_eq!(nodes().await, [report(1, 3), report(3, 1)], "only what was not said anew is gone");
        stores.feed.forget(report(1, 3).id, None).await.unwrap();
        assert_eq!(nodes().await, [report(3, 1)], "the one that ended is gone");
    }

}
