//! What is left of keys in the memory of the programs: nothing as they end, and no provider's key
//! while a person types.

use std::fmt::Write;
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use vtpm_guard::internals::ids::SecretUuid;

use crate::dump::Dump;
use crate::guest::{PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::{Host, skipped};
use crate::traces::Secrets;

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

/// The value of a secret that somebody made by hand.
const BY_HAND: &str = "a made-up key that is nowhere else";

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_memory_when_a_program_ends() {
    let (host, guest) = Host::with_used_guest();
    if !host.has_gdb() {
        return;
    }
    let dump = Dump::into(&host.path("/run"));
    let plain = host.define_guest("vm2", Tpm::Plain);
    host.start_and_stop(&plain);
    let by_hand = SecretUuid::random();
    host.define_secret(by_hand, "by hand", Some(BY_HAND));
    let adopted = host.define_guest("vm3", Tpm::Encrypted(by_hand));
    host.start_and_stop(&adopted);
    let xml = host.xml(&guest);
    host.write("/run/input", &xml);
    let guests = [&guest, &plain, &adopted];
    let mut secrets = Secrets::new();
    secrets.add("the value made by hand", BY_HAND.as_bytes());
    let passphrase = host.read(PASSPHRASE_FILE);
    secrets.add_words("the passphrase", passphrase.trim());
    host.note_provider("nkp-a", &mut secrets, "first");
    host.note_keys(&guest, &mut secrets, "first");
    let recovery = recovery_file("nkp-a");
    let with_passphrase = ["--passphrase-file", PASSPHRASE_FILE];
    let export = ["export", "nkp-a", "--output", "/run/again.recovery"];
    for call in [
        &["vtpm-guard-hook", "vm1", "prepare", "begin", "-"][..],
        &["vtpm-guard", "check", "vm1"],
        &["vtpm-guard", "key", "show", "vm1"],
        &["vtpm-guard", "status"],
        &["vtpm-guard", "replay", "/run/input", "--no-secret"],
        &[&["vtpm-guard", "provider"], &export[..], &with_passphrase].concat(),
        &[
            &["vtpm-guard", "provider", "import", &recovery][..],
            &with_passphrase,
        ]
        .concat(),
        &["vtpm-guard", "provider", "reseal"],
        &["vtpm-guard", "encrypt", "vm2", "--provider", "nkp-a"],
        &["vtpm-guard", "adopt", "vm3", "--provider", "nkp-a"],
        &["vtpm-guard", "key", "renew", "vm1"],
        &["vtpm-guard", "provider", "rotate", "nkp-a"],
        &["vtpm-guard", "stage"],
    ] {
        if call.contains(&"stage") {
            if host.lacks_libvirtd() {
                break;
            }
            // It has nothing to do otherwise.
            host.autostart(&guest);
            host.stop_libvirtd();
        }
        let program = format!("/usr/sbin/{}", call[0]);
        host.write_program("/run/around", &Dump::script(&program, "/run"));
        let ran = host.run_with_input(&[&["/run/around"], &call[1..]].concat(), &xml);
        let round = call.join(" ");
        // What it has made counts, too.
        if call.contains(&"rotate") {
            host.note_provider("nkp-a", &mut secrets, &round);
        }
        for guest in guests {
            host.note_keys(guest, &mut secrets, &round);
        }
        let mut all = secrets.clone();
        all.add("witness", program.as_bytes());
        let at_its_end = dump
            .search(&all)
            .unwrap_or_else(|said| panic!("{round}: {ran:?} {said}"));
        let errors = host.read("/run/errors");
        // A provider that is here already is opened, and not imported.
        let status = i32::from(call.contains(&"import"));
        assert_eq!(at_its_end.status, status, "{round}: {errors}");
        assert_eq!(at_its_end.found, ["witness"], "{round}: {errors}");
        if call.contains(&"stage") {
            assert!(ran.stdout.contains("1 key staged"), "{ran:?}");
        }
    }
}

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
    let mut secrets = Secrets::new();
    host.note_provider("nkp-a", &mut secrets, "first");
    host.note_keys(&guest, &mut secrets, "first");
    secrets.add_words("witness", "LC_ALL=C");
    let dump = Dump::into(&host.path("/run"));
    host.write("/etc/libvirt/libvirt.conf", "remote_mode = \"legacy\"\n");
    let xml = host.xml(&guest);
    for program in ["vtpm-guard-libvirt", "kms-exec"] {
        let path = format!("/usr/sbin/{program}");
        let real = format!("{path}.real");
        host.run(&["cp", &path, &real]).ok();
        host.write_program("/run/around", &Dump::script(&real, "/run"));
        host.run(&["mount", "--bind", "/run/around", &path]).ok();
        let done = match program {
            "kms-exec" => host.guard(&["provider", "slot", "verify", "nkp-a"]),
            _ => host.hook("vm1", &["prepare", "begin", "-"], &xml),
        };
        let at_its_end = dump.search(&secrets).unwrap();
        let errors = host.read("/run/errors");
        assert_eq!(at_its_end.status, 0, "{program}: {done:#?} {errors}");
        assert_eq!(at_its_end.found, ["witness"], "{program}: {errors}");
        assert_eq!(done.status, 0, "{done:#?} {errors}");
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
