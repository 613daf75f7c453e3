//! What a row looks like, and the plain functions between rows and domain types.
//!
//! Instants and labels are read as what the file holds, and judged here, so that a row which cannot be used is named by its
//! table and id instead of failing somewhere inside Diesel.
//!
//! An integer can be an instant outside of the years that there are, where another program has written it. It is read as the
//! nearest [`Timestamp`], because otherwise a single such row would fail every list that it is in: what is long over stays
//! over, and deleted stays deleted. A prefix that is none still fails the list: a row that was left out of it would be
//! taken for one that is not there.

use diesel::{
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    prelude::*,
    serialize::{self, Output, ToSql},
    sql_types::Binary,
    sqlite::{Sqlite, SqliteValue},
};
use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, AccountStatus, ApiKey, ApiKeyStatus, KeyHash,
    KeyId, KeyLimit, KeyName, KeyPrefix, KeyRecord, PepperCheck, PepperId, Scopes, SealedAuditKey,
    Slug, Timestamp,
};
use leadr_auth_ports::{
    Change, StoreError, StoredPepper,
    listing::{Direction, Sort},
};
use uuid::Uuid;

use crate::{
    error,
    schema::{accounts, api_keys, peppers},
};

/// A UUID as its 16 bytes, the first one first, which gives ids the order that they have in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
#[diesel(sql_type = Binary)]
pub(crate) struct Id(pub(crate) Uuid);

impl FromSql<Binary, Sqlite> for Id {
    fn from_sql(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self(Uuid::from_slice(value.read_blob())?))
    }
}

impl ToSql<Binary, Sqlite> for Id {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        <[u8] as ToSql<Binary, Sqlite>>::to_sql(self.0.as_bytes(), out)
    }
}

impl From<AccountId> for Id {
    fn from(id: AccountId) -> Self {
        Self(id.as_uuid())
    }
}

impl From<KeyId> for Id {
    fn from(id: KeyId) -> Self {
        Self(id.as_uuid())
    }
}

/// The timestamp that is nearest to so many microseconds after 1970, which may be outside of all years.
pub(crate) fn nearest(micros: i64) -> Timestamp {
    Timestamp::saturating_from_unix_micros(micros)
}

/// The instant of a row after which a list goes on. What is read as the first or the last of all times may lie beyond it: whoever
/// goes on from there has passed all of that.
pub(crate) fn edge(at: Timestamp, direction: Direction) -> i64 {
    match direction {
        Direction::Descending if at == Timestamp::MIN => i64::MIN,
        Direction::Ascending if at == Timestamp::MAX => i64::MAX,
        Direction::Descending | Direction::Ascending => at.unix_micros(),
    }
}

/// A row of `accounts`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = accounts, check_for_backend(Sqlite))]
pub(crate) struct AccountRow {
    id: Id,
    name: String,
    slug: String,
    status: String,
    is_operator: bool,
    created_at: i64,
    updated_at: i64,
    deleted_at: Option<i64>,
    key_limit: i64,
}

/// A row of `api_keys`. It has no `Debug`, because it holds a hash.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = api_keys, check_for_backend(Sqlite))]
pub(crate) struct KeyRow {
    pub(crate) id: Id,
    pub(crate) account_id: Id,
    name: String,
    key_hash: String,
    pub(crate) pepper_id: String,
    pub(crate) key_prefix: String,
    status: String,
    scopes: Option<String>,
    last_used_at: Option<i64>,
    expires_at: Option<i64>,
    created_at: i64,
    updated_at: i64,
    pub(crate) deleted_at: Option<i64>,
}

impl AccountRow {
    /// The list's order, from this account on.
    pub(crate) fn place(&self, sort: &Sort<AccountId>) -> Sort<AccountId> {
        sort.after(
            nearest(self.created_at),
            &self.name,
            AccountId::new(self.id.0),
        )
    }
}

impl KeyRow {
    /// The list's order, from this key on.
    pub(crate) fn place(&self, sort: &Sort<KeyId>) -> Sort<KeyId> {
        sort.after(nearest(self.created_at), &self.name, KeyId::new(self.id.0))
    }
}

/// A row of `peppers`.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = peppers, check_for_backend(Sqlite))]
pub(crate) struct PepperRow {
    id: String,
    check_value: String,
    dropped_at: Option<i64>,
    audit_key: Option<String>,
}

/// What a change of an account writes. `None` is written as null.
#[derive(AsChangeset)]
#[diesel(table_name = accounts, treat_none_as_null = true)]
pub(crate) struct AccountChanges {
    pub(crate) name: String,
    pub(crate) slug: String,
    pub(crate) status: &'static str,
    pub(crate) is_operator: bool,
    pub(crate) updated_at: i64,
    pub(crate) deleted_at: Option<i64>,
    pub(crate) key_limit: i64,
}

/// What a change of a key writes. `None` is written as null.
#[derive(AsChangeset)]
#[diesel(table_name = api_keys, treat_none_as_null = true)]
pub(crate) struct KeyChanges {
    pub(crate) name: String,
    pub(crate) status: &'static str,
    pub(crate) scopes: Option<String>,
    pub(crate) updated_at: i64,
    pub(crate) deleted_at: Option<i64>,
}

pub(crate) fn account_row(account: &Account) -> AccountRow {
    AccountRow {
        id: account.id.into(),
        name: account.name.as_str().to_owned(),
        slug: account.slug.as_str().to_owned(),
        status: account.status.as_str().to_owned(),
        is_operator: account.role == AccountRole::Operator,
        created_at: account.created_at.unix_micros(),
        updated_at: account.updated_at.unix_micros(),
        deleted_at: account.deleted_at.map(Timestamp::unix_micros),
        key_limit: account.key_limit.keys().into(),
    }
}

pub(crate) fn account_changes(account: &Account) -> AccountChanges {
    AccountChanges {
        name: account.name.as_str().to_owned(),
        slug: account.slug.as_str().to_owned(),
        status: account.status.as_str(),
        is_operator: account.role == AccountRole::Operator,
        updated_at: account.updated_at.unix_micros(),
        deleted_at: account.deleted_at.map(Timestamp::unix_micros),
        key_limit: account.key_limit.keys().into(),
    }
}

pub(crate) fn key_row(key: &ApiKey) -> KeyRow {
    KeyRow {
        id: key.id.into(),
        account_id: key.account_id.into(),
        name: key.name.as_str().to_owned(),
        key_hash: key.key_hash.expose_hex().to_owned(),
        pepper_id: key.pepper_id.as_str().to_owned(),
        key_prefix: key.key_prefix.as_str().to_owned(),
        status: key.status.as_str().to_owned(),
        scopes: key.scopes.to_store(),
        last_used_at: key.last_used_at.map(Timestamp::unix_micros),
        expires_at: key.expires_at.map(Timestamp::unix_micros),
        created_at: key.created_at.unix_micros(),
        updated_at: key.updated_at.unix_micros(),
        deleted_at: key.deleted_at.map(Timestamp::unix_micros),
    }
}

pub(crate) fn key_changes(key: &ApiKey) -> KeyChanges {
    KeyChanges {
        name: key.name.as_str().to_owned(),
        status: key.status.as_str(),
        scopes: key.scopes.to_store(),
        updated_at: key.updated_at.unix_micros(),
        deleted_at: key.deleted_at.map(Timestamp::unix_micros),
    }
}

/// A key as it is read, and what a change compares with. The scopes and the instants are compared as what they are in the
/// row: what somebody else has written may be spelled otherwise than ours, and would never be found again.
pub(crate) fn key_to_change(row: KeyRow) -> Result<(ApiKey, KeyChanges), StoreError> {
    let scopes = row.scopes.clone();
    let (updated_at, deleted_at) = (row.updated_at, row.deleted_at);
    let key = key(row)?;
    let was = KeyChanges {
        scopes,
        updated_at,
        deleted_at,
        ..key_changes(&key)
    };
    Ok((key, was))
}

/// An account as it is read, and what a change compares with, as of a key.
pub(crate) fn account_to_change(row: AccountRow) -> Result<(Account, AccountChanges), StoreError> {
    let (updated_at, deleted_at, key_limit) = (row.updated_at, row.deleted_at, row.key_limit);
    let account = account(row)?;
    let was = AccountChanges {
        updated_at,
        deleted_at,
        key_limit,
        ..account_changes(&account)
    };
    Ok((account, was))
}

pub(crate) fn pepper_row(pepper: &StoredPepper) -> PepperRow {
    PepperRow {
        id: pepper.id.as_str().to_owned(),
        check_value: pepper.check.expose_hex().to_owned(),
        dropped_at: pepper.dropped_at.map(Timestamp::unix_micros),
        audit_key: pepper.audit_key.as_ref().map(|key| key.as_str().to_owned()),
    }
}

pub(crate) fn pepper(row: PepperRow) -> StoredPepper {
    StoredPepper {
        dropped_at: row.dropped_at.map(nearest),
        id: PepperId::from_store(row.id),
        check: PepperCheck::from_store(row.check_value),
        audit_key: row.audit_key.map(SealedAuditKey::from_store),
    }
}

pub(crate) fn record(key_row: KeyRow, account_row: AccountRow) -> Result<KeyRecord, StoreError> {
    Ok(KeyRecord {
        key: key(key_row)?,
        account: account(account_row)?,
    })
}

pub(crate) fn account(row: AccountRow) -> Result<Account, StoreError> {
    let corrupt = |column| error::corrupt("accounts", row.id.0, column);
    Ok(Account {
        id: AccountId::new(row.id.0),
        name: AccountName::from_store(row.name),
        slug: Slug::from_store(row.slug),
        status: match row.status.as_str() {
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
    let corrupt = |column| error::corrupt("api_keys", row.id.0, column);
    Ok(ApiKey {
        id: KeyId::new(row.id.0),
        account_id: AccountId::new(row.account_id.0),
        name: KeyName::from_store(row.name),
        key_hash: KeyHash::from_store(row.key_hash),
        pepper_id: PepperId::from_store(row.pepper_id),
        key_prefix: KeyPrefix::parse(&row.key_prefix).map_err(|_| corrupt("key_prefix"))?,
        status: match row.status.as_str() {
            "active" => ApiKeyStatus::Active,
            "revoked" => ApiKeyStatus::Revoked,
            _ => return Err(corrupt("status")),
        },
        scopes: Scopes::from_store(row.scopes.as_deref()),
        last_used_at: row.last_used_at.map(nearest),
        expires_at: row.expires_at.map(nearest),
        created_at: nearest(row.created_at),
        updated_at: nearest(row.updated_at),
        deleted_at: row.deleted_at.map(nearest),
    })
}

/// That the key with this prefix was changed.
pub(crate) fn change_of_key(prefix: &str) -> Change {
    // One that is not to be read does not say which key it is.
    KeyPrefix::parse(prefix).map_or(Change::Everything, Change::Key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_survive_the_round_trip_and_others_are_none() {
        for text in [
            "0001-01-01T00:00:00Z",
            "1969-12-31T23:59:59.999999Z",
            "2000-01-01T00:00:00Z",
            "9999-12-31T23:59:59.999999Z",
        ] {
            let at = Timestamp::parse(text).unwrap();
            assert_eq!(Timestamp::from_unix_micros(at.unix_micros()), Some(at));
        }
        assert_eq!(Timestamp::from_unix_micros(i64::MAX), None);
        assert_eq!(Timestamp::from_unix_micros(i64::MIN), None);
    }
}
