//! Numbers as hexadecimal digits.
//!
//! Every request needs some for its ids, and the standard library's formatting takes longer for them than everything else that
//! is done about those.

/// Writes the last `digits` hexadecimal digits of a number, in lower case.
pub(crate) fn push_hex(text: &mut String, number: u128, digits: u32) {
    for place in (0..digits).rev() {
        let nibble = number >> (4 * place) & 0xf;
        let digit = u32::try_from(nibble).ok();
        text.extend(digit.and_then(|digit| char::from_digit(digit, 16)));
    }
}

/// How many hexadecimal digits a number has; one for zero.
pub(crate) const fn hex_digits(number: u64) -> u32 {
    let bits = u64::BITS - number.leading_zeros();
    if bits == 0 { 1 } else { bits.div_ceil(4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 1, 0xf, 0x10, 0xff, 0x100, 0xdead_beef, u64::MAX] {
            let mut text = String::new();
            push_hex(&mut text, number.into(), hex_digits(number));
            assert_eq!(text, format!("{number:x}"));
            push_hex(&mut text, number.into(), 32);
            assert_eq!(text, format!("{number:x}{number:032x}"));
        }
    }
}
