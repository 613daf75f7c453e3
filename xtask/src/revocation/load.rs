//! Clients that verify keys, and clients that stop them.
//!
//! A key that is being stopped is verified on each node again and again: every two milliseconds until the answer, then at
//! intervals of three milliseconds, or a tenth of the time since, for as long as it is let in, and at certain times after it is
//! not any more. What is left of the rate goes to other keys: those that are next to be stopped, above all, so that every
//! node knows them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::chance::Chance;
use crate::http::{Connection, Said};
use crate::sh::{Failure, Outcome};

use super::judge::{Life, Seen, Stopped, What};
use super::keys::{Keys, Target};

/// Connections to each node that verify.
const VERIFIERS: usize = 8;
/// Clients that stop keys. Many of them wait where a node does not answer.
const STOPPERS: usize = 24;
/// A client that has had no answer for so long asks anew.
const VERIFY_TIMEOUT: Duration = Duration::from_millis(800);
const STOP_TIMEOUT: Duration = Duration::from_millis(2500);
/// So long may it take until a stop says that every node has heard.
const WAIT_TIMEOUT: Duration = Duration::from_secs(12);
/// One stop of so many waits for that.
const WAITS: u64 = 10;
/// For how long a node is left alone by stops that did not answer one.
const AVOID: Duration = Duration::from_secs(1);
/// A stop that is not answered for so long is given up.
const GIVE_UP: Duration = Duration::from_secs(40);
/// So many of the keys that are next to be stopped are verified above all.
const NEXT: usize = 400;

const BEFORE_ANSWER: Duration = Duration::from_millis(2);
const AFTER_ANSWER: Duration = Duration::from_millis(3);
/// How long after a stop its key is verified at the latest, if the node answers; and if it does not.
const UNANSWERED_TIMES: Duration = Duration::from_secs(40);
const WHILE_UNABLE: Duration = Duration::from_millis(20);

pub(crate) struct Plan<'a> {
    pub(crate) nodes: Vec<SocketAddr>,
    pub(crate) operator: &'a str,
    pub(crate) keys: &'a Keys,
    pub(crate) bound: Duration,
    /// Verifications a second, on all nodes together.
    pub(crate) rate: u32,
    /// Keys to be stopped a second.
    pub(crate) stops: u32,
    pub(crate) seed: u64,
}

/// What was seen, and what became of the keys.
pub(crate) struct Log {
    pub(crate) seen: Vec<Seen>,
    pub(crate) lives: Vec<Life>,
    pub(crate) lasted: Duration,
    /// Why stops had to be asked for again, and how often.
    pub(crate) repeated: BTreeMap<String, u64>,
    /// Stops of which it was said that every node has heard, and all that waited for it.
    pub(crate) everywhere: (u64, u64),
}

/// A verification that is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Probe {
    due: Duration,
    key: usize,
}

#[derive(Default)]
struct Queue {
    due: BinaryHeap<Reverse<Probe>>,
    /// Whether one of the clients waits for what is due next. The others wait for their turn only.
    watched: bool,
}

struct Shared<'a> {
    plan: &'a Plan<'a>,
    begun: Instant,
    queues: Vec<(Mutex<Queue>, Condvar)>,
    lives: Vec<Mutex<Life>>,
    /// The next target.
    next: AtomicUsize,
    over: AtomicBool,
    /// Until when a node is left alone by stops, in milliseconds.
    avoided: Vec<AtomicU64>,
    repeated: Mutex<BTreeMap<String, u64>>,
    everywhere: AtomicU64,
    waited: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs the load. `meanwhile` is called beside it, and has to return soon after what it is given says that all is stopped.
pub(crate) fn run(
    plan: &Plan<'_>,
    meanwhile: impl FnOnce(&dyn Fn() -> bool) -> Outcome,
) -> Outcome<Log> {
    let shared = Shared {
        plan,
        begun: Instant::now(),
        queues: plan.nodes.iter().map(|_| Default::default()).collect(),
        lives: plan.keys.secrets.iter().map(|_| Mutex::default()).collect(),
        next: AtomicUsize::new(0),
        over: AtomicBool::new(false),
        avoided: plan.nodes.iter().map(|_| AtomicU64::new(0)).collect(),
        repeated: Mutex::default(),
        everywhere: AtomicU64::new(0),
        waited: AtomicU64::new(0),
    };
    let mut chance = Chance::new(plan.seed);
    let shared = &shared;
    let (seen, done) = thread::scope(|scope| {
        let mut verifiers = Vec::new();
        for (node, address) in plan.nodes.iter().enumerate() {
            for number in 0..VERIFIERS {
                let verifier = Verifier {
                    shared,
                    node,
                    chance: Chance::new(chance.next()),
                    server: Connection::at(*address, VERIFY_TIMEOUT),
                    seen: Vec::new(),
                };
                verifiers.push(scope.spawn(move || verifier.run(number)));
            }
        }
        let stoppers: Vec<_> = (0..STOPPERS)
            .map(|_| {
                let stopper = Stopper {
                    shared,
                    chance: Chance::new(chance.next()),
                };
                scope.spawn(move || stopper.run())
            })
            .collect();
        let all_stopped = || stoppers.iter().all(thread::ScopedJoinHandle::is_finished);
        let done = meanwhile(&all_stopped);
        if done.is_err() {
            shared.next.store(usize::MAX / 2, Ordering::SeqCst);
        }
        for stopper in stoppers {
            let _ = stopper.join();
        }
        if done.is_ok() {
            thread::sleep(plan.bound + Duration::from_millis(1500));
        }
        shared.over.store(true, Ordering::SeqCst);
        let mut seen = Vec::new();
        for verifier in verifiers {
            match verifier.join() {
                Ok(one) => seen.extend(one),
                Err(_) => return (Err(Failure::new("a client panicked")), done),
            }
        }
        (Ok(seen), done)
    });
    done?;
    let lasted = shared.begun.elapsed();
    let mut seen = seen?;
    seen.extend(shared.at_last()?);
    Ok(Log {
        seen,
        lives: shared.lives.iter().map(|life| *lock(life)).collect(),
        lasted,
        repeated: lock(&shared.repeated).clone(),
        everywhere: (
            shared.everywhere.load(Ordering::Relaxed),
            shared.waited.load(Ordering::Relaxed),
        ),
    })
}

/// Verifies every key on every node, so that all know all.
pub(crate) fn warm(nodes: &[SocketAddr], keys: &Keys) -> Outcome {
    let (next, secrets) = (AtomicUsize::new(0), &keys.secrets);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..VERIFIERS)
            .map(|_| {
                scope.spawn(|| {
                    let mut servers: Vec<Connection> = nodes
                        .iter()
                        .map(|node| Connection::at(*node, STOP_TIMEOUT))
                        .collect();
                    while let Some(key) = secrets.get(next.fetch_add(1, Ordering::Relaxed)) {
                        for server in &mut servers {
                            let mut what = ask(server, key);
                            let begun = Instant::now();
                            // A busy machine is slow, and that is not what is looked for here.
                            while matches!(what, What::Unable | What::Silent)
                                && begun.elapsed() < GIVE_UP
                            {
                                what = ask(server, key);
                            }
                            if what != What::Accepted {
                                return Err(Failure::new(format!("a new key is {what:?}")));
                            }
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|client| {
            client
                .join()
                .map_err(|_| Failure::new("a client panicked"))?
        })
    })
}

fn ask(server: &mut Connection, key: &str) -> What {
    let said = Said {
        key: Some(key),
        body: None,
    };
    match server.send("GET", "/v1/forward-auth", said) {
        Ok(answer) => match answer.status {
            204 => What::Accepted,
            401 => What::Refused,
            503 => What::Unable,
            other => What::Odd(other),
        },
        Err(_) => What::Silent,
    }
}

impl Shared<'_> {
    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn verify(&self, server: &mut Connection, node: usize, key: usize) -> Seen {
        let secret = self.plan.keys.secrets.get(key);
        let start = self.now();
        let what = ask(server, secret.map(String::as_str).unwrap_or_default());
        Seen {
            key,
            node,
            what,
            start,
            end: self.now(),
        }
    }

    fn life(&self, key: usize) -> Life {
        self.lives
            .get(key)
            .map_or(Life::default(), |life| *lock(life))
    }

    fn change(&self, target: &Target, change: impl Fn(&mut Life)) {
        for life in target.keys.iter().filter_map(|key| self.lives.get(*key)) {
            change(&mut lock(life));
        }
    }

    /// Each key once more on each node, when everything has calmed down.
    fn at_last(&self) -> Outcome<Vec<Seen>> {
        let next = AtomicUsize::new(0);
        let all = self.plan.keys.secrets.len();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..VERIFIERS)
                .map(|_| {
                    scope.spawn(|| {
                        let nodes = self.plan.nodes.iter();
                        let mut servers: Vec<Connection> = nodes
                            .map(|node| Connection::at(*node, STOP_TIMEOUT))
                            .collect();
                        let mut seen = Vec::new();
                        loop {
                            let key = next.fetch_add(1, Ordering::Relaxed);
                            if key >= all {
                                return seen;
                            }
                            for (node, server) in servers.iter_mut().enumerate() {
                                seen.push(self.verify(server, node, key));
                            }
                        }
                    })
                })
                .collect();
            let mut seen = Vec::new();
            for client in clients {
                let one = client.join();
                seen.extend(one.map_err(|_| Failure::new("a client panicked"))?);
            }
            Ok(seen)
        })
    }
}

/// Asks one node about keys.
struct Verifier<'a> {
    shared: &'a Shared<'a>,
    node: usize,
    chance: Chance,
    server: Connection,
    seen: Vec<Seen>,
}

impl Verifier<'_> {
    fn run(mut self, number: usize) -> Vec<Seen> {
        let nodes = u32::try_from(self.shared.plan.nodes.len()).unwrap_or(1);
        let clients = u32::try_from(VERIFIERS).unwrap_or(1) * nodes;
        let interval = Duration::from_secs(1) * clients / self.shared.plan.rate.max(1);
        let share = u32::try_from(number).unwrap_or(0);
        let mut turn = interval * share / u32::try_from(VERIFIERS).unwrap_or(1);
        while !self.shared.over.load(Ordering::SeqCst) {
            if let Some(probe) = self.due_before(turn) {
                self.probe(probe);
                // What is due is part of the rate, and comes first.
                turn += interval;
                let now = self.shared.now();
                turn = turn.clamp(now.saturating_sub(interval), now + interval);
            } else {
                let key = self.choose();
                let seen = self.shared.verify(&mut self.server, self.node, key);
                self.note(seen);
                turn = (turn + interval).max(self.shared.now().saturating_sub(interval));
            }
        }
        self.seen
    }

    fn note(&mut self, seen: Seen) {
        if seen.what == What::Silent {
            // As a balancer would: somebody who does not answer is not asked without a pause.
            thread::sleep(Duration::from_millis(10));
        }
        self.seen.push(seen);
    }

    /// Waits for its turn, or for a key that is due before that.
    fn due_before(&self, turn: Duration) -> Option<Probe> {
        let (queue, changed) = self.shared.queues.get(self.node)?;
        let mut queue = lock(queue);
        let mut watching = false;
        let found = loop {
            let now = self.shared.now();
            match queue.due.peek() {
                Some(Reverse(probe)) if probe.due <= now => {
                    break queue.due.pop().map(|Reverse(probe)| probe);
                }
                _ if now >= turn => break None,
                _ => {}
            }
            let mut wait = turn.saturating_sub(now);
            if watching || !queue.watched {
                queue.watched = true;
                watching = true;
                wait = wait.min(Duration::from_millis(1));
            }
            (queue, _) = changed
                .wait_timeout(queue, wait)
                .unwrap_or_else(PoisonError::into_inner);
        };
        if watching {
            queue.watched = false;
            changed.notify_one();
        }
        found
    }

    fn probe(&mut self, probe: Probe) {
        let seen = self.shared.verify(&mut self.server, self.node, probe.key);
        self.note(seen);
        let life = self.shared.life(probe.key);
        if let Some(due) = next_probe(&seen, life, self.shared.plan.bound)
            && let Some((queue, _)) = self.shared.queues.get(self.node)
        {
            lock(queue).due.push(Reverse(Probe {
                due,
                key: probe.key,
            }));
        }
    }

    fn choose(&mut self) -> usize {
        let keys = self.shared.plan.keys;
        let next = self.shared.next.load(Ordering::Relaxed);
        let some = self.chance.below(10);
        let found = if some < 8 {
            let at = next + self.chance.index(NEXT);
            keys.targets.get(at).and_then(|target| target.keys.first())
        } else if some < 9 {
            keys.bystanders
                .get(self.chance.index(keys.bystanders.len()))
        } else {
            None
        };
        found
            .copied()
            .unwrap_or_else(|| self.chance.index(keys.secrets.len()))
    }
}

/// When a key that is being stopped, or was, is to be verified again by the node.
fn next_probe(seen: &Seen, life: Life, bound: Duration) -> Option<Duration> {
    let requested = life.requested?;
    let asked = seen.end.saturating_sub(requested);
    let Some(stopped) = life.stopped else {
        let pause = if seen.what == What::Silent || seen.what == What::Unable {
            WHILE_UNABLE
        } else {
            BEFORE_ANSWER
        };
        return (asked < UNANSWERED_TIMES).then(|| seen.end + pause.max(asked / 10));
    };
    // What was asked before the answer says nothing about the time after it.
    let Some(age) = seen.start.checked_sub(stopped.at) else {
        return Some(seen.end.max(stopped.at));
    };
    let critical = bound + Duration::from_millis(1);
    let so_long = seen.end.saturating_sub(stopped.at);
    let after = match seen.what {
        What::Refused => {
            let times = [20, 100, 500].map(Duration::from_millis);
            let late = [1, 150, 1000].map(|ms| bound + Duration::from_millis(ms));
            return times
                .into_iter()
                .chain(late)
                .find(|time| *time > age)
                .map(|time| (stopped.at + time).max(seen.end));
        }
        What::Unable | What::Silent => WHILE_UNABLE.max(so_long / 10),
        What::Accepted | What::Odd(_) => AFTER_ANSWER.max(so_long / 10),
    };
    let mut next = so_long + after.min(Duration::from_millis(200));
    if so_long < critical {
        next = next.min(critical);
    }
    (so_long < UNANSWERED_TIMES).then(|| stopped.at + next)
}

/// Stops keys, each at its time.
struct Stopper<'a> {
    shared: &'a Shared<'a>,
    chance: Chance,
}

impl Stopper<'_> {
    fn run(mut self) {
        let plan = self.shared.plan;
        let keys: usize = plan
            .keys
            .targets
            .iter()
            .map(|target| target.keys.len())
            .sum();
        let all = u32::try_from(keys).unwrap_or(u32::MAX);
        let number = u32::try_from(plan.keys.targets.len()).unwrap_or(u32::MAX);
        // All have to be known to be warm before the first is stopped, and the rate is of keys.
        let interval = Duration::from_secs(1) * all / plan.stops.max(1) / number.max(1);
        loop {
            let at = self.shared.next.fetch_add(1, Ordering::SeqCst);
            let Some(target) = plan.keys.targets.get(at) else {
                return;
            };
            let turn = Duration::from_secs(1) + interval * u32::try_from(at).unwrap_or(0);
            thread::sleep(turn.saturating_sub(self.shared.now()));
            self.stop(target);
        }
    }

    /// Asks one node after the other until one answers.
    fn stop(&mut self, target: &Target) {
        let begun = self.shared.now();
        self.shared
            .change(target, |life| life.requested = Some(begun));
        for (queue, changed) in &self.shared.queues {
            let mut queue = lock(queue);
            let keys = target.keys.iter().copied();
            queue
                .due
                .extend(keys.map(|key| Reverse(Probe { due: begun, key })));
            changed.notify_one();
        }
        let waits = self.chance.below(WAITS) == 0;
        let mut attempts = 0;
        while self.shared.now() < begun + GIVE_UP {
            let node = self.choose();
            let (path, timeout) = if waits {
                (format!("{}?wait=propagated", target.path), WAIT_TIMEOUT)
            } else {
                (target.path.clone(), STOP_TIMEOUT)
            };
            let Some(address) = self.shared.plan.nodes.get(node) else {
                return;
            };
            let said = Said {
                key: Some(self.shared.plan.operator),
                body: Some(&target.body),
            };
            // A connection for each: one that is kept would be tried for long where its node has stopped.
            let answer = Connection::at(*address, timeout).send("PATCH", &path, said);
            let at = self.shared.now();
            let reason = match &answer {
                Ok(answer) => answer.status.to_string(),
                Err(error) => error.kind().to_string(),
            };
            let stopped = match &answer {
                Ok(answer) if (200..300).contains(&answer.status) => Some(Stopped {
                    at,
                    node: Some(node),
                    everywhere: answer.propagated,
                }),
                // What was asked for before, and not answered, had been done: a deleted key is not found any more.
                Ok(answer) if answer.status == 404 && attempts > 0 => Some(Stopped {
                    at,
                    node: None,
                    everywhere: false,
                }),
                _ => None,
            };
            if stopped.is_some() {
                self.shared.change(target, |life| life.stopped = stopped);
                if waits {
                    let heard = stopped.is_some_and(|stopped| stopped.everywhere);
                    self.shared.waited.fetch_add(1, Ordering::Relaxed);
                    self.shared
                        .everywhere
                        .fetch_add(u64::from(heard), Ordering::Relaxed);
                }
                return;
            }
            attempts += 1;
            *lock(&self.shared.repeated).entry(reason).or_default() += 1;
            self.avoid(node);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn choose(&mut self) -> usize {
        let now = millis(self.shared.now());
        let nodes = self.shared.avoided.len();
        let fit: Vec<usize> = (0..nodes)
            .filter(|node| {
                let until = self.shared.avoided.get(*node);
                until.is_some_and(|until| until.load(Ordering::Relaxed) <= now)
            })
            .collect();
        match fit.get(self.chance.index(fit.len())) {
            Some(node) => *node,
            None => self.chance.index(nodes),
        }
    }

    fn avoid(&self, node: usize) {
        if let Some(until) = self.shared.avoided.get(node) {
            until.store(millis(self.shared.now() + AVOID), Ordering::Relaxed);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(2);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn next(what: What, start: u64, stopped: Option<u64>) -> Option<Duration> {
        let seen = Seen {
            key: 0,
            node: 1,
            what,
            start: ms(start),
            end: ms(start + 1),
        };
        let life = Life {
            requested: Some(ms(1000)),
            stopped: stopped.map(|at| Stopped {
                at: ms(at),
                node: Some(0),
                everywhere: false,
            }),
        };
        next_probe(&seen, life, BOUND)
    }

    #[test]
    fn a_key_is_asked_about_densely_around_its_end() {
        assert_eq!(next(What::Accepted, 1000, None), Some(ms(1003)));
        assert_eq!(next(What::Accepted, 1005, Some(1007)), Some(ms(1007)));
        assert_eq!(next(What::Accepted, 1010, Some(1007)), Some(ms(1014)));
        assert_eq!(next(What::Accepted, 2006, Some(1007)), Some(ms(2107)));
    }

    #[test]
    fn the_moment_after_the_bound_is_never_left_out() {
        for what in [What::Accepted, What::Unable, What::Silent] {
            assert_eq!(next(what, 2950, Some(1000)), Some(ms(3001)));
        }
        let mut asked = Vec::new();
        let mut at = 1001;
        while let Some(due) = next(What::Refused, at, Some(1000)) {
            at = u64::try_from(due.as_millis()).unwrap();
            asked.push(at - 1000);
        }
        assert_eq!(asked, [20, 100, 500, 2001, 2150, 3000]);
    }

    #[test]
    fn a_node_that_does_not_answer_is_asked_for_long() {
        assert!(next(What::Silent, 20_000, Some(1000)).is_some());
        assert_eq!(next(What::Silent, 60_000, Some(1000)), None);
    }
}
