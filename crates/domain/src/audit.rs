//! The audit trail: what was changed, by whom, and a chain that shows whether it was tampered with.
//!
//! Each account has a chain of its own, and the deployment has one, so that changes of different accounts do not wait for
//! one another. An entry has its number in its chain, the hash of the entry before it, and its own, which is an HMAC of all
//! that it says under a key that only processes with the server's secret have ([`AuditKey`]). So nobody who can merely
//! write to the store can alter an entry, or make one, without its showing.
//!
//! What a chain of hashes cannot show by itself is that its end is missing. Therefore the store keeps each chain's
//! [`ChainHead`], authenticated as well; and where the beginning has been pruned, a [`Checkpoint`] that says so.
//!
//! An entry that cannot find a genuine head leaves a number out. So a trail that was tampered with never blocks a change
//! (somebody may be revoking a leaked key), and never looks whole again.

use std::collections::BTreeMap;
use std::fmt;

use ring::hmac;
use serde_json::{Map, Value};

use crate::{
    Account, AccountId, AccountRole, Actor, ApiKey, AuditKey, KeyId, Origin, PepperId, Timestamp,
};

/// Which chain an entry belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainId {
    /// The deployment's own: its secrets, and the trail itself.
    System,
    /// An account's: the account and its keys.
    Account(AccountId),
}

impl ChainId {
    /// As a UUID, for the store: the account's id, or the nil UUID for the deployment's chain.
    pub const fn as_uuid(self) -> uuid::Uuid {
        match self {
            Self::System => uuid::Uuid::nil(),
            Self::Account(id) => id.as_uuid(),
        }
    }

    /// The chain of a UUID that [`ChainId::as_uuid`] gave.
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        if uuid.is_nil() {
            Self::System
        } else {
            Self::Account(AccountId::new(uuid))
        }
    }

    /// The account, if it is an account's chain.
    pub const fn account_id(self) -> Option<AccountId> {
        match self {
            Self::System => None,
            Self::Account(id) => Some(id),
        }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Account(id) => id.fmt(f),
        }
    }
}

/// Declares the actions once: the variants, their texts, and the list of all.
macro_rules! actions {
    ($($(#[$doc:meta])* $action:ident $text:literal),+ $(,)?) => {
        /// What was done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AuditAction {
            $($(#[$doc])* $action,)+
        }

        impl AuditAction {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$action),+];

            /// The word for it, on the wire and in the store.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$action => $text,)+
                }
            }
        }
    };
}

actions! {
    /// A key was issued.
    KeyCreated "key.created",
    /// A key was stopped.
    KeyRevoked "key.revoked",
    /// A revoked key was let work again.
    KeyReactivated "key.reactivated",
    /// A key was deleted.
    KeyDeleted "key.deleted",
    /// A deleted key was brought back.
    KeyRestored "key.restored",
    /// A key was given other scopes.
    KeyScopesChanged "key.scopes_changed",
    /// A key was given another name.
    KeyRenamed "key.renamed",
    /// A key came with an import.
    KeyImported "key.imported",
    /// An account was made.
    AccountCreated "account.created",
    /// An account's keys were stopped.
    AccountSuspended "account.suspended",
    /// A suspended account's keys were let work again.
    AccountActivated "account.activated",
    /// An account was deleted.
    AccountDeleted "account.deleted",
    /// A deleted account was brought back.
    AccountRestored "account.restored",
    /// An account was given another limit of keys.
    AccountLimited "account.limited",
    /// An account was given another name or slug.
    AccountRenamed "account.renamed",
    /// An account came with an import.
    AccountImported "account.imported",
    /// An operator's account was made, with its first key.
    OperatorCreated "operator.created",
    /// An operator's account was given a key.
    OperatorKeyCreated "operator.key_created",
    /// An account became an operator's.
    OperatorPromoted "operator.promoted",
    /// A server secret was made known to the store.
    PepperRegistered "pepper.registered",
    /// What is known of a server secret came with an import.
    PepperImported "pepper.imported",
    /// Keys were hashed anew, under the current secret.
    PepperRehashed "pepper.rehashed",
    /// A server secret was given up.
    PepperDropped "pepper.dropped",
    /// Somebody with a valid key asked for what it does not allow.
    AuthorizationRefused "authorization.refused",
    /// The beginnings of chains were taken away.
    AuditPruned "audit.pruned",
}

impl AuditAction {
    /// The action of this text, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|action| action.as_str() == text)
    }

    /// What a change of a key was, by the weightiest thing that it did; `None` where it did nothing.
    pub fn of_key_change(before: &ApiKey, after: &ApiKey) -> Option<Self> {
        use crate::ApiKeyStatus::{Active, Revoked};
        if before.is_deleted() != after.is_deleted() {
            return Some(if after.is_deleted() {
                Self::KeyDeleted
            } else {
                Self::KeyRestored
            });
        }
        match (before.status, after.status) {
            (Active, Revoked) => Some(Self::KeyRevoked),
            (Revoked, Active) => Some(Self::KeyReactivated),
            _ if before.scopes != after.scopes => Some(Self::KeyScopesChanged),
            _ if before.name != after.name => Some(Self::KeyRenamed),
            _ => None,
        }
    }

    /// As [`AuditAction::of_key_change`], of an account.
    pub fn of_account_change(before: &Account, after: &Account) -> Option<Self> {
        use crate::AccountStatus::{Active, Suspended};
        if before.is_deleted() != after.is_deleted() {
            return Some(if after.is_deleted() {
                Self::AccountDeleted
            } else {
                Self::AccountRestored
            });
        }
        match (before.status, after.status) {
            _ if before.role != after.role => Some(Self::OperatorPromoted),
            (Active, Suspended) => Some(Self::AccountSuspended),
            (Suspended, Active) => Some(Self::AccountActivated),
            _ if before.key_limit != after.key_limit => Some(Self::AccountLimited),
            _ if (&before.name, &before.slug) != (&after.name, &after.slug) => {
                Some(Self::AccountRenamed)
            }
            _ => None,
        }
    }
}

impl fmt::Display for AuditAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What something was before or after: a JSON object, as text, since its bytes are what is hashed. It holds no secret and
/// no hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts(String);

impl Facts {
    /// Takes an object.
    pub fn new(facts: Map<String, Value>) -> Self {
        Self(Value::Object(facts).to_string())
    }

    /// Takes what a store holds, unchecked.
    pub const fn from_store(text: String) -> Self {
        Self(text)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What an audit entry says of a key.
    pub fn of_key(key: &ApiKey) -> Map<String, Value> {
        let scopes = key.scopes.only().map(|scopes| {
            let scopes = scopes.iter().map(|scope| scope.as_str().into());
            Value::Array(scopes.collect())
        });
        facts([
            ("name", key.name.as_str().into()),
            ("prefix", key.key_prefix.as_str().into()),
            ("status", key.status.as_str().into()),
            ("scopes", scopes.unwrap_or(Value::Null)),
            ("expires_at", key.expires_at.map(|at| at.to_string()).into()),
            ("deleted", key.is_deleted().into()),
        ])
    }

    /// What an audit entry says of an account.
    pub fn of_account(account: &Account) -> Map<String, Value> {
        facts([
            ("name", account.name.as_str().into()),
            ("slug", account.slug.as_str().into()),
            ("status", account.status.as_str().into()),
            ("key_limit", account.key_limit.keys().into()),
            ("operator", (account.role == AccountRole::Operator).into()),
            ("deleted", account.is_deleted().into()),
        ])
    }

    /// The facts that differ, before and after.
    fn difference(before: &Map<String, Value>, after: &Map<String, Value>) -> (Self, Self) {
        let differing = |of: &Map<String, Value>, other: &Map<String, Value>| {
            let differing = of
                .iter()
                .filter(|(name, value)| other.get(*name) != Some(value));
            Self::new(
                differing
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
            )
        };
        (differing(before, after), differing(after, before))
    }
}

/// An object of these fields.
fn facts<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields
        .map(|(name, value)| (name.to_owned(), value))
        .into_iter()
        .collect()
}

/// The hash of an entry, or the authentication code of a head or a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct AuditHash([u8; 32]);

impl AuditHash {
    /// What stands for the hash before the first entry of a chain.
    pub const NONE: Self = Self([0; 32]);

    /// Takes what a store holds. What is not 32 bytes is the hash of nothing.
    pub fn from_store(bytes: &[u8]) -> Self {
        Self(bytes.try_into().unwrap_or([0; 32]))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AuditHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Feeds an HMAC with fields in such a way that no two lists of fields look the same: each with its length before it.
struct Mac(hmac::Context);

impl Mac {
    fn new(key: &AuditKey, of: &str) -> Self {
        let mut mac = Self(hmac::Context::with_key(key.hmac_key()));
        mac.field(of.as_bytes());
        mac
    }

    fn field(&mut self, bytes: &[u8]) {
        // A length of a field in memory fits into 64 bits.
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.update(&length.to_be_bytes());
        self.0.update(bytes);
    }

    /// A field that may be absent, which is not the same as empty.
    fn optional(&mut self, bytes: Option<&[u8]>) {
        self.field(&[u8::from(bytes.is_some())]);
        self.field(bytes.unwrap_or_default());
    }

    fn number(&mut self, number: u64) {
        self.field(&number.to_be_bytes());
    }

    fn hash(&mut self, hash: &AuditHash) {
        self.field(hash.as_bytes());
    }

    fn chain(&mut self, chain: ChainId) {
        self.field(chain.as_uuid().as_bytes());
    }

    fn end(self) -> AuditHash {
        AuditHash::from_store(self.0.sign().as_ref())
    }
}

/// All that an entry says but its place in the chain, which the store finds for it in the transaction of the change.
#[derive(Clone, Debug)]
pub struct AuditDraft {
    /// Under which the entry will be sealed.
    key: AuditKey,
    /// Its chain.
    pub chain: ChainId,
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub action: AuditAction,
    /// Who did it.
    pub origin: Origin,
    /// To which key, where it was one.
    pub key_id: Option<KeyId>,
    /// What changed, as it was.
    pub before: Option<Facts>,
    /// What changed, as it is now; or all there is to say of what was done.
    pub after: Option<Facts>,
}

/// An entry of the trail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its chain.
    pub chain: ChainId,
    /// Its number in the chain, from 1 on, without gaps.
    pub seq: u64,
    /// When, by the clock of the process that did it. It may go back where the clock was set; the number does not.
    pub at: Timestamp,
    /// What was done: the text of an [`AuditAction`], or of one that a later version knows.
    pub action: String,
    /// Who did it.
    pub origin: Origin,
    /// To which key, where it was one.
    pub key_id: Option<KeyId>,
    /// What changed, as it was.
    pub before: Option<Facts>,
    /// What changed, as it is now; or all there is to say of what was done.
    pub after: Option<Facts>,
    /// The hash of the entry before it, or [`AuditHash::NONE`].
    pub previous: AuditHash,
    /// Its own.
    pub hash: AuditHash,
}

impl AuditEntry {
    fn hash_under(&self, key: &AuditKey) -> AuditHash {
        let mut mac = Mac::new(key, "leadr-auth: audit entry, 1");
        mac.chain(self.chain);
        mac.number(self.seq);
        mac.field(&self.at.unix_micros().to_be_bytes());
        mac.field(self.action.as_bytes());
        let (kind, ids) = match self.origin.actor {
            Actor::Key { key_id, account_id } => {
                ("key", Some((key_id.as_uuid(), account_id.as_uuid())))
            }
            Actor::Tool => ("tool", None),
            Actor::Server => ("server", None),
        };
        mac.field(kind.as_bytes());
        mac.optional(ids.as_ref().map(|(key, _)| key.as_bytes().as_slice()));
        mac.optional(
            ids.as_ref()
                .map(|(_, account)| account.as_bytes().as_slice()),
        );
        mac.optional(self.origin.request_id.as_deref().map(str::as_bytes));
        let client = self.origin.client.map(|client| client.to_string());
        mac.optional(client.as_ref().map(String::as_bytes));
        let subject = self.key_id.map(KeyId::as_uuid);
        mac.optional(subject.as_ref().map(|key| key.as_bytes().as_slice()));
        mac.optional(self.before.as_ref().map(|facts| facts.0.as_bytes()));
        mac.optional(self.after.as_ref().map(|facts| facts.0.as_bytes()));
        mac.hash(&self.previous);
        mac.end()
    }

    /// Is it as it was written?
    pub fn is_genuine(&self, key: &AuditKey) -> bool {
        self.hash == self.hash_under(key)
    }
}

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainHead {
    /// Which chain.
    pub chain: ChainId,
    /// The number of its last entry.
    pub seq: u64,
    /// The hash of its last entry.
    pub hash: AuditHash,
    /// The code that authenticates this.
    pub code: AuditHash,
}

impl ChainHead {
    fn new(key: &AuditKey, chain: ChainId, seq: u64, hash: AuditHash) -> Self {
        Self {
            chain,
            seq,
            hash,
            code: Self::code(key, chain, seq, &hash),
        }
    }

    fn code(key: &AuditKey, chain: ChainId, seq: u64, hash: &AuditHash) -> AuditHash {
        let mut mac = Mac::new(key, "leadr-auth: audit head, 1");
        mac.chain(chain);
        mac.number(seq);
        mac.hash(hash);
        mac.end()
    }

    /// Is it as it was written?
    pub fn is_genuine(&self, key: &AuditKey) -> bool {
        self.code == Self::code(key, self.chain, self.seq, &self.hash)
    }
}

/// Says that the beginning of a chain was pruned, up to and with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which chain.
    pub chain: ChainId,
    /// The number of the last entry that was taken away.
    pub seq: u64,
    /// That entry's hash, which the next one has as its previous.
    pub hash: AuditHash,
    /// When it was pruned.
    pub pruned_at: Timestamp,
    /// The code that authenticates this: its signature.
    pub code: AuditHash,
}

impl Checkpoint {
    /// A checkpoint after the entry `seq` of a chain.
    pub fn new(
        key: &AuditKey,
        chain: ChainId,
        seq: u64,
        hash: AuditHash,
        pruned_at: Timestamp,
    ) -> Self {
        let mut checkpoint = Self {
            chain,
            seq,
            hash,
            pruned_at,
            code: AuditHash::NONE,
        };
        checkpoint.code = checkpoint.code_under(key);
        checkpoint
    }

    fn code_under(&self, key: &AuditKey) -> AuditHash {
        let mut mac = Mac::new(key, "leadr-auth: audit checkpoint, 1");
        mac.chain(self.chain);
        mac.number(self.seq);
        mac.hash(&self.hash);
        mac.field(&self.pruned_at.unix_micros().to_be_bytes());
        mac.end()
    }

    /// Is it as it was written?
    pub fn is_genuine(&self, key: &AuditKey) -> bool {
        self.code == self.code_under(key)
    }
}

/// The last place of a chain that there is a trace of: of an entry, or of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastPlace {
    /// The number.
    pub seq: u64,
    /// The hash.
    pub hash: AuditHash,
}

impl LastPlace {
    /// The greatest number that is taken for one that was given. Numbers beyond half of those that a store has were never
    /// given: somebody wrote them who would like to see them run out.
    pub const MAX_SEQ: u64 = 1 << 62;
}

impl AuditDraft {
    /// An entry about to be made, with nothing said of what it was before and after.
    pub const fn new(
        key: AuditKey,
        chain: ChainId,
        at: Timestamp,
        action: AuditAction,
        origin: Origin,
    ) -> Self {
        Self {
            key,
            chain,
            at,
            action,
            origin,
            key_id: None,
            before: None,
            after: None,
        }
    }

    /// Says which key it is about.
    #[must_use]
    pub const fn about(mut self, key_id: KeyId) -> Self {
        self.key_id = Some(key_id);
        self
    }

    /// Says what there is now.
    #[must_use]
    pub fn after(mut self, after: Map<String, Value>) -> Self {
        self.after = Some(Facts::new(after));
        self
    }

    /// Says what differs.
    #[must_use]
    pub fn changed(mut self, before: &Map<String, Value>, after: &Map<String, Value>) -> Self {
        let (before, after) = Facts::difference(before, after);
        self.before = Some(before);
        self.after = Some(after);
        self
    }

    /// Says which keys were hashed anew, as it turned out: `moved` has each with the secret that it is under now. Answers an
    /// entry for each such secret, in the order of their ids, that names it and its keys, in the order of theirs; and none
    /// where no key was moved.
    pub fn rehashed<'a>(
        &self,
        moved: impl IntoIterator<Item = (KeyId, &'a PepperId)>,
    ) -> Vec<Self> {
        let mut by_secret = BTreeMap::<_, Vec<_>>::new();
        for (key_id, secret_id) in moved {
            by_secret.entry(secret_id).or_default().push(key_id);
        }
        let of_secret = |(secret_id, mut key_ids): (&PepperId, Vec<KeyId>)| {
            key_ids.sort_unstable();
            let key_ids = key_ids.iter().map(|id| id.to_string().into());
            self.clone().after(facts([
                ("secret_id", secret_id.as_str().into()),
                ("key_ids", Value::Array(key_ids.collect())),
            ]))
        };
        by_secret.into_iter().map(of_secret).collect()
    }

    /// Is this head one that the entry can follow? Where it is not, or where there is none, [`AuditDraft::seal_after`] needs
    /// to know what else there is of the chain.
    pub fn can_follow(&self, head: &ChainHead) -> bool {
        head.chain == self.chain && head.is_genuine(&self.key)
    }

    /// Gives the entry its place: after a genuine `head`. Answers the entry and the chain's new head.
    pub fn seal(self, head: &ChainHead) -> (AuditEntry, ChainHead) {
        let place = LastPlace {
            seq: head.seq,
            hash: head.hash,
        };
        self.at_place(place, 1)
    }

    /// Gives the entry its place where no genuine head was found. In a chain of which there is no trace it is the first. Else
    /// the head was tampered with: the entry then follows the `last` place that there is a trace of (the greatest number
    /// among the entries, the checkpoint and the head), and leaves a number out for ever.
    pub fn seal_after(self, last: Option<LastPlace>) -> (AuditEntry, ChainHead) {
        let beginning = LastPlace {
            seq: 0,
            hash: AuditHash::NONE,
        };
        match last {
            None => self.at_place(beginning, 1),
            Some(last) => self.at_place(last, 2),
        }
    }

    fn at_place(self, last: LastPlace, step: u64) -> (AuditEntry, ChainHead) {
        let Self {
            key,
            chain,
            at,
            action,
            origin,
            key_id,
            before,
            after,
        } = self;
        let mut entry = AuditEntry {
            chain,
            seq: last.seq.saturating_add(step),
            at,
            action: action.as_str().to_owned(),
            origin,
            key_id,
            before,
            after,
            previous: last.hash,
            hash: AuditHash::NONE,
        };
        entry.hash = entry.hash_under(&key);
        let head = ChainHead::new(&key, chain, entry.seq, entry.hash);
        (entry, head)
    }
}

/// Something wrong with a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditFault {
    /// An entry does not say what it said when it was written; or somebody else wrote it.
    Altered {
        /// Its number.
        seq: u64,
    },
    /// Entries are missing.
    Missing {
        /// The first of them.
        from: u64,
        /// The last of them.
        to: u64,
    },
    /// An entry is genuine and does not follow the one before it: they were taken from elsewhere or put in another order.
    OutOfOrder {
        /// Its number.
        seq: u64,
    },
    /// There are entries, and the record of the chain's end is not there.
    HeadMissing,
    /// The record of the chain's end is not as it was written.
    HeadAltered,
    /// The record of what was pruned is not as it was written.
    CheckpointAltered,
    /// What was made after the trail began has no entry of its making: its chain was taken away, or its beginning.
    TrailMissing,
}

impl fmt::Display for AuditFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered { seq } => write!(f, "entry {seq} was altered"),
            Self::Missing { from, to } if from == to => write!(f, "entry {from} is missing"),
            Self::Missing { from, to } => write!(f, "entries {from} to {to} are missing"),
            Self::OutOfOrder { seq } => write!(f, "entry {seq} does not follow the one before it"),
            Self::HeadMissing => f.write_str("the record of the chain's end is missing"),
            Self::HeadAltered => f.write_str("the record of the chain's end was altered"),
            Self::CheckpointAltered => f.write_str("the record of what was pruned was altered"),
            Self::TrailMissing => f.write_str("there is no entry of its making"),
        }
    }
}

/// Goes along a chain from its beginning to its end, and notes what is wrong with it.
#[derive(Debug)]
pub struct ChainCheck<'a> {
    key: &'a AuditKey,
    last: LastPlace,
    faults: Vec<AuditFault>,
}

impl<'a> ChainCheck<'a> {
    /// Begins at the checkpoint, where there is one.
    pub fn new(key: &'a AuditKey, checkpoint: Option<&Checkpoint>) -> Self {
        let mut check = Self {
            key,
            last: LastPlace {
                seq: 0,
                hash: AuditHash::NONE,
            },
            faults: Vec::new(),
        };
        if let Some(checkpoint) = checkpoint {
            if checkpoint.is_genuine(key) {
                check.last = LastPlace {
                    seq: checkpoint.seq,
                    hash: checkpoint.hash,
                };
            } else {
                check.faults.push(AuditFault::CheckpointAltered);
            }
        }
        check
    }

    /// The next entry, in the order of the numbers.
    pub fn entry(&mut self, entry: &AuditEntry) {
        let expected = self.last.seq.saturating_add(1);
        let genuine = entry.is_genuine(self.key);
        if !genuine {
            self.faults.push(AuditFault::Altered { seq: entry.seq });
        }
        if entry.seq > expected {
            self.faults.push(AuditFault::Missing {
                from: expected,
                to: entry.seq - 1,
            });
        } else if entry.seq < expected || (genuine && entry.previous != self.last.hash) {
            self.faults.push(AuditFault::OutOfOrder { seq: entry.seq });
        }
        self.last = LastPlace {
            seq: entry.seq,
            hash: entry.hash,
        };
    }

    /// The end, and what the store says of it. Answers everything that is wrong.
    pub fn end(mut self, head: Option<&ChainHead>) -> Vec<AuditFault> {
        match head {
            None => self.faults.push(AuditFault::HeadMissing),
            Some(head) if !head.is_genuine(self.key) => self.faults.push(AuditFault::HeadAltered),
            Some(head) if head.seq > self.last.seq => self.faults.push(AuditFault::Missing {
                from: self.last.seq.saturating_add(1),
                to: head.seq,
            }),
            // A genuine head of an earlier time: somebody put it back.
            Some(head) if head.seq < self.last.seq => self.faults.push(AuditFault::HeadAltered),
            Some(head) if head.hash != self.last.hash => {
                self.faults.push(AuditFault::Altered { seq: head.seq });
            }
            Some(_) => {}
        }
        self.faults.dedup();
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyName;

    const CHAIN: ChainId = ChainId::Account(AccountId::from_random_bytes([2; 16]));

    fn at(second: u8) -> Timestamp {
        Timestamp::parse(&format!("2026-01-01T00:00:{second:02}Z")).unwrap()
    }

    fn audit_key() -> AuditKey {
        AuditKey::new([7; 32])
    }

    fn draft(second: u8) -> AuditDraft {
        let key = crate::testing::key([second; 16], [2; 16]);
        AuditDraft::new(
            audit_key(),
            CHAIN,
            at(second),
            AuditAction::KeyCreated,
            Origin::TOOL,
        )
        .about(key.id)
        .after(Facts::of_key(&key))
    }

    /// Five entries, of which the clock stepped back before the last, and the chain's end.
    fn chain() -> (Vec<AuditEntry>, ChainHead) {
        let mut entries = Vec::new();
        let (first, mut head) = draft(1).seal_after(None);
        entries.push(first);
        for second in [2, 3, 4, 0] {
            let draft = draft(second);
            assert!(draft.can_follow(&head));
            let (entry, next) = draft.seal(&head);
            entries.push(entry);
            head = next;
        }
        (entries, head)
    }

    fn faults(
        checkpoint: Option<&Checkpoint>,
        entries: &[AuditEntry],
        head: Option<&ChainHead>,
    ) -> Vec<AuditFault> {
        let key = audit_key();
        let mut check = ChainCheck::new(&key, checkpoint);
        for entry in entries {
            check.entry(entry);
        }
        check.end(head)
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        let (entries, head) = chain();
        assert_eq!(
            entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(faults(None, &entries, Some(&head)), []);
    }

    #[test]
    fn each_field_of_an_entry_is_sealed() {
        let (entries, head) = chain();
        let alterations: [fn(&mut AuditEntry); 12] = [
            |entry| entry.chain = ChainId::System,
            |entry| entry.at = at(59),
            |entry| entry.action = "key.renamed".to_owned(),
            |entry| entry.origin.actor = Actor::Server,
            |entry| {
                entry.origin.actor = Actor::Key {
                    key_id: KeyId::from_random_bytes([9; 16]),
                    account_id: AccountId::from_random_bytes([9; 16]),
                };
            },
            |entry| entry.origin.request_id = Some("".into()),
            |entry| entry.origin.client = Some([127, 0, 0, 1].into()),
            |entry| entry.key_id = None,
            |entry| entry.before = Some(Facts::new(Map::new())),
            |entry| entry.after = None,
            |entry| entry.previous = AuditHash::NONE,
            |entry| entry.hash = AuditHash::NONE,
        ];
        for (n, alter) in alterations.iter().enumerate() {
            let mut entries = entries.clone();
            alter(&mut entries[2]);
            let found = faults(None, &entries, Some(&head));
            assert_eq!(
                found.first(),
                Some(&AuditFault::Altered { seq: 3 }),
                "{n}: {found:?}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_named_wherever_it_was() {
        let (entries, head) = chain();
        for (cut, missing) in [
            (0..1, (1, 1)),
            (0..2, (1, 2)),
            (2..3, (3, 3)),
            (1..4, (2, 4)),
            (4..5, (5, 5)),
            (3..5, (4, 5)),
            (0..5, (1, 5)),
        ] {
            let mut rest = entries.clone();
            rest.drain(cut.clone());
            let (from, to) = missing;
            assert_eq!(
                faults(None, &rest, Some(&head)),
                [AuditFault::Missing { from, to }],
                "{cut:?}"
            );
        }
    }

    #[test]
    fn what_was_put_elsewhere_is_named() {
        let (entries, head) = chain();
        // The rows swapped, numbers and all: as a list in another order.
        let mut swapped = entries.clone();
        (swapped[1].seq, swapped[2].seq) = (3, 2);
        swapped.swap(1, 2);
        let found = faults(None, &swapped, Some(&head));
        for seq in [2, 3] {
            assert!(found.contains(&AuditFault::Altered { seq }), "{found:?}");
        }
        // A genuine entry of the same number from a chain that went another way.
        let (other, _) = draft(9).seal(&{
            let (first, head) = draft(8).seal_after(None);
            assert_eq!(first.seq, 1);
            head
        });
        let mut replaced = entries.clone();
        replaced[1] = other;
        let found = faults(None, &replaced, Some(&head));
        assert_eq!(
            found,
            [
                AuditFault::OutOfOrder { seq: 2 },
                AuditFault::OutOfOrder { seq: 3 }
            ]
        );
        // Twice the same.
        let mut twice = entries.clone();
        twice.insert(2, entries[1].clone());
        assert!(faults(None, &twice, Some(&head)).contains(&AuditFault::OutOfOrder { seq: 2 }));
    }

    #[test]
    fn an_end_that_was_put_back_is_noticed() {
        let (entries, head) = chain();
        let (_, old) = draft(1).seal_after(None);
        assert_eq!(
            faults(None, &entries, Some(&old)),
            [AuditFault::HeadAltered]
        );
        let forged = ChainHead {
            seq: 4,
            hash: entries[3].hash,
            ..head
        };
        assert_eq!(
            faults(None, &entries[..4], Some(&forged)),
            [AuditFault::HeadAltered]
        );
        assert_eq!(faults(None, &entries, None), [AuditFault::HeadMissing]);
        let of_another = ChainHead::new(&AuditKey::new([8; 32]), CHAIN, 5, entries[4].hash);
        assert_eq!(
            faults(None, &entries, Some(&of_another)),
            [AuditFault::HeadAltered]
        );
    }

    #[test]
    fn a_checkpoint_stands_for_what_was_pruned() {
        let (entries, head) = chain();
        let good = Checkpoint::new(&audit_key(), CHAIN, 2, entries[1].hash, at(9));
        assert_eq!(faults(Some(&good), &entries[2..], Some(&head)), []);
        let all = Checkpoint::new(&audit_key(), CHAIN, 5, entries[4].hash, at(9));
        assert_eq!(faults(Some(&all), &[], Some(&head)), []);
        let forged = Checkpoint {
            seq: 3,
            hash: entries[2].hash,
            ..good
        };
        let found = faults(Some(&forged), &entries[3..], Some(&head));
        assert!(found.contains(&AuditFault::CheckpointAltered), "{found:?}");
        assert!(
            found.contains(&AuditFault::Missing { from: 1, to: 3 }),
            "{found:?}"
        );
        // One that stands for less than what is gone.
        let found = faults(Some(&good), &entries[3..], Some(&head));
        assert_eq!(found, [AuditFault::Missing { from: 3, to: 3 }]);
    }

    #[test]
    fn a_trail_that_was_tampered_with_goes_on_and_never_looks_whole() {
        let (mut entries, head) = chain();
        let (_, head_of_four) = {
            let mut truncated = head;
            truncated.seq = 4;
            truncated.hash = entries[3].hash;
            (entries.pop(), truncated)
        };
        let next = draft(10);
        assert!(!next.can_follow(&head_of_four));
        let last = LastPlace {
            seq: 4,
            hash: entries[3].hash,
        };
        let (entry, head) = next.seal_after(Some(last));
        assert_eq!(entry.seq, 6);
        entries.push(entry);
        assert_eq!(
            faults(None, &entries, Some(&head)),
            [AuditFault::Missing { from: 5, to: 5 }]
        );
    }

    #[test]
    fn a_change_is_told_by_what_differs_and_by_its_weightiest_part() {
        let before = crate::testing::key([1; 16], [2; 16]);
        let mut after = before.clone();
        assert_eq!(AuditAction::of_key_change(&before, &after), None);
        after.rename(KeyName::parse("Other").unwrap(), at(1));
        assert_eq!(
            AuditAction::of_key_change(&before, &after),
            Some(AuditAction::KeyRenamed)
        );
        after.revoke(at(1));
        assert_eq!(
            AuditAction::of_key_change(&before, &after),
            Some(AuditAction::KeyRevoked)
        );
        let draft = draft(1).changed(&Facts::of_key(&before), &Facts::of_key(&after));
        assert_eq!(
            draft.before.unwrap().as_str(),
            r#"{"name":"Key","status":"active"}"#
        );
        assert_eq!(
            draft.after.unwrap().as_str(),
            r#"{"name":"Other","status":"revoked"}"#
        );
        after.soft_delete(at(1));
        assert_eq!(
            AuditAction::of_key_change(&before, &after),
            Some(AuditAction::KeyDeleted)
        );
        let shown = format!("{:?}", Facts::of_key(&after));
        assert!(!shown.contains(after.key_hash.expose_hex()), "{shown}");
    }

    #[test]
    fn keys_that_were_hashed_anew_are_named_with_their_secret() {
        let draft = AuditDraft::new(
            audit_key(),
            ChainId::System,
            at(1),
            AuditAction::PepperRehashed,
            Origin::SERVER,
        );
        assert!(draft.rehashed([]).is_empty(), "nothing was done");
        let [one, two, three] = [1, 2, 3].map(|n| KeyId::from_random_bytes([n; 16]));
        let [new, newer] = ["new", "newer"].map(|id| PepperId::parse(id).unwrap());
        let said = draft.rehashed([(three, &newer), (two, &new), (one, &newer)]);
        let facts: Vec<_> = said
            .iter()
            .map(|draft| draft.after.as_ref().unwrap().as_str().to_owned())
            .collect();
        assert_eq!(
            facts,
            [
                format!(r#"{{"key_ids":["{two}"],"secret_id":"new"}}"#),
                format!(r#"{{"key_ids":["{one}","{three}"],"secret_id":"newer"}}"#),
            ]
        );
        assert!(said.iter().all(|said| {
            (said.chain, said.at, said.action) == (draft.chain, draft.at, draft.action)
        }));
    }

    #[test]
    fn every_action_has_its_own_text() {
        for action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(*action));
        }
        assert_eq!(AuditAction::parse("key.eaten"), None);
    }
}
