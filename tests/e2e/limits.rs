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
const MEMORY_WITH_VTPM: u64 = 16 << 10;

/// How much more memory a start may take among a million rows, in KiB: a few more pages of the store.
const MORE_MEMORY: u64 = 512;

/// How many rows of other guests the store gets.
const ROWS: u32 = 1_000_000;

/// Runs a program, stops it as it ends, and writes the most that was resident of its own memory (KiB): not that of the
/// programs that it has waited for, which resource usage counts as well, and of which `systemd-creds` needs more.
const PEAK: &str = r#"
import ctypes, os, signal, sys
SEIZE, CONT, TRACE_EXIT, EVENT_EXIT = 0x4206, 7, 0x40, 6
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
def trace(request, pid, data):
    if ptrace(request, pid, None, data) == -1:
        raise OSError(ctypes.get_errno(), "ptrace")
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    os.execv(sys.argv[2], sys.argv[2:])
os.waitpid(pid, os.WUNTRACED)
trace(SEIZE, pid, TRACE_EXIT)
os.kill(pid, signal.SIGCONT)
while True:
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    passed = os.WSTOPSIG(status)
    if status >> 16 == EVENT_EXIT:
        lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
        open(sys.argv[1], "w").write(lines["VmHWM"].split()[0])
    if status >> 16:
        passed = 0
    trace(CONT, pid, passed)
"#;

/// What one call of the hook has cost.
#[derive(Debug)]
struct Cost {
    instructions: u64,
    /// The most of its own memory that was resident, in KiB.
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
        if self.run(&["which", "valgrind"]).status != 0 {
            return None;
        }
        self.run_with_input(&[&callgrind[..], &hook].concat(), xml)
            .ok();
        let log = self.read("/run/callgrind");
        let (_, counted) = log.rsplit_once("Collected :").unwrap();
        let instructions = counted.split_whitespace().next().unwrap().parse().unwrap();
        let peak = ["python3", "-c", PEAK, "/run/peak"];
        self.run_with_input(&[&peak[..], &hook].concat(), xml).ok();
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
        skipped("there is no valgrind here");
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
