//! What is in the memory of a program as it ends: gdb stops it there, and writes it down.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::traces::Secrets;

/// Where a program's memory is written, and by what.
pub(crate) struct Dump {
    /// As this process reaches it.
    dir: PathBuf,
}

/// What a program had in its memory as it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AtItsEnd {
    pub(crate) status: i32,
    /// The names of the secrets that are there.
    pub(crate) found: Vec<String>,
}

impl Dump {
    /// Into this directory.
    pub(crate) fn into(dir: &Path) -> Self {
        fs::write(dir.join("dump.py"), include_str!("dump.py")).unwrap();
        Self {
            dir: dir.to_owned(),
        }
    }

    /// The script that runs a program so, for those who see the directory under this path.
    pub(crate) fn script(program: &str, directory: &str) -> String {
        let script = include_str!("around").replace("@TO@", directory);
        script.replace("@PROGRAM@", program)
    }

    /// Looks for secrets, once the program has ended; what gdb said if it does not.
    pub(crate) fn search(&self, secrets: &Secrets) -> Result<AtItsEnd, String> {
        let end = Instant::now() + Duration::from_secs(30);
        let (ended, memory) = (self.dir.join("ended"), self.dir.join("memory"));
        while !ended.exists() {
            if Instant::now() > end {
                let said = ["gdb", "errors"].map(|name| fs::read_to_string(self.dir.join(name)));
                return Err(format!("{said:#?}"));
            }
            sleep(Duration::from_millis(20));
        }
        let found = secrets.in_bytes(&fs::read(&memory).unwrap());
        let at_its_end = AtItsEnd {
            status: fs::read_to_string(&ended).unwrap().parse().unwrap(),
            found: found.into_iter().map(str::to_owned).collect(),
        };
        fs::remove_file(ended).unwrap();
        fs::remove_file(memory).unwrap();
        Ok(at_its_end)
    }
}
