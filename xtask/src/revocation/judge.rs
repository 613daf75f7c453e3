//! What was seen, against what is promised.

use std::fmt;
use std::time::Duration;

/// What came of one verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// 204.
    Accepted,
    /// 401.
    Refused,
    /// 503.
    Unable,
    /// No answer in time, or none at all.
    Silent,
    /// Some other status.
    Odd(u16),
}

/// One verification. Times are since the run began, by one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: usize,
    pub(crate) node: usize,
    pub(crate) what: What,
    /// Just before it was sent.
    pub(crate) start: Duration,
    /// Just after the answer was read.
    pub(crate) end: Duration,
}

/// What became of one key. All were good and known to all nodes when the run began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// Just before it was first asked that it be stopped.
    pub(crate) requested: Option<Duration>,
    /// When that was answered, if it was.
    pub(crate) stopped: Option<Stopped>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stopped {
    /// Just after the answer was read.
    pub(crate) at: Duration,
    /// Who answered; nobody where one answered that another must have done it before, unanswered.
    pub(crate) node: Option<usize>,
    /// Whether it was said that every node has heard.
    pub(crate) everywhere: bool,
}

/// Something that must never be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) seen: Seen,
    pub(crate) life: Life,
    pub(crate) kind: Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Let in by the node that had answered that the key is stopped.
    Here,
    /// Let in by another, though it had been said that every node has heard.
    Everywhere,
    /// Let in by another, longer after the answer than the bound.
    Elsewhere,
    /// Refused, though nobody had asked to stop it.
    Live,
    /// Neither of the answers there are.
    Odd,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seen, life, kind } = self;
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "key {} on node {}, asked at {:.1} ms, {:?} at {:.1} ms: ",
            seen.key,
            seen.node + 1,
            ms(seen.start),
            seen.what,
            ms(seen.end)
        )?;
        let since = life
            .stopped
            .map_or(0.0, |stopped| ms(seen.start) - ms(stopped.at));
        match kind {
            Broken::Here => write!(
                f,
                "{since:.3} ms after this node had answered that it is stopped"
            ),
            Broken::Everywhere => write!(
                f,
                "{since:.3} ms after it was said that every node has heard"
            ),
            Broken::Elsewhere => write!(
                f,
                "{since:.1} ms after node {} had stopped it",
                life.stopped
                    .and_then(|stopped| stopped.node)
                    .map_or(0, |node| node + 1)
            ),
            Broken::Live => f.write_str("nobody had asked to stop it"),
            Broken::Odd => f.write_str("an answer that there is not"),
        }
    }
}

/// What is to be said of a run.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    pub(crate) verifications: usize,
    /// Keys that were stopped, with an answer.
    pub(crate) stopped: usize,
    /// Keys whose stop was never answered: nothing is said of them.
    pub(crate) unknown: usize,
    pub(crate) unable: usize,
    pub(crate) silent: usize,
    /// For each stopped key and each node but the one that stopped it: how long after the answer the last verification
    /// began that let it in; zero where none did.
    pub(crate) latencies: Vec<Duration>,
    /// For the same: from that verification, or the answer, until the one began that did not.
    pub(crate) gaps: Vec<Duration>,
}

/// How one node took the end of one key.
#[derive(Clone, Copy, Default)]
struct End {
    last_in: Duration,
    first_out: Option<Duration>,
}

pub(crate) fn judge(lives: &[Life], seen: &[Seen], nodes: usize, bound: Duration) -> Verdict {
    let mut verdict = Verdict {
        verifications: seen.len(),
        ..Verdict::default()
    };
    let mut ends = vec![End::default(); lives.len() * nodes];
    for one in seen {
        let Some(&life) = lives.get(one.key) else {
            continue;
        };
        match one.what {
            What::Unable => verdict.unable += 1,
            What::Silent => verdict.silent += 1,
            What::Accepted | What::Refused | What::Odd(_) => {}
        }
        if let Some(kind) = broken(one, life, bound) {
            verdict.violations.push(Violation {
                seen: *one,
                life,
                kind,
            });
        }
        let Some(stopped) = life.stopped else {
            continue;
        };
        if one.what == What::Accepted
            && let Some(end) = ends.get_mut(one.key * nodes + one.node)
            && let Some(after) = one.start.checked_sub(stopped.at)
        {
            end.last_in = end.last_in.max(after);
        }
    }
    for one in seen.iter().filter(|one| one.what == What::Refused) {
        let stopped = lives.get(one.key).and_then(|life| life.stopped);
        if let Some(stopped) = stopped
            && let Some(end) = ends.get_mut(one.key * nodes + one.node)
            && let Some(after) = one.start.checked_sub(stopped.at)
            && after >= end.last_in
        {
            end.first_out = Some(end.first_out.map_or(after, |first| first.min(after)));
        }
    }
    for (key, life) in lives.iter().enumerate() {
        match (life.requested, life.stopped) {
            (Some(_), None) => verdict.unknown += 1,
            (_, Some(stopped)) => {
                verdict.stopped += 1;
                for node in (0..nodes).filter(|node| Some(*node) != stopped.node) {
                    let end = ends.get(key * nodes + node).copied().unwrap_or_default();
                    verdict.latencies.push(end.last_in);
                    verdict
                        .gaps
                        .extend(end.first_out.map(|out| out.saturating_sub(end.last_in)));
                }
            }
            (None, None) => {}
        }
    }
    verdict
        .violations
        .sort_by_key(|violation| violation.seen.start);
    verdict.latencies.sort_unstable();
    verdict.gaps.sort_unstable();
    verdict
}

fn broken(one: &Seen, life: Life, bound: Duration) -> Option<Broken> {
    match (one.what, life.stopped) {
        (What::Accepted, Some(stopped)) if one.start > stopped.at => {
            if Some(one.node) == stopped.node {
                Some(Broken::Here)
            } else if stopped.everywhere {
                Some(Broken::Everywhere)
            } else if one.start > stopped.at + bound {
                Some(Broken::Elsewhere)
            } else {
                None
            }
        }
        (What::Refused, _) if life.requested.is_none_or(|requested| one.end < requested) => {
            Some(Broken::Live)
        }
        (What::Odd(_), _) => Some(Broken::Odd),
        _ => None,
    }
}

/// The value below which so many of a hundred are.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(2);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn life(everywhere: bool) -> Life {
        Life {
            requested: Some(ms(90)),
            stopped: Some(Stopped {
                at: ms(100),
                node: Some(0),
                everywhere,
            }),
        }
    }

    fn seen(node: usize, what: What, start: u64) -> Seen {
        Seen {
            key: 0,
            node,
            what,
            start: ms(start),
            end: ms(start + 5),
        }
    }

    fn kinds(life: Life, seen: &[Seen]) -> Vec<Broken> {
        let verdict = judge(&[life], seen, 3, BOUND);
        verdict.violations.iter().map(|v| v.kind).collect()
    }

    #[test]
    fn nothing_is_let_in_after_the_answer_where_it_was_given() {
        for (start, expected) in [(100, vec![]), (101, vec![Broken::Here])] {
            assert_eq!(
                kinds(life(false), &[seen(0, What::Accepted, start)]),
                expected
            );
        }
    }

    #[test]
    fn elsewhere_nothing_is_let_in_after_the_bound() {
        for (start, expected) in [(2100, vec![]), (2101, vec![Broken::Elsewhere])] {
            assert_eq!(
                kinds(life(false), &[seen(1, What::Accepted, start)]),
                expected
            );
        }
        let early = [seen(1, What::Accepted, 101)];
        assert_eq!(kinds(life(true), &early), [Broken::Everywhere]);
    }

    #[test]
    fn a_live_key_is_never_refused() {
        let live = Life::default();
        assert_eq!(kinds(live, &[seen(2, What::Refused, 10)]), [Broken::Live]);
        assert_eq!(
            kinds(life(false), &[seen(2, What::Refused, 80)]),
            [Broken::Live]
        );
        assert_eq!(kinds(life(false), &[seen(2, What::Refused, 86)]), []);
        let unknown = Life {
            requested: Some(ms(90)),
            stopped: None,
        };
        assert_eq!(
            kinds(
                unknown,
                &[seen(2, What::Refused, 400), seen(2, What::Accepted, 500)]
            ),
            []
        );
        assert_eq!(
            kinds(
                live,
                &[seen(2, What::Unable, 10), seen(2, What::Silent, 10)]
            ),
            []
        );
        assert_eq!(kinds(live, &[seen(2, What::Odd(500), 10)]), [Broken::Odd]);
    }

    #[test]
    fn what_was_last_let_in_is_measured_on_the_others() {
        let all = [
            seen(1, What::Accepted, 110),
            seen(1, What::Accepted, 105),
            seen(1, What::Refused, 107),
            seen(1, What::Refused, 113),
            seen(1, What::Refused, 120),
            seen(2, What::Refused, 102),
            seen(0, What::Refused, 101),
        ];
        let verdict = judge(&[life(false)], &all, 3, BOUND);
        assert_eq!(verdict.latencies, [ms(0), ms(10)]);
        assert_eq!(verdict.gaps, [ms(2), ms(3)]);
        assert_eq!((verdict.stopped, verdict.unknown), (1, 0));
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values: Vec<Duration> = (1..=200).map(ms).collect();
        assert_eq!(percentile(&values, 50), ms(100));
        assert_eq!(percentile(&values, 99), ms(198));
        assert_eq!(percentile(&values, 100), ms(200));
        assert_eq!(percentile(&[], 50), ms(0));
    }
}
