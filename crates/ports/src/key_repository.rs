//! Management of keys.

use std::fmt;

use async_trait::async_trait;
use leadr_auth_domain::{
    AccountId, ApiKey, ApiKeyStatus, AuditDraft, IdempotentRequest, KeyId, KeyPrefix, KeyRefusal,
};

use crate::listing::{self, AT_A_TIME, Page, Period, Sort, contains};
use crate::{Audited, StoreError};

/// A change to a key, run by the adapter on the key as it is; nothing is written if that has changed meanwhile. It may be
/// called again where the adapter has to start over.
pub type KeyChangeFn<'a> = dyn FnMut(ApiKey) -> Result<Audited<ApiKey>, KeyRefusal> + Send + 'a;

/// When a request was done that is to be done once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Once<T> {
    /// Now: this is what was made.
    Now(T),
    /// When it was sent before: this was made then.
    Before(T),
}

impl<T> Once<T> {
    /// The same of something else.
    pub fn map<U>(self, map: impl FnOnce(T) -> U) -> Once<U> {
        match self {
            Self::Now(made) => Once::Now(map(made)),
            Self::Before(made) => Once::Before(map(made)),
        }
    }
}

/// Which records a read takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Live ones only.
    Live,
    /// Soft-deleted ones too.
    WithDeleted,
}

/// Which of an account's live keys are wanted. The account is no option: no list goes across accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFilter {
    /// Whose keys.
    pub account_id: AccountId,
    /// Those of this status only; `None` for all.
    pub status: Option<ApiKeyStatus>,
    /// Only those that are not revoked. With `status: Revoked` that leaves none.
    pub active_only: bool,
    /// Those whose name contains this, by [`contains`].
    pub name_contains: Option<String>,
    /// Those that begin like this.
    pub prefix: Option<String>,
    /// Those that were made in this time.
    pub created: Period,
    /// Those whose last use lies in this time, as far as it is stored.
    pub last_used: Period,
    /// Those that expire in this time. One that never expires does so in no time that begins or ends.
    pub expires: Period,
    /// Only those of which no use is stored.
    pub never_used: bool,
}

impl KeyFilter {
    /// All live keys of an account.
    pub const fn of(account_id: AccountId) -> Self {
        Self {
            account_id,
            status: None,
            active_only: false,
            name_contains: None,
            prefix: None,
            created: Period::ALWAYS,
            last_used: Period::ALWAYS,
            expires: Period::ALWAYS,
            never_used: false,
        }
    }

    /// The whole of a prefix, where that is what is wanted: at most one key has it, and its index finds that.
    pub fn whole_prefix(&self) -> Option<&str> {
        let is_whole = |prefix: &&str| prefix.len() == KeyPrefix::LEN;
        self.prefix.as_deref().filter(is_whole)
    }

    /// Does a live key pass?
    pub fn matches(&self, key: &ApiKey) -> bool {
        let wanted = |part: &Option<String>, is: fn(&str, &str) -> bool, text: &str| {
            part.as_deref().is_none_or(|part| is(text, part))
        };
        key.account_id == self.account_id
            && self.status.is_none_or(|status| key.status == status)
            && (!self.active_only || key.status == ApiKeyStatus::Active)
            && wanted(&self.name_contains, contains, key.name.as_str())
            && wanted(
                &self.prefix,
                |text, part| text.starts_with(part),
                key.key_prefix.as_str(),
            )
            && self.created.contains(key.created_at)
            && self.last_used.contains_any(key.last_used_at)
            && self.expires.contains_any(key.expires_at)
            && (!self.never_used || key.last_used_at.is_none())
    }
}

/// A page of an account's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyQuery {
    /// Which keys.
    pub filter: KeyFilter,
    /// In which order, and from where on.
    pub sort: Sort<KeyId>,
    /// The most keys; at least 1.
    pub limit: u32,
}

impl KeyQuery {
    /// How many keys are looked at for the page, where there may be some between its first and its last that do not pass. A time in
    /// which keys were made is a part of the list by that.
    pub fn looks_at(&self) -> Option<u32> {
        let mut wide = KeyFilter::of(self.filter.account_id);
        if let Sort::CreatedAt { .. } = self.sort {
            wide.created = self.filter.created;
        }
        let is_narrow = self.filter != wide && self.filter.whole_prefix().is_none();
        is_narrow.then(|| listing::looked_at(self.limit))
    }
}

/// Stores keys.
#[cfg_attr(feature = "mock", mockall::automock)]
#[async_trait]
pub trait KeyRepository: Send + Sync {
    /// Stores a new key. Atomic: the prefix is free (also of deleted keys), the account is live and has no more live keys with
    /// this one than its limit, the secret that the key is hashed under was not dropped, and the key is there, with its audit
    /// entry; or nothing. However many come at once, no more are stored than the limit. An id that another key has,
    /// deleted or not, is [`StoreError::Internal`]: ids are random.
    ///
    /// The key is one that was made of random bytes just now, so that nobody can have presented it before: whoever listens for
    /// changes need not hear of it.
    ///
    /// Of several faults it is the account that is named, then the secret: with another prefix it would be refused again.
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError>;

    /// As [`KeyRepository::create`], of a key that somebody chose and that may have been presented before: whoever listens for
    /// changes hears of it. It is stored whatever the account's limit: it is how an operator gets in again.
    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError>;

    /// As [`KeyRepository::create`], for a request that is to be done once. Atomic: the request is noted and the key is there,
    /// or neither; and where the caller has sent the same request before, and it is not forgotten, nothing is stored, and the key
    /// that was stored then is named. Of those that come at once exactly one stores its key.
    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError>;

    /// The key with this id, if there is one among `rows`. Whether there is takes no other time, for the reason and in the way that
    /// [`KeyLookup::find`](crate::KeyLookup::find) has: a tenant is not to learn whether an id is another's.
    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError>;

    /// Replaces the key with this id, deleted or not, by what `change` makes of it. Atomic: no other change comes
    /// between the read and the write, and the audit entry is written with it; a refusal leaves the key as it was.
    ///
    /// A deleted key is not made live again where the secret that it is hashed under was dropped, also while that is being
    /// done; nor where the account would have more live keys than its limit. Every other change of such a key is made.
    ///
    /// Written are `name`, `status`, `scopes`, `updated_at` and `deleted_at`; the other fields of the result are ignored, so that a
    /// change, the recording of a use and a new hash never undo one another.
    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError>;

    /// A page of the live keys that pass the filter, in the query's order; see [`listing`] for what it costs.
    /// One consistent view. An account that does not exist has none.
    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError>;

    /// All live keys that pass the filter, newest first; of two made in the same microsecond the one with the greater id
    /// first. Each of the pages that they come in is one consistent view.
    async fn list(&self, filter: KeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        let mut query = KeyQuery {
            filter,
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

    /// How many live keys of the account are not revoked.
    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError>;
}

/// Why a key was not stored.
#[derive(Debug)]
pub enum CreateKeyError {
    /// Another key has the prefix: make another key.
    PrefixTaken,
    /// There is no live account with the key's account id.
    AccountNotFound,
    /// The account has as many live keys as it may have.
    LimitReached,
    /// The secret that the key is hashed under was dropped.
    PepperDropped,
    /// The caller has given the request's name to another request.
    OtherRequest,
    /// The store did not do it.
    Store(StoreError),
}

/// Why a key was not changed.
#[derive(Debug)]
pub enum UpdateKeyError {
    /// There is no key with this id, not even a deleted one.
    NotFound,
    /// The change refused the key as it is.
    Refused(KeyRefusal),
    /// The key is deleted, the change restores it, and the account has as many live keys as it may have.
    LimitReached,
    /// The key is deleted, the change restores it, and the secret that it is hashed under was dropped.
    PepperDropped,
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for CreateKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrefixTaken => "the key's prefix is taken",
            Self::AccountNotFound => "the key's account does not exist",
            Self::LimitReached => "the key's account has as many keys as it may have",
            Self::PepperDropped => "the secret that the key is hashed under was dropped",
            Self::OtherRequest => "another request has the same name",
            Self::Store(_) => "the key could not be stored",
        })
    }
}

impl std::error::Error for CreateKeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::PrefixTaken
            | Self::AccountNotFound
            | Self::LimitReached
            | Self::PepperDropped
            | Self::OtherRequest => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl fmt::Display for UpdateKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such key",
            Self::Refused(_) => "the key does not allow the change",
            Self::LimitReached => "the key's account has as many keys as it may have",
            Self::PepperDropped => "the secret that the key is hashed under was dropped",
            Self::Store(_) => "the key could not be changed",
        })
    }
}

impl std::error::Error for UpdateKeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound | Self::Refused(_) | Self::LimitReached | Self::PepperDropped => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for CreateKeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<StoreError> for UpdateKeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
