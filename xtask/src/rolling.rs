//! `cargo xtask rolling`: nodes behind a load balancer are restarted one after the other, and no request fails.
//!
//! haproxy asks each node's `/readyz` and repeats nothing. Clients keep their connections open and repeat nothing either, so
//! each request that a node drops is counted. A node that is asked to stop says so by `/readyz` while it still serves; that
//! has to be enough.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::apt;
use crate::http::{Answer, Connection, Said};
use crate::load::{self, Client};
use crate::node::{self, Node, Plan, Profile};
use crate::number;
use crate::postgres::{self, Server};
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};

const NODES: usize = 2;
const CLIENTS: usize = 8;
/// Of so many requests of a client, one makes a key.
const CREATE_EVERY: u64 = 10;
/// What a client waits between two requests.
const PAUSE: Duration = Duration::from_millis(6);
/// How long a node goes on serving after it has been asked to stop, in seconds. The balancer asks every tenth of a second.
const GRACE: usize = 2;
const END_TIMEOUT: Duration = Duration::from_mins(1);
const UP_TIMEOUT: Duration = Duration::from_secs(30);
/// How many failures are described; the rest is counted.
const DESCRIBED: usize = 20;
/// How many restarts `ci` does.
const SHORT: usize = 2;

/// `rolling [--restarts <n>] [--grace <seconds>] [--dev]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    run(&Options::parse(arguments)?)
}

/// The short form, for `ci`.
pub(crate) fn short() -> Outcome {
    run(&Options {
        restarts: SHORT,
        grace: GRACE,
        profile: Profile::Dev,
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    restarts: usize,
    grace: usize,
    profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            restarts: 50,
            grace: GRACE,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--restarts" => options.restarts = number(word, words.next())?,
                "--grace" => options.grace = number(word, words.next())?,
                "--dev" => options.profile = Profile::Dev,
                _ => return Err(Failure::usage(format!("rolling does not know `{word}`"))),
            }
        }
        Ok(options)
    }
}

fn run(options: &Options) -> Outcome {
    ensure_haproxy()?;
    let binaries = postgres::find_or_install_binaries()?;
    let program = node::build(options.profile)?;
    let database = Server::start(&binaries, postgres::FAST, &[])?;
    let mut cluster = Cluster::start(&program, &database, options.grace)?;
    let key = tenant_key(cluster.balancer.port, &cluster.operator)?;

    let stop = AtomicBool::new(false);
    let begun = Instant::now();
    let port = cluster.balancer.port;
    let (restarted, loads) = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| Load::run(port, &key, begun, &stop)))
            .collect();
        let restarted = cluster.restart_in_turn(options.restarts, begun);
        stop.store(true, Ordering::Relaxed);
        let loads = clients
            .into_iter()
            .map(|client| client.join().map_err(|_| Failure::new("a client panicked")));
        (restarted, loads.collect::<Outcome<Vec<Load>>>())
    });
    let mut load = Load::default();
    for other in loads? {
        load.add(other);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let unknown = load.lost(port)?;
    println!(
        "{} restarts of {NODES} nodes: {} requests ({:.0}/s), {} failed; slowest {} ms; {} keys made, {unknown} of them lost; \
         {seconds:.0} s",
        options.restarts,
        load.requests,
        f64::from(u32::try_from(load.requests).unwrap_or(u32::MAX)) / seconds,
        load.failures.len(),
        load.slowest.as_millis(),
        load.keys.len(),
    );
    let said = std::fs::read_to_string(database.folder().join("haproxy.log")).unwrap_or_default();
    restarted?;
    if load.failures.is_empty() && unknown == 0 {
        return Ok(());
    }
    let mut message = String::from("requests failed while nodes were restarted");
    for failure in load.failures.iter().take(DESCRIBED) {
        let _ = write!(message, "\n  {failure}");
    }
    for line in said
        .lines()
        .filter(|line| !line.starts_with('['))
        .take(DESCRIBED)
    {
        let _ = write!(message, "\n  haproxy: {line}");
    }
    Err(Failure::new(message))
}

fn ensure_haproxy() -> Outcome {
    if sh::find("haproxy").is_some() {
        return Ok(());
    }
    apt::install(
        "haproxy",
        "the load balancer haproxy is not there",
        "run `sudo apt-get install haproxy`",
    )
}

/// The balancer, and the nodes behind it.
struct Cluster {
    balancer: Balancer,
    nodes: Vec<(Plan, Option<Node>)>,
    operator: String,
}

impl Cluster {
    fn start(program: &Path, database: &Server, grace: usize) -> Outcome<Self> {
        let operator = load::key_of(&load::random()?);
        let secret = load::hex(&load::random()?);
        let mut nodes = Vec::new();
        for number in 1..=NODES {
            let settings = vec![
                ("DATABASE_URL", database.url()),
                ("API_KEY_SECRET", secret.clone()),
                ("SUPERADMIN_API_KEY", operator.clone()),
                ("RUST_LOG", "warn".to_owned()),
                ("SHUTDOWN_GRACE_SECONDS", grace.to_string()),
                // A busy machine is slow, and that is not what is looked for here.
                ("DATABASE_TIMEOUT_MS", "5000".to_owned()),
            ];
            let plan = Plan::new(
                &format!("node{number}"),
                program,
                database.folder(),
                settings,
            )?;
            let node = plan.start()?;
            nodes.push((plan, Some(node)));
        }
        let ports: Vec<u16> = nodes.iter().map(|(plan, _)| plan.port).collect();
        let mut balancer = Balancer::start(&ports, database.folder())?;
        balancer.wait_until_all_are_up()?;
        Ok(Self {
            balancer,
            nodes,
            operator,
        })
    }

    /// Asks one node after the other to stop, and starts it again. The next one's turn comes when the balancer has seen
    /// that this one is back.
    fn restart_in_turn(&mut self, restarts: usize, begun: Instant) -> Outcome {
        for number in 0..restarts {
            let at = number % NODES;
            let Some((plan, slot)) = self.nodes.get_mut(at) else {
                break;
            };
            if let Some(node) = slot.take() {
                let asked = begun.elapsed();
                let status = node.terminate(END_TIMEOUT)?;
                eprintln!(
                    "{}: asked to stop at {:.2} s, ended at {:.2} s",
                    plan.name,
                    asked.as_secs_f64(),
                    begun.elapsed().as_secs_f64()
                );
                if status.code() != Some(0) {
                    return Err(Failure::new(format!("{} ended with {status}", plan.name)));
                }
            }
            *slot = Some(plan.start()?);
            self.balancer.wait_until_all_are_up()?;
        }
        Ok(())
    }
}

/// A running haproxy.
struct Balancer {
    process: Background,
    port: u16,
    statistics: u16,
}

impl Balancer {
    fn start(nodes: &[u16], folder: &Path) -> Outcome<Self> {
        let (port, statistics) = (postgres::free_port()?, postgres::free_port()?);
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, configuration(port, statistics, nodes))
            .map_err(Failure::when(file.display()))?;
        let mut command = process::tethered("KILL", &[], "haproxy");
        command.arg("-db").arg("-f").arg(&file);
        let process = Background::start("haproxy", &mut command, &folder.join("haproxy.log"))?;
        Ok(Self {
            process,
            port,
            statistics,
        })
    }

    fn wait_until_all_are_up(&mut self) -> Outcome {
        let begun = Instant::now();
        while begun.elapsed() < UP_TIMEOUT {
            self.process.still_runs()?;
            let answer = Connection::to(self.statistics).send("GET", "/;csv", Said::default());
            if answer.is_ok_and(|answer| up(&answer.body) == Some(NODES)) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::new("haproxy does not see that all nodes are up"))
    }
}

/// How many nodes are up, by haproxy's own statistics.
fn up(statistics: &str) -> Option<usize> {
    let mut lines = statistics.lines();
    let columns: Vec<&str> = lines.next()?.trim_start_matches("# ").split(',').collect();
    let place = |name: &str| columns.iter().position(|column| *column == name);
    let (server, status) = (place("svname")?, place("status")?);
    let is_up = |line: &&str| {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |place: usize| fields.get(place).copied().unwrap_or_default();
        field(server).starts_with("node") && field(status) == "UP"
    };
    Some(lines.filter(is_up).count())
}

/// What a careful operator would write, with nothing in it that would hide a failed request. A node that says that it is
/// not ready is left out at once; one that is only slow to say how it is stays in.
fn configuration(port: u16, statistics: u16, nodes: &[u16]) -> String {
    let mut text = format!(
        "global\n  log stdout format raw local0\n\
         defaults\n  mode http\n  log global\n  option httplog\n  option dontlog-normal\n  retries 0\n\
         \x20 timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout check 5s\n\
         frontend clients\n  bind 127.0.0.1:{port}\n  default_backend nodes\n\
         listen statistics\n  bind 127.0.0.1:{statistics}\n  no log\n  stats enable\n  stats uri /\n\
         backend nodes\n  balance roundrobin\n  http-reuse safe\n  option httpchk GET /readyz\n\
         \x20 http-check expect status 200\n  default-server check inter 100ms fall 1 rise 1\n"
    );
    for (number, node) in (1..).zip(nodes) {
        let _ = writeln!(text, "  server node{number} 127.0.0.1:{node}");
    }
    text
}

/// A tenant's key, made through the balancer.
fn tenant_key(port: u16, operator: &str) -> Outcome<Tenant> {
    let client = Client {
        port,
        key: Some(operator),
    };
    let body = json!({"name": "Load", "slug": "load", "key_limit": load::MANY_KEYS});
    let account = client.post("/v1/accounts", &body)?;
    let account = load::field(&account, "id")?.to_owned();
    let body = json!({"account_id": account, "name": "caller"});
    let key = client.post("/v1/api-keys", &body)?;
    Ok(Tenant {
        path: format!("/v1/api-keys/{}", load::field(&key, "id")?),
        key: load::field(&key, "key")?.to_owned(),
        account,
    })
}

struct Tenant {
    account: String,
    path: String,
    key: String,
}

/// What clients did, and what came of it.
#[derive(Default)]
struct Load {
    requests: u64,
    slowest: Duration,
    failures: Vec<String>,
    /// The path and the key of each that was made.
    keys: Vec<(String, String)>,
}

impl Load {
    /// Asks until told to stop: with a key for itself, and now and then for another key.
    fn run(port: u16, tenant: &Tenant, begun: Instant, stop: &AtomicBool) -> Self {
        let mut load = Self::default();
        let mut server = Connection::to(port);
        let create = json!({"account_id": tenant.account, "name": "made under load"});
        while !stop.load(Ordering::Relaxed) {
            load.requests += 1;
            let creates = load.requests % CREATE_EVERY == 0;
            let (method, path, body, expected) = if creates {
                ("POST", "/v1/api-keys", Some(&create), 201)
            } else {
                ("GET", tenant.path.as_str(), None, 200)
            };
            let said = Said {
                key: Some(&tenant.key),
                body,
            };
            let asked = Instant::now();
            let answered = server.send(method, path, said);
            load.slowest = load.slowest.max(asked.elapsed());
            match answered {
                Ok(answer) if answer.status == expected => {
                    if creates {
                        load.keys.extend(made(&answer));
                    }
                }
                other => load.failures.push(format!(
                    "{method} asked at {:.2} s: {other:?}",
                    (asked - begun).as_secs_f64()
                )),
            }
            thread::sleep(PAUSE);
        }
        load
    }

    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.slowest = self.slowest.max(other.slowest);
        self.failures.extend(other.failures);
        self.keys.extend(other.keys);
    }

    /// How many of the keys that were made do not work.
    fn lost(&self, port: u16) -> Outcome<usize> {
        let mut server = Connection::to(port);
        let mut lost = 0;
        for (path, key) in &self.keys {
            let said = Said {
                key: Some(key),
                body: None,
            };
            let answer = server
                .send("GET", path, said)
                .map_err(Failure::when(format!("GET {path}")))?;
            lost += usize::from(answer.status != 200);
        }
        Ok(lost)
    }
}

fn made(answer: &Answer) -> Option<(String, String)> {
    let key = answer.json();
    let id = load::field(&key, "id").ok()?;
    let key = load::field(&key, "key").ok()?;
    Some((format!("/v1/api-keys/{id}"), key.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let options = Options::parse(&words("--restarts 3 --grace 0 --dev")).unwrap();
        assert_eq!(
            options,
            Options {
                restarts: 3,
                grace: 0,
                profile: Profile::Dev
            }
        );
        for line in ["--restarts", "--restarts x", "now"] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }

    #[test]
    fn nodes_that_are_up_are_counted() {
        let statistics = "# pxname,svname,status,\nclients,FRONTEND,OPEN,\nnodes,node1,UP,\n\
                          nodes,node2,DOWN,\nnodes,BACKEND,UP,\n";
        assert_eq!(up(statistics), Some(1));
        assert_eq!(up("<html>"), None);
    }

    #[test]
    fn the_balancer_repeats_nothing() {
        let text = configuration(1, 2, &[3, 4]);
        assert!(text.contains("retries 0\n") && !text.contains("redispatch"));
        assert!(text.contains("server node2 127.0.0.1:4\n"), "{text}");
    }
}
