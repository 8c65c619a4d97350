//! What is left of keys in the memory of the programs: nothing as they end, and no provider's key
//! while a person types.

use std::fmt::Write;
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use sha2::Sha512;
use vtpm_guard::internals::ids::SecretUuid;
use vtpm_guard::internals::key::kek::Kek;

use crate::guest::{Guest, PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::{Host, skipped};
use crate::state_trouble::wait_for;

/// Stops a program at its end, and says with which status it ends, and which of the patterns are anywhere in its memory.
const SEARCH: &str = r#"
import gdb, os
patterns = dict(line.split() for line in open("/run/patterns"))
gdb.execute("set pagination off")
gdb.execute("set confirm off")
gdb.execute("catch syscall exit_group")
# What is said to "run" takes the place of all arguments.
arguments = gdb.execute("show args", to_string=True).split('"', 1)[1].rsplit('"', 1)[0]
gdb.execute("run %s %s" % (arguments, open("/run/streams").read()))
status = int(gdb.parse_and_eval("$x0" if os.uname().machine == "aarch64" else "$rdi"))
pid = gdb.selected_inferior().pid
memory = open("/proc/%d/mem" % pid, "rb", 0)
found = set()
for line in open("/proc/%d/maps" % pid):
    span, rights = line.split()[:2]
    start, end = (int(part, 16) for part in span.split("-"))
    if not rights.startswith("rw"):
        continue
    try:
        memory.seek(start)
        content = memory.read(end - start)
    except (OSError, ValueError):
        continue
    found |= {name for name, digits in patterns.items() if bytes.fromhex(digits) in content}
open("/run/found", "w").write(" ".join([str(status)] + sorted(found)))
gdb.execute("kill")
"#;

impl Host {
    /// Whether there is a gdb that runs Python.
    fn has_gdb(&self) -> bool {
        let has_python = ["gdb", "-batch", "-nx", "-ex", "python print(1)"];
        let has = self.run(&has_python).stdout.trim() == "1";
        if !has {
            skipped("there is no gdb with Python here");
        }
        has
    }

    /// Whether these bytes are anywhere in the memory of a running process.
    pub(crate) fn is_in_memory(&self, pid: &str, bytes: &[u8]) -> bool {
        let search = "import sys\n\
            pid, pattern = sys.argv[1], bytes.fromhex(sys.argv[2])\n\
            memory = open('/proc/%s/mem' % pid, 'rb', 0)\n\
            for line in open('/proc/%s/maps' % pid):\n\
            \x20 span, rights = line.split()[:2]\n\
            \x20 start, end = (int(part, 16) for part in span.split('-'))\n\
            \x20 if not rights.startswith('rw'): continue\n\
            \x20 try: memory.seek(start); content = memory.read(end - start)\n\
            \x20 except (OSError, ValueError): continue\n\
            \x20 if pattern in content: print('found')\n";
        let ran = self.run(&["python3", "-c", search, pid, &digits(bytes)]);
        ran.ok().stdout.contains("found")
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").unwrap();
        digits
    })
}

/// The secrets of a guest, and a name that must be found where the search works.
fn patterns(host: &Host, guest: &Guest, kek: &Kek) -> String {
    let dek = host.only_key_ref(guest).dek(guest, kek);
    let mut file_key = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha512>(dek.expose(), b"swtpm", 1000, &mut file_key);
    let mut lines = String::new();
    for (name, bytes) in [
        ("kek", &kek.expose()[..]),
        ("half-kek", &kek.expose()[16..]),
        ("dek", dek.expose()),
        ("half-dek", &dek.expose()[32..]),
        ("file-key", &file_key),
        ("half-file-key", &file_key[16..]),
        ("witness", b"/usr/sbin/vtpm-guard"),
    ] {
        writeln!(lines, "{name} {}", digits(bytes)).unwrap();
    }
    lines
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_memory_when_a_program_ends() {
    let (host, guest) = Host::with_used_guest();
    if !host.has_gdb() {
        return;
    }
    host.write("/run/patterns", patterns(&host, &guest, &host.kek("nkp-a")));
    host.write("/run/search.py", SEARCH);
    host.write("/run/streams", "</run/input >/run/output 2>/run/errors");
    let plain = host.define_guest("vm2", Tpm::Plain);
    host.start_and_stop(&plain);
    let by_hand = SecretUuid::random();
    host.define_secret(by_hand, "by hand", Some("a made-up key"));
    let adopted = host.define_guest("vm3", Tpm::Encrypted(by_hand));
    host.start_and_stop(&adopted);
    let recovery = recovery_file("nkp-a");
    let xml = host.xml(&guest);
    host.write("/run/input", &xml);
    let export = [
        "provider",
        "export",
        "nkp-a",
        "--output",
        "/run/again.recovery",
    ];
    let guard = "/usr/sbin/vtpm-guard";
    for call in [
        &["/usr/sbin/vtpm-guard-hook", "vm1", "prepare", "begin", "-"][..],
        &[guard, "check", "vm1"],
        &[guard, "key", "show", "vm1"],
        &[guard, "status"],
        &[guard, "replay", "/run/input", "--no-secret"],
        &[
            &[guard],
            &export[..],
            &["--passphrase-file", PASSPHRASE_FILE],
        ]
        .concat(),
        &[
            guard,
            "provider",
            "import",
            &recovery,
            "--passphrase-file",
            PASSPHRASE_FILE,
        ],
        &[guard, "provider", "reseal"],
        &[guard, "encrypt", "vm2", "--provider", "nkp-a"],
        &[guard, "adopt", "vm3", "--provider", "nkp-a"],
        &[guard, "key", "renew", "vm1"],
        &[guard, "stage"],
        &[guard, "provider", "rotate", "nkp-a"],
    ] {
        let gdb = ["gdb", "-batch", "-nx", "-x", "/run/search.py", "--args"];
        let ran = host.run(&[&gdb[..], call].concat());
        let found = host.path("/run/found");
        let words = fs::read_to_string(&found).unwrap_or_else(|_| panic!("{call:?}: {ran:#?}"));
        fs::remove_file(found).unwrap();
        let errors = host.read("/run/errors");
        // A provider that is here already is opened, and not imported.
        let status = u8::from(call.contains(&"import"));
        assert_eq!(words, format!("{status} witness"), "{call:?}: {errors}");
    }
}

/// Puts gdb around a program that others start and speak with over its stdin and stdout. It leaves their process group,
/// which they kill.
const AROUND: &str = "#!/bin/sh\nexec 3<&0 4>&1\n\
    exec setsid gdb -batch -nx -x /run/search.py --args \"$0.real\" \"$@\" </dev/null >/run/gdb 2>&1\n";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_the_memory_of_a_program_that_has_had_one_for_another() {
    let host = Host::new();
    if !host.has_gdb() || host.lacks_libvirtd() {
        return;
    }
    // A key manager that turns one bit of each byte, which others would not see in the memory of its plugin.
    host.write_program(
        "/usr/sbin/box",
        "#!/bin/sh\nexec tr '\\000-\\377' '\\200-\\377\\000-\\177'\n",
    );
    host.configure(
        "[hook]\ndeadline = \"60s\"\n[kms.box]\nkind = \"exec\"\ntimeout = \"60s\"\n\
         wrap = [\"/usr/sbin/box\"]\nunwrap = [\"/usr/sbin/box\"]\n",
    );
    host.install_program("kms-exec");
    host.guard(&["provider", "create", "nkp-a", "--slot", "box:one"])
        .ok();
    host.export_provider("nkp-a");
    let guest = host.define_bound_guest("vm1", "nkp-a");
    host.start_and_stop(&guest);
    let patterns = patterns(&host, &guest, &host.kek("nkp-a"));
    host.write(
        "/run/patterns",
        patterns.replace(&digits(b"/usr/sbin/vtpm-guard"), &digits(b"LC_ALL=C")),
    );
    host.write("/run/search.py", SEARCH);
    host.write("/run/streams", "<&3 >&4 2>/run/errors");
    host.write_program("/run/around", AROUND);
    host.write("/etc/libvirt/libvirt.conf", "remote_mode = \"legacy\"\n");
    let xml = host.xml(&guest);
    let found = host.path("/run/found");
    for program in ["vtpm-guard-libvirt", "kms-exec"] {
        let path = format!("/usr/sbin/{program}");
        host.run(&["cp", &path, &format!("{path}.real")]).ok();
        host.run(&["mount", "--bind", "/run/around", &path]).ok();
        let done = match program {
            "kms-exec" => host.guard(&["provider", "slot", "verify", "nkp-a"]),
            _ => host.hook("vm1", &["prepare", "begin", "-"], &xml),
        };
        wait_for(|| found.exists());
        // It is written at once, after it was made.
        sleep(Duration::from_millis(200));
        let words = fs::read_to_string(&found).unwrap();
        fs::remove_file(&found).unwrap();
        assert_eq!(
            words,
            "0 witness",
            "{program}: {done:#?} {}",
            host.read("/run/gdb")
        );
        let gdb = host.read("/run/gdb");
        let errors = host.read("/run/errors");
        assert_eq!(done.status, 0, "{done:#?} {gdb} {errors}");
        host.run(&["umount", &path]).ok();
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_providers_key_is_in_memory_while_a_passphrase_is_typed() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let kek = host.kek("nkp-a");
    // script(1) gives it a terminal of its own, on which nobody types.
    let export = "/usr/sbin/vtpm-guard provider export nkp-a --output /run/typed.recovery";
    let mut typing = host
        .command(&["script", "-qfec", export, "/run/typescript"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let prompt = "Passphrase for the recovery file";
    let asks =
        || fs::read_to_string(host.path("/run/typescript")).is_ok_and(|said| said.contains(prompt));
    for _ in 0..100 {
        if asks() {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    let script = host.run(&["cat", "/run/typescript"]).stdout;
    assert!(asks(), "{script}");
    let pids = host.run(&["pgrep", "-x", "vtpm-guard"]).ok().stdout;
    let found = |bytes: &[u8]| host.is_in_memory(pids.trim(), bytes);
    assert!(
        found(b"/run/typed.recovery"),
        "the search finds nothing at all"
    );
    assert!(!found(&kek.expose()[..]));
    drop(typing.stdin.take());
    host.run(&["kill", pids.trim()]);
    let _ = typing.wait();
}
