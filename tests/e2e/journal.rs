//! A journald of the host's own, which only writes down what it gets.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::host::Host;

/// Where it writes.
const JOURNAL: &str = "/var/log/journald";

/// Programs send long entries as files (libvirt's daemons do; the guard cuts them).
const JOURNALD: &str = "import os, socket\n\
    os.makedirs('/run/systemd/journal', exist_ok=True)\n\
    journald = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    journald.bind('/run/systemd/journal/socket')\n\
    if os.fork(): os._exit(0)\n\
    os.setsid()\n\
    for stream in 0, 1, 2: os.dup2(os.open('/dev/null', os.O_RDWR), stream)\n\
    journal = open('/var/log/journald', 'ab', 0)\n\
    while True:\n\
    \x20   entry, files, *_ = socket.recv_fds(journald, 1 << 22, 16)\n\
    \x20   for file in files:\n\
    \x20       with open(file, 'rb') as long:\n\
    \x20           long.seek(0)\n\
    \x20           entry += long.read()\n\
    \x20   journal.write(entry + b'\\n')\n";

const SEND: &str = "import socket, sys\n\
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), '/run/systemd/journal/socket')\n";

impl Host {
    /// From now on the host has a journald, so that the guard's log goes there.
    pub(crate) fn start_journald(&self) {
        self.run(&["python3", "-c", JOURNALD]).ok();
    }

    /// All that it got so far.
    #[track_caller]
    pub(crate) fn journal(&self) -> Vec<u8> {
        let end = format!("all until {:?}", Instant::now());
        self.run(&["python3", "-c", SEND, &end]).ok();
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let journal = std::fs::read(self.path(JOURNAL)).unwrap();
            if memchr::memmem::find(&journal, end.as_bytes()).is_some() {
                return journal;
            }
            assert!(Instant::now() < until, "journald takes nothing");
            sleep(Duration::from_millis(20));
        }
    }

    /// Whether it got an event of a start's: of the hook with the operation `prepare`, of `vtpm-guard` with another one.
    #[track_caller]
    pub(crate) fn journal_has(&self, operation: &str) -> bool {
        let length = (operation.len() as u64).to_le_bytes();
        let name = &b"VTPM_GUARD_OPERATION\n"[..];
        let field = [name, &length, operation.as_bytes(), b"\n"].concat();
        memchr::memmem::find(&self.journal(), &field).is_some()
    }
}
