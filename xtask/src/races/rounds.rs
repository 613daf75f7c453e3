//! One round of each race: what is sent at once, and what must have come of it.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::http::Answer;
use crate::load::field;
use crate::sh::{Failure, Outcome};

use super::volley::{Landed, Volley};

/// How many requests are sent at once; of one that is to be done once, as often as this is promised.
pub(super) const RACERS: usize = 8;
pub(super) const REPEATS: usize = 64;
/// How many live keys the account may have that keys are raced for.
const LIMIT: usize = 2;

/// What is raced for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Race {
    /// The last place of an account that may have so many keys: keys are made, and in every other round also restored.
    Quota,
    /// To be the one who revokes a key.
    Revoke,
    /// To change a key, or in every other round an account, that all have seen in the same state.
    IfMatch,
    /// To do what is to be done once.
    Idempotency,
}

impl Race {
    pub(super) const ALL: [Self; 4] = [Self::Quota, Self::Revoke, Self::IfMatch, Self::Idempotency];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quota => "quota",
            Self::Revoke => "revoke",
            Self::IfMatch => "if-match",
            Self::Idempotency => "idempotency-key",
        }
    }

    pub(super) fn named(value: Option<&str>) -> Outcome<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|race| Some(race.name()) == value);
        found.ok_or_else(|| {
            Failure::usage("--race takes quota, revoke, if-match or idempotency-key")
        })
    }
}

/// What came of a round.
pub(super) struct Round {
    pub(super) requests: usize,
    pub(super) winners: usize,
    pub(super) at_once: bool,
    /// What must not be.
    pub(super) violations: Vec<String>,
}

/// Where the races are held.
pub(super) struct Arena<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) chance: &'a mut Chance,
    volley: Volley,
    nodes: usize,
    account: String,
    /// Deleted keys, to be restored.
    deleted: Vec<String>,
    /// What is changed in turn, each with its last tag.
    contested: Vec<(String, String)>,
    /// How many rounds there were.
    round: usize,
}

/// A text in the answer, or an empty one.
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn path_of(key: &str) -> String {
    format!("/v1/api-keys/{key}")
}

/// What was answered in short, to be told.
fn told(answers: &[Answer]) -> String {
    let short = |answer: &Answer| {
        let body = answer.json();
        let code = text(&body, "code").to_owned();
        let id = text(&body, "id").chars().take(8).collect::<String>();
        format!("{}{code}{id}", answer.status)
    };
    let mut all: Vec<String> = answers.iter().map(short).collect();
    all.sort();
    all.dedup();
    all.join(" ")
}

impl<'a> Arena<'a> {
    /// With an account of its own for the race.
    pub(super) fn enter(
        race: Race,
        cluster: &'a mut Cluster,
        chance: &'a mut Chance,
    ) -> Outcome<Self> {
        let nodes = cluster.addresses();
        let volley = Volley::open(&nodes, REPEATS)?;
        let limit = if race == Race::Quota {
            LIMIT
        } else {
            1_000_000
        };
        let slug = format!("race-{:016x}", chance.next());
        let body = json!({"name": slug, "slug": slug, "key_limit": limit});
        let answer = cluster.expect(201, "POST", "/v1/accounts", Some(&body))?;
        let account = field(&answer.json(), "id")?.to_owned();
        let mut arena = Self {
            cluster,
            chance,
            volley,
            nodes: nodes.len(),
            account,
            deleted: Vec::new(),
            contested: Vec::new(),
            round: 0,
        };
        match race {
            Race::Quota => {
                for _ in 1..LIMIT {
                    arena.make_key()?;
                }
            }
            Race::IfMatch => {
                let (key, _) = arena.make_key()?;
                for path in [path_of(&key), format!("/v1/accounts/{}", arena.account)] {
                    let answer = arena.cluster.expect(200, "GET", &path, None)?;
                    let tag = answer.etag.ok_or_else(|| Failure::new("no ETag"))?;
                    arena.contested.push((path, tag));
                }
            }
            Race::Revoke | Race::Idempotency => {}
        }
        Ok(arena)
    }

    pub(super) fn run(&mut self, race: Race) -> Outcome<Round> {
        let round = match race {
            Race::Quota => self.quota(),
            Race::Revoke => self.revoke(),
            Race::IfMatch => self.if_match(),
            Race::Idempotency => self.idempotency(),
        };
        self.round += 1;
        round
    }

    fn new_key(&self) -> Value {
        json!({"account_id": self.account, "name": "raced for"})
    }

    /// A key of the account: its id, and the key itself.
    fn make_key(&mut self) -> Outcome<(String, String)> {
        let body = self.new_key();
        let answer = self
            .cluster
            .expect(201, "POST", "/v1/api-keys", Some(&body))?;
        let made = answer.json();
        Ok((
            field(&made, "id")?.to_owned(),
            field(&made, "key")?.to_owned(),
        ))
    }

    /// The ids of the account's live keys.
    fn live_keys(&mut self) -> Outcome<Vec<String>> {
        let path = format!("/v1/api-keys?account_id={}&limit=100", self.account);
        let listed = self.cluster.expect(200, "GET", &path, None)?.json();
        let listed = listed.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(listed
            .iter()
            .map(|key| text(key, "id").to_owned())
            .collect())
    }

    fn delete(&mut self, key: &str) -> Outcome {
        let body = json!({"deleted": true});
        self.cluster
            .expect(200, "PATCH", &path_of(key), Some(&body))
            .map(drop)
    }

    fn release(&mut self, requests: &[String]) -> Outcome<Landed> {
        self.volley.release(requests, self.chance)
    }

    /// A round, of which it is known who won, and what is wrong.
    fn judged(landed: &Landed, winners: &[&Answer], mut violations: Vec<String>) -> Round {
        if winners.len() != 1 {
            violations.push(format!("{} winners", winners.len()));
        }
        if !violations.is_empty() {
            violations.push(format!("the answers were {}", told(&landed.answers)));
        }
        Round {
            requests: landed.answers.len(),
            winners: winners.len(),
            at_once: landed.at_once,
            violations,
        }
    }

    fn quota(&mut self) -> Outcome<Round> {
        let restored = if self.round % 2 == 1 && self.deleted.len() >= RACERS / 2 {
            RACERS / 2
        } else {
            0
        };
        let restoration = json!({"deleted": false});
        let mut requests: Vec<String> = self
            .deleted
            .iter()
            .rev()
            .take(restored)
            .map(|key| {
                self.cluster
                    .request("PATCH", &path_of(key), &[], &restoration)
            })
            .collect();
        let creation = self
            .cluster
            .request("POST", "/v1/api-keys", &[], &self.new_key());
        requests.resize(RACERS, creation);
        let landed = self.release(&requests)?;

        let won = |answer: &&Answer| matches!(answer.status, 200 | 201);
        let winners: Vec<&Answer> = landed.answers.iter().filter(won).collect();
        let mut violations = Vec::new();
        let lost = landed.answers.iter().filter(|answer| !won(answer));
        for answer in lost {
            if answer.status != 409 || text(&answer.json(), "code") != "key_limit_reached" {
                violations.push(format!(
                    "a loser was told {}: {}",
                    answer.status, answer.body
                ));
            }
        }
        let live = self.live_keys()?;
        if live.len() != LIMIT {
            violations.push(format!("{} live keys", live.len()));
        }
        let mut won = Vec::new();
        for winner in &winners {
            let id = text(&winner.json(), "id").to_owned();
            if !live.contains(&id) {
                violations.push("a winner's key is not there".to_owned());
            }
            won.push(id);
        }
        let round = Self::judged(&landed, &winners, violations);
        for key in won {
            self.delete(&key)?;
            self.deleted.retain(|known| *known != key);
            self.deleted.push(key);
        }
        let surplus = self.deleted.len().saturating_sub(2 * RACERS);
        self.deleted.drain(..surplus);
        Ok(round)
    }

    /// What a node says of a key.
    fn verdict(&mut self, node: usize, key: &str) -> Outcome<String> {
        let body = json!({"key": key});
        let answer = self.cluster.ask(node, "POST", "/v1/verify", Some(&body))?;
        Ok(text(&answer.json(), "code").to_owned())
    }

    /// Everybody is told that the key is revoked, which it is; so the winner is found in the trail.
    fn revoke(&mut self) -> Outcome<Round> {
        let (id, key) = self.make_key()?;
        let mut violations = Vec::new();
        for node in 0..self.nodes {
            // The first time it looks the key up, and the second time it knows it.
            for _ in 0..2 {
                let code = self.verdict(node, &key)?;
                if code != "valid" {
                    violations.push(format!("node {node} said `{code}` of a new key"));
                }
            }
        }
        let body = json!({"status": "revoked"});
        let request = self.cluster.request("PATCH", &path_of(&id), &[], &body);
        let landed = self.release(&vec![request; RACERS])?;

        // Each node has answered that it is revoked, and has to know.
        for node in 0..self.nodes {
            let code = self.verdict(node, &key)?;
            if code != "revoked" {
                violations.push(format!("node {node} said `{code}` of a revoked key"));
            }
        }
        let mut times = Vec::new();
        for answer in &landed.answers {
            let answered = answer.json();
            if answer.status != 200 || text(&answered, "status") != "revoked" {
                violations.push(format!(
                    "it was answered {}: {}",
                    answer.status, answer.body
                ));
            }
            times.push(text(&answered, "updated_at").to_owned());
        }
        times.dedup();
        if times.len() > 1 {
            violations.push("it was revoked at several times".to_owned());
        }
        let path = format!(
            "/v1/audit?account_id={}&key_id={id}&limit=100",
            self.account
        );
        let trail = self.cluster.expect(200, "GET", &path, None)?.json();
        let entries = trail.get("entries").and_then(Value::as_array);
        let entries = entries.map(Vec::as_slice).unwrap_or_default();
        let actions: Vec<&str> = entries.iter().map(|entry| text(entry, "action")).collect();
        let winners = actions.iter().filter(|action| **action == "key.revoked");
        let winners: Vec<&Answer> = winners
            .zip(&landed.answers)
            .map(|(_, answer)| answer)
            .collect();
        if actions != ["key.revoked", "key.created"] {
            violations.push(format!("the trail has {}", actions.join(", ")));
        }
        Ok(Self::judged(&landed, &winners, violations))
    }

    fn if_match(&mut self) -> Outcome<Round> {
        let place = self
            .round
            .checked_rem(self.contested.len())
            .unwrap_or_default();
        let Some((path, tag)) = self.contested.get(place).cloned() else {
            return Err(Failure::new("nothing is contested"));
        };
        let condition = [format!("if-match: {tag}")];
        let start = self.chance.next();
        let name = |racer: usize| format!("by {racer} at {start:016x}");
        let requests: Vec<String> = (0..RACERS)
            .map(|racer| {
                let body = json!({"name": name(racer)});
                self.cluster.request("PATCH", &path, &condition, &body)
            })
            .collect();
        let landed = self.release(&requests)?;

        let won = |answer: &&Answer| answer.status == 200;
        let winners: Vec<&Answer> = landed.answers.iter().filter(won).collect();
        let mut violations = Vec::new();
        for answer in landed.answers.iter().filter(|answer| !won(answer)) {
            if answer.status != 412 || text(&answer.json(), "code") != "precondition_failed" {
                violations.push(format!(
                    "a loser was told {}: {}",
                    answer.status, answer.body
                ));
            }
        }
        for (racer, answer) in landed.answers.iter().enumerate().filter(|(_, it)| won(it)) {
            if text(&answer.json(), "name") != name(racer) {
                violations.push(format!("a winner was told {}", answer.body));
            }
        }
        let node = self.chance.index(self.nodes);
        let now = self.cluster.ask(node, "GET", &path, None)?;
        if let Some(winner) = winners.first() {
            let of = |answer: &Answer| text(&answer.json(), "name").to_owned();
            if of(&now) != of(winner) || now.etag != winner.etag {
                violations.push(format!(
                    "it is now {}, and not as the winner made it",
                    now.body
                ));
            }
        }
        let round = Self::judged(&landed, &winners, violations);
        if let (Some((_, known)), Some(tag)) = (self.contested.get_mut(place), now.etag) {
            *known = tag;
        }
        Ok(round)
    }

    fn idempotency(&mut self) -> Outcome<Round> {
        let name = [format!("idempotency-key: {:016x}", self.chance.next())];
        let request = self
            .cluster
            .request("POST", "/v1/api-keys", &name, &self.new_key());
        let landed = self.release(&vec![request; REPEATS])?;

        let won = |answer: &&Answer| answer.status == 201;
        let winners: Vec<&Answer> = landed.answers.iter().filter(won).collect();
        let mut violations = Vec::new();
        let made: Vec<Value> = winners.iter().map(|answer| answer.json()).collect();
        let id = made
            .first()
            .map(|made| text(made, "id").to_owned())
            .unwrap_or_default();
        if !made
            .iter()
            .all(|made| text(made, "key").starts_with("ldr_"))
        {
            violations.push("a winner was given no key".to_owned());
        }
        for answer in landed.answers.iter().filter(|answer| !won(answer)) {
            let again = answer.json();
            let is_same = answer.status == 200
                && text(&again, "id") == id
                && again.get("key") == Some(&Value::Null)
                && again.get("replayed") == Some(&Value::Bool(true));
            if !is_same {
                violations.push(format!(
                    "a loser was told {}: {}",
                    answer.status, answer.body
                ));
                break;
            }
        }
        let live = self.live_keys()?;
        if live != [id] {
            violations.push(format!("{} keys were made", live.len()));
        }
        let round = Self::judged(&landed, &winners, violations);
        for key in live {
            self.delete(&key)?;
        }
        Ok(round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            propagated: false,
            etag: None,
            next: None,
            body: body.to_owned(),
        }
    }

    #[test]
    fn other_than_one_winner_is_a_violation() {
        for winners in 0..3 {
            let landed = Landed {
                answers: vec![answer(201, r#"{"id":"x"}"#); 3],
                at_once: true,
            };
            let won: Vec<&Answer> = landed.answers.iter().take(winners).collect();
            let round = Arena::judged(&landed, &won, Vec::new());
            assert_eq!(round.violations.is_empty(), winners == 1, "{winners}");
        }
    }

    #[test]
    fn answers_are_told_in_short() {
        let answers = [
            answer(409, r#"{"code":"key_limit_reached"}"#),
            answer(201, r#"{"id":"0123456789"}"#),
            answer(409, r#"{"code":"key_limit_reached"}"#),
        ];
        assert_eq!(told(&answers), "20101234567 409key_limit_reached");
    }
}
