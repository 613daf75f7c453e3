//! A simulation of nodes on one store, in every order that chance finds, with everything failing that can.
//!
//! The caches, the fence, the leases and the followers are the real ones. What they talk to is a model: a store that commits in
//! one order, and a feed that tells of it in that order, when it does. Time is a number. Each of the steps that something takes
//! is one here, and between any two of them anything else can happen: a verification looks at the lease, looks into the cache,
//! begins a fill, reads, publishes; a change is noted, committed, forgotten, answered.
//!
//! What is looked at is every answer to a verification. Each part of it, the key's state and its account's, has to be one that
//! was so late enough: not one that was over before the verification began and
//!
//! - whose successor was answered by this node, or was heard by it;
//! - whose successor was answered by any node, and the bound has passed since;
//! - whose successor was said to have reached every node.
//!
//! A schedule follows from its seed alone. `cargo xtask simulate --seed <n>` runs it again, and tells what happens in it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use leadr_auth_domain::{
    Account, AccountId, AccountName, AccountRole, ApiKey, KeyId, KeyName, KeyPrefix, KeyRecord,
    Keyring, NodeId, Pepper, PlainKey, PrefixCode, Slug, Timestamp, Verdict, generate_api_key,
};
use leadr_auth_ports::{Change, Heard, Probe, Signal, StoreError};

use super::cache::{Fill, Filled, Joiner, Known, OwnFill, VerificationCache};
use super::changes::Forgets;
use super::follow::LONGEST_WAIT;
use super::follower::Follower;
use super::nodes::{Asked, Nodes, Silent, Told};
use super::{Sabotage, VerificationConfig};

/// How many schedules an ordinary test runs.
const SHORT: u64 = 3_000;

/// The keys; all but the last are the first account's.
const KEYS: usize = 3;
const ACCOUNTS: usize = 2;
const PARTS: usize = KEYS + ACCOUNTS;
const MOST_NODES: usize = 4;
const NEVER: u64 = u64::MAX;
const MILLISECOND: u64 = 1_000_000;

const fn account_of(key: usize) -> usize {
    KEYS + if key + 1 < KEYS { 0 } else { 1 }
}

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }
}

/// How a key or an account stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Absent,
    Good,
    Stopped,
}

/// Each key's records, by how it and its account stand.
struct Fixture {
    prefixes: Vec<KeyPrefix>,
    codes: Vec<PrefixCode>,
    accounts: Vec<AccountId>,
    records: Vec<[[KeyRecord; 2]; 2]>,
}

fn at() -> Timestamp {
    Timestamp::parse("2026-01-01T00:00:00Z").unwrap()
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let ring = Keyring::from(Pepper::new("a secret for tests, of 32 bytes and more").unwrap());
    let accounts: Vec<_> = (1..)
        .take(ACCOUNTS)
        .map(|n| {
            let name = AccountName::parse(&format!("Tenant {n}")).unwrap();
            let slug = Slug::parse(&format!("tenant-{n}")).unwrap();
            let id = AccountId::from_random_bytes([n; 16]);
            Account::new(id, name, slug, AccountRole::Tenant, at())
        })
        .collect();
    let plain: Vec<_> = (1..)
        .take(KEYS)
        .map(|n| generate_api_key([n; 32]))
        .collect();
    let records = plain.iter().enumerate().map(|(n, plain)| {
        let account = &accounts[account_of(n) - KEYS];
        let key = ApiKey::new(
            KeyId::from_random_bytes([u8::try_from(n).unwrap(); 16]),
            account.id,
            KeyName::parse("Key").unwrap(),
            ring.hash(plain),
            plain.prefix(),
            None,
            at(),
        );
        [false, true].map(|revoked| {
            [false, true].map(|suspended| {
                let (mut key, mut account) = (key.clone(), account.clone());
                if revoked {
                    key.revoke(at());
                }
                if suspended {
                    account.suspend(at());
                }
                KeyRecord { key, account }
            })
        })
    });
    Fixture {
        records: records.collect(),
        prefixes: plain.iter().map(PlainKey::prefix).collect(),
        codes: plain.iter().map(PlainKey::prefix_code).collect(),
        accounts: accounts.iter().map(|account| account.id).collect(),
    }
});

fn change_of(part: usize) -> Change {
    match part.checked_sub(KEYS) {
        None => Change::Key(FIXTURE.prefixes[part].clone()),
        Some(account) => Change::Account(FIXTURE.accounts[account]),
    }
}

/// How something stood from a commit on.
struct Version {
    standing: Standing,
    /// The place of the commit among all.
    commit: u64,
    answered_at: u64,
    /// From when on each node has to know of it.
    known_at: [u64; MOST_NODES],
}

struct Message {
    heard: Heard,
    /// The last commit before it, or its own.
    commit: u64,
}

/// What is on its way to the store.
struct Sent {
    node: usize,
    heard: Heard,
}

enum Link {
    Down,
    Preparing,
    /// The store has it, and the node does not know yet.
    Subscribed,
    Listening,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    NotYet,
    Runs,
    Ends,
    Over,
}

struct Node<'a> {
    id: NodeId,
    life: Life,
    cache: &'a Arc<VerificationCache>,
    nodes: Arc<Nodes>,
    follower: Follower,
    config: VerificationConfig,
    /// How long the machine had run when the simulation began.
    uptime: u64,
    /// How far its clock has been set back.
    set_back: u64,
    link: Link,
    /// What the store has for it, if it has a subscription of it.
    queue: Option<VecDeque<Message>>,
    next_tick: u64,
    ticks_underway: usize,
    stopped_until: u64,
    cut_off_until: u64,
    /// Its subscription looks alive, and nothing comes.
    stalled_until: u64,
    /// What it says does not reach the store.
    mute_until: u64,
    /// What it reads it gets no answer to; as where a pool has no connection left.
    unanswered_until: u64,
    /// Since when it listens.
    listens_since: u64,
    silent: Silent,
    clearing: Clearing,
}

/// How far it is with forgetting nodes that are silent.
enum Clearing {
    Not,
    /// It has asked for the reports at this time of its own, and the store has answered them.
    Reads(Duration, Vec<(NodeId, u64, Duration)>),
    /// It forgets those that are still as they were.
    Forgets(Vec<(NodeId, u64)>),
}

impl<'a> Node<'a> {
    fn new(n: usize, cache: &'a Arc<VerificationCache>, config: VerificationConfig) -> Self {
        let id = NodeId::from_random_bytes([u8::try_from(n).unwrap() + 1; 16]);
        let nodes = Arc::<Nodes>::default();
        let follower = Follower::new(Arc::clone(cache), Arc::clone(&nodes), config.clone(), id);
        Self {
            id,
            life: Life::Runs,
            cache,
            nodes,
            follower,
            config,
            uptime: 0,
            set_back: 0,
            link: Link::Down,
            queue: None,
            next_tick: 0,
            ticks_underway: 0,
            stopped_until: 0,
            cut_off_until: 0,
            stalled_until: 0,
            mute_until: 0,
            unanswered_until: 0,
            listens_since: 0,
            silent: Silent::default(),
            clearing: Clearing::Not,
        }
    }

    fn runs(&self, now: u64) -> bool {
        self.life == Life::Runs && self.stopped_until <= now
    }

    fn lease_time(&self, now: u64) -> Duration {
        let time = self.uptime + now;
        if self.config.sabotage.is(Sabotage::WallClock) {
            return Duration::from_nanos(time.saturating_sub(self.set_back));
        }
        Duration::from_nanos(time)
    }
}

/// What a read brought: how the key and its account stood.
type Read = Result<(Standing, Standing), ()>;

enum Doing<'a> {
    /// The lease holds: what is known?
    Looks,
    Begins,
    Fills(OwnFill<'a>, Option<Read>),
    Waits(Joiner),
    Asks(Option<Read>),
}

struct Verification<'a> {
    number: u64,
    node: usize,
    key: usize,
    began_at: u64,
    began: Duration,
    doing: Doing<'a>,
}

enum Stage {
    Noted,
    Committed(u64),
    Failed,
    Forgotten(Option<u64>),
}

struct Changing<'a> {
    node: usize,
    parts: Vec<usize>,
    forgets: Option<Forgets<'a>>,
    stage: Stage,
}

struct Waiting {
    node: usize,
    /// The last commit that it asks about.
    commit: u64,
    began: Duration,
    stage: Inquiry,
}

enum Inquiry {
    /// It asks for what the nodes say of themselves.
    Begins,
    /// The store has answered that.
    Told(Told),
    /// It has asked the nodes.
    Asked(Asked),
}

/// What a node has said of itself.
#[derive(Clone, Copy)]
struct Report {
    tick: u64,
    /// `None` where somebody has altered it.
    patience: Option<Duration>,
}

enum Task<'a> {
    Verification(Verification<'a>),
    Changing(Changing<'a>),
    Waiting(Waiting),
}

#[derive(Clone, Copy, Default, Debug)]
struct Count {
    steps: u64,
    accepted: u64,
    refused: u64,
    failed: u64,
    stale: u64,
    hits: u64,
    propagated: u64,
    /// By a node that has not listened for as long as the others may be silent.
    early: u64,
    /// Though a node that was killed could not answer.
    outlasted: u64,
    cleared: u64,
}

impl Count {
    fn add(&mut self, other: Self) {
        self.steps += other.steps;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.failed += other.failed;
        self.stale += other.stale;
        self.hits += other.hits;
        self.propagated += other.propagated;
        self.early += other.early;
        self.outlasted += other.outlasted;
        self.cleared += other.cleared;
    }
}

struct World<'a> {
    chance: Chance,
    now: u64,
    bound: u64,
    commits: u64,
    history: [Vec<Version>; PARTS],
    nodes: Vec<Node<'a>>,
    reports: [Option<Report>; MOST_NODES],
    underway: Vec<Sent>,
    tasks: Vec<Task<'a>>,
    /// Of a hundred steps, how many have a fault.
    faults: u64,
    store_away_until: u64,
    verifications: u64,
    count: Count,
    story: Option<String>,
    fault: Option<String>,
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}

/// Writes down what happens, where somebody wants to read it.
macro_rules! tell {
    ($world:expr, $($words:tt)*) => {
        if let Some(story) = &mut $world.story {
            let _ = write!(story, "{:>14?}  ", Duration::from_nanos($world.now));
            let _ = writeln!(story, $($words)*);
        }
    };
}

/// Runs a schedule; answers what it counted, or what went wrong.
fn run(seed: u64, sabotage: Sabotage, tells: bool) -> Result<Count, String> {
    let mut chance = Chance(seed);
    let bound = chance.pick(&[100, 1_000, 2_000]) * MILLISECOND;
    let count = 2 + chance.index(MOST_NODES - 1);
    let caches: Vec<_> = (0..count)
        .map(|_| Arc::new(VerificationCache::new(20_000, sabotage)))
        .collect();
    let mixed = chance.one_in(3);
    let stale = chance.pick(&[0, 0, bound, 3 * bound]);
    let faults = chance.pick(&[0, 2, 4, 8]);
    let nodes = caches.iter().enumerate().map(|(n, cache)| {
        let own = if mixed {
            bound * chance.pick(&[1, 1, 4])
        } else {
            bound
        };
        let config = VerificationConfig {
            bound: Duration::from_nanos(own),
            tick: Duration::from_nanos(own / 4),
            stale_if_error: Duration::from_nanos(stale),
            sabotage,
            ..VerificationConfig::default()
        };
        let mut node = Node::new(n, cache, config);
        node.uptime = (1 + chance.below(1_000)) * bound;
        if n > 0 && chance.one_in(3) {
            node.life = Life::NotYet;
        }
        node
    });
    let nodes = nodes.collect();
    let history = std::array::from_fn(|part| {
        let standing = match chance.below(8) {
            0 if part < KEYS => Standing::Absent,
            1 => Standing::Stopped,
            _ => Standing::Good,
        };
        vec![Version {
            standing,
            commit: 0,
            answered_at: 0,
            known_at: [0; MOST_NODES],
        }]
    });
    let mut world = World {
        chance,
        now: 1,
        bound,
        commits: 0,
        history,
        nodes,
        reports: [None; MOST_NODES],
        underway: Vec::new(),
        tasks: Vec::new(),
        faults,
        store_away_until: 0,
        verifications: 0,
        count: Count::default(),
        story: tells.then(String::new),
        fault: None,
    };
    // As a rule they have run for a while.
    if !world.chance.one_in(5) {
        for _ in 0..6 {
            world.now += 1;
            (0..count).for_each(|node| world.follow(node));
            world.arrive();
            (0..count).for_each(|node| world.deliver(node));
        }
    }
    let steps = 60 + world.chance.below(140);
    for _ in 0..steps {
        world.step();
        if world.fault.is_some() {
            break;
        }
    }
    if let Some(story) = &world.story {
        println!("{story}");
    }
    match world.fault {
        None => Ok(world.count),
        Some(fault) => Err(fault),
    }
}

impl<'a> World<'a> {
    fn step(&mut self) {
        self.count.steps += 1;
        let bound = self.bound;
        self.now += 1 + match self.chance.below(100) {
            0 => self.chance.below(3 * bound),
            1..4 => self.chance.below(bound / 2),
            4..35 => self.chance.below(bound / 40),
            _ => self.chance.below(bound / 400),
        };
        for node in 0..self.nodes.len() {
            if self.nodes[node].life == Life::NotYet && self.chance.one_in(30) {
                tell!(self, "node {node} starts");
                self.nodes[node].life = Life::Runs;
            }
            if self.chance.one_in(2) {
                self.deliver(node);
            }
            if self.chance.one_in(3) {
                self.follow(node);
            }
            if self.chance.one_in(8) {
                self.clear_away(node);
            }
        }
        if self.chance.one_in(2) {
            self.arrive();
        }
        match self.chance.below(100) {
            0..45 => self.verify(),
            45..52 => self.change(),
            52..56 => self.ask(),
            _ => {}
        }
        if self.chance.below(100) < self.faults {
            self.fail();
        }
        for _ in 0..6 {
            if !self.tasks.is_empty() && self.chance.one_in(2) {
                self.now += 1;
                let task = self.chance.index(self.tasks.len());
                self.go_on(task);
            }
        }
    }

    fn reachable(&self, node: usize) -> bool {
        self.nodes[node].cut_off_until.max(self.store_away_until) <= self.now
    }

    fn some_running(&mut self) -> Option<usize> {
        let node = self.chance.index(self.nodes.len());
        self.nodes[node].runs(self.now).then_some(node)
    }

    // The store and its feed.

    fn standing(&self, part: usize) -> Standing {
        self.history[part].last().unwrap().standing
    }

    fn read(&mut self, node: usize, key: usize) -> Read {
        if !self.reachable(node) || self.nodes[node].unanswered_until > self.now {
            return Err(());
        }
        Ok((self.standing(key), self.standing(account_of(key))))
    }

    fn publish(&mut self, heard: &Heard) {
        for node in &mut self.nodes {
            if let Some(queue) = &mut node.queue {
                queue.push_back(Message {
                    heard: heard.clone(),
                    commit: self.commits,
                });
            }
        }
    }

    fn commit(&mut self, parts: &[usize]) -> u64 {
        self.commits += 1;
        let commit = self.commits;
        for &part in parts {
            let standing = match self.standing(part) {
                Standing::Absent | Standing::Stopped => Standing::Good,
                Standing::Good => Standing::Stopped,
            };
            tell!(self, "commit {commit}: part {part} is {standing:?}");
            self.history[part].push(Version {
                standing,
                commit,
                answered_at: NEVER,
                known_at: [NEVER; MOST_NODES],
            });
        }
        if parts.len() > 1 && self.chance.one_in(2) {
            self.publish(&Heard::Change(Change::Everything));
        } else {
            for &part in parts {
                self.publish(&Heard::Change(change_of(part)));
            }
        }
        commit
    }

    /// From now on a node has to know of what was committed up to a commit: of one part, or of all.
    fn has_to_know(&mut self, node: usize, commit: u64, part: Option<usize>) {
        for (n, history) in self.history.iter_mut().enumerate() {
            if part.is_none_or(|part| part == n) {
                for version in history.iter_mut().filter(|it| it.commit <= commit) {
                    let known_at = &mut version.known_at[node];
                    *known_at = self.now.min(*known_at);
                }
            }
        }
    }

    /// What was sent reaches the store, or does not.
    fn arrive(&mut self) {
        let mut n = 0;
        while n < self.underway.len() {
            if self.chance.one_in(3) {
                n += 1;
                continue;
            }
            // Signals of one node are sent by tasks of their own, and may overtake each other.
            let sent = self.underway.remove(n);
            let node = &mut self.nodes[sent.node];
            let is_tick = matches!(sent.heard, Heard::Signal(Signal::Tick { .. }));
            if is_tick {
                node.ticks_underway -= 1;
            }
            let mute = node.mute_until > self.now || self.chance.one_in(40);
            if mute || !self.reachable(sent.node) {
                tell!(self, "lost: {:?} of node {}", sent.heard, sent.node);
                continue;
            }
            if let Heard::Signal(Signal::Tick {
                number, patience, ..
            }) = sent.heard
            {
                self.reports[sent.node] = Some(Report {
                    tick: number,
                    patience: Some(patience),
                });
            }
            self.now += 1;
            tell!(self, "sent: {:?} of node {}", sent.heard, sent.node);
            self.publish(&sent.heard);
        }
    }

    // What a node does by itself.

    fn deliver(&mut self, n: usize) {
        for _ in 0..=self.chance.below(4) {
            self.now += 1;
            let node = &mut self.nodes[n];
            let hears = matches!(node.link, Link::Listening)
                && node.runs(self.now)
                && node.stalled_until.max(node.cut_off_until) <= self.now
                && self.store_away_until <= self.now;
            if !hears {
                return;
            }
            let Some(message) = node.queue.as_mut().and_then(VecDeque::pop_front) else {
                return;
            };
            let (said, now) = (message.heard.clone(), node.lease_time(self.now));
            let reply = node.follower.hear(message.heard, now);
            tell!(self, "node {n} hears {said:?}");
            match &said {
                Heard::Change(Change::Everything) => self.has_to_know(n, message.commit, None),
                Heard::Change(change) => {
                    let part = (0..PARTS).find(|part| change_of(*part) == *change);
                    self.has_to_know(n, message.commit, part);
                }
                Heard::Signal(_) => {}
            }
            if let Some(signal) = reply {
                self.underway.push(Sent {
                    node: n,
                    heard: Heard::Signal(signal),
                });
            }
        }
    }

    fn follow(&mut self, n: usize) {
        let now = self.now;
        let reachable = self.reachable(n);
        let node = &mut self.nodes[n];
        if node.life == Life::Ends && node.ticks_underway == 0 && node.stopped_until <= now {
            node.life = Life::Over;
            self.underway.push(Sent {
                node: n,
                heard: Heard::Signal(Signal::Farewell(node.id)),
            });
            // It may fail to say so, and to have its report forgotten.
            if reachable && !self.chance.one_in(4) {
                self.reports[n] = None;
            }
            tell!(self, "node {n} is over");
            return;
        }
        if !node.runs(now) {
            return;
        }
        let lease_time = node.lease_time(now);
        match node.link {
            Link::Down => {
                node.follower.before_listening();
                node.link = Link::Preparing;
            }
            Link::Preparing if reachable => {
                node.queue = Some(VecDeque::new());
                node.link = Link::Subscribed;
                tell!(self, "node {n} is subscribed");
            }
            Link::Preparing => node.link = Link::Down,
            Link::Subscribed => {
                node.follower.listens(lease_time);
                node.next_tick = now;
                node.link = Link::Listening;
                node.listens_since = now;
                tell!(self, "node {n} listens");
                // All that it kept went, and what it reads from now on is newer.
                self.has_to_know(n, self.commits, None);
            }
            Link::Listening if node.queue.is_none() => {
                node.follower.lost();
                node.link = Link::Down;
                tell!(self, "node {n} has lost its subscription");
            }
            Link::Listening if node.next_tick <= now => {
                if node.follower.is_deaf(lease_time) {
                    node.follower.lost();
                    node.queue = None;
                    node.link = Link::Down;
                    tell!(self, "node {n} is deaf");
                    return;
                }
                node.next_tick = now + nanos(node.config.tick);
                if node.ticks_underway < 4 {
                    node.ticks_underway += 1;
                    let tick = Signal::Tick {
                        node: node.id,
                        number: node.follower.tick(lease_time),
                        patience: node.config.patience(),
                    };
                    self.underway.push(Sent {
                        node: n,
                        heard: Heard::Signal(tick),
                    });
                }
            }
            Link::Listening => {}
        }
    }

    /// It forgets those that are silent. By its own clock everything was said a day ago.
    fn clear_away(&mut self, n: usize) {
        let reachable = self.reachable(n);
        let node = &self.nodes[n];
        let now = node.lease_time(self.now);
        if !node.runs(self.now) || !matches!(node.link, Link::Listening) {
            return;
        }
        let next = match &node.clearing {
            Clearing::Not if reachable => {
                let reports = self.reports.iter().enumerate();
                let reports = reports.filter(|(other, _)| *other != n);
                let reports = reports.filter_map(|(other, report)| {
                    let report = (*report)?;
                    Some((self.nodes[other].id, report.tick, report.patience?))
                });
                Clearing::Reads(now, reports.collect())
            }
            Clearing::Reads(asked, reports) => {
                let (asked, reports) = (*asked, reports.clone());
                let silent = &mut self.nodes[n].silent;
                Clearing::Forgets(silent.find(reports.into_iter(), asked, now))
            }
            Clearing::Forgets(silent) => {
                for (other, report) in self.reports.iter_mut().enumerate() {
                    let is_silent =
                        |report: &Report| silent.contains(&(self.nodes[other].id, report.tick));
                    if reachable && report.as_ref().is_some_and(is_silent) {
                        *report = None;
                        self.count.cleared += 1;
                        tell!(self, "node {n} forgets node {other}");
                    }
                }
                Clearing::Not
            }
            Clearing::Not => return,
        };
        self.nodes[n].clearing = next;
    }

    // What somebody has it do.

    fn verify(&mut self) {
        let Some(n) = self.some_running() else { return };
        let node = &self.nodes[n];
        let began = node.lease_time(self.now);
        let doing = if node.cache.may_answer(began) {
            Doing::Looks
        } else {
            Doing::Asks(None)
        };
        self.verifications += 1;
        let verification = Verification {
            number: self.verifications,
            node: n,
            key: self.chance.index(KEYS),
            began_at: self.now,
            began,
            doing,
        };
        tell!(
            self,
            "verification {} of key {} begins on node {n}",
            verification.number,
            verification.key
        );
        self.tasks.push(Task::Verification(verification));
    }

    fn change(&mut self) {
        let Some(n) = self.some_running() else { return };
        let parts = match self.chance.below(6) {
            0..3 => vec![self.chance.index(KEYS)],
            3..5 => vec![KEYS + self.chance.index(ACCOUNTS)],
            _ => (0..KEYS).collect(),
        };
        let mut forgets = Forgets::new(self.nodes[n].cache);
        for &part in &parts {
            forgets.note(change_of(part));
        }
        tell!(self, "a change of {parts:?} begins on node {n}");
        self.tasks.push(Task::Changing(Changing {
            node: n,
            parts,
            forgets: Some(forgets),
            stage: Stage::Noted,
        }));
    }

    fn ask(&mut self) {
        let Some(n) = self.some_running() else { return };
        tell!(self, "node {n} asks for commit {}", self.commits);
        self.tasks.push(Task::Waiting(Waiting {
            node: n,
            commit: self.commits,
            began: self.nodes[n].lease_time(self.now),
            stage: Inquiry::Begins,
        }));
    }

    fn fail(&mut self) {
        let n = self.chance.index(self.nodes.len());
        let bound = self.bound;
        let longest = self.chance.pick(&[bound / 4, bound, 4 * bound]);
        let until = self.now + self.chance.below(longest);
        let kind = self.chance.below(27);
        let node = &mut self.nodes[n];
        let what = match kind {
            0..4 => {
                node.queue = None;
                "loses its subscription"
            }
            4..8 => {
                node.stalled_until = until;
                "hears nothing"
            }
            8..10 => {
                node.mute_until = until;
                "sends nothing"
            }
            10..13 => {
                node.stopped_until = until;
                "is stopped"
            }
            13..15 => {
                node.cut_off_until = until;
                "is cut off"
            }
            15..17 => {
                node.set_back += self.chance.below(4 * bound);
                "has its clock set back"
            }
            17 => {
                self.store_away_until = until;
                "and all others have no store"
            }
            18 | 23 if self.chance.one_in(2) => {
                node.stopped_until = NEVER;
                self.tasks.retain(|task| task.node() != n);
                // Another process takes its place, as a rule.
                let mut others = self.nodes.iter_mut();
                if let Some(next) = others.find(|it| it.life == Life::NotYet)
                    && !self.chance.one_in(3)
                {
                    next.life = Life::Runs;
                }
                "is killed"
            }
            24 => {
                if let Some(report) = &mut self.reports[n] {
                    report.patience = None;
                }
                "has its report altered"
            }
            19 if node.life == Life::Runs
                && !self.tasks.iter().any(|task| task.node() == n)
                && self.chance.one_in(2) =>
            {
                node.life = Life::Ends;
                node.cache.forget_everything();
                "ends"
            }
            25 | 26 => {
                // Anybody may say so who may connect to the database.
                let farewell = Signal::Farewell(node.id);
                self.publish(&Heard::Signal(farewell));
                "is said to have ended"
            }
            20..23 => {
                node.unanswered_until = until;
                "gets no answer to what it reads"
            }
            _ => return,
        };
        tell!(self, "node {n} {what}");
    }

    fn go_on(&mut self, place: usize) {
        let task = self.tasks.swap_remove(place);
        let left = match task {
            Task::Verification(task) => self.verification_goes_on(task).map(Task::Verification),
            Task::Changing(task) => self.change_goes_on(task).map(Task::Changing),
            Task::Waiting(task) => self.waiting_goes_on(task).map(Task::Waiting),
        };
        self.tasks.extend(left);
    }

    fn verification_goes_on(&mut self, mut task: Verification<'a>) -> Option<Verification<'a>> {
        // What the store was asked it answers also while whoever asked is stopped.
        let key = task.key;
        if let Doing::Fills(_, read @ None) | Doing::Asks(read @ None) = &mut task.doing {
            *read = Some(self.read(task.node, key));
            tell!(self, "verification {} reads {read:?}", task.number);
            return Some(task);
        }
        let node = &self.nodes[task.node];
        if !node.runs(self.now) {
            return Some(task);
        }
        let (code, cache) = (FIXTURE.codes[key], node.cache);
        let facts = (task.number, task.node, key, task.began_at, task.began);
        task.doing = match task.doing {
            Doing::Looks => match cache.get(code) {
                Some(known) => {
                    self.count.hits += 1;
                    self.check(&facts, known_verdict(&known), false);
                    return None;
                }
                None => Doing::Begins,
            },
            Doing::Begins => match cache.begin(code) {
                Fill::Own(own) => Doing::Fills(own, None),
                Fill::Joined(joined) => Doing::Waits(joined),
            },
            Doing::Waits(joined) => {
                let filled = joined.borrow().clone();
                match filled {
                    Some(filled) => {
                        self.conclude(&facts, filled);
                        return None;
                    }
                    None if joined.has_changed().is_err() => Doing::Begins,
                    None => Doing::Waits(joined),
                }
            }
            Doing::Fills(own, Some(read)) => {
                if self.chance.one_in(20) {
                    tell!(self, "verification {} is given up", task.number);
                    drop(own);
                    return None;
                }
                let filled = own.end(record(key, read));
                self.conclude(&facts, filled);
                return None;
            }
            Doing::Asks(Some(read)) => {
                let found = record(key, read);
                let filled = found
                    .map(|found| cache.know(found.as_ref()))
                    .map_err(Arc::new);
                self.conclude(&facts, filled);
                return None;
            }
            unchanged => unchanged,
        };
        Some(task)
    }

    fn conclude(&mut self, facts: &Facts, filled: Filled) {
        if let Ok(found) = filled {
            self.check(facts, known_verdict(&found), false);
            return;
        }
        // As the service does where the store cannot be asked.
        let (_, n, key, _, began) = *facts;
        let node = &self.nodes[n];
        let allowed = node.config.stale_if_error;
        let known = node.cache.get(FIXTURE.codes[key]);
        match known.filter(|_| node.cache.may_answer_stale(began, allowed)) {
            Some(known) => self.check(facts, known_verdict(&known), true),
            None => self.count.failed += 1,
        }
    }

    /// Was this an answer that may be given?
    fn check(&mut self, facts: &Facts, verdict: Verdict, stale: bool) {
        let (number, n, key, began_at, _) = *facts;
        let node = &self.nodes[n];
        let allowed = nanos(if stale {
            node.config.patience()
        } else {
            node.config.bound
        });
        let may_be = |part: usize, standing| {
            let history = &self.history[part];
            let first = history.iter().rposition(|it| {
                it.known_at[n] <= began_at || it.answered_at.saturating_add(allowed) <= began_at
            });
            history[first.unwrap_or_default()..]
                .iter()
                .any(|it| it.standing == standing)
        };
        let account = account_of(key);
        let is_right = match verdict {
            Verdict::Valid => may_be(key, Standing::Good) && may_be(account, Standing::Good),
            Verdict::AccountSuspended => {
                may_be(key, Standing::Good) && may_be(account, Standing::Stopped)
            }
            Verdict::Revoked => may_be(key, Standing::Stopped),
            Verdict::Unknown => may_be(key, Standing::Absent),
            _ => false,
        };
        match verdict {
            Verdict::Valid => self.count.accepted += 1,
            _ => self.count.refused += 1,
        }
        self.count.stale += u64::from(stale);
        tell!(self, "verification {number} on node {n}: {verdict:?}");
        if !is_right {
            self.fault = Some(format!(
                "key {key} on node {n} was {verdict:?}, which was over"
            ));
        }
    }

    fn change_goes_on(&mut self, mut task: Changing<'a>) -> Option<Changing<'a>> {
        let n = task.node;
        if let Stage::Noted = task.stage {
            task.stage = if self.reachable(n) && !self.chance.one_in(20) {
                Stage::Committed(self.commit(&task.parts))
            } else {
                Stage::Failed
            };
            return Some(task);
        }
        if !self.nodes[n].runs(self.now) {
            return Some(task);
        }
        let commit = match task.stage {
            Stage::Committed(commit) => Some(commit),
            Stage::Forgotten(commit) => {
                let commit = commit?;
                tell!(self, "commit {commit} is answered by node {n}");
                for version in self.history.iter_mut().flatten() {
                    if version.commit == commit {
                        version.answered_at = self.now;
                        version.known_at[n] = self.now.min(version.known_at[n]);
                    }
                }
                return None;
            }
            Stage::Noted | Stage::Failed => None,
        };
        drop(task.forgets.take());
        task.stage = Stage::Forgotten(commit);
        Some(task)
    }

    fn waiting_goes_on(&mut self, mut task: Waiting) -> Option<Waiting> {
        let n = task.node;
        let answers = self.reachable(n) && self.nodes[n].unanswered_until <= self.now;
        if let Inquiry::Begins = task.stage {
            if !answers {
                return None;
            }
            let reports = self.reports.iter().zip(&self.nodes);
            let told = reports.filter_map(|(report, node)| Some((node.id, (*report)?.patience)));
            task.stage = Inquiry::Told(Told::new(told));
            return Some(task);
        }
        let node = &self.nodes[n];
        if !node.runs(self.now) {
            return Some(task);
        }
        let now = node.lease_time(self.now);
        let mut asked = match task.stage {
            Inquiry::Begins => return None,
            Inquiry::Told(told) => {
                let (id, own) = (node.id, node.config.patience());
                let number = self.chance.next();
                let asked = node.nodes.ask(number, id, own, told, task.began);
                self.underway.push(Sent {
                    node: n,
                    heard: Heard::Signal(Signal::Probe(Probe { node: id, number })),
                });
                task.stage = Inquiry::Asked(asked);
                return Some(task);
            }
            Inquiry::Asked(asked) => asked,
        };
        let until = asked.until();
        if now < until {
            if now < task.began + LONGEST_WAIT {
                task.stage = Inquiry::Asked(asked);
                return Some(task);
            }
            node.nodes.withdraw(asked.number);
            return None;
        }
        node.nodes.withdraw(asked.number);
        self.count.propagated += 1;
        let patience = nanos(node.config.patience());
        let is_early = node.listens_since + patience > self.now;
        self.count.early += u64::from(is_early);
        let is_dead = |(it, report): (&Node<'_>, &Option<Report>)| {
            report.is_some() && it.stopped_until == NEVER
        };
        let dead = self.nodes.iter().zip(&self.reports).any(is_dead);
        self.count.outlasted += u64::from(dead);
        tell!(
            self,
            "node {n} is told that commit {} is known to all (early: {is_early})",
            task.commit
        );
        for n in 0..self.nodes.len() {
            self.has_to_know(n, task.commit, None);
        }
        None
    }
}

impl Task<'_> {
    fn node(&self) -> usize {
        match self {
            Self::Verification(task) => task.node,
            Self::Changing(task) => task.node,
            Self::Waiting(task) => task.node,
        }
    }
}

/// Number, node, key, and when it began, by the world's time and the node's.
type Facts = (u64, usize, usize, u64, Duration);

fn known_verdict(known: &Known) -> Verdict {
    if known.is_nobodys {
        Verdict::Unknown
    } else {
        known.found.verdict(at())
    }
}

fn record(key: usize, read: Read) -> Result<Option<KeyRecord>, StoreError> {
    let (own, account) = read.map_err(|()| StoreError::unavailable("cut off"))?;
    let is = |standing| usize::from(standing == Standing::Stopped);
    let found = &FIXTURE.records[key][is(own)][is(account)];
    Ok((own != Standing::Absent).then(|| found.clone()))
}

/// Runs so many schedules, and tells what happens if it is one; answers what was counted, or the first that goes wrong, how many came before it, and what is wrong.
fn run_all(first: u64, schedules: u64, sabotage: Sabotage) -> Result<Count, (u64, String)> {
    let next = AtomicU64::new(0);
    let (count, found) = (Mutex::new(Count::default()), Mutex::new(None));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut own = Count::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= schedules {
                        break;
                    }
                    match run(first.wrapping_add(number), sabotage, schedules == 1) {
                        Ok(counted) => own.add(counted),
                        Err(fault) => {
                            let mut found = found.lock().unwrap();
                            if found.as_ref().is_none_or(|(other, _)| number < *other) {
                                *found = Some((number, fault));
                            }
                            next.fetch_max(schedules, Ordering::Relaxed);
                        }
                    }
                }
                count.lock().unwrap().add(own);
            });
        }
    });
    match found.into_inner().unwrap() {
        None => Ok(count.into_inner().unwrap()),
        Some(found) => Err(found),
    }
}

/// A number that `cargo xtask simulate` hands over.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing is configured by it, but how long this test goes on"
)]
fn asked_for(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn nothing_is_relied_on_for_longer_than_is_promised() {
    let schedules = asked_for("LEADR_AUTH_SIMULATE_SCHEDULES").unwrap_or(SHORT);
    let first = asked_for("LEADR_AUTH_SIMULATE_SEED").unwrap_or(1);
    let began = Instant::now();
    match run_all(first, schedules, Sabotage::Nothing) {
        Ok(count) => println!("{schedules} schedules, {:.1?}: {count:?}", began.elapsed()),
        Err((number, fault)) => {
            let seed = first.wrapping_add(number);
            if schedules > 1 {
                let _ = run(seed, Sabotage::Nothing, true);
            }
            panic!("{fault}; to see it again: cargo xtask simulate --seed {seed} --schedules 1");
        }
    }
}

/// That everything happens that is looked for is no matter of course.
#[test]
fn what_is_looked_for_happens() {
    let Count {
        steps,
        accepted,
        refused,
        failed,
        stale,
        hits,
        propagated,
        early,
        outlasted,
        cleared,
    } = run_all(1, 1_000, Sabotage::Nothing).unwrap();
    assert!(steps > 100_000, "{steps}");
    for (what, count) in [
        ("accepted", accepted),
        ("refused", refused),
        ("failed", failed),
        ("stale", stale),
        ("hits", hits),
        ("propagated", propagated),
        ("early", early),
        ("outlasted", outlasted),
        ("cleared", cleared),
    ] {
        assert!(count >= 10, "{what}: {count}");
    }
}

#[test]
#[cfg(feature = "sabotage")]
fn with_a_mechanism_switched_off_it_goes_wrong() {
    for sabotage in [
        Sabotage::NoFence,
        Sabotage::ForgetEarly,
        Sabotage::NoTicks,
        Sabotage::ListenLate,
        Sabotage::WallClock,
    ] {
        let found = run_all(1, SHORT, sabotage).expect_err("it was not found");
        println!(
            "{sabotage:?}: found in schedule {}: {}",
            found.0 + 1,
            found.1
        );
    }
}
