//! Make accounts, look at them, change them.

use std::fmt;

use leadr_auth_domain::{
    Access, Account, AccountChange, AccountId, AccountName, AccountRefusal, AccountRole,
    AccountStatus, Actor, AuditAction, Fingerprint, IdempotencyKey, IdempotentRequest, KeyLimit,
    OperatorAccess, Slug,
};
use leadr_auth_ports::listing::{Page, Sort};
use leadr_auth_ports::{
    AccountQuery, CreateAccountError, EntropyError, Once, Rows, UpdateAccountError,
};

use crate::{Service, StoreError};

/// What a new account is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAccount {
    /// What people call it.
    pub name: AccountName,
    /// What addresses call it.
    pub slug: Slug,
    /// How many live keys it may have; `None` for as many as accounts have as a rule.
    pub key_limit: Option<KeyLimit>,
}

/// Why an account was not given, made or changed.
#[derive(Debug)]
pub enum AccountError {
    /// There is no such account for this caller: none with the id, or a deleted one, or a foreign one.
    NotFound,
    /// Another live account has the name.
    NameTaken,
    /// Another live account has the slug.
    SlugTaken,
    /// The caller has given the request's name to another request.
    OtherRequest,
    /// The account is in another state than the change was for.
    Changed,
    /// An operator's account can be neither suspended nor deleted.
    OperatorProtected,
    /// There were no random bytes.
    Entropy(EntropyError),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such account",
            Self::NameTaken => "the account's name is taken",
            Self::SlugTaken => "the account's slug is taken",
            Self::OtherRequest => "another request has the same name",
            Self::Changed => "the account has changed since it was seen",
            Self::OperatorProtected => "an operator's account cannot be suspended or deleted",
            Self::Entropy(_) | Self::Store(_) => "the account could not be read or changed",
        })
    }
}

impl std::error::Error for AccountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound
            | Self::NameTaken
            | Self::SlugTaken
            | Self::OtherRequest
            | Self::Changed
            | Self::OperatorProtected => None,
            Self::Entropy(source) => Some(source),
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for AccountError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<CreateAccountError> for AccountError {
    fn from(error: CreateAccountError) -> Self {
        match error {
            CreateAccountError::NameTaken => Self::NameTaken,
            CreateAccountError::SlugTaken => Self::SlugTaken,
            CreateAccountError::OtherRequest => Self::OtherRequest,
            CreateAccountError::Store(error) => Self::Store(error),
        }
    }
}

impl From<UpdateAccountError> for AccountError {
    fn from(error: UpdateAccountError) -> Self {
        match error {
            UpdateAccountError::NotFound | UpdateAccountError::Refused(AccountRefusal::Deleted) => {
                Self::NotFound
            }
            UpdateAccountError::Refused(AccountRefusal::OperatorProtected) => {
                Self::OperatorProtected
            }
            UpdateAccountError::Refused(AccountRefusal::Changed) => Self::Changed,
            UpdateAccountError::NameTaken => Self::NameTaken,
            UpdateAccountError::SlugTaken => Self::SlugTaken,
            UpdateAccountError::Store(error) => Self::Store(error),
        }
    }
}

impl Service {
    /// Makes a tenant.
    pub async fn create_account(
        &self,
        operator: &OperatorAccess,
        new: NewAccount,
    ) -> Result<Account, AccountError> {
        self.make_account(operator, new, None)
            .await
            .map(|(account, _)| account)
    }

    /// The same once, however often it is asked for by this name. Says whether it was made before.
    pub async fn create_account_once(
        &self,
        operator: &OperatorAccess,
        new: NewAccount,
        key: IdempotencyKey,
        fingerprint: Fingerprint,
    ) -> Result<(Account, bool), AccountError> {
        let Actor::Key { key_id, .. } = operator.principal().origin.actor else {
            return Err(StoreError::internal("a request to be done once is of nobody").into());
        };
        let request = IdempotentRequest {
            caller: key_id,
            key,
            fingerprint,
            at: self.clock.now(),
        };
        self.make_account(operator, new, Some(&request)).await
    }

    /// Answers the account and whether it was made before.
    async fn make_account(
        &self,
        operator: &OperatorAccess,
        new: NewAccount,
        request: Option<&IdempotentRequest>,
    ) -> Result<(Account, bool), AccountError> {
        let id = AccountId::from_random_bytes(self.random().map_err(AccountError::Entropy)?);
        let now = self.clock.now();
        let mut account = Account::new(id, new.name, new.slug, AccountRole::Tenant, now);
        account.key_limit = new.key_limit.unwrap_or_default();
        let auditor = self.auditor(&operator.principal().origin, now).await?;
        let entry = auditor.account_made(AuditAction::AccountCreated, &account);
        let accounts = &self.stores.accounts;
        let Some(request) = request else {
            accounts.create(&account, &entry).await?;
            return Ok((account, false));
        };
        match accounts.create_once(&account, &entry, request).await? {
            Once::Now(_) => Ok((account, false)),
            Once::Before(id) => {
                let made = accounts.get(id, Rows::WithDeleted).await?;
                // Somebody has taken the row away, and nobody can say any more what came of the request.
                Ok((made.ok_or(AccountError::OtherRequest)?, true))
            }
        }
    }

    /// The live account with this id, or [`AccountError::NotFound`].
    pub async fn account(&self, access: Access, id: AccountId) -> Result<Account, AccountError> {
        if !access.reaches(id) {
            return Err(AccountError::NotFound);
        }
        self.stores
            .accounts
            .get(id, Rows::Live)
            .await?
            .ok_or(AccountError::NotFound)
    }

    /// The live account with this slug. Only for operators: to others it would tell which slugs there are.
    pub async fn account_by_slug(
        &self,
        _: &OperatorAccess,
        slug: &Slug,
    ) -> Result<Account, AccountError> {
        self.stores
            .accounts
            .find_by_slug(slug)
            .await?
            .ok_or(AccountError::NotFound)
    }

    /// A page of the live accounts within reach: all for an operator, its own for a tenant.
    pub async fn page_of_accounts(
        &self,
        access: Access,
        query: &AccountQuery,
    ) -> Result<Page<Account, Sort<AccountId>>, StoreError> {
        match access {
            Access::All => self.stores.accounts.page(query).await,
            Access::Account(own) => {
                let own = self.stores.accounts.get(own, Rows::Live).await?;
                let own = own.filter(|own| query.filter.matches(own));
                Ok(Page {
                    rows: own.into_iter().collect(),
                    next: None,
                })
            }
        }
    }

    /// The live accounts within reach, newest first: all for an operator, its own for a tenant.
    pub async fn list_accounts(&self, access: Access) -> Result<Vec<Account>, StoreError> {
        match access {
            Access::All => self.stores.accounts.list().await,
            Access::Account(own) => Ok(self
                .stores
                .accounts
                .get(own, Rows::Live)
                .await?
                .into_iter()
                .collect()),
        }
    }

    /// Applies all of `change` to an account, or nothing. The answer is the account as changed; one that the change
    /// deletes, with the time of its deletion.
    pub async fn update_account(
        &self,
        operator: &OperatorAccess,
        id: AccountId,
        change: &AccountChange,
    ) -> Result<Account, AccountError> {
        let now = self.clock.now();
        let auditor = self.auditor(&operator.principal().origin, now).await?;
        Ok(self
            .stores
            .accounts
            .update(id, &mut |account| {
                let before = account.clone();
                Ok(auditor.account_changed(&before, account.apply(change, now)?))
            })
            .await?)
    }

    /// Sets an account's status.
    pub async fn set_account_status(
        &self,
        operator: &OperatorAccess,
        id: AccountId,
        status: AccountStatus,
    ) -> Result<Account, AccountError> {
        let change = AccountChange {
            status: Some(status),
            ..AccountChange::default()
        };
        self.update_account(operator, id, &change).await
    }

    /// Stops all keys of an account.
    pub async fn suspend_account(
        &self,
        operator: &OperatorAccess,
        id: AccountId,
    ) -> Result<Account, AccountError> {
        self.set_account_status(operator, id, AccountStatus::Suspended)
            .await
    }

    /// Lets the keys of an account work again, those that are valid themselves.
    pub async fn activate_account(
        &self,
        operator: &OperatorAccess,
        id: AccountId,
    ) -> Result<Account, AccountError> {
        self.set_account_status(operator, id, AccountStatus::Active)
            .await
    }

    /// Soft-deletes an account, which stops all its keys.
    pub async fn delete_account(
        &self,
        operator: &OperatorAccess,
        id: AccountId,
    ) -> Result<(), AccountError> {
        let deleted = Some(true);
        self.update_account(
            operator,
            id,
            &AccountChange {
                deleted,
                ..AccountChange::default()
            },
        )
        .await
        .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Bench;

    fn new(name: &str, slug: &str) -> NewAccount {
        NewAccount {
            name: AccountName::parse(name).unwrap(),
            slug: Slug::parse(slug).unwrap(),
            key_limit: None,
        }
    }

    #[tokio::test]
    async fn names_and_slugs_clash() {
        let bench = Bench::new().await;
        let service = &bench.service;
        service
            .create_account(&Bench::operator(), new("Acme", "acme"))
            .await
            .unwrap();
        let name = service
            .create_account(&Bench::operator(), new("Acme", "other"))
            .await;
        assert!(matches!(name, Err(AccountError::NameTaken)));
        let slug = service
            .create_account(&Bench::operator(), new("Other", "acme"))
            .await;
        assert!(matches!(slug, Err(AccountError::SlugTaken)));
    }

    #[tokio::test]
    async fn a_tenant_sees_itself_only() {
        let bench = Bench::new().await;
        let service = &bench.service;
        let other = service
            .create_account(&Bench::operator(), new("Acme", "acme"))
            .await
            .unwrap();
        let own = Access::Account(bench.tenant.id);
        assert_eq!(
            service.list_accounts(own).await.unwrap(),
            std::slice::from_ref(&bench.tenant)
        );
        assert!(matches!(
            service.account(own, other.id).await,
            Err(AccountError::NotFound)
        ));
        assert_eq!(
            service.account(own, bench.tenant.id).await.unwrap(),
            bench.tenant
        );
        let all = service.list_accounts(Access::All).await.unwrap();
        assert_eq!(all.len(), 3, "two tenants and the operator");
    }

    #[tokio::test]
    async fn a_deleted_account_frees_its_name_and_can_be_restored_unless_it_was_taken() {
        let bench = Bench::new().await;
        let service = &bench.service;
        let first = service
            .create_account(&Bench::operator(), new("Acme", "acme"))
            .await
            .unwrap();
        service
            .delete_account(&Bench::operator(), first.id)
            .await
            .unwrap();
        assert!(matches!(
            service.account(Access::All, first.id).await,
            Err(AccountError::NotFound)
        ));
        let again = service.delete_account(&Bench::operator(), first.id).await;
        assert!(matches!(again, Err(AccountError::NotFound)));
        let second = service
            .create_account(&Bench::operator(), new("Acme", "acme"))
            .await
            .unwrap();
        let restore = AccountChange {
            deleted: Some(false),
            ..AccountChange::default()
        };
        let taken = service
            .update_account(&Bench::operator(), first.id, &restore)
            .await;
        assert!(matches!(taken, Err(AccountError::NameTaken)));
        service
            .delete_account(&Bench::operator(), second.id)
            .await
            .unwrap();
        let restored = service
            .update_account(&Bench::operator(), first.id, &restore)
            .await
            .unwrap();
        assert!(!restored.is_deleted());
    }

    #[tokio::test]
    async fn the_operator_account_cannot_be_stopped() {
        let bench = Bench::new().await;
        let service = &bench.service;
        let operator = service
            .stores
            .accounts
            .find_operator()
            .await
            .unwrap()
            .unwrap();
        let suspended = service
            .suspend_account(&Bench::operator(), operator.id)
            .await;
        assert!(matches!(suspended, Err(AccountError::OperatorProtected)));
        let deleted = service
            .delete_account(&Bench::operator(), operator.id)
            .await;
        assert!(matches!(deleted, Err(AccountError::OperatorProtected)));
    }
}
