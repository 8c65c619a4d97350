//! What a guest sees of its TPM, asked of a swtpm of the test's own on a copy of the state.
//!
//! Commands and answers as in the TPM 2.0 Library specification, part 3, over swtpm's data
//! socket.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// `TPM2_ReadPublic` of a persistent object.
const READ_PUBLIC: [u8; 10] = [0x80, 0x01, 0, 0, 0, 14, 0, 0, 0x01, 0x73];

/// Where `swtpm_setup` puts the endorsement key: RSA 2048, or ECC P-384 (TCG EK Credential
/// Profile, 2.2.1).
const EK_HANDLES: [[u8; 4]; 2] = [[0x81, 0x01, 0x00, 0x01], [0x81, 0x01, 0x00, 0x16]];

/// `TPM2_CreatePrimary` in the endorsement hierarchy: a P-256 storage key, which the TPM derives
/// from its endorsement seed and from nothing else.
const CREATE_PRIMARY: [u8; 67] = [
    0x80, 0x02, 0, 0, 0, 67, 0, 0, 0x01, 0x31, // sessions, length, TPM2_CreatePrimary
    0x40, 0, 0, 0x0b, // TPM_RH_ENDORSEMENT
    0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, // password session, empty
    0, 4, 0, 0, 0, 0, // no password, no data
    0, 26, 0, 0x23, 0, 0x0b, 0, 3, 0, 0x72, 0, 0, // ECC, SHA-256, restricted decrypt key
    0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 0, 3, 0, 0x10, // AES-128-CFB, no scheme, P-256, no KDF
    0, 0, 0, 0, // derived from the seed alone
    0, 0, 0, 0, 0, 0, // no outside info, no PCRs
];

/// TPM 1.2's `TPM_ReadPubek` (TPM Main Specification, part 3, 14.4), with a nonce of zeros, so
/// that the checksum over key and nonce in the answer is the same each time.
const READ_PUBEK: [u8; 30] = {
    let mut command = [0; 30];
    command[1] = 0xc1; // no authorization
    command[5] = 30; // length
    command[9] = 0x7c; // TPM_ORD_ReadPubek
    command
};

/// What tells one TPM from another.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The public areas of the endorsement keys that it keeps; which it lacks, it says.
    endorsement_keys: Vec<Vec<u8>>,
    /// The public area of a key that it derives from its endorsement seed.
    derived: Vec<u8>,
}

/// The identity of the TPM 2.0 in this state; `passphrase` if it is encrypted.
pub(crate) fn identity(state: &[u8], passphrase: Option<&[u8]>) -> Identity {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tpm2-00.permall"), state).unwrap();
    let mut tpm = Tpm::start(dir.path(), &["--tpm2"], passphrase);
    let read = |tpm: &mut Tpm, handle: [u8; 4]| tpm.ask(&[&READ_PUBLIC[..], &handle].concat());
    let endorsement_keys: Vec<_> = EK_HANDLES
        .iter()
        .map(|handle| read(&mut tpm, *handle))
        .collect();
    assert!(
        endorsement_keys
            .iter()
            .any(|answer| answer[6..10] == [0; 4]),
        "libvirt's TPMs have an endorsement key: {endorsement_keys:x?}"
    );
    let answer = tpm.ask(&CREATE_PRIMARY);
    assert_eq!(answer[6..10], [0; 4], "{answer:x?}");
    // Header, handle, length of the parameters; then the public area with its own length.
    let len = usize::from(u16::from_be_bytes([answer[18], answer[19]]));
    Identity {
        endorsement_keys,
        derived: answer[20..20 + len].to_vec(),
    }
}

/// What the TPM 1.2 in this state says of its endorsement key; `passphrase` if it is encrypted.
pub(crate) fn endorsement_key_1_2(state: &[u8], passphrase: Option<&[u8]>) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tpm-00.permall"), state).unwrap();
    let answer = Tpm::start(dir.path(), &[], passphrase).ask(&READ_PUBEK);
    assert_eq!(answer[6..10], [0; 4], "{answer:x?}");
    answer
}

/// A running swtpm.
struct Tpm {
    process: Child,
    socket: UnixStream,
}

impl Tpm {
    fn start(dir: &Path, version: &[&str], passphrase: Option<&[u8]>) -> Self {
        let socket = dir.join("socket");
        let mut command = Command::new("swtpm");
        command
            .arg("socket")
            .args(version)
            .args(["--flags", "not-need-init,startup-clear"])
            .arg("--tpmstate")
            .arg(format!("dir={}", dir.display()))
            .arg("--server")
            .arg(format!("type=unixio,path={}", socket.display()));
        if let Some(passphrase) = passphrase {
            let file = dir.join("passphrase");
            fs::write(&file, passphrase).unwrap();
            let key = format!("pwdfile={},mode=aes-256-cbc", file.display());
            command.args(["--key", &key]);
        }
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(20);
        let socket = loop {
            match UnixStream::connect(&socket) {
                Ok(socket) => break socket,
                Err(error) => {
                    let ended = process.try_wait().unwrap();
                    assert!(ended.is_none(), "swtpm does not start: {ended:?}");
                    assert!(Instant::now() < patience, "no socket: {error}");
                    sleep(Duration::from_millis(5));
                }
            }
        };
        Self { process, socket }
    }

    fn ask(&mut self, command: &[u8]) -> Vec<u8> {
        self.socket.write_all(command).unwrap();
        let mut answer = vec![0; 10];
        self.socket.read_exact(&mut answer).unwrap();
        let len = u32::from_be_bytes(answer[2..6].try_into().unwrap());
        answer.resize(len as usize, 0);
        self.socket.read_exact(&mut answer[10..]).unwrap();
        answer
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
