//! Long lists: how a page is read, their order, and where in them it begins and ends. Keys and accounts have the same columns for
//! that.
//!
//! Where a list goes on is told by comparing whole rows, for which Diesel has no words: that is a range of an index. Names are
//! sorted byte by byte, which is the order of code points, whatever the database's language.

use diesel::{
    BoxableExpression, QueryResult,
    dsl::sql,
    expression::SqlLiteral,
    pg::Pg,
    sql_types::{Bool, Nullable, Text, Timestamptz, Uuid as SqlUuid},
};
use diesel_async::AsyncPgConnection;
use leadr_auth_domain::{AccountId, KeyId, Timestamp};
use leadr_auth_ports::{
    StoreError,
    listing::{Direction, Page, Period, Sort},
};
use uuid::Uuid;

use crate::{error, pool::Pool, rows};

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

/// A list that is read in pages.
pub(crate) trait Paged: Sync {
    /// What it is a list of.
    type Row: Send;
    /// Where it may go on.
    type Place: Send + Sync;

    /// Where the `nth` row stands from where the page begins on, counted from 1, whatever it is narrowed by; `None` where there are
    /// fewer.
    fn horizon(
        &self,
        connection: &mut AsyncPgConnection,
        nth: u32,
    ) -> impl Future<Output = QueryResult<Option<Self::Place>>> + Send;

    /// The rows of the page, and one more where there is one, up to the horizon.
    fn rows(
        &self,
        connection: &mut AsyncPgConnection,
        horizon: Option<&Self::Place>,
    ) -> impl Future<Output = QueryResult<Vec<Self::Row>>> + Send;

    /// Where the list goes on after a row.
    fn place(&self, row: &Self::Row) -> Self::Place;
}

/// Reads a page of at most `limit` rows. Where it is narrowed, and looks at so many, it reads how far that is, and then what is to
/// be found up to there.
///
/// The two are of one view, because rows that are written in between would break what each says of the other: a page that was to
/// look to the end of its list could meet a million rows that an import has just brought, and the last row up to which a page looks
/// could be renamed away. Two round trips more are little beside a thousand rows that are looked at. One statement for both would
/// save them, and would be planned before it is known how few rows are left.
pub(crate) async fn page<List: Paged>(
    pool: &Pool,
    list: &List,
    limit: u32,
    looks_at: Option<u32>,
) -> Result<Page<List::Row, List::Place>, StoreError> {
    let read = match looks_at {
        // It finds all that it looks at.
        None => {
            let rows = pool.statement(async |connection| list.rows(connection, None).await);
            rows.await?.map(|rows| (None, rows))
        }
        Some(most) => {
            let both = async |connection: &mut AsyncPgConnection| {
                let horizon = list.horizon(connection, most).await?;
                let rows = list.rows(connection, horizon.as_ref()).await?;
                QueryResult::Ok((horizon, rows))
            };
            pool.transaction(async |connection| {
                let one_view = connection.build_transaction().repeatable_read();
                one_view.read_only().run(both).await
            })
            .await?
        }
    };
    let (horizon, rows) = read.map_err(error::of_query)?;
    Ok(Page::cut(rows, limit, horizon, |last| list.place(last)))
}

/// The rows that a page looks at: [`Sort::range`], up to the horizon where there is one.
pub(crate) fn range<'a, Table: 'a, Id: RowId>(
    table: &str,
    sort: &'a Sort<Id>,
    made: Period,
    horizon: Option<&'a Sort<Id>>,
) -> impl Iterator<Item = Among<'a, Table>> + use<'a, Table, Id> {
    let (place, span) = sort.range(made, horizon);
    let after = place.and_then(|place| after(table, place));
    let within = horizon.and_then(|horizon| up_to(table, horizon));
    made_in(table, span).chain(after).chain(within)
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

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use diesel::prelude::*;
    use diesel_async::RunQueryDsl;
    use leadr_auth_ports::contract::fixtures::{account, entry};

    use super::*;
    use crate::{schema::accounts, testing::TestDatabase};

    async fn count(connection: &mut AsyncPgConnection) -> QueryResult<i64> {
        accounts::table.count().get_result(connection).await
    }

    /// A list that somebody else writes to while a page is read.
    struct Growing<'a> {
        database: &'a TestDatabase,
    }

    impl Paged for Growing<'_> {
        type Row = i64;
        type Place = i64;

        async fn horizon(
            &self,
            connection: &mut AsyncPgConnection,
            nth: u32,
        ) -> QueryResult<Option<i64>> {
            let there = count(connection).await?;
            let came = account(u8::try_from(nth).unwrap());
            let stores = self.database.stores();
            stores.accounts.create(&came, &entry()).await.unwrap();
            Ok(Some(there))
        }

        async fn rows(
            &self,
            connection: &mut AsyncPgConnection,
            horizon: Option<&i64>,
        ) -> QueryResult<Vec<i64>> {
            let found = count(connection).await?;
            Ok(horizon.copied().into_iter().chain([found]).collect())
        }

        fn place(&self, row: &i64) -> i64 {
            *row
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_narrowed_page_is_read_in_one_view() {
        let database = TestDatabase::create().await;
        let pool = database.postgres().pool.clone();
        for (nth, expected) in [(1, [0, 0]), (2, [1, 1])] {
            let list = Growing {
                database: &database,
            };
            let page = page(&pool, &list, 10, Some(nth)).await.unwrap();
            assert_eq!(page.rows, expected);
        }
        assert_eq!(database.stores().accounts.list().await.unwrap().len(), 2);
    }
}
