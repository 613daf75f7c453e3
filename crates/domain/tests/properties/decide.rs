//! The verification policy.

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, AccountStanding, AccountStatus, ApiKey,
    ApiKeyStatus, KeyHash, KeyId, KeyLimit, KeyName, KeyPrefix, KeyRecord, KeyStanding, PepperId,
    Scopes, Slug, Timestamp, Verdict, decide,
};
use proptest::prelude::*;

/// Any instant; as a rule one of a few that are close to each other, so that two of them are often the same.
fn instant() -> impl Strategy<Value = Timestamp> {
    let ends = [Timestamp::MIN, Timestamp::MAX].map(Timestamp::unix_micros);
    prop_oneof![
        4 => 1_767_225_600_000_000..1_767_225_600_000_004_i64,
        1 => ends[0]..=ends[1],
        1 => prop::sample::select(ends.to_vec()),
    ]
    .prop_map(|micros| Timestamp::from_unix_micros(micros).unwrap())
}

fn maybe_instant() -> impl Strategy<Value = Option<Timestamp>> {
    prop::option::of(instant())
}

prop_compose! {
    fn key()(
        id in any::<[u8; 16]>(),
        account in any::<[u8; 16]>(),
        name in ".{0,12}",
        hash in ".{0,12}",
        is_revoked in any::<bool>(),
        scopes in prop::option::of("[a-z:*]{0,12}"),
        times in [maybe_instant(), maybe_instant(), maybe_instant()],
        made in [instant(), instant()],
    ) -> ApiKey {
        let [expires_at, deleted_at, last_used_at] = times;
        let [created_at, updated_at] = made;
        ApiKey {
            id: KeyId::from_random_bytes(id),
            account_id: AccountId::from_random_bytes(account),
            name: KeyName::from_store(name),
            key_hash: KeyHash::from_store(hash),
            pepper_id: PepperId::default(),
            key_prefix: KeyPrefix::parse("ldr_").unwrap(),
            status: if is_revoked { ApiKeyStatus::Revoked } else { ApiKeyStatus::Active },
            scopes: Scopes::from_store(scopes.as_deref()),
            last_used_at,
            expires_at,
            created_at,
            updated_at,
            deleted_at,
        }
    }
}

prop_compose! {
    fn account()(
        id in any::<[u8; 16]>(),
        name in ".{0,12}",
        slug in ".{0,12}",
        is_suspended in any::<bool>(),
        is_operator in any::<bool>(),
        limit in any::<i64>(),
        deleted_at in maybe_instant(),
        made in [instant(), instant()],
    ) -> Account {
        let [created_at, updated_at] = made;
        Account {
            id: AccountId::from_random_bytes(id),
            name: AccountName::from_store(name),
            slug: Slug::from_store(slug),
            status: if is_suspended { AccountStatus::Suspended } else { AccountStatus::Active },
            role: if is_operator { AccountRole::Operator } else { AccountRole::Tenant },
            key_limit: KeyLimit::from_store(limit),
            created_at,
            updated_at,
            deleted_at,
        }
    }
}

/// Any record, also one that no store should hold.
fn record() -> impl Strategy<Value = KeyRecord> {
    (key(), account()).prop_map(|(key, account)| KeyRecord { key, account })
}

/// A record of which nothing is wrong but, perhaps, its time.
fn sound() -> impl Strategy<Value = KeyRecord> {
    record().prop_map(|mut record| {
        record.key.status = ApiKeyStatus::Active;
        record.key.deleted_at = None;
        record.account.status = AccountStatus::Active;
        record.account.deleted_at = None;
        record
    })
}

/// Stops a key, in one way or another.
type Stop = fn(&mut KeyRecord, Timestamp);

proptest! {
    /// Every reason refuses, and nothing else does.
    #[test]
    fn a_key_is_valid_if_and_only_if_nothing_is_wrong_with_it(record in record(), now in instant()) {
        let KeyRecord { key, account } = &record;
        let is_good = key.deleted_at.is_none()
            && key.status == ApiKeyStatus::Active
            && key.expires_at.is_none_or(|end| now < end)
            && account.deleted_at.is_none()
            && account.status == AccountStatus::Active;
        let verdict = decide(&record, now);
        prop_assert_eq!(verdict == Verdict::Valid, is_good, "{:?}", verdict);
        prop_assert_eq!(key.is_valid(now), matches!(verdict, Verdict::Valid | Verdict::AccountDeleted | Verdict::AccountSuspended));
        prop_assert_ne!(verdict, Verdict::Unknown);
    }

    /// Revoking wins, and so does deleting: whatever else there is, and whenever.
    #[test]
    fn a_stopped_key_is_never_valid(record in record(), now in instant(), at in instant()) {
        let mut revoked = record.clone();
        revoked.key.revoke(at);
        prop_assert!(matches!(decide(&revoked, now), Verdict::Revoked | Verdict::Deleted));
        let mut deleted = record;
        deleted.key.soft_delete(at);
        prop_assert_eq!(decide(&deleted, now), Verdict::Deleted);
    }

    /// Nor is one of a stopped account.
    #[test]
    fn a_key_of_a_stopped_account_is_never_valid(record in record(), now in instant(), at in instant()) {
        for stop in [Account::suspend, Account::soft_delete] {
            let mut stopped = record.clone();
            stop(&mut stopped.account, at);
            prop_assert_ne!(decide(&stopped, now), Verdict::Valid);
        }
    }

    /// The instant of expiry is over, and the microsecond before it is not.
    #[test]
    fn a_key_ends_at_its_instant(record in sound(), end in instant()) {
        let mut record = record;
        record.key.expires_at = Some(end);
        prop_assert_eq!(decide(&record, end), Verdict::Expired);
        if let Some(before) = Timestamp::from_unix_micros(end.unix_micros() - 1) {
            prop_assert_eq!(decide(&record, before), Verdict::Valid);
        }
    }

    /// Time by itself only ever ends a key: what is over stays over, and no other verdict comes with time.
    #[test]
    fn time_brings_nothing_back(record in record(), one in instant(), two in instant()) {
        let (earlier, later) = (one.min(two), one.max(two));
        let (was, is) = (decide(&record, earlier), decide(&record, later));
        prop_assert!(is == was || is == Verdict::Expired, "{:?}, then {:?}", was, is);
        prop_assert!(was != Verdict::Expired || is == Verdict::Expired);
    }

    /// What is not of the policy does not count: two records that stand the same are judged the same.
    #[test]
    fn nothing_else_is_looked_at(one in record(), other in record(), now in instant(), at in instant()) {
        let mut same = other;
        same.key.status = one.key.status;
        same.key.expires_at = one.key.expires_at;
        same.key.deleted_at = one.key.deleted_at.map(|_| at);
        same.account.status = one.account.status;
        same.account.deleted_at = one.account.deleted_at.map(|_| at);
        prop_assert_eq!(decide(&same, now), decide(&one, now));
        let standing = KeyStanding::of(&one.key).verdict(AccountStanding::of(&one.account), now);
        prop_assert_eq!(standing, decide(&one, now));
    }

    /// One more reason is named, or the one that was named stays; it never lets anybody in.
    #[test]
    fn another_reason_is_another_refusal_or_the_same(record in record(), now in instant(), at in instant()) {
        let was = decide(&record, now);
        let stops: [(Stop, Verdict); 5] = [
            (|record, at| record.key.soft_delete(at), Verdict::Deleted),
            (|record, at| record.key.revoke(at), Verdict::Revoked),
            (|record, _| record.key.expires_at = Some(Timestamp::MIN), Verdict::Expired),
            (|record, at| record.account.soft_delete(at), Verdict::AccountDeleted),
            (|record, at| record.account.suspend(at), Verdict::AccountSuspended),
        ];
        for (stop, named) in stops {
            let mut stopped = record.clone();
            stop(&mut stopped, at);
            let is = decide(&stopped, now);
            prop_assert!(is == named || is == was, "{:?}, then {:?} for {:?}", was, is, named);
            prop_assert!(was != Verdict::Valid || is == named);
        }
    }

    /// What was stopped and let go on stands as it stood.
    #[test]
    fn what_is_undone_leaves_nothing(record in sound(), now in instant(), at in instant()) {
        let was = decide(&record, now);
        let mut record = record;
        record.key.revoke(at);
        record.key.soft_delete(at);
        record.account.suspend(at);
        record.account.soft_delete(at);
        record.account.activate(at);
        record.key.restore(at);
        record.key.reactivate(at);
        record.account.restore(at);
        prop_assert_eq!(decide(&record, now), was);
    }

    /// A use changes no verdict.
    #[test]
    fn a_use_is_no_change(record in record(), now in instant(), used_at in instant()) {
        let mut used = record.clone();
        used.key.record_usage(used_at);
        prop_assert_eq!(decide(&used, now), decide(&record, now));
        prop_assert!(used.key.last_used_at >= record.key.last_used_at);
        prop_assert_eq!(used.key.revision(), record.key.revision());
    }
}
