//! The daemons of a host: one libvirtd for all, or virtqemud for guests and virtsecretd for secrets.

use crate::host::{Host, skipped};

impl Host {
    /// Whether the host has the modular daemons, as `private-host` finds it.
    pub(crate) fn is_modular(&self) -> bool {
        !self.path("/usr/sbin/libvirtd").exists()
    }

    /// Says that a test is skipped which is about libvirtd: it alone takes no key while it starts.
    pub(crate) fn lacks_libvirtd(&self) -> bool {
        if self.is_modular() {
            skipped("this host has the modular daemons, for which nothing is staged");
        }
        self.is_modular()
    }

    /// Says that a test is skipped which is about the modular daemons.
    pub(crate) fn lacks_virtqemud(&self) -> bool {
        if !self.is_modular() {
            skipped("this host has libvirtd; ./dev e2e --suite trixie --modular runs it");
        }
        !self.is_modular()
    }

    /// The daemon that runs guests, and calls the hook.
    pub(crate) fn guests_daemon(&self) -> &'static str {
        if self.is_modular() {
            "virtqemud"
        } else {
            "libvirtd"
        }
    }

    /// The daemon that has the secrets.
    pub(crate) fn secrets_daemon(&self) -> &'static str {
        if self.is_modular() {
            "virtsecretd"
        } else {
            "libvirtd"
        }
    }

    /// Each of both once.
    pub(crate) fn daemons(&self) -> Vec<&'static str> {
        let mut daemons = vec![self.secrets_daemon(), self.guests_daemon()];
        daemons.dedup();
        daemons
    }

    /// The file in which this daemon writes its process id.
    pub(crate) fn pid_file(daemon: &str) -> String {
        format!("/run/{daemon}.pid")
    }

    /// Sends a signal to one daemon: `STOP` makes it deaf, `CONT` wakes it.
    pub(crate) fn signal(&self, daemon: &str, signal: &str) {
        let pid = self.read(&Self::pid_file(daemon));
        self.run(&["kill", "-s", signal, pid.trim()]).ok();
    }

    /// Sends a signal to all of them.
    pub(crate) fn signal_libvirtd(&self, signal: &str) {
        for daemon in self.daemons() {
            self.signal(daemon, signal);
        }
    }

    /// Ends one daemon, and waits until it has ended.
    pub(crate) fn end(&self, daemon: &str, signal: &str) {
        let end = "kill -s $1 $0; while kill -0 $0 2>/dev/null; do sleep 0.05; done";
        let pid = self.read(&Self::pid_file(daemon));
        self.run(&["sh", "-c", end, pid.trim(), signal]).ok();
    }

    /// Appends lines to the configuration of each daemon, and starts them again.
    pub(crate) fn configure_daemons(&self, lines: &str) {
        for daemon in self.daemons() {
            self.append(&format!("/etc/libvirt/{daemon}.conf"), lines);
        }
        self.restart_libvirtd();
    }

    /// Lets libvirt answer other hosts over TCP, under a host UUID of its own: by libvirtd itself, or
    /// by virtproxyd, which speaks for the modular daemons.
    pub(crate) fn listen_on_tcp(&self) {
        let listens = "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\n";
        let uuid = self.read("/proc/sys/kernel/random/uuid");
        let guests = self.guests_daemon();
        self.append(
            &format!("/etc/libvirt/{guests}.conf"),
            &format!("host_uuid = \"{}\"\n", uuid.trim()),
        );
        self.end(guests, "TERM");
        let starts = if self.is_modular() {
            self.append(
                "/etc/libvirt/virtproxyd.conf",
                &format!("auth_unix_rw = \"none\"\n{listens}"),
            );
            // It may run since this was called before.
            if self.path(&Self::pid_file("virtproxyd")).exists() {
                self.end("virtproxyd", "TERM");
            }
            self.start_libvirtd();
            "virtproxyd -d"
        } else {
            self.append("/etc/libvirt/libvirtd.conf", listens);
            "libvirtd -d --listen"
        };
        self.run(&["sh", "-c", &format!("{starts} && timeout 30 virsh uri")])
            .ok();
    }

    /// Appends lines to QEMU's configuration, and starts the daemon that reads it, which goes on to
    /// listen.
    pub(crate) fn configure_qemu(&self, lines: &str) {
        self.append("/etc/libvirt/qemu.conf", lines);
        self.listen_on_tcp();
    }

    fn append(&self, path: &str, lines: &str) {
        let before = std::fs::read_to_string(self.path(path)).unwrap_or_default();
        self.write(path, before + lines);
    }
}
