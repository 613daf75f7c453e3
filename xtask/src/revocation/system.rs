//! Three nodes on one PostgreSQL, and whatever is put between them.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::apt;
use crate::http::{Connection, Said};
use crate::load::{hex, key_of, random};
use crate::node::{Node, Plan, Scratch};
use crate::postgres::{self, Server};
use crate::process::{self, Background};
use crate::sh::{self, Failure, Outcome};

use super::network::Network;
use super::proxy::{Proxy, Way};

pub(crate) const NODES: usize = 3;
const UP_TIMEOUT: Duration = Duration::from_secs(30);

/// What is between the nodes and the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Direct,
    /// Each node listens through a proxy of its own; its queries go direct.
    Listening,
    /// The first node has a network of its own, or, where that cannot be made, its connections go through proxies.
    Apart,
    /// A primary with a synchronous standby. Queries go through proxies, listeners direct.
    Replicated,
    /// The same, but the first node's queries go direct, too: to the old primary for as long as that lives.
    Split,
    /// Queries go through `PgBouncer` in transaction mode, listeners direct.
    Pooled,
}

/// What a system is made of.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    pub(crate) program: &'a Path,
    pub(crate) binaries: &'a Path,
    /// Whether what is acknowledged has to be on the disk. Nothing here cuts the power; it is for figures that count.
    pub(crate) durable: bool,
    pub(crate) bound: Duration,
    pub(crate) tick: Duration,
    pub(crate) sabotage: Option<&'a str>,
}

impl Parts<'_> {
    fn database(&self) -> Vec<&'static str> {
        if self.durable {
            postgres::DURABLE.to_vec()
        } else {
            vec!["fsync=off", "full_page_writes=off", "synchronous_commit=on"]
        }
    }
}

/// All of it. The fields go in this order: who uses something goes before it.
pub(crate) struct System {
    pub(crate) operator: String,
    members: Vec<(Plan, Node)>,
    /// Where each shows its metrics.
    metrics: Vec<SocketAddr>,
    between: Between,
    server: Server,
    scratch: Scratch,
}

/// How the first node is cut off.
enum Apart {
    Network(Network),
    Proxy(Proxy),
}

/// The second half of a pair of servers, and the ways to both.
struct Replication {
    standby: Server,
    /// What the standby hears of the primary goes through it.
    link: Proxy,
    /// What queries go through, with the port that each leads to.
    ways: [(u16, Proxy); 2],
    settings: Vec<&'static str>,
    binaries: PathBuf,
}

impl System {
    pub(crate) fn start(name: &str, shape: Shape, parts: Parts<'_>) -> Outcome<Self> {
        let mut settings = parts.database();
        if shape == Shape::Apart {
            settings.push("listen_addresses=*");
        }
        if matches!(shape, Shape::Replicated | Shape::Split) {
            settings.push("synchronous_commit=remote_apply");
        }
        let server = Server::start(parts.binaries, &settings, &[])?;
        let between = Between::make(shape, parts, &server, settings)?;
        let mut system = Self {
            operator: key_of(&random()?),
            members: Vec::new(),
            metrics: Vec::new(),
            between,
            server,
            scratch: Scratch::new(&format!("revocation-{name}"))?,
        };
        let secret = hex(&random()?);
        for node in 0..NODES {
            if let Err(failure) = system.start_node(node, &secret, parts) {
                system.keep();
                return Err(failure);
            }
        }
        Ok(system)
    }

    fn start_node(&mut self, node: usize, secret: &str, parts: Parts<'_>) -> Outcome {
        let name = format!("node{}", node + 1);
        let (url, listen) = self.between.urls(node, &self.server);
        let mut settings = vec![
            ("DATABASE_URL", url),
            ("API_KEY_SECRET", secret.to_owned()),
            ("SUPERADMIN_API_KEY", self.operator.clone()),
            ("RUST_LOG", "warn".to_owned()),
            ("NODE_NAME", name.clone()),
            ("REVOCATION_BOUND_MS", parts.bound.as_millis().to_string()),
            ("REVOCATION_TICK_MS", parts.tick.as_millis().to_string()),
        ];
        settings.extend(listen.map(|url| ("DATABASE_LISTEN_URL", url)));
        let sabotage = parts.sabotage.map(str::to_owned);
        settings.extend(sabotage.map(|name| ("LEADR_AUTH_SABOTAGE", name)));
        let mut plan = Plan::new(&name, parts.program, self.scratch.path(), settings)?;
        if let (0, Some(Apart::Network(network))) = (node, &self.between.apart) {
            plan.prefix = network.prefix();
            plan.address = network.node();
        }
        let metrics = SocketAddr::from((plan.address, postgres::free_port()?));
        plan.settings.push(("METRICS_LISTEN", metrics.to_string()));
        self.metrics.push(metrics);
        let node = plan.start()?;
        self.members.push((plan, node));
        Ok(())
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.members
            .iter()
            .map(|(plan, _)| plan.listens_at())
            .collect()
    }

    /// What the caches of all nodes did up to now: how often they answered, and how often they were asked.
    pub(crate) fn cached(&self) -> Outcome<(u64, u64)> {
        let (mut hits, mut all) = (0, 0);
        for address in &self.metrics {
            let answer =
                Connection::at(*address, UP_TIMEOUT).send("GET", "/metrics", Said::default());
            let text = answer.map_err(Failure::when("reading metrics"))?.body;
            let (some, of) = lookups(&text);
            hits += some;
            all += of;
        }
        Ok((hits, all))
    }

    /// Fails if a node has ended.
    pub(crate) fn still_runs(&mut self) -> Outcome {
        for (plan, node) in &mut self.members {
            let log = self.scratch.path().join(format!("{}.log", plan.name));
            node.still_runs().map_err(|failure| {
                Failure::new(format!("{}{}", failure.message, process::tail(&log)))
            })?;
        }
        Ok(())
    }

    /// Leaves the logs of the nodes, and says where.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.scratch.keep();
        self.scratch.path().to_owned()
    }

    pub(crate) fn signal(&self, node: usize, signal: &str) -> Outcome {
        match self.members.get(node) {
            Some((_, node)) => node.signal(signal),
            None => Ok(()),
        }
    }

    /// Ends connections of the nodes whose names are like this.
    pub(crate) fn terminate(&self, like: &str) -> Outcome<u64> {
        let statement = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE '{like}'"
        );
        let said = self.server.sql(&[&statement])?;
        said.trim()
            .parse()
            .map_err(Failure::when("counting connections"))
    }

    /// What nodes hear, of one or of all.
    pub(crate) fn listening(&self, node: Option<usize>, way: Way) {
        for (number, proxy) in self.between.listening.iter().enumerate() {
            if node.is_none_or(|node| node == number) {
                proxy.set(way);
            }
        }
    }

    /// Cuts the first node off from PostgreSQL, or mends that.
    pub(crate) fn cut_off(&self, cut: bool) -> Outcome {
        match &self.between.apart {
            Some(Apart::Network(network)) if cut => network.cut(),
            Some(Apart::Network(network)) => network.mend(),
            Some(Apart::Proxy(proxy)) => {
                proxy.set(if cut { Way::Silent } else { Way::Open });
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// How that is done.
    pub(crate) const fn how(&self) -> Option<&'static str> {
        match &self.between.apart {
            Some(Apart::Network(_)) => {
                Some("a network namespace, its interface to PostgreSQL taken down")
            }
            Some(Apart::Proxy(_)) => Some("a proxy that passes nothing on"),
            None => None,
        }
    }

    /// Restarts PostgreSQL: with `INT` in order, with `QUIT` as after a crash.
    pub(crate) fn restart_database(&mut self, signal: &str, pause: Duration) -> Outcome {
        self.server.end(signal)?;
        thread::sleep(pause);
        self.server.recover()
    }

    /// Has the standby take over: from a primary that is dead, or from one that lives, is listened to, and has lost the
    /// standby and all who query it.
    pub(crate) fn fail_over(&mut self, dead: bool) -> Outcome {
        let Some(replication) = &self.between.replication else {
            return Ok(());
        };
        if dead {
            self.server.crash()?;
        } else {
            replication.link.set(Way::Silent);
        }
        replication
            .standby
            .sql(&["SELECT pg_promote(true, 30)"])
            .map(drop)?;
        if !dead {
            replication.way(self.server.port(), Way::Cut);
        }
        Ok(())
    }

    /// What was the primary becomes the standby of what was the standby.
    pub(crate) fn pair_again(&mut self, dead: bool) -> Outcome {
        let Some(replication) = &mut self.between.replication else {
            return Ok(());
        };
        if !dead {
            self.server.crash()?;
        }
        let port = self.server.port();
        let link = Proxy::to(replication.standby.port())?;
        let standby = Server::standby(
            &replication.binaries,
            &replication.settings,
            link.port(),
            Some(port),
        )?;
        replication.link = link;
        let primary = std::mem::replace(&mut replication.standby, standby);
        self.server = primary;
        replication.way(port, Way::Open);
        wait_until_followed(&self.server)
    }
}

impl Replication {
    fn way(&self, port: u16, way: Way) {
        for (leads_to, proxy) in &self.ways {
            if *leads_to == port {
                proxy.set(way);
            }
        }
    }
}

/// Whether `PgBouncer`, by what it says of its version, can lend a connection for one transaction to those who prepare statements.
fn keeps_statements(said: &str) -> bool {
    let version = said.split_whitespace().nth(1).unwrap_or_default();
    let mut numbers = version
        .split('.')
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= (1, 21),
        _ => false,
    }
}

/// Those that the cache answered, and all.
fn lookups(metrics: &str) -> (u64, u64) {
    let lines = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("leadr_auth_verification_cache_lookups_total"));
    lines.fold((0, 0), |(hits, all), line| {
        let (labels, number) = line.rsplit_once(' ').unwrap_or_default();
        let number: u64 = number.parse().unwrap_or_default();
        let hit = if labels.contains("\"hit\"") {
            number
        } else {
            0
        };
        (hits + hit, all + number)
    })
}

/// From then on nothing is acknowledged that the standby does not have.
fn wait_until_followed(primary: &Server) -> Outcome {
    primary.sql(&[
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "SELECT pg_reload_conf()",
    ])?;
    let begun = Instant::now();
    while begun.elapsed() < UP_TIMEOUT {
        let said = primary.sql(&[
            "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming'",
        ])?;
        if said.trim() == "1" {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::new("the standby does not follow the primary"))
}

/// What is between the nodes and the database.
#[derive(Default)]
struct Between {
    listening: Vec<Proxy>,
    apart: Option<Apart>,
    pooler: Option<Pooler>,
    replication: Option<Replication>,
    split: bool,
}

impl Between {
    fn make(
        shape: Shape,
        parts: Parts<'_>,
        server: &Server,
        settings: Vec<&'static str>,
    ) -> Outcome<Self> {
        let mut between = Self::default();
        match shape {
            Shape::Direct => {}
            Shape::Listening => {
                for _ in 0..NODES {
                    between.listening.push(Proxy::to(server.port())?);
                }
            }
            Shape::Apart => between.apart = Some(Apart::make(server)?),
            Shape::Replicated | Shape::Split => {
                between.split = shape == Shape::Split;
                let link = Proxy::to(server.port())?;
                let standby = Server::standby(parts.binaries, &settings, link.port(), None)?;
                let ways = [server.port(), standby.port()];
                let [first, second] = ways;
                let replication = Replication {
                    link,
                    ways: [(first, Proxy::to(first)?), (second, Proxy::to(second)?)],
                    standby,
                    settings,
                    binaries: parts.binaries.to_owned(),
                };
                wait_until_followed(server)?;
                between.replication = Some(replication);
            }
            Shape::Pooled => between.pooler = Some(Pooler::start(server)?),
        }
        Ok(between)
    }

    /// What a node gets as `DATABASE_URL` and as `DATABASE_LISTEN_URL`.
    fn urls(&self, node: usize, server: &Server) -> (String, Option<String>) {
        let at = |port: u16| format!("postgres://postgres@127.0.0.1:{port}/postgres");
        if let Some(proxy) = self.listening.get(node) {
            return (server.url(), Some(at(proxy.port())));
        }
        if let (0, Some(apart)) = (node, &self.apart) {
            let url = match apart {
                Apart::Proxy(proxy) => at(proxy.port()),
                Apart::Network(network) => format!(
                    "postgres://postgres@{}:{}/postgres",
                    network.store(),
                    server.port()
                ),
            };
            return (url, None);
        }
        if let Some(replication) = &self.replication {
            let pair = |ports: [u16; 2]| {
                let hosts = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
                format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write")
            };
            let [(first, one), (second, two)] = &replication.ways;
            if self.split && node == 0 {
                return (pair([*first, *second]), None);
            }
            return (
                pair([one.port(), two.port()]),
                Some(pair([*first, *second])),
            );
        }
        if let Some(pooler) = &self.pooler {
            return (at(pooler.port), Some(server.url()));
        }
        (server.url(), None)
    }
}

impl Apart {
    fn make(server: &Server) -> Outcome<Self> {
        if Network::is_possible() {
            let made = Network::new().and_then(|network| {
                server.admit(&network.addresses())?;
                Ok(network)
            });
            match made {
                Ok(network) => return Ok(Self::Network(network)),
                Err(failure) => eprintln!("no network namespace: {}", failure.message),
            }
        }
        Ok(Self::Proxy(Proxy::to(server.port())?))
    }
}

/// A running `PgBouncer`.
struct Pooler {
    _process: Background,
    port: u16,
}

impl Pooler {
    fn start(server: &Server) -> Outcome<Self> {
        let program = Self::find_or_install()?;
        let said = sh::output(sh::command(&program).arg("--version"))?;
        if !keeps_statements(&said) {
            return Err(Failure::new(format!(
                "{} keeps no prepared statements in transaction mode, which 1.21 and later do: put one on the PATH",
                said.lines().next().unwrap_or("this PgBouncer")
            )));
        }
        let port = postgres::free_port()?;
        let folder = server.folder();
        let users = folder.join("pgbouncer.users");
        fs::write(&users, "\"postgres\" \"\"\n").map_err(Failure::when(users.display()))?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = transaction\nmax_client_conn = 300\ndefault_pool_size = 30\n\
             max_prepared_statements = 200\n",
            server.port(),
            users.display()
        );
        let file = folder.join("pgbouncer.ini");
        fs::write(&file, text).map_err(Failure::when(file.display()))?;
        let log = folder.join("pgbouncer.log");
        let mut command = process::tethered("KILL", &[], program);
        if apt::is_root() {
            command.args(["-u", "postgres"]);
        }
        command.arg(&file);
        let mut process = Background::start("PgBouncer", &mut command, &log)?;
        let begun = Instant::now();
        while begun.elapsed() < UP_TIMEOUT {
            process.still_runs().map_err(|failure| {
                Failure::new(format!("{}{}", failure.message, process::tail(&log)))
            })?;
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self {
                    _process: process,
                    port,
                });
            }
            thread::sleep(Duration::from_millis(20));
        }
        Err(Failure::new("PgBouncer accepts no connections"))
    }

    fn find_or_install() -> Outcome<PathBuf> {
        let instead = "run `sudo apt-get install pgbouncer`";
        if let Some(program) = Self::find() {
            return Ok(program);
        }
        apt::install("pgbouncer", "the pooler PgBouncer is not there", instead)?;
        Self::find().ok_or_else(|| Failure::new(format!("PgBouncer is not found: {instead}")))
    }

    /// Debian keeps it where only root's shell looks.
    fn find() -> Option<PathBuf> {
        let debian = PathBuf::from("/usr/sbin/pgbouncer");
        sh::find("pgbouncer").or_else(|| debian.is_file().then_some(debian))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pooler_that_keeps_no_statements_is_known() {
        for (said, keeps) in [
            ("PgBouncer 1.18.0\nlibevent 2.1.12-stable", false),
            ("PgBouncer 1.21.0\n", true),
            ("PgBouncer 2.0.0\n", true),
            ("", false),
        ] {
            assert_eq!(keeps_statements(said), keeps, "{said}");
        }
    }

    #[test]
    fn lookups_are_read_from_metrics() {
        let text = "# TYPE leadr_auth_verification_cache_lookups_total counter\n\
                    leadr_auth_verification_cache_lookups_total{outcome=\"hit\"} 7\n\
                    leadr_auth_verification_cache_lookups_total{outcome=\"miss\"} 2\n\
                    leadr_auth_verification_cache_keys 5\n";
        assert_eq!(lookups(text), (7, 9));
    }
}
