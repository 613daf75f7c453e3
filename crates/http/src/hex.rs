//! Numbers as hexadecimal digits.
//!
//! Every request needs some for its ids, and the standard library's formatting takes longer for them than everything else that
//! is done about those.

const DIGITS: [u8; 16] = *b"0123456789abcdef";

/// Fills `digits` with the last digits of a number, in lower case.
pub(crate) fn write_hex(digits: &mut [u8], mut number: u128) {
    for digit in digits.iter_mut().rev() {
        let nibble = usize::from(number.to_le_bytes()[0] & 0xf);
        *digit = DIGITS.get(nibble).copied().unwrap_or(b'0');
        number >>= 4;
    }
}

/// How many digits a number has; one for zero.
pub(crate) const fn hex_digits(number: u64) -> usize {
    match (u64::BITS - number.leading_zeros()).div_ceil(4) {
        0 => 1,
        digits => digits as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 1, 0xf, 0x10, 0xff, 0x100, 0xdead_beef, u64::MAX] {
            let mut digits = [0; 32];
            let own = &mut digits[..hex_digits(number)];
            write_hex(own, number.into());
            assert_eq!(own, format!("{number:x}").as_bytes());
            write_hex(&mut digits, number.into());
            assert_eq!(digits, format!("{number:032x}").as_bytes());
        }
    }
}
