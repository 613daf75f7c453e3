//! Numbers that follow from a seed: `SplitMix64`, a few instructions each.

/// The alphabet of keys.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A place in a list of this length; 0 in an empty one.
    pub(crate) fn index(&mut self, length: usize) -> usize {
        // The upper half of a product is even enough, and cheaper than a division.
        let product = u128::from(self.next()) * u128::try_from(length).unwrap_or_default();
        usize::try_from(product >> 64).unwrap_or_default()
    }

    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for eight in bytes.chunks_mut(8) {
            let random = self.next().to_le_bytes();
            for (byte, random) in eight.iter_mut().zip(random) {
                *byte = random;
            }
        }
        bytes
    }

    /// Appends this many characters of the alphabet of keys.
    pub(crate) fn letters(&mut self, count: usize, to: &mut Vec<u8>) {
        let mut left = count;
        while left > 0 {
            let mut bits = self.next();
            for _ in 0..left.min(10) {
                let place = usize::try_from(bits & 63).unwrap_or_default();
                to.extend(ALPHABET.get(place));
                bits >>= 6;
            }
            left = left.saturating_sub(10);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_spread_over_the_list() {
        let mut chance = Chance::new(1);
        let mut seen = [0; 10];
        for _ in 0..10_000 {
            seen[chance.index(10)] += 1;
        }
        assert!(seen.iter().all(|&count| count > 800), "{seen:?}");
        assert_eq!(chance.index(0), 0);
    }

    #[test]
    fn letters_are_as_many_as_asked_for() {
        let mut text = Vec::new();
        Chance::new(2).letters(42, &mut text);
        assert_eq!(text.len(), 42);
        assert!(text.iter().all(|letter| ALPHABET.contains(letter)));
        assert_ne!(Chance::new(1).bytes::<16>(), Chance::new(2).bytes::<16>());
    }
}
