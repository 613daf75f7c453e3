//! The compose files. What the format allows is for `docker compose config`; these are faults that it does not mind.
//!
//! Read line by line, which is enough for YAML written in the usual way, and needs no parser: one key or item a line.
//! A new rule is a few lines in [`faults`].

use super::{Settings, is_pinned, is_secret};

/// `key: value`, or `- value` with an empty key, and the keys above it.
struct Entry<'a> {
    above: Vec<&'a str>,
    key: &'a str,
    value: &'a str,
}

fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut open: Vec<(usize, &str)> = Vec::new();
    let mut entries = Vec::new();
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let item = content.strip_prefix("- ");
        // A list may stand as far left as its key.
        open.retain(|(above, _)| *above < indent || (item.is_some() && *above == indent));
        let above = open.iter().map(|(_, key)| *key).collect();
        let (key, value) = match (item, content.split_once(':')) {
            (Some(item), _) => ("", item),
            (None, Some((key, value))) => (key, value.trim()),
            (None, None) => ("", content),
        };
        if item.is_none() {
            open.push((indent, key));
        }
        entries.push(Entry {
            above,
            key,
            value: unquoted(value),
        });
    }
    entries
}

fn unquoted(value: &str) -> &str {
    match value.split_once(" #") {
        Some((value, _)) if !value.starts_with(['"', '\'']) => value.trim(),
        _ => value.trim_matches(['"', '\'']),
    }
}

/// What is wrong with a compose file.
pub(super) fn faults(text: &str, settings: &Settings) -> Vec<String> {
    let entries = entries(text);
    let mut faults = Vec::new();
    for entry in &entries {
        for (name, default) in interpolations(entry.value) {
            faults.extend(unknown(name, settings));
            if is_secret(name) && !default.is_empty() {
                faults.push(format!("{name} has a default, which somebody will keep"));
            }
        }
        match (entry.above.as_slice(), entry.key) {
            (["services", _], "image") if !is_pinned(entry.value) => {
                faults.push(format!(
                    "image {}, which is not a version's tag",
                    entry.value
                ));
            }
            (["services", service], "environment" | "ports") if !entry.value.is_empty() => {
                faults.push(format!(
                    "{} of {service}: one a line, or it cannot be checked",
                    entry.key
                ));
            }
            (["services", _, "environment"], _) => {
                let (name, value) = match entry.key {
                    "" => entry.value.split_once('=').unwrap_or((entry.value, "")),
                    key => (key, entry.value),
                };
                faults.extend(unknown(name, settings));
                if is_literal_secret(name, value) {
                    faults.push(format!("{name} holds a secret as it is"));
                }
            }
            (["services", service, "ports"], _) if !entry.value.starts_with("127.0.0.1:") => {
                faults.push(format!(
                    "port {} of {service} is open to other machines",
                    entry.value
                ));
            }
            _ => {}
        }
    }
    faults.extend(stop_faults(&entries, settings));
    faults
}

/// `${NAME}`, `${NAME:?why}`, `${NAME:-default}`: each name with its default.
fn interpolations(value: &str) -> Vec<(&str, &str)> {
    let inside = value
        .split("${")
        .skip(1)
        .filter_map(|rest| rest.split_once('}'));
    inside
        .map(|(inside, _)| {
            let end = inside
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(inside.len());
            let (name, rest) = inside.split_at(end);
            let default = rest.trim_start_matches(':').strip_prefix('-');
            (name, default.unwrap_or_default())
        })
        .collect()
}

fn unknown(name: &str, settings: &Settings) -> Option<String> {
    if name.starts_with("POSTGRES_") {
        None
    } else {
        settings.unknown(name)
    }
}

/// Whether a secret is written down, alone or as the password of a URL.
fn is_literal_secret(name: &str, value: &str) -> bool {
    let is_literal = |secret: &str| !secret.is_empty() && !secret.starts_with("${");
    let password = value.split_once("://").and_then(|(_, rest)| {
        // A message inside `${…}` has no part in the URL, and may hold anything but a brace.
        let authority = rest.rsplit_once('@').map_or("", |(authority, _)| authority);
        authority.split_once(':').map(|(_, password)| password)
    });
    (is_secret(name) && is_literal(value)) || password.is_some_and(is_literal)
}

/// Every service of leadr-auth's image gets the time it may take to end.
fn stop_faults(entries: &[Entry<'_>], settings: &Settings) -> Vec<String> {
    let of = |service: &str, key: &str| {
        let is_it = |entry: &&Entry<'_>| entry.key == key && entry.above == ["services", service];
        entries.iter().find(is_it).map(|entry| entry.value)
    };
    let services = entries.iter().filter(|entry| entry.above == ["services"]);
    let ours = services.filter(|entry| {
        of(entry.key, "image").is_some_and(|image| image.starts_with("leadr-auth:"))
    });
    ours.filter_map(|entry| {
        let what = format!("stop_grace_period of {}", entry.key);
        settings.stop_fault(&what, of(entry.key, "stop_grace_period"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::settings;
    use super::*;

    const GOOD: &str = r#"
services:
  # The service.
  leadr-auth:
    image: leadr-auth:local # built here
    environment:
      DATABASE_URL: "postgres://leadr:${POSTGRES_PASSWORD:?set it}@postgres:5432/leadr"
      API_KEY_SECRET: "${API_KEY_SECRET:?set it: now}"
      LISTEN: 0.0.0.0:8000
    ports:
      - "127.0.0.1:8000:8000"
    cap_drop: [ALL]
    stop_grace_period: 60s

  postgres:
    image: postgres:17-bookworm
    environment:
    - POSTGRES_PASSWORD=${POSTGRES_PASSWORD}
    - POSTGRES_DB=leadr
"#;

    #[test]
    fn a_good_file_passes() {
        assert_eq!(faults(GOOD, &settings()), [""; 0]);
    }

    #[test]
    fn each_fault_is_found() {
        for (from, to, what) in [
            ("postgres:17-bookworm", "postgres", "image"),
            ("postgres:17-bookworm", "postgres:latest", "image"),
            ("LISTEN:", "LISTEN_ON:", "LISTEN_ON"),
            ("POSTGRES_DB=", "POSTGRE_DB=", "POSTGRE_DB"),
            ("0.0.0.0:8000", "${HOST:-0.0.0.0}:8000", "HOST"),
            ("${API_KEY_SECRET:?set it: now}", "hunter2", "as it is"),
            (
                "${API_KEY_SECRET:?set it: now}",
                "${API_KEY_SECRET:-hunter2}",
                "default",
            ),
            ("${POSTGRES_PASSWORD:?set it}@", "hunter2@", "as it is"),
            ("=${POSTGRES_PASSWORD}", "=hunter2", "as it is"),
            (
                "=${POSTGRES_PASSWORD}",
                "=${POSTGRES_PASSWORD-hunter2}",
                "default",
            ),
            ("127.0.0.1:8000:8000", "8000:8000", "open"),
            ("60s", "35s", "stop_grace_period"),
            ("    stop_grace_period: 60s\n", "", "stop_grace_period"),
            (
                "    environment:\n    - POSTGRES_PASSWORD=${POSTGRES_PASSWORD}\n    - POSTGRES_DB=leadr\n",
                "    environment: { POSTGRES_PASSWORD: hunter2 }\n",
                "one a line",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let found = faults(&GOOD.replace(from, to), &settings());
            assert_eq!(found.len(), 1, "{to}: {found:?}");
            assert!(found[0].contains(what), "{to}: {found:?}");
        }
    }

    #[test]
    fn a_message_is_no_default() {
        assert_eq!(
            interpolations("a${A:?x-y}b${B:-c}d${E}f${G-h}"),
            [("A", ""), ("B", "c"), ("E", ""), ("G", "h")]
        );
    }

    #[test]
    fn urls_without_a_password_hold_no_secret() {
        for url in [
            "sqlite:/data/x",
            "postgres://leadr@db/leadr",
            "https://x:1/y",
        ] {
            assert!(!is_literal_secret("DATABASE_URL", url), "{url}");
        }
    }
}
