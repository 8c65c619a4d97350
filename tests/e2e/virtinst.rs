//! virt-install and virt-clone, the real ones: what they start, or copy, and what the refusal's
//! hint makes of it.

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};

use crate::guest::{Guest, Tpm};
use crate::host::{Host, Output};

impl Host {
    /// Installs a guest without disks, which boots from nowhere.
    fn virt_install(&self, secret: SecretUuid, arguments: &[&str]) -> Output {
        let tpm = format!(
            "model=tpm-crb,backend.type=emulator,backend.version=2.0,\
             backend.encryption.secret={secret}"
        );
        let install = [
            "env",
            "HOME=/run",
            "virt-install",
            "--virt-type=qemu",
            "--name=vm1",
            "--memory=16",
            "--machine=q35",
            "--disk=none",
            "--network=none",
            "--graphics=none",
            "--pxe",
            "--osinfo=detect=off,require=off",
            "--noautoconsole",
            "--tpm",
            &tpm,
        ];
        self.run(&[&install, arguments].concat())
    }
}

/// The guest of this name as libvirt knows it.
fn known(host: &Host, name: &str, secret: SecretUuid) -> Guest {
    let uuid = host.virsh(&["domuuid", name]).ok().stdout;
    Guest {
        name: name.to_owned(),
        uuid: DomainUuid::parse(&uuid).unwrap(),
        secret,
    }
}

#[test]
#[ignore = "needs root, libvirtd, QEMU, swtpm and virtinst: ./dev test runs them"]
fn each_way_that_the_refusal_names_lets_virt_install_succeed() {
    let host = Host::new();
    host.create_provider("nkp-a");
    let secret = SecretUuid::random();
    for _ in 0..2 {
        host.virt_install(secret, &[]).refused_with("VG201");
        let bind = host.guard(&["key", "bind", "vm1", "--provider", "nkp-a"]);
        assert_eq!(bind.status, 1, "{bind:?}");
        assert!(bind.stderr.contains("libvirt knows no guest"), "{bind:?}");
    }
    let listed = host.guard(&["key", "list", "--json"]).ok();
    assert_eq!(listed.stdout.trim(), "[]", "no attempt leaves a row");

    // It is defined first.
    let printed = host.virt_install(secret, &["--print-xml", "1"]).ok();
    host.write("/run/vm1.xml", printed.stdout);
    host.virsh(&["define", "/run/vm1.xml"]).ok();
    let guest = known(&host, "vm1", secret);
    host.bind(&guest, "nkp-a");
    host.start_and_stop(&guest);
    host.virsh(&["undefine", "vm1"]).ok();

    // Its UUID is one that stays. The secret is that of a guest which is no more.
    let (uuid, secret) = (DomainUuid::random().to_string(), SecretUuid::random());
    host.guard(&["key", "bind", &uuid, "--provider", "nkp-a"])
        .ok();
    host.virt_install(secret, &["--uuid", &uuid]).ok();
    let guest = known(&host, "vm1", secret);
    assert_eq!(host.state(&guest), "running");
    assert_eq!(guest.uuid.to_string(), uuid);
    host.stop(&guest);
    host.start_and_stop(&guest);
}

#[test]
#[ignore = "needs root, libvirtd, QEMU, swtpm and virtinst: ./dev test runs them"]
fn a_new_guest_of_virt_install_is_bound_by_policy() {
    let host = Host::new();
    host.create_provider("nkp-a");
    host.configure("[policy]\nauto_bind = \"nkp-a\"\n");
    let secret = SecretUuid::random();
    host.virt_install(secret, &[]).ok();
    let guest = known(&host, "vm1", secret);
    assert_eq!(host.state(&guest), "running");
    host.stop(&guest);
    host.start_and_stop(&guest);
    assert_eq!(host.only_key_ref(&guest).provider_name, "nkp-a");
}

#[test]
#[ignore = "needs root, libvirtd, QEMU, swtpm and virtinst: ./dev test runs them"]
fn a_virt_clone_gets_no_empty_tpm_without_a_word() {
    let (host, original) = Host::with_used_guest();
    host.configure("[policy]\nauto_bind = \"nkp-a\"\n");
    let clone = ["--original=vm1", "--name=vm2", "--auto-clone"];
    host.run(&[&["env", "HOME=/run", "virt-clone"], &clone[..]].concat())
        .ok();
    let clone = known(&host, "vm2", original.secret);
    let xml = host.xml(&clone);
    assert!(xml.contains(&original.secret.to_string()), "{xml}");
    let refused = host.start(&clone).refused_with("VG201");
    assert!(refused.stderr.contains("\"vm1\""), "{refused:?}");
    assert!(refused.stderr.contains("virsh edit vm2"), "{refused:?}");
    assert!(
        refused.stderr.contains("vtpm-guard key clone vm1 vm2"),
        "{refused:?}"
    );

    let bind = host.guard(&["key", "bind", "vm2"]).ok();
    assert!(bind.stderr.contains("vm1 names the secret"), "{bind:?}");
    host.guard(&["key", "unbind", "vm2"]).ok();
    let clone = host.redefine_guest(clone, Tpm::Encrypted(SecretUuid::random()));
    host.guard(&["key", "clone", "vm1", "vm2"]).ok();
    host.start_running(&clone);
    host.start_running(&original);
    assert_eq!(host.tpms_made(&original), 1);
}
