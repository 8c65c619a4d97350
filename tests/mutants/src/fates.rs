//! What became of the mutants that were played. As long as the checkout is the same, a run that was interrupted goes on
//! where it was, and one after a change of the reasons alone plays nothing again. After another change each is played
//! again, first against the test that noticed it before.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::mutate::Mutant;
use crate::play::Fate;

/// target/mutants/fates: a line of JSON for each mutant that was played.
pub struct Fates {
    /// By their names.
    known: BTreeMap<String, Known>,
    /// The copy that is played now.
    fingerprint: u64,
    file: Mutex<File>,
}

#[derive(Deserialize, Serialize)]
struct Known {
    name: String,
    fingerprint: u64,
    fate: Fate,
    /// The test that noticed it.
    test: Option<String>,
}

impl Fates {
    pub fn of(path: &Path, fingerprint: u64) -> Result<Self> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(failed(error)),
        };
        // The last line of a run that was killed may be half of one: that mutant is played again.
        let line = |line| serde_json::from_str::<Known>(line).ok();
        let lines = text.lines().filter_map(line);
        let known: BTreeMap<String, Known> =
            lines.map(|known| (known.name.clone(), known)).collect();
        let mut file = File::create(path).map_err(failed)?;
        for known in known.values() {
            writeln!(file, "{}", as_json(known)?).map_err(failed)?;
        }
        Ok(Self {
            known,
            fingerprint,
            file: Mutex::new(file),
        })
    }

    /// What became of it in this checkout.
    pub fn of_mutant(&self, mutant: &Mutant) -> Option<Fate> {
        let known = self.known.get(&mutant.name)?;
        (known.fingerprint == self.fingerprint).then_some(known.fate)
    }

    /// The test that noticed it last, in whatever checkout.
    pub fn noticed_by(&self, mutant: &Mutant) -> Option<&str> {
        self.known.get(&mutant.name)?.test.as_deref()
    }

    pub fn keep(&self, mutant: &Mutant, fate: Fate, test: Option<&str>) -> Result<()> {
        let known = Known {
            name: mutant.name.clone(),
            fingerprint: self.fingerprint,
            fate,
            test: test.map(str::to_owned),
        };
        let mut file = self.file.lock().map_err(|error| error.to_string())?;
        writeln!(file, "{}", as_json(&known)?).map_err(|error| error.to_string())
    }
}

fn as_json(known: &Known) -> Result<String> {
    serde_json::to_string(known).map_err(|error| error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::Fates;
    use crate::mutate::Mutant;
    use crate::play::Fate;

    fn mutant(name: &str) -> Mutant {
        Mutant {
            number: 1,
            file: "src/guard/lease.rs".to_owned(),
            line: 1,
            name: name.to_owned(),
        }
    }

    #[test]
    fn what_was_played_is_known_to_the_next_run_and_half_a_line_is_not() {
        let path = std::env::temp_dir().join(format!("fates-{}", std::process::id()));
        let (caught, survived, half) = (mutant("a"), mutant("b"), mutant("c"));
        let fates = Fates::of(&path, 1).unwrap();
        fates.keep(&caught, Fate::Caught, Some("x::y")).unwrap();
        fates
            .keep(&survived, Fate::Survived { unasked: 2 }, None)
            .unwrap();
        drop(fates);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{{\"name\":\"c")).unwrap();

        let fates = Fates::of(&path, 1).unwrap();
        assert_eq!(fates.of_mutant(&caught), Some(Fate::Caught));
        assert_eq!(
            fates.of_mutant(&survived),
            Some(Fate::Survived { unasked: 2 })
        );
        assert_eq!(fates.of_mutant(&half), None);
        drop(fates);

        let fates = Fates::of(&path, 2).unwrap();
        assert_eq!(fates.of_mutant(&caught), None, "of another checkout");
        assert_eq!(fates.noticed_by(&caught), Some("x::y"));
        fs::remove_file(&path).unwrap();
    }
}
