//! Whose records a caller may reach.

use crate::{Account, AccountId, AccountRole, ApiKey};

/// How far a caller reaches: into one account, or into all.
///
/// Every use case takes one, so that none can be written that forgets whose records it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every account's records: an operator, or the deployment itself.
    All,
    /// One account's records: a tenant.
    Account(AccountId),
}

/// The caller named an account that is not its own. Whether that account exists is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignAccount;

/// Proof that somebody reaches every account: what only operators may do asks for one, so that it cannot be done
/// without having been checked.
#[derive(Clone, Copy, Debug)]
pub struct OperatorAccess(());

impl Access {
    /// The proof that this is an operator's reach, if it is.
    pub const fn operator(self) -> Option<OperatorAccess> {
        match self {
            Self::All => Some(OperatorAccess(())),
            Self::Account(_) => None,
        }
    }

    /// The reach of a key of `account`.
    pub fn of(account: &Account) -> Self {
        match account.role {
            AccountRole::Operator => Self::All,
            AccountRole::Tenant => Self::Account(account.id),
        }
    }

    /// May records of `account` be reached?
    pub fn reaches(self, account: AccountId) -> bool {
        match self {
            Self::All => true,
            Self::Account(own) => own == account,
        }
    }

    /// May `key` be reached?
    pub fn reaches_key(self, key: &ApiKey) -> bool {
        self.reaches(key.account_id)
    }

    /// Which account is meant by a request that names `requested`, or none? A tenant may leave its own out; an
    /// operator has to say which, so for one that did not this is `Ok(None)`.
    pub fn resolve(
        self,
        requested: Option<AccountId>,
    ) -> Result<Option<AccountId>, ForeignAccount> {
        match (self, requested) {
            (Self::All, requested) => Ok(requested),
            (Self::Account(own), None) => Ok(Some(own)),
            (Self::Account(own), Some(named)) if named == own => Ok(Some(own)),
            (Self::Account(_), Some(_)) => Err(ForeignAccount),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: AccountId = AccountId::from_random_bytes([1; 16]);
    const FOREIGN: AccountId = AccountId::from_random_bytes([2; 16]);

    #[test]
    fn a_tenant_reaches_its_own_account_only() {
        let tenant = Access::Account(OWN);
        assert!(tenant.reaches(OWN));
        assert!(!tenant.reaches(FOREIGN));
        assert_eq!(tenant.resolve(None), Ok(Some(OWN)));
        assert_eq!(tenant.resolve(Some(OWN)), Ok(Some(OWN)));
        assert_eq!(tenant.resolve(Some(FOREIGN)), Err(ForeignAccount));
        assert!(tenant.operator().is_none());
    }

    #[test]
    fn an_operator_reaches_all_and_says_which() {
        assert!(Access::All.reaches(OWN));
        assert_eq!(Access::All.resolve(Some(FOREIGN)), Ok(Some(FOREIGN)));
        assert_eq!(Access::All.resolve(None), Ok(None));
        assert!(Access::All.operator().is_some());
    }
}
