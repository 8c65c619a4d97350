//! Wrapped keys in the metadata of guests: written after a start, renewed, removed, and never lost.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output};

const WRAPPED: &str = "[policy]\nauto_bind = \"nkp-a\"\n[fleet]\nmetadata = \"wrapped\"\n";
const OFF: &str = "[policy]\nauto_bind = \"nkp-a\"\n";
const LIBOSINFO: &str = "<metadata><libosinfo:libosinfo \
     xmlns:libosinfo=\"http://libosinfo.org/xmlns/libvirt/domain/1.0\"><libosinfo:os \
     id=\"http://microsoft.com/win/11\"/></libosinfo:libosinfo></metadata>";

impl Host {
    pub(crate) fn sync(&self) -> Output {
        self.guard(&["sync"])
    }

    /// The `<metadata>` of a definition: `live`, or of the next start.
    fn metadata(&self, guest: &Guest, live: bool) -> String {
        let inactive: &[&str] = if live { &[] } else { &["--inactive"] };
        let xml = self.virsh(&[&["dumpxml", &guest.name], inactive].concat());
        let xml = xml.ok().stdout;
        let metadata = xml.split_once("<metadata>");
        let metadata = metadata.and_then(|(_, rest)| rest.split_once("</metadata>"));
        metadata.map_or_else(String::new, |(inside, _)| inside.to_owned())
    }

    /// Whether this definition has the guest's own key, as the store has it, and no other one.
    fn travels(&self, guest: &Guest, live: bool) -> bool {
        let metadata = self.metadata(guest, live);
        let printed = self.guard(&["key", "metadata", &guest.name]).ok().stdout;
        let keys = |xml: &str| -> Vec<String> {
            let lines = xml.lines().filter(|line| line.contains("<vg:key"));
            let text = |line: &str| line.split(['<', '>']).nth(2).unwrap().to_owned();
            lines.map(text).collect()
        };
        !keys(&printed).is_empty() && keys(&metadata) == keys(&printed)
    }

    fn has_note(&self, guest: &Guest) -> bool {
        let note = format!("/run/vtpm-guard/unsynced/{}", guest.uuid);
        self.path(&note).exists()
    }

    /// A guest with an encrypted vTPM, bound to nothing yet, with the metadata of virt-manager.
    fn define_travelling_guest(&self, name: &str) -> Guest {
        let guest = self.define_guest(name, Tpm::None);
        let guest = self.redefine_guest(guest.clone(), Tpm::Encrypted(guest.secret));
        let path = format!("/run/{name}.xml");
        let xml = self
            .read(&path)
            .replace("<memory", &format!("{LIBOSINFO}<memory"));
        self.write(&path, xml);
        self.virsh(&["define", &path]).ok();
        guest
    }
}

/// A host that writes keys, and binds guests by itself.
fn wrapped_host() -> Host {
    let host = Host::new();
    host.create_provider("nkp-a");
    host.configure(WRAPPED);
    host
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_key_made_at_a_start_travels_from_the_next_sync_on() {
    let host = wrapped_host();
    let guest = host.define_travelling_guest("vm1");
    let old = host.read("/run/vm1.xml");
    host.start_running(&guest);
    assert!(host.has_note(&guest));
    assert!(!host.travels(&guest, true));

    let said = host.sync().ok().stdout;
    assert!(said.contains("written for 1 guest"), "{said}");
    assert!(!host.has_note(&guest));
    for live in [true, false] {
        assert!(
            host.travels(&guest, live),
            "{}",
            host.metadata(&guest, live)
        );
        assert!(host.metadata(&guest, live).contains("libosinfo:os"));
    }
    // The guest is not tainted, and nothing is written a second time.
    let log = host.read("/var/log/libvirt/qemu/vm1.log");
    assert!(!log.contains("tainted"), "{log}");
    let again = host.sync().ok().stdout;
    assert!(again.contains("written for 0 guests"), "{again}");

    // It survives a managed save, and leaves no note then.
    host.virsh(&["managedsave", "vm1"]).ok();
    host.wait_for_swtpm();
    host.start_running(&guest);
    assert!(host.travels(&guest, true) && !host.has_note(&guest));

    // A definition from a file drops it; the next sync brings it back.
    host.write("/run/vm1.xml", old);
    host.virsh(&["define", "/run/vm1.xml"]).ok();
    assert!(!host.travels(&guest, false) && host.travels(&guest, true));
    host.sync().ok();
    assert!(host.travels(&guest, false) && host.travels(&guest, true));

    // A renewed key takes its place, without a sync; so does a rotated one.
    host.stop(&guest);
    let before = host.metadata(&guest, false);
    host.guard(&["key", "renew", "vm1"]).ok();
    assert!(host.travels(&guest, false));
    assert!(host.metadata(&guest, false).contains("generation=\"2\""));
    assert_ne!(host.metadata(&guest, false), before);
    host.guard(&["provider", "rotate", "nkp-a"]).ok();
    assert!(host.travels(&guest, false));
    host.start_running(&guest);
    assert!(host.travels(&guest, true) && !host.has_note(&guest));

    // Off: it goes, and nothing else does.
    host.configure(OFF);
    let said = host.sync().ok().stdout;
    assert!(said.contains("removed for 1"), "{said}");
    for live in [true, false] {
        let metadata = host.metadata(&guest, live);
        assert!(!metadata.contains("vtpm-guard"), "{metadata}");
        assert!(metadata.contains("libosinfo:os"), "{metadata}");
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_hand_writes_for_one_guest_and_a_transient_guest_is_written_for_too() {
    let host = wrapped_host();
    host.configure(OFF);
    let guest = host.define_travelling_guest("vm1");
    host.start_running(&guest);
    assert!(!host.has_note(&guest), "off leaves no notes");
    host.guard(&["key", "metadata", "vm1", "--write"]).ok();
    assert!(host.travels(&guest, true) && host.travels(&guest, false));
    host.sync().ok();
    assert!(host.travels(&guest, true), "a hand's stays");

    host.configure(WRAPPED);
    let transient = host.define_travelling_guest("vm2");
    host.virsh(&["undefine", "vm2"]).ok();
    host.virsh(&["create", "/run/vm2.xml"]).ok();
    host.sync().ok();
    assert!(host.travels(&transient, true));

    // A command that changes keys while libvirt is away succeeds, and says what is left to do.
    let other = host.define_travelling_guest("vm3");
    host.start_and_stop(&other);
    host.sync().ok();
    assert!(host.travels(&other, false));
    let id = host.only_key_ref(&other).id.to_string();
    host.stop_libvirtd();
    let said = host.guard(&["key", "retire", &id]).ok().stderr;
    assert!(said.contains("write them: vtpm-guard sync"), "{said}");
    assert!(host.has_note(&other));
    host.start_libvirtd();
    host.virsh(&["list"]).ok();
    let said = host.sync().ok().stdout;
    assert!(said.contains("removed for 1"), "{said}");
    assert!(!host.metadata(&other, false).contains("vtpm-guard") && !host.has_note(&other));

    // Unbound, no element of this host's stays.
    host.virsh(&["destroy", "vm1"]).ok();
    host.guard(&["key", "renew", "vm1"]).ok();
    assert!(host.travels(&guest, false));
    host.guard(&["key", "unbind", "vm1"]).ok();
    assert!(!host.metadata(&guest, false).contains("vtpm-guard"));
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_with_a_job_is_written_for_when_the_job_is_over() {
    let host = wrapped_host();
    let busy = host.define_travelling_guest("vm1");
    let other = host.define_travelling_guest("vm2");
    host.start_running(&busy);
    host.start_running(&other);
    let qemu = |signal: &str| {
        let kill = format!("kill -{signal} $(cat /run/libvirt/qemu/vm1.pid)");
        host.run(&["sh", "-c", &kill]).ok();
    };

    // A QEMU that does not answer: a save is a job that does not end, and holds the monitor.
    qemu("STOP");
    let save = host
        .command(&["virsh", "save", "vm1", "/run/vm1.save"])
        .spawn();
    let mut save = save.unwrap();
    let patience = Instant::now() + Duration::from_secs(20);
    while host.virsh(&["domcontrol", "vm1"]).ok().stdout.trim() == "ok" {
        assert!(Instant::now() < patience, "the save does not begin");
    }
    let begun = Instant::now();
    let said = host.sync().ok().stdout;
    let took = begun.elapsed();
    assert!(
        said.contains("written for 1 guest, removed for 0, 1 later"),
        "{said}"
    );
    assert!(took.as_secs() < 20, "{took:?}");
    assert!(host.travels(&other, true) && host.has_note(&busy));

    qemu("CONT");
    save.wait().unwrap();
    host.wait_for_swtpm_of(&busy);
    host.sync().ok();
    assert!(host.travels(&busy, false) && !host.has_note(&busy));
    assert!(Path::new(&host.path("/run/vm1.save")).exists());
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn fifty_guests_are_done_in_seconds() {
    let host = wrapped_host();
    let guest = host.define_travelling_guest("vm1");
    host.start_and_stop(&guest);
    let row = host.only_key_ref(&guest);
    for number in 2..=50 {
        let guest = host.define_travelling_guest(&format!("vm{number}"));
        // Nobody opens it.
        host.insert_key_ref(&guest, &row);
    }
    for written in [50, 0] {
        let begun = Instant::now();
        let said = host.sync().ok().stdout;
        let took = begun.elapsed();
        assert!(
            said.contains(&format!("written for {written} guests")),
            "{said}"
        );
        assert!(took.as_secs() < 20, "{took:?}");
        eprintln!("sync of 50 guests, {written} to be written: {took:?}");
    }
}
