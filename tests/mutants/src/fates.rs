//! What became of the mutants that were played, as long as the checkout is the same: a run that was interrupted goes on
//! where it was, and one after a change of the reasons alone plays nothing again.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use crate::Result;
use crate::play::Fate;

/// target/mutants/fates: a line for each mutant, its number and its fate as JSON.
pub struct Fates {
    known: BTreeMap<usize, Fate>,
    file: Mutex<File>,
}

impl Fates {
    pub fn of(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        // The last line of a run that was killed may be half of one: that mutant is played again.
        let line = |line| serde_json::from_str::<(usize, Fate)>(line).ok();
        let known: BTreeMap<usize, Fate> = text.lines().filter_map(line).collect();
        let mut file = File::create(path).map_err(failed)?;
        for fate in &known {
            writeln!(file, "{}", as_json(&fate)?).map_err(failed)?;
        }
        Ok(Self {
            known,
            file: Mutex::new(file),
        })
    }

    /// Before the first run on another checkout.
    pub fn forget(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }

    pub fn of_mutant(&self, number: usize) -> Option<Fate> {
        self.known.get(&number).copied()
    }

    pub fn keep(&self, number: usize, fate: Fate) -> Result<()> {
        let mut file = self.file.lock().map_err(|error| error.to_string())?;
        writeln!(file, "{}", as_json(&(number, fate))?).map_err(|error| error.to_string())
    }
}

fn as_json(line: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(line).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::Fates;
    use crate::play::Fate;

    #[test]
    fn what_was_played_is_known_to_the_next_run_and_half_a_line_is_not() {
        let path = std::env::temp_dir().join(format!("fates-{}", std::process::id()));
        let fates = Fates::of(&path).unwrap();
        fates.keep(7, Fate::Caught).unwrap();
        fates.keep(8, Fate::Survived { unasked: 2 }).unwrap();
        drop(fates);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}[9,\"Cau")).unwrap();

        let fates = Fates::of(&path).unwrap();
        assert_eq!(fates.of_mutant(7), Some(Fate::Caught));
        assert_eq!(fates.of_mutant(8), Some(Fate::Survived { unasked: 2 }));
        assert_eq!(fates.of_mutant(9), None);
        fates.keep(9, Fate::TimedOut).unwrap();
        drop(fates);
        let fates = Fates::of(&path).unwrap();
        assert_eq!(fates.of_mutant(9), Some(Fate::TimedOut));
        fs::remove_file(&path).unwrap();
    }
}
