//! One writer: what it does, what it notes, and how it looks for that afterwards.

use std::collections::BTreeSet;
use std::io;

use serde_json::{Value, json};

use super::change;
use crate::chance::Chance;
use crate::http::{Answer, Connection, Said};
use crate::sh::{Failure, Outcome};

/// How many of its latest keys a writer goes on changing.
const LATEST: usize = 64;

/// How many of its older keys it looks at after a kill, besides those that it touched before it.
const SAMPLE: usize = 16;

/// How many faults are described; the rest is counted.
const DESCRIBED: usize = 20;

/// What there is to know of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    name: String,
    revoked: bool,
    deleted: bool,
}

impl State {
    const fn works(&self) -> bool {
        !self.revoked && !self.deleted
    }
}

/// A key whose creation was acknowledged.
struct Key {
    path: String,
    secret: String,
    /// By what was answered.
    acknowledged: State,
    /// What a change that was not answered would make of it.
    in_doubt: Option<State>,
    /// The cycle in which it was last touched.
    touched: u64,
}

/// The account of a cycle.
struct Tenant {
    id: String,
    /// Names of keys whose creation was not answered.
    in_doubt: Vec<String>,
    /// Where its keys begin among the writer's.
    first: usize,
}

pub(super) struct Writer {
    number: u64,
    chance: Chance,
    named: u64,
    keys: Vec<Key>,
    tenant: Option<Tenant>,
    /// The slug of an account whose creation was not answered.
    account_in_doubt: Option<String>,
    found: Found,
}

/// What was counted, and what was wrong.
#[derive(Debug, Default)]
pub(super) struct Found {
    acknowledged: u64,
    /// Not answered, and there.
    done: u64,
    /// Not answered, and not there.
    undone: u64,
    looked_at: u64,
    lost: u64,
    resurrected: u64,
    halved: u64,
    /// Answers that are neither success nor "not available".
    unexpected: u64,
    faults: Vec<String>,
}

impl Found {
    pub(super) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.done += other.done;
        self.undone += other.undone;
        self.looked_at += other.looked_at;
        self.lost += other.lost;
        self.resurrected += other.resurrected;
        self.halved += other.halved;
        self.unexpected += other.unexpected;
        self.faults.extend(other.faults);
    }

    /// How many changes were made, whether they were answered or not.
    pub(super) const fn changes(&self) -> u64 {
        self.acknowledged + self.done
    }

    pub(super) const fn is_bad(&self) -> bool {
        self.lost + self.resurrected + self.halved + self.unexpected > 0
    }

    pub(super) fn summary(&self) -> String {
        format!(
            "{} operations acknowledged, {} unanswered ({} done, {} not); {} looked at; {} lost, {} resurrected, \
             {} half done, {} unexpected answers",
            self.acknowledged,
            self.done + self.undone,
            self.done,
            self.undone,
            self.looked_at,
            self.lost,
            self.resurrected,
            self.halved,
            self.unexpected
        )
    }

    pub(super) fn faults(&self) -> String {
        let described = self.faults.iter().take(DESCRIBED);
        described.fold(
            "what was acknowledged did not survive".to_owned(),
            |text, fault| text + "\n  " + fault,
        )
    }

    fn unexpected(&mut self, doing: &str, answer: &Answer) {
        self.unexpected += 1;
        self.faults
            .push(format!("{doing}: {} {}", answer.status, answer.body));
    }

    const fn settle(&mut self, done: bool) {
        if done {
            self.done += 1;
        } else {
            self.undone += 1;
        }
    }
}

/// What came of a call that changes something.
enum Called {
    Acknowledged(Value),
    /// It may have been done or not. `true` where the server still answers.
    InDoubt(bool),
}

impl Writer {
    pub(super) const fn new(number: u64, seed: u64) -> Self {
        Self {
            number,
            chance: Chance::new(seed),
            named: 0,
            keys: Vec::new(),
            tenant: None,
            account_in_doubt: None,
            found: Found {
                acknowledged: 0,
                done: 0,
                undone: 0,
                looked_at: 0,
                lost: 0,
                resurrected: 0,
                halved: 0,
                unexpected: 0,
                faults: Vec::new(),
            },
        }
    }

    pub(super) const fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Makes an account, then makes and changes keys until nobody answers any more.
    pub(super) fn write(&mut self, port: u16, operator: &str, cycle: u64) {
        let mut server = Connection::to(port);
        self.tenant = None;
        let mut answers = self.make_account(&mut server, operator, cycle);
        while answers {
            answers = if self.keys.is_empty() || self.chance.below(5) < 2 {
                self.make_key(&mut server, operator, cycle)
            } else {
                self.change_key(&mut server, operator, cycle)
            };
        }
    }

    fn name(&mut self) -> String {
        self.named += 1;
        format!("Writer {} name {}", self.number, self.named)
    }

    fn call(
        &mut self,
        server: &mut Connection,
        operator: &str,
        (method, path): (&str, &str),
        body: &Value,
    ) -> Called {
        let said = Said {
            key: Some(operator),
            body: Some(body),
        };
        match server.send(method, path, said) {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.found.acknowledged += 1;
                Called::Acknowledged(answer.json())
            }
            Ok(answer) => {
                if answer.status != 503 {
                    self.found.unexpected(&format!("{method} {path}"), &answer);
                }
                Called::InDoubt(true)
            }
            Err(_) => Called::InDoubt(false),
        }
    }

    /// Answers whether to go on.
    fn make_account(&mut self, server: &mut Connection, operator: &str, cycle: u64) -> bool {
        let slug = format!("w{}-c{cycle}", self.number);
        let body = json!({"name": account_name(&slug), "slug": slug});
        match self.call(server, operator, ("POST", "/v1/accounts"), &body) {
            Called::Acknowledged(account) => {
                self.tenant = Some(Tenant {
                    id: text(&account, "id"),
                    in_doubt: Vec::new(),
                    first: self.keys.len(),
                });
                true
            }
            Called::InDoubt(_) => {
                self.account_in_doubt = Some(slug);
                false
            }
        }
    }

    fn make_key(&mut self, server: &mut Connection, operator: &str, cycle: u64) -> bool {
        let name = self.name();
        let Some(tenant) = &self.tenant else {
            return false;
        };
        let body = json!({"account_id": tenant.id, "name": name});
        match self.call(server, operator, ("POST", "/v1/api-keys"), &body) {
            Called::Acknowledged(key) => {
                self.keys.push(Key {
                    path: format!("/v1/api-keys/{}", text(&key, "id")),
                    secret: text(&key, "key"),
                    acknowledged: State {
                        name,
                        revoked: false,
                        deleted: false,
                    },
                    in_doubt: None,
                    touched: cycle,
                });
                true
            }
            Called::InDoubt(answers) => {
                self.tenant
                    .iter_mut()
                    .for_each(|tenant| tenant.in_doubt.push(name.clone()));
                answers
            }
        }
    }

    fn change_key(&mut self, server: &mut Connection, operator: &str, cycle: u64) -> bool {
        let latest = self.keys.len().saturating_sub(LATEST);
        let index = latest + self.chance.index(self.keys.len() - latest);
        let (kind, name) = (self.chance.below(4), self.name());
        let Some(key) = self.keys.get_mut(index) else {
            return false;
        };
        if key.in_doubt.is_some() {
            // Its state is not known before the next look at it.
            return true;
        }
        let mut after = key.acknowledged.clone();
        let body = match kind {
            _ if after.deleted => {
                after.deleted = false;
                change(None, None, Some(false))
            }
            0 => {
                after.deleted = true;
                change(None, None, Some(true))
            }
            1 => {
                after.revoked = !after.revoked;
                change(None, Some(after.revoked), None)
            }
            2 => {
                after.name = name;
                change(Some(&after.name), None, None)
            }
            // Two things in one call: both or neither.
            _ => {
                after.name = name;
                after.revoked = !after.revoked;
                change(Some(&after.name), Some(after.revoked), None)
            }
        };
        key.touched = cycle;
        let path = key.path.clone();
        let called = self.call(server, operator, ("PATCH", &path), &body);
        let Some(key) = self.keys.get_mut(index) else {
            return false;
        };
        match called {
            Called::Acknowledged(_) => {
                key.acknowledged = after;
                true
            }
            Called::InDoubt(answers) => {
                key.in_doubt = Some(after);
                answers
            }
        }
    }

    /// Looks for what was noted, and answers what it counted since the last time.
    pub(super) fn verify(
        &mut self,
        port: u16,
        operator: &str,
        accounts: &[(String, String)],
        cycle: u64,
        all: bool,
    ) -> Outcome<Found> {
        let mut server = Connection::to(port);
        let sample: BTreeSet<usize> = (0..SAMPLE)
            .map(|_| self.chance.index(self.keys.len()))
            .collect();
        for (index, key) in self.keys.iter_mut().enumerate() {
            if all || key.touched == cycle || sample.contains(&index) {
                let seen = look(&mut server, operator, key)?;
                self.found.looked_at += 1;
                settle(key, &seen, &mut self.found);
            }
        }
        if let Some(slug) = self.account_in_doubt.take() {
            let there = accounts.iter().find(|(other, _)| *other == slug);
            self.found.settle(there.is_some());
            if there.is_some_and(|(_, name)| *name != account_name(&slug)) {
                self.found.halved += 1;
                self.found.faults.push(format!("account {slug}: {there:?}"));
            }
        }
        if let Some(tenant) = self.tenant.take() {
            self.verify_tenant(&mut server, operator, &tenant)?;
        }
        Ok(std::mem::take(&mut self.found))
    }

    /// Of an account's keys none is missing, and none is there that nobody asked for.
    fn verify_tenant(
        &mut self,
        server: &mut Connection,
        operator: &str,
        tenant: &Tenant,
    ) -> Outcome {
        let path = format!("/v1/api-keys?account_id={}", tenant.id);
        let answer = get(server, &path, operator)?;
        let Value::Array(listed) = answer.json() else {
            self.found.unexpected(&format!("GET {path}"), &answer);
            return Ok(());
        };
        let mut missing: BTreeSet<&str> = self
            .keys
            .iter()
            .skip(tenant.first)
            .filter(|key| !key.acknowledged.deleted)
            .map(|key| key.path.as_str())
            .collect();
        let mut in_doubt: BTreeSet<&str> = tenant.in_doubt.iter().map(String::as_str).collect();
        for key in &listed {
            let path = format!("/v1/api-keys/{}", text(key, "id"));
            let asked_for = missing.remove(path.as_str())
                || (in_doubt.remove(text(key, "name").as_str()) && text(key, "status") == "active");
            if !asked_for {
                self.found.halved += 1;
                self.found
                    .faults
                    .push(format!("a key that nobody asked for: {key}"));
            }
        }
        for _ in 0..tenant.in_doubt.len() - in_doubt.len() {
            self.found.settle(true);
        }
        for _ in &in_doubt {
            self.found.settle(false);
        }
        for path in missing {
            self.found.lost += 1;
            self.found.faults.push(format!("{path} is not listed"));
        }
        Ok(())
    }
}

fn account_name(slug: &str) -> String {
    format!("Account {slug}")
}

fn text(value: &Value, field: &str) -> String {
    let text = value.get(field).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// A GET that waits for a server which says that it cannot yet.
fn get(server: &mut Connection, path: &str, key: &str) -> Outcome<Answer> {
    let said = Said {
        key: Some(key),
        body: None,
    };
    let mut last = io::Error::other("not asked");
    for _ in 0..5 {
        match server.send("GET", path, said) {
            Ok(answer) if answer.status == 503 => last = io::Error::other(answer.body),
            Ok(answer) => return Ok(answer),
            Err(error) => last = error,
        }
    }
    Err(Failure::new(format!("GET {path}: {last}")))
}

/// A key as it presents itself.
#[derive(Debug)]
struct Seen {
    /// Whether it is accepted.
    works: bool,
    /// Its record, unless it is deleted.
    record: Option<(String, String)>,
}

fn look(server: &mut Connection, operator: &str, key: &Key) -> Outcome<Seen> {
    let own = get(server, &key.path, &key.secret)?;
    let works = own.status == 200;
    let record = if works {
        own
    } else {
        get(server, &key.path, operator)?
    };
    let fields = record.json();
    Ok(Seen {
        works,
        record: (record.status == 200).then(|| (text(&fields, "name"), text(&fields, "status"))),
    })
}

impl Seen {
    fn is(&self, state: &State) -> bool {
        let expected = (!state.deleted).then(|| {
            let status = if state.revoked { "revoked" } else { "active" };
            (state.name.as_str(), status)
        });
        let record = self
            .record
            .as_ref()
            .map(|(name, status)| (name.as_str(), status.as_str()));
        self.works == state.works() && record == expected
    }
}

/// Compares a key with what is known of it, which is what it shows from now on.
fn settle(key: &mut Key, seen: &Seen, found: &mut Found) {
    let in_doubt = key.in_doubt.take();
    if let Some(after) = &in_doubt {
        if seen.is(after) {
            found.settle(true);
            key.acknowledged = after.clone();
            return;
        }
        if seen.is(&key.acknowledged) {
            found.settle(false);
            return;
        }
    } else if seen.is(&key.acknowledged) {
        return;
    }
    let may_work = key.acknowledged.works() || in_doubt.as_ref().is_some_and(State::works);
    if seen.works && !may_work {
        found.resurrected += 1;
    } else if in_doubt.is_some() && seen.record.is_some() {
        found.halved += 1;
    } else {
        found.lost += 1;
    }
    found.faults.push(format!(
        "{}: acknowledged {:?}, in doubt {in_doubt:?}, seen {seen:?}",
        key.path, key.acknowledged
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, revoked: bool, deleted: bool) -> State {
        State {
            name: name.to_owned(),
            revoked,
            deleted,
        }
    }

    fn seen(works: bool, record: Option<(&str, &str)>) -> Seen {
        Seen {
            works,
            record: record.map(|(name, status)| (name.to_owned(), status.to_owned())),
        }
    }

    /// Lost, resurrected, half done; and the name by which it goes on.
    fn settled(
        acknowledged: State,
        in_doubt: Option<State>,
        seen: &Seen,
    ) -> (u64, u64, u64, State) {
        let mut key = Key {
            path: String::new(),
            secret: String::new(),
            acknowledged,
            in_doubt,
            touched: 0,
        };
        let mut found = Found::default();
        settle(&mut key, seen, &mut found);
        (
            found.lost,
            found.resurrected,
            found.halved,
            key.acknowledged,
        )
    }

    #[test]
    fn what_was_acknowledged_has_to_be_there() {
        let active = || state("a", false, false);
        let (lost, resurrected, halved, _) =
            settled(active(), None, &seen(true, Some(("a", "active"))));
        assert_eq!((lost, resurrected, halved), (0, 0, 0));
        for other in [
            seen(false, None),
            seen(true, Some(("b", "active"))),
            seen(false, Some(("a", "revoked"))),
            seen(false, Some(("a", "active"))),
        ] {
            let (lost, resurrected, halved, _) = settled(active(), None, &other);
            assert_eq!((lost, resurrected, halved), (1, 0, 0));
        }
        for dead in [state("a", true, false), state("a", false, true)] {
            let (lost, resurrected, halved, _) =
                settled(dead, None, &seen(true, Some(("a", "active"))));
            assert_eq!((lost, resurrected, halved), (0, 1, 0));
        }
    }

    #[test]
    fn what_was_not_answered_is_done_or_not_and_never_by_half() {
        let before = || state("a", false, false);
        let after = || Some(state("b", true, false));
        let done = settled(before(), after(), &seen(false, Some(("b", "revoked"))));
        assert_eq!(done, (0, 0, 0, state("b", true, false)));
        let undone = settled(before(), after(), &seen(true, Some(("a", "active"))));
        assert_eq!(undone, (0, 0, 0, before()));
        for half in [
            seen(true, Some(("b", "active"))),
            seen(false, Some(("a", "revoked"))),
        ] {
            let (lost, resurrected, halved, _) = settled(before(), after(), &half);
            assert_eq!((lost, resurrected, halved), (0, 0, 1));
        }
    }
}
