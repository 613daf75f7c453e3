//! Every change of keys and accounts passes through here on its way to the store, and when the store has done it, what the
//! cache knew goes.
//!
//! The order is what counts: commit, forget, answer. Forgotten before the commit, a fill in between would bring back what was
//! before; forgotten after the answer, somebody could be let in who has just been shut out. It is forgotten whatever came of
//! the change, since a store that went away may have done it, and also where the caller does not wait for the end.
//!
//! New hashes of keys do not come by here: whoever makes them knows the keys ([`crate::rehash`]), and the store does not say.

use std::sync::Arc;

use async_trait::async_trait;
use leadr_auth_domain::{
    Account, AccountId, ApiKey, AuditDraft, IdempotentRequest, KeyId, KeyPrefix, Slug,
};
use leadr_auth_ports::{
    AccountChangeFn, AccountQuery, AccountRepository, Audited, Change, CreateAccountError,
    CreateKeyError, CreateOperatorError, ImportMode, ImportOutcome, KeyChangeFn, KeyQuery,
    KeyRepository, Once, Rows, Snapshot, StoreError, StoredPepper, Stores, TransferStore,
    UpdateAccountError, UpdateKeyError,
    listing::{Page, Sort},
};

use super::Sabotage;
use super::cache::VerificationCache;

/// The same stores, whose changes the cache gets to know of.
pub(crate) fn watched(stores: Stores, cache: &Arc<VerificationCache>) -> Stores {
    Stores {
        keys: Arc::new(Watched::new(&stores.keys, cache)),
        accounts: Arc::new(Watched::new(&stores.accounts, cache)),
        transfer: Arc::new(Watched::new(&stores.transfer, cache)),
        ..stores
    }
}

/// A port, and the cache that has to know of what is changed by it.
struct Watched<P: ?Sized> {
    port: Arc<P>,
    cache: Arc<VerificationCache>,
}

/// What is forgotten when this is dropped.
pub(super) struct Forgets<'a> {
    cache: &'a VerificationCache,
    changes: Vec<Change>,
}

impl<P: ?Sized> Watched<P> {
    fn new(port: &Arc<P>, cache: &Arc<VerificationCache>) -> Self {
        Self {
            port: Arc::clone(port),
            cache: Arc::clone(cache),
        }
    }

    fn forgets(&self, change: Option<Change>) -> Forgets<'_> {
        let mut forgets = Forgets::new(&self.cache);
        if let Some(change) = change {
            forgets.note(change);
        }
        forgets
    }

    fn forgets_key(&self, prefix: &KeyPrefix) -> Forgets<'_> {
        self.forgets(Some(Change::Key(prefix.clone())))
    }
}

impl<'a> Forgets<'a> {
    pub(super) fn new(cache: &'a VerificationCache) -> Self {
        Self {
            cache,
            changes: Vec::new(),
        }
    }

    /// Notes what is about to be changed.
    pub(super) fn note(&mut self, change: Change) {
        if self.changes.contains(&change) {
            return;
        }
        if self.cache.sabotage.is(Sabotage::ForgetEarly) {
            self.cache.forget(&change);
        }
        self.changes.push(change);
    }
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        if self.cache.sabotage.is(Sabotage::ForgetEarly) {
            return;
        }
        for change in &self.changes {
            self.cache.forget(change);
        }
    }
}

#[async_trait]
impl KeyRepository for Watched<dyn KeyRepository> {
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        let _forgets = self.forgets_key(&key.key_prefix);
        self.port.create(key, entry).await
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        let _forgets = self.forgets_key(&key.key_prefix);
        self.port.adopt(key, entry).await
    }

    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError> {
        let _forgets = self.forgets_key(&key.key_prefix);
        self.port.create_once(key, entry, request).await
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        self.port.get(id, rows).await
    }

    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        let mut forgets = self.forgets(None);
        self.port
            .update(id, &mut |key| {
                forgets.note(Change::Key(key.key_prefix.clone()));
                change(key)
            })
            .await
    }

    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError> {
        self.port.page(query).await
    }

    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError> {
        self.port.count_active(account_id).await
    }
}

#[async_trait]
impl AccountRepository for Watched<dyn AccountRepository> {
    async fn create(
        &self,
        account: &Account,
        entry: &AuditDraft,
    ) -> Result<(), CreateAccountError> {
        self.port.create(account, entry).await
    }

    async fn create_once(
        &self,
        account: &Account,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<AccountId>, CreateAccountError> {
        self.port.create_once(account, entry, request).await
    }

    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
        entry: &AuditDraft,
    ) -> Result<(), CreateOperatorError> {
        let _forgets = self.forgets_key(&key.key_prefix);
        self.port.create_with_key(account, key, entry).await
    }

    async fn get(&self, id: AccountId, rows: Rows) -> Result<Option<Account>, StoreError> {
        self.port.get(id, rows).await
    }

    async fn find_by_slug(&self, slug: &Slug) -> Result<Option<Account>, StoreError> {
        self.port.find_by_slug(slug).await
    }

    async fn update<'a>(
        &self,
        id: AccountId,
        change: &'a mut AccountChangeFn<'a>,
    ) -> Result<Account, UpdateAccountError> {
        let _forgets = self.forgets(Some(Change::Account(id)));
        self.port.update(id, change).await
    }

    async fn page(
        &self,
        query: &AccountQuery,
    ) -> Result<Page<Account, Sort<AccountId>>, StoreError> {
        self.port.page(query).await
    }

    async fn find_operator(&self) -> Result<Option<Account>, StoreError> {
        self.port.find_operator().await
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        self.port.is_empty().await
    }
}

#[async_trait]
impl TransferStore for Watched<dyn TransferStore> {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.port.snapshot().await
    }

    async fn import_secrets(
        &self,
        secrets: &[Audited<StoredPepper>],
    ) -> Result<Vec<StoredPepper>, StoreError> {
        self.port.import_secrets(secrets).await
    }

    async fn import_accounts(
        &self,
        accounts: &[Audited<Account>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        self.port.import_accounts(accounts, mode).await
    }

    async fn import_keys(
        &self,
        keys: &[Audited<ApiKey>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        let mut forgets = self.forgets(None);
        for key in keys {
            forgets.note(Change::Key(key.record.key_prefix.clone()));
        }
        self.port.import_keys(keys, mode).await
    }
}
