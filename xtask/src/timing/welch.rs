//! Whether two groups of times are of one kind.

/// Which part of all times counts, of the shortest: what is longer was held up by something else.
const COUNTED: f64 = 0.9;

/// What the times of a class come to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    pub(super) count: f64,
    pub(super) mean: f64,
    variance: f64,
}

impl Moments {
    /// Of those that are not above the limit.
    pub(super) fn of(times: &[f64], limit: f64) -> Self {
        let counted = || times.iter().copied().filter(|time| *time <= limit);
        let count = counted().map(|_| 1.0).sum::<f64>();
        let mean = counted().sum::<f64>() / count;
        let squares = counted()
            .map(|time| (time - mean) * (time - mean))
            .sum::<f64>();
        Self {
            count,
            mean,
            variance: squares / (count - 1.0),
        }
    }

    pub(super) fn deviation(&self) -> f64 {
        self.variance.sqrt()
    }
}

/// Welch's t: by how many standard errors the means differ.
pub(super) fn t(one: Moments, other: Moments) -> f64 {
    let error = (one.variance / one.count + other.variance / other.count).sqrt();
    if error > 0.0 {
        (one.mean - other.mean) / error
    } else {
        0.0
    }
}

/// Up to where times count: the same for all, by all of them together. So a class that is held up more often than others is not
/// made the same by being cropped at its own.
pub(super) fn limit(all: &[Vec<f64>]) -> f64 {
    let mut pooled: Vec<f64> = all.iter().flatten().copied().collect();
    pooled.sort_by(f64::total_cmp);
    quantile(&pooled, COUNTED)
}

/// Of sorted figures.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place in a list that fits into memory"
    )]
    let place = (last as f64 * part).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn times(chance: &mut Chance, base: f64) -> Vec<f64> {
        (0..20_000)
            .map(|_| {
                let noise = f64::from(u32::try_from(chance.below(1_000)).unwrap());
                // Now and then something comes in between.
                let held_up = if chance.below(50) == 0 { 90_000.0 } else { 0.0 };
                base + noise + held_up
            })
            .collect()
    }

    #[test]
    fn groups_of_one_kind_are_not_told_apart_and_others_are() {
        let mut chance = Chance::new(1);
        let all = [
            times(&mut chance, 1_000.0),
            times(&mut chance, 1_000.0),
            times(&mut chance, 1_100.0),
        ];
        let limit = limit(&all);
        assert!(limit < 10_000.0, "{limit}");
        let of = |n: usize| Moments::of(&all[n], limit);
        assert!(t(of(0), of(1)).abs() < 5.0);
        assert!(t(of(2), of(0)) > 5.0);
        assert!(t(of(0), of(2)) < -5.0);
    }

    #[test]
    fn t_is_as_in_the_textbook() {
        let one = Moments::of(&[3.0, 4.0, 1.0, 2.1], 10.0);
        let other = Moments::of(&[490.2, 340.0, 433.9], 1_000.0);
        assert!(
            (t(one, other) + 9.559_497).abs() < 1e-3,
            "{}",
            t(one, other)
        );
        assert!((one.mean - 2.525).abs() < 1e-9);
    }
}
