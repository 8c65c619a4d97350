//! What is left of keys in the memory of the programs: nothing as they end, and no provider's key
//! while a person types. The same of a host in a fleet: fleet/memory.rs.

use std::fmt::Write;
use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use vtpm_guard::internals::ids::SecretUuid;

use crate::dump::{Dump, WITNESS};
use crate::guest::{Guest, PASSPHRASE_FILE, Tpm, recovery_file};
use crate::host::{Host, Output, skipped};
use crate::recrypting::copy_tpm_state;
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

/// A key manager that turns one bit of each byte, which others would not see in the memory of its plugin.
const BOX: &str = "#!/bin/sh\nexec tr '\\000-\\377' '\\200-\\377\\000-\\177'\n";

/// Programs take their time under gdb. What the guard can keep, it keeps.
const CONFIGURATION: &str = "[hook]\ndeadline = \"60s\"\n[state]\nkeep = \"all\"\n[fleet]\nmetadata = \"wrapped\"\n\
     [kms.box]\nkind = \"exec\"\ntimeout = \"60s\"\nwrap = [\"/usr/sbin/box\"]\nunwrap = [\"/usr/sbin/box\"]\n";

/// Programs of a host whose memory is dumped as they end, and all keys that are looked for there.
pub(crate) struct Dumped<'h> {
    host: &'h Host,
    dump: Dump,
    secrets: Secrets,
    /// Whose keys these are, those included that a program has made.
    guests: Vec<Guest>,
}

impl<'h> Dumped<'h> {
    /// `None`, said aloud, where there is no gdb that can do it.
    pub(crate) fn on(host: &'h Host) -> Option<Self> {
        host.has_gdb().then(|| Self {
            host,
            dump: Dump::into(&host.path("/run")),
            secrets: Secrets::new(),
            guests: Vec::new(),
        })
    }

    /// Adds further secrets.
    pub(crate) fn note(&mut self, add: impl FnOnce(&mut Secrets)) {
        add(&mut self.secrets);
    }

    /// From now on the keys of this guest are looked for.
    pub(crate) fn add_guest(&mut self, guest: &Guest) {
        self.guests.push(guest.clone());
        self.host.note_keys(guest, &mut self.secrets, "first");
    }

    /// From now on the key of this provider is looked for, which must be wrapping keys; and the passphrase of its export.
    pub(crate) fn add_provider(&mut self, provider: &str) {
        self.host.note_provider(provider, &mut self.secrets, "");
        let passphrase = self.host.read(PASSPHRASE_FILE);
        self.secrets.add_words("the passphrase", passphrase.trim());
    }

    /// Runs a program with success: at its end no key is in its memory, whichever it has found or made.
    #[track_caller]
    pub(crate) fn run(&mut self, call: &[&str], input: &str) -> Output {
        self.run_with_new(None, call, input)
    }

    /// The same of a program that gives this provider a key.
    #[track_caller]
    pub(crate) fn run_with_new(
        &mut self,
        provider: Option<&str>,
        call: &[&str],
        input: &str,
    ) -> Output {
        let program = format!("/usr/sbin/{}", call[0]);
        let host = self.host;
        host.write_program("/run/around", &Dump::script(&program, "/run"));
        let ran = host.run_with_input(&[&["/run/around"], &call[1..]].concat(), input);
        let round = call.join(" ");
        if let Some(provider) = provider {
            host.note_provider(provider, &mut self.secrets, &round);
        }
        for guest in &self.guests {
            host.note_keys(guest, &mut self.secrets, &round);
        }
        let mut all = self.secrets.clone();
        all.add(WITNESS, program.as_bytes());
        let runs = self.dump.has_witness_alone(&round, &all, 0);
        assert_eq!(runs, 1, "{round}");
        ran
    }

    /// Runs an administrator's commands, one in each line.
    #[track_caller]
    pub(crate) fn guard(&mut self, commands: &[&str]) {
        for command in commands {
            let words: Vec<_> = command.split(' ').collect();
            self.run(&[&["vtpm-guard"], &words[..]].concat(), "");
        }
    }

    /// Runs the hook as libvirtd does, for the guest `vm1`.
    #[track_caller]
    fn hook(&mut self, operation: &str) {
        let xml = self.host.virsh(&["dumpxml", "vm1"]).ok().stdout;
        let sub_operation = match operation {
            "stopped" | "release" => "end",
            _ => "begin",
        };
        self.run(
            &["vtpm-guard-hook", "vm1", operation, sub_operation, "-"],
            &xml,
        );
    }
}

/// A host with a provider, and a key manager.
fn host_with_box() -> Host {
    let host = Host::new();
    host.write_program("/usr/sbin/box", BOX);
    host.install_program("kms-exec");
    host.configure(CONFIGURATION);
    host.create_provider("nkp-a");
    host
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_memory_when_the_hook_ends() {
    let host = host_with_box();
    let Some(mut hook) = Dumped::on(&host) else {
        return;
    };
    let guest = host.define_bound_guest("vm1", "nkp-a");
    hook.add_provider("nkp-a");
    hook.add_guest(&guest);
    // The first start, which makes a key; something else lets it fail.
    hook.hook("prepare");
    assert!(host.only_key_ref(&guest).wrapped_dek.is_some());
    hook.hook("release");
    host.start_and_stop(&guest);
    for operation in ["prepare", "started", "stopped", "release", "migrate"] {
        hook.hook(operation);
    }
    // A repair; a key out of the XML; a state that is gone, and has a saved copy.
    host.insert_placeholder(&guest, "nkp-a");
    hook.hook("prepare");
    host.only_key_ref(&guest);
    host.guard(&["key", "metadata", "vm1", "--write"]).ok();
    host.delete_key_refs(&guest);
    hook.hook("prepare");
    host.only_key_ref(&guest);
    // A copy that is no older than the last run.
    host.start_and_stop(&guest);
    host.remove_tpm_state(&guest);
    hook.hook("prepare");
    assert!(host.has_tpm_state(&guest));
    host.delete_provider("nkp-a");
    host.import_provider("nkp-a", None);
    hook.hook("prepare");
    host.start_and_stop(&guest);
    assert_eq!(host.tpms_made(&guest), 1);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_memory_when_a_command_of_providers_ends() {
    let host = host_with_box();
    let Some(mut programs) = Dumped::on(&host) else {
        return;
    };
    let guest = host.define_bound_guest("vm1", "nkp-a");
    host.start_and_stop(&guest);
    programs.add_provider("nkp-a");
    programs.add_guest(&guest);
    let create = ["vtpm-guard", "provider", "create", "nkp-b"];
    programs.run_with_new(Some("nkp-b"), &create, "");
    let recovery = recovery_file("nkp-a");
    let again = "/run/again.recovery";
    programs.guard(&[
        &format!("provider export nkp-a --output {again} --passphrase-file {PASSPHRASE_FILE}"),
        "provider slot add nkp-a box:one",
        "provider slot verify nkp-a",
        "provider show nkp-a",
        "provider slot remove nkp-a box:one",
    ]);
    host.guard(&["provider", "slot", "add", "nkp-b", "box:two"])
        .ok();
    host.configure(&format!("{CONFIGURATION}[provider]\ncache = \"boot\"\n"));
    programs.guard(&["open"]);
    host.configure(CONFIGURATION);
    host.delete_provider("nkp-a");
    programs.guard(&[
        &format!("provider import {recovery} --passphrase-file {PASSPHRASE_FILE}"),
        "repair vm1",
    ]);
    host.seal_weakly("nkp-a");
    programs.guard(&["provider reseal"]);
    let rotate = ["vtpm-guard", "provider", "rotate", "nkp-a"];
    programs.run_with_new(Some("nkp-a"), &rotate, "");
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_memory_when_a_command_of_guests_ends() {
    let host = host_with_box();
    let Some(mut programs) = Dumped::on(&host) else {
        return;
    };
    let guest = host.define_bound_guest("vm1", "nkp-a");
    let plain = host.define_guest("vm2", Tpm::Plain);
    let by_hand = SecretUuid::random();
    host.define_secret(by_hand, "by hand", Some(BY_HAND));
    let adopted = host.define_guest("vm3", Tpm::Encrypted(by_hand));
    let copied = host.define_guest("vm4", Tpm::Encrypted(SecretUuid::random()));
    let cloned = host.define_guest("vm5", Tpm::Encrypted(SecretUuid::random()));
    for guest in [&guest, &plain, &adopted] {
        host.start_and_stop(guest);
    }
    copy_tpm_state(&host, &guest, &copied);
    host.write("/run/input", host.xml(&guest));
    programs
        .secrets
        .add("the value made by hand", BY_HAND.as_bytes());
    programs.add_provider("nkp-a");
    for guest in [&guest, &plain, &adopted, &copied, &cloned] {
        programs.add_guest(guest);
    }
    programs.guard(&[
        "check vm1",
        "key show vm1",
        "status",
        "replay /run/input --no-secret",
    ]);
    host.insert_placeholder(&guest, "nkp-a");
    programs.guard(&[
        "repair vm1",
        "encrypt vm2 --provider nkp-a",
        "adopt vm3 --provider nkp-a",
        "key clone vm1 vm4",
        "key clone vm1 vm5",
        "sync",
        "state show vm1",
    ]);
    host.remove_tpm_state(&guest);
    host.guard(&["store", "backup", "/run/keys.backup"]).ok();
    host.delete_key_refs(&guest);
    programs.guard(&[
        "key import vm1 --from /run/keys.backup",
        "state restore vm1",
    ]);
    host.delete_key_refs(&guest);
    programs.guard(&["store rebuild"]);
    let id = host.only_key_ref(&guest).id.to_string();
    programs.guard(&[&format!("key use {id}"), "key renew vm1"]);
    for guest in [&guest, &plain, &adopted, &copied, &cloned] {
        host.start_and_stop(guest);
    }
    if !host.lacks_libvirtd() {
        // It has nothing to do otherwise.
        host.autostart(&guest);
        host.stop_libvirtd();
        let ran = programs.run(&["vtpm-guard", "stage"], "");
        assert!(ran.stdout.contains("1 key staged"), "{ran:?}");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn no_key_is_left_in_the_memory_of_a_program_that_has_had_one_for_another() {
    let host = host_with_box();
    if !host.has_gdb() || host.lacks_libvirtd() {
        return;
    }
    host.guard(&["provider", "slot", "add", "nkp-a", "box:one"])
        .ok();
    let guest = host.define_bound_guest("vm1", "nkp-a");
    host.start_and_stop(&guest);
    let by_hand = SecretUuid::random();
    host.define_secret(by_hand, "by hand", Some(BY_HAND));
    let adopted = host.define_guest("vm2", Tpm::Encrypted(by_hand));
    host.start_and_stop(&adopted);
    let mut secrets = Secrets::new();
    host.note_provider("nkp-a", &mut secrets, "first");
    host.note_keys(&guest, &mut secrets, "first");
    secrets.add("the value made by hand", BY_HAND.as_bytes());
    secrets.add_words(WITNESS, "LC_ALL=C");
    let dump = Dump::into(&host.path("/run"));
    host.write("/etc/libvirt/libvirt.conf", "remote_mode = \"legacy\"\n");
    let xml = host.xml(&guest);
    for (program, what) in [
        ("kms-exec", "a provider's key"),
        ("vtpm-guard-libvirt", "a key for libvirt"),
        ("vtpm-guard-libvirt", "a key of libvirt's"),
    ] {
        let path = format!("/usr/sbin/{program}");
        let real = format!("{path}.real");
        host.run(&["cp", &path, &real]).ok();
        host.write_program("/run/around", &Dump::script(&real, "/run"));
        host.run(&["mount", "--bind", "/run/around", &path]).ok();
        let done = match what {
            "a provider's key" => host.guard(&["provider", "slot", "verify", "nkp-a"]),
            "a key for libvirt" => host.hook("vm1", &["prepare", "begin", "-"], &xml),
            _ => host.guard(&["adopt", "vm2", "--provider", "nkp-a"]),
        };
        host.note_keys(&adopted, &mut secrets, what);
        assert_eq!(done.status, 0, "{what}: {done:#?}");
        let runs = dump.has_witness_alone(&format!("{program}: {what}"), &secrets, 0);
        eprintln!("{program}, {what}: {runs} conversations");
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
