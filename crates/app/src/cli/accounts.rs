//! `account …`

use std::process::ExitCode;

use anyhow::bail;
use clap::{Arg, ArgMatches, Command};
use leadr_auth_domain::{
    Access, Account, AccountChange, AccountId, AccountName, AccountStatus, KeyLimit, Slug,
};
use leadr_auth_service::{AccountError, NewAccount, Service};
use uuid::Uuid;

use super::output::Output;
use super::{Tools, Usage, nodes, operator, parsed, text, tool};

pub(super) fn command() -> Command {
    let on_one = |name, about| tool(name, about).arg(account_argument());
    Command::new("account")
        .about("Make, see and change accounts")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            tool("create", "Make an account")
                .arg(
                    Arg::new("name")
                        .long("name")
                        .value_name("TEXT")
                        .required(true)
                        .help("What people call it"),
                )
                .arg(
                    Arg::new("slug")
                        .long("slug")
                        .value_name("SLUG")
                        .required(true)
                        .help("What addresses call it, as acme-inc"),
                )
                .arg(
                    Arg::new("key-limit")
                        .long("key-limit")
                        .value_name("N")
                        .help("How many live keys it may have [default: 1000]"),
                ),
        )
        .subcommand(tool("list", "List the accounts, newest first"))
        .subcommand(on_one("show", "Show an account"))
        .subcommand(on_one("suspend", "Stop all of an account's keys").arg(nodes::wait_flag()))
        .subcommand(on_one(
            "activate",
            "Let a suspended account's keys work again",
        ))
        .subcommand(
            on_one(
                "delete",
                "Delete an account; its keys stop, and it can be restored",
            )
            .arg(nodes::wait_flag()),
        )
        .subcommand(
            on_one("limit", "Say how many live keys an account may have").arg(
                Arg::new("keys")
                    .value_name("N")
                    .required(true)
                    .help("So many; where it has more, they stay"),
            ),
        )
        .subcommand(on_one(
            "restore",
            "Bring a deleted account back (by its id)",
        ))
}

pub(super) fn account_argument() -> Arg {
    Arg::new("account")
        .value_name("ACCOUNT")
        .required(true)
        .help("An account's id or slug")
}

pub(super) async fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let Some((action, matches)) = matches.subcommand() else {
        bail!(Usage("account needs a command".to_owned()));
    };
    let Tools { service, out } = Tools::open(matches).await?;
    match action {
        "create" => {
            let new = NewAccount {
                name: parsed(matches, "--name", AccountName::parse)?,
                slug: parsed(matches, "--slug", Slug::parse)?,
                key_limit: key_limit(matches, "key-limit")?,
            };
            out.one(&service.create_account(&operator()?, new).await?)?;
        }
        "list" => out.many(&service.list_accounts(Access::All).await?)?,
        "show" => out.one(&find(&service, text(matches, "account")?).await?)?,
        "restore" => restore(&service, out, text(matches, "account")?).await?,
        action => {
            let change = match action {
                "suspend" => AccountChange {
                    status: Some(AccountStatus::Suspended),
                    ..AccountChange::default()
                },
                "activate" => AccountChange {
                    status: Some(AccountStatus::Active),
                    ..AccountChange::default()
                },
                "limit" => AccountChange {
                    key_limit: key_limit(matches, "keys")?,
                    ..AccountChange::default()
                },
                "delete" => AccountChange {
                    deleted: Some(true),
                    ..AccountChange::default()
                },
                other => bail!(Usage(format!("no command `account {other}`"))),
            };
            let account = find(&service, text(matches, "account")?).await?;
            let onlooker = nodes::look_on(matches, &service).await?;
            let by = operator()?;
            out.one(&service.update_account(&by, account.id, &change).await?)?;
            nodes::wait_for_all(&service, onlooker).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How many keys, where that is said.
fn key_limit(matches: &ArgMatches, name: &str) -> anyhow::Result<Option<KeyLimit>> {
    let Some(said) = matches.get_one::<String>(name) else {
        return Ok(None);
    };
    let limit = said.parse().ok().and_then(KeyLimit::new);
    let fault = || {
        Usage(format!(
            "{name}: is not a whole number from 0 to {}",
            KeyLimit::MAX
        ))
    };
    limit.map(Some).ok_or_else(|| fault().into())
}

/// A deleted account's slug may be another one's by now, so that its id has to be said.
async fn restore(service: &Service, out: Output, named: &str) -> anyhow::Result<()> {
    let Ok(id) = Uuid::parse_str(named) else {
        bail!(Usage(
            "account: restoring needs the account's id, since its slug may be taken".to_owned()
        ));
    };
    let change = AccountChange {
        deleted: Some(false),
        ..AccountChange::default()
    };
    let id = AccountId::new(id);
    Ok(out.one(&service.update_account(&operator()?, id, &change).await?)?)
}

/// The live account with this id or slug. No slug is a UUID with hyphens and a UUID may be a slug, so ids are tried first.
pub(super) async fn find(service: &Service, named: &str) -> anyhow::Result<Account> {
    if let Ok(id) = Uuid::parse_str(named) {
        match service.account(Access::All, AccountId::new(id)).await {
            Err(AccountError::NotFound) => {}
            found => return Ok(found?),
        }
    }
    let Ok(slug) = Slug::parse(named) else {
        bail!(Usage(format!(
            "account: `{}` is neither an id nor a slug",
            leadr_auth_domain::redact_keys(named)
        )));
    };
    Ok(service.account_by_slug(&operator()?, &slug).await?)
}
