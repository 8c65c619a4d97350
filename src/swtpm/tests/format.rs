//! What is read from the bytes of a state, whole or not.

use std::io::Cursor;

use proptest::prelude::*;
use zeroize::Zeroizing;

use super::{LINEAR_END, LINEAR_PASSPHRASE, LINEAR_STORE, PASSPHRASE, STATE};
use crate::key::dek::Dek;
use crate::swtpm::format::{self, Contents};
use crate::swtpm::{Backend, MAX_STATE_LEN, StateError, StateFile, linear, state_in};

fn is_proven(contents: &Result<Contents, StateError>, passphrase: &[u8]) -> bool {
    let dek = Dek::from_bytes(Zeroizing::new(passphrase.to_vec()));
    matches!(contents, Ok(Contents::Encrypted(state)) if state.is_opened_by(&dek))
}

#[test]
fn an_unchanged_state_is_proven_in_both_formats() {
    assert!(is_proven(&format::parse(STATE), PASSPHRASE));
    let permall = linear::read_permall(Cursor::new(&LINEAR_STORE[..LINEAR_END]));
    let permall = permall.unwrap().unwrap();
    assert!(is_proven(&format::parse(&permall), LINEAR_PASSPHRASE));
}

#[test]
fn a_linear_store_that_claims_too_much_is_an_error_before_it_is_read() {
    let mut store = LINEAR_STORE.to_vec();
    store[16..20].copy_from_slice(&(MAX_STATE_LEN + 1).to_le_bytes());
    let read = linear::read_permall(Cursor::new(store));
    assert!(matches!(read, Err(StateError::TooLong)));
}

#[test]
fn encryption_of_version_1_is_an_error_as_it_has_no_mac() {
    let blob = [1, 1, 0, 10, 0, 1, 0, 0, 0, 14, 1, 2, 3, 4];
    let parsed = format::parse(&blob);
    assert!(matches!(parsed, Err(StateError::EncryptedVersion1)));
}

#[test]
fn a_state_that_only_a_newer_swtpm_reads_is_not_called_damaged() {
    for (version, min_version) in [(3, 3), (3, 1), (2, 3), (15, 15)] {
        // A newer header may be longer.
        for header_len in [10, 24] {
            let mut blob = vec![version, min_version, 0, header_len, 0, 0, 0, 0, 0, 40];
            blob.resize(40, 7);
            let parsed = format::parse(&blob);
            let newest = version.max(min_version);
            assert!(matches!(parsed, Err(StateError::Version(v)) if v == newest));
            let state = state_in(&blob, Backend::Directory);
            assert!(matches!(state, StateFile::Unreadable(_)), "{state:?}");
        }
    }
    for (version, min_version) in [(0, 0), (16, 1), (2, 200), (255, 255)] {
        let blob = [version, min_version, 0, 10, 0, 0, 0, 0, 0, 10];
        assert!(matches!(format::parse(&blob), Err(StateError::Header)));
    }
}

#[test]
fn the_border_between_data_and_iv_cannot_be_moved() {
    // The MAC covers both without a border; swtpm then fails at the IV's length.
    let mut blob = STATE.to_vec();
    let data_len = u32::from_be_bytes(blob[12..16].try_into().unwrap());
    let data_end = 16 + data_len as usize;
    let (data, iv) = (&STATE[16..data_end], &STATE[STATE.len() - 32..]);
    let mac = &STATE[data_end + 6..data_end + 38];
    let (shorter, moved) = data.split_at(data.len() - 32);
    blob.truncate(10);
    for (tag, value) in [
        (2_u16, shorter.to_vec()),
        (3, mac.to_vec()),
        (6, [moved, iv].concat()),
    ] {
        blob.extend(tag.to_be_bytes());
        blob.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
        blob.extend(value);
    }
    assert_eq!(blob.len(), STATE.len());
    assert!(matches!(
        format::parse(&blob),
        Err(StateError::EncryptedData)
    ));
}

/// Where the ciphertext, the MAC and the IV of [`STATE`] are: behind each record's header.
fn is_protected(position: usize) -> bool {
    let data_end = STATE.len() - 32 - 6 - 32 - 6;
    let mac = data_end + 6..data_end + 38;
    (16..data_end).contains(&position) || mac.contains(&position) || position >= STATE.len() - 32
}

proptest! {
    #[test]
    fn a_flipped_protected_bit_is_never_proven(
        position in 0..STATE.len(),
        bit in 0..8_u32,
    ) {
        let mut blob = STATE.to_vec();
        blob[position] ^= 1_u8 << bit;
        let proven = is_proven(&format::parse(&blob), PASSPHRASE);
        prop_assert!(!(proven && is_protected(position)));
    }

    #[test]
    fn a_truncated_state_is_never_readable(len in 0..STATE.len()) {
        prop_assert!(format::parse(&STATE[..len]).is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_are_never_proven(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(!is_proven(&format::parse(&bytes), PASSPHRASE));
        let _ = linear::read_permall(Cursor::new(bytes));
    }

    #[test]
    fn arbitrary_records_never_panic_and_are_never_proven(
        flags in any::<u16>(),
        records in prop::collection::vec((0..8_u16, 0..80_u32, prop::collection::vec(any::<u8>(), 0..80)), 0..6),
    ) {
        let mut blob = vec![2, 1, 0, 10];
        blob.extend(flags.to_be_bytes());
        blob.extend([0; 4]);
        for (tag, len, value) in records {
            blob.extend(tag.to_be_bytes());
            blob.extend(len.to_be_bytes());
            blob.extend(value);
        }
        let len = u32::try_from(blob.len()).unwrap();
        blob[6..10].copy_from_slice(&len.to_be_bytes());
        prop_assert!(!is_proven(&format::parse(&blob), PASSPHRASE));
    }

    #[test]
    fn a_truncated_linear_store_is_never_proven(len in 0..LINEAR_END) {
        let read = linear::read_permall(Cursor::new(&LINEAR_STORE[..len]));
        if let Ok(Some(permall)) = read {
            prop_assert!(!is_proven(&format::parse(&permall), LINEAR_PASSPHRASE));
        }
    }

    #[test]
    fn an_arbitrary_table_of_contents_neither_panics_nor_reads_beyond_the_store(
        table in prop::collection::vec(any::<u8>(), 16),
    ) {
        let mut store = LINEAR_STORE.to_vec();
        store[8..24].copy_from_slice(&table);
        if let Ok(Some(permall)) = linear::read_permall(Cursor::new(store)) {
            prop_assert!(permall.len() <= LINEAR_STORE.len());
        }
    }
}
