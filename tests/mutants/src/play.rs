//! Plays each mutant against the tests that reach it, the quickest first, until one fails.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fates::Fates;
use crate::mutate::Mutant;
use crate::processes::End;
use crate::record::Recording;
use crate::{Result, switch, workers};

/// How long the tests of one mutant may take together, as recorded. So one that plays for long (properties, random
/// histories) is asked only if no quicker ones reach the mutant, or if those are few.
const PATIENCE: Duration = Duration::from_secs(30);

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Fate {
    /// A test failed.
    Caught,
    /// A test did not end.
    TimedOut,
    Survived {
        /// How many tests reach it but were not asked, for they take too long.
        unasked: usize,
    },
    /// No test of the library reaches it.
    NotReached,
}

/// The fate of each mutant: those that are not known yet are played.
pub fn each<'a>(
    mutants: &[&'a Mutant],
    recording: &Recording,
    fates: &Fates,
) -> Result<Vec<(&'a Mutant, Fate)>> {
    workers::each("playing", mutants, |mutant| {
        if let Some(known) = fates.of_mutant(mutant.number) {
            return Ok((*mutant, known));
        }
        let fate = one(mutant, recording)?;
        fates.keep(mutant.number, fate)?;
        Ok((*mutant, fate))
    })
}

fn one(mutant: &Mutant, recording: &Recording) -> Result<Fate> {
    let number = mutant.number.to_string();
    let mut reaching = recording.reaching(mutant.number).peekable();
    if reaching.peek().is_none() {
        return Ok(Fate::NotReached);
    }
    let mut asked = Duration::ZERO;
    let mut unasked = 0;
    for recorded in reaching {
        if !asked.is_zero() && asked + recorded.took > PATIENCE {
            unasked += 1;
            continue;
        }
        asked += recorded.took;
        // Much longer than it took: the machine may have more to do now.
        let limit = Duration::from_secs(20 + 3 * recorded.took.as_secs());
        match recorded
            .test
            .play((switch::ON, Path::new(&number)), limit)?
            .0
        {
            End::Failed => return Ok(Fate::Caught),
            End::TimedOut => return Ok(Fate::TimedOut),
            End::Passed => {}
        }
    }
    Ok(Fate::Survived { unasked })
}
