//! The store: a few maps behind one lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use leadr_auth_domain::{
    Account, AccountId, AccountRole, Actor, ApiKey, ApiKeyStatus, AuditDraft, AuditEntry,
    ChainHead, ChainId, Checkpoint, IdempotencyKey, IdempotentRequest, KeyId, KeyPrefix, KeyRecord,
    LastPlace, NodeId, PepperId, Slug, Timestamp,
};
use leadr_auth_ports::{
    AccountChangeFn, AccountQuery, AccountRepository, ActorFilter, AuditPlace, AuditQuery,
    AuditStore, Audited, Change, ChangeFeed, CreateAccountError, CreateKeyError,
    CreateOperatorError, DropPepperError, Heard, ImportConflict, ImportMode, ImportOutcome,
    KeyChangeFn, KeyLookup, KeyQuery, KeyRepository, KeyUse, LocalFeed, NodeReport, NodeReports,
    Once, PepperUse, Pruned, Rehash, Rows, SecretRegistry, Signal, Snapshot, StoreError,
    StoreHealth, StoreLoad, StoredPepper, Stores, Subscription, Totals, TransferStore,
    UpdateAccountError, UpdateKeyError, UsageStore,
    listing::{Page, Period, Sort},
};
use uuid::Uuid;

/// A store in this process. Its clones share their contents.
///
/// One lock guards it all, so that every method is atomic; it is held for some map operations and never across an
/// `await`. Every method decides first and writes last, so that a change that panics leaves nothing half done, and a
/// poisoned lock guards data that is whole. What was changed is told while the lock is held, so that everybody hears it in the
/// order in which it was done.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<RwLock<State>>,
    feed: LocalFeed,
}

/// Places a key in its account's list: newest first, then the greater id first.
type Place = (Reverse<Timestamp>, Reverse<KeyId>);

#[derive(Clone, Default)]
struct State {
    accounts: HashMap<AccountId, Account>,
    keys: BTreeMap<KeyId, ApiKey>,
    keys_by_prefix: BTreeMap<KeyPrefix, KeyId>,
    keys_by_account: HashMap<AccountId, BTreeSet<Place>>,
    /// How many live keys each account has.
    live_counts: HashMap<AccountId, u64>,
    secrets: BTreeMap<PepperId, StoredPepper>,
    trails: BTreeMap<ChainId, Trail>,
    /// What callers have sent that is to be done once, and the id of what came of it.
    requests: BTreeMap<(KeyId, IdempotencyKey), (IdempotentRequest, Uuid)>,
}

/// A chain of the audit trail.
#[derive(Clone, Default)]
struct Trail {
    entries: Vec<AuditEntry>,
    head: Option<ChainHead>,
    checkpoint: Option<Checkpoint>,
}

impl Trail {
    fn append(&mut self, draft: AuditDraft) {
        let (entry, head) = match &self.head {
            Some(head) if draft.can_follow(head) => draft.seal(head),
            _ => draft.seal_after(self.last_place()),
        };
        self.entries.push(entry);
        self.head = Some(head);
    }

    /// The last place of which there is a trace.
    fn last_place(&self) -> Option<LastPlace> {
        let entry = self.entries.last().map(|entry| LastPlace {
            seq: entry.seq,
            hash: entry.hash,
        });
        let checkpoint = self.checkpoint.map(|checkpoint| LastPlace {
            seq: checkpoint.seq,
            hash: checkpoint.hash,
        });
        let head = self.head.map(|head| LastPlace {
            seq: head.seq,
            hash: head.hash,
        });
        let places = [entry, checkpoint, head].into_iter().flatten();
        places.max_by_key(|place| place.seq)
    }
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

    /// Another store that holds the same, and goes its own way from then on: so that tests need not fill one again and again.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            state: Arc::new(RwLock::new(self.read().clone())),
            feed: LocalFeed::default(),
        }
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
            audit: this.clone(),
            transfer: this.clone(),
            feed: this.clone(),
            health: this,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that something was changed, to be called before the lock is given back.
    fn tell(&self, change: Change) {
        self.feed.tell(&Heard::Change(change));
    }
}

impl State {
    fn append(&mut self, draft: &AuditDraft) {
        let trail = self.trails.entry(draft.chain).or_default();
        trail.append(draft.clone());
    }

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

    fn insert_account(
        &mut self,
        account: &Account,
        entry: &AuditDraft,
    ) -> Result<(), CreateAccountError> {
        if self.accounts.contains_key(&account.id) {
            return Err(StoreError::internal(format!("account {} exists", account.id)).into());
        }
        match self.clash(account) {
            Some(Taken::Name) => Err(CreateAccountError::NameTaken),
            Some(Taken::Slug) => Err(CreateAccountError::SlugTaken),
            None => {
                self.accounts.insert(account.id, account.clone());
                self.append(entry);
                Ok(())
            }
        }
    }

    fn insert_key(&mut self, key: &ApiKey) {
        let place = (Reverse(key.created_at), Reverse(key.id));
        self.keys_by_account
            .entry(key.account_id)
            .or_default()
            .insert(place);
        if !key.is_deleted() {
            *self.live_counts.entry(key.account_id).or_default() += 1;
        }
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

    /// The id of what was made when a request was sent before, if it was, and is not forgotten.
    fn made_before(&self, request: &IdempotentRequest) -> Result<Option<Uuid>, OtherRequest> {
        let name = (request.caller, request.key.clone());
        let known = self.requests.get(&name);
        let known = known.filter(|(known, _)| known.at > request.forgotten_until());
        match known {
            Some((known, made)) if known.fingerprint == request.fingerprint => Ok(Some(*made)),
            Some(_) => Err(OtherRequest),
            None => Ok(None),
        }
    }

    /// Remembers what came of a request, and forgets its caller's old ones.
    fn remember(&mut self, request: &IdempotentRequest, made: Uuid) {
        self.requests.retain(|(caller, _), (known, _)| {
            *caller != request.caller || known.at > request.forgotten_until()
        });
        let name = (request.caller, request.key.clone());
        self.requests.insert(name, (request.clone(), made));
    }

    /// May an account have one more live key?
    fn has_room(&self, account: &Account) -> bool {
        let live = self.live_counts.get(&account.id).copied();
        account.key_limit.allows(live.unwrap_or_default() + 1)
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

/// A caller has given a request's name to another one.
struct OtherRequest;

/// Whether an account's limit counts for a key that comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Limit {
    Counts,
    CountsNot,
}

impl Memory {
    /// Everything that is made is told of here.
    fn insert(
        &self,
        state: &mut State,
        key: &ApiKey,
        entry: &AuditDraft,
        limit: Limit,
    ) -> Result<(), CreateKeyError> {
        let mut accounts = state.live_accounts();
        let Some(owner) = accounts.find(|account| account.id == key.account_id) else {
            return Err(CreateKeyError::AccountNotFound);
        };
        if limit == Limit::Counts && !state.has_room(owner) {
            return Err(CreateKeyError::LimitReached);
        }
        drop(accounts);
        if state.is_dropped(&key.pepper_id) {
            return Err(CreateKeyError::PepperDropped);
        }
        if state.keys.contains_key(&key.id) {
            return Err(StoreError::internal(format!("key {} exists", key.id)).into());
        }
        if state.keys_by_prefix.contains_key(&key.key_prefix) {
            return Err(CreateKeyError::PrefixTaken);
        }
        state.insert_key(key);
        state.append(entry);
        self.tell(Change::Key(key.key_prefix.clone()));
        Ok(())
    }

    /// Runs an import on the contents, or for a dry run on a copy.
    fn import<T>(&self, mode: ImportMode, work: impl FnOnce(&mut State) -> T) -> T {
        match mode {
            ImportMode::Commit => {
                let mut state = self.write();
                let done = work(&mut state);
                self.tell(Change::Everything);
                done
            }
            ImportMode::DryRun => {
                let mut copy = self.read().clone();
                work(&mut copy)
            }
        }
    }
}

impl State {
    /// Writes down an import, if it was one.
    fn note(&mut self, outcome: ImportOutcome, entry: Option<&AuditDraft>) {
        if let (ImportOutcome::Stored, Some(entry)) = (outcome, entry) {
            self.append(entry);
        }
    }

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

/// Where a key stands in every order.
fn place(key: &ApiKey) -> (Timestamp, &str, KeyId) {
    (key.created_at, key.name.as_str(), key.id)
}

/// Leaves of a sorted list what a page looks at, and answers the last of it where that is as much as there may be.
fn look_at<'a, T>(sorted: &mut Vec<&'a T>, most: Option<u32>) -> Option<&'a T> {
    let most = usize::try_from(most?).unwrap_or(usize::MAX);
    sorted.truncate(most);
    sorted.last().copied().filter(|_| sorted.len() == most)
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
        let mut from_there = state.keys_by_prefix.range(prefix..);
        let first = from_there.next().and_then(|(_, id)| state.keys.get(id));
        let Some(key) = first else {
            return Ok(None);
        };
        let record = match state.accounts.get(&key.account_id) {
            Some(account) => Ok(KeyRecord {
                key: key.clone(),
                account: account.clone(),
            }),
            None => Err(StoreError::internal(format!(
                "key {} has no account",
                key.id
            ))),
        };
        (key.key_prefix == *prefix).then_some(record).transpose()
    }
}

#[async_trait]
impl KeyRepository for Memory {
    async fn create(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.insert(&mut self.write(), key, entry, Limit::Counts)
    }

    async fn adopt(&self, key: &ApiKey, entry: &AuditDraft) -> Result<(), CreateKeyError> {
        self.insert(&mut self.write(), key, entry, Limit::CountsNot)
    }

    async fn create_once(
        &self,
        key: &ApiKey,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<KeyId>, CreateKeyError> {
        let mut state = self.write();
        let before = state.made_before(request);
        if let Some(made) = before.map_err(|OtherRequest| CreateKeyError::OtherRequest)? {
            return Ok(Once::Before(KeyId::new(made)));
        }
        self.insert(&mut state, key, entry, Limit::Counts)?;
        state.remember(request, key.id.as_uuid());
        Ok(Once::Now(key.id))
    }

    async fn get(&self, id: KeyId, rows: Rows) -> Result<Option<ApiKey>, StoreError> {
        let state = self.read();
        let first = state.keys.range(id..).next().map(|(_, key)| key.clone());
        Ok(first.filter(|key| key.id == id && among(rows, key.is_deleted())))
    }

    async fn update<'a>(
        &self,
        id: KeyId,
        change: &'a mut KeyChangeFn<'a>,
    ) -> Result<ApiKey, UpdateKeyError> {
        let mut state = self.write();
        let Some(stored) = state.keys.get(&id) else {
            return Err(UpdateKeyError::NotFound);
        };
        let Audited {
            record: changed,
            entry,
        } = change(stored.clone()).map_err(UpdateKeyError::Refused)?;
        let was_deleted = stored.is_deleted();
        let is_restored = was_deleted && !changed.is_deleted();
        if is_restored && state.is_dropped(&stored.pepper_id) {
            return Err(UpdateKeyError::PepperDropped);
        }
        let owner = state.accounts.get(&stored.account_id);
        if is_restored && !owner.is_some_and(|owner| state.has_room(owner)) {
            return Err(UpdateKeyError::LimitReached);
        }
        let Some(stored) = state.keys.get_mut(&id) else {
            return Err(UpdateKeyError::NotFound);
        };
        stored.name = changed.name;
        stored.status = changed.status;
        stored.scopes = changed.scopes;
        stored.updated_at = changed.updated_at;
        stored.deleted_at = changed.deleted_at;
        let stored = stored.clone();
        let live = state.live_counts.entry(stored.account_id).or_default();
        match (was_deleted, stored.is_deleted()) {
            (true, false) => *live += 1,
            (false, true) => *live -= 1,
            (true, true) | (false, false) => {}
        }
        if let Some(entry) = &entry {
            state.append(entry);
        }
        self.tell(Change::Key(stored.key_prefix.clone()));
        Ok(stored)
    }

    /// Sorts them all: there is no order but that of their creation. What is on a page is as in other stores.
    async fn page(&self, query: &KeyQuery) -> Result<Page<ApiKey, Sort<KeyId>>, StoreError> {
        let KeyQuery {
            filter,
            sort,
            limit,
        } = query;
        let state = self.read();
        // In a list by the time that they were made, a span of it is a part of the list.
        let by_time = matches!(sort, Sort::CreatedAt { .. });
        let is_of_list = |key: &ApiKey| !by_time || filter.created.contains(key.created_at);
        let mut keys: Vec<_> = state
            .live_keys(filter.account_id)
            .filter(|key| is_of_list(key) && sort.is_reached_by(place(key)))
            .collect();
        keys.sort_by(|key, other| sort.compare(place(key), place(other)));
        let after = |last: &ApiKey| sort.after(last.created_at, last.name.as_str(), last.id);
        let last = look_at(&mut keys, query.looks_at());
        keys.retain(|key| filter.matches(key));
        let page = Page::cut(keys, *limit, last.map(after), |last| after(last));
        page.try_map(|key| Ok(key.clone()))
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
    async fn create(
        &self,
        account: &Account,
        entry: &AuditDraft,
    ) -> Result<(), CreateAccountError> {
        self.write().insert_account(account, entry)
    }

    async fn create_once(
        &self,
        account: &Account,
        entry: &AuditDraft,
        request: &IdempotentRequest,
    ) -> Result<Once<AccountId>, CreateAccountError> {
        let mut state = self.write();
        let before = state.made_before(request);
        if let Some(made) = before.map_err(|OtherRequest| CreateAccountError::OtherRequest)? {
            return Ok(Once::Before(AccountId::new(made)));
        }
        state.insert_account(account, entry)?;
        state.remember(request, account.id.as_uuid());
        Ok(Once::Now(account.id))
    }

    async fn create_with_key(
        &self,
        account: &Account,
        key: &ApiKey,
        entry: &AuditDraft,
    ) -> Result<(), CreateOperatorError> {
        let mut state = self.write();
        if key.account_id != account.id {
            return Err(StoreError::internal("the key is of another account").into());
        }
        if state.accounts.contains_key(&account.id) {
            return Err(StoreError::internal(format!("account {} exists", account.id)).into());
        }
        if state.clash(account).is_some() {
            return Err(CreateOperatorError::AccountTaken);
        }
        if state.is_dropped(&key.pepper_id) {
            return Err(CreateOperatorError::PepperDropped);
        }
        if state.keys.contains_key(&key.id) {
            return Err(StoreError::internal(format!("key {} exists", key.id)).into());
        }
        if state.keys_by_prefix.contains_key(&key.key_prefix) {
            return Err(CreateOperatorError::PrefixTaken);
        }
        state.accounts.insert(account.id, account.clone());
        state.insert_key(key);
        state.append(entry);
        self.tell(Change::Key(key.key_prefix.clone()));
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
        let Audited {
            record: mut changed,
            entry,
        } = change(stored.clone()).map_err(UpdateAccountError::Refused)?;
        changed.id = stored.id;
        changed.created_at = stored.created_at;
        match state.clash(&changed) {
            Some(Taken::Name) => Err(UpdateAccountError::NameTaken),
            Some(Taken::Slug) => Err(UpdateAccountError::SlugTaken),
            None => {
                state.accounts.insert(id, changed.clone());
                if let Some(entry) = &entry {
                    state.append(entry);
                }
                self.tell(Change::Account(id));
                Ok(changed)
            }
        }
    }

    async fn page(
        &self,
        query: &AccountQuery,
    ) -> Result<Page<Account, Sort<AccountId>>, StoreError> {
        fn place(account: &Account) -> (Timestamp, &str, AccountId) {
            (account.created_at, account.name.as_str(), account.id)
        }
        let AccountQuery {
            filter,
            sort,
            limit,
        } = query;
        let state = self.read();
        let by_time = matches!(sort, Sort::CreatedAt { .. });
        let is_of_list =
            |account: &Account| !by_time || filter.created.contains(account.created_at);
        let mut accounts: Vec<_> = state
            .live_accounts()
            .filter(|account| is_of_list(account) && sort.is_reached_by(place(account)))
            .collect();
        accounts.sort_by(|account, other| sort.compare(place(account), place(other)));
        let after = |last: &Account| sort.after(last.created_at, last.name.as_str(), last.id);
        let last = look_at(&mut accounts, query.looks_at());
        accounts.retain(|account| filter.matches(account));
        let page = Page::cut(accounts, *limit, last.map(after), |last| after(last));
        page.try_map(|account| Ok(account.clone()))
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
    async fn record(&self, uses: &[KeyUse]) -> Result<Vec<KeyId>, StoreError> {
        let mut state = self.write();
        for KeyUse { key_id, used_at } in uses {
            if let Some(key) = state.keys.get_mut(key_id) {
                key.record_usage(*used_at);
            }
        }
        Ok(Vec::new())
    }
}

#[async_trait]
impl SecretRegistry for Memory {
    async fn registered(&self) -> Result<Vec<StoredPepper>, StoreError> {
        Ok(self.read().secrets.values().cloned().collect())
    }

    async fn register(
        &self,
        pepper: &StoredPepper,
        founding: bool,
        entry: &AuditDraft,
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let mut state = self.write();
        let has_key = |pepper: &StoredPepper| pepper.audit_key.is_some();
        if !(founding && state.secrets.values().any(has_key)) {
            let done = match state.secrets.get_mut(&pepper.id) {
                None => {
                    state.secrets.insert(pepper.id.clone(), pepper.clone());
                    true
                }
                Some(stored) => {
                    let is_same = stored.check.expose_hex() == pepper.check.expose_hex();
                    let gains = is_same
                        && stored.dropped_at.is_none()
                        && stored.audit_key.is_none()
                        && has_key(pepper);
                    if gains {
                        stored.audit_key.clone_from(&pepper.audit_key);
                    }
                    gains
                }
            };
            if done {
                state.append(entry);
            }
        }
        Ok(state.secrets.values().cloned().collect())
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

    async fn drop_pepper(
        &self,
        id: &PepperId,
        now: Timestamp,
        entry: &AuditDraft,
    ) -> Result<(), DropPepperError> {
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
        let holders = state.secrets.values();
        let mut holders =
            holders.filter(|pepper| pepper.dropped_at.is_none() && pepper.audit_key.is_some());
        if let (Some(only), None) = (holders.next(), holders.next())
            && only.id == *id
        {
            return Err(DropPepperError::LastWithAuditKey);
        }
        if let Some(pepper) = state.secrets.get_mut(id)
            && pepper.dropped_at.is_none()
        {
            pepper.dropped_at = Some(now);
            pepper.audit_key = None;
            state.append(entry);
        }
        Ok(())
    }

    async fn rehash(&self, keys: &[Rehash], entry: &AuditDraft) -> Result<u64, StoreError> {
        let mut state = self.write();
        let mut moved = Vec::new();
        for rehash in keys {
            if state.is_dropped(&rehash.becomes.pepper_id) {
                continue;
            }
            let stored = state.keys.get_mut(&rehash.key_id);
            let known = rehash.was.expose_hex();
            if let Some(key) = stored.filter(|key| key.key_hash.expose_hex() == known) {
                key.key_hash = rehash.becomes.hash.clone();
                key.pepper_id = rehash.becomes.pepper_id.clone();
                self.tell(Change::Key(key.key_prefix.clone()));
                moved.push((rehash.key_id, &rehash.becomes.pepper_id));
            }
        }
        let done = u64::try_from(moved.len()).map_err(StoreError::internal)?;
        for entry in entry.rehashed(moved) {
            state.append(&entry);
        }
        Ok(done)
    }
}

/// Does an entry pass the filters of a query?
fn passes(query: &AuditQuery, entry: &AuditEntry) -> bool {
    let by = |wanted: ActorFilter| match (wanted, entry.origin.actor) {
        (ActorFilter::Key(id), Actor::Key { key_id, .. }) => id == key_id,
        (ActorFilter::Tool, Actor::Tool) | (ActorFilter::Server, Actor::Server) => true,
        _ => false,
    };
    query.key_id.is_none_or(|id| entry.key_id == Some(id))
        && query.actor.is_none_or(by)
        && query
            .action
            .is_none_or(|action| entry.action == action.as_str())
        && is_of_span(query, entry)
}

/// Is it of the time that a query asks for?
fn is_of_span(query: &AuditQuery, entry: &AuditEntry) -> bool {
    let (since, until) = (query.since, query.until);
    Period { since, until }.contains(entry.at)
}

#[async_trait]
impl AuditStore for Memory {
    async fn append(&self, entry: &AuditDraft) -> Result<(), StoreError> {
        self.write().append(entry);
        Ok(())
    }

    async fn page(&self, query: &AuditQuery) -> Result<Page<AuditEntry, AuditPlace>, StoreError> {
        let state = self.read();
        let of_chain = |chain| state.trails.get(&chain).map(|trail| &trail.entries);
        let mut entries: Vec<&AuditEntry> = match query.chain {
            Some(chain) => of_chain(chain).into_iter().flatten().rev().collect(),
            None => state
                .trails
                .values()
                .flat_map(|trail| &trail.entries)
                .collect(),
        };
        let place = |entry: &AuditEntry| (entry.at, entry.chain, entry.seq);
        if query.chain.is_none() {
            entries.sort_by_key(|entry| Reverse(place(entry)));
        }
        entries.retain(|entry| {
            query.after.is_none_or(|after| match query.chain {
                Some(_) => entry.seq < after.seq,
                None => place(entry) < (after.at, after.chain, after.seq),
            })
        });
        if query.chain.is_none() {
            entries.retain(|entry| is_of_span(query, entry));
        }
        let last = look_at(&mut entries, query.looks_at());
        entries.retain(|entry| passes(query, entry));
        let page = Page::cut(entries, query.limit, last.map(AuditPlace::of), |last| {
            AuditPlace::of(last)
        });
        page.try_map(|entry| Ok(entry.clone()))
    }

    async fn prune(&self, upto: &[Checkpoint], entry: &AuditDraft) -> Result<Pruned, StoreError> {
        let mut state = self.write();
        let mut pruned = Pruned::default();
        for checkpoint in upto {
            let Some(trail) = state.trails.get_mut(&checkpoint.chain) else {
                continue;
            };
            let present = trail.checkpoint;
            if present.is_some_and(|present| present.seq >= checkpoint.seq) {
                continue;
            }
            let before = trail.entries.len();
            trail.entries.retain(|entry| entry.seq > checkpoint.seq);
            let gone = before.saturating_sub(trail.entries.len());
            if gone > 0 {
                trail.checkpoint = Some(*checkpoint);
                pruned.chains += 1;
                pruned.entries += u64::try_from(gone).map_err(StoreError::internal)?;
            }
        }
        if pruned.entries > 0 {
            state.append(entry);
        }
        Ok(pruned)
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
            trails: state.trails,
        }))
    }

    async fn import_secrets(
        &self,
        secrets: &[Audited<StoredPepper>],
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let mut state = self.write();
        for Audited { record, entry } in secrets {
            if state.secrets.contains_key(&record.id) {
                continue;
            }
            state.secrets.insert(record.id.clone(), record.clone());
            if let Some(entry) = entry {
                state.append(entry);
            }
        }
        Ok(state.secrets.values().cloned().collect())
    }

    async fn import_accounts(
        &self,
        accounts: &[Audited<Account>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        Ok(self.import(mode, |state| {
            let each = accounts.iter();
            each.map(|audited| {
                let outcome = state.import_account(&audited.record);
                state.note(outcome, audited.entry.as_ref());
                outcome
            })
            .collect()
        }))
    }

    async fn import_keys(
        &self,
        keys: &[Audited<ApiKey>],
        mode: ImportMode,
    ) -> Result<Vec<ImportOutcome>, StoreError> {
        Ok(self.import(mode, |state| {
            let each = keys.iter();
            each.map(|audited| {
                let outcome = state.import_key(&audited.record);
                state.note(outcome, audited.entry.as_ref());
                outcome
            })
            .collect()
        }))
    }
}

/// Everything, as it was.
struct Copied {
    accounts: BTreeMap<AccountId, Account>,
    keys: BTreeMap<KeyId, ApiKey>,
    secrets: Vec<StoredPepper>,
    trails: BTreeMap<ChainId, Trail>,
}

impl Copied {
    /// What there is one of in each chain, by the chains after `after`.
    fn of_chains<T>(
        &self,
        after: Option<ChainId>,
        limit: u32,
        of: fn(&Trail) -> Option<T>,
    ) -> Vec<T> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.trails.range((start, Bound::Unbounded));
        rest.filter_map(|(_, trail)| of(trail))
            .take(limit)
            .collect()
    }
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

    async fn audit_entries(
        &mut self,
        after: Option<(ChainId, u64)>,
        limit: u32,
    ) -> Result<Vec<AuditEntry>, StoreError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let all = self.trails.values().flat_map(|trail| &trail.entries);
        let rest = all.filter(|entry| after.is_none_or(|after| (entry.chain, entry.seq) > after));
        Ok(rest.take(limit).cloned().collect())
    }

    async fn audit_heads(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<ChainHead>, StoreError> {
        Ok(self.of_chains(after, limit, |trail| trail.head))
    }

    async fn audit_checkpoints(
        &mut self,
        after: Option<ChainId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        Ok(self.of_chains(after, limit, |trail| trail.checkpoint))
    }
}

#[async_trait]
impl ChangeFeed for Memory {
    async fn subscribe(&self) -> Result<Box<dyn Subscription>, StoreError> {
        Ok(self.feed.subscribe())
    }

    async fn tick(&self, report: &NodeReport) -> Result<(), StoreError> {
        self.feed.tick(report);
        Ok(())
    }

    async fn send(&self, signal: &Signal) -> Result<(), StoreError> {
        self.feed.tell(&Heard::Signal(signal.clone()));
        Ok(())
    }

    async fn nodes(&self) -> Result<NodeReports, StoreError> {
        Ok(self.feed.nodes())
    }

    async fn forget(&self, id: NodeId, last: Option<u64>) -> Result<(), StoreError> {
        self.feed.forget(id, last);
        Ok(())
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
