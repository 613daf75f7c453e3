//! The order of long lists, and where in them a page begins and ends. Keys and accounts have the same columns for it.
//!
//! Where a list goes on is told by comparing whole rows, for which Diesel has no words here: that is a range of an index.

use diesel::{
    BoxableExpression, Connection as _, QueryResult,
    dsl::sql,
    expression::SqlLiteral,
    sql_types::{BigInt, Binary, Bool, Text},
    sqlite::{Sqlite, SqliteConnection},
};
use leadr_auth_domain::Timestamp;
use leadr_auth_ports::listing::{Direction, Period, Sort};

use crate::rows::{self, Id};

/// By what a table is sorted, before its ids.
fn column<RowId>(table: &str, sort: &Sort<RowId>) -> String {
    match sort {
        Sort::CreatedAt { .. } => format!("{table}.created_at"),
        Sort::Name { .. } => format!("{table}.name"),
    }
}

/// The order itself.
pub(crate) fn order<RowId: Copy + Ord>(table: &str, sort: &Sort<RowId>) -> SqlLiteral<Text> {
    let column = column(table, sort);
    let way = match sort.direction() {
        Direction::Ascending => "ASC",
        Direction::Descending => "DESC",
    };
    sql(&format!("{column} {way}, {table}.id {way}"))
}

/// Reads a page of a narrowed list: how far it looks, and what it finds up to there.
///
/// The two are of one view, because rows that are written in between would break what each says of the other: a page that was to
/// look to the end of its list could meet a million rows that an import has just brought, and the last row up to which a page looks
/// could be renamed away. The transaction begins with the first read, and locks nobody out.
pub(crate) fn one_view<T>(
    connection: &mut SqliteConnection,
    read: impl FnOnce(&mut SqliteConnection) -> QueryResult<T>,
) -> QueryResult<T> {
    connection.transaction(read)
}

/// Whether a row of a table is among those that are wanted.
pub(crate) type Among<Table> = Box<dyn BoxableExpression<Table, Sqlite, SqlType = Bool>>;

/// The rows after the place of `sort`.
pub(crate) fn after<Table, RowId>(table: &str, sort: &Sort<RowId>) -> Option<Among<Table>>
where
    RowId: Copy + Ord + Into<Id>,
{
    let relation = match sort.direction() {
        Direction::Ascending => ">",
        Direction::Descending => "<",
    };
    standing(table, sort, relation)
}

/// The rows up to the place of `sort`, with the one that is there.
pub(crate) fn up_to<Table, RowId>(table: &str, sort: &Sort<RowId>) -> Option<Among<Table>>
where
    RowId: Copy + Ord + Into<Id>,
{
    let relation = match sort.direction() {
        Direction::Ascending => "<=",
        Direction::Descending => ">=",
    };
    standing(table, sort, relation)
}

/// The rows that stand to the place of `sort` as `relation` says; `None` where it is of no place.
fn standing<Table, RowId>(table: &str, sort: &Sort<RowId>, relation: &str) -> Option<Among<Table>>
where
    RowId: Copy + Ord + Into<Id>,
{
    let column = column(table, sort);
    let row = sql::<Bool>(&format!("({column}, {table}.id) {relation} ("));
    match sort {
        Sort::CreatedAt { direction, after } => after.map(|(at, id)| -> Among<Table> {
            let at = row.bind::<BigInt, _>(rows::edge(at, *direction));
            Box::new(at.sql(", ").bind::<Binary, _>(id.into()).sql(")"))
        }),
        Sort::Name { after, .. } => after.as_ref().map(|(name, id)| -> Among<Table> {
            let name = row.bind::<Text, _>(name.clone());
            Box::new(name.sql(", ").bind::<Binary, _>((*id).into()).sql(")"))
        }),
    }
}

/// The rows whose name contains this, whatever the case of its ASCII letters: `lower` knows no others.
pub(crate) fn name_contains<Table>(table: &str, part: &str) -> Among<Table> {
    let name = sql::<Bool>(&format!("instr(lower({table}.name), lower("));
    Box::new(name.bind::<Text, _>(part.to_owned()).sql(")) > 0"))
}

/// The rows that were made in a span of time: what is to hold of them, all of it. In a list that is sorted by something else SQLite
/// is not to look for them by that, or it would have to sort them: that is what the `+` says.
pub(crate) fn made_in<Table, RowId>(
    table: &str,
    span: Period,
    sort: &Sort<RowId>,
) -> impl Iterator<Item = Among<Table>> + use<Table, RowId> {
    let column = match sort {
        Sort::CreatedAt { .. } => format!("{table}.created_at"),
        Sort::Name { .. } => format!("+{table}.created_at"),
    };
    let made = |relation: &str, at: Timestamp| -> Among<Table> {
        let column = sql::<Bool>(&format!("{column} {relation} "));
        Box::new(column.bind::<BigInt, _>(at.unix_micros()).sql(""))
    };
    let since = span.since.map(|at| made(">=", at));
    let until = span.until.map(|at| made("<", at));
    since.into_iter().chain(until)
}
