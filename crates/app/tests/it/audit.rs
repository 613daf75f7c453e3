//! `audit …`: a trail that somebody has tampered with is told from one that was pruned, and what tools do is in it.

use std::collections::BTreeSet;

use leadr_auth_postgres::testing::TestDatabase;
use serde_json::{Value, json};

use crate::refusals::change;
use crate::support::{ANYWHERE, Ended, PATIENT, Place, Running, has_postgres, listed_audit};

const RING: &str = r#"{"current": "only", "secrets": [{"id": "only", "secret": "a secret for tests, of 32 bytes and more"}]}"#;

/// A deployment, and a way to its tables behind its back.
struct Deployment<'a> {
    place: Place,
    url: &'a str,
    database: Option<&'a TestDatabase>,
    operator: String,
}

/// What is wrong: whose chain it is, and what.
type Faults = BTreeSet<(Option<String>, String)>;

impl<'a> Deployment<'a> {
    /// A server was started on it once, and ended.
    fn new(database: Option<&'a TestDatabase>) -> Self {
        let url = database.map_or("sqlite:keys.db", TestDatabase::url);
        let place = Place::new();
        place.write("ring", RING);
        let mut new = Self {
            place,
            url,
            database,
            operator: String::new(),
        };
        let mut running = new.spawn();
        running.base();
        new.operator = running.first_key();
        running.end("-TERM");
        new
    }

    fn environment(&self) -> [(&str, &str); 4] {
        [
            ANYWHERE,
            PATIENT,
            ("DATABASE_URL", self.url),
            ("API_KEY_KEYRING_FILE", "ring"),
        ]
    }

    fn spawn(&self) -> Running {
        self.place.serve(&[], &self.environment())
    }

    fn tool(&self, code: i32, arguments: &[&str]) -> Ended {
        self.place.run(arguments, &self.environment()).with(code)
    }

    /// An account with four entries in its trail.
    fn account(&self, slug: &str) -> String {
        let arguments = [
            "account", "create", "--name", slug, "--slug", slug, "--json",
        ];
        let made = self.tool(0, &arguments).json();
        for action in ["suspend", "activate", "suspend"] {
            self.tool(0, &["account", action, slug]);
        }
        made["id"].as_str().unwrap().to_owned()
    }

    /// The id of a chain as a literal.
    fn literal(&self, chain: &str) -> String {
        match self.database {
            Some(_) => format!("'{chain}'"),
            None => format!("x'{}'", chain.replace('-', "")),
        }
    }

    /// Does this to the entries of a chain that have a number, in SQL.
    async fn tamper(&self, sql: &str, chain: &str, seq: u32) {
        let chain = self.literal(chain);
        self.change(&format!("{sql} WHERE chain = {chain} AND seq = {seq}"))
            .await;
    }

    async fn change(&self, sql: &str) {
        match self.database {
            Some(database) => database.client().await.batch_execute(sql).await.unwrap(),
            None => change(&self.place.path("keys.db"), sql),
        }
    }

    /// What scripts are told.
    fn verified(&self, code: i32) -> Faults {
        let told = self.tool(code, &["audit", "verify", "--json"]).json();
        let one = |fault: &Value| {
            let account = fault["account_id"].as_str().map(str::to_owned);
            (account, fault["what"].as_str().unwrap().to_owned())
        };
        told["faults"].as_array().unwrap().iter().map(one).collect()
    }

    /// Sees that these things are wrong with the trail and no others, and that both people and scripts are told.
    fn is_wrong(&self, expected: &Faults) {
        let code = if expected.is_empty() { 0 } else { 8 };
        assert_eq!(self.verified(code), *expected);
        let human = self.tool(code, &["audit", "verify"]);
        for (account, what) in expected {
            let whose = match account {
                Some(id) => format!("account {id}"),
                None => "the deployment".to_owned(),
            };
            let line = format!("{whose}: {what}\n");
            assert!(human.err.contains(&line), "{line}: {}", human.err);
        }
        let summary = match expected.len() {
            0 => "nothing is wrong".to_owned(),
            1 => "1 thing is wrong".to_owned(),
            n => format!("{n} things are wrong"),
        };
        assert!(human.out.contains(&summary), "{}", human.out);
    }

    /// The whole trail, as the operator sees it.
    async fn listed(&self, query: &str) -> Vec<Value> {
        let mut running = self.spawn();
        let base = running.base();
        running.wait_for("ready");
        let entries = listed_audit(&base, &self.operator, query).await;
        running.end("-TERM");
        entries
    }
}

fn fault(account: &str, what: &str) -> (Option<String>, String) {
    (Some(account.to_owned()), what.to_owned())
}

async fn tampering_is_told(database: Option<&TestDatabase>) {
    let it = Deployment::new(database);
    let accounts = [
        "altered", "middle", "last", "swapped", "vanished", "headless", "foreign",
    ];
    let [altered, middle, last, swapped, vanished, headless, foreign] =
        accounts.map(|slug| it.account(slug));
    let untouched = it.account("untouched");
    let mut faults = Faults::new();
    it.is_wrong(&faults);

    let set = "UPDATE audit_entries SET after = replace(after, 'suspended', 'activated')";
    it.tamper(set, &altered, 2).await;
    faults.insert(fault(&altered, "entry 2 was altered"));
    it.is_wrong(&faults);

    it.tamper("DELETE FROM audit_entries", &middle, 3).await;
    faults.insert(fault(&middle, "entry 3 is missing"));
    it.is_wrong(&faults);

    it.tamper("DELETE FROM audit_entries", &last, 4).await;
    faults.insert(fault(&last, "entry 4 is missing"));
    it.is_wrong(&faults);

    for (from, to) in [(2, 99), (3, 2), (99, 3)] {
        let set = format!("UPDATE audit_entries SET seq = {to}");
        it.tamper(&set, &swapped, from).await;
    }
    faults.insert(fault(&swapped, "entry 2 was altered"));
    faults.insert(fault(&swapped, "entry 3 was altered"));
    faults.insert(fault(&swapped, "entry 4 does not follow the one before it"));
    it.is_wrong(&faults);

    let chain = it.literal(&vanished);
    it.change(&format!(
        "DELETE FROM audit_entries WHERE chain = {chain}; DELETE FROM audit_heads WHERE chain = {chain}"
    ))
    .await;
    let what = "there is no entry of its making";
    faults.insert(fault(&vanished, what));
    it.is_wrong(&faults);

    let chain = it.literal(&headless);
    it.change(&format!("DELETE FROM audit_heads WHERE chain = {chain}"))
        .await;
    faults.insert(fault(&headless, "the record of the chain's end is missing"));
    it.is_wrong(&faults);

    let (from, to) = (it.literal(&untouched), it.literal(&foreign));
    it.tamper("DELETE FROM audit_entries", &foreign, 4).await;
    it.change(&format!(
        "INSERT INTO audit_entries (chain, seq, at, action, actor, after, before, previous, hash)
         SELECT {to}, seq, at, action, actor, after, before, previous, hash FROM audit_entries
         WHERE chain = {from} AND seq = 4"
    ))
    .await;
    faults.insert(fault(&foreign, "entry 4 was altered"));
    it.is_wrong(&faults);

    // A change is still made and written down, and what was wrong does not go away by it.
    for slug in &accounts {
        it.tool(0, &["account", "activate", slug]);
    }
    let told = it.tool(8, &["audit", "verify", "--json"]).json();
    for (account, what) in &faults {
        let account = account.as_ref().unwrap();
        let of = told["faults"].as_array().unwrap().iter();
        let of: Vec<_> = of
            .filter(|fault| fault["account_id"] == **account)
            .collect();
        let is_told = of.iter().any(|fault| fault["what"] == **what);
        // Its end is there again; the number that was left out for it tells of it for ever.
        let was_mended = *account == headless && of[0]["what"] == "entry 5 is missing";
        assert!(is_told || was_mended, "{account}: {what}: {of:?}");
    }

    it.tamper(
        "UPDATE audit_heads SET seq = 1",
        "00000000-0000-0000-0000-000000000000",
        1,
    )
    .await;
    it.change("UPDATE audit_heads SET seq = seq + 1").await;
    let told = it.tool(8, &["audit", "verify"]);
    told.says(&["the deployment: the record of the chain's end was altered"]);
}

#[tokio::test]
async fn a_file_whose_trail_was_tampered_with_is_told() {
    tampering_is_told(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_trail_was_tampered_with_is_told() {
    if !has_postgres("a_database_whose_trail_was_tampered_with_is_told") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    tampering_is_told(Some(&database)).await;
}

/// Whatever an entry says is sealed.
async fn every_column_is_sealed(database: Option<&TestDatabase>) {
    let it = Deployment::new(database);
    let mut faults = Faults::new();
    let id = it.literal("01010101-0101-4101-8101-010101010101");
    let (later, hash) = match database {
        Some(_) => ("at + interval '1 microsecond'", r"'\x00'".to_owned()),
        None => ("at + 1", "x'00'".to_owned()),
    };
    for (column, value) in [
        ("at", later),
        ("action", "'account.activated'"),
        ("actor", "'server'"),
        ("actor_key_id", &id),
        ("actor_account_id", &id),
        ("request_id", "'1'"),
        ("client", "'127.0.0.1'"),
        ("key_id", &id),
        ("before", "NULL"),
        ("after", "after || ' '"),
        ("previous", &hash),
        ("hash", &hash),
    ] {
        let account = it.account(&column.replace('_', "-"));
        let set = format!("UPDATE audit_entries SET {column} = {value}");
        it.tamper(&set, &account, 2).await;
        faults.insert(fault(&account, "entry 2 was altered"));
    }
    // Where an entry cannot be read at all, there is nothing that the next one could follow.
    let told = it.verified(8);
    let (further, told): (Faults, Faults) = told
        .into_iter()
        .partition(|(_, what)| what == "entry 3 does not follow the one before it");
    assert_eq!(told, faults);
    assert!((1..=4).contains(&further.len()), "{further:?}");
}

#[tokio::test]
async fn every_column_of_an_entry_in_a_file_is_sealed() {
    every_column_is_sealed(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_column_of_an_entry_in_a_database_is_sealed() {
    if !has_postgres("every_column_of_an_entry_in_a_database_is_sealed") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    every_column_is_sealed(Some(&database)).await;
}

async fn a_pruned_trail_is_whole(database: Option<&TestDatabase>) {
    let it = Deployment::new(database);
    let (older, newer) = (it.account("older"), it.account("newer"));
    let before = it.listed("").await;
    let of = |entries: &[Value], account: &str| -> Vec<u64> {
        let of = entries
            .iter()
            .filter(|entry| entry["account_id"] == account);
        of.map(|entry| entry["seq"].as_u64().unwrap()).collect()
    };
    assert_eq!(of(&before, &older), [4, 3, 2, 1]);
    let third = before
        .iter()
        .find(|entry| entry["account_id"] == newer && entry["seq"] == 3);
    let time = third.unwrap()["at"].as_str().unwrap();
    for wrong in ["yesterday", "2026-01-31", "2026-01-31T00:00:00", ""] {
        it.tool(2, &["audit", "prune", "--before", wrong])
            .says(&["--before: "]);
    }
    it.tool(2, &["audit", "prune"]).says(&["--before"]);
    assert_eq!(it.listed("").await, before, "nothing was pruned so far");

    let pruned = it.tool(0, &["audit", "prune", "--before", time, "--json"]);
    let kept = before
        .iter()
        .filter(|entry| entry["at"].as_str().unwrap() >= time);
    let kept: Vec<_> = kept.cloned().collect();
    let gone = before.len() - kept.len();
    // The deployment's chain, the operator's, and both accounts'.
    assert_eq!(pruned.json(), json!({"entries": gone, "chains": 4}));
    it.is_wrong(&Faults::new());
    let after = it.listed("").await;
    assert_eq!(after[1..], kept);
    assert_eq!(after[0]["action"], "audit.pruned");
    let first = before.last().unwrap();
    assert_eq!(first["action"], "pepper.registered");
    let began = &first["at"];
    assert_eq!(after[0]["after"], json!({"began": began, "before": time}));
    assert_eq!(of(&after, &older), Vec::<u64>::new());
    assert_eq!(of(&after, &newer), [4, 3]);
    let nothing = it.tool(0, &["audit", "prune", "--before", time]);
    assert!(nothing.out.starts_with("0 entries"), "{}", nothing.out);
    assert_eq!(it.listed("").await, after);

    // What goes on from where it was pruned has the next numbers.
    it.tool(0, &["account", "activate", "older"]);
    it.is_wrong(&Faults::new());
    assert_eq!(of(&it.listed("").await, &older), [5]);

    it.tool(0, &["audit", "prune", "--before", "2999-01-01T00:00:00Z"]);
    it.is_wrong(&Faults::new());
    let left = it.listed("").await;
    assert_eq!(left.len(), 1, "{left:?}");
    it.tool(0, &["account", "suspend", "older"]);
    it.is_wrong(&Faults::new());

    // A whole trail that was taken away after a pruning is told.
    let chain = it.literal(&newer);
    it.tool(0, &["account", "activate", "newer"]);
    for table in ["entries", "heads", "checkpoints"] {
        it.change(&format!(
            "CREATE TABLE kept_{table} AS SELECT * FROM audit_{table} WHERE chain = {chain};
             DELETE FROM audit_{table} WHERE chain = {chain}"
        ))
        .await;
    }
    it.is_wrong(&Faults::from([fault(
        &newer,
        "there is no entry of its making",
    )]));
    for table in ["entries", "heads", "checkpoints"] {
        it.change(&format!(
            "INSERT INTO audit_{table} SELECT * FROM kept_{table}; DROP TABLE kept_{table}"
        ))
        .await;
    }
    it.is_wrong(&Faults::new());

    // Pruning by somebody who cannot sign for it is told.
    let chain = it.literal(&older);
    it.change(&format!(
        "UPDATE audit_checkpoints SET seq = seq + 1, hash = (SELECT hash FROM audit_entries WHERE chain = {chain})
         WHERE chain = {chain};
         DELETE FROM audit_entries WHERE chain = {chain}"
    ))
    .await;
    it.tool(8, &["audit", "verify"]).says(&[&format!(
        "account {older}: the record of what was pruned was altered"
    )]);
}

/// Whoever alters entries does not get a signature for what is left by waiting until somebody prunes.
async fn a_trail_that_is_not_whole_is_not_pruned(database: Option<&TestDatabase>) {
    let it = Deployment::new(database);
    let (older, newer) = (it.account("older"), it.account("newer"));
    let entries = it.tool(0, &["audit", "verify", "--json"]).json()["entries"].clone();
    let now = it.listed("").await[0]["at"].as_str().unwrap().to_owned();
    let early = match database {
        Some(_) => "UPDATE audit_entries SET at = 'epoch'",
        None => "UPDATE audit_entries SET at = 0",
    };
    it.tamper(early, &newer, 4).await;
    let mut faults = Faults::from([fault(&newer, "entry 4 was altered")]);
    for further in [false, true] {
        if further {
            it.tamper(
                "UPDATE audit_entries SET action = 'account.renamed'",
                &older,
                2,
            )
            .await;
            faults.insert(fault(&older, "entry 2 was altered"));
        }
        for before in ["2001-01-01T00:00:00Z", &now, "2999-01-01T00:00:00Z"] {
            let prune = ["audit", "prune", "--before", before];
            let human = it.tool(8, &prune);
            let human = human.says(&["nothing was pruned"]);
            for (account, what) in &faults {
                let line = format!("account {}: {what}\n", account.as_ref().unwrap());
                assert!(human.err.contains(&line), "{line}: {}", human.err);
            }
            let script = it.tool(8, &[&prune[..], &["--json"]].concat());
            let verified = it.tool(8, &["audit", "verify", "--json"]);
            assert_eq!(script.json(), verified.json());
            assert_eq!(script.json()["entries"], entries, "nothing is gone");
        }
        it.is_wrong(&faults);
    }
}

#[tokio::test]
async fn a_trail_of_a_file_that_is_not_whole_is_not_pruned() {
    a_trail_that_is_not_whole_is_not_pruned(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trail_of_a_database_that_is_not_whole_is_not_pruned() {
    if !has_postgres("a_trail_of_a_database_that_is_not_whole_is_not_pruned") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    a_trail_that_is_not_whole_is_not_pruned(Some(&database)).await;
}

#[tokio::test]
async fn a_pruned_trail_of_a_file_is_whole() {
    a_pruned_trail_is_whole(None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pruned_trail_of_a_database_is_whole() {
    if !has_postgres("a_pruned_trail_of_a_database_is_whole") {
        return;
    }
    let database = TestDatabase::create_empty().await;
    a_pruned_trail_is_whole(Some(&database)).await;
}

#[tokio::test]
async fn what_tools_do_is_in_the_trail() {
    let it = Deployment::new(None);
    let account = it.account("acme");
    let create = ["key", "create", "--account", "acme", "--name", "CI"];
    it.tool(0, &["account", "activate", "acme"]);
    let key = it.tool(0, &[&create[..], &["--json"]].concat()).json();
    let id = key["id"].as_str().unwrap();
    for arguments in [
        &["key", "rename", id, "Renamed"][..],
        &["key", "revoke", id],
        &["key", "revoke", id],
        &["key", "reactivate", id],
        &["key", "delete", id],
        &["key", "restore", id],
        &["account", "delete", "acme"],
        &["account", "restore", &account],
        &["operator", "new-key", "--revoke-others"],
        &["pepper", "rotate", "--id", "next"],
    ] {
        it.tool(0, arguments);
    }
    // What only looks leaves nothing, and what is refused neither.
    it.tool(0, &["account", "show", "acme"]);
    it.tool(0, &["doctor"]);
    it.tool(0, &["export"]);
    it.tool(0, &["audit", "verify"]);
    it.tool(3, &["key", "revoke", &account]);
    let place = &it.place;
    let environment = it.environment();
    let made = place
        .run(&["operator", "new-key", "--json"], &environment)
        .with(0);
    let mut running = it.spawn();
    let base = running.base();
    running.wait_for("ready");
    let operator = made.json()["key"].as_str().unwrap().to_owned();
    it.tool(4, &["pepper", "drop", "only"]);
    let entries = listed_audit(&base, &operator, "actor=tool").await;
    let actions = |of: &dyn Fn(&Value) -> bool| -> Vec<&str> {
        let of = entries.iter().rev().filter(|entry| of(entry));
        of.map(|entry| entry["action"].as_str().unwrap()).collect()
    };
    assert_eq!(
        actions(&|entry| entry["account_id"] == *account),
        [
            "account.created",
            "account.suspended",
            "account.activated",
            "account.suspended",
            "account.activated",
            "key.created",
            "key.renamed",
            "key.revoked",
            "key.reactivated",
            "key.deleted",
            "key.restored",
            "account.deleted",
            "account.restored",
        ]
    );
    assert_eq!(
        actions(&|entry| entry["account_id"] != *account),
        [
            "operator.key_created",
            "key.revoked",
            "operator.key_created"
        ]
    );
    for entry in &entries {
        let tool = json!({"kind": "tool", "key_id": null, "account_id": null});
        assert_eq!(entry["actor"], tool, "{entry}");
        assert_eq!(entry["request_id"], Value::Null);
        assert_eq!(entry["client"], Value::Null);
        let is_of_key = entry["account_id"] == *account
            && entry["action"].as_str().unwrap().starts_with("key.");
        assert_eq!(entry["key_id"] == id, is_of_key, "{entry}");
    }
    running.end("-TERM");
    it.is_wrong(&Faults::new());
}
