//! What is told of a run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::faults::Fault;
use super::judge::{Verdict, percentile};

/// How many violations are described; the rest is counted.
const DESCRIBED: usize = 20;

/// What is asked of a run in which nothing fails.
const HEALTHY_P99: Duration = Duration::from_millis(100);
const HEALTHY_MAX: Duration = Duration::from_millis(500);

/// One fault and what came of it.
pub(crate) struct Report {
    pub(crate) fault: Fault,
    pub(crate) how: Option<&'static str>,
    pub(crate) cycles: u64,
    /// How many keys the caches of the nodes knew, and how many were looked up in them.
    pub(crate) cached: (u64, u64),
    pub(crate) lasted: Duration,
    /// Why stops had to be asked for again, and how often.
    pub(crate) repeated: BTreeMap<String, u64>,
    /// Stops of which it was said that every node has heard, and all that waited for it.
    pub(crate) everywhere: (u64, u64),
    pub(crate) verdict: Verdict,
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let verdict = &self.verdict;
        let (heard, waited) = self.everywhere;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "{}: {} keys stopped, {} unknown; elsewhere p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms (seen to within {:.1} ms, p99 {:.1} ms); \
             {} violations\n  {} verifications ({:.0}/s), {:.0} % from memory, {} answered 503, {} not at all; stops repeated {}; \
             {heard} of {waited} that waited were heard everywhere; {} times in {:.0} s",
            self.fault.name(),
            verdict.stopped,
            verdict.unknown,
            ms(percentile(&verdict.latencies, 50)),
            ms(percentile(&verdict.latencies, 99)),
            ms(percentile(&verdict.latencies, 100)),
            ms(percentile(&verdict.gaps, 50)),
            ms(percentile(&verdict.gaps, 99)),
            verdict.violations.len(),
            verdict.verifications,
            self.per_second(),
            self.hit_rate() * 1e2,
            verdict.unable,
            verdict.silent,
            self.repetitions(),
            self.cycles,
            self.lasted.as_secs_f64(),
        );
        if let Some(how) = self.how {
            let _ = write!(text, "\n  by {how}");
        }
        for violation in verdict.violations.iter().take(DESCRIBED) {
            let _ = write!(text, "\n  {violation}");
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let verdict = &self.verdict;
        let described = verdict.violations.iter().take(DESCRIBED);
        json!({
            "fault": self.fault.name(),
            "how": self.how,
            "cycles": self.cycles,
            "seconds": self.lasted.as_secs_f64(),
            "stopped": verdict.stopped,
            "unknown": verdict.unknown,
            "p50_ms": ms(percentile(&verdict.latencies, 50)),
            "p99_ms": ms(percentile(&verdict.latencies, 99)),
            "max_ms": ms(percentile(&verdict.latencies, 100)),
            "resolution_p50_ms": ms(percentile(&verdict.gaps, 50)),
            "resolution_p99_ms": ms(percentile(&verdict.gaps, 99)),
            "violations": verdict.violations.len(),
            "described": described.map(ToString::to_string).collect::<Vec<_>>(),
            "verifications": verdict.verifications,
            "per_second": self.per_second(),
            "from_memory": self.hit_rate(),
            "unable": verdict.unable,
            "silent": verdict.silent,
            "stops_repeated": self.repeated,
            "waited": self.everywhere.1,
            "heard_everywhere": self.everywhere.0,
        })
    }

    fn repetitions(&self) -> String {
        let mut text = self.repeated.values().sum::<u64>().to_string();
        for (number, (reason, times)) in self.repeated.iter().enumerate() {
            let before = if number == 0 { " (" } else { ", " };
            let _ = write!(text, "{before}{reason}: {times}");
        }
        if !self.repeated.is_empty() {
            text.push(')');
        }
        text
    }

    fn hit_rate(&self) -> f64 {
        let (hits, all) = self.cached;
        let number = |number: u64| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        number(hits) / number(all.max(1))
    }

    fn per_second(&self) -> f64 {
        let verifications = u32::try_from(self.verdict.verifications).unwrap_or(u32::MAX);
        f64::from(verifications) / self.lasted.as_secs_f64().max(0.001)
    }

    /// Whether a key was let in for longer than is asked of a run in which nothing fails.
    pub(crate) fn is_late(&self) -> bool {
        let latencies = &self.verdict.latencies;
        self.fault == Fault::None
            && (percentile(latencies, 99) > HEALTHY_P99 || percentile(latencies, 100) > HEALTHY_MAX)
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fault: Fault, latencies: Vec<Duration>) -> Report {
        Report {
            fault,
            how: None,
            cycles: 1,
            cached: (9, 10),
            lasted: Duration::from_secs(10),
            repeated: BTreeMap::from([("503".to_owned(), 2)]),
            everywhere: (0, 0),
            verdict: Verdict {
                verifications: 20_000,
                latencies,
                ..Verdict::default()
            },
        }
    }

    #[test]
    fn late_is_a_word_for_runs_in_which_nothing_fails() {
        let late = vec![Duration::from_millis(501)];
        assert!(report(Fault::None, late.clone()).is_late());
        assert!(!report(Fault::Stopped, late).is_late());
        assert!(!report(Fault::None, vec![Duration::from_millis(100)]).is_late());
    }

    #[test]
    fn figures_are_told() {
        let report = report(Fault::Stopped, vec![Duration::from_micros(1500)]);
        let text = report.text();
        assert!(
            text.contains("stopped: ") && text.contains("max 1.5 ms") && text.contains("2000/s"),
            "{text}"
        );
        assert_eq!(report.json()["max_ms"], 1.5);
    }
}
