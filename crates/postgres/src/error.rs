//! What each failure of the database means to a caller.

use std::{convert::Infallible, fmt};

use diesel::result::{DatabaseErrorKind, Error};
use diesel_async::pooled_connection::deadpool::PoolError;
use leadr_auth_ports::{
    CreateAccountError, CreateKeyError, CreateOperatorError, StoreError, UpdateAccountError,
    UpdateKeyError,
};

use crate::requests::OtherRequest;

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
}

/// Which rule was violated, if it is one that a caller can decide about.
pub(crate) fn violation(error: &Error) -> Option<Violation> {
    let Error::DatabaseError(kind, information) = error else {
        return None;
    };
    match (kind, information.constraint_name()?) {
        // The second name is what PostgreSQL calls it where the column was declared unique, as in an adopted database.
        (
            DatabaseErrorKind::UniqueViolation,
            "ix_api_keys_key_prefix" | "api_keys_key_prefix_key",
        ) => Some(Violation::Prefix),
        (DatabaseErrorKind::UniqueViolation, "accounts_live_name_key") => Some(Violation::Name),
        (DatabaseErrorKind::UniqueViolation, "accounts_live_slug_key") => Some(Violation::Slug),
        (DatabaseErrorKind::ForeignKeyViolation, _) => Some(Violation::Account),
        _ => None,
    }
}

/// A failed query, where no rule was violated that the caller decides about.
pub(crate) fn of_query(error: Error) -> StoreError {
    match error {
        Error::DatabaseError(
            DatabaseErrorKind::UniqueViolation
            | DatabaseErrorKind::ForeignKeyViolation
            | DatabaseErrorKind::NotNullViolation
            | DatabaseErrorKind::CheckViolation,
            _,
        ) => StoreError::internal(error),
        // Everything that the server says otherwise comes without its code: that it is starting or stopping, that a
        // statement or a lock took too long, that two transactions waited for each other. Later is another story.
        Error::DatabaseError(..)
        | Error::BrokenTransactionManager
        | Error::RollbackErrorOnCommit { .. } => StoreError::unavailable(error),
        _ => StoreError::internal(error),
    }
}

/// No connection to be had.
pub(crate) fn of_pool(error: PoolError) -> StoreError {
    StoreError::unavailable(error)
}

/// A row that holds what cannot be. Its content is not repeated, since it may be a hash.
pub(crate) fn corrupt(table: &str, id: &dyn fmt::Display, column: &str) -> StoreError {
    StoreError::internal(format!(
        "the row {id} of {table} has an unusable value in {column}"
    ))
}

/// Why a transaction stops: what is rolled back, and what is said.
pub(crate) enum Stop<R> {
    /// The database failed.
    Query(Error),
    /// What is stored cannot be used.
    Store(StoreError),
    /// There is no such row.
    NotFound,
    /// The change refused.
    Refused(R),
}

impl<R> From<Error> for Stop<R> {
    fn from(error: Error) -> Self {
        Self::Query(error)
    }
}

impl<R> From<StoreError> for Stop<R> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Stop<OtherRequest> {
    /// The same, where a key is issued.
    pub(crate) fn of_key(self) -> Stop<NotIssued> {
        match self {
            Self::Query(error) => Stop::Query(error),
            Self::Store(error) => Stop::Store(error),
            Self::NotFound => Stop::NotFound,
            Self::Refused(OtherRequest) => Stop::Refused(NotIssued::OtherRequest),
        }
    }
}

impl Stop<Infallible> {
    /// The same, where something may refuse.
    pub(crate) fn of_no_refusal<R>(self) -> Stop<R> {
        match self {
            Self::Query(error) => Stop::Query(error),
            Self::Store(error) => Stop::Store(error),
            Self::NotFound => Stop::NotFound,
            Self::Refused(never) => match never {},
        }
    }
}

impl From<Stop<Infallible>> for StoreError {
    fn from(stop: Stop<Infallible>) -> Self {
        match stop {
            Stop::Query(error) => of_query(error),
            Stop::Store(error) => error,
            Stop::NotFound => Self::internal("what is always there is missing"),
            Stop::Refused(never) => match never {},
        }
    }
}

/// The secret that a key is hashed under was given up.
pub(crate) struct PepperDropped;

/// Why a key was not issued.
pub(crate) enum NotIssued {
    /// The account has as many as it may have.
    LimitReached,
    /// The secret that it is hashed under was given up.
    PepperDropped,
    /// The name of the request is another request's.
    OtherRequest,
}

impl From<Stop<NotIssued>> for CreateKeyError {
    fn from(stop: Stop<NotIssued>) -> Self {
        match stop {
            Stop::Query(error) => of_create_key(error),
            Stop::Store(error) => Self::Store(error),
            Stop::NotFound => Self::AccountNotFound,
            Stop::Refused(NotIssued::LimitReached) => Self::LimitReached,
            Stop::Refused(NotIssued::PepperDropped) => Self::PepperDropped,
            Stop::Refused(NotIssued::OtherRequest) => Self::OtherRequest,
        }
    }
}

impl From<Stop<OtherRequest>> for CreateAccountError {
    fn from(stop: Stop<OtherRequest>) -> Self {
        match stop {
            Stop::Query(error) => of_create_account(error),
            Stop::Store(error) => Self::Store(error),
            Stop::NotFound => Self::Store(StoreError::internal("what is always there is missing")),
            Stop::Refused(OtherRequest) => Self::OtherRequest,
        }
    }
}

pub(crate) fn of_create_key(error: Error) -> CreateKeyError {
    match violation(&error) {
        Some(Violation::Prefix) => CreateKeyError::PrefixTaken,
        Some(Violation::Account) => CreateKeyError::AccountNotFound,
        Some(Violation::Name | Violation::Slug) | None => CreateKeyError::Store(of_query(error)),
    }
}

pub(crate) fn of_create_account(error: Error) -> CreateAccountError {
    match violation(&error) {
        Some(Violation::Name) => CreateAccountError::NameTaken,
        Some(Violation::Slug) => CreateAccountError::SlugTaken,
        Some(Violation::Prefix | Violation::Account) | None => {
            CreateAccountError::Store(of_query(error))
        }
    }
}

impl From<Stop<PepperDropped>> for CreateOperatorError {
    fn from(stop: Stop<PepperDropped>) -> Self {
        match stop {
            Stop::Query(error) => match violation(&error) {
                Some(Violation::Name | Violation::Slug) => Self::AccountTaken,
                Some(Violation::Prefix) => Self::PrefixTaken,
                Some(Violation::Account) | None => Self::Store(of_query(error)),
            },
            Stop::Store(error) => Self::Store(error),
            Stop::NotFound => Self::Store(StoreError::internal(
                "the first key is not one of the account that comes with it",
            )),
            Stop::Refused(PepperDropped) => Self::PepperDropped,
        }
    }
}

/// Why a key stays as it is.
pub(crate) enum KeyStays {
    /// The change refused.
    Refused(leadr_auth_domain::KeyRefusal),
    /// It would come back to an account that has as many as it may have.
    LimitReached,
    /// It would come back under a secret that was given up.
    PepperDropped,
}

impl From<Stop<KeyStays>> for UpdateKeyError {
    fn from(stop: Stop<KeyStays>) -> Self {
        match stop {
            Stop::Query(error) => Self::Store(of_query(error)),
            Stop::Store(error) => Self::Store(error),
            Stop::NotFound => Self::NotFound,
            Stop::Refused(KeyStays::Refused(refusal)) => Self::Refused(refusal),
            Stop::Refused(KeyStays::LimitReached) => Self::LimitReached,
            Stop::Refused(KeyStays::PepperDropped) => Self::PepperDropped,
        }
    }
}

impl From<Stop<leadr_auth_domain::AccountRefusal>> for UpdateAccountError {
    fn from(stop: Stop<leadr_auth_domain::AccountRefusal>) -> Self {
        match stop {
            Stop::Query(error) => match violation(&error) {
                Some(Violation::Name) => Self::NameTaken,
                Some(Violation::Slug) => Self::SlugTaken,
                Some(Violation::Prefix | Violation::Account) | None => Self::Store(of_query(error)),
            },
            Stop::Store(error) => Self::Store(error),
            Stop::NotFound => Self::NotFound,
            Stop::Refused(refusal) => Self::Refused(refusal),
        }
    }
}
