//! What a whole call of the hook may cost: instructions, as callgrind counts them, and memory; also where the store has a
//! million rows. `benches/limits.rs` has the limits, and those of the parts.

#[path = "../../benches/limits.rs"]
mod table;

use std::env;

use self::table::{Build, instructions};
use crate::guest::{Guest, Tpm};
use crate::host::{Host, PROGRAMS, skipped};

/// The most memory of a start without a vTPM, in KiB.
const MEMORY_WITHOUT_VTPM: u64 = 8 << 10;

/// The most memory of a start with an encrypted vTPM, in KiB.
const MEMORY_WITH_VTPM: u64 = 32 << 10;

/// How much more memory a start may take among a million rows, in KiB: a few more pages of the store.
const MORE_MEMORY: u64 = 512;

/// How many rows of other guests the store gets.
const ROWS: u32 = 1_000_000;

/// What one call of the hook has cost.
#[derive(Debug)]
struct Cost {
    instructions: u64,
    /// The most that was resident, in KiB.
    memory: u64,
}

impl Host {
    /// The cost of the hook's own process at the start of this guest. `None` where it cannot be measured.
    fn cost(&self, guest: &Guest, xml: &str) -> Option<Cost> {
        let hook = [
            "/usr/sbin/vtpm-guard-hook",
            &guest.name,
            "prepare",
            "begin",
            "-",
        ];
        let callgrind = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--log-file=/run/callgrind",
            "--child-silent-after-fork=yes",
        ];
        let is_there = |program: &str| self.run(&["which", program]).status == 0;
        if !is_there("valgrind") || !is_there("time") {
            return None;
        }
        self.run_with_input(&[&callgrind[..], &hook].concat(), xml)
            .ok();
        let log = self.read("/run/callgrind");
        let (_, counted) = log.rsplit_once("Collected :").unwrap();
        let instructions = counted.split_whitespace().next().unwrap().parse().unwrap();
        // A small program calls the hook: what a caller has resident counts as its child's. So does what
        // `systemd-creds` has, which the hook waits for, and which is more than its own.
        let time = ["/usr/bin/time", "--format=%M", "--output=/run/peak"];
        self.run_with_input(&[&time[..], &hook].concat(), xml).ok();
        let memory = self.read("/run/peak").trim().parse().unwrap();
        Some(Cost {
            instructions,
            memory,
        })
    }

    /// Gives the store rows of other guests.
    fn add_rows(&self) {
        let store = self.store();
        let sql = format!(
            "PRAGMA synchronous = OFF;
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
             INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
             SELECT printf('e0000000-0000-4000-8000-%012x', i), 'nkp-a', x'01' FROM n"
        );
        store.execute_batch(&sql).unwrap();
        // Or else the next start would move all of it from the log into the database.
        let moved = store.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            row.get::<_, i64>(0)
        });
        assert_eq!(moved, Ok(0));
    }
}

#[track_caller]
fn assert_within(name: &str, cost: &Cost, memory: u64) {
    let build = if cfg!(debug_assertions) && env::var_os(PROGRAMS).is_none() {
        Build::Debug
    } else {
        Build::Release
    };
    eprintln!(
        "{name}: {} instructions, {} KiB",
        cost.instructions, cost.memory
    );
    let most = instructions(name, build);
    assert!(
        cost.instructions <= most,
        "{name}: {cost:?}, more than {most}"
    );
    assert!(
        cost.memory <= memory,
        "{name}: {cost:?}, more than {memory} KiB"
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_start_stays_within_its_limits_whatever_the_number_of_rows() {
    let (host, guest) = Host::with_used_guest();
    // Callgrind needs fifty times as long.
    host.configure("[hook]\ndeadline = \"60s\"\n");
    let plain = host.define_guest("plain", Tpm::None);
    let (plain_xml, xml) = (host.xml(&plain), host.xml(&guest));
    let Some(without) = host.cost(&plain, &plain_xml) else {
        skipped("there is no valgrind, or no time, here");
        return;
    };
    assert_within(
        "the hook, for a guest without a vTPM",
        &without,
        MEMORY_WITHOUT_VTPM,
    );
    let few = host.cost(&guest, &xml).unwrap();
    assert_within("the hook, for a healthy start", &few, MEMORY_WITH_VTPM);

    host.add_rows();
    let many = host.cost(&guest, &xml).unwrap();
    assert_within("the hook, for a healthy start", &many, MEMORY_WITH_VTPM);
    assert!(many.memory <= few.memory + MORE_MEMORY, "{few:?}, {many:?}");
    host.start_and_stop(&guest);
}
