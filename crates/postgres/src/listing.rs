//! The order of long lists, and where in them a page begins and ends. Keys and accounts have the same columns for it.
//!
//! Where a list goes on is told by comparing whole rows, for which Diesel has no words: that is a range of an index. Names are
//! sorted byte by byte, which is the order of code points, whatever the database's language.

use diesel::{
    BoxableExpression,
    dsl::sql,
    expression::SqlLiteral,
    pg::Pg,
    sql_types::{Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::{AsyncPgConnection, pg::TransactionBuilder};
use leadr_auth_domain::{AccountId, KeyId, Timestamp};
use leadr_auth_ports::listing::{Direction, Period, Sort};
use uuid::Uuid;

use crate::rows;

/// The id of a row that is listed.
pub(crate) trait RowId: Copy + Ord {
    /// As it is stored.
    fn stored(self) -> Uuid;
}

impl RowId for KeyId {
    fn stored(self) -> Uuid {
        self.as_uuid()
    }
}

impl RowId for AccountId {
    fn stored(self) -> Uuid {
        self.as_uuid()
    }
}

/// By what a table is sorted, before its ids.
fn column<Id>(table: &str, sort: &Sort<Id>) -> String {
    match sort {
        Sort::CreatedAt { .. } => format!("{table}.created_at"),
        Sort::Name { .. } => format!("{table}.name COLLATE \"C\""),
    }
}

/// The order itself.
pub(crate) fn order<Id: RowId>(table: &str, sort: &Sort<Id>) -> SqlLiteral<Text> {
    let column = column(table, sort);
    let way = match sort.direction() {
        Direction::Ascending => "ASC",
        Direction::Descending => "DESC",
    };
    sql(&format!("{column} {way}, {table}.id {way}"))
}

/// A transaction in which a page of a narrowed list is read: how far it looks, and what it finds up to there.
///
/// The two are of one view, because rows that are written in between would break what each says of the other: a page that was to
/// look to the end of its list could meet a million rows that an import has just brought, and the last row up to which a page looks
/// could be renamed away. Two round trips more are little beside thousands of rows that are looked at. One statement for both would
/// save them, and would be planned before it is known how few rows are left.
pub(crate) fn one_view(
    connection: &mut AsyncPgConnection,
) -> TransactionBuilder<'_, AsyncPgConnection> {
    connection.build_transaction().repeatable_read().read_only()
}

/// Whether a row of a table is among those that are wanted.
pub(crate) type Among<'a, Table> = Box<dyn BoxableExpression<Table, Pg, SqlType = Bool> + 'a>;

/// The rows after the place of `sort`.
pub(crate) fn after<'a, Table, Id: RowId>(
    table: &str,
    sort: &'a Sort<Id>,
) -> Option<Among<'a, Table>> {
    let relation = match sort.direction() {
        Direction::Ascending => ">",
        Direction::Descending => "<",
    };
    standing(table, sort, relation)
}

/// The rows up to the place of `sort`, with the one that is there.
pub(crate) fn up_to<'a, Table, Id: RowId>(
    table: &str,
    sort: &'a Sort<Id>,
) -> Option<Among<'a, Table>> {
    let relation = match sort.direction() {
        Direction::Ascending => "<=",
        Direction::Descending => ">=",
    };
    standing(table, sort, relation)
}

/// The rows that stand to the place of `sort` as `relation` says; `None` where it is of no place.
fn standing<'a, Table, Id: RowId>(
    table: &str,
    sort: &'a Sort<Id>,
    relation: &str,
) -> Option<Among<'a, Table>> {
    let column = column(table, sort);
    let row = sql::<Bool>(&format!("({column}, {table}.id) {relation} ("));
    match sort {
        Sort::CreatedAt { direction, after } => after.map(|(at, id)| -> Among<'a, Table> {
            let at = row.bind::<Timestamptz, _>(rows::edge(at, *direction));
            Box::new(at.sql(", ").bind::<SqlUuid, _>(id.stored()).sql(")"))
        }),
        Sort::Name { after, .. } => after.as_ref().map(|(name, id)| -> Among<'a, Table> {
            let name = row.bind::<Text, _>(name.as_str());
            Box::new(name.sql(", ").bind::<SqlUuid, _>(id.stored()).sql(")"))
        }),
    }
}

diesel::define_sql_function! {
    /// `coalesce(condition, false)`: what a list is narrowed by has to stand in it.
    ///
    /// Where the server reckons that next to nothing passes a condition, it reads the whole table and sorts what did. It does not see
    /// that a page ends after so many rows whether or not they pass, and that the index gives these in their order. Of this
    /// function it knows nothing, and reckons with half.
    fn coalesce(condition: Nullable<Bool>, otherwise: Bool) -> Bool;
}

/// The rows whose name contains this, whatever the case of its ASCII letters: others have none in the language `C`.
pub(crate) fn name_contains<'a, Table>(table: &str, part: &'a str) -> Among<'a, Table> {
    let name = sql::<Bool>(&format!("strpos(lower({table}.name COLLATE \"C\"), lower("));
    Box::new(name.bind::<Text, _>(part).sql(" COLLATE \"C\")) > 0"))
}

/// The rows that were made in a span of time: what is to hold of them, all of it.
pub(crate) fn made_in<'a, Table>(
    table: &str,
    span: Period,
) -> impl Iterator<Item = Among<'a, Table>> + use<'a, Table> {
    let made = |relation: &str, at: Timestamp| -> Among<'a, Table> {
        let column = sql::<Bool>(&format!("{table}.created_at {relation} "));
        Box::new(column.bind::<Timestamptz, _>(rows::instant(at)).sql(""))
    };
    let since = span.since.map(|at| made(">=", at));
    let until = span.until.map(|at| made("<", at));
    since.into_iter().chain(until)
}
