//! The store: a few maps behind one lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use leadr_auth_domain::{
    Account, AccountId, AccountRole, ApiKey, ApiKeyStatus, KeyId, KeyPrefix, KeyRecord, PepperId,
    Slug, Timestamp,
};
use leadr_auth_ports::{
    AccountChangeFn, AccountRepository, CreateAccountError, CreateKeyError, CreateOperatorError,
    DropPepperError, ImportConflict, ImportMode, ImportOutcome, KeyChangeFn, KeyFilter, KeyLookup,
    KeyRepository, KeyUse, PepperUse, Rehash, Rows, SecretRegistry, Snapshot, StoreError,
    StoreHealth, StoreLoad, StoredPepper, Stores, Totals, TransferStore, UpdateAccountError,
    UpdateKeyError, UsageStore,
};

/// A store in this process. Its clones share their contents.
///
/// One lock guards it all, so that every method is atomic; it is held for some map operations and never across an
/// `await`. Every method decides first and writes last, so that a change that panics leaves nothing half done, and a
/// poisoned lock guards data that is whole.
#[derive(Clone, Default)]
pub struct Memory(Arc<RwLock<State>>);

/// Places a key in its account's list: newest first, then the greater id first.
type Place = (Reverse<Timestamp>, Reverse<KeyId>);

#[derive(Clone, Default)]
struct State {
    accounts: HashMap<AccountId, Account>,
    keys: HashMap<KeyId, ApiKey>,
    keys_by_prefix: HashMap<KeyPrefix, KeyId>,
    keys_by_account: HashMap<AccountId, BTreeSet<Place>>,
    secrets: BTreeMap<PepperId, StoredPepper>,
}

/// Which unique field of an account another live one has.
enum Taken {
    Name,
    Slug,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// This store, as what it provides.
    pub fn stores(&self) -> Stores {
        let this = Arc::new(self.clone());
        Stores {
            lookup: this.clone(),
            keys: this.clone(),
            accounts: this.clone(),
            usage: this.clone(),
            secrets: this.clone(),
            transfer: this.clone(),
            health: this,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What of `account`'s is taken by another live account, the name before the slug. A deleted account takes nothing.
    fn clash(&self, account: &Account) -> Option<Taken> {
        if account.is_deleted() {
            return None;
        }
        let others = || {
            self.accounts
                .values()
                .filter(|other| other.id != account.id && !other.is_deleted())
        };
        if others().any(|other| other.name == account.name) {
            Some(Taken::Name)
        } else if others().any(|other| other.slug == account.slug) {
            Some(Taken::Slug)
        } else {
            None
        }
    }

    fn insert_key(&mut self, key: &ApiKey) {
        let place = (Reverse(key.created_at), Reverse(key.id));
        self.keys_by_account
            .entry(key.account_id)
            .or_default()
            .insert(place);
        self.keys_by_prefix.insert(key.key_prefix.clone(), key.id);
        self.keys.insert(key.id, key.clone());
    }

    /// The live keys of an account, in the order of lists.
    fn live_keys(&self, account: AccountId) -> impl Iterator<Item = &ApiKey> {
        self.keys_by_account
            .get(&account)
            .into_iter()
            .flatten()
            .filter_map(|(_, Reverse(id))| self.keys.get(id))
            .filter(|key| !key.is_deleted())
    }

    /// Was the secret that the key is hashed under dropped?
    fn is_dropped(&self, id: &PepperId) -> bool {
        self.secrets
            .get(id)
            .is_some_and(|pepper| pepper.dropped_at.is_some())
    }

    /// The keys that work or could work again, in the order of their ids.
    fn usable_keys(&self, now: Timestamp) -> Vec<&ApiKey> {
        let usable = |key: &&ApiKey| !key.is_deleted() && !key.is_expired(now);
        let mut keys: Vec<_> = self.keys.values().filter(usable).collect();
        keys.sort_by_key(|key| key.id);
        keys
    }

    fn live_accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts
            .values()
            .filter(|account| !account.is_deleted())
    }
}

impl Memory {
    /// Runs an import on the contents, or for a dry run on a copy.
    fn import<T>(&self, mode: ImportMode, work: impl FnOnce(&mut State) -> T) -> T {
        match mode {
            ImportMode::Commit => work(&mut self.write()),
            ImportMode::DryRun => {
                let mut copy = self.read().clone();
                work(&mut copy)
            }
        }
    }
}

impl State {
    fn import_account(&mut self, account: &Account) -> ImportOutcome {
        if let Some(stored) = self.accounts.get(&account.id) {
            return if stored == account {
                ImportOutcome::Present
            } else {
                ImportOutcome::Conflict(ImportConflict::IdTaken)
            };
        }
        match self.clash(account) {
            Some(Taken::Name) => ImportOutcome::Conflict(ImportConflict::NameTaken),
            Some(Taken::Slug) => ImportOutcome::Conflict(ImportConflict::SlugTaken),
            None => {
                self.accounts.insert(account.id, account.clone());
                ImportOutcome::Stored
            }
        }
    }

    fn import_key(&mut self, key: &ApiKey) -> ImportOutcome {
        if let Some(stored) = self.keys.get(&key.id) {
            return if stored.is_same_record(key) {
                ImportOutcome::Present
            } else {
                ImportOutcome::Conflict(ImportConflict::IdTaken)
            };
        }
        if !self.accounts.contains_key(&key.account_id) {
            return ImportOutcome::Conflict(ImportConflict::AccountMissing);
        }
        if self.keys_by_prefix.contains_key(&key.key_prefix) {
            return ImportOutcome::Conflict(ImportConflict::PrefixTaken);
        }
        if self.is_dropped(&key.pepper_id) {
            return ImportOutcome::Conflict(ImportConflict::PepperDropped);
        }
        self.insert_key(key);
        ImportOutcome::Stored
    }
}

/// Is a record, deleted or not, among the rows that are asked for?
fn among(rows: Rows, deleted: bool) -> bool {
    match rows {
        Rows::Live => !deleted,
        Rows::WithDeleted => true,
    }
}

#[async_trait]
impl KeyLookup for Memory {
    async fn find(&self, prefix: &KeyPrefix) -> Result<Option<KeyRecord>, StoreError> {
        let state = self.read();
        let Some(key) = state
            .keys_by_prefix
            .get(prefix)
            .and_then(|id| state.keys.get(id))
        else {
            return Ok(None);
        };
        match state.accounts.get(&key.account_id) {
            Some(account) => Ok(Some(KeyRecord {
                key: key.clone(),
                account: account.clone(),
            })),
            None => Err(StoreError::internal(format!(
                "key {} has no account",
                key.id
            ))),
        }
    }
}

#[async_trait]
impl KeyRepository for Memory {
    async fn create(&self, key: &ApiKey) -> Result<(), CreateKeyError> {
        let mut state = self.write();
        if state.keys.contains_key(&key.id) {
            return Err(StoreError::internal(format!("key {} exists", key.id)).into());
        }
        if !state
            .live_accounts()
            .any(|account| account.id == key.account_id)
        {
            return Err(CreateKeyError::AccountNotFound);
        }
        if state.keys_by_prefix.contains_key(&key.key_prefix) {
            return Err(CreateKeyError::PrefixTaken);
        }
        if state.is_dropped(&key.pepper_id) {
            return Err(CreateKeyError::PepperDropped);
        }
        state.insert_key(key);
        Ok(())
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        let state = self.read();
        Ok(state
            .keys
            .get(&id)
            .filter(|key| among(rows, key.is_deleted()))
            .cloned())
    }

    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        let mut state = self.write();
        let Some(stored) = state.keys.get_mut(&id) else {
            return Err(UpdateKeyError::NotFound);
        };
        let changed = change(stored.clone()).map_err(UpdateKeyError::Refused)?;
        stored.name = changed.name;
        stored.status = changed.status;
        stored.scopes = changed.scopes;
        stored.updated_at = changed.updated_at;
        stored.deleted_at = changed.deleted_at;
        Ok(stored.clone())
    }

    async fn list(&self, filter: KeyFilter) -> Result<Vec<ApiKey>, StoreError> {
        let wanted = |key: &&ApiKey| {
            filter.status.is_none_or(|status| key.status == status)
                && (!filter.active_only || key.status == ApiKeyStatus::Active)
        };
        Ok(self
            .read()
            .live_keys(filter.account_id)
            .filter(wanted)
            .cloned()
            .collect())
    }

    async fn count_active(&self, account_id: AccountId) -> Result<u64, StoreError> {
        let state = self.read();
        let active = state
            .live_keys(account_id)
            .filter(|key| key.status == ApiKeyStatus::Active)
            .count();
        u64::try_from(active).map_err(StoreError::internal)
    }
}

#[async_trait]
impl AccountRepository for Memory {
    async fn create(&self, account: &Account) -> Result<(), CreateAccountError> {
        let mut state = self.write();
        if state.accounts.contains_key(&account.id) {
            return Err(StoreError::internal(format!("account {} exists", account.id)).into());
        }
        match state.clash(account) {
            Some(Taken::Name) => Err(CreateAccountError::NameTaken),
            Some(Taken::Slug) => Err(CreateAccountError::SlugTaken),
            None => {
                state.accounts.insert(account.id, account.clone());
                Ok(())
            }
        }
    }

    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
    ) -> Result<(), CreateOperatorError> {
        let mut state = self.write();
        if key.account_id != account.id {
            return Err(StoreError::internal("the key is of another account").into());
        }
        if state.accounts.contains_key(&account.id) {
            return Err(StoreError::internal(format!("account {} exists", account.id)).into());
        }
        if state.keys.contains_key(&key.id) {
            return Err(StoreError::internal(format!("key {} exists", key.id)).into());
        }
        if state.clash(account).is_some() {
            return Err(CreateOperatorError::AccountTaken);
        }
        if state.keys_by_prefix.contains_key(&key.key_prefix) {
            return Err(CreateOperatorError::PrefixTaken);
        }
        if state.is_dropped(&key.pepper_id) {
            return Err(CreateOperatorError::PepperDropped);
        }
        state.accounts.insert(account.id, account.clone());
        state.insert_key(key);
        Ok(())
    }

    async fn get(&self, id: AccountId, rows: Rows) -> Result<Option<Account>, StoreError> {
        let state = self.read();
        Ok(state
            .accounts
            .get(&id)
            .filter(|account| among(rows, account.is_deleted()))
            .cloned())
    }

    async fn find_by_slug(&self, slug: &Slug) -> Result<Option<Account>, StoreError> {
        let state = self.read();
        Ok(state
            .live_accounts()
            .find(|account| account.slug == *slug)
            .cloned())
    }

    async fn update<'a>(
        &self,
        id: AccountId,
        change: &'a mut AccountChangeFn<'a>,
    ) -> Result<Account, UpdateAccountError> {
        let mut state = self.write();
        let Some(stored) = state.accounts.get(&id) else {
            return Err(UpdateAccountError::NotFound);
        };
        let mut changed = change(stored.clone()).map_err(UpdateAccountError::Refused)?;
        changed.id = stored.id;
        changed.created_at = stored.created_at;
        match state.clash(&changed) {
            Some(Taken::Name) => Err(UpdateAccountError::NameTaken),
            Some(Taken::Slug) => Err(UpdateAccountError::SlugTaken),
            None => {
                state.accounts.insert(id, changed.clone());
                Ok(changed)
            }
        }
    }

    async fn list(&self) -> Result<Vec<Account>, StoreError> {
        let mut accounts: Vec<_> = self.read().live_accounts().cloned().collect();
        accounts.sort_by_key(|account| (Reverse(account.created_at), Reverse(account.id)));
        Ok(accounts)
    }

    async fn find_operator(&self) -> Result<Option<Account>, StoreError> {
        let state = self.read();
        let operators = state
            .live_accounts()
            .filter(|account| account.role == AccountRole::Operator);
        Ok(operators
            .min_by_key(|account| (account.created_at, account.id))
            .cloned())
    }

    async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.read().accounts.is_empty())
    }
}

#[async_trait]
impl UsageStore for Memory {
    async fn record(&self, uses: &[KeyUse]) -> Result<(), StoreError> {
        let mut state = self.write();
        for KeyUse { key_id, used_at } in uses {
            if let Some(key) = state.keys.get_mut(key_id) {
                key.record_usage(*used_at);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl SecretRegistry for Memory {
    async fn registered(&self) -> Result<Vec<StoredPepper>, StoreError> {
        Ok(self.read().secrets.values().cloned().collect())
    }

    async fn register(&self, pepper: &StoredPepper) -> Result<StoredPepper, StoreError> {
        let mut state = self.write();
        let place = state.secrets.entry(pepper.id.clone());
        Ok(place.or_insert_with(|| pepper.clone()).clone())
    }

    async fn count_keys(&self, now: Timestamp) -> Result<Vec<PepperUse>, StoreError> {
        let mut counts = BTreeMap::<PepperId, u64>::new();
        for key in self.read().usable_keys(now) {
            *counts.entry(key.pepper_id.clone()).or_default() += 1;
        }
        Ok(counts
            .into_iter()
            .map(|(id, keys)| PepperUse { id, keys })
            .collect())
    }

    async fn drop_pepper(&self, id: &PepperId, now: Timestamp) -> Result<(), DropPepperError> {
        let mut state = self.write();
        if !state.secrets.contains_key(id) {
            return Err(DropPepperError::NotRegistered);
        }
        let dependent = state.usable_keys(now).into_iter();
        let dependent: Vec<_> = dependent.filter(|key| key.pepper_id == *id).collect();
        if !dependent.is_empty() {
            let listed = usize::try_from(DropPepperError::LISTED).unwrap_or(usize::MAX);
            return Err(DropPepperError::InUse {
                count: u64::try_from(dependent.len()).map_err(StoreError::internal)?,
                first: dependent.into_iter().take(listed).cloned().collect(),
            });
        }
        if let Some(pepper) = state.secrets.get_mut(id) {
            pepper.dropped_at.get_or_insert(now);
        }
        Ok(())
    }

    async fn rehash(&self, keys: &[Rehash]) -> Result<u64, StoreError> {
        let mut state = self.write();
        let mut done = 0;
        for rehash in keys {
            if state.is_dropped(&rehash.becomes.pepper_id) {
                continue;
            }
            let stored = state.keys.get_mut(&rehash.key_id);
            let known = rehash.was.expose_hex();
            if let Some(key) = stored.filter(|key| key.key_hash.expose_hex() == known) {
                key.key_hash = rehash.becomes.hash.clone();
                key.pepper_id = rehash.becomes.pepper_id.clone();
                done += 1;
            }
        }
        Ok(done)
    }
}

#[async_trait]
impl TransferStore for Memory {
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let state = self.read().clone();
        Ok(Box::new(Copied {
            accounts: state.accounts.into_iter().collect(),
            keys: state.keys.into_iter().collect(),
            secrets: state.secrets.into_values().collect(),
        }))
    }

    async fn import_accounts(
        &self,
        accounts: &[Account],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        Ok(self.import(mode, |state| {
            let each = accounts.iter();
            each.map(|account| state.import_account(account)).collect()
        }))
    }

    async fn import_keys(
        &self,
        keys: &[ApiKey],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        Ok(self.import(mode, |state| {
            keys.iter().map(|key| state.import_key(key)).collect()
        }))
    }
}

/// Everything, as it was.
struct Copied {
    accounts: BTreeMap<AccountId, Account>,
    keys: BTreeMap<KeyId, ApiKey>,
    secrets: Vec<StoredPepper>,
}

/// The first `limit` of those after `after`.
fn page<K: Copy + Ord, V: Clone>(all: &BTreeMap<K, V>, after: Option<K>, limit: u32) -> Vec<V> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let rest = all.range((start, Bound::Unbounded));
    rest.map(|(_, value)| value.clone()).take(limit).collect()
}

#[async_trait]
impl Snapshot for Copied {
    async fn secrets(&mut self) -> Result<Vec<StoredPepper>, StoreError> {
        Ok(self.secrets.clone())
    }

    async fn totals(&mut self) -> Result<Totals, StoreError> {
        Ok(Totals {
            accounts: u64::try_from(self.accounts.len()).map_err(StoreError::internal)?,
            keys: u64::try_from(self.keys.len()).map_err(StoreError::internal)?,
        })
    }

    async fn accounts(
        &mut self,
        after: Option<AccountId>,
        limit: u32,
    ) -> Result<Vec<Account>, StoreError> {
        Ok(page(&self.accounts, after, limit))
    }

    async fn keys(&mut self, after: Option<KeyId>, limit: u32) -> Result<Vec<ApiKey>, StoreError> {
        Ok(page(&self.keys, after, limit))
    }
}

#[async_trait]
impl StoreHealth for Memory {
    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// There is nothing to connect to.
    fn load(&self) -> StoreLoad {
        StoreLoad::default()
    }
}
