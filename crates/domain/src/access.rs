//! Who asks, whose records they may reach, and what they may do with them.

use std::net::IpAddr;
use std::sync::Arc;

use crate::{
    Account, AccountId, AccountRole, ApiKey, ChainId, KeyId, KeyRecord, Right, Scope, ScopeSet,
    Scopes,
};

/// How far a caller reaches: into one account, or into all.
///
/// Every use case takes one, or a [`Principal`] that has one, so that none can be written that forgets whose records it
/// touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every account's records: an operator, or the deployment itself.
    All,
    /// One account's records: a tenant.
    Account(AccountId),
}

/// The caller named an account that is not its own. Whether that account exists is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignAccount(
    /// The one that was named.
    pub AccountId,
);

impl Access {
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
            (Self::Account(_), Some(named)) => Err(ForeignAccount(named)),
        }
    }

    /// Does whoever reaches so far, and has a key with these scopes, hold this one? All that a tenant has does not include what
    /// only operators may do.
    pub fn holds(self, scopes: &Scopes, scope: &str) -> bool {
        let is_operators = scope == Right::AccountsWrite.as_str();
        scopes.covers(scope) && (self == Self::All || !is_operators)
    }

    /// Whose audit trail is meant, as [`Access::resolve`] has it: for an operator the nil UUID is the deployment's.
    pub fn resolve_chain(
        self,
        requested: Option<AccountId>,
    ) -> Result<Option<ChainId>, ForeignAccount> {
        let account = self.resolve(requested)?;
        Ok(account.map(|id| ChainId::from_uuid(id.as_uuid())))
    }
}

/// Who did something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The holder of a key.
    Key {
        /// Which key.
        key_id: KeyId,
        /// Whose key it is.
        account_id: AccountId,
    },
    /// Somebody at the command line, who has the store itself in hand.
    Tool,
    /// The server itself, as at its start.
    Server,
}

/// Who did something, and by which way it came: what an audit entry says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Who.
    pub actor: Actor,
    /// The request's id, where it came with one. It is shared, because every request has one and few write it down.
    pub request_id: Option<Arc<str>>,
    /// The address that it came from, as far as it can be trusted.
    pub client: Option<IpAddr>,
}

impl Origin {
    /// The command line.
    pub const TOOL: Self = Self::of(Actor::Tool);

    /// The server itself.
    pub const SERVER: Self = Self::of(Actor::Server);

    /// Somebody, of whose request nothing more is known.
    pub const fn of(actor: Actor) -> Self {
        Self {
            actor,
            request_id: None,
            client: None,
        }
    }
}

/// Whoever asks for something: whose records they reach, what they may do, and who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Whose records are reached.
    pub access: Access,
    /// What may be done with them.
    pub scopes: Scopes,
    /// Who it is.
    pub origin: Origin,
}

/// The caller does not hold a scope that it wants to give to a key. The scope is its own word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeNotHeld(
    /// The first scope that is not held.
    pub String,
);

/// Proof that somebody reaches every account: what only operators may do asks for one, so that it cannot be done
/// without having been checked.
#[derive(Clone, Debug)]
pub struct OperatorAccess(Principal);

impl OperatorAccess {
    /// Who it is.
    pub const fn principal(&self) -> &Principal {
        &self.0
    }
}

impl Principal {
    /// Whoever holds the key of `record`. The request's id and address are added by whoever knows them.
    pub fn of(record: &KeyRecord) -> Self {
        Self {
            access: Access::of(&record.account),
            scopes: record.key.scopes.clone(),
            origin: Origin::of(Actor::Key {
                key_id: record.key.id,
                account_id: record.key.account_id,
            }),
        }
    }

    /// Somebody who has the store itself in hand, which is more than any key opens.
    pub const fn deployment(origin: Origin) -> Self {
        Self {
            access: Access::All,
            scopes: Scopes::All,
            origin,
        }
    }

    /// The proof that this is an operator's reach, if it is.
    pub fn operator(&self) -> Option<OperatorAccess> {
        match self.access {
            Access::All => Some(OperatorAccess(self.clone())),
            Access::Account(_) => None,
        }
    }

    /// Does the principal hold this scope?
    pub fn holds(&self, scope: &str) -> bool {
        self.access.holds(&self.scopes, scope)
    }

    /// What the principal holds: the scopes of its key, without those that the key names and that are not its own to have
    /// ([`Principal::holds`]).
    pub fn held(&self) -> Scopes {
        match &self.scopes {
            Scopes::All => Scopes::All,
            Scopes::Only(own) => Scopes::Only(own.only(|scope| self.holds(scope.as_str()))),
        }
    }

    /// The scopes of a key that this principal issues and wants to have the `requested` ones; those that it holds where it did not
    /// say. Never wider than its own.
    pub fn grant(&self, requested: Option<ScopeSet>) -> Result<Scopes, ScopeNotHeld> {
        let Some(requested) = requested else {
            return Ok(self.held());
        };
        let scopes = Scopes::Only(requested);
        self.may_give(&scopes)?;
        Ok(scopes)
    }

    /// Does the principal hold all of `scopes`? Else says the first that it does not; of all scopes it is said that they
    /// are `*`.
    pub fn may_give(&self, scopes: &Scopes) -> Result<(), ScopeNotHeld> {
        let missing = match scopes {
            Scopes::All if self.scopes == Scopes::All => None,
            Scopes::All => Some("*"),
            Scopes::Only(scopes) => scopes
                .iter()
                .map(Scope::as_str)
                .find(|scope| !self.holds(scope)),
        };
        missing.map_or(Ok(()), |scope| Err(ScopeNotHeld(scope.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: AccountId = AccountId::from_random_bytes([1; 16]);
    const FOREIGN: AccountId = AccountId::from_random_bytes([2; 16]);

    fn set(scopes: &[&str]) -> ScopeSet {
        ScopeSet::new(scopes.iter().map(|text| Scope::parse(text).unwrap())).unwrap()
    }

    fn tenant(scopes: Scopes) -> Principal {
        Principal {
            access: Access::Account(OWN),
            scopes,
            origin: Origin::SERVER,
        }
    }

    #[test]
    fn a_tenant_reaches_its_own_account_only() {
        let access = Access::Account(OWN);
        assert!(access.reaches(OWN));
        assert!(!access.reaches(FOREIGN));
        assert_eq!(access.resolve(None), Ok(Some(OWN)));
        assert_eq!(access.resolve(Some(OWN)), Ok(Some(OWN)));
        assert_eq!(access.resolve(Some(FOREIGN)), Err(ForeignAccount(FOREIGN)));
        assert!(tenant(Scopes::All).operator().is_none());
    }

    #[test]
    fn an_operator_reaches_all_and_says_which() {
        assert!(Access::All.reaches(OWN));
        assert_eq!(Access::All.resolve(Some(FOREIGN)), Ok(Some(FOREIGN)));
        assert_eq!(Access::All.resolve(None), Ok(None));
        assert!(Principal::deployment(Origin::TOOL).operator().is_some());
    }

    #[test]
    fn nobody_grants_more_than_they_hold() {
        let narrow = tenant(Scopes::Only(set(&["keys:write", "docs:*"])));
        assert_eq!(narrow.grant(None), Ok(narrow.scopes.clone()));
        for within in [
            &[][..],
            &["docs:read"],
            &["docs:*", "keys:write"],
            &["docs:eu:*"],
        ] {
            assert_eq!(
                narrow.grant(Some(set(within))),
                Ok(Scopes::Only(set(within)))
            );
        }
        for (asked, missing) in [
            (&["keys:read"][..], "keys:read"),
            (&["docs:read", "docs"], "docs"),
            (&["mail:*", "keys:write"], "mail:*"),
        ] {
            assert_eq!(
                narrow.grant(Some(set(asked))),
                Err(ScopeNotHeld(missing.to_owned()))
            );
        }
    }

    #[test]
    fn all_that_a_tenant_has_is_less_than_an_operator_has() {
        let all = tenant(Scopes::All);
        assert_eq!(all.grant(None), Ok(Scopes::All));
        assert!(all.grant(Some(set(&["anything:*", "keys:write"]))).is_ok());
        assert_eq!(
            all.grant(Some(set(&["accounts:write"]))),
            Err(ScopeNotHeld("accounts:write".to_owned()))
        );
        let operator = Principal::deployment(Origin::TOOL);
        assert!(operator.grant(Some(set(&["accounts:write"]))).is_ok());
        // An operator may have named it for a tenant's key, which has nothing of it, and nothing to pass on.
        let named = Scopes::Only(set(&["accounts:write", "docs:*", "keys:write"]));
        let passed_on = Scopes::Only(set(&["docs:*", "keys:write"]));
        assert_eq!(tenant(named.clone()).grant(None), Ok(passed_on));
        let operator = Principal {
            scopes: named.clone(),
            ..operator
        };
        assert_eq!(operator.grant(None), Ok(named));
    }
}
