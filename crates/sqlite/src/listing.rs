//! Long lists: how a page is read, their order, and where in them it begins and ends. Keys and accounts have the same columns for
//! that.
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
use leadr_auth_ports::listing::{Direction, Page, Period, Sort};

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

/// A list that is read in pages.
pub(crate) trait Paged {
    /// What it is a list of.
    type Row;
    /// Where it may go on.
    type Place;

    /// Where the `nth` row stands from where the page begins on, counted from 1, whatever it is narrowed by; `None` where there are
    /// fewer.
    fn horizon(
        &self,
        connection: &mut SqliteConnection,
        nth: u32,
    ) -> QueryResult<Option<Self::Place>>;

    /// The rows of the page, and one more where there is one, up to the horizon.
    fn rows(
        &self,
        connection: &mut SqliteConnection,
        horizon: Option<&Self::Place>,
    ) -> QueryResult<Vec<Self::Row>>;

    /// Where the list goes on after a row.
    fn place(&self, row: &Self::Row) -> Self::Place;
}

/// Reads a page of at most `limit` rows. Where it is narrowed, and looks at so many, it reads how far that is, and then what is to
/// be found up to there.
///
/// The two are of one view, because rows that are written in between would break what each says of the other: a page that was to
/// look to the end of its list could meet a million rows that an import has just brought, and the last row up to which a page looks
/// could be renamed away. The transaction begins with the first read, and locks nobody out.
pub(crate) fn page<List: Paged>(
    connection: &mut SqliteConnection,
    list: &List,
    limit: u32,
    looks_at: Option<u32>,
) -> QueryResult<Page<List::Row, List::Place>> {
    let (horizon, rows) = match looks_at {
        // It finds all that it looks at.
        None => (None, list.rows(connection, None)?),
        Some(most) => connection.transaction(|connection| {
            let horizon = list.horizon(connection, most)?;
            let rows = list.rows(connection, horizon.as_ref())?;
            QueryResult::Ok((horizon, rows))
        })?,
    };
    Ok(Page::cut(rows, limit, horizon, |last| list.place(last)))
}

/// The rows that a page looks at: [`Sort::range`], up to the horizon where there is one.
pub(crate) fn range<Table: 'static, RowId>(
    table: &str,
    sort: &Sort<RowId>,
    made: Period,
    horizon: Option<&Sort<RowId>>,
) -> impl Iterator<Item = Among<Table>> + use<Table, RowId>
where
    RowId: Copy + Ord + Into<Id>,
{
    let (place, span) = sort.range(made, horizon);
    let after = place.and_then(|place| after(table, place));
    let within = horizon.and_then(|horizon| up_to(table, horizon));
    let made = lying_in(&format!("{table}.created_at"), span);
    made.chain(after).chain(within)
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

/// By what a list that is sorted by something else is narrowed to rows that were `made` in a span of time. SQLite is not to look for
/// them by that, or it would have to sort them.
pub(crate) fn narrowed_to<Table, RowId>(
    table: &str,
    sort: &Sort<RowId>,
    made: Period,
) -> impl Iterator<Item = Among<Table>> + use<Table, RowId> {
    let span = match sort {
        Sort::CreatedAt { .. } => Period::ALWAYS,
        Sort::Name { .. } => made,
    };
    lying_in(&unsearched(&format!("{table}.created_at")), span)
}

/// A column by which SQLite does not look for rows, though it has an index of it.
pub(crate) fn unsearched(column: &str) -> String {
    format!("+{column}")
}

/// The rows whose `column` lies in a span of time.
pub(crate) fn lying_in<Table>(
    column: &str,
    span: Period,
) -> impl Iterator<Item = Among<Table>> + use<Table> {
    let lying = |relation: &str, at: Timestamp| -> Among<Table> {
        let column = sql::<Bool>(&format!("{column} {relation} "));
        Box::new(column.bind::<BigInt, _>(at.unix_micros()).sql(""))
    };
    let since = span.since.map(|at| lying(">=", at));
    let until = span.until.map(|at| lying("<", at));
    since.into_iter().chain(until)
}

#[cfg(test)]
mod tests {
    use diesel::prelude::*;
    use leadr_auth_ports::contract::fixtures::account;
    use tempfile::TempDir;

    use super::*;
    use crate::{IfMissing, SqliteConfig, migrate, rows, schema::accounts};

    fn count(connection: &mut SqliteConnection) -> QueryResult<i64> {
        accounts::table.count().get_result(connection)
    }

    /// A list that another connection writes to while a page is read.
    struct Growing<'a> {
        path: &'a str,
    }

    impl Paged for Growing<'_> {
        type Row = i64;
        type Place = i64;

        fn horizon(&self, connection: &mut SqliteConnection, nth: u32) -> QueryResult<Option<i64>> {
            let there = count(connection)?;
            let mut other = SqliteConnection::establish(self.path).unwrap();
            let came = account(u8::try_from(nth).unwrap());
            diesel::insert_into(accounts::table)
                .values(rows::account_row(&came))
                .execute(&mut other)?;
            Ok(Some(there))
        }

        fn rows(
            &self,
            connection: &mut SqliteConnection,
            horizon: Option<&i64>,
        ) -> QueryResult<Vec<i64>> {
            let found = count(connection)?;
            Ok(horizon.copied().into_iter().chain([found]).collect())
        }

        fn place(&self, row: &i64) -> i64 {
            *row
        }
    }

    #[tokio::test]
    async fn a_narrowed_page_is_read_in_one_view() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("keys.db");
        let config = SqliteConfig::new(path.clone());
        let sqlite = crate::Sqlite::open(config, IfMissing::Create).unwrap();
        migrate::run(&sqlite).await.unwrap();
        let path = path.to_str().unwrap();
        let mut connection = SqliteConnection::establish(path).unwrap();
        for (nth, expected) in [(1, [0, 0]), (2, [1, 1])] {
            let list = Growing { path };
            let page = page(&mut connection, &list, 10, Some(nth)).unwrap();
            assert_eq!(page.rows, expected);
        }
        assert_eq!(count(&mut connection).unwrap(), 2);
    }
}
