//! One test, in a process of its own that can neither run for ever nor take the machine with it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::Result;

/// The memory that a process may have, in bytes: a mutant may take more and more in a loop.
const MEMORY: u64 = 8 << 30;

/// A test of a program that cargo has built.
#[derive(Clone, Deserialize, Serialize)]
pub struct Test {
    pub program: std::path::PathBuf,
    pub directory: std::path::PathBuf,
    pub name: String,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq)]
pub enum End {
    Passed,
    Failed,
    /// It was killed when its time was over.
    TimedOut,
}

impl Test {
    /// Plays it with a variable of the environment. What it leaves is below the directory for temporary files,
    /// which `./dev` removes.
    pub fn play(&self, variable: (&str, &Path), limit: Duration) -> Result<(End, Duration)> {
        let begin = Instant::now();
        let status = Command::new("prlimit")
            .arg(format!("--as={MEMORY}"))
            // It kills the whole group of processes.
            .args(["timeout", "--signal=KILL", &limit.as_secs().to_string()])
            .arg(&self.program)
            .args(["--exact", &self.name, "--test-threads=1", "--quiet"])
            .current_dir(&self.directory)
            .env(variable.0, variable.1)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .map_err(|error| format!("prlimit: {error}"))?;
        let took = begin.elapsed();
        let end = match status.success() {
            true => End::Passed,
            false if took >= limit => End::TimedOut,
            false => End::Failed,
        };
        Ok((end, took))
    }
}
