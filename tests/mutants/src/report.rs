//! What became of the mutants, on stdout.

use crate::mutate::Mutant;
use crate::play::Fate;
use crate::reasons::Reasons;

/// Lists the survivors without a reason, then the table. Returns whether there are none, and no reason is needless.
pub fn print(fates: &[(&Mutant, Fate)], reasons: &Reasons, left_out: usize) -> bool {
    let caught = |fate: &Fate| matches!(fate, Fate::Caught | Fate::TimedOut);
    let (mut explained, mut survived, mut unreached, mut needless) =
        (0, Vec::new(), Vec::new(), Vec::new());
    for (mutant, fate) in fates {
        match (fate, reasons.has(mutant)) {
            (fate, true) if caught(fate) => needless.push(format!("{}\n", mutant.name)),
            (Fate::Caught | Fate::TimedOut, _) => {}
            (_, true) => explained += 1,
            (Fate::Survived { unasked: 0 }, false) => survived.push(described(mutant)),
            (Fate::Survived { unasked }, false) => survived.push(format!(
                "{}    {unasked} more tests reach it, but play for too long\n",
                described(mutant)
            )),
            (Fate::NotReached, false) => unreached.push(described(mutant)),
        }
    }
    list("survived", &survived);
    list("reached by no test of the library", &unreached);
    list(
        "a test notices these: their reasons are not needed any more",
        &needless,
    );
    let timed_out = fates
        .iter()
        .filter(|(_, fate)| matches!(fate, Fate::TimedOut))
        .count();
    let rows = [
        (fates.len(), "mutants"),
        (
            fates.iter().filter(|(_, fate)| caught(fate)).count(),
            "caught",
        ),
        (timed_out, "of these because a test did not end"),
        (explained, "survived, with a reason"),
        (survived.len(), "survived without a reason"),
        (
            unreached.len(),
            "reached by no test of the library, without a reason",
        ),
        (left_out, "left out, of all: they do not compile"),
    ];
    println!();
    for (count, what) in rows {
        println!("{count:>6}  {what}");
    }
    survived.is_empty() && unreached.is_empty() && needless.is_empty()
}

/// Where it is, and its name as reasons.txt takes it.
fn described(mutant: &Mutant) -> String {
    format!("{}:{}\n{}\n", mutant.file, mutant.line, mutant.name)
}

fn list(title: &str, entries: &[String]) {
    if !entries.is_empty() {
        println!("\n{title}:\n\n{}", entries.concat());
    }
}
