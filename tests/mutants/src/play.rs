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
const PATIENCE: Duration = Duration::from_secs(120);

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
        if let Some(known) = fates.of_mutant(mutant) {
            return Ok((*mutant, known));
        }
        let (fate, test) = one(mutant, recording, fates.noticed_by(mutant))?;
        fates.keep(mutant, fate, test)?;
        Ok((*mutant, fate))
    })
}

/// Its fate, and the test that noticed it. `before`: the test that did so the last time, which is asked first.
fn one<'a>(
    mutant: &Mutant,
    recording: &'a Recording,
    before: Option<&str>,
) -> Result<(Fate, Option<&'a str>)> {
    let number = mutant.number.to_string();
    let mut reaching: Vec<_> = recording.reaching(mutant.number).collect();
    if reaching.is_empty() {
        return Ok((Fate::NotReached, None));
    }
    // A stable sort: the quickest stay first behind it.
    reaching.sort_by_key(|recorded| before != Some(recorded.test.name.as_str()));
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
            End::Failed => return Ok((Fate::Caught, Some(&recorded.test.name))),
            End::TimedOut => return Ok((Fate::TimedOut, Some(&recorded.test.name))),
            End::Passed => {}
        }
    }
    Ok((Fate::Survived { unasked }, None))
}
