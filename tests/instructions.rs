//! The instructions of a start's parts, counted by callgrind: no part may need more than `benches/limits.rs` says. The whole
//! hook is in `tests/e2e/limits.rs`.
//!
//! A child of the test does a part once, and once more a number of times; the difference is what the part needs.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it has measured"
)]

#[path = "../benches/limits.rs"]
mod limits;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use limits::{Build, instructions};
use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::domain;
use vtpm_guard::internals::ids::{DomainUuid, KeyRefId, ProviderUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use vtpm_guard::internals::store::{Access, Store};
use vtpm_guard::internals::swtpm::{Backend, EncryptedState, StateFile, TpmData, state_in};
use vtpm_guard::internals::verdict::decide::decide;
use vtpm_guard::internals::verdict::facts::{
    DekNumber, Facts, Fleet, KeyRef, KmsSlots, Policy, Proof, Provider, References, SavedTpm,
    TpmState, Travelling, Trial, kek_ref,
};
use zeroize::Zeroizing;

const NO_TPM: &[u8] = include_bytes!("vectors/domain-xml/prepare-no-tpm.xml");
const ENCRYPTED: &[u8] = include_bytes!("vectors/domain-xml/prepare-encrypted.xml");
const PLAIN_STATE: &[u8] = include_bytes!("vectors/tpm-state/tpm2-plain/tpm2-00.permall");

const GUEST: &str = "d0000000-0000-4000-8000-000000000001";

/// In a child: how often it does which part, and the directory of the stores.
const CHILD: &str = "VTPM_GUARD_TEST_PART";

/// How often more.
const TIMES: u64 = 10;

/// The parts that read a store, of so many rows.
const STORES: [(&str, u32); 2] = [
    ("open the store and read a guest's rows, of 10", 10),
    (
        "open the store and read a guest's rows, of 1,000,000",
        1_000_000,
    ),
];

fn kek() -> Kek {
    Kek::from_slice(&[7; Kek::LEN]).unwrap()
}

fn dek() -> Dek {
    Dek::from_bytes(Zeroizing::new(vec![b'a'; 64]))
}

fn wrapped(domain: DomainUuid) -> WrappedDek {
    WrappedDek::wrap(&kek(), &dek(), domain, Generation(1)).unwrap()
}

/// A guest with one used key, which its TPM state proves.
fn healthy() -> Facts {
    let domain = domain::read(ENCRYPTED).unwrap();
    let (_, secret) = domain.encrypted_vtpm().unwrap();
    let provider = Provider {
        uuid: ProviderUuid::random(),
        name: "nkp-a".to_owned(),
        key_id: kek().key_id(),
        key_version: 1,
        is_default: true,
        exported_at: None,
        created_at: Timestamp(1),
        kms: KmsSlots::default(),
    };
    let row = KeyRef {
        id: KeyRefId(1),
        secret_uuid: Some(secret),
        provider_uuid: Some(provider.uuid),
        provider_name: provider.name.clone(),
        key_version: Some(1),
        kek_ref: Some(kek_ref(provider.key_id)),
        wrapped_dek: Some(wrapped(domain.uuid)),
        first_used_at: Some(Timestamp(1)),
        created_at: Timestamp(1),
    };
    let opened = Trial::Opened {
        key_id: provider.key_id,
        dek: DekNumber(0),
        proof: Proof::Proven,
    };
    Facts {
        domain: Ok(domain),
        references: Ok(References {
            key_refs: vec![row],
            providers: vec![provider],
            ..References::default()
        }),
        trials: BTreeMap::from([(KeyRefId(1), opened)]),
        keks: BTreeMap::new(),
        state: TpmState::Encrypted,
        obstacle: None,
        saved: SavedTpm::default(),
        arrival: None,
        snapshots: Vec::new(),
        host_secret: None,
        elsewhere: None,
        retired: BTreeMap::new(),
        travelling: Travelling::default(),
        fleet: Fleet::default(),
        policy: Policy::default(),
    }
}

fn state() -> EncryptedState {
    let data = TpmData::from_plain(PLAIN_STATE).unwrap().unwrap();
    let bytes = data.encrypt(&dek()).unwrap();
    match state_in(&bytes, Backend::Directory) {
        StateFile::Encrypted(state) => state,
        _ => panic!("no encrypted state"),
    }
}

/// A state directory with so many rows, one of which is the guest's.
fn make_store(dir: &Path, rows: u32) {
    fs::create_dir(dir).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).unwrap();
    Store::open(dir, Access::Create, deadline()).unwrap();
    let raw = rusqlite::Connection::open(dir.join("store.db")).unwrap();
    let fill = format!(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek) VALUES ('{GUEST}', 'nkp-a', x'01');
         WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
         SELECT printf('e0000000-0000-4000-8000-%012x', i), 'nkp-a', x'01' FROM n"
    );
    raw.execute_batch(&fill).unwrap();
    drop(raw);
    // Its log is as the guard wants it again.
    Store::open(dir, Access::Write, deadline()).unwrap();
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(120))
}

fn look_up(dir: &Path) {
    let store = Store::open(dir, Access::Write, deadline()).unwrap();
    let guest = DomainUuid::parse(GUEST).unwrap();
    let found = store.references(guest, Timestamp::now()).unwrap();
    assert_eq!(found.key_refs.len(), 1);
}

/// The part of this name, ready to be done.
fn part(name: &str, stores: &Path) -> Box<dyn Fn()> {
    let guest = DomainUuid::parse(GUEST).unwrap();
    match name {
        "decide a healthy start" => {
            let facts = healthy();
            Box::new(move || drop(black_box(decide(&facts))))
        }
        "read the XML of a guest without a TPM" => {
            Box::new(|| drop(black_box(domain::examine(NO_TPM))))
        }
        "read the XML of a guest with an encrypted vTPM" => {
            Box::new(|| drop(black_box(domain::examine(ENCRYPTED))))
        }
        "unwrap a key" => {
            let (wrapped, kek) = (wrapped(guest), kek());
            Box::new(move || assert!(black_box(wrapped.unwrap(&kek, guest)).unwrap().is_some()))
        }
        "prove a key against a TPM state" => {
            let (state, dek) = (state(), dek());
            Box::new(move || assert!(black_box(state.is_opened_by(&dek))))
        }
        name => {
            let (_, rows) = STORES.iter().find(|(store, _)| *store == name).unwrap();
            let dir = stores.join(rows.to_string());
            Box::new(move || look_up(&dir))
        }
    }
}

#[test]
#[ignore = "the child of no_part_of_a_start_..., which runs it"]
fn child_does_a_part() {
    let Ok(child) = env::var(CHILD) else { return };
    let [times, stores, name] = child.splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{child:?}");
    };
    let part = part(name, Path::new(stores));
    for _ in 0..times.parse().unwrap() {
        part();
    }
}

/// All instructions of a child that does a part so often.
fn count(name: &str, times: u64, stores: &Path) -> u64 {
    let log = stores.join("callgrind");
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .arg(env::current_exe().unwrap())
        .args([
            "child_does_a_part",
            "--exact",
            "--ignored",
            "--test-threads=1",
        ])
        .env(CHILD, format!("{times} {} {name}", stores.display()))
        .output()
        .unwrap();
    assert!(ran.status.success(), "{name}: {ran:?}");
    let log = fs::read_to_string(log).unwrap();
    let (_, counted) = log.rsplit_once("Collected :").unwrap();
    let counted = counted.split_whitespace().next();
    counted.unwrap().parse().unwrap()
}

#[test]
#[ignore = "needs valgrind: ./dev test and ./dev bench instructions run it"]
fn no_part_of_a_start_needs_more_instructions_than_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    for (_, rows) in STORES {
        make_store(&dir.path().join(rows.to_string()), rows);
    }
    let build = if cfg!(debug_assertions) {
        Build::Debug
    } else {
        Build::Release
    };
    let mut too_many = Vec::new();
    for name in limits::parts() {
        let once = count(name, 1, dir.path());
        let needs = (count(name, 1 + TIMES, dir.path()) - once) / TIMES;
        eprintln!("{name}: {needs} instructions");
        let most = instructions(name, build);
        if needs > most {
            too_many.push(format!("{name}: {needs}, more than {most}"));
        }
    }
    assert!(too_many.is_empty(), "{too_many:#?}");
}
