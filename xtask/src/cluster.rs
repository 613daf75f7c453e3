//! Nodes that serve from one store, of any kind, for a command that is a client of theirs.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::Kept;
use crate::http::{self, Answer, Connection, Said};
use crate::load::{hex, key_of, random};
use crate::node::{Node, Plan, Scratch};
use crate::postgres::{self, Server};
use crate::process;
use crate::sh::{Failure, Outcome};

const FILE: &str = "leadr-auth.db";
const TIMEOUT: Duration = Duration::from_secs(30);

/// What it is made of.
pub(crate) struct Parts<'a> {
    /// For its folder and its messages.
    pub(crate) name: &'a str,
    pub(crate) program: &'a Path,
    pub(crate) kept: Kept,
    /// How many nodes; others than PostgreSQL take one.
    pub(crate) nodes: usize,
    /// The settings of PostgreSQL itself.
    pub(crate) database: &'a [&'a str],
    /// Programs to run the nodes and the database under.
    pub(crate) prefixes: [Vec<String>; 2],
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// All of it. The fields go in this order: who uses something goes before it.
pub(crate) struct Cluster {
    pub(crate) operator: String,
    members: Vec<(Plan, Node)>,
    metrics: Vec<SocketAddr>,
    clients: Vec<Connection>,
    pub(crate) database: Option<Server>,
    scratch: Scratch,
}

impl Cluster {
    pub(crate) fn start(parts: Parts<'_>) -> Outcome<Self> {
        let scratch = Scratch::new(parts.name)?;
        let [node_prefix, database_prefix] = parts.prefixes;
        let database = match parts.kept {
            Kept::Postgres => {
                let binaries = postgres::find_or_install_binaries()?;
                Some(Server::start(&binaries, parts.database, &database_prefix)?)
            }
            Kept::Memory | Kept::Sqlite => None,
        };
        let url = match (&database, parts.kept) {
            (Some(server), _) => server.url(),
            (None, Kept::Memory) => "memory:".to_owned(),
            (None, _) => format!("sqlite:{}", scratch.path().join(FILE).display()),
        };
        let mut cluster = Self {
            operator: key_of(&random()?),
            members: Vec::new(),
            metrics: Vec::new(),
            clients: Vec::new(),
            database,
            scratch,
        };
        let secret = hex(&random()?);
        for number in 1..=parts.nodes {
            let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, postgres::free_port()?));
            let mut settings = vec![
                ("DATABASE_URL", url.clone()),
                ("API_KEY_SECRET", secret.clone()),
                ("SUPERADMIN_API_KEY", cluster.operator.clone()),
                ("METRICS_LISTEN", metrics.to_string()),
                ("RUST_LOG", "warn".to_owned()),
                // A busy machine is slow, and that is not what is looked for.
                ("DATABASE_TIMEOUT_MS", "20000".to_owned()),
                ("STATEMENT_TIMEOUT_MS", "60000".to_owned()),
            ];
            settings.extend(parts.settings.iter().cloned());
            let name = format!("node{number}");
            let mut plan = Plan::new(&name, parts.program, cluster.scratch.path(), settings)?;
            plan.prefix.clone_from(&node_prefix);
            let node = plan.start()?;
            cluster
                .clients
                .push(Connection::at(plan.listens_at(), TIMEOUT));
            cluster.metrics.push(metrics);
            cluster.members.push((plan, node));
        }
        Ok(cluster)
    }

    /// Ends the nodes, does something to their store, and starts them again.
    pub(crate) fn while_ended(&mut self, work: impl FnOnce(&Self) -> Outcome) -> Outcome {
        let mut plans = Vec::new();
        for (plan, node) in self.members.drain(..) {
            node.terminate(TIMEOUT)?;
            plans.push(plan);
        }
        work(self)?;
        for plan in plans {
            let node = plan.start()?;
            self.members.push((plan, node));
        }
        Ok(())
    }

    /// The SQLite database, where that is what the nodes have.
    pub(crate) fn file(&self) -> PathBuf {
        self.scratch.path().join(FILE)
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let plans = self.members.iter().map(|(plan, _)| plan);
        plans.map(Plan::listens_at).collect()
    }

    /// Leaves the logs of the nodes for somebody to look at.
    pub(crate) fn keep(&mut self) {
        self.scratch.keep();
        eprintln!(
            "the logs of the nodes are in {}",
            self.scratch.path().display()
        );
    }

    /// Fails if a node has ended.
    pub(crate) fn still_runs(&mut self) -> Outcome {
        for (plan, node) in &mut self.members {
            let log = plan.folder.join(format!("{}.log", plan.name));
            node.still_runs().map_err(|failure| {
                Failure::new(format!("{}{}", failure.message, process::tail(&log)))
            })?;
        }
        Ok(())
    }

    /// A request of the operator's to one of the nodes, counted around.
    pub(crate) fn ask(
        &mut self,
        node: usize,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<Answer> {
        let number = node.checked_rem(self.clients.len()).unwrap_or_default();
        let said = Said {
            key: Some(&self.operator),
            body,
        };
        let client = self.clients.get_mut(number);
        let client = client.ok_or_else(|| Failure::new("there is no node"))?;
        let answer = client.send(method, path, said);
        answer.map_err(Failure::when(format!("{method} {path}")))
    }

    /// The same, whose answer has to have this status.
    pub(crate) fn expect(
        &mut self,
        status: u16,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Outcome<Answer> {
        let answer = self.ask(0, method, path, body)?;
        if answer.status == status {
            return Ok(answer);
        }
        Err(Failure::new(format!(
            "{method} {path} answered {}: {}",
            answer.status, answer.body
        )))
    }

    /// A request as one that the operator presents its key with, written out.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[String],
        body: &Value,
    ) -> String {
        let credential = http::credential(&self.operator);
        let headers: Vec<String> = headers.iter().cloned().chain([credential]).collect();
        http::request(method, path, &headers, &body.to_string())
    }

    /// Waits until every node may answer from what it has looked up.
    pub(crate) fn wait_for_leases(&self) -> Outcome {
        let begun = Instant::now();
        while begun.elapsed() < TIMEOUT {
            let lease = "leadr_auth_verification_cache_lease_seconds ";
            if self.metric(lease)?.iter().all(|seconds| *seconds > 0.0) {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::new("a node's cache never got a lease"))
    }

    /// A metric of each node, by its name and labels as they are shown.
    pub(crate) fn metric(&self, name: &str) -> Outcome<Vec<f64>> {
        let read = |address: &SocketAddr| {
            let answer = Connection::at(*address, TIMEOUT).send("GET", "/metrics", Said::default());
            let text = answer.map_err(Failure::when("GET /metrics"))?.body;
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok())
                .ok_or_else(|| Failure::new(format!("/metrics has no {name}")))
        };
        self.metrics.iter().map(read).collect()
    }
}
