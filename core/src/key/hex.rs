//! Hexadecimal digits, from buffer to buffer, so that a key in digits leaves no copies.

/// Writes `bytes` as lower-case digits into `digits`, which is twice as long.
pub fn encode(bytes: &[u8], digits: &mut [u8]) {
    debug_assert_eq!(digits.len(), 2 * bytes.len());
    for (byte, pair) in bytes.iter().zip(digits.chunks_exact_mut(2)) {
        pair[0] = digit(byte >> 4);
        pair[1] = digit(byte & 0xf);
    }
}

/// Reads digits, upper or lower case, into `bytes`. Nothing but digits is taken, and exactly
/// two for each byte; else `None`, and `bytes` holds anything.
pub fn decode(digits: &[u8], bytes: &mut [u8]) -> Option<()> {
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (pair, byte) in digits.chunks_exact(2).zip(bytes) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(())
}

fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'a' + value - 10,
    }
}

fn value(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut digits = vec![0; 512];
        encode(&bytes, &mut digits);
        assert!(digits.starts_with(b"000102") && digits.ends_with(b"feff"));
        let mut back = vec![0; 256];
        assert_eq!(decode(&digits, &mut back), Some(()));
        assert_eq!(back, bytes);
    }

    #[test]
    fn only_digits_are_taken() {
        for wrong in ["0", "000", "+f", "0x", " 1", "g0", "é"] {
            assert_eq!(decode(wrong.as_bytes(), &mut [0]), None, "{wrong}");
        }
    }
}
