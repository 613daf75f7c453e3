//! What schemathesis says in the end, and what all of it comes to.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::Part;
use super::target::Seen;
use crate::process;
use crate::sh::{self, Failure, Outcome};

/// How much of a run's findings is shown, in lines: one cause has many.
const MOST_LINES: usize = 150;

/// What one run of schemathesis says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// How many cases there were.
    pub(super) generated: u64,
    /// What was wrong with answers, and what kept a case from being tried.
    pub(super) failures: u64,
    /// The findings, for people; empty where there are none.
    pub(super) text: String,
}

impl Report {
    /// Of a run that has ended, from its report and what it printed.
    pub(super) fn read(json: &Path, log: &Path) -> Outcome<Self> {
        let printed = fs::read_to_string(log).unwrap_or_default();
        let text = fs::read_to_string(json).map_err(|_| {
            Failure::new(format!(
                "schemathesis made no report; it ended with{}",
                process::tail(log)
            ))
        })?;
        let report: Value = serde_json::from_str(&text).map_err(Failure::when(json.display()))?;
        Self::of(&report, &printed)
            .ok_or_else(|| Failure::new(format!("{}: not as expected", json.display())))
    }

    /// `None` where the report is not of the shape that it has in the version that is installed.
    fn of(report: &Value, printed: &str) -> Option<Self> {
        let number = |pointer| report.pointer(pointer).and_then(Value::as_u64);
        let generated = number("/test_cases/generated")?;
        let mut failures = number("/test_cases/unique_failures")?;
        failures = failures.saturating_add(number("/test_cases/errored")?);
        let errors = report.get("errors").and_then(Value::as_array)?;
        failures = failures.saturating_add(u64::try_from(errors.len()).ok()?);
        // A run that broke off, or left something out, found nothing wrong because it did not look.
        let complete = report.get("complete").and_then(Value::as_bool)?;
        let tested = number("/operations/tested")?;
        let whole = complete && tested == number("/operations/total")? && tested > 0;
        let good = number("/exit_code")? == 0;
        if failures == 0 && !(whole && good) {
            failures = 1;
        }
        let text = if failures == 0 {
            String::new()
        } else {
            findings(printed)
        };
        Some(Self {
            generated,
            failures,
            text,
        })
    }
}

/// What schemathesis prints of its findings.
fn findings(printed: &str) -> String {
    let is_heading = |line: &str| {
        line.starts_with("===") && (line.contains(" FAILURES ") || line.contains(" ERRORS "))
    };
    let mut lines: Vec<&str> = printed.lines().collect();
    if let Some(start) = lines.iter().position(|line| is_heading(line)) {
        lines.drain(..start);
    }
    let more = lines.len().saturating_sub(MOST_LINES);
    lines.truncate(MOST_LINES);
    let mut text = lines.join("\n");
    if more > 0 {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n… and {more} more lines");
    }
    text
}

/// What came of one store and one role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) cases: u64,
    failures: u64,
    server_errors: u64,
}

impl Tally {
    pub(super) fn add(&mut self, report: &Report, seen: &Seen) {
        let faults = u64::try_from(seen.faults.len()).unwrap_or(u64::MAX);
        self.cases = self.cases.saturating_add(report.generated);
        self.failures = self
            .failures
            .saturating_add(report.failures)
            .saturating_add(faults);
        self.server_errors = self.server_errors.saturating_add(seen.server_errors);
    }

    pub(super) const fn is_bad(&self) -> bool {
        self.failures > 0 || self.server_errors > 0
    }
}

/// Prints what came of all of it; a failure where anything did.
pub(super) fn told(
    parts: &[Part],
    outcomes: Vec<Option<Outcome<Tally>>>,
    took: Duration,
) -> Outcome {
    let mut table = String::from("\nstore     role         cases  failures  5xx\n");
    let mut all = Tally::default();
    let mut broken = Vec::new();
    for (part, outcome) in parts.iter().zip(outcomes) {
        let (store, role) = (part.store.name(), part.role.name());
        let tally = match outcome {
            Some(Ok(tally)) => tally,
            Some(Err(failure)) => {
                broken.push(format!("{}: {}", part.name(), failure.message));
                continue;
            }
            None => {
                broken.push(format!("{}: not played", part.name()));
                continue;
            }
        };
        all.cases = all.cases.saturating_add(tally.cases);
        all.failures = all.failures.saturating_add(tally.failures);
        all.server_errors = all.server_errors.saturating_add(tally.server_errors);
        row(&mut table, store, role, &tally);
    }
    row(&mut table, "all", "", &all);
    println!("{table}in {:.0} s", took.as_secs_f64());
    if all.is_bad() {
        broken.push(format!(
            "{} failures and {} answers of 5xx",
            all.failures, all.server_errors
        ));
    }
    sh::unless_none(&broken)
}

fn row(table: &mut String, store: &str, role: &str, tally: &Tally) {
    let Tally {
        cases,
        failures,
        server_errors,
    } = tally;
    // Writing to a String cannot fail.
    let _ = writeln!(
        table,
        "{store:<9} {role:<9} {cases:>8}  {failures:>8}  {server_errors:>3}"
    );
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report() -> Value {
        json!({
            "complete": true,
            "exit_code": 0,
            "operations": {"total": 19, "tested": 19},
            "test_cases": {"generated": 1461, "unique_failures": 0, "errored": 0},
            "errors": [],
        })
    }

    fn failures(change: impl Fn(&mut Value)) -> Option<u64> {
        let mut report = report();
        change(&mut report);
        Report::of(&report, "").map(|report| report.failures)
    }

    #[test]
    fn a_run_that_looked_at_all_and_found_nothing_is_good() {
        let expected = Report {
            generated: 1461,
            failures: 0,
            text: String::new(),
        };
        assert_eq!(Report::of(&report(), "much"), Some(expected));
    }

    #[test]
    fn whatever_is_wrong_with_a_run_is_a_failure() {
        assert_eq!(
            failures(|report| report["test_cases"]["unique_failures"] = 3.into()),
            Some(3)
        );
        assert_eq!(
            failures(|report| report["test_cases"]["errored"] = 2.into()),
            Some(2)
        );
        assert_eq!(failures(|report| report["errors"] = json!([{}])), Some(1));
        for (pointer, value) in [
            ("/complete", json!(false)),
            ("/exit_code", json!(1)),
            ("/operations/tested", json!(18)),
        ] {
            let of = |report: &mut Value| *report.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(failures(of), Some(1), "{pointer}");
        }
        assert_eq!(failures(|report| report["test_cases"] = json!({})), None);
    }

    #[test]
    fn findings_are_shown_from_their_beginning() {
        let found = "===== FAILURES =====\nwrong\n=== SUMMARY ===";
        assert_eq!(findings(&format!("much\n{found}\n")), found);
        assert_eq!(findings("it broke"), "it broke");
        let long = "x\n".repeat(MOST_LINES + 2);
        assert!(findings(&long).ends_with("… and 2 more lines"));
    }
}
