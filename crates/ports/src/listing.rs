//! Lists that may be long: which rows are wanted, in which order, and where a page ends.
//!
//! A page costs the same however long its list is. Where it is narrowed, a store looks at so many rows ([`looked_at`]) before it
//! answers what it has found among them, and says where to go on: so a page may be shorter than was asked for, or empty, and
//! there is more all the same. Only where nothing is said to go on with is the list over.

use std::cmp::Ordering;

use leadr_auth_domain::Timestamp;

/// How many keys of an account, or how many accounts, are looked at for a page of at most `limit`: some times as many as are
/// wanted, and no fewer than an account may have where nobody gave it another limit. Its list is looked at as a whole then, and a
/// page of a longer one costs no more than that.
pub const fn looked_at(limit: u32) -> u32 {
    const TIMES: u32 = 5;
    const LEAST: u32 = 1_024;
    let some_times = limit.saturating_mul(TIMES);
    if some_times < LEAST {
        LEAST
    } else {
        some_times
    }
}

/// A span of time: from an instant on, and before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

impl Period {
    /// All time, and what never was.
    pub const ALWAYS: Self = Self {
        since: None,
        until: None,
    };

    /// Does this instant lie in it?
    pub fn contains(self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at) && self.until.is_none_or(|until| at < until)
    }

    /// The same of an instant that there may not have been: that lies in no span that begins or ends.
    pub fn contains_any(self, at: Option<Timestamp>) -> bool {
        at.map_or(self == Self::ALWAYS, |at| self.contains(at))
    }
}

/// The limit of a page where all of a list is read, one page after the other.
pub(crate) const AT_A_TIME: u32 = 5_000;

/// Which way a list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The least first.
    Ascending,
    /// The greatest first.
    Descending,
}

impl Direction {
    /// How two stand to each other in a list that goes this way.
    pub const fn of(self, ordering: Ordering) -> Ordering {
        match self {
            Self::Ascending => ordering,
            Self::Descending => ordering.reverse(),
        }
    }
}

/// The order of a list, and where in it a page begins. What is the same otherwise stands in the order of its ids, the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sort<Id> {
    /// By when they were made.
    CreatedAt {
        /// Which way.
        direction: Direction,
        /// After the one that was made then and has this id.
        after: Option<(Timestamp, Id)>,
    },
    /// By their names, in the order of Unicode's code points.
    Name {
        /// Which way.
        direction: Direction,
        /// After the one with this name and this id.
        after: Option<(String, Id)>,
    },
}

impl<Id: Copy + Ord> Sort<Id> {
    /// The newest first, from the first on.
    pub const NEWEST_FIRST: Self = Self::CreatedAt {
        direction: Direction::Descending,
        after: None,
    };

    /// Which way it goes.
    pub const fn direction(&self) -> Direction {
        match self {
            Self::CreatedAt { direction, .. } | Self::Name { direction, .. } => *direction,
        }
    }

    /// The same order, after a row that was made at this time and has this name and id.
    #[must_use]
    pub fn after(&self, created_at: Timestamp, name: &str, id: Id) -> Self {
        match *self {
            Self::CreatedAt { direction, .. } => Self::CreatedAt {
                direction,
                after: Some((created_at, id)),
            },
            Self::Name { direction, .. } => Self::Name {
                direction,
                after: Some((name.to_owned(), id)),
            },
        }
    }

    /// By what a store finds the rows that a page looks at, of those `made` in a span of time, and up to the `horizon` where there is
    /// one: the place that they stand after, and the span that they are made in. A list by name is narrowed by a span, which is no
    /// part of it.
    pub fn range(&self, made: Period, horizon: Option<&Self>) -> (Option<&Self>, Period) {
        let (place, left) = self.entering(made);
        let span = match self {
            Self::Name { .. } => Period::ALWAYS,
            Self::CreatedAt { .. } if horizon.is_some() => self.ending_within(left),
            Self::CreatedAt { .. } => left,
        };
        (place, span)
    }

    /// Where a page of a list by time begins: after a place, or where a span of time does. Of the two it is the further that counts,
    /// and the other is left out of what this answers: the place, and what is left of the span. A store would take either of them
    /// for where it enters its index, and pass over all that lies between it and the other.
    fn entering(&self, span: Period) -> (Option<&Self>, Period) {
        let Self::CreatedAt {
            direction,
            after: Some((at, _)),
        } = self
        else {
            return (Some(self), span);
        };
        let Period { since, until } = span;
        let (is_further, left) = match direction {
            Direction::Ascending => (
                since.is_none_or(|since| since <= *at),
                Period { since: None, until },
            ),
            Direction::Descending => (
                until.is_none_or(|until| *at < until),
                Period { since, until: None },
            ),
        };
        if is_further {
            (Some(self), left)
        } else {
            (None, span)
        }
    }

    /// What is left of a span of time to be looked at where the page ends at a row in it at the latest: for the reason of
    /// `entering`, and where the end of the index's range is concerned.
    const fn ending_within(&self, span: Period) -> Period {
        let Period { since, until } = span;
        match self.direction() {
            Direction::Ascending => Period { since, until: None },
            Direction::Descending => Period { since: None, until },
        }
    }

    /// How two rows stand to each other, of each of which this is when it was made, and its name and id.
    pub fn compare(
        &self,
        (made, name, id): (Timestamp, &str, Id),
        (other_made, other_name, other_id): (Timestamp, &str, Id),
    ) -> Ordering {
        let ordering = match self {
            Self::CreatedAt { .. } => (made, id).cmp(&(other_made, other_id)),
            Self::Name { .. } => (name, id).cmp(&(other_name, other_id)),
        };
        self.direction().of(ordering)
    }

    /// Does a row stand after the place where the page begins?
    pub fn is_reached_by(&self, (made, name, id): (Timestamp, &str, Id)) -> bool {
        let ordering = match self {
            Self::CreatedAt { after, .. } => after.map(|after| (made, id).cmp(&after)),
            Self::Name { after, .. } => after
                .as_ref()
                .map(|(after, after_id)| (name, id).cmp(&(after.as_str(), *after_id))),
        };
        ordering.is_none_or(|ordering| self.direction().of(ordering).is_gt())
    }
}

/// A part of a list, in which a `Place` is where it may go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, Place> {
    /// What is on it.
    pub rows: Vec<T>,
    /// Where the next one begins; `None` where there is no more.
    pub next: Option<Place>,
}

impl<T, Place> Page<T, Place> {
    /// A page of what was found, which is one more than `limit` where there are so many. Where there are not, the next page
    /// begins at the `horizon`, up to which was looked. `place` says where the list goes on after a row.
    pub fn cut(
        mut found: Vec<T>,
        limit: u32,
        horizon: Option<Place>,
        place: impl FnOnce(&T) -> Place,
    ) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let is_full = found.len() > limit;
        found.truncate(limit);
        let last = found.last().filter(|_| is_full);
        Self {
            next: last.map(place).or(horizon),
            rows: found,
        }
    }

    /// The same page with something else for each row.
    pub fn try_map<U, E>(self, map: impl FnMut(T) -> Result<U, E>) -> Result<Page<U, Place>, E> {
        Ok(Page {
            rows: self.rows.into_iter().map(map).collect::<Result<_, _>>()?,
            next: self.next,
        })
    }
}

/// Does a text contain another, whatever the case of their ASCII letters? Of other letters no two stores agree what their case
/// is.
pub fn contains(text: &str, part: &str) -> bool {
    let (text, part) = (text.to_ascii_lowercase(), part.to_ascii_lowercase());
    text.contains(&part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix_micros(second * 1_000_000).unwrap()
    }

    #[test]
    fn a_period_begins_with_its_first_instant_and_ends_before_its_last() {
        let period = Period {
            since: Some(at(1)),
            until: Some(at(3)),
        };
        let contained = [0, 1, 2, 3].map(|second| period.contains(at(second)));
        assert_eq!(contained, [false, true, true, false]);
        assert!(!period.contains_any(None));
        assert!(Period::ALWAYS.contains_any(None));
        assert!(Period::ALWAYS.contains_any(Some(at(7))));
    }

    #[test]
    fn a_page_begins_after_a_place() {
        let (first, second) = ((at(1), "b", 1), (at(1), "a", 2));
        let up = |sort: &Sort<i32>| {
            let after = sort.after(first.0, first.1, first.2);
            (sort.compare(first, second), after.is_reached_by(second))
        };
        let ascending = Direction::Ascending;
        for (sort, ordering, is_reached) in [
            (Sort::NEWEST_FIRST, Ordering::Greater, false),
            (
                Sort::CreatedAt {
                    direction: ascending,
                    after: None,
                },
                Ordering::Less,
                true,
            ),
            (
                Sort::Name {
                    direction: ascending,
                    after: None,
                },
                Ordering::Greater,
                false,
            ),
            (
                Sort::Name {
                    direction: Direction::Descending,
                    after: None,
                },
                Ordering::Less,
                true,
            ),
        ] {
            assert_eq!(up(&sort), (ordering, is_reached), "{sort:?}");
            assert!(sort.is_reached_by(second), "from the beginning");
            let itself = sort.after(first.0, first.1, first.2);
            assert!(!itself.is_reached_by(first));
        }
    }

    /// Whichever of the two a page is entered by, it has the same rows.
    #[test]
    fn what_is_left_out_of_a_page_is_said_by_what_is_left() {
        let ends = [None, Some(at(2)), Some(at(4))];
        let places = [1, 2, 3, 4, 5].map(|second| Some((at(second), 5)));
        let rows: Vec<(Timestamp, i32)> = (0..7)
            .flat_map(|second| [4, 5, 6].map(|id| (at(second), id)))
            .collect();
        for direction in [Direction::Ascending, Direction::Descending] {
            for after in places.into_iter().chain([None]) {
                for (since, until) in ends
                    .into_iter()
                    .flat_map(|since| ends.map(|until| (since, until)))
                {
                    let (span, sort) = (
                        Period { since, until },
                        Sort::CreatedAt { direction, after },
                    );
                    let among = |sort: &Sort<i32>, span: Period| -> Vec<_> {
                        let is_there = |(made, id): &&(Timestamp, i32)| {
                            span.contains(*made) && sort.is_reached_by((*made, "", *id))
                        };
                        rows.iter().filter(is_there).copied().collect()
                    };
                    let (place, left) = sort.entering(span);
                    let begins = match direction {
                        Direction::Ascending => left.since,
                        Direction::Descending => left.until,
                    };
                    assert!(place.is_none() || after.is_none() || begins.is_none());
                    let from_the_first = Sort::CreatedAt {
                        direction,
                        after: None,
                    };
                    let entered = among(place.unwrap_or(&from_the_first), left);
                    assert_eq!(entered, among(&sort, span), "{sort:?} {span:?}");
                }
            }
        }
    }

    #[test]
    fn all_that_an_account_has_as_a_rule_is_looked_at() {
        let default = leadr_auth_domain::KeyLimit::default().keys();
        assert!(looked_at(1) > default && looked_at(100) > default);
        assert_eq!(looked_at(1_000), 5_000);
        assert_eq!(looked_at(u32::MAX), u32::MAX);
    }

    #[test]
    fn the_case_of_ascii_is_no_difference() {
        assert!(contains("Production Server", "SERVER"));
        assert!(!contains("Straße", "STRASSE"));
        assert!(!contains("ÄPFEL", "ä"), "of ASCII only");
    }
}
