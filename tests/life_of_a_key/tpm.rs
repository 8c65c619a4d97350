//! A TPM state as swtpm writes it (src/swtpm/format.rs has the format): what it holds does not
//! matter here, the MAC over it is real.

use std::fs;
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Sha256, Sha512};

const FLAGS_ENCRYPTED_256: u16 = 0x01 | 0x08;

/// Writes a state that `dek` opens, as a first start does.
pub(crate) fn make(path: &Path, dek: &[u8]) {
    let (data, iv) = ([0x5a; 64], [0x17; 32]);
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
