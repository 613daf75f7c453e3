//! What is asked, and the classes of it that one answer is for.

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::cluster::Cluster;
use crate::http::{self, Connection, Said};
use crate::load::{field, key_of};
use crate::sh::{Failure, Outcome};

/// How many of each kind there are, in turn.
const EACH: usize = 256;
/// How many characters of a key are its prefix.
const PREFIX: usize = 14;

/// Values of one kind, as many as are wanted.
pub(super) enum Values {
    /// One of these, of which nobody has the end: another each time.
    Wrong(Vec<String>),
    /// One of these.
    Given(Vec<String>),
    /// An id that nobody has, each time.
    FreshId,
    /// What is no key by its looks.
    Malformed,
}

impl Values {
    fn next(&self, chance: &mut Chance) -> String {
        let fresh = |chance: &mut Chance| key_of(&chance.bytes());
        let mut one_of = |all: &[String]| {
            let place = chance.index(all.len());
            all.get(place).cloned().unwrap_or_default()
        };
        match self {
            Self::FreshId => chance.uuid(),
            Self::Given(all) => one_of(all),
            Self::Wrong(all) => {
                let known: String = one_of(all).chars().take(PREFIX).collect();
                let end: String = fresh(chance).chars().skip(PREFIX).collect();
                known + &end
            }
            Self::Malformed => fresh(chance).replace("ldr_", "ldr-"),
        }
    }
}

/// What a class is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// It has to be like the others.
    Hidden,
    /// It is another's twin, and has to be like it, or what is measured is something else.
    Twin,
    /// Nothing hides it, and it has to be told from the others, or the measurement is too blunt.
    Open,
}

pub(super) struct Class {
    pub(super) name: &'static str,
    pub(super) values: Values,
    pub(super) part: Part,
}

/// How a value is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// As the key that the request presents.
    Presented(&'static str),
    /// To be verified, by a tenant.
    Verified,
    /// As the id in the path, by a tenant.
    Read,
    Changed,
}

/// One route, and all that its answer says alike.
pub(super) struct Question {
    pub(super) name: &'static str,
    /// Whether nodes answer from memory.
    pub(super) remembered: bool,
    pub(super) way: Way,
    pub(super) classes: Vec<Class>,
}

/// Who is there, and what they have.
pub(super) struct People {
    caller: String,
    own: Vec<String>,
    others_deleted: Vec<String>,
    revoked: Vec<String>,
    expired: Vec<String>,
    others: Vec<String>,
    others_ids: Vec<String>,
    others_revoked: Vec<String>,
    others_expired: Vec<String>,
    /// Keys of prefixes that nobody has: for a class and for its twin.
    nobodys: [Vec<String>; 2],
}

/// Keys of an account, each with its id.
struct Maker<'a> {
    cluster: &'a mut Cluster,
}

impl Maker<'_> {
    fn account(&mut self, slug: &str) -> Outcome<String> {
        let body = json!({"name": slug, "slug": slug, "key_limit": 100_000});
        let made = self
            .cluster
            .expect(201, "POST", "/v1/accounts", Some(&body))?;
        Ok(field(&made.json(), "id")?.to_owned())
    }

    /// As many keys of each kind as there are to be, which is told by their account and by when they expire. They are made in turn,
    /// so that no kind has its records closer together than another.
    fn keys<const KINDS: usize>(
        &mut self,
        kinds: [(&str, Option<&str>); KINDS],
    ) -> Outcome<[Vec<(String, String)>; KINDS]> {
        let mut made = [const { Vec::new() }; KINDS];
        for _ in 0..EACH {
            for ((account, expires), made) in kinds.iter().zip(&mut made) {
                let body = json!({"account_id": account, "name": "A key", "expires_at": expires});
                let answer = self
                    .cluster
                    .expect(201, "POST", "/v1/api-keys", Some(&body))?;
                let key = answer.json();
                made.push((
                    field(&key, "id")?.to_owned(),
                    field(&key, "key")?.to_owned(),
                ));
            }
        }
        Ok(made)
    }

    fn change(&mut self, keys: &[(String, String)], change: &Value) -> Outcome {
        for (id, _) in keys {
            let path = format!("/v1/api-keys/{id}");
            self.cluster.expect(200, "PATCH", &path, Some(change))?;
        }
        Ok(())
    }
}

fn plain(keys: &[(String, String)]) -> Vec<String> {
    keys.iter().map(|(_, key)| key.clone()).collect()
}

fn ids(keys: &[(String, String)]) -> Vec<String> {
    keys.iter().map(|(id, _)| id.clone()).collect()
}

impl People {
    pub(super) fn make(cluster: &mut Cluster, chance: &mut Chance) -> Outcome<Self> {
        let past = Some("2020-01-01T00:00:00Z");
        let mut maker = Maker { cluster };
        let (one, other) = (maker.account("one")?, maker.account("other")?);
        let [
            own,
            revoked,
            expired,
            others,
            others_deleted,
            others_revoked,
            others_expired,
        ] = maker.keys([
            (&one, None),
            (&one, None),
            (&one, past),
            (&other, None),
            (&other, None),
            (&other, None),
            (&other, past),
        ])?;
        maker.change(&others_deleted, &json!({"deleted": true}))?;
        for keys in [&revoked, &others_revoked] {
            maker.change(keys, &json!({"status": "revoked"}))?;
        }
        let caller = own.first().map(|(_, key)| key.clone());
        Ok(Self {
            caller: caller.ok_or_else(|| Failure::new("no key was made"))?,
            own: plain(&own),
            others_deleted: ids(&others_deleted),
            revoked: plain(&revoked),
            expired: plain(&expired),
            others: plain(&others),
            others_ids: ids(&others),
            others_revoked: plain(&others_revoked),
            others_expired: plain(&others_expired),
            nobodys: [(); 2].map(|()| (0..EACH).map(|_| key_of(&chance.bytes())).collect()),
        })
    }

    /// What is compared where. A key that is presented is unknown, has a known prefix and another end, or was good once; of a key
    /// that is asked about, the asker's own tell what they are, and only others' must not.
    pub(super) fn questions(&self) -> Vec<Question> {
        let class = |name, values| Class {
            name,
            values,
            part: Part::Hidden,
        };
        let control = |name, values, part| Class { name, values, part };
        // As many prefixes in each class, or how far they are from the processor would tell them apart.
        let [unknown, again] = &self.nobodys;
        let prefixes = |nobodys: &[String]| Values::Wrong(nobodys.to_vec());
        let presented = || {
            vec![
                class("unknown prefix", prefixes(unknown)),
                class("wrong secret", Values::Wrong(self.own.clone())),
                class("revoked", Values::Given(self.revoked.clone())),
                class("expired", Values::Given(self.expired.clone())),
                control("unknown, again", prefixes(again), Part::Twin),
                control("no key by its looks", Values::Malformed, Part::Open),
            ]
        };
        let verified = || {
            vec![
                class("unknown prefix", prefixes(unknown)),
                class("wrong secret", Values::Wrong(self.own.clone())),
                class("other's, wrong secret", Values::Wrong(self.others.clone())),
                class("other's", Values::Given(self.others.clone())),
                class(
                    "other's, revoked",
                    Values::Given(self.others_revoked.clone()),
                ),
                class(
                    "other's, expired",
                    Values::Given(self.others_expired.clone()),
                ),
                control("unknown, again", prefixes(again), Part::Twin),
            ]
        };
        let identified = || {
            vec![
                class("unknown id", Values::FreshId),
                class("other's", Values::Given(self.others_ids.clone())),
                class(
                    "other's, deleted",
                    Values::Given(self.others_deleted.clone()),
                ),
                control("unknown, again", Values::FreshId, Part::Twin),
            ]
        };
        let question = |name, remembered, way, classes| Question {
            name,
            remembered,
            way,
            classes,
        };
        let list = Way::Presented("/v1/api-keys");
        let proxied = Way::Presented("/v1/forward-auth");
        vec![
            question("management", true, list, presented()),
            question("forward-auth, looked up", false, proxied, presented()),
            question("verify, looked up", false, Way::Verified, verified()),
            question("read by id", true, Way::Read, identified()),
            question("change by id", true, Way::Changed, identified()),
            question("forward-auth, remembered", true, proxied, presented()),
            question("verify, remembered", true, Way::Verified, verified()),
        ]
    }

    /// A request with another value of the class.
    pub(super) fn request(&self, way: Way, values: &Values, chance: &mut Chance) -> String {
        let value = values.next(chance);
        let caller = [http::credential(&self.caller)];
        match way {
            Way::Presented(path) => http::request("GET", path, &[http::credential(&value)], ""),
            Way::Verified => {
                let body = json!({"key": value}).to_string();
                http::request("POST", "/v1/verify", &caller, &body)
            }
            Way::Read => http::request("GET", &format!("/v1/api-keys/{value}"), &caller, ""),
            Way::Changed => {
                let body = json!({"name": "Another name"}).to_string();
                http::request("PATCH", &format!("/v1/api-keys/{value}"), &caller, &body)
            }
        }
    }

    /// Has a node look up everything that is to be remembered.
    pub(super) fn warm(&self, connection: &mut Connection) -> Outcome {
        let all = [
            &self.own,
            &self.revoked,
            &self.expired,
            &self.others,
            &self.others_revoked,
            &self.others_expired,
        ];
        let all = all.into_iter().chain(&self.nobodys);
        for key in all.flatten() {
            let said = Said {
                key: Some(key),
                body: None,
            };
            let asked = connection.send("GET", "/v1/forward-auth", said);
            asked.map_err(Failure::when("GET /v1/forward-auth"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_their_class_and_of_one_length() {
        let mut chance = Chance::new(1);
        let known = vec![key_of(&[7; 32])];
        let wrong = Values::Wrong(known.clone()).next(&mut chance);
        assert_eq!(wrong.get(..PREFIX), known[0].get(..PREFIX));
        assert_ne!(wrong, known[0]);
        for values in [Values::Given(known), Values::Malformed] {
            assert_eq!(values.next(&mut chance).len(), wrong.len());
        }
        assert_eq!(Values::FreshId.next(&mut chance).len(), 36);
    }
}
