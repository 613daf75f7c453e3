//! What a row of the trail looks like.
//!
//! Somebody may have altered it, and an entry that cannot be read is one of which nobody can say so. Therefore every row can
//! be read, however little sense it makes: what cannot be used is read as something near it, and the entry says so in a way
//! in which no genuine one does, so that its hash does not fit.

#![expect(
    clippy::ref_option_ref,
    reason = "what Diesel derives for rows that borrow texts"
)]

use std::net::IpAddr;

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    prelude::*,
    sql_types::Text,
    sqlite::{Sqlite, SqliteValue},
};
use leadr_auth_domain::{
    AccountId, Actor, AuditEntry, AuditHash, ChainHead, ChainId, Checkpoint, Facts, KeyId,
    LastPlace, Origin, Timestamp,
};
use uuid::Uuid;

use crate::{
    rows::Id,
    schema::{audit_checkpoints, audit_entries, audit_heads},
};

/// The label of whoever holds a key.
pub(super) const KEY: &str = "key";
/// The label of the command line.
pub(super) const TOOL: &str = "tool";
/// The label of the server.
pub(super) const SERVER: &str = "server";

/// Stands behind the action of an entry that could not be read as it is written. No action has it in its text, so no such
/// entry is genuine.
const UNREADABLE: char = char::REPLACEMENT_CHARACTER;

/// A text of which the bytes may be any.
#[derive(Debug, FromSqlRow)]
pub(super) struct Bytes(Vec<u8>);

impl FromSql<Text, Sqlite> for Bytes {
    fn from_sql(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self(value.read_blob().to_vec()))
    }
}

/// A row of `audit_entries`, as it is read.
#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_entries, check_for_backend(Sqlite))]
pub(super) struct EntryRow {
    chain: Id,
    seq: i64,
    at: i64,
    action: Bytes,
    actor: Bytes,
    actor_key_id: Option<Vec<u8>>,
    actor_account_id: Option<Vec<u8>>,
    request_id: Option<Bytes>,
    client: Option<Bytes>,
    key_id: Option<Vec<u8>>,
    before: Option<Bytes>,
    after: Option<Bytes>,
    previous: Vec<u8>,
    hash: Vec<u8>,
}

/// A row of `audit_entries`, as it is written. A statement that names every column is the same one for all entries.
#[derive(Insertable)]
#[diesel(table_name = audit_entries, treat_none_as_default_value = false)]
pub(super) struct NewEntryRow<'a> {
    chain: Id,
    seq: i64,
    at: i64,
    action: &'a str,
    actor: &'static str,
    actor_key_id: Option<Id>,
    actor_account_id: Option<Id>,
    request_id: Option<&'a str>,
    client: Option<&'a str>,
    key_id: Option<Id>,
    before: Option<&'a str>,
    after: Option<&'a str>,
    previous: &'a [u8],
    hash: &'a [u8],
}

/// A row of `audit_heads`, as it is read.
#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_heads, check_for_backend(Sqlite))]
pub(super) struct HeadRow {
    chain: Id,
    seq: i64,
    hash: Vec<u8>,
    code: Vec<u8>,
}

/// A row of `audit_heads`, as it is written.
#[derive(Insertable)]
#[diesel(table_name = audit_heads)]
pub(super) struct NewHeadRow<'a> {
    chain: Id,
    seq: i64,
    hash: &'a [u8],
    code: &'a [u8],
}

/// A row of `audit_checkpoints`, as it is read.
#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_checkpoints, check_for_backend(Sqlite))]
pub(super) struct CheckpointRow {
    chain: Id,
    seq: i64,
    hash: Vec<u8>,
    pruned_at: i64,
    code: Vec<u8>,
}

/// A row of `audit_checkpoints`, as it is written.
#[derive(Insertable)]
#[diesel(table_name = audit_checkpoints)]
pub(super) struct NewCheckpointRow<'a> {
    chain: Id,
    seq: i64,
    hash: &'a [u8],
    pruned_at: i64,
    code: &'a [u8],
}

/// Where an entry stands in its chain.
#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_entries, check_for_backend(Sqlite))]
pub(super) struct Place {
    seq: i64,
    hash: Vec<u8>,
}

pub(super) fn entry_row<'a>(
    entry: &'a AuditEntry,
    seq: i64,
    client: Option<&'a str>,
) -> NewEntryRow<'a> {
    let (actor, ids) = match entry.origin.actor {
        Actor::Key { key_id, account_id } => (KEY, Some((key_id, account_id))),
        Actor::Tool => (TOOL, None),
        Actor::Server => (SERVER, None),
    };
    NewEntryRow {
        chain: entry.chain.into(),
        seq,
        at: entry.at.unix_micros(),
        action: &entry.action,
        actor,
        actor_key_id: ids.map(|(key, _)| key.into()),
        actor_account_id: ids.map(|(_, account)| account.into()),
        request_id: entry.origin.request_id.as_deref(),
        client,
        key_id: entry.key_id.map(Id::from),
        before: entry.before.as_ref().map(Facts::as_str),
        after: entry.after.as_ref().map(Facts::as_str),
        previous: entry.previous.as_bytes(),
        hash: entry.hash.as_bytes(),
    }
}

pub(super) fn head_row(head: &ChainHead, seq: i64) -> NewHeadRow<'_> {
    NewHeadRow {
        chain: head.chain.into(),
        seq,
        hash: head.hash.as_bytes(),
        code: head.code.as_bytes(),
    }
}

pub(super) fn checkpoint_row(checkpoint: &Checkpoint, seq: i64) -> NewCheckpointRow<'_> {
    NewCheckpointRow {
        chain: checkpoint.chain.into(),
        seq,
        hash: checkpoint.hash.as_bytes(),
        pruned_at: checkpoint.pruned_at.unix_micros(),
        code: checkpoint.code.as_bytes(),
    }
}

/// Reads the columns of a row, and keeps in mind whether each could be read as it is written.
struct Reading {
    exact: bool,
}

impl Reading {
    const fn new() -> Self {
        Self { exact: true }
    }

    /// What was read, or else what stands for it.
    fn or<T>(&mut self, read: Option<T>, instead: T) -> T {
        self.exact &= read.is_some();
        read.unwrap_or(instead)
    }

    /// None has a number below 1.
    fn seq(&mut self, seq: i64) -> u64 {
        self.or(u64::try_from(seq).ok(), 0)
    }

    /// One that no timestamp can hold is the first or the last that one can, so that it keeps its place in a list.
    fn at(&mut self, micros: i64) -> Timestamp {
        let nearest = Timestamp::saturating_from_unix_micros(micros);
        self.or(Timestamp::from_unix_micros(micros), nearest)
    }

    fn text(&mut self, Bytes(bytes): Bytes) -> String {
        String::from_utf8(bytes).unwrap_or_else(|error| {
            self.exact = false;
            String::from_utf8_lossy(error.as_bytes()).into_owned()
        })
    }

    fn hash(&mut self, bytes: &[u8]) -> AuditHash {
        let hash = AuditHash::from_store(bytes);
        self.exact &= hash.as_bytes().as_slice() == bytes;
        hash
    }

    fn id(&mut self, bytes: Option<Vec<u8>>) -> Option<Uuid> {
        let id = Uuid::from_slice(&bytes?).ok();
        self.exact &= id.is_some();
        id
    }

    /// Whoever cannot be made out is the server.
    fn actor(&mut self, label: Bytes, key: Option<Uuid>, account: Option<Uuid>) -> Actor {
        let label = self.text(label);
        let actor = match (label.as_str(), key, account) {
            (KEY, Some(key), Some(account)) => Some(Actor::Key {
                key_id: KeyId::new(key),
                account_id: AccountId::new(account),
            }),
            (TOOL, None, None) => Some(Actor::Tool),
            (SERVER, None, None) => Some(Actor::Server),
            _ => None,
        };
        self.or(actor, Actor::Server)
    }

    /// An address can be written in several ways, and is sealed as one.
    fn client(&mut self, text: Option<Bytes>) -> Option<IpAddr> {
        let text = self.text(text?);
        let client: Option<IpAddr> = text.parse().ok();
        self.exact &= client.is_some_and(|client| client.to_string() == text);
        client
    }
}

impl EntryRow {
    pub(super) fn into_entry(self) -> AuditEntry {
        let mut reading = Reading::new();
        let key = reading.id(self.actor_key_id);
        let account = reading.id(self.actor_account_id);
        let mut entry = AuditEntry {
            chain: ChainId::from_uuid(self.chain.0),
            seq: reading.seq(self.seq),
            at: reading.at(self.at),
            action: reading.text(self.action),
            origin: Origin {
                actor: reading.actor(self.actor, key, account),
                request_id: self.request_id.map(|text| reading.text(text).into()),
                client: reading.client(self.client),
            },
            key_id: reading.id(self.key_id).map(KeyId::new),
            before: self
                .before
                .map(|text| Facts::from_store(reading.text(text))),
            after: self.after.map(|text| Facts::from_store(reading.text(text))),
            previous: reading.hash(&self.previous),
            hash: reading.hash(&self.hash),
        };
        if !reading.exact {
            entry.action.push(UNREADABLE);
        }
        entry
    }
}

impl HeadRow {
    /// One that could not be read as it is written has no code, and so is not genuine.
    pub(super) fn into_head(self) -> ChainHead {
        let mut reading = Reading::new();
        let mut head = ChainHead {
            chain: ChainId::from_uuid(self.chain.0),
            seq: reading.seq(self.seq),
            hash: reading.hash(&self.hash),
            code: reading.hash(&self.code),
        };
        if !reading.exact {
            head.code = AuditHash::NONE;
        }
        head
    }
}

impl CheckpointRow {
    /// As [`HeadRow::into_head`].
    pub(super) fn into_checkpoint(self) -> Checkpoint {
        let mut reading = Reading::new();
        let mut checkpoint = Checkpoint {
            chain: ChainId::from_uuid(self.chain.0),
            seq: reading.seq(self.seq),
            hash: reading.hash(&self.hash),
            pruned_at: reading.at(self.pruned_at),
            code: reading.hash(&self.code),
        };
        if !reading.exact {
            checkpoint.code = AuditHash::NONE;
        }
        checkpoint
    }
}

impl Place {
    pub(super) fn into_last(self) -> LastPlace {
        let mut reading = Reading::new();
        LastPlace {
            seq: reading.seq(self.seq),
            hash: reading.hash(&self.hash),
        }
    }
}
