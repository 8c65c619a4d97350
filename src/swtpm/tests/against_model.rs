//! The same files, read here and by a model of swtpm.

use proptest::prelude::*;

use super::{LINEAR_STORE, STATE};
use crate::swtpm::{Backend, StateError, StateFile, format, state_in};
use crate::verdict::facts::Damage;

/// What swtpm 0.8 to 0.10, started by libvirt with a 256-bit key, does with a file, whatever the
/// key: `SWTPM_NVRAM_LoadData`, `SWTPM_NVRAM_CheckHeader`,
/// `SWTPM_NVRAM_DecryptData` (`src/swtpm/swtpm_nvstore.c`), rewritten in the same order.
mod model {
    /// Whether some key could open it.
    pub(super) fn could_start_with_a_key(file: &[u8]) -> bool {
        let (version, flags, body) = header(file);
        match version {
            // Decrypted without a MAC: AES-CBC wants whole blocks.
            1 => body.len() >= 32 && body.len().is_multiple_of(16),
            2 => {
                let find = |tag| record(body, tag);
                let iv_fits = find(6).is_none_or(|iv| iv.len() == 32);
                let data_fits =
                    find(2).is_some_and(|data| data.len() >= 32 && data.len().is_multiple_of(16));
                flags & 8 != 0 && find(3).is_some_and(|mac| mac.len() >= 32) && data_fits && iv_fits
            }
            _ => false,
        }
    }

    /// Whether libtpms gets data that begins as its own.
    pub(super) fn could_start_without_a_key(file: &[u8]) -> bool {
        let (version, _, body) = header(file);
        let data = match version {
            1 => Some(body),
            2 => record(body, 1),
            _ => None,
        };
        data.is_some_and(|data| {
            data.get(2..6) == Some(&[0xab, 0x36, 0x47, 0x23]) || data.starts_with(&[0, 1, 0, 0x22])
        })
    }

    /// Version, flags and body; a file without a valid header counts as one of version 1.
    fn header(file: &[u8]) -> (u8, u16, &[u8]) {
        let headerless = (1, 0, file);
        if file.len() < 10 {
            return headerless;
        }
        let long = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().unwrap());
        let short = |at: usize| u16::from_be_bytes(file[at..at + 2].try_into().unwrap());
        if u64::from(long(6)) != file.len() as u64 || file[1] > 2 || short(2) != 10 {
            return headerless;
        }
        (file[0], short(4), &file[10..])
    }

    fn record(mut body: &[u8], wanted: u16) -> Option<&[u8]> {
        while body.len() >= 6 {
            let tag = u16::from_be_bytes(body[..2].try_into().unwrap());
            let len = u32::from_be_bytes(body[2..6].try_into().unwrap()) as usize;
            let value = body.get(6..6 + len)?;
            if tag == wanted {
                return Some(value);
            }
            body = &body[6 + len..];
        }
        None
    }
}

/// Nothing is called startable that the model refuses, and nothing damaged that it starts from,
/// except a file with neither header nor MAC: no libvirt ever made one.
fn agrees_with_the_model(file: &[u8]) {
    let state = state_in(file, Backend::Directory);
    let (with_key, without) = (
        model::could_start_with_a_key(file),
        model::could_start_without_a_key(file),
    );
    match &state {
        StateFile::Encrypted(_) => assert!(with_key, "{file:?}"),
        StateFile::Plain => assert!(without, "{file:?}"),
        StateFile::Damaged(Damage { how: why, .. }) => {
            let has_header = file.len() >= 10
                && u64::from(u32::from_be_bytes(file[6..10].try_into().unwrap()))
                    == file.len() as u64;
            assert!(!without || !has_header, "{why}: {file:?}");
            assert!(
                !with_key || !has_header || file[1] > 2 || file[2..4] != [0, 10],
                "{why}: {file:?}"
            );
        }
        StateFile::Unreadable(_) => {}
        StateFile::Absent => panic!("absent: {file:?}"),
    }
}

#[test]
fn every_vector_whole_cut_or_damaged_agrees_with_the_model() {
    let plain = include_bytes!("../../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall");
    let plain_1_2 = include_bytes!("../../../tests/vectors/tpm-state/tpm1.2-plain/tpm-00.permall");
    let random: Vec<_> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for whole in [STATE, plain, plain_1_2] {
        agrees_with_the_model(whole);
        assert!(!matches!(
            state_in(whole, Backend::Directory),
            StateFile::Damaged(_)
        ));
        for cut in [0, 1, 9, 10, 15, whole.len() / 2, whole.len() - 1] {
            agrees_with_the_model(&whole[..cut]);
            assert!(matches!(
                state_in(&whole[..cut], Backend::Directory),
                StateFile::Damaged(_)
            ));
        }
    }
    for other in [&random[..], &[0; 4096], b"# a text file\n", LINEAR_STORE] {
        agrees_with_the_model(other);
        assert!(matches!(
            state_in(other, Backend::Directory),
            StateFile::Damaged(_)
        ));
    }
    // Plain states of swtpm before they had a header; swtpm 0.8 no longer reads them.
    assert!(matches!(
        format::parse(&plain[16..]),
        Err(StateError::Headerless)
    ));
    // Without the flag for a 256-bit key, libvirt's swtpm accepts no key.
    let mut short_key = STATE.to_vec();
    short_key[5] ^= 8;
    agrees_with_the_model(&short_key);
    assert!(matches!(
        state_in(&short_key, Backend::Directory),
        StateFile::Damaged(_)
    ));
}

proptest! {
    #[test]
    fn a_state_that_the_model_of_swtpm_refuses_is_never_called_startable(
        file in prop::sample::select(vec![
            STATE.to_vec(),
            include_bytes!("../../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall").to_vec(),
        ]),
        changes in prop::collection::vec((0..60_usize, any::<u8>()), 0..4),
        len in prop::option::of(0..1500_usize),
        fix_length in any::<bool>(),
    ) {
        let mut file = file;
        for (at, byte) in changes {
            file[at] = byte;
        }
        if let Some(len) = len {
            file.resize(len, 0);
        }
        if fix_length && file.len() >= 10 {
            let len = u32::try_from(file.len()).unwrap();
            file[6..10].copy_from_slice(&len.to_be_bytes());
        }
        agrees_with_the_model(&file);
    }
}
