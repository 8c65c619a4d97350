//! Two hosts that are joined by a network.

use std::fs;
use std::process::Command;

use crate::host::Host;

pub(crate) const HERE: &str = "10.99.0.1";
pub(crate) const THERE: &str = "10.99.0.2";

/// Two hosts with a network between them, whose daemons speak with each other.
pub(crate) struct Pair {
    pub(crate) here: Host,
    pub(crate) there: Host,
}

/// Joins two hosts by a network of their own, on which their daemons listen.
pub(crate) fn joined(here: &Host, there: &Host) {
    let joined = Command::new("ip")
        .args(["link", "add", "wire", "netns", &here.pid(), "type", "veth"])
        .args(["peer", "name", "wire", "netns", &there.pid()])
        .status();
    assert!(joined.unwrap().success());
    here.join("here.example", HERE);
    there.join("there.example", THERE);
}

impl Pair {
    pub(crate) fn new() -> Self {
        let pair = Self {
            here: Host::new(),
            there: Host::new(),
        };
        joined(&pair.here, &pair.there);
        pair
    }

    /// `/mnt/backup` is one place for both hosts.
    pub(crate) fn carry_over(&self, files: &[&str]) {
        for file in files {
            let path = format!("/mnt/backup/{file}");
            let content = fs::read(self.here.path(&path)).unwrap();
            self.there.write(&path, content);
        }
    }
}

impl Host {
    /// Gives this end of the wire an address, and lets the daemon listen there.
    fn join(&self, name: &str, address: &str) {
        let hosts = format!("printf '{HERE} here.example\\n{THERE} there.example\\n' >>/etc/hosts");
        self.run(&["sh", "-c", &hosts]).ok();
        self.connect_wire(name, address);
        self.listen_on_tcp();
    }

    /// Gives the host its name, and its end of the wire an address.
    pub(crate) fn connect_wire(&self, name: &str, address: &str) {
        let script = format!(
            "set -eu
             hostname {name}
             ip link set lo up
             ip address add {address}/24 dev wire
             ip link set wire up"
        );
        self.run(&["sh", "-c", &script]).ok();
    }
}
