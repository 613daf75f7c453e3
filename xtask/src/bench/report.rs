//! What was measured, for people, for programs and for `docs/benchmarks.md`.

use std::fmt::Write as _;
use std::fs;

use serde_json::{Value, json};

use super::loader::Measured;
use super::pinning::Pinning;
use super::{Kept, Options, plot};
use crate::env;
use crate::load::Spread;
use crate::node::Profile;
use crate::sh::{self, Failure, Outcome};

const PAGE: &str = "docs/benchmarks.md";
const PLOT: &str = "docs/benchmarks.svg";
const BEGIN: &str = "<!-- measured: written by `cargo xtask bench --write` -->";
const END: &str = "<!-- measured: end -->";

/// One scenario in one round.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) measured: Measured,
    /// What the server's process took of its core for each request, in microseconds.
    pub(crate) cpu_us: f64,
    /// Which share of the hot keys' requests was answered from memory.
    pub(crate) hot_hits: Option<f64>,
}

impl Sample {
    pub(crate) fn of(measured: Measured) -> Self {
        Self {
            measured,
            cpu_us: 0.0,
            hot_hits: None,
        }
    }
}

struct Series {
    kept: Kept,
    name: String,
    samples: Vec<Sample>,
}

struct Memory {
    kept: Kept,
    keys: u32,
    cached: f64,
    counted: f64,
    resident: f64,
}

/// Which figure of two scenarios is compared. All are such that 1 is as good as the floor.
#[derive(Clone, Copy)]
enum Figure {
    /// Requests per second, of the floor's.
    Rate,
    /// The floor's CPU time for a request, of the own.
    CpuOfFloor,
    /// The own CPU time for a request, of the other's.
    Cpu,
    P50,
    P99,
    /// The share of hits; there is no other.
    Hits,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// For information.
    None,
}

impl Bound {
    fn is_met(self, value: f64) -> Option<bool> {
        match self {
            Self::AtLeast(bound) => Some(value >= bound),
            Self::AtMost(bound) => Some(value <= bound),
            Self::None => None,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(bound) => format!("≥ {bound:.2}"),
            Self::AtMost(bound) => format!("≤ {bound:.2}"),
            Self::None => String::new(),
        }
    }
}

struct Ratio {
    what: &'static str,
    own: &'static str,
    of: &'static str,
    figure: Figure,
    bound: Bound,
}

macro_rules! ratios {
    ($($what:literal: $own:literal / $of:literal, $figure:ident, $bound:expr;)+) => {
        &[$(Ratio { what: $what, own: $own, of: $of, figure: Figure::$figure, bound: $bound }),+]
    };
}

const RATIOS: &[Ratio] = ratios! {
    "forward-auth, cached: requests/s, of the floor's": "forward-auth" / "floor/forward-auth", Rate, Bound::AtLeast(0.9);
    "forward-auth, cached: the floor's CPU per request, of its own": "forward-auth" / "floor/forward-auth", CpuOfFloor, Bound::AtLeast(0.9);
    "`POST /v1/verify`, cached: requests/s, of the floor's": "verify" / "floor/verify", Rate, Bound::AtLeast(0.8);
    "`POST /v1/verify`, cached: the floor's CPU per request, of its own": "verify" / "floor/verify", CpuOfFloor, Bound::AtLeast(0.8);
    "a batch of 100, cached: requests/s, of the floor's": "batch" / "floor/batch", Rate, Bound::None;
    "in-process (`RequireApiKey`), cached: requests/s, of the floor's": "in-process" / "floor/in-process", Rate, Bound::None;
    "in-process: the floor's CPU per request, of its own": "in-process" / "floor/in-process", CpuOfFloor, Bound::None;
    "`GET /livez`, the cheapest route: requests/s, of forward-auth's floor": "livez" / "floor/forward-auth", Rate, Bound::None;
    "forward-auth, cached, at a constant rate: p99, of the floor's": "forward-auth/open" / "floor/forward-auth/open", P99, Bound::AtMost(1.3);
    "forward-auth, cached, all connections busy: p99, of the floor's": "forward-auth" / "floor/forward-auth", P99, Bound::AtMost(1.3);
    "forward-auth, cached, one connection: p50, of the floor's": "forward-auth/one" / "floor/forward-auth/one", P50, Bound::AtMost(1.1);
    "a flood of 10,000 unknown keys: requests/s, of the floor's": "flood/repeated" / "floor/flood", Rate, Bound::AtLeast(0.8);
    "hot keys still cached after it": "flood/after" / "flood/after", Hits, Bound::AtLeast(0.99);
    "a flood of unknown keys that never repeat: requests/s, of the floor's": "flood/fresh" / "floor/flood", Rate, Bound::None;
    "hot keys answered from memory during it": "flood/fresh" / "flood/fresh", Hits, Bound::AtLeast(0.99);
    "99 verifications to 1 renaming: requests/s, of the verifications' floor": "mixed" / "floor/verify", Rate, Bound::None;
    "forward-auth, uncached: requests/s, of the floor's": "uncached/forward-auth" / "floor/uncached", Rate, Bound::None;
    "uncached verification, of a bare prepared SELECT": "one-process verification" / "one-process select", Rate, Bound::AtLeast(0.95);
    "creation, of pgbench inserting the row": "creation" / "pgbench", Rate, Bound::AtLeast(0.9);
    "creation, of pgbench writing all that the service writes": "creation" / "pgbench, all rows", Rate, Bound::None;
    "cached, many keys stored: CPU per request, of that with 1,000": "stored/cached/many" / "stored/cached/few", Cpu, Bound::AtMost(1.2);
    "uncached, many keys stored: CPU per request, of that with 1,000": "stored/uncached/many" / "stored/uncached/few", Cpu, Bound::AtMost(1.2);
    "uncached, many keys stored: requests/s, of those with 1,000": "stored/uncached/many" / "stored/uncached/few", Rate, Bound::None;
};

/// One line of the table of ratios.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) target: String,
    pub(crate) values: Vec<(Kept, Spread, Option<bool>)>,
}

pub(crate) struct Report {
    series: Vec<Series>,
    memory: Vec<Memory>,
    /// The process's memory before any key was cached.
    begun: Option<(Kept, f64)>,
    machine: String,
    how: String,
    many: u32,
}

impl Report {
    pub(crate) fn new(options: &Options, pinning: &Pinning) -> Self {
        let Options {
            rounds,
            seconds,
            connections,
            keys,
            many,
            profile,
            ..
        } = options;
        let build = match profile {
            Profile::Release => "release builds",
            Profile::Dev => "DEVELOPMENT BUILDS, which say nothing",
        };
        Self {
            series: Vec::new(),
            memory: Vec::new(),
            begun: None,
            machine: machine(),
            how: format!(
                "{rounds} rounds of {seconds} s, {connections} connections, {keys} keys, {many} where there are many; {build}; {}",
                pinning.description()
            ),
            many: *many,
        }
    }

    pub(crate) fn add(&mut self, kept: Kept, name: &str, sample: Sample) {
        let m = &sample.measured;
        eprintln!(
            "  {:<28}{:>10.0}/s {:>8.2} µs CPU  p50 {:>8.0} µs  p99 {:>8.0} µs  load {:.2}",
            name, m.per_second, sample.cpu_us, m.p50_us, m.p99_us, m.busy
        );
        let known = self.series.iter_mut();
        match known
            .into_iter()
            .find(|series| series.kept == kept && series.name == name)
        {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series {
                kept,
                name: name.to_owned(),
                samples: vec![sample],
            }),
        }
    }

    fn samples(&self, kept: Kept, name: &str) -> &[Sample] {
        let mut all = self.series.iter();
        all.find(|series| series.kept == kept && series.name == name)
            .map_or(&[], |series| &series.samples)
    }

    /// What a scenario did in its last round, in requests per second.
    pub(crate) fn last(&self, kept: Kept, name: &str) -> Option<f64> {
        self.samples(kept, name)
            .last()
            .map(|sample| sample.measured.per_second)
    }

    /// Answers the memory that was taken before the first key was cached.
    pub(crate) fn begin_memory(&mut self, kept: Kept, resident: f64) -> f64 {
        match self.begun {
            Some((known, begun)) if known == kept => begun,
            _ => {
                self.begun = Some((kept, resident));
                resident
            }
        }
    }

    pub(crate) fn add_memory(&mut self, kept: Kept, keys: u32, figures: [f64; 3]) {
        let [cached, counted, resident] = figures;
        eprintln!(
            "  {cached:.0} keys cached: {counted:.0} bytes each as counted, {resident:.0} resident"
        );
        self.memory.push(Memory {
            kept,
            keys,
            cached,
            counted,
            resident,
        });
    }

    fn kepts(&self) -> Vec<Kept> {
        let has = |kept: &Kept| self.series.iter().any(|series| series.kept == *kept);
        Kept::ALL.into_iter().filter(has).collect()
    }

    fn spread(&self, kept: Kept, ratio: &Ratio) -> Option<Spread> {
        let own = self.samples(kept, ratio.own).iter();
        let pairs = own
            .zip(self.samples(kept, ratio.of))
            .filter_map(|(own, of)| {
                let (m, f) = (&own.measured, &of.measured);
                let value = match ratio.figure {
                    Figure::Rate => m.per_second / f.per_second,
                    Figure::CpuOfFloor => of.cpu_us / own.cpu_us,
                    Figure::Cpu => own.cpu_us / of.cpu_us,
                    Figure::P50 => m.p50_us / f.p50_us,
                    Figure::P99 => m.p99_us / f.p99_us,
                    Figure::Hits => own.hot_hits?,
                };
                value.is_finite().then_some(value)
            });
        Spread::of(pairs)
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        let rows = RATIOS.iter().map(|ratio| {
            let values = self.kepts().into_iter().filter_map(|kept| {
                let spread = self.spread(kept, ratio)?;
                Some((kept, spread, ratio.bound.is_met(spread.median)))
            });
            Row {
                what: ratio.what,
                target: ratio.bound.text(),
                values: values.collect(),
            }
        });
        rows.filter(|row| !row.values.is_empty()).collect()
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!("\n{}\n{}\n", self.machine, self.how);
        for row in self.rows() {
            let _ = writeln!(text, "\n{} {}", row.what, row.target);
            for (kept, spread, met) in row.values {
                let met = match met {
                    None => "",
                    Some(true) => "reached",
                    Some(false) => "MISSED",
                };
                let _ = writeln!(
                    text,
                    "    {:<10}{:>7.3} ({:.3} to {:.3}) {met}",
                    kept.name(),
                    spread.median,
                    spread.min,
                    spread.max
                );
            }
        }
        for memory in &self.memory {
            let _ = writeln!(
                text,
                "\n{}, {} keys presented: {:.0} cached, {:.0} bytes each as counted, {:.0} resident",
                memory.kept.name(),
                memory.keys,
                memory.cached,
                memory.counted,
                memory.resident
            );
        }
        text
    }

    fn absolute(&self) -> String {
        let mut text = String::new();
        for kept in self.kepts() {
            let _ = write!(
                text,
                "\n### {}\n\n| request | requests/s | CPU µs | p50 µs | p99 µs | p99.9 µs |\n|---|---|---|---|---|---|\n",
                kept.name()
            );
            for series in self.series.iter().filter(|series| series.kept == kept) {
                let cell = |figure: fn(&Sample) -> f64, digits: usize| match Spread::of(
                    series.samples.iter().map(figure),
                ) {
                    Some(Spread { min, median, max }) if max > 0.0 => {
                        format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
                    }
                    _ => String::new(),
                };
                let _ = writeln!(
                    text,
                    "| {} | {} | {} | {} | {} | {} |",
                    series.name,
                    cell(|s| s.measured.per_second, 0),
                    cell(|s| s.cpu_us, 2),
                    cell(|s| s.measured.p50_us, 0),
                    cell(|s| s.measured.p99_us, 0),
                    cell(|s| s.measured.p999_us, 0),
                );
            }
        }
        text
    }

    fn markdown(&self) -> String {
        let kepts = self.kepts();
        let names: Vec<&str> = kepts.iter().map(|kept| kept.name()).collect();
        let mut text = format!(
            "{}. {}.\n\n![Ratios to the floor](benchmarks.svg)\n\n| median (least–greatest) | wanted | {} |\n|---|---|{}\n",
            self.machine,
            self.how,
            names.join(" | "),
            "---|".repeat(names.len())
        );
        for row in self.rows() {
            let _ = write!(text, "| {} | {} |", row.what, row.target);
            for kept in &kepts {
                let value = row.values.iter().find(|(other, ..)| other == kept);
                let _ = match value {
                    None => write!(text, " |"),
                    Some((_, Spread { min, median, max }, met)) => {
                        let met = match met {
                            None => "",
                            Some(true) => " ✓",
                            Some(false) => " ✗",
                        };
                        write!(text, " {median:.3} ({min:.3}–{max:.3}){met} |")
                    }
                };
            }
            text.push('\n');
        }
        text.push_str("\n| memory for each cached key, bytes | wanted | as the cache counts | of the process |\n|---|---|---|---|\n");
        for memory in &self.memory {
            let wanted = if memory.keys == self.many {
                "≤ 250"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "| {}, {:.0} keys cached | {wanted} | {:.0} | {:.0} |",
                memory.kept.name(),
                memory.cached,
                memory.counted,
                memory.resident
            );
        }
        text.push_str("\n## Absolute figures\n\nOf this machine, and of nothing else. The CPU time of a batch is for each key.\n");
        text + &self.absolute()
    }

    /// Puts the figures into the page, and makes the plot.
    pub(crate) fn write(&self) -> Outcome {
        let path = sh::root().join(PAGE);
        let page = fs::read_to_string(&path).map_err(Failure::when(PAGE))?;
        let page = replaced(&page, &self.markdown())
            .ok_or_else(|| Failure::new(format!("{PAGE} has no place for what was measured")))?;
        fs::write(&path, page).map_err(Failure::when(PAGE))?;
        let bars = plot::svg(&self.rows());
        fs::write(sh::root().join(PLOT), bars).map_err(Failure::when(PLOT))
    }

    pub(crate) fn json(&self) -> Value {
        let spread = |s: &Spread| json!({"min": s.min, "median": s.median, "max": s.max});
        let ratios: Vec<Value> = self
            .rows()
            .iter()
            .flat_map(|row| {
                row.values.iter().map(|(kept, value, met)| {
                    json!({
                        "what": row.what, "wanted": row.target, "store": kept.name(), "ratio": spread(value), "reached": met,
                    })
                })
            })
            .collect();
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|series| {
                let samples = series.samples.iter().map(|sample| {
                    let m = &sample.measured;
                    json!({
                        "per_second": m.per_second, "cpu_us": sample.cpu_us, "p50_us": m.p50_us, "p99_us": m.p99_us,
                        "p999_us": m.p999_us, "max_us": m.max_us, "load_busy": m.busy, "hot_hits": sample.hot_hits,
                    })
                });
                json!({"store": series.kept.name(), "name": series.name, "rounds": samples.collect::<Vec<_>>()})
            })
            .collect();
        let memory = self.memory.iter().map(|memory| {
            json!({
                "store": memory.kept.name(), "keys": memory.keys, "cached": memory.cached,
                "counted_bytes": memory.counted, "resident_bytes": memory.resident,
            })
        });
        json!({
            "machine": self.machine, "how": self.how, "ratios": ratios, "scenarios": series,
            "memory": memory.collect::<Vec<_>>(),
        })
    }
}

/// The page with what stands between the marks replaced.
fn replaced(page: &str, measured: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{measured}\n{END}{after}"))
}

fn machine() -> String {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = text("/proc/cpuinfo");
    let mut models = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"));
    let model = models
        .next()
        .unwrap_or_default()
        .trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = text("/proc/sys/kernel/osrelease");
    let days = env::unix_seconds() / 86_400;
    format!(
        "{model}, {cores} cores, Linux {}, {}",
        kernel.trim(),
        date(days)
    )
}

/// The day that is so many after the first of 1970.
fn date(days: u64) -> String {
    let mut year = 1970;
    let mut left = days;
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let length = |year| if leap(year) { 366 } else { 365 };
    while left >= length(year) {
        left -= length(year);
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < days {
            break;
        }
        left -= days;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(per_second: f64, cpu_us: f64) -> Sample {
        Sample {
            cpu_us,
            ..Sample::of(Measured {
                per_second,
                ..Measured::default()
            })
        }
    }

    fn report() -> Report {
        let mut report = Report {
            series: Vec::new(),
            memory: Vec::new(),
            begun: None,
            machine: "a machine".to_owned(),
            how: "somehow".to_owned(),
            many: 10,
        };
        for (floor, own) in [(1000.0, 950.0), (2000.0, 1600.0), (4000.0, 3800.0)] {
            report.add(Kept::Memory, "floor/forward-auth", sample(floor, 5.0));
            report.add(Kept::Memory, "forward-auth", sample(own, 10.0));
        }
        report.add_memory(Kept::Memory, 10, [10.0, 240.0, 260.0]);
        report
    }

    #[test]
    fn ratios_are_to_the_floor_of_the_same_round() {
        let rows = report().rows();
        let (kept, spread, met) = rows[0].values[0];
        assert_eq!((kept, met), (Kept::Memory, Some(true)));
        assert!((spread.min - 0.8).abs() < 1e-9 && (spread.median - 0.95).abs() < 1e-9);
        assert!((rows[1].values[0].1.median - 0.5).abs() < 1e-9);
        assert_eq!(rows[1].values[0].2, Some(false));
    }

    #[test]
    fn reports_say_the_same_to_people_and_programs() {
        let report = report();
        let text = report.text();
        assert!(text.contains("0.950 (0.800 to 0.950) reached"), "{text}");
        assert!(text.contains("0.500 (0.500 to 0.500) MISSED"), "{text}");
        let json = report.json();
        assert_eq!(json["ratios"][0]["reached"], true);
        assert_eq!(json["scenarios"][1]["rounds"][2]["per_second"], 3800.0);
        let page = format!("a\n{BEGIN}\nold\n{END}\nb");
        let page = replaced(&page, &report.markdown()).unwrap();
        assert!(page.contains("0.950 (0.800–0.950) ✓"), "{page}");
        assert!(page.starts_with("a\n") && page.ends_with("\nb") && !page.contains("old"));
        assert_eq!(replaced("nothing", ""), None);
    }

    #[test]
    fn days_are_dates() {
        for (days, text) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (20_782, "2026-11-25"),
        ] {
            assert_eq!(date(days), text);
        }
    }
}
