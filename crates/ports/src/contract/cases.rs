//! The cases.

use std::sync::Arc;

use leadr_auth_domain::{
    Account, AccountName, AccountRefusal, AccountRole, AccountStatus, ApiKey, ApiKeyStatus,
    HashedKey, KeyHash, KeyName, KeyPrefix, KeyRefusal, Keyring, Pepper, PepperId, Scope, ScopeSet,
    Scopes, Slug, Timestamp,
};

use super::fixtures::{SECRET, account, account_of, at, fields, key, plain_key};
use crate::{
    CreateAccountError, CreateKeyError, CreateOperatorError, DropPepperError, ImportConflict,
    ImportMode, ImportOutcome, KeyFilter, KeyUse, Rehash, Rows, StoredPepper, Stores, Totals,
    UpdateAccountError, UpdateKeyError,
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
    (StoredPepper::new(id, ring.current().check()), ring)
}

/// A key that is hashed under the current secret of `ring`.
fn key_under(ring: &Keyring, n: u8, owner: &Account) -> ApiKey {
    let HashedKey { pepper_id, hash } = ring.hash(&plain_key(n));
    let mut key = key(n, owner);
    key.pepper_id = pepper_id;
    key.key_hash = hash;
    key
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
                Ok(noted(key)) => assert!(winner.replace(key).is_none(), "two winners"),
                Err(UpdateKeyError::Refused(KeyRefusal::Deleted)) => {}
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
        let active = KeyFilter { status: Some(ApiKeyStatus::Active), ..all };
        let stopped = KeyFilter { status: Some(ApiKeyStatus::Revoked), ..all };
        for (filter, expected) in [
            (all, 5),
            (active, 4),
            (stopped, 1),
            (KeyFilter { active_only: true, ..all }, 4),
            (KeyFilter { active_only: true, ..active }, 4),
            (KeyFilter { active_only: true, ..stopped }, 0),
        ] {
            let found = stores.keys.list(filter).await.unwrap().len();
            assert_eq!(found, expected, "{filter:?}");
        }
        // An expired key is not revoked, as in the reference.
        assert_eq!(stores.keys.count_active(owner.id).await.unwrap(), 4);
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
            race.push(tokio::spawn(async move { usage.record(&uses).await }));
        }
        for racer in race {
            racer.await.unwrap().unwrap();
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
                usage.record(&[KeyUse { key_id: id, used_at: at(200 + n) }]).await.unwrap();
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
        expected.updated_at = at(9);
        expected.deleted_at = Some(at(9));
        let answered =
            stores.accounts.update(kept.id, &mut |_| Ok(expected.clone())).await.unwrap();
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
                let check = Pepper::new(&format!("the secret of racer {n}, long enough")).unwrap().check();
                let pepper = StoredPepper::new(PepperId::default(), check);
                tokio::spawn(async move { secrets.register(&pepper).await.unwrap() })
            })
            .collect();
        let mut answered = Vec::new();
        for racer in racers {
            answered.push(racer.await.unwrap().check.expose_hex().to_owned());
        }
        answered.dedup();
        let registered = stores.secrets.registered().await.unwrap();
        let registered: Vec<_> = registered.iter().map(|pepper| pepper.check.expose_hex()).collect();
        assert_eq!(answered, registered);
    }

    /// Secrets of other ids stand beside one another, in the order of the ids.
    async fn secrets_are_told_apart_by_their_ids(stores) {
        for id in ["b", "a", "c"] {
            let (stored, _) = pepper(id);
            let answered = stores.secrets.register(&stored).await.unwrap();
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
        stores.secrets.register(&stored).await.unwrap();
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
        assert_eq!(stores.secrets.registered().await.unwrap()[0].dropped_at, None);
        stores.keys.update(held.id, &mut |mut key| { key.soft_delete(at(9)); Ok(noted(key)) }).await.unwrap();
        for now in [at(9), at(10)] {
            stores.secrets.drop_pepper(&stored.id, now, &entry()).await.unwrap();
        }
        let registered = stores.secrets.register(&stored).await.unwrap();
        assert_eq!(registered.dropped_at, Some(at(9)), "the first time counts, and it stays dropped");
        // From now on nothing is stored under it.
        let late = key_under(&old, 5, &owner);
        assert!(matches!(stores.keys.create(&late, &entry()).await, Err(CreateKeyError::PepperDropped)));
        let second = account_of(2, AccountRole::Operator);
        let first_key = key_under(&old, 6, &second);
        assert!(matches!(
            stores.accounts.create_with_key(&second, &first_key, &entry()).await,
            Err(CreateOperatorError::PepperDropped)
        ));
        let imported = stores.transfer.import_keys(std::slice::from_ref(&late), ImportMode::Commit).await.unwrap();
        assert_eq!(imported, [ImportOutcome::Conflict(ImportConflict::PepperDropped)]);
        assert!(stores.keys.get(late.id, Rows::WithDeleted).await.unwrap().is_none());
        assert!(stores.accounts.get(second.id, Rows::WithDeleted).await.unwrap().is_none());
        let back = Rehash { key_id: other.id, was: other.key_hash, becomes: old.hash(&plain_key(4)) };
        assert_eq!(stores.secrets.rehash(&[back], &entry()).await.unwrap(), 0);
    }

    /// Of keys that are issued under a secret while it is dropped, none is left that nobody can use.
    async fn racing_issue_and_drop_leave_no_orphan(stores) {
        let owner = account(1);
        stores.accounts.create(&owner, &entry()).await.unwrap();
        for round in 0..RACERS {
            let (stored, ring) = pepper(&format!("round-{round}"));
            stores.secrets.register(&stored).await.unwrap();
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

    /// Everything comes out, in the order of ids, page by page, deleted records too.
    async fn a_snapshot_holds_everything_in_the_order_of_ids(stores) {
        let mut owners: Vec<_> = (1..=5).map(account).collect();
        owners[1].soft_delete(at(9));
        for owner in [3, 0, 4, 1, 2] {
            stores.transfer.import_accounts(&owners[owner..=owner], ImportMode::Commit).await.unwrap();
        }
        let mut stored: Vec<_> = (1..=7).map(|n| key(n, &owners[usize::from(n) % 5])).collect();
        stored[2].soft_delete(at(9));
        for n in [6, 2, 0, 5, 1, 4, 3] {
            stores.transfer.import_keys(&stored[n..=n], ImportMode::Commit).await.unwrap();
        }
        let check = Pepper::new(SECRET).unwrap().check();
        let secret = StoredPepper::new(PepperId::default(), check.clone());
        stores.secrets.register(&secret).await.unwrap();
        let (dropped, _) = pepper("a");
        stores.secrets.register(&dropped).await.unwrap();
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
                    transfer.import_accounts(&accounts, mode).await.unwrap(),
                    transfer.import_keys(&keys, mode).await.unwrap(),
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
        let imported = stores.transfer.import_accounts(&accounts[..6], ImportMode::Commit).await.unwrap();
        assert_eq!(imported, [
            Conflict(ImportConflict::IdTaken),
            Conflict(ImportConflict::NameTaken),
            Conflict(ImportConflict::SlugTaken),
            Stored,
            Stored,
            Conflict(ImportConflict::SlugTaken),
        ]);
        let again = stores.transfer.import_accounts(&accounts[6..], ImportMode::Commit).await.unwrap();
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
            let imported = stores.transfer.import_keys(&keys, mode).await.unwrap();
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

    /// A store that answers says so, and how busy it is makes sense.
    async fn a_store_that_answers_is_healthy(stores) {
        stores.health.ping().await.unwrap();
        let load = stores.health.load();
        assert!(load.in_use <= load.open && load.open <= load.max, "{load:?}");
    }
}
