//! Values to put into a store.

use std::time::Duration;

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, ApiKeyStatus, AuditAction, AuditDraft,
    AuditEntry, AuditKey, ChainId, Checkpoint, KeyId, KeyName, Keyring, NodeId, Origin, Pepper,
    PlainKey, Slug, Timestamp, generate_api_key,
};

use crate::listing::{Direction, Period, Sort};
use crate::{
    ActorFilter, AuditPlace, AuditQuery, Audited, Heard, KeyFilter, KeyUse, NodeReport, Signal,
    Stores, Subscription, UsageStore,
};

/// The secret under which [`key`] hashes.
pub const SECRET: &str = "a secret for tests, of 32 bytes and more";

/// The instant `micros` microseconds into a fixed day.
pub fn at(micros: u32) -> Timestamp {
    let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    Timestamp::parse(&format!(
        "2026-03-04T05:{minutes:02}:{seconds:02}.{rest:06}Z"
    ))
    .expect("a fixed day has this instant")
}

/// The key under which [`entry`] seals.
pub fn audit_key() -> AuditKey {
    AuditKey::new([9; AuditKey::BYTES])
}

/// An audit entry of the deployment's chain.
pub fn entry() -> AuditDraft {
    entry_in(ChainId::System)
}

/// An audit entry of a chain.
pub fn entry_in(chain: ChainId) -> AuditDraft {
    AuditDraft::new(
        audit_key(),
        chain,
        at(1),
        AuditAction::KeyCreated,
        Origin::TOOL,
    )
}

/// A checkpoint after an entry, left at `pruned_at`.
pub fn upto(entry: &AuditEntry, pruned_at: Timestamp) -> Checkpoint {
    Checkpoint::new(&audit_key(), entry.chain, entry.seq, entry.hash, pruned_at)
}

/// Lists of a chain, or of all, within the hour that [`at`] knows: the first page and a later one, without a filter, with
/// each by itself, and with several.
pub fn audit_lists(chain: Option<ChainId>) -> Vec<AuditQuery> {
    const MINUTE: u32 = 60_000_000;
    const KEY: KeyId = KeyId::from_random_bytes([1; 16]);
    let filters: [fn(&mut AuditQuery); 9] = [
        |_| {},
        |list| list.key_id = Some(KEY),
        |list| list.actor = Some(ActorFilter::Key(KEY)),
        |list| list.actor = Some(ActorFilter::Tool),
        |list| list.actor = Some(ActorFilter::Server),
        |list| list.action = Some(AuditAction::KeyCreated),
        |list| list.since = Some(at(MINUTE)),
        |list| list.until = Some(at(50 * MINUTE)),
        |list| {
            list.actor = Some(ActorFilter::Key(KEY));
            list.since = Some(at(MINUTE));
            list.until = Some(at(50 * MINUTE));
        },
    ];
    let first = filters.map(|filter| {
        let mut list = AuditQuery::of(chain, 50);
        filter(&mut list);
        list
    });
    let place = AuditPlace {
        at: at(30 * MINUTE),
        chain: chain.unwrap_or(ChainId::System),
        seq: 30_000,
    };
    let later = first.map(|list| AuditQuery {
        after: Some(place),
        ..list
    });
    first.into_iter().chain(later).collect()
}

/// A record that changed, with an entry of the deployment's chain.
pub fn noted<T>(record: T) -> Audited<T> {
    Audited::new(record, entry())
}

/// Records, each with an entry of the deployment's chain.
pub fn all_noted<T: Clone>(records: &[T]) -> Vec<Audited<T>> {
    records.iter().cloned().map(noted).collect()
}

/// The `n`th tenant, made at [`at`]`(n)`.
pub fn account(n: u8) -> Account {
    account_of(n, AccountRole::Tenant)
}

/// The `n`th account, with a role.
pub fn account_of(n: u8, role: AccountRole) -> Account {
    Account::new(
        AccountId::from_random_bytes([n; 16]),
        AccountName::parse(&format!("Account {n}")).expect("a valid name"),
        Slug::parse(&format!("account-{n}")).expect("a valid slug"),
        role,
        at(u32::from(n)),
    )
}

/// The `n`th plain key.
pub fn plain_key(n: u8) -> PlainKey {
    generate_api_key([n; 32])
}

/// The `n`th key, owned by `account`, made at [`at`]`(n)`.
pub fn key(n: u8, account: &Account) -> ApiKey {
    let plain = plain_key(n);
    let pepper = Pepper::new(SECRET).expect("long enough");
    ApiKey::new(
        KeyId::from_random_bytes([n; 16]),
        account.id,
        KeyName::parse(&format!("Key {n}")).expect("a valid name"),
        Keyring::from(pepper).hash(&plain),
        plain.prefix(),
        None,
        at(u32::from(n)),
    )
}

/// The `n`th of any number of keys of an account, made at [`at`]`(n)`.
pub fn numbered_key(n: u32, account: &Account) -> ApiKey {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    let plain = generate_api_key(bytes);
    let mut key = key(1, account);
    key.id = KeyId::from_random_bytes(bytes[..16].try_into().expect("sixteen bytes"));
    key.name = KeyName::parse(&format!("Key {n}")).expect("a valid name");
    key.key_prefix = plain.prefix();
    key.created_at = at(n);
    key.updated_at = at(n);
    key
}

/// The `n`th of `many` accounts, made at [`at`]`(n)`. The first and the last say in their names what they are.
pub fn numbered_account(n: u32, many: u32) -> Account {
    let is_end = n == 0 || n == many - 1;
    let name = format!("Account {n}{}", if is_end { ", an end" } else { "" });
    let mut bytes = [9; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    Account::new(
        AccountId::from_random_bytes(bytes),
        AccountName::parse(&name).expect("a valid name"),
        Slug::parse(&format!("account-{n}")).expect("a valid slug"),
        AccountRole::Tenant,
        at(n),
    )
}

/// Keys of an account that differ in all that lists go by, and some that are the same in much of it.
pub fn listed_keys(owner: &Account) -> Vec<ApiKey> {
    let names = [
        "Zebra", "alpha", "Alpha", "Same", "Same", "Same", "ä", "z_%", "A b",
    ];
    let mut keys: Vec<_> = (1..)
        .zip(names)
        .map(|(n, name)| {
            let mut key = key(n, owner);
            key.name = KeyName::parse(name).expect("a valid name");
            key
        })
        .collect();
    for (n, key) in keys.iter_mut().enumerate() {
        // Not in the order of ids, and three of them at once.
        key.created_at = at([40, 10, 20, 30, 30, 30, 5, 50, 60][n]);
        key.last_used_at = [None, Some(at(70)), Some(at(80))][n % 3];
        key.expires_at = [None, Some(at(100)), Some(at(90)), Some(at(110))][n % 4];
    }
    keys[0].revoke(at(61));
    keys[4].revoke(at(61));
    keys[8].soft_delete(at(62));
    keys
}

/// What a filter is narrowed by.
type Narrowing = Box<dyn Fn(&mut KeyFilter)>;

/// Every filter by itself, several together, and such as nothing passes.
pub fn key_filters(owner: AccountId) -> Vec<KeyFilter> {
    let since = |micros| Period {
        since: Some(at(micros)),
        until: None,
    };
    let until = |micros| Period {
        since: None,
        until: Some(at(micros)),
    };
    let within = Period {
        since: Some(at(20)),
        until: Some(at(40)),
    };
    let some = |text: &str| Some(text.to_owned());
    let prefix = plain_key(3).prefix();
    let filters: Vec<Narrowing> = vec![
        Box::new(|_| {}),
        Box::new(|filter| filter.status = Some(ApiKeyStatus::Revoked)),
        Box::new(|filter| filter.active_only = true),
        Box::new(move |filter| filter.name_contains = some("ALPHA")),
        Box::new(move |filter| filter.name_contains = some("_%")),
        Box::new(move |filter| filter.name_contains = some("Ä")),
        Box::new(move |filter| filter.name_contains = some("")),
        Box::new(move |filter| filter.prefix = some(prefix.as_str())),
        Box::new(move |filter| filter.prefix = some("ldr_")),
        Box::new(move |filter| filter.prefix = some("LDR_")),
        Box::new(move |filter| filter.created = within),
        Box::new(move |filter| filter.created = since(30)),
        Box::new(move |filter| filter.created = until(30)),
        Box::new(move |filter| filter.last_used = since(80)),
        Box::new(move |filter| filter.last_used = until(80)),
        Box::new(move |filter| filter.expires = since(100)),
        Box::new(move |filter| filter.expires = until(100)),
        Box::new(|filter| filter.never_used = true),
        Box::new(move |filter| {
            filter.status = Some(ApiKeyStatus::Active);
            filter.created = within;
            filter.name_contains = some("s");
        }),
        Box::new(move |filter| {
            filter.never_used = true;
            filter.last_used = since(1);
        }),
    ];
    filters
        .into_iter()
        .map(|narrow| {
            let mut filter = KeyFilter::of(owner);
            narrow(&mut filter);
            filter
        })
        .collect()
}

/// Every order.
pub fn key_sorts() -> [Sort<KeyId>; 4] {
    let (up, down) = (Direction::Ascending, Direction::Descending);
    [
        Sort::NEWEST_FIRST,
        Sort::CreatedAt {
            direction: up,
            after: None,
        },
        Sort::Name {
            direction: up,
            after: None,
        },
        Sort::Name {
            direction: down,
            after: None,
        },
    ]
}

/// Everything that is stored of a key, to be compared. Keys themselves have no `==`, because their hash has none.
pub fn fields(key: &ApiKey) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        (
            key.id,
            key.account_id,
            key.name.clone(),
            key.key_hash.expose_hex().to_owned(),
        ),
        (
            key.key_prefix.clone(),
            key.status,
            key.last_used_at,
            key.expires_at,
        ),
        (key.created_at, key.updated_at, key.deleted_at),
        (key.pepper_id.clone(), key.scopes.clone()),
    )
}

/// A node's report, as it is at its tick `number`.
pub fn report(n: u8, number: u64) -> NodeReport {
    NodeReport {
        id: NodeId::from_random_bytes([n; 16]),
        name: format!("node-{n}.example:8000 (\u{1f511})"),
        version: "1.2.3".to_owned(),
        tick: number,
        started_at: at(1),
        seen_at: at(1_000 * u32::try_from(number).unwrap() + u32::from(n)),
        patience: Duration::from_secs(2),
        lease_age: (number > 1).then_some(Duration::from_micros(1_500)),
        lag: (number > 1).then_some(Duration::from_micros(321)),
    }
}

/// What everybody hears when a node reports.
pub fn tick(report: &NodeReport) -> Heard {
    Heard::Signal(Signal::Tick {
        node: report.id,
        number: report.tick,
        patience: report.patience,
    })
}

/// Records uses, and those again that were passed over, since somebody held their keys.
pub async fn record(usage: &dyn UsageStore, uses: &[KeyUse]) {
    let mut left = uses.to_vec();
    loop {
        let passed_over = usage.record(&left).await.unwrap();
        if passed_over.is_empty() {
            return;
        }
        left.retain(|used| passed_over.contains(&used.key_id));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// What is heard up to the tick of a report, which is sent now; without it.
pub async fn heard_until_tick(
    stores: &Stores,
    subscription: &mut Box<dyn Subscription>,
    report: &NodeReport,
) -> Vec<Heard> {
    let tick = tick(report);
    stores.feed.tick(report).await.unwrap();
    let mut all = Vec::new();
    loop {
        let heard = heard(subscription).await;
        if heard == tick {
            return all;
        }
        all.push(heard);
    }
}

/// What a subscription hears next, which has to come.
pub async fn heard(subscription: &mut Box<dyn Subscription>) -> Heard {
    let next = tokio::time::timeout(Duration::from_secs(20), subscription.next());
    next.await.expect("nothing more was heard").unwrap()
}
