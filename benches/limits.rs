//! What a start may cost: the limits that `./dev bench instructions` and `tests/e2e/limits.rs` hold.
//!
//! Instructions are those that callgrind counts. The same source, compiler and libraries give the same number but for
//! some thousands (the places of random keys in maps, the length of a process id); another compiler gives another one by
//! some per cent. So a limit is what was measured here, with Rust 1.95 and the C compiler of Debian 12, and a tenth: too
//! much for another compiler, and too little for one more look into the store, or one more PBKDF2. Where a change is worth
//! more, or saves something, write down the new number and why.

/// How much above what was measured is too much, in per cent.
const MARGIN: u64 = 10;

/// How the code was compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Build {
    /// As `cargo test` does: what is ours without optimisation, what others wrote with.
    Debug,
    /// As it is installed.
    Release,
}

/// What was measured, in instructions.
pub struct Measured {
    name: &'static str,
    debug: u64,
    release: u64,
}

const fn measured(name: &'static str, debug: u64, release: u64) -> Measured {
    Measured {
        name,
        debug,
        release,
    }
}

/// What names of whole calls begin with.
const WHOLE: &str = "the hook";

/// The parts of a start, and whole calls of the hook (its own process alone).
pub const INSTRUCTIONS: &[Measured] = &[
    // The table looks at each row and each key once: no I/O, no cryptography.
    measured("decide a healthy start", 20_654, 7_982),
    // libvirt's XML is read as a stream, and no more than a start needs is kept of it.
    measured("read the XML of a guest without a TPM", 650_739, 147_212),
    measured(
        "read the XML of a guest with an encrypted vTPM",
        713_500,
        164_229,
    ),
    // HKDF for the wrapping key, AES-256-GCM.
    measured("unwrap a key", 232_921, 58_531),
    // PBKDF2-HMAC-SHA512 with 1000 rounds, which swtpm prescribes: most of what a start computes.
    measured("prove a key against a TPM state", 30_507_097, 9_474_892),
    // Opening parses the schema; the look-up is by an index, whatever the number of rows.
    measured(
        "open the store and read a guest's rows, of 10",
        1_419_037,
        1_333_370,
    ),
    measured(
        "open the store and read a guest's rows, of 1,000,000",
        1_459_356,
        1_370_089,
    ),
    // A fork and an exec of a static program, the arguments, the XML; nothing else is looked at.
    measured("the hook, for a guest without a vTPM", 1_597_309, 392_959),
    // All of the above, a row of the history, the calls of libvirt's secret driver.
    measured("the hook, for a healthy start", 36_484_689, 12_767_378),
];

/// The names of the parts.
#[allow(dead_code, reason = "whole calls are counted elsewhere")]
pub fn parts() -> impl Iterator<Item = &'static str> {
    let names = INSTRUCTIONS.iter().map(|it| it.name);
    names.filter(|name| !name.starts_with(WHOLE))
}

/// How many instructions are too many. A name that is not in the table is a mistake of who asks.
pub fn instructions(name: &str, build: Build) -> u64 {
    let found = INSTRUCTIONS.iter().find(|it| it.name == name);
    let found = found.unwrap_or_else(|| panic!("no limit for {name:?}"));
    let measured = match build {
        Build::Debug => found.debug,
        Build::Release => found.release,
    };
    measured * (100 + MARGIN) / 100
}
