//! A PostgreSQL in a network of its own, to which wires of hosts lead.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::host::Host;

/// Its address in that network.
pub(super) const ADDRESS: &str = "10.98.0.1";

const SERVICE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kms/services/postgresql");

/// All wires end at this bridge. Without an address of its own it has that of a wire, and another one when that host goes.
const NETWORK: &str = "set -e
    ip link set lo up
    ip link add fleet address 02:00:00:00:00:01 type bridge
    ip address add 10.98.0.1/24 dev fleet
    ip link set fleet up
    echo up
    exec cat";

/// A server. It ends when this is dropped.
pub(super) struct Database {
    dir: TempDir,
    /// A process in its network, which ends with its stdin.
    network: Child,
}

impl Database {
    pub(super) fn up() -> Self {
        // While there is still a network that reaches an archive.
        let install = Command::new(SERVICE).arg("install").status();
        assert!(install.unwrap().success(), "no PostgreSQL");
        let mut network = Command::new("unshare")
            .args(["--net", "sh", "-c", NETWORK])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let answer = network.stdout.take().unwrap();
        BufReader::new(answer).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let dir = tempfile::tempdir().unwrap();
        let database = Self { dir, network };
        database.tell("up");
        database
    }

    /// Runs a verb of the service.
    pub(super) fn tell(&self, verb: &str) {
        let network = format!("--net=/proc/{}/ns/net", self.network.id());
        let status = Command::new("nsenter")
            .args([&network, SERVICE, verb])
            .arg(self.dir.path())
            .env("ADDRESS", ADDRESS)
            .status();
        assert!(status.unwrap().success(), "{verb}");
    }

    /// A wire between the host and this network.
    pub(super) fn connect(&self, host: &Host, name: &str) {
        let (there, here) = (host.pid(), self.network.id().to_string());
        let link = Command::new("ip")
            .args(["link", "add", "wire", "netns", &there, "type", "veth"])
            .args(["peer", "name", name, "netns", &here])
            .status();
        assert!(link.unwrap().success());
        let network = format!("--net=/proc/{here}/ns/net");
        let plug = Command::new("nsenter")
            .args([&network, "ip", "link", "set", name, "master", "fleet", "up"])
            .status();
        assert!(plug.unwrap().success());
    }

    /// The file with a role's password, or a certificate.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the server has its files, and its socket.
    pub(super) fn place(&self) -> PathBuf {
        let place = fs::read_to_string(self.file("place")).unwrap();
        place.trim_end().into()
    }

    /// All rows of all tables, as text: in the server's files they may be compressed.
    #[track_caller]
    pub(super) fn rows(&self) -> String {
        let tables = "SELECT format('TABLE %I.%I', schemaname, tablename) FROM pg_tables \
                      WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
        let tables = self.sql(tables);
        tables.lines().map(|table| self.sql(table) + "\n").collect()
    }

    /// Runs statements as the superuser, who may do everything. Returns what they say.
    #[track_caller]
    pub(super) fn sql(&self, statements: &str) -> String {
        let output = Command::new("setpriv")
            .current_dir("/")
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .args(["psql", "--quiet", "--no-psqlrc", "--no-align"])
            .args(["--tuples-only", "--set=ON_ERROR_STOP=1", "--port=5480"])
            .args(["--dbname=vtpm_guard", "--command", statements, "--host"])
            .arg(self.place())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.tell("down");
        drop(self.network.stdin.take());
        let _ = self.network.wait();
    }
}
