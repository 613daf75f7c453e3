//! How long requests took: counts in buckets whose width is under one hundredth of what they hold.

use std::time::Duration;

/// Buckets for each power of two, as a number of bits.
const BITS: u32 = 7;
const WITHIN: u64 = 1 << BITS;

/// Counts of times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub(crate) fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let place = place(nanos);
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// The time within which this share of the requests was answered, in nanoseconds: the upper end of its bucket.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let mut seen = 0;
        for (place, count) in self.counts.iter().enumerate() {
            seen += count;
            if float(seen) >= share * float(self.total) {
                return upper_end(place).min(self.max);
            }
        }
        self.max
    }

    pub(crate) const fn max(&self) -> u64 {
        self.max
    }
}

#[expect(clippy::cast_precision_loss, reason = "nobody counts to 2^52 requests")]
pub(crate) const fn float(number: u64) -> f64 {
    number as f64
}

fn place(value: u64) -> usize {
    let shift = (64 - value.leading_zeros()).saturating_sub(BITS + 1);
    let place = u64::from(shift) * WITHIN + (value >> shift);
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The greatest value that has this place.
fn upper_end(place: usize) -> u64 {
    let place = u64::try_from(place).unwrap_or(u64::MAX);
    if place < 2 * WITHIN {
        return place;
    }
    let shift = place / WITHIN - 1;
    ((place - shift * WITHIN + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_is_narrow() {
        let mut last = 0;
        for value in (0..100_000).chain((0..1000).map(|n| n * 7_919_191)) {
            let end = upper_end(place(value));
            assert!(end >= value, "{value}: {end}");
            assert!(end - value <= value / 100, "{value}: {end}");
            if value == 0 {
                last = 0;
            }
            if value < 100_000 {
                assert!(end >= last);
                last = end;
            }
        }
        assert!(place(u64::MAX) < 10_000);
    }

    #[test]
    fn quantiles_are_of_what_was_added() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(Duration::from_micros(micros));
        }
        let near = |value: u64, expected: u64| value.abs_diff(expected) <= expected / 100;
        assert!(near(histogram.quantile(0.5), 500_000));
        assert!(near(histogram.quantile(0.99), 990_000));
        assert_eq!(histogram.quantile(1.0), 1_000_000);
        assert_eq!(histogram.max(), 1_000_000);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
