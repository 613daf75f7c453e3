//! The keys of a run, made over HTTP, and what is to be stopped in which order.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::chance::Chance;
use crate::http::{Connection, Said};
use crate::load;
use crate::sh::{Failure, Outcome};

const MAKERS: usize = 12;
const TIMEOUT: Duration = Duration::from_secs(20);
const ATTEMPTS: u32 = 20;
/// Accounts whose keys are stopped one by one: each has an audit trail, which is written by one at a time.
const SHARED_ACCOUNTS: usize = 24;
/// How many keys an account has that is stopped as a whole.
const KEYS_OF_ONE: usize = 2;
/// Of ten keys that are stopped, so many are by way of their account; of the rest, one half is revoked, the other deleted.
const BY_ACCOUNT: usize = 2;

/// How something is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Revoke,
    Delete,
    Suspend,
}

/// One call that stops one key, or several of one account.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) path: String,
    pub(crate) body: Value,
    /// Places in [`Keys::secrets`].
    pub(crate) keys: Vec<usize>,
}

/// All keys, and all that is stopped. Keys that no target has stay good.
pub(crate) struct Keys {
    pub(crate) secrets: Vec<String>,
    pub(crate) targets: Vec<Target>,
    pub(crate) bystanders: Vec<usize>,
}

/// What one target will be.
struct Wanted {
    way: Way,
    keys: usize,
}

/// A mixture in which so many keys are stopped.
fn mixture(revocations: usize, chance: &mut Chance) -> Vec<Wanted> {
    let by_account = revocations * BY_ACCOUNT / 10 / KEYS_OF_ONE;
    let single = revocations.saturating_sub(by_account * KEYS_OF_ONE);
    let accounts = (0..by_account).map(|_| Wanted {
        way: Way::Suspend,
        keys: KEYS_OF_ONE,
    });
    let singles = (0..single).map(|number| Wanted {
        way: if number % 2 == 0 {
            Way::Revoke
        } else {
            Way::Delete
        },
        keys: 1,
    });
    let mut wanted: Vec<Wanted> = accounts.chain(singles).collect();
    for at in (1..wanted.len()).rev() {
        wanted.swap(at, chance.index(at + 1));
    }
    wanted
}

/// Makes them, on all nodes at the same time.
pub(crate) fn make(
    nodes: &[SocketAddr],
    operator: &str,
    revocations: usize,
    chance: &mut Chance,
) -> Outcome<Keys> {
    let tag = format!("{:x}", chance.next());
    let wanted = mixture(revocations, chance);
    let maker = |number: usize| Maker {
        server: nodes
            .get(number % nodes.len().max(1))
            .map(|address| Connection::at(*address, TIMEOUT)),
        operator,
    };
    let mut first = maker(0);
    let shared: Vec<String> = (0..SHARED_ACCOUNTS)
        .map(|number| first.account(&format!("shared-{tag}-{number}")))
        .collect::<Outcome<_>>()?;

    let next = AtomicUsize::new(0);
    let bystanders = (revocations / 20).clamp(20, 200);
    let made = thread::scope(|scope| {
        let makers: Vec<_> = (0..MAKERS)
            .map(|number| {
                let (mut maker, next, wanted, shared, tag) =
                    (maker(number), &next, &wanted, &shared, &tag);
                scope.spawn(move || {
                    let mut made = Vec::new();
                    loop {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        if at >= wanted.len() + bystanders {
                            return Ok(made);
                        }
                        let account = shared.get(at % shared.len().max(1));
                        let account = account.map(String::as_str).unwrap_or_default();
                        made.push((at, maker.target(wanted.get(at), account, tag, at)?));
                    }
                })
            })
            .collect();
        let joined = makers.into_iter().map(|maker| {
            maker
                .join()
                .map_err(|_| Failure::new("a maker of keys panicked"))?
        });
        joined.collect::<Outcome<Vec<Vec<(usize, Made)>>>>()
    })?;

    let mut made: Vec<(usize, Made)> = made.into_iter().flatten().collect();
    made.sort_by_key(|(at, _)| *at);
    let mut keys = Keys {
        secrets: Vec::new(),
        targets: Vec::new(),
        bystanders: Vec::new(),
    };
    for (_, made) in made {
        let begin = keys.secrets.len();
        keys.secrets.extend(made.secrets);
        let places = begin..keys.secrets.len();
        match made.stop {
            Some((path, body)) => keys.targets.push(Target {
                path,
                body,
                keys: places.collect(),
            }),
            None => keys.bystanders.extend(places),
        }
    }
    Ok(keys)
}

struct Made {
    secrets: Vec<String>,
    stop: Option<(String, Value)>,
}

struct Maker<'a> {
    server: Option<Connection>,
    operator: &'a str,
}

impl Maker<'_> {
    fn target(
        &mut self,
        wanted: Option<&Wanted>,
        shared: &str,
        tag: &str,
        at: usize,
    ) -> Outcome<Made> {
        let Some(wanted) = wanted else {
            let (_, secret) = self.key(shared)?;
            return Ok(Made {
                secrets: vec![secret],
                stop: None,
            });
        };
        let own = match wanted.way {
            Way::Suspend => Some(self.account(&format!("own-{tag}-{at}"))?),
            Way::Revoke | Way::Delete => None,
        };
        let account = own.as_deref().unwrap_or(shared);
        let mut secrets = Vec::new();
        let mut last = String::new();
        for _ in 0..wanted.keys {
            let (id, secret) = self.key(account)?;
            secrets.push(secret);
            last = id;
        }
        let stop = match wanted.way {
            Way::Revoke => (format!("/v1/api-keys/{last}"), json!({"status": "revoked"})),
            Way::Delete => (format!("/v1/api-keys/{last}"), json!({"deleted": true})),
            Way::Suspend => (
                format!("/v1/accounts/{account}"),
                json!({"status": "suspended"}),
            ),
        };
        Ok(Made {
            secrets,
            stop: Some(stop),
        })
    }

    fn account(&mut self, slug: &str) -> Outcome<String> {
        // What was not answered may have been done, and a slug is free once only.
        let answer = self.post("/v1/accounts", |attempt| {
            json!({
                "name": slug,
                "slug": format!("{slug}-{attempt}"),
                "key_limit": load::MANY_KEYS,
            })
        })?;
        load::field(&answer, "id").map(str::to_owned)
    }

    fn key(&mut self, account: &str) -> Outcome<(String, String)> {
        let body = json!({"account_id": account, "name": "to be verified"});
        let answer = self.post("/v1/api-keys", |_| body.clone())?;
        let id = load::field(&answer, "id")?.to_owned();
        Ok((id, load::field(&answer, "key")?.to_owned()))
    }

    /// A busy machine answers 503 now and then, which is not what is looked for here.
    fn post(&mut self, path: &str, body: impl Fn(u32) -> Value) -> Outcome<Value> {
        let mut last = Failure::new("there is no node to make keys on");
        let Some(server) = &mut self.server else {
            return Err(last);
        };
        for attempt in 0..ATTEMPTS {
            let said = Said {
                key: Some(self.operator),
                body: Some(&body(attempt)),
            };
            let answer = server.send("POST", path, said);
            let answer = answer.map_err(Failure::when(format!("POST {path}")))?;
            if answer.status == 201 {
                return Ok(answer.json());
            }
            last = Failure::new(format!(
                "POST {path} answered {}: {}",
                answer.status, answer.body
            ));
            if answer.status != 503 {
                break;
            }
            thread::sleep(Duration::from_millis(200));
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_keys_are_stopped_as_was_asked_for_in_every_way() {
        for revocations in [0, 1, 7, 100, 2003] {
            let wanted = mixture(revocations, &mut Chance::new(1));
            let keys: usize = wanted.iter().map(|wanted| wanted.keys).sum();
            assert_eq!(keys, revocations);
        }
        let wanted = mixture(100, &mut Chance::new(1));
        for way in [Way::Revoke, Way::Delete, Way::Suspend] {
            let of_this = wanted.iter().filter(|wanted| wanted.way == way);
            let keys: usize = of_this.map(|wanted| wanted.keys).sum();
            assert!(keys >= 20, "{way:?}: {keys}");
        }
    }
}
