//! A server of tests/kms/services, for one test, in a network of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vtpm_guard::internals::config::Config;
use vtpm_guard::internals::kms::KmsSettings;

use crate::plugin::private_dir;

/// A server that runs. It ends when this is dropped.
pub(crate) struct Service {
    name: &'static str,
    dir: PathBuf,
    /// The configuration that it has written.
    config: Config,
}

impl Service {
    /// Starts it, with its files below this directory. An error says why it cannot be had here.
    pub(crate) fn start(name: &'static str, dir: &Path) -> Result<Self, String> {
        // While there is still the machine's own network.
        script(name, &["install"])?;
        private_network()?;
        let dir = private_dir(dir, name);
        let mut service = Self {
            name,
            dir,
            config: Config::default(),
        };
        service.run("up")?;
        let config = Config::load(&service.dir.join("config.toml"));
        service.config = config.map_err(|error| error.to_string())?;
        Ok(service)
    }

    pub(crate) fn section(&self, name: &str) -> KmsSettings {
        self.config.kms[name].clone()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs one of its further verbs.
    #[track_caller]
    pub(crate) fn run_verb(&self, verb: &str) {
        self.run(verb).unwrap();
    }

    /// Sends a signal to the server. One that SIGSTOP stops takes connections, and answers none.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = fs::read_to_string(self.dir.join("pid")).unwrap();
        let pid = pid.split_whitespace().next().unwrap();
        kill(Pid::from_raw(pid.parse().unwrap()), signal).unwrap();
        // Each thread stops when it is its turn.
        let tasks = PathBuf::from(format!("/proc/{pid}/task"));
        let threads = || fs::read_dir(&tasks).unwrap().flatten();
        while signal == Signal::SIGSTOP && !threads().all(|thread| has_stopped(&thread.path())) {
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn run(&self, verb: &str) -> Result<(), String> {
        script(self.name, &[verb, self.dir.to_str().unwrap()])
    }
}

/// Runs the script of a service.
fn script(name: &str, arguments: &[&str]) -> Result<(), String> {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kms/services");
    let output = Command::new(scripts.join(name)).args(arguments).output();
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Whether a thread has stopped, or is no more.
fn has_stopped(thread: &Path) -> bool {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    // The name before the state may have any bytes in it.
    stat.rsplit_once(") ")
        .is_none_or(|(_, state)| state.starts_with('T'))
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.run("down") {
            eprintln!("{}: {error}", self.name);
        }
    }
}

/// Gives this thread, and all processes and threads that it starts, a network in which there is nothing but
/// loopback. Each test runs in a thread of its own.
pub(crate) fn private_network() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| format!("no network of its own: {error}"))?;
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    match up {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("no loopback: {other:?}")),
    }
}
