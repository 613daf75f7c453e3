//! `key …`, `operator new-key`, `generate-key`

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use leadr_auth_domain::{
    API_KEY_BYTES, Access, ApiKey, ApiKeyStatus, KeyId, KeyName, KeyPrefix, MalformedKey, PlainKey,
    Scope, ScopeSet, Timestamp, Verdict, generate_api_key, redact_keys,
};
use leadr_auth_ports::Entropy as _;
use leadr_auth_service::{IssuedKey, KeyFilter, NewKey, Service};
use serde_json::{Value, json};
use uuid::Uuid;

use super::output::{Output, Shown, complain, fields, json_line, json_text, line, line_to_be_read};
use super::{
    Tools, Usage, accounts, everything, exit, nodes, operator, output, parsed, text, tool,
};
use crate::system::OsEntropy;

pub(super) fn command() -> Command {
    let on_one = |name, about| tool(name, about).arg(key_argument());
    let account = || {
        Arg::new("account")
            .long("account")
            .value_name("ACCOUNT")
            .required(true)
            .help("The account's id or slug")
    };
    Command::new("key")
        .about("Make, see, change and verify keys")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            tool("create", "Make a key, and show it this once")
                .arg(account())
                .arg(Arg::new("name").long("name").value_name("TEXT").required(true).help("What people call it"))
                .arg(
                    Arg::new("expires-at")
                        .long("expires-at")
                        .value_name("TIME")
                        .help("From when on it no longer works, as 2027-01-31T00:00:00Z [default: never]"),
                )
                .arg(
                    Arg::new("scope")
                        .long("scope")
                        .value_name("SCOPE")
                        .action(ArgAction::Append)
                        .help("Something that it may be used for, as keys:verify or docs:read; once for each [default: all that its account may]"),
                ),
        )
        .subcommand(
            tool("list", "List an account's keys, newest first").arg(account()).arg(
                Arg::new("status")
                    .long("status")
                    .value_parser(PossibleValuesParser::new(["active", "revoked"]))
                    .help("Only those of this status"),
            ),
        )
        .subcommand(on_one("show", "Show a key's record"))
        .subcommand(on_one("revoke", "Stop a key").arg(nodes::wait_flag()))
        .subcommand(on_one("reactivate", "Let a revoked key work again"))
        .subcommand(on_one("delete", "Delete a key; it stops, and can be restored").arg(nodes::wait_flag()))
        .subcommand(on_one("restore", "Bring a deleted key back"))
        .subcommand(
            on_one("rename", "Give a key another name")
                .arg(Arg::new("name").value_name("NAME").required(true).help("The new name")),
        )
        .subcommand(tool(
            "verify",
            "Say whether the key on standard input is valid, and whose it is; this is no use of it",
        ))
}

fn key_argument() -> Arg {
    Arg::new("key").value_name("KEY").required(true).help(
        "A key's id, or its first 14 characters, or - to read the whole key from standard input",
    )
}

/// Which key is meant.
enum Named {
    Id(KeyId),
    Prefix(KeyPrefix),
}

impl Named {
    fn parse(text: &str) -> anyhow::Result<Self> {
        if text == "-" {
            return Ok(Self::Prefix(key_from_standard_input()?.prefix()));
        }
        if let Ok(id) = Uuid::parse_str(text) {
            return Ok(Self::Id(KeyId::new(id)));
        }
        if PlainKey::parse(text).is_ok() {
            // It has been seen by everybody who can list processes, if it was a secret until now.
            bail!(Usage(format!(
                "key: a whole key does not belong on a command line; its first 14 characters do ({}), or - and the key \
                 on standard input",
                redact_keys(text)
            )));
        }
        match KeyPrefix::parse(text) {
            Ok(prefix) if text.chars().count() == KeyPrefix::LEN => Ok(Self::Prefix(prefix)),
            Ok(_) | Err(_) => bail!(Usage(format!(
                "key: `{}` is neither an id nor the first 14 characters of a key",
                redact_keys(text)
            ))),
        }
    }

    async fn id(&self, service: &Service) -> anyhow::Result<KeyId> {
        Ok(match self {
            Self::Id(id) => *id,
            Self::Prefix(prefix) => service.key_by_prefix(Access::All, prefix).await?.id,
        })
    }

    /// The record, deleted or not where it is named by its prefix.
    async fn record(&self, service: &Service) -> anyhow::Result<ApiKey> {
        Ok(match self {
            Self::Id(id) => service.key(Access::All, *id).await?,
            Self::Prefix(prefix) => service.key_by_prefix(Access::All, prefix).await?,
        })
    }
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let Some((action, matches)) = matches.subcommand() else {
        bail!(Usage("key needs a command".to_owned()));
    };
    match action {
        "create" => return create(matches).await,
        "list" => return list(matches).await,
        "verify" => return verify(matches).await,
        _ => {}
    }
    let named = Named::parse(text(matches, "key")?)?;
    let name = match action {
        "rename" => Some(parsed(matches, "name", KeyName::parse)?),
        _ => None,
    };
    let Tools { service, out } = Tools::open(matches).await?;
    if action == "show" {
        out.one(&named.record(&service).await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let id = named.id(&service).await?;
    let onlooker = nodes::look_on(matches, &service).await?;
    let all = &everything();
    let changed = match (action, name) {
        ("revoke", _) => service.revoke_key(all, id).await?,
        ("reactivate", _) => service.reactivate_key(all, id).await?,
        ("delete", _) => service.soft_delete_key(all, id).await?,
        ("restore", _) => service.restore_key(all, id).await?,
        ("rename", Some(name)) => service.rename_key(all, id, name).await?,
        (other, _) => bail!(Usage(format!("no command `key {other}`"))),
    };
    out.one(&changed)?;
    nodes::wait_for_all(&service, onlooker).await?;
    Ok(ExitCode::SUCCESS)
}

async fn create(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let name = parsed(matches, "--name", KeyName::parse)?;
    let expires_at = match matches.get_one::<String>("expires-at") {
        Some(_) => Some(parsed(matches, "--expires-at", Timestamp::parse)?),
        None => None,
    };
    let scopes = match matches.get_many::<String>("scope") {
        Some(texts) => Some(scopes(texts)?),
        None => None,
    };
    let Tools { service, out } = Tools::open_to_issue(matches).await?;
    let account = accounts::find(&service, text(matches, "account")?).await?;
    let new = NewKey {
        name,
        expires_at,
        scopes,
    };
    let issued = service.issue_key(&everything(), account.id, new).await?;
    show_issued(out, &issued, "Shown this once", &[])?;
    Ok(ExitCode::SUCCESS)
}

/// A scope may have been mistaken for a place for a key, so none is repeated that is not one.
fn scopes<'a>(texts: impl Iterator<Item = &'a String>) -> anyhow::Result<ScopeSet> {
    let mut scopes = Vec::new();
    for text in texts {
        let scope = Scope::parse(text);
        scopes.push(scope.map_err(|fault| Usage(format!("--scope: {fault}")))?);
    }
    ScopeSet::new(scopes).map_err(|fault| Usage(format!("--scope: {fault}")).into())
}

/// A key that was just made, the one time that it is shown. Where it cannot be, it is stored all the same and of no use.
fn show_issued(
    out: Output,
    issued: &IssuedKey,
    what: &str,
    more: &[(&str, Value)],
) -> anyhow::Result<()> {
    let IssuedKey { key, plain_key } = issued;
    let unseen = || {
        let id = key.id;
        format!(
            "the key {id} was made and could not be shown; make another, and stop this one: leadr-auth key revoke {id}"
        )
    };
    if out == Output::Human {
        let text = format!("{what}:\n\n    {}\n\n{}", plain_key.expose(), fields(key));
        return line_to_be_read(&text).with_context(unseen);
    }
    let mut value = key.json();
    if let Value::Object(fields) = &mut value {
        fields.insert("key".to_owned(), plain_key.expose().into());
        for (name, value) in more {
            fields.insert((*name).to_owned(), value.clone());
        }
    }
    line_to_be_read(&json_text(&value)).with_context(unseen)
}

async fn list(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let Tools { service, out } = Tools::open(matches).await?;
    let account = accounts::find(&service, text(matches, "account")?).await?;
    let status = match matches.get_one::<String>("status").map(String::as_str) {
        Some("revoked") => Some(ApiKeyStatus::Revoked),
        Some(_) => Some(ApiKeyStatus::Active),
        None => None,
    };
    let filter = KeyFilter {
        status,
        ..KeyFilter::of(account.id)
    };
    out.many(&service.list_keys(Access::All, filter).await?)?;
    Ok(ExitCode::SUCCESS)
}

async fn verify(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let typed = typed_key()?;
    let Tools { service, out } = Tools::open_to_compare(matches).await?;
    let key = match typed {
        Ok(key) => key,
        Err(fault) => {
            out.either(
                &format!("this is no key: {fault}"),
                &json!({"valid": false, "verdict": "malformed", "key": null, "account": null}),
            )?;
            return Ok(ExitCode::from(exit::KEY_REFUSED));
        }
    };
    let (verdict, record) = service.inspect_key(&operator()?, &key).await?;
    let word = word(verdict);
    if out == Output::Human {
        line(&format!("{} is {word}", key.redacted()))?;
        if let Some(record) = &record {
            line("")?;
            out.one(&record.key)?;
            line("\nof the account\n")?;
            out.one(&record.account)?;
        }
    } else {
        json_line(&json!({
            "valid": verdict == Verdict::Valid,
            "verdict": word,
            "key": record.as_ref().map(|record| record.key.json()),
            "account": record.as_ref().map(|record| record.account.json()),
        }))?;
    }
    Ok(match verdict {
        Verdict::Valid => ExitCode::SUCCESS,
        _ => ExitCode::from(exit::KEY_REFUSED),
    })
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Unknown => "unknown",
        Verdict::Deleted => "deleted",
        Verdict::Revoked => "revoked",
        Verdict::Expired => "expired",
        Verdict::AccountDeleted => "account_deleted",
        Verdict::AccountSuspended => "account_suspended",
    }
}

/// How much of standard input is read for a key: more than any has, with room for what was pasted by mistake.
const MAX_INPUT: u64 = 4096;

fn key_from_standard_input() -> anyhow::Result<PlainKey> {
    typed_key()?.map_err(|fault| Usage(format!("standard input: {fault}")).into())
}

/// The one line of standard input. Never an argument, since every user of a machine can read its command lines.
fn typed_key() -> anyhow::Result<Result<PlainKey, MalformedKey>> {
    let input = io::stdin();
    if input.is_terminal() {
        complain("The key, and Enter:");
    }
    let mut input = io::BufReader::new(input.lock().take(MAX_INPUT));
    let mut typed = Vec::new();
    input
        .read_until(b'\n', &mut typed)
        .context("no key on standard input")?;
    // What came with the first line: whoever has more to say may not have ended yet.
    if !input.buffer().trim_ascii().is_empty() {
        bail!(Usage(
            "standard input: one key on one line, and nothing after it".to_owned()
        ));
    }
    // What is no text is no key either, and is told so.
    let typed = String::from_utf8_lossy(&typed);
    if typed.trim().is_empty() {
        bail!(Usage("standard input: there is no key".to_owned()));
    }
    Ok(PlainKey::parse(typed.trim()))
}

pub(super) async fn new_operator_key(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let Some(("new-key", matches)) = matches.subcommand() else {
        bail!(Usage("operator needs a command".to_owned()));
    };
    let revoke = matches.get_flag("revoke-others");
    let Tools { service, out } = Tools::open_to_issue(matches).await?;
    let new = service.new_operator_key(revoke).await?;
    let others = if revoke { "revoked" } else { "others" };
    let more = [(others, new.others.iter().map(Shown::json).collect())];
    show_issued(
        out,
        &new.issued,
        "The new operator key, shown this once",
        &more,
    )?;
    if out == Output::Human && !new.others.is_empty() {
        line(if revoke {
            "\nThese were revoked:\n"
        } else {
            "\nThese still work; `leadr-auth key revoke ID` stops one, and --revoke-others stops all:\n"
        })?;
        out.many(&new.others)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn generate(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let mut bytes = [0; API_KEY_BYTES];
    OsEntropy::new()
        .fill(&mut bytes)
        .context("no key can be made")?;
    let key = generate_api_key(bytes);
    output(matches).either(
        key.expose(),
        &json!({"key": key.expose(), "prefix": key.prefix().as_str()}),
    )?;
    Ok(ExitCode::SUCCESS)
}
