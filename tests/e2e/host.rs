//! A private libvirt host for one test: up in `Host::new`, down when dropped.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use nix::sys::statfs::statfs;
use tempfile::TempDir;
use vtpm_guard::internals::host::volatile::is_volatile;
use vtpm_guard::internals::ids::SecretUuid;

const PRIVATE_HOST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/private-host");

/// The directory of other programs than those that were built with the tests, such as those for release.
pub(crate) const PROGRAMS: &str = "VTPM_GUARD_PROGRAMS";

/// No command of these tests takes this long; one that does hangs.
const COMMAND_SECONDS: &str = "120";

/// What a command answered.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The command must have succeeded.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        let Self {
            status,
            stdout,
            stderr,
        } = &self;
        assert!(*status == 0, "{stdout}\nstatus {status}: {stderr}");
        self
    }

    /// The start must have been refused with this code, and `virsh` must show the guard's line.
    #[track_caller]
    pub(crate) fn refused_with(self, code: &str) -> Self {
        assert_eq!(self.status, 1, "{self:#?}");
        let line = format!("vtpm-guard: {code} ");
        assert!(self.stderr.contains(&line), "no {code} in {self:#?}");
        self
    }
}

/// The first two numbers of a version.
fn version(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|other: char| !other.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

/// Says that a test has found nothing to try on this host, and why. It is seen although the test
/// passes: the test runner keeps back only what the macros print.
pub(crate) fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {why}");
}

/// A libvirt of its own (`daemons` says which), with the built guard installed in it.
pub(crate) struct Host {
    dir: TempDir,
    holder: Child,
    /// `/proc/PID/root`: the host's file system as this process reaches it.
    root: PathBuf,
    /// What commands have said on it.
    said: Mutex<String>,
    /// Commands that ended, with their status.
    ended: Mutex<Vec<(String, i32)>>,
}

/// Where hosts have their directories: doctor says of one in memory that the next boot loses the guard's. Not in `/var/tmp`
/// without need, for tests look for keys there.
fn on_a_disk() -> PathBuf {
    let usual = env::temp_dir();
    if is_volatile(statfs(&usual).unwrap().filesystem_type()) {
        PathBuf::from("/var/tmp")
    } else {
        usual
    }
}

impl Host {
    /// Brings a host up with the guard as its only hook.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in(on_a_disk()).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_vtpm-guard-hook")).parent();
        let programs = env::var_os(PROGRAMS).map(PathBuf::from);
        let programs = programs.unwrap_or_else(|| built.unwrap().to_owned());
        let talk = dir.path().join("hold.log");
        let mut holder = Command::new(PRIVATE_HOST)
            .arg("hold")
            .args([dir.path(), &programs])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&talk).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let answer = holder.stdout.take().unwrap();
        BufReader::new(answer).read_line(&mut line).unwrap();
        if line != "up\n" {
            let _ = holder.wait();
            panic!("no private host: {}", fs::read_to_string(talk).unwrap());
        }
        let pid = fs::read_to_string(dir.path().join("pid")).unwrap();
        let root = Path::new("/proc").join(pid.trim()).join("root");
        Self {
            dir,
            holder,
            root,
            said: Mutex::default(),
            ended: Mutex::default(),
        }
    }

    /// Brings a host up with a script of the test's as its only hook, in the guard's place.
    pub(crate) fn with_hook(script: &str) -> Self {
        let host = Self::new();
        let hook = host.path("/etc/libvirt/hooks/qemu.d/50-vtpm-guard");
        fs::remove_file(hook).unwrap();
        host.write_program("/etc/libvirt/hooks/qemu.d/50-vtpm-guard", script);
        host
    }

    /// A command that runs in the host, for callers that want to hold its streams themselves.
    pub(crate) fn command(&self, command: &[&str]) -> Command {
        let mut inside = Command::new(PRIVATE_HOST);
        inside
            .arg("run")
            .arg(self.dir.path())
            .args(["--", "timeout", "--kill-after=5", COMMAND_SECONDS])
            .args(command);
        inside
    }

    /// Runs a command in the host, with nothing on its stdin.
    pub(crate) fn run(&self, command: &[&str]) -> Output {
        self.run_with_input(command, "")
    }

    /// Runs a command in the host with this on its stdin.
    pub(crate) fn run_with_input(&self, command: &[&str], input: &str) -> Output {
        let mut child = self
            .command(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing closes its end; that is its right.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = finish(child);
        let mut said = self.said.lock().unwrap();
        said.extend([&*output.stdout, &output.stderr, "\n"]);
        let mut ended = self.ended.lock().unwrap();
        ended.push((command.join(" "), output.status));
        output
    }

    /// All that commands have said on it so far.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// The command lines that have ended on it so far, with their status.
    pub(crate) fn ended(&self) -> Vec<(String, i32)> {
        self.ended.lock().unwrap().clone()
    }

    pub(crate) fn virsh(&self, arguments: &[&str]) -> Output {
        self.run(&[&["virsh"], arguments].concat())
    }

    /// Runs the administrator's command.
    pub(crate) fn guard(&self, arguments: &[&str]) -> Output {
        self.run(&[&["/usr/sbin/vtpm-guard"], arguments].concat())
    }

    /// Calls the hook as libvirtd does, past libvirtd.
    pub(crate) fn hook(&self, guest: &str, operation: &[&str], xml: &str) -> Output {
        let call = [&["/usr/sbin/vtpm-guard-hook", guest], operation].concat();
        self.run_with_input(&call, xml)
    }

    /// Major and minor version of the host's libvirt.
    pub(crate) fn libvirt_version(&self) -> (u32, u32) {
        let answer = self.run(&[self.guests_daemon(), "--version"]).ok().stdout;
        version(answer.trim().rsplit(' ').next().unwrap())
    }

    /// Major and minor version of the host's swtpm.
    pub(crate) fn swtpm_version(&self) -> (u32, u32) {
        let answer = self.run(&["swtpm", "--version"]).ok().stdout;
        let (_, version_and_more) = answer.split_once("version ").unwrap();
        version(version_and_more)
    }

    /// Kills libvirtd and starts it again; guests go on running.
    pub(crate) fn restart_libvirtd(&self) {
        self.tell_host("restart-daemon");
    }

    /// Kills libvirtd as the end of the host would: it will start its guests again.
    pub(crate) fn stop_libvirtd(&self) {
        self.tell_host("stop-daemon");
    }

    /// Starts libvirtd, and does not wait until it answers.
    pub(crate) fn start_libvirtd(&self) {
        self.tell_host("start-daemon");
    }

    fn tell_host(&self, verb: &str) {
        let mut told = Command::new(PRIVATE_HOST);
        told.arg(verb).arg(self.dir.path());
        assert!(told.status().unwrap().success());
    }

    /// The host's process 1, as this process knows it.
    pub(crate) fn pid(&self) -> String {
        let pid = fs::read_to_string(self.dir.path().join("pid")).unwrap();
        pid.trim().to_owned()
    }

    /// A path of the host as this process reaches it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Writes a file that may be executed. A process of the host does it: a program that is open for writing cannot be
    /// run, and what this process has open, children of other tests may have open, too.
    pub(crate) fn write_program(&self, path: &str, script: &str) {
        let write = "mkdir -p \"${0%/*}\" && if [ -L \"$0\" ]; then rm \"$0\"; fi && cat >\"$0\" && chmod 755 \"$0\"";
        self.run_with_input(&["sh", "-c", write, path], script).ok();
    }

    /// Writes a file that only root may read.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Behind a link of the host's is a place of this machine's own.
        if path.is_symlink() {
            fs::remove_file(&path).unwrap();
        }
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)
            .unwrap()
            .write_all(content.as_ref())
            .unwrap();
    }

    /// Writes the guard's configuration.
    pub(crate) fn configure(&self, toml: &str) {
        self.write("/etc/vtpm-guard/config.toml", toml);
    }

    /// The store, opened as another tool on the host would: foreign keys are not its concern.
    pub(crate) fn store(&self) -> rusqlite::Connection {
        let store = rusqlite::Connection::open(self.dir.path().join("state/store.db")).unwrap();
        store.pragma_update(None, "foreign_keys", false).unwrap();
        store
    }

    /// Defines a libvirt secret of usage type vtpm by hand, with a value if there is one.
    pub(crate) fn define_secret(&self, secret: SecretUuid, usage: &str, value: Option<&str>) {
        self.write(
            "/run/secret.xml",
            format!(
                "<secret ephemeral='no' private='no'><uuid>{secret}</uuid>\
                 <usage type='vtpm'><name>{usage}</name></usage></secret>"
            ),
        );
        self.virsh(&["secret-define", "/run/secret.xml"]).ok();
        if let Some(value) = value {
            self.write("/run/value", value);
            let secret = secret.to_string();
            let set = ["secret-set-value", &secret, "--plain", "--file"];
            self.virsh(&[&set[..], &["/run/value"]].concat()).ok();
        }
    }

    /// Whether libvirt has this secret.
    pub(crate) fn has_secret(&self, secret: SecretUuid) -> bool {
        let list = self.virsh(&["secret-list"]).ok().stdout;
        list.contains(&secret.to_string())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The end of its stdin ends it.
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

/// Waits for a command and takes what it said.
pub(crate) fn finish(child: Child) -> Output {
    let output = child.wait_with_output().unwrap();
    Output {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
