//! TPM states as swtpm writes them.

use std::fs;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};

use super::host::dek as dek_of;
use crate::swtpm::TpmData;

/// The data of a TPM.
const OWN: &[u8] = include_bytes!("../vectors/tpm-state/tpm2-plain/tpm2-00.permall");

const FLAGS_ENCRYPTED_256: u16 = 0x01 | 0x08;

/// What stands in the state of a TPM that was made for a start whose own had not arrived.
const MAKESHIFT: u8 = 0x66;

/// Writes a state that `dek` opens, as a first start does.
pub(crate) fn make(path: &Path, dek: &[u8]) {
    let data = TpmData::from_plain(OWN).unwrap().unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, data.encrypt(&dek_of(dek)).unwrap()).unwrap();
}

pub(crate) fn is_makeshift(path: &Path) -> bool {
    let state = fs::read(path).unwrap_or_default();
    state.windows(64).any(|window| window == [MAKESHIFT; 64])
}

/// Writes one that is not the guest's: libvirt makes a TPM for a restore, too. What it holds does
/// not matter, the MAC over it is real (src/swtpm/format.rs has the format).
pub(crate) fn make_makeshift(path: &Path, dek: &[u8]) {
    let (data, iv) = ([MAKESHIFT; 64], [0x17; 32]);
    let mut file_key = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha512>(dek, b"swtpm", 1000, &mut file_key);
    let mac = Hmac::<Sha256>::new_from_slice(&file_key)
        .unwrap()
        .chain_update(data)
        .chain_update(iv)
        .finalize()
        .into_bytes();
    let mut records = Vec::new();
    for (tag, bytes) in [(2_u16, &data[..]), (3, &mac[..]), (6, &iv[..])] {
        records.extend(tag.to_be_bytes());
        records.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        records.extend(bytes);
    }
    let total = u32::try_from(10 + records.len()).unwrap();
    let mut state = vec![2, 1];
    state.extend(10_u16.to_be_bytes());
    state.extend(FLAGS_ENCRYPTED_256.to_be_bytes());
    state.extend(total.to_be_bytes());
    state.extend(records);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, state).unwrap();
}
