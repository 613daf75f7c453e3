//! What is measured: each scenario is some kinds of requests, and the floor that it stands beside.

use super::loader::{Kind, request};
use super::{CREATORS, Data};

/// The floor's path for what it refuses.
pub(crate) const REFUSED: &str = "/refused";
/// A key that nobody has.
pub(crate) const NOBODYS: &str = "ldr_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// How much of a key stands in its row as it is.
const PREFIX: usize = 14;
const BATCH: u32 = 100;
/// How many keys a flood repeats that nobody has.
pub(crate) const UNKNOWN: u32 = 10_000;
/// How many keys are hot in a flood of others, which is one request in so many.
const HOT: u32 = 1_000;
const FLOOD: u32 = 99;

/// What is said of the requests of each connection that makes keys.
const CREATE: [&str; CREATORS as usize] = [
    "create 1", "create 2", "create 3", "create 4", "create 5", "create 6", "create 7", "create 8",
];

/// An account in which keys are made.
pub(crate) struct Creator {
    pub(crate) account: String,
    pub(crate) key: String,
}

/// The row of a key, with texts of the same lengths as the service writes.
const ROW: &str = "\
INSERT INTO api_keys (id, account_id, name, key_hash, key_prefix, status, created_at, updated_at, pepper_id)
VALUES (gen_random_uuid(), (ARRAY[{accounts}]::uuid[])[(:client_id)::int + 1], 'made by the benchmark',
  md5((:r)::text) || md5((:r)::text || 'a'), 'ldr_' || substr(md5((:r)::text || 'b'), 1, 10), 'active',
  now(), now(), 'default')";

/// What the service writes and reads for a key: who asks for it, the row of the key, the entry of the audit trail, and the end
/// of its chain. In as few statements as can be, and nobody looks whether the account is live.
const ALL_ROWS: &str = "\
SELECT * FROM api_keys JOIN accounts ON accounts.id = api_keys.account_id
WHERE key_prefix = (ARRAY[{prefixes}])[(:client_id)::int + 1];
WITH head AS (
  UPDATE audit_heads SET seq = seq + 1, hash = decode(md5((:r)::text || 'c') || md5((:r)::text || 'd'), 'hex'),
    code = decode(md5((:r)::text || 'e') || md5((:r)::text || 'f'), 'hex')
  WHERE chain = (ARRAY[{accounts}]::uuid[])[(:client_id)::int + 1]
  RETURNING chain, seq, hash
), key AS (
  {row}
  RETURNING id, account_id
)
INSERT INTO audit_entries (
  chain, seq, at, action, actor, actor_key_id, actor_account_id, request_id, client, key_id, after, previous, hash
)
SELECT chain, seq, now(), 'key.created', 'key', id, account_id, '18c9a57f88936e6d-8', '127.0.0.1', id,
  repeat('x', 108), hash, hash
FROM head, key";

fn script(template: &str, creators: &[Creator]) -> String {
    let quoted = |text: fn(&Creator) -> Option<&str>| {
        let texts = creators.iter().filter_map(text);
        let quoted: Vec<_> = texts.map(|text| format!("'{text}'")).collect();
        quoted.join(",")
    };
    let statements = template
        .replace("{row}", ROW)
        .replace("{accounts}", &quoted(|creator| Some(&creator.account)))
        .replace("{prefixes}", &quoted(|creator| creator.key.get(..PREFIX)));
    format!("\\set r random(1, 9000000000000000000)\n{statements};\n")
}

/// What pgbench does as its transactions, by the names that they have in the report.
pub(crate) fn pgbench(creators: &[Creator]) -> [(&'static str, String); 2] {
    [
        ("pgbench", script(ROW, creators)),
        ("pgbench, all rows", script(ALL_ROWS, creators)),
    ]
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Each connection when it was answered.
    Closed,
    /// At a constant rate: half of what the scenario's closed form and its floor's were able to do.
    Half,
}

#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own, and none rules out another"
)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) floor: Option<&'static str>,
    /// The closed form that says what rate is held.
    pub(crate) paced_by: Option<&'static str>,
    pub(crate) pace: Pace,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) connections: u32,
    /// How many keys a request has.
    pub(crate) per_request: u32,
    pub(crate) by_connection: bool,
    pub(crate) counts_hits: bool,
    /// Each key of the first kind is presented once before anything is measured.
    pub(crate) warms: bool,
    /// The load never sleeps: no answer of either server wakes it up. Only where no database needs the load's core.
    pub(crate) awake: bool,
}

impl Scenario {
    fn new(name: impl Into<String>, connections: u32, kinds: Vec<Kind>) -> Self {
        Self {
            name: name.into(),
            floor: None,
            paced_by: None,
            pace: Pace::Closed,
            kinds,
            connections,
            per_request: 1,
            by_connection: false,
            counts_hits: false,
            warms: false,
            awake: false,
        }
    }

    /// Whether the floor is to answer.
    pub(crate) fn is_floor(&self) -> bool {
        self.name.starts_with("floor")
    }

    fn beside(mut self, floor: &'static str) -> Self {
        self.floor = Some(floor);
        self
    }

    fn at_half(mut self, paced_by: &'static str, floor: &'static str) -> Self {
        self.pace = Pace::Half;
        (self.paced_by, self.floor) = (Some(paced_by), Some(floor));
        self
    }

    fn per(mut self, keys: u32) -> Self {
        self.per_request = keys;
        self
    }

    fn warm(mut self) -> Self {
        self.warms = true;
        self
    }

    fn awake(mut self) -> Self {
        self.awake = true;
        self
    }

    fn counting_hits(mut self) -> Self {
        self.counts_hits = true;
        self
    }
}

fn kind(name: &'static str, data: &Data, expect: u16, template: String) -> Kind {
    Kind {
        name,
        weight: 1,
        template,
        keys: Some(data.plain.clone()),
        take: None,
        expect,
    }
}

pub(crate) fn forward_auth(data: &Data) -> Kind {
    kind(
        "hot",
        data,
        204,
        request("GET", "/v1/forward-auth", "{key}", None),
    )
}

fn verify(data: &Data) -> Kind {
    let body = Some(r#"{"key":"{key}"}"#);
    kind(
        "hot",
        data,
        200,
        request("POST", "/v1/verify", &data.operator, body),
    )
}

fn batch(data: &Data) -> Kind {
    let keys: Vec<&str> = (0..BATCH).map(|_| r#"{"key":"{key}"}"#).collect();
    let body = format!(r#"{{"keys":[{}]}}"#, keys.join(","));
    kind(
        "hot",
        data,
        200,
        request("POST", "/v1/verify/batch", &data.operator, Some(&body)),
    )
}

/// Keys that nobody has, and that were never sent before.
fn fresh() -> Kind {
    Kind {
        name: "unknown",
        weight: FLOOD,
        template: request("GET", "/v1/forward-auth", "{fresh}", None),
        keys: None,
        take: None,
        expect: 401,
    }
}

/// Ten thousand keys that nobody has, again and again.
fn repeated(data: &Data) -> Kind {
    Kind {
        template: request("GET", "/v1/forward-auth", "{key}", None),
        keys: Some(data.plain.with_extension("unknown")),
        ..fresh()
    }
}

/// The requests whose answers the floor gives.
pub(crate) fn recorded(data: &Data) -> [Kind; 4] {
    [forward_auth(data), verify(data), batch(data), fresh()]
}

fn refused(mut kind: Kind) -> Kind {
    kind.template = kind.template.replacen("/v1/forward-auth", REFUSED, 1);
    kind
}

fn hot(data: &Data) -> Kind {
    Kind {
        take: Some(HOT),
        ..forward_auth(data)
    }
}

pub(crate) fn cached(data: &Data, creators: &[Creator], connections: u32) -> Vec<Scenario> {
    // These ask the store, and so a database may need the load's core.
    let asking = |name: &str, kinds| Scenario::new(name, connections, kinds);
    let new = |name: &str, kinds| asking(name, kinds).awake();
    let livez = Kind {
        keys: None,
        ..kind("livez", data, 200, request("GET", "/livez", NOBODYS, None))
    };
    let rename = Kind {
        name: "rename",
        weight: 1,
        template: request(
            "PATCH",
            "/v1/api-keys/{id}",
            &data.operator,
            Some(r#"{"name":"Key {word}"}"#),
        ),
        ..verify(data)
    };
    let ninety_nine = |kind| Kind { weight: 99, ..kind };
    let create = CREATE.iter().zip(creators).map(|(name, creator)| {
        let Creator { account, key } = creator;
        let body = format!(r#"{{"account_id":"{account}","name":"made by the benchmark"}}"#);
        Kind {
            keys: None,
            ..kind(
                name,
                data,
                201,
                request("POST", "/v1/api-keys", key, Some(&body)),
            )
        }
    });
    let one = |name: &str| Scenario::new(name, 1, vec![forward_auth(data)]).awake();
    vec![
        new("floor/forward-auth", vec![forward_auth(data)]),
        new("forward-auth", vec![forward_auth(data)]).beside("floor/forward-auth"),
        new("livez", vec![livez]).beside("floor/forward-auth"),
        new("floor/forward-auth/open", vec![forward_auth(data)])
            .at_half("forward-auth", "floor/forward-auth"),
        new("forward-auth/open", vec![forward_auth(data)])
            .at_half("forward-auth", "floor/forward-auth"),
        one("floor/forward-auth/one"),
        one("forward-auth/one").beside("floor/forward-auth/one"),
        new("floor/verify", vec![verify(data)]),
        new("verify", vec![verify(data)]).beside("floor/verify"),
        new("floor/batch", vec![batch(data)]).per(BATCH),
        new("batch", vec![batch(data)])
            .beside("floor/batch")
            .per(BATCH),
        new("floor/flood", vec![refused(fresh()), hot(data)]),
        new("flood/repeated", vec![repeated(data), hot(data)])
            .beside("floor/flood")
            .warm(),
        // What is left of the hot keys after it.
        new("flood/after", vec![hot(data)]).counting_hits(),
        asking("flood/fresh", vec![fresh(), hot(data)])
            .beside("floor/flood")
            .counting_hits(),
        asking("mixed", vec![ninety_nine(verify(data)), rename]).beside("floor/verify"),
        Scenario {
            by_connection: true,
            ..Scenario::new("creation", CREATORS, create.collect())
        },
    ]
}

pub(crate) fn uncached(data: &Data, connections: u32) -> Vec<Scenario> {
    let new = |name: &str, kinds| Scenario::new(name, connections, kinds);
    vec![
        new("floor/uncached", vec![forward_auth(data)]),
        new("uncached/forward-auth", vec![forward_auth(data)]).beside("floor/uncached"),
        new("uncached/verify", vec![verify(data)]),
    ]
}

pub(crate) fn in_process(data: &Data, connections: u32) -> Vec<Scenario> {
    let kinds = vec![kind(
        "hot",
        data,
        200,
        request("GET", "/docs", "{key}", None),
    )];
    vec![
        Scenario::new("floor/in-process", connections, kinds.clone()).awake(),
        Scenario::new("in-process", connections, kinds)
            .beside("floor/in-process")
            .awake(),
    ]
}

/// Verification of one of `hot` keys, with `stored` in the store.
pub(crate) fn stored(data: &Data, how: &str, stored: &str, hot: u32, connections: u32) -> Scenario {
    let kinds = vec![Kind {
        take: Some(hot),
        ..forward_auth(data)
    }];
    Scenario::new(format!("stored/{how}/{stored}"), connections, kinds)
}
