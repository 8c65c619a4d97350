//! HKDF-SHA256 (RFC 5869): keys and identities from a KEK.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

/// `HKDF-SHA256(IKM = key, salt, info)`, `N` bytes. Each use has an `info` of its own.
pub(super) fn derive<const N: usize>(key: &[u8], salt: &[u8], info: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N <= 255 * 32, "RFC 5869 gives no more") };
    let (mut extracted, hkdf) = Hkdf::<Sha256>::extract(Some(salt), key);
    extracted.as_mut_slice().zeroize();
    let mut derived = Zeroizing::new([0; N]);
    #[expect(
        clippy::expect_used,
        reason = "only a longer output fails; N is checked above"
    )]
    hkdf.expand(info, &mut *derived)
        .expect("the length is possible");
    derived
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn it_is_hkdf_sha256_as_in_rfc_5869_test_case_1() {
        let salt: Vec<u8> = (0x00..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let mut expected = [0; 42];
        crate::key::hex::decode(
            b"3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            &mut expected,
        )
        .unwrap();
        assert_eq!(*derive::<42>(&[0x0b; 22], &salt, &info), expected);
    }
}
