//! What is done to the nodes and to their database while keys are stopped.

use std::thread;
use std::time::{Duration, Instant};

use crate::sh::{Failure, Outcome};

use super::proxy::Way;
use super::system::{NODES, Shape, System};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    ListenerKilled,
    BackendsTerminated,
    ListenerBlackHoled,
    NodeCutOff,
    Stopped,
    PostgresRestarted,
    Failover,
    Pgbouncer,
    SplitBrain,
}

impl Fault {
    /// Those under which the promise holds.
    pub(crate) const ALL: [Self; 9] = [
        Self::None,
        Self::ListenerKilled,
        Self::BackendsTerminated,
        Self::ListenerBlackHoled,
        Self::NodeCutOff,
        Self::Stopped,
        Self::PostgresRestarted,
        Self::Failover,
        Self::Pgbouncer,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ListenerKilled => "listener-killed",
            Self::BackendsTerminated => "backends-terminated",
            Self::ListenerBlackHoled => "listener-black-holed",
            Self::NodeCutOff => "node-cut-off",
            Self::Stopped => "stopped",
            Self::PostgresRestarted => "postgres-restarted",
            Self::Failover => "failover",
            Self::Pgbouncer => "pgbouncer",
            Self::SplitBrain => "split-brain",
        }
    }

    /// Those that an option names.
    pub(crate) fn named(value: Option<&str>) -> Outcome<Vec<Self>> {
        let value = value.unwrap_or_default();
        if value == "all" {
            return Ok(Self::ALL.to_vec());
        }
        // Nothing is promised of a primary that lives on unfenced; what comes of it can be seen all the same.
        let mut all = Self::ALL.into_iter().chain([Self::SplitBrain]);
        let found = all.find(|fault| fault.name() == value);
        found.map(|fault| vec![fault]).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Failure::usage(format!("--fault takes all or one of {names}"))
        })
    }

    pub(crate) const fn shape(self) -> Shape {
        match self {
            Self::None
            | Self::ListenerKilled
            | Self::BackendsTerminated
            | Self::Stopped
            | Self::PostgresRestarted => Shape::Direct,
            Self::ListenerBlackHoled => Shape::Listening,
            Self::NodeCutOff => Shape::Apart,
            Self::Failover => Shape::Replicated,
            Self::Pgbouncer => Shape::Pooled,
            Self::SplitBrain => Shape::Split,
        }
    }

    /// Whether it can be had where each node listens through a proxy.
    pub(crate) fn is_possible_listening(self) -> bool {
        matches!(self.shape(), Shape::Direct | Shape::Listening)
    }
}

/// So long it takes at most until connections have ended.
const CUT: Duration = Duration::from_millis(150);

/// How long what goes on.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    pub(crate) bound: Duration,
    /// Between two faults that are over at once.
    pub(crate) between: Duration,
    /// For how long a node is stopped.
    pub(crate) stopped: Duration,
    /// For how long something is cut, at least.
    pub(crate) cut: Duration,
}

impl Times {
    pub(crate) const fn long(bound: Duration) -> Self {
        Self {
            bound,
            between: Duration::from_secs(1),
            stopped: Duration::from_secs(10),
            cut: Duration::from_secs(5),
        }
    }

    pub(crate) const fn short(bound: Duration) -> Self {
        Self {
            bound,
            between: Duration::from_millis(700),
            stopped: Duration::from_millis(3500),
            cut: Duration::from_millis(3500),
        }
    }
}

/// Does it again and again until all keys are stopped, and answers how often. When it returns, everything is as it should be.
pub(crate) fn go_on(
    fault: Fault,
    system: &mut System,
    times: Times,
    is_over: &dyn Fn() -> bool,
) -> Outcome<u64> {
    // All keys are good, and known to all nodes, before anything happens.
    thread::sleep(Duration::from_millis(1500));
    let mut cycles = 0;
    while !is_over() {
        cycle(fault, system, times, cycles, is_over)?;
        system.still_runs()?;
        cycles += 1;
    }
    Ok(cycles)
}

fn cycle(
    fault: Fault,
    system: &mut System,
    times: Times,
    number: u64,
    is_over: &dyn Fn() -> bool,
) -> Outcome {
    let turn = usize::try_from(number).unwrap_or_default() % (NODES + 1);
    match fault {
        Fault::None | Fault::Pgbouncer => pause(times.between, is_over),
        Fault::ListenerKilled => {
            system.terminate("leadr-auth listener")?;
            pause(times.between, is_over);
        }
        Fault::BackendsTerminated => {
            system.terminate("leadr-auth%")?;
            pause(2 * times.between, is_over);
        }
        Fault::ListenerBlackHoled => {
            // One after the other, and then all at once.
            let node = (turn < NODES).then_some(turn);
            if number % 3 == 1 {
                // Nothing is heard while a node connects anew, which takes its time. What it knows is good still.
                system.listening(node, Way::Cut);
                thread::sleep(CUT);
                system.listening(node, Way::Silent);
                pause(times.between, is_over);
            } else {
                system.listening(node, Way::Silent);
                pause(times.cut, is_over);
            }
            if number % 3 == 2 {
                // What was not passed on never arrives; otherwise it arrives late.
                system.listening(node, Way::Cut);
                thread::sleep(CUT);
            }
            system.listening(node, Way::Open);
            pause(times.bound + times.between, is_over);
        }
        Fault::NodeCutOff => {
            system.cut_off(true)?;
            let cut = if number.is_multiple_of(2) { 1 } else { 2 };
            pause(cut * times.cut, is_over);
            system.cut_off(false)?;
            pause(times.bound * 2, is_over);
        }
        Fault::Stopped => {
            let node = turn % NODES;
            system.signal(node, "STOP")?;
            pause(times.stopped, is_over);
            system.signal(node, "CONT")?;
            pause(times.bound, is_over);
        }
        Fault::PostgresRestarted => {
            let (signal, away) = if number.is_multiple_of(2) {
                ("INT", times.between)
            } else {
                ("QUIT", times.between / 2)
            };
            system.restart_database(signal, away)?;
            pause(times.cut, is_over);
        }
        Fault::Failover | Fault::SplitBrain => {
            let dead = fault == Fault::Failover && number.is_multiple_of(2);
            system.fail_over(dead)?;
            // Long enough for a lease to be over that is not kept alive.
            pause(times.bound + times.cut, is_over);
            system.pair_again(dead)?;
            pause(times.bound * 2, is_over);
        }
    }
    Ok(())
}

fn pause(time: Duration, is_over: &dyn Fn() -> bool) {
    let begun = Instant::now();
    while begun.elapsed() < time && !is_over() {
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_a_name_of_its_own() {
        for fault in Fault::ALL {
            assert_eq!(Fault::named(Some(fault.name())).unwrap(), [fault]);
        }
        assert_eq!(Fault::named(Some("all")).unwrap(), Fault::ALL);
        for none in [None, Some("power-cut")] {
            assert!(Fault::named(none).unwrap_err().is_usage());
        }
    }
}
