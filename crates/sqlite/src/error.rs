//! What each failure of the database means to a caller.

use std::fmt;

use diesel::{
    ConnectionError,
    result::{DatabaseErrorKind, Error},
};
use leadr_auth_ports::{
    BoxError, CreateAccountError, CreateKeyError, CreateOperatorError, StoreError,
    UpdateAccountError, UpdateKeyError,
};

/// A rule of the schema that a caller can decide about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Another key has the prefix.
    Prefix,
    /// Another live account has the name.
    Name,
    /// Another live account has the slug.
    Slug,
    /// There is no such account.
    Account,
    /// The account has as many live keys as it may have.
    Limit,
    /// The secret that the key is hashed under was dropped.
    Pepper,
    /// The name of the request is another request's.
    OtherRequest,
}

/// Which rule was violated, if it is one that a caller can decide about.
pub(crate) fn violation(error: &Error) -> Option<Violation> {
    let Error::DatabaseError(kind, information) = error else {
        return None;
    };
    match (kind, information.message()) {
        // SQLite names the columns, not the index.
        (DatabaseErrorKind::UniqueViolation, "UNIQUE constraint failed: api_keys.key_prefix") => {
            Some(Violation::Prefix)
        }
        (DatabaseErrorKind::UniqueViolation, "UNIQUE constraint failed: accounts.name") => {
            Some(Violation::Name)
        }
        (DatabaseErrorKind::UniqueViolation, "UNIQUE constraint failed: accounts.slug") => {
            Some(Violation::Slug)
        }
        (DatabaseErrorKind::ForeignKeyViolation, _) => Some(Violation::Account),
        _ => None,
    }
}

/// What is the matter with the file, or with the machine below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Symptom {
    /// Somebody else has it locked.
    Busy,
    /// There is no room left.
    Full,
    /// It may be read only.
    ReadOnly,
    /// It, its folder or a file beside it cannot be opened.
    Closed,
    /// Reading or writing failed below SQLite.
    Device,
    /// It has no tables yet, or not all of them.
    Unmigrated,
    /// It is damaged.
    Corrupt,
    /// It is not a database of SQLite.
    Foreign,
    /// Anything else.
    Other,
}

/// Diesel passes on what SQLite says and not its number, so the words decide. They are a table of constants in SQLite
/// (`sqlite3ErrStr`), which has not changed in many years; a test holds those that can be provoked against it.
const SYMPTOMS: [(&str, Symptom); 15] = [
    ("database is locked", Symptom::Busy),
    ("database table is locked", Symptom::Busy),
    ("locking protocol", Symptom::Busy),
    ("database or disk is full", Symptom::Full),
    ("attempt to write a readonly database", Symptom::ReadOnly),
    ("unable to open database", Symptom::Closed),
    // As above, where it is opening that fails.
    ("unable to open the database file", Symptom::Closed),
    ("disk i/o error", Symptom::Device),
    ("out of memory", Symptom::Device),
    ("no such table", Symptom::Unmigrated),
    ("no such column", Symptom::Unmigrated),
    ("database disk image is malformed", Symptom::Corrupt),
    // With the name of what cannot be read, and why.
    ("malformed database schema", Symptom::Corrupt),
    ("unsupported file format", Symptom::Corrupt),
    ("file is not a database", Symptom::Foreign),
];

fn symptom_of(message: &str) -> Symptom {
    let message = message.to_lowercase();
    SYMPTOMS
        .iter()
        .find(|(words, _)| message.starts_with(words))
        .map_or(Symptom::Other, |(_, symptom)| *symptom)
}

/// What is the matter, as a failed statement tells it.
pub(crate) fn symptom(error: &Error) -> Symptom {
    match error {
        Error::DatabaseError(DatabaseErrorKind::Unknown, information) => {
            symptom_of(information.message())
        }
        _ => Symptom::Other,
    }
}

/// What is the matter, as a failed connection tells it.
pub(crate) fn symptom_of_connecting(error: &ConnectionError) -> Symptom {
    match error {
        ConnectionError::BadConnection(message) => symptom_of(message),
        ConnectionError::CouldntSetupConfiguration(error) => symptom(error),
        _ => Symptom::Other,
    }
}

/// What is the matter, where it is the database that tells it.
pub(crate) fn symptom_of_any(error: &BoxError) -> Option<Symptom> {
    let query = error.downcast_ref().map(symptom);
    query.or_else(|| error.downcast_ref().map(symptom_of_connecting))
}

/// May it be otherwise later, without anybody repairing the file?
fn passes(symptom: Symptom) -> bool {
    match symptom {
        Symptom::Busy
        | Symptom::Full
        | Symptom::ReadOnly
        | Symptom::Closed
        | Symptom::Device
        | Symptom::Unmigrated => true,
        Symptom::Corrupt | Symptom::Foreign | Symptom::Other => false,
    }
}

/// A failed query, where no rule was violated that the caller decides about.
pub(crate) fn of_query(error: Error) -> StoreError {
    if passes(symptom(&error)) {
        StoreError::unavailable(error)
    } else {
        StoreError::internal(error)
    }
}

/// No connection to be had.
pub(crate) fn of_connecting(error: ConnectionError) -> StoreError {
    if passes(symptom_of_connecting(&error)) {
        StoreError::unavailable(error)
    } else {
        StoreError::internal(error)
    }
}

/// Why a transaction was lost.
#[derive(Debug)]
pub(crate) struct Lost {
    symptom: Symptom,
    text: String,
}

impl From<&Error> for Lost {
    fn from(error: &Error) -> Self {
        Self {
            symptom: symptom(error),
            text: error.to_string(),
        }
    }
}

/// A transaction that was lost, as told to each of those whose work was in it.
pub(crate) fn of_group(lost: &Lost) -> StoreError {
    let text = format!("the transaction was rolled back: {}", lost.text);
    if lost.symptom == Symptom::Corrupt {
        StoreError::internal(text)
    } else {
        StoreError::unavailable(text)
    }
}

/// Why a piece of work failed.
pub(crate) trait Failure {
    /// What the database said, where it is that which failed.
    fn of_database(&self) -> Option<&Error>;
}

impl Failure for Error {
    fn of_database(&self) -> Option<&Error> {
        Some(self)
    }
}

impl Failure for Stop {
    fn of_database(&self) -> Option<&Error> {
        match self {
            Self::Query(error) => Some(error),
            Self::Store(_) | Self::Rule(_) => None,
        }
    }
}

#[cfg(test)]
impl Failure for () {
    fn of_database(&self) -> Option<&Error> {
        None
    }
}

/// A row that holds what cannot be. Its content is not repeated, since it may be a hash.
pub(crate) fn corrupt(table: &str, id: impl fmt::Display, column: &str) -> StoreError {
    StoreError::internal(format!(
        "the row {id} of {table} has an unusable value in {column}"
    ))
}

/// Why some work stops: it is rolled back, and this is said.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The database failed.
    Query(Error),
    /// What is stored cannot be used.
    Store(StoreError),
    /// It would break a rule that the caller decides about.
    Rule(Violation),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        match violation(&error) {
            Some(violation) => Self::Rule(violation),
            None => Self::Query(error),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Stop {
    /// What it is to a caller for whom no rule of the schema is a thing to decide about, or not this one.
    pub(crate) fn into_store(self) -> StoreError {
        match self {
            Self::Query(error) => of_query(error),
            Self::Store(error) => error,
            Self::Rule(violation) => {
                StoreError::internal(format!("a rule was broken that cannot be: {violation:?}"))
            }
        }
    }
}

impl From<Stop> for CreateKeyError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Rule(Violation::Prefix) => Self::PrefixTaken,
            Stop::Rule(Violation::Account) => Self::AccountNotFound,
            Stop::Rule(Violation::OtherRequest) => Self::OtherRequest,
            Stop::Rule(Violation::Limit) => Self::LimitReached,
            Stop::Rule(Violation::Pepper) => Self::PepperDropped,
            stop => Self::Store(stop.into_store()),
        }
    }
}

impl From<Stop> for UpdateKeyError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Rule(Violation::Limit) => Self::LimitReached,
            Stop::Rule(Violation::Pepper) => Self::PepperDropped,
            stop => Self::Store(stop.into_store()),
        }
    }
}

impl From<Stop> for CreateAccountError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Rule(Violation::OtherRequest) => Self::OtherRequest,
            Stop::Rule(Violation::Name) => Self::NameTaken,
            Stop::Rule(Violation::Slug) => Self::SlugTaken,
            stop => Self::Store(stop.into_store()),
        }
    }
}

impl From<Stop> for CreateOperatorError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Rule(Violation::Name | Violation::Slug) => Self::AccountTaken,
            Stop::Rule(Violation::Prefix) => Self::PrefixTaken,
            Stop::Rule(Violation::Pepper) => Self::PepperDropped,
            Stop::Rule(Violation::Account) => Self::Store(StoreError::internal(
                "the first key is not one of the account that comes with it",
            )),
            stop => Self::Store(stop.into_store()),
        }
    }
}

impl From<Stop> for UpdateAccountError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Rule(Violation::Name) => Self::NameTaken,
            Stop::Rule(Violation::Slug) => Self::SlugTaken,
            stop => Self::Store(stop.into_store()),
        }
    }
}

#[cfg(test)]
mod tests {
    use diesel::{Connection as _, SqliteConnection, connection::SimpleConnection as _};

    use super::*;

    fn said(connection: &mut SqliteConnection, query: &str) -> Symptom {
        symptom(&connection.batch_execute(query).unwrap_err())
    }

    #[test]
    fn sqlite_says_what_we_take_it_to_say() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("a.db");
        let open = || SqliteConnection::establish(path.to_str().unwrap()).unwrap();
        let (mut one, mut two) = (open(), open());
        one.batch_execute("CREATE TABLE t (a); BEGIN IMMEDIATE")
            .unwrap();
        assert_eq!(said(&mut two, "BEGIN IMMEDIATE"), Symptom::Busy);
        assert_eq!(
            said(&mut one, "INSERT INTO u VALUES (1)"),
            Symptom::Unmigrated
        );
        assert_eq!(said(&mut one, "SELECT b FROM t"), Symptom::Unmigrated);
        one.batch_execute("COMMIT; PRAGMA max_page_count = 2")
            .unwrap();
        assert_eq!(
            said(&mut one, "INSERT INTO t VALUES (zeroblob(9000))"),
            Symptom::Full
        );
        one.batch_execute("PRAGMA query_only = ON").unwrap();
        assert_eq!(
            said(&mut one, "INSERT INTO t VALUES (1)"),
            Symptom::ReadOnly
        );
        assert_eq!(said(&mut one, "SELEKT"), Symptom::Other);
        assert_eq!(
            said(&mut one, "ATTACH '/nowhere/at/all.db' AS other"),
            Symptom::Closed
        );

        let nowhere = SqliteConnection::establish("/nowhere/at/all.db")
            .err()
            .unwrap();
        assert_eq!(symptom_of_connecting(&nowhere), Symptom::Closed);
        let text = folder.path().join("text");
        std::fs::write(&text, "no database, but a text of some length".repeat(30)).unwrap();
        let mut text = SqliteConnection::establish(text.to_str().unwrap()).unwrap();
        assert_eq!(said(&mut text, "SELECT * FROM t"), Symptom::Foreign);
    }

    /// Those that cannot be provoked here, in the words of SQLite's source.
    #[test]
    fn what_passes_is_unavailable_and_what_does_not_is_internal() {
        for (words, passes) in [
            ("disk I/O error", true),
            ("database table is locked: accounts", true),
            ("locking protocol", true),
            ("unable to open database file", true),
            ("attempt to write a readonly database", true),
            ("database disk image is malformed", false),
            ("file is not a database", false),
            ("malformed database schema (accounts)", false),
            ("unsupported file format", false),
            ("datatype mismatch", false),
        ] {
            let error =
                Error::DatabaseError(DatabaseErrorKind::Unknown, Box::new(words.to_owned()));
            assert_eq!(of_query(error).is_retryable(), passes, "{words}");
        }
    }
}
