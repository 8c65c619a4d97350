//! The instructions of a start's parts, counted by callgrind: `./dev bench instructions`. A part that needs more than
//! `limits.rs` says fails.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]
#![allow(missing_docs, reason = "what the macros make has none")]

mod limits;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use limits::{Build, instructions};
use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::domain::{self, Domain, UnreadableDomain};
use vtpm_guard::internals::ids::{DomainUuid, KeyRefId, ProviderUuid};
use vtpm_guard::internals::key::dek::Dek;
use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::key::wrap::{Generation, WrappedDek};
use vtpm_guard::internals::store::{Access, Store};
use vtpm_guard::internals::swtpm::{Backend, EncryptedState, StateFile, TpmData, state_in};
use vtpm_guard::internals::verdict::Answer;
use vtpm_guard::internals::verdict::decide::decide;
use vtpm_guard::internals::verdict::facts::{
    DekNumber, Facts, Fleet, KeyRef, KmsSlots, Policy, Proof, Provider, References, SavedTpm,
    TpmState, Travelling, Trial, kek_ref,
};
use zeroize::Zeroizing;

const NO_TPM: &[u8] = include_bytes!("../tests/vectors/domain-xml/prepare-no-tpm.xml");
const ENCRYPTED: &[u8] = include_bytes!("../tests/vectors/domain-xml/prepare-encrypted.xml");
const PLAIN_STATE: &[u8] = include_bytes!("../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall");

/// The guest that `fill-store rows` gives a key.
const GUEST: &str = "d0000000-0000-4000-8000-000000000001";

/// Holds a benchmark to its limit.
fn within(name: &str) -> LibraryBenchmarkConfig {
    let build = if cfg!(debug_assertions) {
        Build::Debug
    } else {
        Build::Release
    };
    let mut config = LibraryBenchmarkConfig::default();
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, instructions(name, build))]);
    config.tool(callgrind);
    config
}

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

#[library_benchmark(config = within("decide a healthy start"))]
#[bench::one(args = (), setup = healthy)]
fn decide_healthy(facts: Facts) -> Answer {
    black_box(decide(&facts))
}

#[library_benchmark(config = within("read the XML of a guest without a TPM"))]
#[bench::one(NO_TPM)]
fn xml_no_tpm(xml: &[u8]) -> Result<Domain, UnreadableDomain> {
    black_box(domain::examine(xml))
}

#[library_benchmark(config = within("read the XML of a guest with an encrypted vTPM"))]
#[bench::one(ENCRYPTED)]
fn xml_encrypted(xml: &[u8]) -> Result<Domain, UnreadableDomain> {
    black_box(domain::examine(xml))
}

fn wrapped_key() -> (WrappedDek, Kek, DomainUuid) {
    let domain = DomainUuid::parse(GUEST).unwrap();
    (wrapped(domain), kek(), domain)
}

#[library_benchmark(config = within("unwrap a key"))]
#[bench::one(args = (), setup = wrapped_key)]
fn unwrap((wrapped, kek, domain): (WrappedDek, Kek, DomainUuid)) -> bool {
    black_box(wrapped.unwrap(&kek, domain)).unwrap().is_some()
}

fn state() -> EncryptedState {
    let data = TpmData::from_plain(PLAIN_STATE).unwrap().unwrap();
    let bytes = data.encrypt(&dek()).unwrap();
    match state_in(&bytes, Backend::Directory) {
        StateFile::Encrypted(state) => state,
        _ => panic!("no encrypted state"),
    }
}

#[library_benchmark(config = within("prove a key against a TPM state"))]
#[bench::one(args = (), setup = state)]
fn prove(state: EncryptedState) -> bool {
    let proven = black_box(state.is_opened_by(&dek()));
    assert!(proven);
    proven
}

/// The state directory with so many rows; `./dev bench instructions` has made it.
fn store(rows: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/limits")
        .join(rows)
}

fn look_up(state_dir: &Path) -> References {
    let deadline = Deadline::after(Duration::from_secs(60));
    let store = Store::open(state_dir, Access::Write, deadline).unwrap();
    let guest = DomainUuid::parse(GUEST).unwrap();
    let found = store.references(guest, Timestamp::now()).unwrap();
    assert_eq!(found.key_refs.len(), 1);
    found
}

#[library_benchmark(config = within("open the store and read a guest's rows, of 10"))]
#[bench::one(args = ("10"), setup = store)]
fn store_10(state_dir: PathBuf) -> References {
    black_box(look_up(&state_dir))
}

#[library_benchmark(config = within("open the store and read a guest's rows, of 1,000,000"))]
#[bench::one(args = ("1000000"), setup = store)]
fn store_million(state_dir: PathBuf) -> References {
    black_box(look_up(&state_dir))
}

library_benchmark_group!(
    name = start;
    benchmarks =
        decide_healthy,
        xml_no_tpm,
        xml_encrypted,
        unwrap,
        prove,
        store_10,
        store_million
);

main!(library_benchmark_groups = start);
