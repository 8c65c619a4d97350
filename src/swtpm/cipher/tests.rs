use proptest::prelude::*;

use super::*;
use crate::swtpm::linear;

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/vectors/tpm-state/", $name))
    };
}

const TPM2: &[u8] = vector!("tpm2-encrypted/tpm2-00.permall");
const TPM2_PLAIN: &[u8] = vector!("tpm2-plain/tpm2-00.permall");
const TPM2_VERSION_1: &[u8] = vector!("tpm2-version-1/tpm2-00.permall");
const TPM2_NO_IV: &[u8] = vector!("tpm2-no-iv/tpm2-00.permall");
const TPM2_128_BIT: &[u8] = vector!("tpm2-128-bit/tpm2-00.permall");
const TPM12: &[u8] = vector!("tpm1.2-encrypted/tpm-00.permall");
const TPM12_PLAIN: &[u8] = vector!("tpm1.2-plain/tpm-00.permall");
const LINEAR: &[u8] = vector!("linear-encrypted/state.linear");

fn dek(bytes: &[u8]) -> Dek {
    Dek::from_bytes(Zeroizing::new(bytes.to_vec()))
}

fn plain(blob: &[u8]) -> TpmData {
    TpmData::from_plain(blob).unwrap().unwrap()
}

/// The IV record of a state that swtpm wrote: its last 32 bytes.
fn iv(blob: &[u8]) -> &[u8; IV_LEN] {
    blob.last_chunk().unwrap()
}

#[test]
fn what_swtpm_encrypted_is_decrypted_byte_for_byte() {
    let linear = linear::read_permall(std::io::Cursor::new(LINEAR))
        .unwrap()
        .unwrap();
    for (blob, passphrase) in [
        (TPM2, &b"correct horse"[..]),
        (TPM12, b"battery staple"),
        (&linear, b"one file"),
    ] {
        let dek = dek(passphrase);
        let data = TpmData::decrypt(blob, &dek).unwrap();
        assert_eq!(data.encrypt_with_iv(&dek, iv(blob)).unwrap(), blob);
    }
}

#[test]
fn a_state_without_an_iv_has_one_of_zeros() {
    let data = TpmData::decrypt(TPM2_NO_IV, &dek(b"no iv")).unwrap();
    assert!(data.same_as(&plain(TPM2_PLAIN)));
}

#[test]
fn a_state_of_version_1_has_the_same_data_as_one_of_version_2() {
    assert!(plain(TPM2_VERSION_1).same_as(&plain(TPM2_PLAIN)));
}

#[test]
fn an_encrypted_plain_state_decrypts_to_the_same_data() {
    for blob in [TPM2_PLAIN, TPM2_VERSION_1, TPM12_PLAIN] {
        let (data, dek) = (plain(blob), Dek::generate().unwrap());
        let encrypted = data.encrypt(&dek).unwrap();
        assert!(TpmData::decrypt(&encrypted, &dek).unwrap().same_as(&data));
        assert!(TpmData::from_plain(&encrypted).unwrap().is_none());
    }
}

#[test]
fn an_encrypted_state_contains_no_plaintext() {
    let data = plain(TPM2_PLAIN);
    let encrypted = data.encrypt(&Dek::generate().unwrap()).unwrap();
    for piece in data.0.chunks_exact(BLOCK_LEN) {
        assert!(!encrypted.windows(BLOCK_LEN).any(|window| window == piece));
    }
}

#[test]
fn the_same_data_and_key_give_another_state_each_time() {
    let (data, dek) = (plain(TPM2_PLAIN), dek(b"key"));
    let (one, other) = (data.encrypt(&dek).unwrap(), data.encrypt(&dek).unwrap());
    assert_ne!(iv(&one), iv(&other));
    assert_ne!(one[16..32], other[16..32]);
}

#[test]
fn another_key_decrypts_nothing() {
    let decrypted = TpmData::decrypt(TPM2, &dek(b"correct hors"));
    assert!(matches!(decrypted, Err(RecryptError::OtherKey)));
}

#[test]
fn a_state_with_a_128_bit_key_is_not_decrypted() {
    let decrypted = TpmData::decrypt(TPM2_128_BIT, &dek(b"short key"));
    assert!(matches!(decrypted, Err(RecryptError::ShortKey)));
}

#[test]
fn a_plain_state_is_not_decrypted() {
    assert!(TpmData::decrypt(TPM2_PLAIN, &dek(b"key")).is_err());
}

#[test]
fn padding_has_the_length_that_it_gives_and_is_never_missing() {
    let padded =
        |data: usize, padding: usize, value: u8| [vec![7; data], vec![value; padding]].concat();
    assert_eq!(unpadded_len(&padded(31, 1, 1)), Some(31));
    assert_eq!(unpadded_len(&padded(32, 32, 32)), Some(32));
    assert_eq!(unpadded_len(&padded(0, 32, 32)), Some(0));
    assert_eq!(unpadded_len(&padded(30, 2, 3)), None);
    assert_eq!(unpadded_len(&padded(0, 64, 33)), None);
    assert_eq!(unpadded_len(&padded(31, 1, 0)), None);
    assert_eq!(unpadded_len(&padded(0, 16, 32)), None);
    assert_eq!(unpadded_len(&[]), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn data_is_decrypted_with_the_same_key_only(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        passphrase in prop::collection::vec(1..=u8::MAX, 1..40),
    ) {
        let (data, right) = (TpmData(Zeroizing::new(bytes)), dek(&passphrase));
        let blob = data.encrypt(&right).unwrap();
        prop_assert!(TpmData::decrypt(&blob, &right).unwrap().same_as(&data));
        let wrong = dek(&passphrase[1..]);
        prop_assert!(matches!(TpmData::decrypt(&blob, &wrong), Err(RecryptError::OtherKey)));
    }

    #[test]
    fn a_changed_byte_is_never_decrypted(position in 16..TPM2.len(), bit in 0..8_u32) {
        let mut blob = TPM2.to_vec();
        blob[position] ^= 1_u8 << bit;
        prop_assert!(TpmData::decrypt(&blob, &dek(b"correct horse")).is_err());
    }
}
