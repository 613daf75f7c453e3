//! `cargo xtask bench`: what verifying a key costs, beside a bare server that sends as much and verifies nothing.
//!
//! Absolute figures are the machine's. So every scenario has a *floor*, which is measured right before it in the same round,
//! and the result is the ratio of the two: rounds of all in turn, medians with the least and the greatest. The load saturates
//! a floor's core, so that what the server's process takes of its core is measured too, and divided by the requests. Latency is
//! measured at a constant rate as well, where a closed loop hides what stalls.

mod loader;
pub(crate) mod pinning;
mod plot;
mod report;
mod scenarios;
mod servers;

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::chance::Chance;
use crate::load::{self, Client};
use crate::node::{Profile, Scratch};
use crate::number;
use crate::postgres;
use crate::sh::{self, Failure, Outcome};
use loader::{Amount, Kind, Load, Loader, Measured, request};
use pinning::Pinning;
use report::{Report, Sample};
use scenarios::{Creator, Pace, Scenario};
use servers::{Programs, Server, bare};

/// What servers keep their keys in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Memory,
    Sqlite,
    Postgres,
}

impl Kept {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Sqlite, Self::Postgres];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

    /// The one that an option names.
    pub(crate) fn named(value: Option<&str>) -> Outcome<Self> {
        let found = Self::ALL
            .into_iter()
            .find(|kept| Some(kept.name()) == value);
        found.ok_or_else(|| Failure::usage("--store takes memory, sqlite or postgres"))
    }
}

/// How many accounts the keys are of.
const ACCOUNTS: u32 = 1_000;
/// The connections that make keys, each in an account of its own.
pub(crate) const CREATORS: u32 = 8;
/// How many keys are in use where it is compared how many are stored.
const HOT: u32 = 1_000;
const SECRET: &str = "a secret for measurements, which is worth nothing to anybody";

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    stores: Vec<Kept>,
    only: Option<String>,
    pub(crate) rounds: u32,
    /// How long each scenario is measured in each round. Short rounds, and many of them: how fast a virtual machine's cores are
    /// changes within seconds, and the floor and what is compared with it have to meet the same.
    pub(crate) seconds: f64,
    pub(crate) connections: u32,
    pub(crate) keys: u32,
    /// How many keys are many.
    pub(crate) many: u32,
    json: bool,
    write: bool,
    pub(crate) profile: Profile,
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Self> {
        let mut options = Self {
            stores: Kept::ALL.to_vec(),
            only: None,
            rounds: 30,
            seconds: 0.5,
            connections: 64,
            keys: 100_000,
            many: 1_000_000,
            json: false,
            write: false,
            profile: Profile::Release,
        };
        let mut words = arguments.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "--store" => options.stores = vec![Kept::named(words.next())?],
                "--only" => options.only = Some(words.next().unwrap_or_default().to_owned()),
                "--rounds" => options.rounds = number(word, words.next())?,
                "--seconds" => options.seconds = seconds(word, words.next())?,
                "--connections" => options.connections = number(word, words.next())?,
                "--json" => options.json = true,
                "--write" => options.write = true,
                "--dev" => options.profile = Profile::Dev,
                "--quick" => {
                    (options.rounds, options.seconds) = (1, 1.0);
                    (options.keys, options.many) = (10_000, 20_000);
                }
                _ => return Err(Failure::usage(format!("bench does not know `{word}`"))),
            }
        }
        if [options.rounds, options.connections].contains(&0) {
            return Err(Failure::usage("bench takes numbers above 0"));
        }
        if options.write && (options.stores.len() < Kept::ALL.len() || options.only.is_some()) {
            return Err(Failure::usage(
                "--write writes down a whole run: without --store and --only",
            ));
        }
        Ok(options)
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    }
}

fn seconds(option: &str, value: Option<&str>) -> Outcome<f64> {
    let seconds = value.and_then(|value| value.parse().ok());
    seconds
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .ok_or_else(|| Failure::usage(format!("{option} takes a number of seconds from 0.1 on")))
}

/// `bench [--store <store>] [--only <scenario>] [--rounds <n>] [--seconds <n>] [--connections <n>] [--quick] [--dev] [--json]
/// [--write]`
pub(crate) fn command(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let programs = Programs::build(options.profile)?;
    let pinning = Pinning::of_this_machine();
    eprintln!("{}", pinning.description());
    let scratch = Scratch::new("bench")?;
    if is_in_memory(scratch.path()) {
        eprintln!("writes cost too little on a tmpfs: set TMPDIR to a folder on a disk");
    }
    let mut bench = Bench {
        loader: Loader::new(&programs.load, scratch.path(), &pinning),
        folder: scratch.path().to_owned(),
        report: Report::new(&options, &pinning),
        options,
        programs,
        pinning,
        database: None,
        names: Cell::new(0),
    };
    for kept in bench.options.stores.clone() {
        bench.measure_store(kept)?;
    }
    let Bench {
        report, options, ..
    } = bench;
    if options.json {
        eprint!("{}", report.text());
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    if options.write {
        report.write()?;
    }
    Ok(())
}

/// Where the temporary folder is kept in memory, as it is on many systems, a durable write costs nothing.
fn is_in_memory(folder: &Path) -> bool {
    let kind = sh::output(sh::command("stat").args(["-f", "-c", "%T"]).arg(folder));
    kind.is_ok_and(|kind| kind.trim() == "tmpfs")
}

/// A PostgreSQL for the run, and its programs.
struct Cluster {
    server: postgres::Server,
    binaries: PathBuf,
}

impl Cluster {
    /// One of the programs that come with the server: beside it, beside what its name is a link to, or on the PATH.
    fn program(&self, name: &str) -> Outcome<PathBuf> {
        let link = fs::canonicalize(self.binaries.join("postgres")).ok();
        let folders = [
            Some(self.binaries.as_path()),
            link.as_deref().and_then(Path::parent),
        ];
        let mut places = folders
            .into_iter()
            .flatten()
            .map(|folder| folder.join(name));
        places
            .find(|place| place.is_file())
            .or_else(|| sh::find(name))
            .ok_or_else(|| Failure::new(format!("PostgreSQL's {name} is not there")))
    }
}

struct Bench {
    options: Options,
    programs: Programs,
    pinning: Pinning,
    folder: PathBuf,
    loader: Loader,
    report: Report,
    database: Option<Cluster>,
    names: Cell<u32>,
}

/// A store with keys in it, and the keys.
struct Data {
    kept: Kept,
    /// Not of a store in memory, which begins with its server.
    url: String,
    keys: u32,
    plain: PathBuf,
    operator: String,
}

/// The settings of a server that asks its store about every key.
const UNCACHED: &[(&str, &str)] = &[("REVOCATION_BOUND_MS", "0")];

impl Bench {
    fn measure_store(&mut self, kept: Kept) -> Outcome {
        if kept == Kept::Postgres && self.database.is_none() {
            let binaries = postgres::find_or_install_binaries()?;
            let others = self.pinning.others();
            let server = postgres::Server::start(&binaries, postgres::DURABLE, &others)?;
            self.database = Some(Cluster { server, binaries });
        }
        eprintln!("{}: {} keys", kept.name(), self.options.keys);
        let data = self.data(kept, self.options.keys)?;
        self.measure_cached(&data)?;
        if self.options.wants("uncached") {
            self.measure_uncached(&data)?;
        }
        if self.options.wants("stored") || self.options.wants("memory") {
            self.measure_many(kept)?;
        }
        Ok(())
    }

    fn new_name(&self) -> u32 {
        self.names.set(self.names.get() + 1);
        self.names.get()
    }

    /// Makes a store with so many keys; one in memory gets them when its server starts.
    fn data(&self, kept: Kept, keys: u32) -> Outcome<Data> {
        let number = self.new_name();
        let url = match (kept, &self.database) {
            (Kept::Sqlite, _) => {
                format!(
                    "sqlite:{}",
                    self.folder.join(format!("{number}.db")).display()
                )
            }
            (Kept::Postgres, Some(cluster)) => {
                let url = cluster.server.url();
                let name = format!("bench{number}");
                let mut command = sh::command(cluster.program("createdb")?);
                sh::run(command.arg("--maintenance-db").arg(&url).arg(&name))?;
                format!(
                    "{}/{name}",
                    url.rsplit_once('/').map_or("", |(server, _)| server)
                )
            }
            _ => "memory:".to_owned(),
        };
        let data = Data {
            kept,
            url,
            keys,
            plain: self.folder.join(format!("{number}.keys")),
            operator: load::key_of(&load::random()?),
        };
        if kept == Kept::Memory {
            return Ok(data);
        }
        // Makes the schema and the operator, and registers the secret.
        drop(self.start(&data, &[])?);
        let records = self.folder.join(format!("{number}.records"));
        let secret = self.folder.join("secret");
        loader::write_secret(&secret, SECRET)?;
        self.loader.records(&json!({
            "accounts": ACCOUNTS, "keys": keys, "seed": number, "secret": secret, "records": records, "plain": data.plain,
        }))?;
        let mut import = bare(&self.programs.server, &self.pinning.others());
        import
            .envs(self.settings(&data, &[]))
            .current_dir(&self.folder)
            .arg("import")
            .arg(&records);
        sh::output(&mut import)?;
        fs::remove_file(&records).map_err(Failure::when(records.display()))?;
        Ok(data)
    }

    fn settings(&self, data: &Data, more: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        let mut settings = vec![
            ("DATABASE_URL", data.url.clone()),
            ("DATA_DIR", self.folder.join("data").display().to_string()),
            ("API_KEY_SECRET", SECRET.to_owned()),
            // What stalls is to be seen in the latency, and not to be turned away.
            ("DATABASE_TIMEOUT_MS", "10000".to_owned()),
            // So that a million keys fit, whatever each takes.
            ("CACHE_MB", "600".to_owned()),
        ];
        settings.extend(
            more.iter()
                .map(|(name, value)| (*name, (*value).to_owned())),
        );
        settings
    }

    /// Starts a server on a store. One in memory gets its keys now, over HTTP.
    fn start(&self, data: &Data, more: &[(&'static str, &str)]) -> Outcome<Server> {
        let mut settings = self.settings(data, more);
        settings.push(("SUPERADMIN_API_KEY", data.operator.clone()));
        let program = &self.programs.server;
        let server = Server::start(
            "leadr-auth",
            program,
            &settings,
            &self.pinning,
            &self.folder,
        )?;
        if data.kept == Kept::Memory {
            self.issue(data, &server)?;
        }
        Ok(server)
    }

    fn issue(&self, data: &Data, server: &Server) -> Outcome {
        let accounts = self.folder.join("accounts");
        let mut lines = String::new();
        for account in accounts_of(server, &data.operator, "account", ACCOUNTS.min(data.keys))? {
            // A line is a key and an id.
            let _ = writeln!(lines, "{} {account}", "-".repeat(47));
        }
        loader::write_secret(&accounts, &lines)?;
        // The keys of the server before, which are gone.
        let _ = fs::remove_file(&data.plain);
        let body = r#"{"account_id":"{id}","name":"Key {word}"}"#;
        let kind = Kind {
            name: "issue",
            weight: 1,
            template: request("POST", "/v1/api-keys", &data.operator, Some(body)),
            keys: Some(accounts),
            take: None,
            expect: 201,
        };
        let load = Load {
            amount: Amount::Each(data.keys, Some(&data.plain)),
            ..closed(
                server.port,
                self.options.connections,
                std::slice::from_ref(&kind),
            )
        };
        self.loader.run(&load).map(drop)
    }

    /// Presents each of the first `keys` once.
    fn warm(&self, data: &Data, server: &Server, keys: u32) -> Outcome {
        let kinds = [Kind {
            take: Some(keys),
            ..scenarios::forward_auth(data)
        }];
        let load = Load {
            amount: Amount::Each(keys, None),
            ..closed(server.port, self.options.connections, &kinds)
        };
        self.loader.run(&load).map(drop)
    }

    /// A floor that answers as this server does.
    fn floor(&self, data: &Data, server: &Server) -> Outcome<Server> {
        let plain = fs::read_to_string(&data.plain).map_err(Failure::when(data.plain.display()))?;
        let key = plain.split(' ').next().unwrap_or_default();
        let mut answers = Vec::new();
        for kind in scenarios::recorded(data) {
            let request = kind
                .template
                .replace("{key}", key)
                .replace("{fresh}", scenarios::NOBODYS);
            let path = request.split(' ').nth(1).unwrap_or_default();
            answers.push((path.to_owned(), server.record(path, &request)?));
        }
        self.start_floor(&answers)
    }

    fn start_floor(&self, answers: &[(String, serde_json::Value)]) -> Outcome<Server> {
        let file = self.folder.join("answers");
        let mut told: Vec<serde_json::Value> = Vec::new();
        for (path, answer) in answers {
            let mut answer = answer.clone();
            // The refusal is of the same path as what it refuses.
            let is_refusal = answer.get("status").and_then(serde_json::Value::as_u64) == Some(401);
            if let Some(place) = answer.get_mut("path") {
                *place = json!(if is_refusal {
                    scenarios::REFUSED
                } else {
                    path.as_str()
                });
            }
            told.push(answer);
        }
        loader::write_secret(&file, &json!(told).to_string())?;
        let settings = [("ANSWERS", file.display().to_string())];
        Server::start(
            "floor",
            &self.programs.floor,
            &settings,
            &self.pinning,
            &self.folder,
        )
    }

    fn measure_cached(&mut self, data: &Data) -> Outcome {
        let all = scenarios::cached(data, &[], self.options.connections);
        if self.wanted(&all).is_empty() && !self.options.wants("in-process") {
            return Ok(());
        }
        let server = self.start(data, &[])?;
        let floor = self.floor(data, &server)?;
        server.wait_for_lease()?;
        self.warm(data, &server, data.keys)?;
        write_unknown(data)?;
        let creators = Self::creators(data, &server, "creator")?;
        // The service would find the trail of these accounts altered.
        let of_pgbench = Self::creators(data, &server, "pgbench")?;
        let list = scenarios::cached(data, &creators, self.options.connections);
        let list: Vec<_> = self.wanted(&list);
        for round in 1..=self.options.rounds {
            eprintln!(
                "{}: round {round} of {}",
                data.kept.name(),
                self.options.rounds
            );
            for scenario in &list {
                let on = if scenario.is_floor() { &floor } else { &server };
                self.measure(data.kept, scenario, on, round)?;
            }
            if data.kept == Kept::Postgres && self.options.wants("creation") {
                self.pgbench(data, &of_pgbench)?;
            }
        }
        if data.kept == Kept::Memory && self.options.wants("in-process") {
            drop((server, floor));
            self.measure_in_process(data)?;
        }
        Ok(())
    }

    /// What is asked for, and the floors that it is compared with.
    fn wanted(&self, list: &[Scenario]) -> Vec<Scenario> {
        let floors: Vec<&str> = list
            .iter()
            .filter(|scenario| self.options.wants(&scenario.name))
            .flat_map(|scenario| [scenario.floor, scenario.paced_by])
            .flatten()
            .collect();
        let wants = |name: &str| self.options.wants(name) || floors.contains(&name);
        list.iter()
            .filter(|scenario| wants(&scenario.name))
            .cloned()
            .collect()
    }

    /// Keys with which keys are made, of accounts of their own.
    fn creators(data: &Data, server: &Server, slug: &str) -> Outcome<Vec<Creator>> {
        let client = Client {
            port: server.port,
            key: Some(&data.operator),
        };
        let accounts = accounts_of(server, &data.operator, slug, CREATORS)?;
        let creators = accounts.into_iter().map(|account| {
            let body = json!({"account_id": account, "name": slug});
            let answer = client.post("/v1/api-keys", &body)?;
            let key = load::field(&answer, "key")?.to_owned();
            Ok(Creator { account, key })
        });
        creators.collect()
    }

    /// One scenario in one round.
    fn measure(&mut self, kept: Kept, scenario: &Scenario, on: &Server, round: u32) -> Outcome {
        let rate = match scenario.pace {
            Pace::Closed => None,
            // Half of what the slower one of the two was able to do in this round.
            Pace::Half => {
                let of = [scenario.paced_by, scenario.floor].into_iter().flatten();
                let last = of.filter_map(|name| self.report.last(kept, name));
                Some(last.fold(f64::INFINITY, f64::min) / 2.0).filter(|rate| rate.is_finite())
            }
        };
        let hits = || -> Outcome<f64> {
            if scenario.counts_hits {
                on.metric("leadr_auth_verification_cache_lookups_total{outcome=\"hit\"}")
            } else {
                Ok(0.0)
            }
        };
        if scenario.warms {
            self.loader.run(&Load {
                amount: Amount::Each(scenarios::UNKNOWN, None),
                ..closed(
                    on.port,
                    scenario.connections,
                    scenario.kinds.get(..1).unwrap_or_default(),
                )
            })?;
        }
        let (cpu_before, hits_before) = (on.cpu_us()?, hits()?);
        let measured = self.loader.run(&Load {
            rate,
            by_connection: scenario.by_connection,
            awake: scenario.awake,
            seed: u64::from(round),
            amount: Amount::Seconds(self.options.seconds),
            ..closed(on.port, scenario.connections, &scenario.kinds)
        })?;
        let cpu = on.cpu_us()? - cpu_before;
        let hot = measured.kinds.get("hot").copied().unwrap_or_default();
        let sample = Sample {
            cpu_us: cpu / measured.requests.max(1.0) / f64::from(scenario.per_request),
            hot_hits: (scenario.counts_hits && hot > 0.0).then_some((hits()? - hits_before) / hot),
            measured,
        };
        self.report.add(kept, &scenario.name, sample);
        Ok(())
    }

    /// The database's own benchmark writes the rows of keys.
    fn pgbench(&mut self, data: &Data, creators: &[Creator]) -> Outcome {
        let Some(cluster) = &self.database else {
            return Ok(());
        };
        for (name, transaction) in scenarios::pgbench(creators) {
            let script = self.folder.join("transaction.sql");
            fs::write(&script, transaction).map_err(Failure::when(script.display()))?;
            let mut command = bare(&cluster.program("pgbench")?, &self.pinning.others());
            command
                // As the server says of a key that it makes itself: nobody has to hear of it.
                .env("PGOPTIONS", "-c leadr_auth.fresh_key=on")
                .args(["-n", "-j", "1", "-M", "prepared", "-c"])
                .arg(CREATORS.to_string())
                .arg("-T")
                // It takes whole seconds only.
                .arg(self.options.seconds.ceil().to_string())
                .arg("-f")
                .arg(&script)
                .arg(&data.url);
            let text = sh::output(&mut command)?;
            let rate = text
                .lines()
                .find_map(|line| line.strip_prefix("tps = ")?.split(' ').next()?.parse().ok());
            let per_second = rate.ok_or_else(|| Failure::new(format!("pgbench said {text}")))?;
            let measured = Measured {
                per_second,
                ..Measured::default()
            };
            self.report.add(data.kept, name, Sample::of(measured));
        }
        Ok(())
    }

    fn measure_in_process(&mut self, data: &Data) -> Outcome {
        let plain = self.folder.join(format!("{}.keys", self.new_name()));
        let settings = [
            ("KEYS", data.keys.to_string()),
            ("PLAIN", plain.display().to_string()),
        ];
        let program = &self.programs.in_process;
        let server = Server::start(
            "in_process",
            program,
            &settings,
            &self.pinning,
            &self.folder,
        )?;
        let text = fs::read_to_string(&plain).map_err(Failure::when(plain.display()))?;
        let own = Data {
            url: String::new(),
            plain,
            operator: String::new(),
            ..*data
        };
        let list = scenarios::in_process(&own, self.options.connections);
        let kind = list.first().and_then(|scenario| scenario.kinds.first());
        let template = kind.map(|kind| kind.template.as_str()).unwrap_or_default();
        let key = text.split(' ').next().unwrap_or_default();
        let answer = server.record("/docs", &template.replace("{key}", key))?;
        let floor = self.start_floor(&[("/docs".to_owned(), answer)])?;
        // There is no `/metrics` to ask whether the cache may be relied on: its first tick takes half a second.
        thread::sleep(Duration::from_secs(2));
        let warm = Load {
            amount: Amount::Each(own.keys, None),
            ..closed(
                server.port,
                self.options.connections,
                list.first().map_or(&[], |one| &one.kinds),
            )
        };
        self.loader.run(&warm)?;
        for round in 1..=self.options.rounds {
            for scenario in &list {
                let on = if scenario.is_floor() { &floor } else { &server };
                self.measure(data.kept, scenario, on, round)?;
            }
        }
        Ok(())
    }

    fn measure_uncached(&mut self, data: &Data) -> Outcome {
        let server = self.start(data, UNCACHED)?;
        let floor = self.floor(data, &server)?;
        for round in 1..=self.options.rounds {
            eprintln!("{}, uncached: round {round}", data.kept.name());
            for scenario in scenarios::uncached(data, self.options.connections) {
                let on = if scenario.is_floor() { &floor } else { &server };
                self.measure(data.kept, &scenario, on, round)?;
            }
        }
        drop((server, floor));
        if data.kept == Kept::Postgres {
            self.compare_selects(data)?;
        }
        Ok(())
    }

    /// Uncached verification and a bare prepared SELECT, both in one process with the same number of connections.
    fn compare_selects(&mut self, data: &Data) -> Outcome {
        let secret = self.folder.join("secret");
        let mut command = bare(&self.programs.uncached, &self.pinning.server());
        command.arg(&data.url).arg(&secret).arg(&data.plain);
        command
            .args(["16", &self.options.rounds.to_string()])
            .arg(self.options.seconds.to_string());
        let text = sh::output(&mut command)?;
        let rounds: serde_json::Value =
            serde_json::from_str(&text).map_err(Failure::when("uncached"))?;
        for round in rounds.as_array().into_iter().flatten() {
            for name in ["verification", "select"] {
                let figure = |field: &str| {
                    let figure = round.pointer(&format!("/{name}/{field}"));
                    figure
                        .and_then(serde_json::Value::as_f64)
                        .unwrap_or_default()
                };
                let measured = Measured {
                    per_second: figure("per_second"),
                    ..Measured::default()
                };
                let sample = Sample {
                    cpu_us: figure("cpu_us"),
                    ..Sample::of(measured)
                };
                self.report
                    .add(data.kept, &format!("one-process {name}"), sample);
            }
        }
        Ok(())
    }

    /// A thousand stored keys and a million: what verifying one of a thousand costs, and what memory a cached key takes.
    fn measure_many(&mut self, kept: Kept) -> Outcome {
        eprintln!("{}: {HOT} and {} keys", kept.name(), self.options.many);
        let few = self.data(kept, HOT)?;
        let many = self.data(kept, self.options.many)?;
        for (settings, name) in [(&[][..], "cached"), (UNCACHED, "uncached")] {
            if !self.options.wants("stored") {
                break;
            }
            let servers = [self.start(&few, settings)?, self.start(&many, settings)?];
            if name == "cached" {
                for (server, data) in servers.iter().zip([&few, &many]) {
                    server.wait_for_lease()?;
                    self.warm(data, server, HOT)?;
                }
            }
            for round in 1..=self.options.rounds {
                let both = servers.iter().zip([(&few, "few"), (&many, "many")]);
                for (server, (data, stored)) in both {
                    let scenario =
                        scenarios::stored(data, name, stored, HOT, self.options.connections);
                    self.measure(kept, &scenario, server, round)?;
                }
            }
        }
        if self.options.wants("memory") {
            let server = self.start(&many, &[])?;
            server.wait_for_lease()?;
            // What the process takes for its first requests is none of the keys'.
            self.warm(&many, &server, 1)?;
            for keys in [self.options.keys, self.options.many] {
                self.memory(&many, &server, keys)?;
            }
        }
        Ok(())
    }

    /// What the process takes more when so many keys are cached, for each.
    fn memory(&mut self, data: &Data, server: &Server, keys: u32) -> Outcome {
        let begun = self.report.begin_memory(data.kept, server.resident()?);
        self.warm(data, server, keys)?;
        // The notes of uses are in memory until they are written.
        let (since, patience) = (Instant::now(), Duration::from_mins(3));
        while server.metric("leadr_auth_usage_notes_waiting")? > 0.0 && since.elapsed() < patience {
            thread::sleep(Duration::from_millis(500));
        }
        let cached = server.metric("leadr_auth_verification_cache_keys")?;
        let counted = server.metric("leadr_auth_verification_cache_bytes")?;
        let resident = (server.resident()? - begun).max(0.0);
        self.report.add_memory(
            data.kept,
            keys,
            [
                cached,
                counted / cached.max(1.0),
                resident / cached.max(1.0),
            ],
        );
        Ok(())
    }
}

/// Ten thousand keys that nobody has, for the flood that repeats them.
fn write_unknown(data: &Data) -> Outcome {
    let mut chance = Chance::new(u64::from(data.keys));
    let mut lines = String::new();
    for _ in 0..scenarios::UNKNOWN {
        let mut bytes = [0; 32];
        for eight in bytes.chunks_mut(8) {
            eight.copy_from_slice(&chance.next().to_le_bytes());
        }
        // A line is a key and an id.
        let _ = writeln!(lines, "{} {}", load::key_of(&bytes), "-".repeat(36));
    }
    loader::write_secret(&data.plain.with_extension("unknown"), &lines)
}

/// Load on all connections, as much as is answered.
fn closed(port: u16, connections: u32, kinds: &[Kind]) -> Load<'_> {
    Load {
        port,
        connections,
        kinds,
        amount: Amount::Seconds(1.0),
        rate: None,
        by_connection: false,
        awake: false,
        seed: 1,
    }
}

/// Makes accounts, and answers their ids.
fn accounts_of(server: &Server, operator: &str, slug: &str, count: u32) -> Outcome<Vec<String>> {
    let client = Client {
        port: server.port,
        key: Some(operator),
    };
    let accounts = (0..count).map(|n| {
        let body = json!({
            "name": format!("{slug} {n}"),
            "slug": format!("{slug}-{n}"),
            "key_limit": load::MANY_KEYS,
        });
        let answer = client.post("/v1/accounts", &body)?;
        Ok(load::field(&answer, "id")?.to_owned())
    });
    accounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words;

    #[test]
    fn options_are_read() {
        let line = "--seconds 2.5 --json --connections 8 --store sqlite --only verify";
        let options = Options::parse(&words(line)).unwrap();
        assert_eq!(options.stores, [Kept::Sqlite]);
        assert_eq!(
            (options.seconds, options.connections, options.rounds),
            (2.5, 8, 30)
        );
        assert!(options.json && options.wants("floor/verify") && !options.wants("creation"));
        for line in [
            "--seconds",
            "--seconds 0",
            "--seconds NaN",
            "--seconds -1",
            "--seconds x",
            "--connections -1",
            "fast",
            "--store",
            "--store mysql",
            "--write --store sqlite",
            "--write --only verify",
        ] {
            assert!(
                Options::parse(&words(line)).unwrap_err().is_usage(),
                "{line}"
            );
        }
    }
}
