//! How the process ends.

use std::error::Error;

use leadr_auth_ports::{DropPepperError, StoreError};
use leadr_auth_service::{AccountError, DropError, IssueKeyError, KeyError, SecretError};

use leadr_auth_sqlite::{OpenError, OpenFault};

use super::peppers::IdTaken;
use super::{Interrupted, Usage};
use crate::config::ConfigFaults;
use crate::storage::{MigrateError, SchemaError};

/// An exit code and what it means.
pub(super) struct Meaning {
    pub(super) code: u8,
    pub(super) text: &'static str,
}

pub(super) const FAILED: u8 = 1;
pub(super) const WRONG_USAGE: u8 = 2;
pub(super) const NOT_FOUND: u8 = 3;
pub(super) const REFUSED: u8 = 4;
pub(super) const UNAVAILABLE: u8 = 5;
pub(super) const KEY_REFUSED: u8 = 6;
pub(super) const INCOMPLETE: u8 = 7;
pub(super) const TAMPERED: u8 = 8;
/// As shells say it: 128 and the signal's number.
pub(super) const INTERRUPTED: u8 = 128 + 2;
pub(super) const TERMINATED: u8 = 128 + 15;

/// Every code there is.
pub(super) const MEANINGS: &[Meaning] = &[
    Meaning {
        code: 0,
        text: "done; with `key verify`: the key is valid",
    },
    Meaning {
        code: FAILED,
        text: "failed; with `doctor`: something keeps a server from being ready",
    },
    Meaning {
        code: WRONG_USAGE,
        text: "wrong usage or configuration",
    },
    Meaning {
        code: NOT_FOUND,
        text: "there is no such account, key or secret",
    },
    Meaning {
        code: REFUSED,
        text: "refused because of what is stored, as a name that is taken or a secret that keys depend on",
    },
    Meaning {
        code: UNAVAILABLE,
        text: "the store cannot be asked now; try again later",
    },
    Meaning {
        code: KEY_REFUSED,
        text: "`key verify`: the key is not valid",
    },
    Meaning {
        code: INCOMPLETE,
        text: "`import`: not every record was taken",
    },
    Meaning {
        code: TAMPERED,
        text: "`audit verify`, `audit prune`: the trail was tampered with",
    },
];

/// The code for a failure.
pub(super) fn code_of(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigFaults>() || error.is::<Usage>() {
        return WRONG_USAGE;
    }
    if let Some(Interrupted { code }) = error.downcast_ref() {
        return *code;
    }
    error.chain().find_map(code_of_cause).unwrap_or(FAILED)
}

fn code_of_cause(cause: &(dyn Error + 'static)) -> Option<u8> {
    if let Some(error) = cause.downcast_ref::<KeyError>() {
        return match error {
            KeyError::NotFound => Some(NOT_FOUND),
            KeyError::PepperDropped | KeyError::LimitReached => Some(REFUSED),
            // The command line says of no key which state it has seen.
            KeyError::ForeignAccount(_)
            | KeyError::ScopeNotHeld(_)
            | KeyError::Changed
            | KeyError::Store(_) => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<AccountError>() {
        return match error {
            AccountError::NotFound => Some(NOT_FOUND),
            AccountError::NameTaken | AccountError::SlugTaken | AccountError::OperatorProtected => {
                Some(REFUSED)
            }
            AccountError::Changed
            | AccountError::OtherRequest
            | AccountError::Entropy(_)
            | AccountError::Store(_) => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<IssueKeyError>() {
        return match error {
            IssueKeyError::AccountNotFound => Some(NOT_FOUND),
            IssueKeyError::LimitReached => Some(REFUSED),
            _ => None,
        };
    }
    if let Some(error) = cause.downcast_ref::<DropPepperError>() {
        return match error {
            DropPepperError::NotRegistered => Some(NOT_FOUND),
            DropPepperError::InUse { .. } | DropPepperError::LastWithAuditKey => Some(REFUSED),
            DropPepperError::Store(_) => None,
        };
    }
    if let Some(DropError::Current) = cause.downcast_ref() {
        return Some(REFUSED);
    }
    // Only whoever sets the keyring can put it there.
    if let Some(SecretError::Missing(_)) = cause.downcast_ref() {
        return Some(WRONG_USAGE);
    }
    if cause.is::<IdTaken>() {
        return Some(REFUSED);
    }
    let passes = if let Some(error) = cause.downcast_ref::<MigrateError>() {
        error.is_unavailable()
    } else if let Some(error) = cause.downcast_ref::<SchemaError>() {
        error.is_unavailable()
    } else if let Some(error) = cause.downcast_ref::<OpenError>() {
        matches!(error.fault, OpenFault::Unavailable(_))
    } else {
        cause.downcast_ref::<StoreError>()?.is_retryable()
    };
    passes.then_some(UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use leadr_auth_domain::PepperId;

    use super::*;

    #[test]
    fn a_failure_has_the_code_of_what_it_was() {
        let away = || StoreError::unavailable("away");
        let cases = [
            (anyhow::Error::from(KeyError::NotFound), NOT_FOUND),
            (KeyError::PepperDropped.into(), REFUSED),
            (KeyError::Store(away()).into(), UNAVAILABLE),
            (KeyError::Store(StoreError::internal("odd")).into(), FAILED),
            (
                MigrateError::Postgres(leadr_auth_postgres::migrate::MigrateError::Unavailable(
                    "away".into(),
                ))
                .into(),
                UNAVAILABLE,
            ),
            (AccountError::SlugTaken.into(), REFUSED),
            (IssueKeyError::AccountNotFound.into(), NOT_FOUND),
            (DropError::Current.into(), REFUSED),
            (
                DropError::Refused(DropPepperError::LastWithAuditKey).into(),
                REFUSED,
            ),
            (
                DropError::Refused(DropPepperError::NotRegistered).into(),
                NOT_FOUND,
            ),
            (
                DropError::Refused(DropPepperError::Store(away())).into(),
                UNAVAILABLE,
            ),
            (
                DropError::Secret(SecretError::Store(away())).into(),
                UNAVAILABLE,
            ),
            (
                DropError::Secret(SecretError::Missing(PepperId::default())).into(),
                WRONG_USAGE,
            ),
            (ConfigFaults(Vec::new()).into(), WRONG_USAGE),
            (Usage("what?".to_owned()).into(), WRONG_USAGE),
            (Interrupted { code: INTERRUPTED }.into(), 130),
            (anyhow::anyhow!("else"), FAILED),
        ];
        for (error, code) in cases {
            let shown = format!("{error:?}");
            assert_eq!(code_of(&error), code, "{shown}");
            if code != WRONG_USAGE {
                assert_eq!(
                    code_of(&Err::<(), _>(error).context("more").unwrap_err()),
                    code
                );
            }
        }
    }

    #[test]
    fn codes_are_told_in_their_order() {
        for (n, meaning) in MEANINGS.iter().enumerate() {
            assert_eq!(usize::from(meaning.code), n);
        }
    }
}
