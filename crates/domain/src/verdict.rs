//! The verification policy, whole.

use crate::{Account, AccountStatus, ApiKey, ApiKeyStatus, KeyRecord, Timestamp};

/// What is to be said of a presented key. A refusal is a value: errors are for "could not find out".
///
/// Who hears which is decided at the border: the one who presented the key hears one and the same refusal for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It may be used.
    Valid,
    /// There is no such key: the prefix is unknown, or the secret after it is wrong.
    Unknown,
    /// The key is soft-deleted.
    Deleted,
    /// The key is revoked.
    Revoked,
    /// The key's time is over.
    Expired,
    /// The key's account is soft-deleted.
    AccountDeleted,
    /// The key's account is suspended.
    AccountSuspended,
}

/// All that the policy looks at of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyStanding {
    /// Is it soft-deleted?
    pub deleted: bool,
    /// Whether it is meant to work.
    pub status: ApiKeyStatus,
    /// From when on it no longer works; `None` if it never expires.
    pub expires_at: Option<Timestamp>,
}

impl KeyStanding {
    /// How a key stands.
    pub const fn of(key: &ApiKey) -> Self {
        Self {
            deleted: key.is_deleted(),
            status: key.status,
            expires_at: key.expires_at,
        }
    }

    /// As [`decide`], about a key of an account that stands so.
    pub fn verdict(self, account: AccountStanding, now: Timestamp) -> Verdict {
        if self.deleted {
            Verdict::Deleted
        } else if self.status == ApiKeyStatus::Revoked {
            Verdict::Revoked
        } else if self.expires_at.is_some_and(|expires_at| now >= expires_at) {
            Verdict::Expired
        } else if account.deleted {
            Verdict::AccountDeleted
        } else if account.status == AccountStatus::Suspended {
            Verdict::AccountSuspended
        } else {
            Verdict::Valid
        }
    }
}

/// All that the policy looks at of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountStanding {
    /// Is it soft-deleted?
    pub deleted: bool,
    /// Whether its keys may work.
    pub status: AccountStatus,
}

impl AccountStanding {
    /// How an account stands.
    pub const fn of(account: &Account) -> Self {
        Self {
            deleted: account.is_deleted(),
            status: account.status,
        }
    }
}

/// Decides about a key whose secret has been found right, at the time `now`.
///
/// Where several reasons refuse it, the most lasting one about the key itself is named first, then those of its
/// account. It never answers [`Verdict::Unknown`], which is what there is to say where no record was found.
pub fn decide(record: &KeyRecord, now: Timestamp) -> Verdict {
    let KeyRecord { key, account } = record;
    KeyStanding::of(key).verdict(AccountStanding::of(account), now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Account, AccountId, AccountName, AccountRole, Slug};

    fn at(second: u8) -> Timestamp {
        Timestamp::parse(&format!("2026-01-01T00:00:{second:02}Z")).unwrap()
    }

    fn record() -> KeyRecord {
        let account = Account::new(
            AccountId::from_random_bytes([2; 16]),
            AccountName::parse("Test").unwrap(),
            Slug::parse("test").unwrap(),
            AccountRole::Tenant,
            at(0),
        );
        let mut key = crate::testing::key([1; 16], [2; 16]);
        key.expires_at = Some(at(30));
        KeyRecord { key, account }
    }

    /// Every combination of the five reasons, against the documented order.
    #[test]
    fn the_first_reason_in_the_documented_order_is_named() {
        for bits in 0..32_u8 {
            let [deleted, revoked, expired, account_deleted, suspended] =
                [0, 1, 2, 3, 4].map(|bit| bits >> bit & 1 == 1);
            let mut record = record();
            if deleted {
                record.key.soft_delete(at(1));
            }
            if revoked {
                record.key.revoke(at(1));
            }
            if account_deleted {
                record.account.soft_delete(at(1));
            }
            if suspended {
                record.account.suspend(at(1));
            }
            let now = if expired { at(30) } else { at(29) };
            let expected = [
                (deleted, Verdict::Deleted),
                (revoked, Verdict::Revoked),
                (expired, Verdict::Expired),
                (account_deleted, Verdict::AccountDeleted),
                (suspended, Verdict::AccountSuspended),
            ]
            .into_iter()
            .find_map(|(holds, verdict)| holds.then_some(verdict))
            .unwrap_or(Verdict::Valid);
            assert_eq!(decide(&record, now), expected, "{bits:05b}");
        }
    }

    #[test]
    fn undoing_the_reason_makes_the_key_valid_again() {
        let mut record = record();
        record.account.suspend(at(1));
        record.account.activate(at(2));
        record.key.revoke(at(1));
        record.key.reactivate(at(2));
        record.key.soft_delete(at(3));
        record.key.restore(at(4));
        assert_eq!(decide(&record, at(5)), Verdict::Valid);
    }
}
