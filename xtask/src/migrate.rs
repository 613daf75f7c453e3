//! `cargo xtask migrate`: making migrations, and applying or checking them.

use std::fs;

use crate::codegen;
use crate::env;
use crate::postgres::Database;
use crate::sh::{self, Failure, Outcome};

/// One for each kind of database. A migration is made in all of them: what one has, the others need too.
const FOLDERS: [&str; 2] = ["migrations/postgres", "migrations/sqlite"];

/// `migrate new <verb_noun> | run | revert | redo | check`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["new", name] => new(name),
        [action @ ("run" | "revert" | "redo")] => on_the_callers_database(action),
        ["check"] => check(&Database::open()?),
        _ => Err(Failure::usage(
            "migrate takes `new <verb_noun>`, `run`, `revert`, `redo` or `check`",
        )),
    }
}

/// Every migration applied, undone and applied again, and each `schema.rs` equal to what its database then holds.
pub(crate) fn check(database: &Database) -> Outcome {
    sh::run(database.lend(&mut codegen::postgres_tool("check")?))?;
    sh::run(&mut codegen::sqlite_tool("check")?)?;
    codegen::check_schemas(database)
}

/// A PostgreSQL; a file of SQLite is brought up to date by the program itself. These change a database that is there to stay, so the caller has to name it.
fn on_the_callers_database(action: &str) -> Outcome {
    if env::var("DATABASE_URL").is_none() {
        return Err(Failure::new(format!(
            "migrate {action} works on the database in DATABASE_URL, which is not set"
        )));
    }
    sh::run(&mut codegen::postgres_tool(action)?)
}

fn new(name: &str) -> Outcome {
    if !is_name(name) {
        return Err(Failure::new(format!(
            "`{name}`: a migration is named verb_noun, in lower case letters, digits and `_`, starting with a letter"
        )));
    }
    let version = timestamp(env::unix_seconds());
    for folder in FOLDERS {
        write_templates(&format!("{folder}/{version}_{name}"))?;
    }
    Ok(())
}

fn write_templates(folder: &str) -> Outcome {
    let path = sh::root().join(folder);
    fs::create_dir_all(&path).map_err(Failure::when(folder))?;
    let files = [
        (
            "up.sql",
            "-- Why this change is made, and what it expects of the rows already there.\n",
        ),
        (
            "down.sql",
            "-- Back to how it was before; say what is lost on the way.\n",
        ),
    ];
    for (file, template) in files {
        fs::write(path.join(file), template).map_err(Failure::when(format!("{folder}/{file}")))?;
        println!("wrote {folder}/{file}");
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// `yyyymmddHHMMSS` in UTC, the form by which migrations are ordered.
fn timestamp(unix_seconds: u64) -> String {
    let (year, month, day) = civil_date(unix_seconds / 86_400);
    let (hour, minute, second) = (
        unix_seconds / 3600 % 24,
        unix_seconds / 60 % 60,
        unix_seconds % 60,
    );
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// The date `days` after 1970-01-01.
///
/// Years are counted from March, so that the leap day is the last of its year, in eras of 400 years, after which the
/// calendar repeats.
fn civil_date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_OF_ERA: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days / DAYS_OF_ERA, days % DAYS_OF_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524
        - day_of_era / (DAYS_OF_ERA - 1))
        / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["create_keys", "a", "add_2nd_index"] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "_keys",
            "2nd",
            "Create_keys",
            "create-keys",
            "a b",
            "../x",
            "schlüssel",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101000000"),
            (951_782_399, "20000228235959"),
            (951_782_400, "20000229000000"),
            (951_868_800, "20000301000000"),
            (1_709_251_199, "20240229235959"),
            (1_735_689_599, "20241231235959"),
            (1_735_689_600, "20250101000000"),
            (4_107_542_400, "21000301000000"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }

    #[test]
    fn wrong_words_are_usage_errors() {
        for line in ["", "up", "new", "new a b", "run now"] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(command(&words).unwrap_err().is_usage(), "{line}");
        }
        assert!(
            !command(&["new".to_owned(), "Bad".to_owned()])
                .unwrap_err()
                .is_usage()
        );
    }
}
