//! The seeds of `./dev fuzz`, and small changes of them, against every check of fuzz/src: with the compiler that builds the
//! programs, and in seconds. What `./dev fuzz` finds becomes a seed, so it stays found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![allow(
    clippy::print_stdout,
    reason = "a long run says how many inputs were tried"
)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use vtpm_guard::internals::fleet::claim::Claim;
use vtpm_guard::internals::fleet::tpm_state::SignedState;
use vtpm_guard::internals::fleet::{Kind, read_message};
use vtpm_guard::internals::key::wrap::UnwrapError;

#[path = "../fuzz/src/lib.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::pedantic,
    reason = "code of kms/ and of fuzz/, of which not all is called here"
)]
mod fuzz;

use fuzz::{CHECKS, Check};

/// How long each check is tried, unless `FUZZED_SECONDS` says.
const TIME: Duration = Duration::from_millis(400);

fn time() -> Duration {
    let seconds = std::env::var("FUZZED_SECONDS");
    seconds.map_or(TIME, |seconds| {
        Duration::from_secs(seconds.parse().unwrap())
    })
}

/// Whether `FUZZED_TARGETS` has this name, or is not there.
fn is_wanted(name: &str) -> bool {
    let targets = std::env::var("FUZZED_TARGETS");
    targets.map_or(true, |targets| targets.split(' ').any(|it| it == name))
}

/// Longer inputs tell nothing more, and are slow here.
const MAX_LEN: usize = 64 << 10;

fn fuzz_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn seeds(name: &str) -> Vec<(String, Vec<u8>)> {
    let dir = fuzz_dir().join("seeds").join(name);
    let files = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| (path.display().to_string(), fs::read(&path).unwrap());
    paths.into_iter().map(read).collect()
}

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }

    /// Changes an input as a fuzzer does that knows nothing of it.
    fn change(&mut self, input: &mut Vec<u8>, others: &[(String, Vec<u8>)]) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 => input.truncate(at),
            1 => input.insert(at, u8::try_from(self.below(256)).unwrap()),
            2 if at < input.len() => input[at] ^= 1 << self.below(8),
            3 if at < input.len() => {
                input[at] = [0, 0x7f, 0x80, 0xff, b'<', b'"', b'-'][self.below(7)];
            }
            4 if at + 4 <= input.len() => {
                let number = [0, 1, u32::MAX, 1 << 31, 0x7fff_ffff][self.below(5)];
                input[at..at + 4].copy_from_slice(&number.to_be_bytes());
            }
            5 => {
                let end = at + self.below(input.len() - at + 1);
                input.extend_from_within(at..end);
            }
            _ => {
                let (_, other) = &others[self.below(others.len())];
                let start = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[start..]);
            }
        }
        input.truncate(MAX_LEN);
    }
}

fn holds(name: &str, check: Check, what: &str, input: &[u8]) {
    let done = catch_unwind(AssertUnwindSafe(|| check(input)));
    if done.is_err() {
        let file = std::env::temp_dir().join(format!("vtpm-guard-{name}-found"));
        fs::write(&file, input).unwrap();
        panic!(
            "{name} fails with {what}; the input is in {}",
            file.display()
        );
    }
}

#[test]
fn seeds_and_what_is_like_them_harm_nothing() {
    for (name, check) in CHECKS.iter().filter(|(name, _)| is_wanted(name)) {
        let seeds = seeds(name);
        for (seed, bytes) in &seeds {
            holds(name, *check, seed, bytes);
        }
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
        let (start, mut inputs) = (Instant::now(), 0_u64);
        let end = start + time();
        while Instant::now() < end {
            let (seed, bytes) = &seeds[dice.below(seeds.len())];
            let mut input = bytes.clone();
            for _ in 0..=dice.below(4) {
                dice.change(&mut input, &seeds);
            }
            holds(name, *check, &format!("a change of {seed}"), &input);
            inputs += 1;
        }
        println!("{name}: {inputs} inputs in {:?}", start.elapsed());
    }
}

#[test]
fn the_seeds_have_every_kind_of_fact_and_a_state_that_is_signed() {
    let mut kinds = BTreeSet::new();
    let mut signed = 0;
    for (_, document) in seeds("store_reply") {
        let (facts, states) = read_message(&document).1.unwrap_or_default();
        let readable = facts.iter().filter(|fact| Claim::read(fact).is_ok());
        kinds.extend(readable.map(|fact| fact.kind));
        let read = states.iter().map(|state| &state.info);
        signed += read
            .filter(|info| SignedState::read(info, info.domain).is_some())
            .count();
    }
    assert_eq!((kinds, signed), (Kind::ALL.into(), 1));
}

/// The check gets as far as the cipher: what is rejected by the id of the provider key asks nothing.
#[test]
fn wrapped_keys_are_tried_and_not_only_rejected_by_their_header() {
    let tried = seeds("wrapped_key");
    let tried = tried
        .iter()
        .map(|(_, bytes)| fuzz::wrapped_key::unwrapped_by_force(bytes));
    let refuted = tried
        .filter(|it| *it == Err(UnwrapError::NotAuthentic))
        .count();
    assert!(refuted > 3, "{refuted}");
}

/// `./dev fuzz` runs what Cargo.toml lists; the seeds are of a check each.
#[test]
fn each_check_is_a_target_with_seeds() {
    let manifest = fs::read_to_string(fuzz_dir().join("Cargo.toml")).unwrap();
    let listed: Vec<_> = manifest
        .lines()
        .filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?
                .strip_suffix(".rs\"")
        })
        .collect();
    let mut checks: Vec<_> = CHECKS.iter().map(|(name, _)| *name).collect();
    checks.sort_unstable();
    assert_eq!(listed, checks);
    let names = |dir: &str| {
        let entries = fs::read_dir(fuzz_dir().join(dir)).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("seeds"), checks);
    assert_eq!(names("fuzz_targets"), checks);
}

/// A key that is known has sealed them, so the check gets to the padding behind the cipher, and to what is not decrypted.
#[test]
fn sealed_states_are_opened_and_not_only_refuted_by_their_mac() {
    let opened = seeds("sealed_state");
    let opened = opened
        .iter()
        .map(|(_, bytes)| fuzz::sealed_state::opened(bytes));
    let (states, paddings): (Vec<_>, Vec<_>) = opened.unzip();
    let count = |found: &[bool]| found.iter().filter(|found| **found).count();
    assert_eq!((count(&states), count(&paddings)), (5, 4));
}

/// The seeds have an answer to each thing that is asked for.
#[test]
fn each_thing_that_is_asked_of_transit_is_in_a_seed() {
    let mut found = BTreeSet::new();
    for (_, document) in seeds("transit_answer") {
        found.extend(fuzz::transit_answer::found(&document));
    }
    let all = ["health", "said", "token", "until", "unwrapped", "wrapped"];
    assert_eq!(found, all.into());
}

/// A slot of each plugin is in a seed, and a name that each refuses.
#[test]
fn each_plugin_has_a_wrapped_key_among_the_seeds() {
    let seeds = seeds("slots");
    let of = |name: &str| {
        let seed = seeds.iter().find(|(path, _)| path.ends_with(name));
        fuzz::slots::blobs(&seed.unwrap().1)
    };
    assert_eq!(of("/pkcs11-gcm"), (true, true));
    assert_eq!(of("/pkcs11-oaep"), (true, false));
    assert!(of("/kmip-server").1);
    assert_eq!(of("/newer"), (false, false));
}

/// What is too long is looked at, and the guest is read all the same.
#[test]
fn long_pieces_of_each_kind_are_passed_over() {
    let read = |name: &str| {
        let seeds = seeds("long_domain");
        let seed = seeds.iter().find(|(path, _)| path.ends_with(name));
        fuzz::long_domain::is_long(&seed.unwrap().1)
    };
    for name in [
        "comment",
        "text",
        "cdata",
        "instruction",
        "value",
        "value-in-tag",
        "after",
    ] {
        assert!(read(&format!("/{name}.xml")), "{name}");
    }
    for name in ["element", "open-comment", "doctype", "without"] {
        assert!(!read(&format!("/{name}.xml")), "{name}");
    }
}
