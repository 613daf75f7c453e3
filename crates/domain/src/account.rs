//! The account: who owns keys.

use crate::{AccountId, AccountName, Revision, Slug, Timestamp};

/// Whether an account's keys work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccountStatus {
    /// They do.
    Active,
    /// None of them does, until the account is active again.
    Suspended,
}

impl AccountStatus {
    /// The word for it, on the wire and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
        }
    }
}

/// What an account is to the deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccountRole {
    /// A customer: reaches its own keys.
    Tenant,
    /// The deployment's own: reaches everything.
    Operator,
}

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its identity, never changed.
    pub id: AccountId,
    /// What people call it; unique among live accounts.
    pub name: AccountName,
    /// What addresses call it; unique among live accounts.
    pub slug: Slug,
    /// Whether its keys work.
    pub status: AccountStatus,
    /// What it is to the deployment.
    pub role: AccountRole,
    /// How many live keys it may have, revoked and expired ones included.
    pub key_limit: KeyLimit,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// When it was soft-deleted; `None` while it is live.
    pub deleted_at: Option<Timestamp>,
}

/// How many live keys an account may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyLimit(u32);

impl KeyLimit {
    /// The greatest.
    pub const MAX: u32 = 1_000_000_000;

    /// Checks a number that came from outside.
    pub const fn new(keys: u32) -> Option<Self> {
        if keys <= Self::MAX {
            Some(Self(keys))
        } else {
            None
        }
    }

    /// Takes what a store holds: what is out of bounds is the nearest that is not.
    pub fn from_store(keys: i64) -> Self {
        Self(u32::try_from(keys.clamp(0, Self::MAX.into())).unwrap_or(Self::MAX))
    }

    /// How many keys.
    pub const fn keys(self) -> u32 {
        self.0
    }

    /// Are so many keys no more than it allows?
    pub fn allows(self, live: u64) -> bool {
        live <= self.0.into()
    }
}

impl Default for KeyLimit {
    /// A thousand: more than people manage, and few enough that a loop which issues keys does no harm.
    fn default() -> Self {
        Self(1_000)
    }
}

/// What a request wants changed; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccountChange {
    /// A new name.
    pub name: Option<AccountName>,
    /// A new slug.
    pub slug: Option<Slug>,
    /// A new status.
    pub status: Option<AccountStatus>,
    /// How many live keys it may have from now on. Where it has more, they stay.
    pub key_limit: Option<KeyLimit>,
    /// `true` soft-deletes, `false` restores.
    pub deleted: Option<bool>,
    /// Only in one of these states.
    pub only_if: Option<Vec<Revision>>,
}

/// Why a change to an account was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountRefusal {
    /// The account is deleted, and the change does not restore it.
    Deleted,
    /// It is in another state than the change is for.
    Changed,
    /// Suspending or deleting an operator's account would leave nobody to undo it.
    OperatorProtected,
}

impl Account {
    /// A new, active account.
    pub fn new(
        id: AccountId,
        name: AccountName,
        slug: Slug,
        role: AccountRole,
        now: Timestamp,
    ) -> Self {
        Self {
            id,
            name,
            slug,
            status: AccountStatus::Active,
            role,
            key_limit: KeyLimit::default(),
            created_at: now,
            updated_at: now,
            deleted_at: None,
        }
    }

    /// Stops all of the account's keys. Nothing happens to one that is suspended.
    pub fn suspend(&mut self, now: Timestamp) {
        self.set_status(AccountStatus::Suspended, now);
    }

    /// Lets the account's keys work again, those that are valid themselves.
    pub fn activate(&mut self, now: Timestamp) {
        self.set_status(AccountStatus::Active, now);
    }

    /// Marks the account as deleted. One that is deleted keeps the time of its first deletion.
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

    /// Is it soft-deleted?
    pub const fn is_deleted(&self) -> bool {
        self.deleted_at.is_some()
    }

    /// Gives the account the deployment's own rights.
    pub fn make_operator(&mut self, now: Timestamp) {
        if self.role != AccountRole::Operator {
            self.role = AccountRole::Operator;
            self.touch(now);
        }
    }

    /// Applies all of `change`, or nothing.
    pub fn apply(mut self, change: &AccountChange, now: Timestamp) -> Result<Self, AccountRefusal> {
        if self.is_deleted() && change.deleted != Some(false) {
            return Err(AccountRefusal::Deleted);
        }
        let is_as_seen = |seen: &Vec<Revision>| seen.contains(&self.revision());
        if !change.only_if.as_ref().is_none_or(is_as_seen) {
            return Err(AccountRefusal::Changed);
        }
        let stops = change.deleted == Some(true) || change.status == Some(AccountStatus::Suspended);
        if stops && self.role == AccountRole::Operator {
            return Err(AccountRefusal::OperatorProtected);
        }
        if change.deleted == Some(false) {
            self.restore(now);
        }
        if let Some(name) = &change.name
            && *name != self.name
        {
            self.name = name.clone();
            self.touch(now);
        }
        if let Some(slug) = &change.slug
            && *slug != self.slug
        {
            self.slug = slug.clone();
            self.touch(now);
        }
        if let Some(limit) = change.key_limit
            && limit != self.key_limit
        {
            self.key_limit = limit;
            self.touch(now);
        }
        match change.status {
            Some(AccountStatus::Active) => self.activate(now),
            Some(AccountStatus::Suspended) => self.suspend(now),
            None => {}
        }
        if change.deleted == Some(true) {
            self.soft_delete(now);
        }
        Ok(self)
    }

    fn set_status(&mut self, status: AccountStatus, now: Timestamp) {
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

    fn account(role: AccountRole) -> Account {
        Account::new(
            AccountId::from_random_bytes([7; 16]),
            AccountName::parse("Test").unwrap(),
            Slug::parse("test").unwrap(),
            role,
            at(0),
        )
    }

    #[test]
    fn suspending_and_activating_move_updated_at_once_each() {
        let mut account = account(AccountRole::Tenant);
        account.suspend(at(1));
        assert_eq!(
            (account.status, account.updated_at),
            (AccountStatus::Suspended, at(1))
        );
        account.suspend(at(2));
        assert_eq!(
            account.updated_at,
            at(1),
            "a repeated suspension changes nothing"
        );
        account.activate(at(3));
        assert_eq!(
            (account.status, account.updated_at),
            (AccountStatus::Active, at(3))
        );
    }

    #[test]
    fn soft_delete_then_restore() {
        let mut account = account(AccountRole::Tenant);
        account.soft_delete(at(1));
        assert!(account.is_deleted());
        account.soft_delete(at(2));
        assert_eq!(account.deleted_at, Some(at(1)), "the first deletion counts");
        account.restore(at(3));
        assert!(!account.is_deleted());
    }

    #[test]
    fn a_change_applies_all_its_fields() {
        let changed = account(AccountRole::Tenant)
            .apply(
                &AccountChange {
                    name: Some(AccountName::parse("New").unwrap()),
                    slug: Some(Slug::parse("new").unwrap()),
                    status: Some(AccountStatus::Suspended),
                    deleted: Some(true),
                    ..AccountChange::default()
                },
                at(1),
            )
            .unwrap();
        assert_eq!(changed.name.as_str(), "New");
        assert_eq!(changed.slug.as_str(), "new");
        assert_eq!(changed.status, AccountStatus::Suspended);
        assert_eq!(changed.deleted_at, Some(at(1)));
    }

    #[test]
    fn a_change_that_changes_nothing_leaves_updated_at() {
        let same = AccountChange {
            name: Some(AccountName::parse("Test").unwrap()),
            status: Some(AccountStatus::Active),
            deleted: Some(false),
            ..AccountChange::default()
        };
        let before = account(AccountRole::Tenant);
        assert_eq!(before.clone().apply(&same, at(5)), Ok(before));
    }

    #[test]
    fn a_deleted_account_can_only_be_restored() {
        let mut deleted = account(AccountRole::Tenant);
        deleted.soft_delete(at(1));
        let rename = AccountChange {
            name: Some(AccountName::parse("New").unwrap()),
            ..AccountChange::default()
        };
        assert_eq!(
            deleted.clone().apply(&rename, at(2)),
            Err(AccountRefusal::Deleted)
        );
        let restore = AccountChange {
            deleted: Some(false),
            ..rename
        };
        let restored = deleted.apply(&restore, at(2)).unwrap();
        assert_eq!(
            (restored.is_deleted(), restored.name.as_str()),
            (false, "New")
        );
    }

    #[test]
    fn the_operator_cannot_be_locked_out() {
        for change in [
            AccountChange {
                deleted: Some(true),
                ..AccountChange::default()
            },
            AccountChange {
                status: Some(AccountStatus::Suspended),
                ..AccountChange::default()
            },
        ] {
            let refused = account(AccountRole::Operator).apply(&change, at(1));
            assert_eq!(refused, Err(AccountRefusal::OperatorProtected));
        }
    }

    #[test]
    fn a_clock_that_steps_back_does_not_move_updated_at_back() {
        let mut account = account(AccountRole::Tenant);
        account.suspend(at(9));
        account.activate(at(1));
        assert_eq!(account.updated_at, at(9));
    }
}
