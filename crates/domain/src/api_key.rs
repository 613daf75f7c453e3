//! The API key: the entity and everything that may happen to it.

use std::fmt;

use crate::{
    Account, AccountId, HashedKey, KeyHash, KeyId, KeyName, KeyPrefix, PepperId, Revision,
    ScopeNotHeld, Scopes, Timestamp,
};

/// Whether a key is meant to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiKeyStatus {
    /// It is.
    Active,
    /// It has been stopped; it can be made active again.
    Revoked,
}

impl ApiKeyStatus {
    /// The word for it, on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for ApiKeyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A key's record. The key itself is not in it, only its hash.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its identity, never changed.
    pub id: KeyId,
    /// Whose key it is, never changed.
    pub account_id: AccountId,
    /// What people call it.
    pub name: KeyName,
    /// The hash that a presented key is compared with.
    pub key_hash: KeyHash,
    /// Which of the server's secrets the hash is under.
    pub pepper_id: PepperId,
    /// The part of the key by which this record is found; unique in the store, also among deleted keys.
    pub key_prefix: KeyPrefix,
    /// Whether it is meant to work.
    pub status: ApiKeyStatus,
    /// What it may be used for.
    pub scopes: Scopes,
    /// When it last authenticated a request; `None` if it never did.
    pub last_used_at: Option<Timestamp>,
    /// From when on it no longer works; `None` if it never expires.
    pub expires_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed. Use is no change.
    pub updated_at: Timestamp,
    /// When it was soft-deleted; `None` while it is live.
    pub deleted_at: Option<Timestamp>,
}

/// A key and the account that owns it: what verification needs to know.
#[derive(Clone, Debug)]
pub struct KeyRecord {
    /// The key.
    pub key: ApiKey,
    /// The account that it belongs to.
    pub account: Account,
}

/// What a request wants changed; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// A new name.
    pub name: Option<KeyName>,
    /// A new status.
    pub status: Option<ApiKeyStatus>,
    /// Other scopes.
    pub scopes: Option<Scopes>,
    /// `true` soft-deletes, `false` restores.
    pub deleted: Option<bool>,
    /// Only in one of these states.
    pub only_if: Option<Vec<Revision>>,
}

/// Why a change to a key was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRefusal {
    /// The key is deleted, and the change does not restore it.
    Deleted,
    /// It is in another state than the change is for.
    Changed,
    /// The key belongs to an account that the caller does not reach.
    OutOfReach,
    /// The change brings the key back, and the key has a scope that the caller does not hold.
    ScopeNotHeld(ScopeNotHeld),
}

impl ApiKey {
    /// Is `other` the same record, whenever either was last used?
    pub fn is_same_record(&self, other: &Self) -> bool {
        let rest = |key: &Self| {
            (
                (key.id, key.account_id, key.status),
                (
                    key.expires_at,
                    key.created_at,
                    key.updated_at,
                    key.deleted_at,
                ),
            )
        };
        rest(self) == rest(other)
            && self.name == other.name
            && self.key_prefix == other.key_prefix
            && self.key_hash.expose_hex() == other.key_hash.expose_hex()
            && self.pepper_id == other.pepper_id
            && self.scopes == other.scopes
    }

    /// A new, active key, never used, with all rights of its account.
    pub fn new(
        id: KeyId,
        account_id: AccountId,
        name: KeyName,
        hashed: HashedKey,
        key_prefix: KeyPrefix,
        expires_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            account_id,
            name,
            key_hash: hashed.hash,
            pepper_id: hashed.pepper_id,
            key_prefix,
            status: ApiKeyStatus::Active,
            scopes: Scopes::All,
            last_used_at: None,
            expires_at,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        }
    }

    /// Stops the key. Nothing happens to one that is revoked.
    pub fn revoke(&mut self, now: Timestamp) {
        self.set_status(ApiKeyStatus::Revoked, now);
    }

    /// Lets a revoked key work again. Nothing happens to one that is active.
    pub fn reactivate(&mut self, now: Timestamp) {
        self.set_status(ApiKeyStatus::Active, now);
    }

    /// Gives the key another name.
    pub fn rename(&mut self, name: KeyName, now: Timestamp) {
        if self.name != name {
            self.name = name;
            self.touch(now);
        }
    }

    /// Gives the key other scopes. Whoever does so has to hold them.
    pub fn set_scopes(&mut self, scopes: Scopes, now: Timestamp) {
        if self.scopes != scopes {
            self.scopes = scopes;
            self.touch(now);
        }
    }

    /// Notes a use. `last_used_at` moves forward only; `updated_at` stays.
    pub fn record_usage(&mut self, used_at: Timestamp) {
        self.last_used_at = self.last_used_at.max(Some(used_at));
    }

    /// Marks the key as deleted. One that is deleted keeps the time of its first deletion.
    pub fn soft_delete(&mut self, now: Timestamp) {
        if self.deleted_at.is_none() {
            self.deleted_at = Some(now);
            self.touch(now);
        }
    }

    /// Undoes a deletion. Nothing happens to one that is live.
    pub fn restore(&mut self, now: Timestamp) {
        if self.deleted_at.take().is_some() {
            self.touch(now);
        }
    }

    /// Is its time over? The instant of expiry itself is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at <= now)
    }

    /// Is the key itself good for use: active, not expired, not deleted? Whether its account is, [`crate::decide`]
    /// tells.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.status == ApiKeyStatus::Active && !self.is_expired(now) && !self.is_deleted()
    }

    /// Is it soft-deleted?
    pub const fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// Is this the key `before` reactivated or restored? Whoever brings a key back gives it its scopes anew.
    pub fn is_brought_back(&self, before: &Self) -> bool {
        let is_reactivated =
            before.status == ApiKeyStatus::Revoked && self.status == ApiKeyStatus::Active;
        is_reactivated || (before.is_deleted() && !self.is_deleted())
    }

    /// Applies all of `change` except a deletion, or nothing. This is the key that the caller is shown: one that is
    /// about to be deleted is shown as it was.
    ///
    /// A deleted key takes no change but its restoration, alone or with others.
    fn apply_before_deletion(
        mut self,
        change: &KeyChange,
        now: Timestamp,
    ) -> Result<Self, KeyRefusal> {
        if self.is_deleted() && change.deleted != Some(false) {
            return Err(KeyRefusal::Deleted);
        }
        let is_as_seen = |seen: &Vec<Revision>| seen.contains(&self.revision());
        if !change.only_if.as_ref().is_none_or(is_as_seen) {
            return Err(KeyRefusal::Changed);
        }
        if change.deleted == Some(false) {
            self.restore(now);
        }
        if let Some(name) = &change.name {
            self.rename(name.clone(), now);
        }
        if let Some(scopes) = &change.scopes {
            self.set_scopes(scopes.clone(), now);
        }
        match change.status {
            Some(ApiKeyStatus::Active) => self.reactivate(now),
            Some(ApiKeyStatus::Revoked) => self.revoke(now),
            None => {}
        }
        Ok(self)
    }

    /// Applies all of `change`, or nothing: first what is shown to the caller, then what is to be stored. They differ
    /// by a deletion.
    pub fn apply(self, change: &KeyChange, now: Timestamp) -> Result<(Self, Self), KeyRefusal> {
        let shown = self.apply_before_deletion(change, now)?;
        let mut stored = shown.clone();
        if change.deleted == Some(true) {
            stored.soft_delete(now);
        }
        Ok((shown, stored))
    }

    fn set_status(&mut self, status: ApiKeyStatus, now: Timestamp) {
        if self.status != status {
            self.status = status;
            self.touch(now);
        }
    }

    /// Moves `updated_at`, never back: a clock that stepped back must not undo the order of changes.
    fn touch(&mut self, now: Timestamp) {
        self.updated_at = self.updated_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u8) -> Timestamp {
        Timestamp::parse(&format!("2026-01-01T00:00:{second:02}Z")).unwrap()
    }

    fn key() -> ApiKey {
        crate::testing::key([1; 16], [2; 16])
    }

    fn change(status: Option<ApiKeyStatus>, deleted: Option<bool>) -> KeyChange {
        KeyChange {
            status,
            deleted,
            ..KeyChange::default()
        }
    }

    #[test]
    fn statuses_are_called_as_in_the_reference() {
        assert_eq!(ApiKeyStatus::Active.as_str(), "active");
        assert_eq!(ApiKeyStatus::Revoked.as_str(), "revoked");
    }

    #[test]
    fn a_new_key_is_active_and_unused() {
        let key = key();
        assert_eq!(key.status, ApiKeyStatus::Active);
        assert_eq!(key.last_used_at, None);
        assert!(key.is_valid(at(1)));
    }

    #[test]
    fn a_prefix_must_start_with_ldr() {
        assert!(KeyPrefix::parse("ldr_abc").is_ok());
        assert!(KeyPrefix::parse("invalid_prefix").is_err());
    }

    #[test]
    fn a_revoked_key_is_not_valid_until_it_is_reactivated() {
        let mut key = key();
        key.revoke(at(1));
        assert_eq!((key.status, key.updated_at), (ApiKeyStatus::Revoked, at(1)));
        assert!(!key.is_valid(at(2)));
        key.revoke(at(2));
        assert_eq!(key.updated_at, at(1), "a repeated revoke changes nothing");
        key.reactivate(at(3));
        assert!(key.is_valid(at(3)));
    }

    #[test]
    fn expiry() {
        let mut key = key();
        assert!(
            !key.is_expired(at(59)),
            "a key without expiry never expires"
        );
        key.expires_at = Some(at(10));
        assert!(!key.is_expired(at(9)));
        assert!(key.is_valid(at(9)));
        assert!(key.is_expired(at(10)), "the instant of expiry is over");
        assert!(!key.is_valid(at(11)));
    }

    #[test]
    fn usage_moves_forward_only_and_is_no_change() {
        let mut key = key();
        key.record_usage(at(5));
        assert_eq!(key.last_used_at, Some(at(5)));
        key.record_usage(at(4));
        assert_eq!(key.last_used_at, Some(at(5)));
        assert_eq!(key.updated_at, at(0));
    }

    #[test]
    fn soft_delete_and_restore() {
        let mut key = key();
        key.soft_delete(at(1));
        assert!(key.is_deleted() && !key.is_valid(at(1)));
        key.soft_delete(at(2));
        assert_eq!(key.deleted_at, Some(at(1)), "the first deletion counts");
        key.restore(at(3));
        assert!(!key.is_deleted() && key.is_valid(at(3)));
    }

    #[test]
    fn an_empty_change_changes_nothing() {
        let (shown, stored) = key().apply(&KeyChange::default(), at(9)).unwrap();
        assert_eq!((shown.updated_at, stored.updated_at), (at(0), at(0)));
    }

    #[test]
    fn a_deletion_shows_the_key_as_it_was() {
        let (shown, stored) = key().apply(&change(None, Some(true)), at(1)).unwrap();
        assert_eq!((shown.deleted_at, shown.updated_at), (None, at(0)));
        assert_eq!((stored.deleted_at, stored.updated_at), (Some(at(1)), at(1)));
    }

    #[test]
    fn status_and_deletion_together_both_apply() {
        let both = change(Some(ApiKeyStatus::Revoked), Some(true));
        let (shown, stored) = key().apply(&both, at(1)).unwrap();
        assert_eq!(
            (shown.status, shown.is_deleted()),
            (ApiKeyStatus::Revoked, false)
        );
        assert_eq!(
            (stored.status, stored.is_deleted()),
            (ApiKeyStatus::Revoked, true)
        );
    }

    #[test]
    fn a_deleted_key_takes_no_change_but_its_restoration() {
        let mut deleted = key();
        deleted.revoke(at(1));
        deleted.soft_delete(at(1));
        for refused in [
            KeyChange::default(),
            change(Some(ApiKeyStatus::Active), None),
            change(None, Some(true)),
        ] {
            let refusal = deleted.clone().apply(&refused, at(2)).map(|_| ());
            assert_eq!(refusal, Err(KeyRefusal::Deleted), "{refused:?}");
        }
        let (shown, _) = deleted
            .clone()
            .apply(&change(None, Some(false)), at(2))
            .unwrap();
        assert_eq!(
            (shown.is_deleted(), shown.status),
            (false, ApiKeyStatus::Revoked)
        );
        let both = change(Some(ApiKeyStatus::Active), Some(false));
        let (shown, _) = deleted.apply(&both, at(2)).unwrap();
        assert!(shown.is_valid(at(2)));
    }

    #[test]
    fn a_rename_keeps_everything_else() {
        let name = KeyName::parse("New name").unwrap();
        let renamed = KeyChange {
            name: Some(name),
            ..KeyChange::default()
        };
        let (shown, stored) = key().apply(&renamed, at(1)).unwrap();
        assert_eq!((shown.name.as_str(), shown.updated_at), ("New name", at(1)));
        assert_eq!(stored.key_prefix, key().key_prefix);
    }
}
