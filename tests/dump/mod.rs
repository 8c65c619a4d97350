//! What is in the memory of a program as it ends: gdb stops it there, and writes it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::traces::Secrets;

/// The name of the secret that must be found: nothing was searched otherwise.
pub(crate) const WITNESS: &str = "witness";

/// Where the memory of programs is written, and by what.
pub(crate) struct Dump {
    /// As this process reaches it.
    dir: PathBuf,
}

impl Dump {
    /// Into this directory.
    pub(crate) fn into(dir: &Path) -> Self {
        fs::write(dir.join("dump.py"), include_str!("dump.py")).unwrap();
        Self {
            dir: dir.to_owned(),
        }
    }

    /// # Panics
    ///
    /// Where there is no gdb that can do it.
    pub(crate) fn needs_gdb() {
        let has_python = ["-batch", "-nx", "-ex", "python print(1)"];
        let gdb = Command::new("gdb").args(has_python).output();
        assert!(
            gdb.is_ok_and(|gdb| gdb.stdout.trim_ascii() == b"1"),
            "there is no gdb with Python here"
        );
    }

    /// The script that runs a program so, for those who see the directory under this path.
    pub(crate) fn script(program: &str, directory: &str) -> String {
        let script = include_str!("around").replace("@TO@", directory);
        script.replace("@PROGRAM@", program)
    }

    /// Waits until all runs since the last search have ended. Each must have ended with this status, and have the witness
    /// in its memory, and no other one of these secrets. Returns how many there were.
    #[track_caller]
    pub(crate) fn has_witness_alone(&self, what: &str, secrets: &Secrets, status: i32) -> usize {
        let end = Instant::now() + Duration::from_secs(30);
        let has_ended = |run: &PathBuf| run.join("ended").exists();
        let runs = loop {
            let runs = self.runs();
            if !runs.is_empty() && runs.iter().all(has_ended) {
                break runs;
            }
            assert!(Instant::now() < end, "{what}: {:#?}", said(&runs));
            sleep(Duration::from_millis(20));
        };
        for run in &runs {
            let found = secrets.in_bytes(&fs::read(run.join("memory")).unwrap());
            let found: Vec<_> = found.into_iter().collect();
            let ended: i32 = fs::read_to_string(run.join("ended"))
                .unwrap()
                .parse()
                .unwrap();
            let said = said(&runs);
            assert_eq!(found, [WITNESS], "{what}: {said:#?}");
            assert_eq!(ended, status, "{what}: {said:#?}");
        }
        for run in &runs {
            fs::remove_dir_all(run).unwrap();
        }
        runs.len()
    }

    /// The directories of the runs.
    fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.dir).unwrap().flatten();
        let is_run = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.as_encoded_bytes().starts_with(b"run.")
        };
        entries.map(|entry| entry.path()).filter(is_run).collect()
    }
}

/// What gdb and the programs have said.
fn said(runs: &[PathBuf]) -> Vec<String> {
    let mut said = Vec::new();
    for run in runs {
        for name in ["gdb", "errors"] {
            said.push(fs::read_to_string(run.join(name)).unwrap_or_default());
        }
    }
    said
}
