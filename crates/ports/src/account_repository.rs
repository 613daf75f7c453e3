//! Management of accounts.

use std::fmt;

use async_trait::async_trait;
use leadr_auth_domain::{
    Account, AccountId, AccountRefusal, AccountStatus, ApiKey, AuditDraft, IdempotentRequest, Slug,
};

use crate::listing::{self, AT_A_TIME, Page, Period, Sort, contains};
use crate::{Audited, Once, Rows, StoreError};

/// A change to an account, run by the adapter on the account as it is; nothing is written if that has changed meanwhile. It
/// may be called again where the adapter has to start over.
pub type AccountChangeFn<'a> =
    dyn FnMut(Account) -> Result<Audited<Account>, AccountRefusal> + Send + 'a;

/// Which of the live accounts are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFilter {
    /// Those of this status only; `None` for all.
    pub status: Option<AccountStatus>,
    /// Those whose name contains this, by [`contains`].
    pub name_contains: Option<String>,
    /// Those that were made in this time.
    pub created: Period,
}

impl AccountFilter {
    /// All live accounts.
    pub const ALL: Self = Self {
        status: None,
        name_contains: None,
        created: Period::ALWAYS,
    };

    /// Does a live account pass?
    pub fn matches(&self, account: &Account) -> bool {
        let part = self.name_contains.as_deref();
        self.status.is_none_or(|status| account.status == status)
            && part.is_none_or(|part| contains(account.name.as_str(), part))
            && self.created.contains(account.created_at)
    }
}

/// A page of the live accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountQuery {
    /// Which accounts.
    pub filter: AccountFilter,
    /// In which order, and from where on.
    pub sort: Sort<AccountId>,
    /// The most accounts; at least 1.
    pub limit: u32,
}

impl AccountQuery {
    /// As [`KeyQuery::looks_at`](crate::KeyQuery::looks_at).
    pub fn looks_at(&self) -> Option<u32> {
        let mut wide = AccountFilter::ALL;
        if let Sort::CreatedAt { .. } = self.sort {
            wide.created = self.filter.created;
        }
        (self.filter != wide).then(|| listing::looked_at(self.limit))
    }
}

/// Stores accounts.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait AccountRepository: Send + Sync {
    /// Stores a new account. Atomic: its name and slug are free among live accounts, and it is there, with its audit entry;
    /// or nothing. Where
    /// both are taken, the name is what is said. An id that another account has, deleted or not, is
    /// [`StoreError::Internal`]: ids are random.
    async fn create(&self, account: &Account, entry: &AuditDraft)
    -> Result<(), CreateAccountError>;

    /// As [`AccountRepository::create`], for a request that is to be done once; see
    /// [`KeyRepository::create_once`](crate::KeyRepository::create_once).
    async fn create_once(
        &self,
        account: &Account,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<AccountId>, CreateAccountError>;

    /// Stores an account together with its first key. Atomic: both and the audit entry, or nothing, under the conditions of
    /// [`AccountRepository::create`] and [`KeyRepository::create`](crate::KeyRepository::create).
    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
        entry: &AuditDraft,
    ) -> Result<(), CreateOperatorError>;

    /// The account with this id, if there is one among `rows`.
    async fn get(&self, id: AccountId, rows: Rows) -> Result<Option<Account>, StoreError>;

    /// The live account with this slug, if there is one.
    async fn find_by_slug(&self, slug: &Slug) -> Result<Option<Account>, StoreError>;

    /// Replaces the account with this id, deleted or not, by what `change` makes of it. Atomic: no other change comes
    /// between the read and the write, and the audit entry is written with it; a refusal, or a name or slug that another live account has, leaves the account as
    /// it was. Written are all fields but `id` and `created_at`.
    async fn update<'a>(
        &self,
        id: AccountId,
        change: &'a mut AccountChangeFn<'a>,
    ) -> Result<Account, UpdateAccountError>;

    /// A page of the live accounts that pass the filter, in the query's order; see [`listing`] for what it
    /// costs. One consistent view.
    async fn page(
        &self,
        query: &AccountQuery,
    ) -> Result<Page<Account, Sort<AccountId>>, StoreError>;

    /// All live accounts, newest first; of two made in the same microsecond the one with the greater id first. Each of the
    /// pages that they come in is one consistent view.
    async fn list(&self) -> Result<Vec<Account>, StoreError> {
        let mut query = AccountQuery {
            filter: AccountFilter::ALL,
            sort: Sort::NEWEST_FIRST,
            limit: AT_A_TIME,
        };
        let mut listed = Vec::new();
        loop {
            let Page { rows, next } = self.page(&query).await?;
            listed.extend(rows);
            match next {
                Some(next) => query.sort = next,
                None => return Ok(listed),
            }
        }
    }

    /// The oldest live operator's account, if there is one.
    async fn find_operator(&self) -> Result<Option<Account>, StoreError>;

    /// Has there never been an account? Deleted ones count.
    async fn is_empty(&self) -> Result<bool, StoreError>;
}

/// Why an account was not stored.
#[derive(Debug)]
pub enum CreateAccountError {
    /// Another live account has the name.
    NameTaken,
    /// Another live account has the slug.
    SlugTaken,
    /// The caller has given the request's name to another request.
    OtherRequest,
    /// The store did not do it.
    Store(StoreError),
}

/// Why an account and its first key were not stored.
#[derive(Debug)]
pub enum CreateOperatorError {
    /// Another live account has the name or the slug.
    AccountTaken,
    /// Another key has the prefix.
    PrefixTaken,
    /// The secret that the key is hashed under was dropped.
    PepperDropped,
    /// The store did not do it.
    Store(StoreError),
}

/// Why an account was not changed.
#[derive(Debug)]
pub enum UpdateAccountError {
    /// There is no account with this id, not even a deleted one.
    NotFound,
    /// The change refused the account as it is.
    Refused(AccountRefusal),
    /// Another live account has the name.
    NameTaken,
    /// Another live account has the slug.
    SlugTaken,
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for CreateAccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NameTaken => "the account's name is taken",
            Self::SlugTaken => "the account's slug is taken",
            Self::OtherRequest => "another request has the same name",
            Self::Store(_) => "the account could not be stored",
        })
    }
}

impl fmt::Display for CreateOperatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AccountTaken => "the account's name or slug is taken",
            Self::PrefixTaken => "the key's prefix is taken",
            Self::PepperDropped => "the secret that the key is hashed under was dropped",
            Self::Store(_) => "the account and its key could not be stored",
        })
    }
}

impl fmt::Display for UpdateAccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such account",
            Self::Refused(_) => "the account does not allow the change",
            Self::NameTaken => "the account's name is taken",
            Self::SlugTaken => "the account's slug is taken",
            Self::Store(_) => "the account could not be changed",
        })
    }
}

impl std::error::Error for CreateAccountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NameTaken | Self::SlugTaken | Self::OtherRequest => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl std::error::Error for CreateOperatorError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::AccountTaken | Self::PrefixTaken | Self::PepperDropped => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl std::error::Error for UpdateAccountError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound | Self::Refused(_) | Self::NameTaken | Self::SlugTaken => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for CreateAccountError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for CreateOperatorError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for UpdateAccountError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
