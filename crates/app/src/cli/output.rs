//! What the tools say: a table for people, JSON for scripts.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use comfy_table::{ContentArrangement, Table, presets};
use leadr_auth_domain::text::is_control;
use leadr_auth_domain::{Account, AccountRole, ApiKey, Scope, Scopes, Timestamp, redact_keys};
use serde_json::{Value, json};

/// For whom it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// A person at a terminal.
    Human,
    /// A script.
    Json,
}

impl Output {
    /// Says one thing: its fields a line each, or an object.
    pub(super) fn one<T: Shown>(self, thing: &T) -> io::Result<()> {
        match self {
            Self::Json => json_line(&thing.json()),
            Self::Human => line(&fields(thing)),
        }
    }

    /// Says many things: a row each, or an array.
    pub(super) fn many<T: Shown>(self, things: &[T]) -> io::Result<()> {
        match self {
            Self::Json => json_line(&things.iter().map(Shown::json).collect()),
            Self::Human => {
                let mut table = plain_table();
                table.set_header(T::COLUMNS.iter().map(|name| name.to_uppercase()));
                for thing in things {
                    table.add_row(thing.cells().into_iter().map(|cell| cut(cell, T::WIDEST)));
                }
                line(&table.trim_fmt())
            }
        }
    }

    /// Says a text to people and a value to scripts.
    pub(super) fn either(self, text: &str, value: &Value) -> io::Result<()> {
        match self {
            Self::Json => json_line(value),
            Self::Human => line(text),
        }
    }
}

/// Something that can be said.
pub(super) trait Shown {
    /// The names of its cells.
    const COLUMNS: &[&str];

    /// How many characters a cell of a list has at most.
    const WIDEST: usize = 64;

    /// What a person reads, in the order of the columns.
    fn cells(&self) -> Vec<String>;

    /// What a script reads.
    fn json(&self) -> Value;
}

/// A cell of a list: one that is very long would move all others apart.
fn cut(mut cell: String, widest: usize) -> String {
    if let Some((at, _)) = cell.char_indices().nth(widest) {
        cell.truncate(at);
        cell.push('…');
    }
    cell
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// The fields of a thing, a line each.
pub(super) fn fields<T: Shown>(thing: &T) -> String {
    let mut table = plain_table();
    for (name, value) in T::COLUMNS.iter().zip(thing.cells()) {
        table.add_row([(*name).to_owned(), value]);
    }
    table.trim_fmt()
}

/// A line on standard output. Whoever reads it may have heard enough and gone; what the command did is done all the same,
/// and its exit code says how that went.
pub(super) fn line(text: &str) -> io::Result<()> {
    match line_to_be_read(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// As [`line()`], where it is bad if nobody reads it.
pub(super) fn line_to_be_read(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// A line on standard error: what is wrong, or a prompt. Keys are cut down to their prefix, since what was typed is quoted in such
/// lines. Where it cannot be written the exit code has to do, and there is no panic as with `eprintln!`.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", redact_keys(text));
}

/// A value on a line.
pub(super) fn json_line(value: &Value) -> io::Result<()> {
    line(&json_text(value))
}

/// A value on a line. JSON lets some control characters of old terminals stand as they are, and scripts' output is looked at
/// by people too.
pub(super) fn json_text(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        if c.is_control() {
            // Writing to a String cannot fail.
            let _ = write!(text, "\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

pub(super) fn instant(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

impl Shown for Account {
    const COLUMNS: &[&str] = &[
        "id",
        "name",
        "slug",
        "status",
        "role",
        "key limit",
        "created",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            printable(self.name.as_str()),
            printable(self.slug.as_str()),
            if self.is_deleted() {
                "deleted".to_owned()
            } else {
                self.status.as_str().to_owned()
            },
            role(self.role).to_owned(),
            self.key_limit.keys().to_string(),
            self.created_at.to_string(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "name": self.name.as_str(),
            "slug": self.slug.as_str(),
            "status": self.status.as_str(),
            "key_limit": self.key_limit.keys(),
            "role": role(self.role),
            "created_at": self.created_at.to_string(),
            "updated_at": self.updated_at.to_string(),
            "deleted_at": self.deleted_at.map(|at| at.to_string()),
        })
    }
}

const fn role(role: AccountRole) -> &'static str {
    match role {
        AccountRole::Tenant => "tenant",
        AccountRole::Operator => "operator",
    }
}

/// What a key may be used for.
fn scopes(scopes: &Scopes) -> String {
    let Some(only) = scopes.only() else {
        return "all".to_owned();
    };
    let names: Vec<_> = only.iter().map(|scope| printable(scope.as_str())).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

impl Shown for ApiKey {
    const COLUMNS: &[&str] = &[
        "id",
        "prefix",
        "name",
        "status",
        "scopes",
        "last used",
        "expires",
        "created",
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.to_string(),
            printable(self.key_prefix.as_str()),
            printable(self.name.as_str()),
            if self.is_deleted() {
                "deleted".to_owned()
            } else {
                self.status.to_string()
            },
            scopes(&self.scopes),
            instant(self.last_used_at),
            instant(self.expires_at),
            self.created_at.to_string(),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.id.to_string(),
            "account_id": self.account_id.to_string(),
            "name": self.name.as_str(),
            "prefix": self.key_prefix.as_str(),
            "status": self.status.as_str(),
            "scopes": self.scopes.only().map(|scopes| {
                scopes.iter().map(Scope::as_str).collect::<Vec<_>>()
            }),
            "secret_id": self.pepper_id.as_str(),
            "last_used_at": self.last_used_at.map(|at| at.to_string()),
            "expires_at": self.expires_at.map(|at| at.to_string()),
            "created_at": self.created_at.to_string(),
            "updated_at": self.updated_at.to_string(),
            "deleted_at": self.deleted_at.map(|at| at.to_string()),
        })
    }
}

/// A text of a tenant's choosing, for a terminal: rows of the reference implementation may hold what would move its cursor.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_control(c) { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_of_a_list_has_a_limit() {
        assert_eq!(cut("ü".repeat(64), 64), "ü".repeat(64));
        assert_eq!(cut("ü".repeat(9_000), 64), "ü".repeat(64) + "…");
    }

    #[test]
    fn a_name_cannot_turn_the_line_around() {
        assert_eq!(printable("\u{202e}egnp.live"), "\u{fffd}egnp.live");
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(
            printable("a\u{1b}[2Jb\r\n"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}"
        );
        assert_eq!(printable("Schlüssel 🔑"), "Schlüssel 🔑");
    }
}
