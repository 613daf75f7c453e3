//! What the cache keeps of a key: what verification looks at and what it tells, in as few bytes as that takes.

use std::fmt;
use std::sync::Arc;

use leadr_auth_domain::{
    Access, Account, AccountId, AccountRole, AccountStanding, Actor, ApiKey, KeyDigest, KeyId,
    KeyStanding, Origin, PepperId, Principal, Scope, Scopes, Timestamp, Verdict,
};
use smol_str::SmolStr;

use super::sync::{AtomicBool, Ordering};
use crate::usage::NoteHint;

/// What is kept of an account, once for all its keys.
pub(crate) struct CachedAccount {
    id: AccountId,
    role: AccountRole,
    standing: AccountStanding,
    /// Which of the times between two drops of the whole cache it is of.
    epoch: u64,
    /// Whether the account was changed since this was read. With it all its keys are to be read again.
    retired: AtomicBool,
}

impl CachedAccount {
    pub(crate) fn new(account: &Account, epoch: u64) -> Self {
        Self {
            id: account.id,
            role: account.role,
            standing: AccountStanding::of(account),
            epoch,
            retired: AtomicBool::new(false),
        }
    }

    /// Does it say what `account` says?
    pub(crate) fn is_as(&self, account: &Account) -> bool {
        self.role == account.role && self.standing == AccountStanding::of(account)
    }

    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(crate) fn is_good(&self, epoch: u64) -> bool {
        self.epoch == epoch && !self.retired.load(Ordering::Acquire)
    }
}

/// What is kept of a key.
pub(crate) struct CachedKey {
    account: Arc<CachedAccount>,
    pepper_id: Arc<PepperId>,
    scopes: Arc<Scopes>,
    /// In place, as names are as a rule: another place in memory would be another wait for it.
    name: SmolStr,
    id: KeyId,
    digest: KeyDigest,
    standing: KeyStanding,
    /// Whether it was the only key of its account when it was read, and counts what that takes.
    counts_account: bool,
    /// Where its uses are noted.
    uses: NoteHint,
}

impl CachedKey {
    pub(crate) fn new(
        key: &ApiKey,
        account: Arc<CachedAccount>,
        pepper_id: Arc<PepperId>,
        scopes: Arc<Scopes>,
    ) -> Self {
        Self {
            counts_account: Arc::strong_count(&account) == 1,
            account,
            pepper_id,
            scopes,
            name: key.name.as_str().into(),
            id: key.id,
            digest: key.key_hash.digest(),
            standing: KeyStanding::of(key),
            uses: NoteHint::default(),
        }
    }

    pub(crate) fn account(&self) -> &CachedAccount {
        &self.account
    }

    /// How many bytes it takes, with its place in the cache. An estimate: what an allocator adds is not known. It never changes:
    /// what the cache adds up when it takes a key it has to take off when that goes.
    pub(crate) fn weight(&self) -> u64 {
        // A slot of the cache's slab and of its table, each with some room to grow.
        const PLACE: usize = 60;
        // What an allocation costs beyond what is in it.
        const ALLOCATION: usize = 16;
        const ARC: usize = 2 * size_of::<usize>();
        let name = if self.name.is_heap_allocated() {
            ALLOCATION + ARC + self.name.len()
        } else {
            0
        };
        let own = ALLOCATION + ARC + size_of::<Self>() + name;
        let scopes = match &*self.scopes {
            // Shared by all.
            Scopes::All => 0,
            Scopes::Only(scopes) => {
                // A node of the set has room for eleven.
                let nodes = 11 * size_of::<String>();
                let texts = scopes.iter().map(|scope| ALLOCATION + scope.as_str().len());
                ALLOCATION + ARC + size_of::<Scopes>() + nodes + texts.sum::<usize>()
            }
        };
        // The account is counted with its first key.
        let account = if self.counts_account {
            2 * ALLOCATION + ARC + size_of::<CachedAccount>() + 4 * size_of::<usize>()
        } else {
            0
        };
        u64::try_from(PLACE + own + scopes + account).unwrap_or(u64::MAX)
    }
}

/// A key of which the secret was presented, as verification knows it.
#[derive(Clone)]
pub struct VerifiedKey(pub(super) Arc<CachedKey>);

impl VerifiedKey {
    /// Which key.
    pub fn id(&self) -> KeyId {
        self.0.id
    }

    /// Whose key it is.
    pub fn account_id(&self) -> AccountId {
        self.0.account.id
    }

    /// What people call it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// What it may be used for.
    pub fn scopes(&self) -> &Scopes {
        &self.0.scopes
    }

    /// From when on it no longer works; `None` if it never expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.0.standing.expires_at
    }

    /// Whose records its holder may reach.
    pub fn access(&self) -> Access {
        match self.0.account.role {
            AccountRole::Operator => Access::All,
            AccountRole::Tenant => Access::Account(self.0.account.id),
        }
    }

    /// Does its holder hold this scope?
    pub fn holds(&self, scope: &Scope) -> bool {
        self.access().holds(self.scopes(), scope.as_str())
    }

    /// Who its holder is and what they may do. The request's id and address are for whoever knows them to add.
    pub fn principal(&self) -> Principal {
        Principal {
            access: self.access(),
            scopes: self.scopes().clone(),
            origin: Origin::of(Actor::Key {
                key_id: self.id(),
                account_id: self.account_id(),
            }),
        }
    }

    pub(super) fn uses(&self) -> &NoteHint {
        &self.0.uses
    }

    pub(super) fn digest(&self) -> &KeyDigest {
        &self.0.digest
    }

    pub(super) fn pepper_id(&self) -> &PepperId {
        &self.0.pepper_id
    }

    pub(super) fn verdict(&self, now: Timestamp) -> Verdict {
        self.0.standing.verdict(self.0.account.standing, now)
    }
}

impl fmt::Debug for VerifiedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedKey")
            .field("id", &self.id())
            .field("account_id", &self.account_id())
            .finish_non_exhaustive()
    }
}
