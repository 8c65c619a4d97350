//! Live migration of a transient guest between two hosts: its TPM moves, and leaves no copy.

use std::fs;
use std::process::Command;

use crate::host::Host;

const ADDRESSES: [&str; 2] = ["10.99.0.1", "10.99.0.2"];

/// Two hosts on a network of their own, whose daemons listen on it.
pub(crate) fn joined(hosts: [&Host; 2]) {
    let pids = hosts.map(|host| {
        // `/proc/PID/root`
        let root = host.path("/");
        root.iter().nth(2).unwrap().to_str().unwrap().to_owned()
    });
    let [near, far] = pids.clone().map(|pid| format!("vg{pid}"));
    ip(&["link", "add", &near, "type", "veth", "peer", "name", &far]);
    for ((host, pid), (name, address)) in hosts
        .iter()
        .zip(&pids)
        .zip([near, far].iter().zip(ADDRESSES))
    {
        ip(&["link", "set", name, "netns", pid]);
        let join = format!(
            "hostname host-{pid}
             ip addr add {address}/24 dev {name} && ip link set {name} up && ip link set lo up
             echo '{} host-{}\n{} host-{}' >>/etc/hosts",
            ADDRESSES[0], pids[0], ADDRESSES[1], pids[1],
        );
        host.run(&["sh", "-c", &join]).ok();
        host.listen_on_tcp();
    }
}

fn ip(arguments: &[&str]) {
    assert!(
        Command::new("ip")
            .args(arguments)
            .status()
            .unwrap()
            .success()
    );
}

#[test]
#[ignore = "needs root, libvirtd, QEMU and swtpm: ./dev test runs them"]
fn a_guest_that_migrates_away_leaves_no_copy_of_its_tpm_behind() {
    let (here, guest) = Host::with_transient_guest();
    let there = Host::new();
    joined([&here, &there]);
    here.create_running(&guest);

    for file in ["/run/nkp-a.recovery", "/run/passphrase"] {
        there.write(file, fs::read(here.path(file)).unwrap());
    }
    there.import_provider("nkp-a", None);
    there.insert_key_ref(&guest, &here.only_key_ref(&guest));
    let (uri, data) = (
        format!("qemu+tcp://{}/system", ADDRESSES[1]),
        format!("tcp://{}", ADDRESSES[1]),
    );
    here.virsh(&["migrate", "--live", "vm1", &uri, &data]).ok();

    assert_eq!(there.state(&guest), "running");
    assert!(there.has_tpm_state(&guest), "it came with the stream");
    assert_eq!(there.copies(&guest).len(), 0);
    assert_eq!(here.copies(&guest).len(), 0);
    // Started here all the same, it would have an old TPM, or a new one.
    here.create(&guest).refused_with("VG205");

    let state = there.tpm_state(&guest);
    there.stop(&guest);
    there.create_running(&guest);
    assert!(there.tpm_state(&guest) == state);
}
