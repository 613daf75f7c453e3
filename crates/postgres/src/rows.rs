//! What a row looks like, and the plain functions between rows and domain types.
//!
//! Instants and enum labels are read as what PostgreSQL sends, and judged here, so that a row which cannot be used is named
//! by its table and id instead of failing somewhere inside Diesel.
//!
//! PostgreSQL holds instants that no [`Timestamp`] is: `infinity`, `-infinity`, and years before 1 and after 9999. Any other
//! program that writes to the table may have put one there, and a row with one in it is read as if the nearest timestamp
//! stood there, because otherwise a single such row would fail every list that it is in. Nobody is let in by that: what is
//! long over stays over, and deleted stays deleted. A key that expires at `infinity` never does.

use std::{borrow::Cow, io::Write as _, net::IpAddr, time::Duration};

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue, data_types::PgTimestamp},
    prelude::*,
    serialize::{self, IsNull, Output, ToSql},
};
use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, AccountStatus, Actor, ApiKey, ApiKeyStatus,
    AuditEntry, AuditHash, ChainHead, ChainId, Checkpoint, Facts, KeyHash, KeyId, KeyLimit,
    KeyName, KeyPrefix, KeyRecord, NodeId, Origin, PepperCheck, PepperId, Scopes, SealedAuditKey,
    Slug, Timestamp,
};
use leadr_auth_ports::{
    NodeReport, StoreError, StoredPepper, UnreadableReport, listing::Direction,
};
use uuid::Uuid;

use crate::{
    error,
    schema::{
        accounts, api_keys, audit_checkpoints, audit_entries, audit_heads, peppers, server_nodes,
        sql_types,
    },
};

/// Microseconds from 1970, where Unix counts from, to 2000, where PostgreSQL does.
const PG_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// What PostgreSQL sends for `infinity`.
const INFINITY: i64 = i64::MAX;

/// The word for a value of one of our enums.
#[derive(Debug, AsExpression, FromSqlRow)]
#[diesel(sql_type = sql_types::AccountStatus)]
#[diesel(sql_type = sql_types::ApiKeyStatus)]
pub(crate) struct Label(Cow<'static, str>);

macro_rules! label {
    ($sql_type:ty) => {
        impl FromSql<$sql_type, Pg> for Label {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                Ok(Self(Cow::Owned(String::from_utf8(
                    value.as_bytes().to_vec(),
                )?)))
            }
        }

        impl ToSql<$sql_type, Pg> for Label {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                out.write_all(self.0.as_bytes())?;
                Ok(IsNull::No)
            }
        }
    };
}

label!(sql_types::AccountStatus);
label!(sql_types::ApiKeyStatus);

pub(crate) fn key_label(status: ApiKeyStatus) -> Label {
    Label(Cow::Borrowed(status.as_str()))
}

pub(crate) fn account_label(status: AccountStatus) -> Label {
    Label(Cow::Borrowed(status.as_str()))
}

pub(crate) fn instant(timestamp: Timestamp) -> PgTimestamp {
    // From the year 1 on, so there is nothing to saturate.
    PgTimestamp(timestamp.unix_micros().saturating_sub(PG_EPOCH_MICROS))
}

/// `None` outside of the years that a timestamp can hold; `infinity` is one of those.
pub(crate) fn timestamp(PgTimestamp(micros): PgTimestamp) -> Option<Timestamp> {
    Timestamp::from_unix_micros(micros.checked_add(PG_EPOCH_MICROS)?)
}

/// The timestamp that is nearest to an instant which may be outside of all years.
pub(crate) fn nearest(PgTimestamp(micros): PgTimestamp) -> Timestamp {
    Timestamp::saturating_from_unix_micros(micros.saturating_add(PG_EPOCH_MICROS))
}

/// The instant of a row after which a list goes on. What is read as the first or the last of all times may lie beyond it: whoever
/// goes on from there has passed all of that.
pub(crate) fn edge(at: Timestamp, direction: Direction) -> PgTimestamp {
    match direction {
        Direction::Descending if at == Timestamp::MIN => PgTimestamp(i64::MIN),
        Direction::Ascending if at == Timestamp::MAX => PgTimestamp(i64::MAX),
        Direction::Descending | Direction::Ascending => instant(at),
    }
}

/// When a key expires. What expires at `infinity` never does.
fn expiry(at: PgTimestamp) -> Option<Timestamp> {
    (at.0 != INFINITY).then(|| nearest(at))
}

/// A row of `accounts`.
#[derive(Queryable, QueryableByName, Selectable, Insertable)]
#[diesel(table_name = accounts, check_for_backend(Pg))]
pub(crate) struct AccountRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) status: Label,
    pub(crate) is_operator: bool,
    pub(crate) created_at: PgTimestamp,
    pub(crate) updated_at: PgTimestamp,
    pub(crate) deleted_at: Option<PgTimestamp>,
    pub(crate) key_limit: i64,
}

/// A row of `api_keys`. It has no `Debug`, because it holds a hash.
#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = api_keys, check_for_backend(Pg))]
pub(crate) struct KeyRow {
    pub(crate) id: Uuid,
    pub(crate) account_id: Uuid,
    pub(crate) name: String,
    pub(crate) key_hash: String,
    pub(crate) key_prefix: String,
    pub(crate) status: Label,
    pub(crate) last_used_at: Option<PgTimestamp>,
    pub(crate) expires_at: Option<PgTimestamp>,
    pub(crate) created_at: PgTimestamp,
    pub(crate) updated_at: PgTimestamp,
    pub(crate) deleted_at: Option<PgTimestamp>,
    pub(crate) scopes: Option<String>,
    pub(crate) pepper_id: String,
}

/// A row of `peppers`.
#[derive(Queryable, QueryableByName, Selectable, Insertable)]
#[diesel(table_name = peppers, check_for_backend(Pg))]
pub(crate) struct PepperRow {
    id: String,
    check_value: String,
    dropped_at: Option<PgTimestamp>,
    pub(crate) audit_key: Option<String>,
}

/// A row of `audit_entries`.
#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_entries, check_for_backend(Pg))]
pub(crate) struct EntryRow {
    pub(crate) chain: Uuid,
    pub(crate) seq: i64,
    pub(crate) at: PgTimestamp,
    pub(crate) action: String,
    pub(crate) actor: String,
    pub(crate) actor_key_id: Option<Uuid>,
    pub(crate) actor_account_id: Option<Uuid>,
    pub(crate) request_id: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) key_id: Option<Uuid>,
    pub(crate) before: Option<String>,
    pub(crate) after: Option<String>,
    pub(crate) previous: Vec<u8>,
    pub(crate) hash: Vec<u8>,
}

/// A row of `audit_heads`.
#[derive(Clone, Queryable, Selectable)]
#[diesel(table_name = audit_heads, check_for_backend(Pg))]
pub(crate) struct HeadRow {
    pub(crate) chain: Uuid,
    pub(crate) seq: i64,
    pub(crate) hash: Vec<u8>,
    pub(crate) code: Vec<u8>,
}

/// A row of `audit_checkpoints`.
#[derive(Queryable, Selectable)]
#[diesel(table_name = audit_checkpoints, check_for_backend(Pg))]
pub(crate) struct CheckpointRow {
    chain: Uuid,
    seq: i64,
    hash: Vec<u8>,
    pruned_at: PgTimestamp,
    code: Vec<u8>,
}

/// What a change of an account writes. `None` is written as null.
#[derive(AsChangeset)]
#[diesel(table_name = accounts, treat_none_as_null = true)]
pub(crate) struct AccountChanges {
    name: String,
    slug: String,
    status: Label,
    is_operator: bool,
    updated_at: PgTimestamp,
    deleted_at: Option<PgTimestamp>,
    key_limit: i64,
}

/// What a change of a key writes. `None` is written as null.
#[derive(AsChangeset)]
#[diesel(table_name = api_keys, treat_none_as_null = true)]
pub(crate) struct KeyChanges {
    name: String,
    status: Label,
    updated_at: PgTimestamp,
    deleted_at: Option<PgTimestamp>,
    scopes: Option<String>,
}

pub(crate) fn account_row(account: &Account) -> AccountRow {
    AccountRow {
        id: account.id.as_uuid(),
        name: account.name.as_str().to_owned(),
        slug: account.slug.as_str().to_owned(),
        status: account_label(account.status),
        is_operator: account.role == AccountRole::Operator,
        created_at: instant(account.created_at),
        updated_at: instant(account.updated_at),
        deleted_at: account.deleted_at.map(instant),
        key_limit: account.key_limit.keys().into(),
    }
}

pub(crate) fn pepper_row(pepper: &StoredPepper) -> PepperRow {
    PepperRow {
        id: pepper.id.as_str().to_owned(),
        check_value: pepper.check.expose_hex().to_owned(),
        dropped_at: pepper.dropped_at.map(instant),
        audit_key: pepper.audit_key.as_ref().map(|key| key.as_str().to_owned()),
    }
}

pub(crate) fn key_row(key: &ApiKey) -> KeyRow {
    KeyRow {
        id: key.id.as_uuid(),
        account_id: key.account_id.as_uuid(),
        name: key.name.as_str().to_owned(),
        key_hash: key.key_hash.expose_hex().to_owned(),
        key_prefix: key.key_prefix.as_str().to_owned(),
        status: key_label(key.status),
        last_used_at: key.last_used_at.map(instant),
        expires_at: key.expires_at.map(instant),
        created_at: instant(key.created_at),
        updated_at: instant(key.updated_at),
        deleted_at: key.deleted_at.map(instant),
        scopes: key.scopes.to_store(),
        pepper_id: key.pepper_id.as_str().to_owned(),
    }
}

pub(crate) fn entry_row(entry: AuditEntry) -> Result<EntryRow, StoreError> {
    let (actor, ids) = match entry.origin.actor {
        Actor::Key { key_id, account_id } => ("key", Some((key_id, account_id))),
        Actor::Tool => ("tool", None),
        Actor::Server => ("server", None),
    };
    Ok(EntryRow {
        chain: entry.chain.as_uuid(),
        seq: i64::try_from(entry.seq).map_err(StoreError::internal)?,
        at: instant(entry.at),
        action: entry.action,
        actor: actor.to_owned(),
        actor_key_id: ids.map(|(key, _)| key.as_uuid()),
        actor_account_id: ids.map(|(_, account)| account.as_uuid()),
        request_id: entry.origin.request_id.as_deref().map(str::to_owned),
        client: entry.origin.client.map(|client| client.to_string()),
        key_id: entry.key_id.map(KeyId::as_uuid),
        before: entry.before.map(|facts| facts.as_str().to_owned()),
        after: entry.after.map(|facts| facts.as_str().to_owned()),
        previous: entry.previous.as_bytes().to_vec(),
        hash: entry.hash.as_bytes().to_vec(),
    })
}

pub(crate) fn head_row(head: &ChainHead) -> Result<HeadRow, StoreError> {
    Ok(HeadRow {
        chain: head.chain.as_uuid(),
        seq: i64::try_from(head.seq).map_err(StoreError::internal)?,
        hash: head.hash.as_bytes().to_vec(),
        code: head.code.as_bytes().to_vec(),
    })
}

pub(crate) fn account_changes(account: &Account) -> AccountChanges {
    let row = account_row(account);
    AccountChanges {
        name: row.name,
        slug: row.slug,
        status: row.status,
        is_operator: row.is_operator,
        updated_at: row.updated_at,
        deleted_at: row.deleted_at,
        key_limit: row.key_limit,
    }
}

pub(crate) fn key_changes(key: &ApiKey) -> KeyChanges {
    KeyChanges {
        name: key.name.as_str().to_owned(),
        status: key_label(key.status),
        updated_at: instant(key.updated_at),
        deleted_at: key.deleted_at.map(instant),
        scopes: key.scopes.to_store(),
    }
}

pub(crate) fn record(key_row: KeyRow, account_row: AccountRow) -> Result<KeyRecord, StoreError> {
    Ok(KeyRecord {
        key: key(key_row)?,
        account: account(account_row)?,
    })
}

pub(crate) fn account(row: AccountRow) -> Result<Account, StoreError> {
    let corrupt = |column| error::corrupt("accounts", &row.id, column);
    Ok(Account {
        id: AccountId::new(row.id),
        name: AccountName::from_store(row.name),
        slug: Slug::from_store(row.slug),
        status: match row.status.0.as_ref() {
            "active" => AccountStatus::Active,
            "suspended" => AccountStatus::Suspended,
            _ => return Err(corrupt("status")),
        },
        role: if row.is_operator {
            AccountRole::Operator
        } else {
            AccountRole::Tenant
        },
        key_limit: KeyLimit::from_store(row.key_limit),
        created_at: nearest(row.created_at),
        updated_at: nearest(row.updated_at),
        deleted_at: row.deleted_at.map(nearest),
    })
}

pub(crate) fn key(row: KeyRow) -> Result<ApiKey, StoreError> {
    let corrupt = |column| error::corrupt("api_keys", &row.id, column);
    Ok(ApiKey {
        id: KeyId::new(row.id),
        account_id: AccountId::new(row.account_id),
        name: KeyName::from_store(row.name),
        key_hash: KeyHash::from_store(row.key_hash),
        key_prefix: KeyPrefix::parse(&row.key_prefix).map_err(|_| corrupt("key_prefix"))?,
        status: match row.status.0.as_ref() {
            "active" => ApiKeyStatus::Active,
            "revoked" => ApiKeyStatus::Revoked,
            _ => return Err(corrupt("status")),
        },
        last_used_at: row.last_used_at.map(nearest),
        expires_at: row.expires_at.and_then(expiry),
        created_at: nearest(row.created_at),
        updated_at: nearest(row.updated_at),
        deleted_at: row.deleted_at.map(nearest),
        scopes: Scopes::from_store(row.scopes.as_deref()),
        pepper_id: PepperId::from_store(row.pepper_id),
    })
}

pub(crate) fn pepper(row: PepperRow) -> StoredPepper {
    StoredPepper {
        dropped_at: row.dropped_at.map(nearest),
        id: PepperId::from_store(row.id),
        check: PepperCheck::from_store(row.check_value),
        audit_key: row.audit_key.map(SealedAuditKey::from_store),
    }
}

/// In the order that the domain has for ids: the server's is that of its locale.
pub(crate) fn peppers(rows: Vec<PepperRow>) -> Vec<StoredPepper> {
    let mut peppers: Vec<_> = rows.into_iter().map(pepper).collect();
    peppers.sort_by(|one, other| one.id.cmp(&other.id));
    peppers
}

/// An entry as it was written, or as somebody left it who tampered with it.
///
/// One that holds what was never written would be an error like any unusable row; but then a single such row would keep
/// everybody from seeing all others. So something stands in for what cannot be read, and instead of its hash the entry
/// gets one that no entry has: whoever checks the chain finds it altered.
pub(crate) fn entry(row: EntryRow) -> AuditEntry {
    let actor = match (row.actor.as_str(), row.actor_key_id, row.actor_account_id) {
        ("key", Some(key), Some(account)) => Some(Actor::Key {
            key_id: KeyId::new(key),
            account_id: AccountId::new(account),
        }),
        ("tool", None, None) => Some(Actor::Tool),
        ("server", None, None) => Some(Actor::Server),
        _ => None,
    };
    // An address can be written in several ways, and is sealed as one.
    let client: Option<IpAddr> = row.client.as_deref().and_then(|text| text.parse().ok());
    let is_client_as_written = client.map(|client| client.to_string()) == row.client;
    let previous = AuditHash::from_store(&row.previous);
    let is_previous_as_written = previous.as_bytes().as_slice() == row.previous;
    let is_readable = actor.is_some()
        && timestamp(row.at).is_some()
        && is_client_as_written
        && is_previous_as_written;
    AuditEntry {
        chain: ChainId::from_uuid(row.chain),
        seq: row.seq.cast_unsigned(),
        at: nearest(row.at),
        action: row.action,
        origin: Origin {
            actor: actor.unwrap_or(Actor::Server),
            request_id: row.request_id.map(Into::into),
            client,
        },
        key_id: row.key_id.map(KeyId::new),
        before: row.before.map(Facts::from_store),
        after: row.after.map(Facts::from_store),
        previous,
        hash: if is_readable {
            AuditHash::from_store(&row.hash)
        } else {
            AuditHash::NONE
        },
    }
}

pub(crate) fn head(row: &HeadRow) -> ChainHead {
    ChainHead {
        chain: ChainId::from_uuid(row.chain),
        seq: row.seq.cast_unsigned(),
        hash: AuditHash::from_store(&row.hash),
        code: AuditHash::from_store(&row.code),
    }
}

/// As [`entry`]: one that cannot be read is not genuine.
pub(crate) fn checkpoint(row: &CheckpointRow) -> Checkpoint {
    Checkpoint {
        chain: ChainId::from_uuid(row.chain),
        seq: row.seq.cast_unsigned(),
        hash: AuditHash::from_store(&row.hash),
        pruned_at: nearest(row.pruned_at),
        code: if timestamp(row.pruned_at).is_some() {
            AuditHash::from_store(&row.code)
        } else {
            AuditHash::NONE
        },
    }
}

/// A row of `server_nodes`, as a node writes it.
pub(crate) struct NodeRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) tick: i64,
    pub(crate) started_at: PgTimestamp,
    pub(crate) seen_at: PgTimestamp,
    pub(crate) patience: i64,
    pub(crate) lease_age: Option<i64>,
    pub(crate) lag: Option<i64>,
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(crate) fn node_row(report: &NodeReport) -> NodeRow {
    NodeRow {
        id: report.id.as_uuid(),
        name: report.name.clone(),
        version: report.version.clone(),
        tick: report.tick.cast_signed(),
        started_at: instant(report.started_at),
        seen_at: instant(report.seen_at),
        patience: micros(report.patience),
        lease_age: report.lease_age.map(micros),
        lag: report.lag.map(micros),
    }
}

/// A row of `server_nodes`, as it is found: somebody may have taken the rules off the table, and changed it by hand.
#[derive(Queryable)]
pub(crate) struct FoundNodeRow {
    id: Uuid,
    name: Option<String>,
    version: Option<String>,
    tick: Option<i64>,
    started_at: Option<PgTimestamp>,
    seen_at: Option<PgTimestamp>,
    patience: Option<i64>,
    lease_age: Option<i64>,
    lag: Option<i64>,
}

/// The columns of [`FoundNodeRow`].
#[diesel::dsl::auto_type]
pub(crate) fn found_node_columns() -> _ {
    (
        server_nodes::id,
        server_nodes::name.nullable(),
        server_nodes::version.nullable(),
        server_nodes::tick.nullable(),
        server_nodes::started_at.nullable(),
        server_nodes::seen_at.nullable(),
        server_nodes::patience.nullable(),
        server_nodes::lease_age,
        server_nodes::lag,
    )
}

pub(crate) fn node(row: FoundNodeRow) -> Result<NodeReport, UnreadableReport> {
    let id = NodeId::new(row.id);
    let duration = |micros: i64| u64::try_from(micros).ok().map(Duration::from_micros);
    let patience = row.patience.and_then(duration);
    let unreadable = |part| UnreadableReport { id, patience, part };
    let told = |part, micros: Option<i64>| {
        let told = micros.map(|micros| duration(micros).ok_or_else(|| unreadable(part)));
        told.transpose()
    };
    let time = |part, at: Option<_>| at.map(nearest).ok_or_else(|| unreadable(part));
    Ok(NodeReport {
        id,
        name: row.name.ok_or_else(|| unreadable("name"))?,
        version: row.version.ok_or_else(|| unreadable("version"))?,
        tick: row.tick.ok_or_else(|| unreadable("tick"))?.cast_unsigned(),
        started_at: time("started_at", row.started_at)?,
        seen_at: time("seen_at", row.seen_at)?,
        patience: patience.ok_or_else(|| unreadable("patience"))?,
        lease_age: told("lease_age", row.lease_age)?,
        lag: told("lag", row.lag)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_the_round_trip_and_infinity_is_none() {
        for text in [
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999Z",
            "2000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
        ] {
            let at = Timestamp::parse(text).unwrap();
            assert_eq!(timestamp(instant(at)), Some(at));
        }
        assert_eq!(timestamp(PgTimestamp(i64::MAX)), None);
        assert_eq!(timestamp(PgTimestamp(i64::MIN)), None);
        for (micros, text) in [
            (i64::MIN, "0001-01-01T00:00:00Z"),
            (i64::MAX, "9999-12-31T23:59:59.999999Z"),
        ] {
            let at = Timestamp::parse(text).unwrap();
            assert_eq!(nearest(PgTimestamp(micros)), at);
        }
        assert_eq!(expiry(PgTimestamp(i64::MAX)), None);
        assert_eq!(expiry(PgTimestamp(i64::MIN)), Some(Timestamp::MIN));
        // The last that PostgreSQL has, in the year 294276.
        assert_eq!(
            expiry(PgTimestamp(9_223_371_331_199_999_999)),
            Some(Timestamp::MAX)
        );
    }
}
