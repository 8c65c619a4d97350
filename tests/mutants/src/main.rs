//! `./dev mutants`: changes the guard in small ways (mutants), and says which of them no test notices.
//!
//! To build the tests again for each mutant takes a day. So all mutants are in one build, each behind a switch
//! (`switch`) that a number in the environment turns on:
//!
//! 1. `tree` copies the checkout to target/mutants/tree, `mutate` rewrites what is under test there.
//! 2. `build` builds the tests of the library, and leaves out the mutants that do not compile.
//! 3. `record` plays each test once, in a process of its own: which mutants does it reach?
//! 4. `play` plays each mutant against the tests that reach it, the quickest first, until one fails.
//! 5. `report` says what became of them. One that survives needs a reason (`reasons`).
//!
//! As long as nothing changes but the reasons, all of it is kept from one run to the next.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use crate::fates::Fates;
use crate::kept::Kept;
use crate::mutate::{Mutant, Mutator};
use crate::reasons::Reasons;
use crate::tree::{Sources, Tree};

mod blame;
mod build;
mod fates;
mod kept;
mod mutate;
mod play;
mod processes;
mod reasons;
mod record;
mod report;
mod switch;
mod tree;
mod workers;

/// Anything that ends a run, as a sentence.
type Result<T> = std::result::Result<T, String>;

/// What is under test: the directories, each with that of its crate's modules.
const UNDER_TEST: [(&str, &str); 3] = [
    ("core/src/verdict/", "core/src/"),
    ("src/guard/", "src/"),
    ("src/manage/", "src/"),
];

/// Where the reasons are, in a checkout.
const REASONS: &str = "tests/mutants/reasons.txt";

/// What became of those that were played, in target/mutants.
const FATES: &str = "fates";

fn main() -> ExitCode {
    let what: Vec<String> = std::env::args().skip(1).collect();
    let ended = match &*what {
        [only] if only == "--reasons" => judge_reasons().map(|()| true),
        what => run(what),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("mutants: {error}");
            ExitCode::from(2)
        }
    }
}

/// Plays nothing: each reason must be one for a mutant that there is.
fn judge_reasons() -> Result<()> {
    let tree = Tree::copied(Path::new("target/mutants").join("tree"))?;
    let (_, every) = mutated(&tree, &BTreeSet::new())?;
    Reasons::read(Path::new(REASONS))?.all_match(&every)?;
    println!("{} mutants; each reason is for one of them", every.len());
    Ok(())
}

/// One run, in the checkout that is the working directory. Returns whether every survivor has a reason.
fn run(what: &[String]) -> Result<bool> {
    let here = Path::new("target/mutants");
    let tree = Tree::copied(here.join("tree"))?;
    let mut kept = Kept::of(here.join("kept.json"), tree.fingerprint());

    // A reason that is spelled wrongly is said in a second, before anything is built.
    let reasons = Reasons::read(Path::new(REASONS))?;
    let (_, every) = mutated(&tree, &BTreeSet::new())?;
    reasons.all_match(&every)?;
    if !every.iter().any(|mutant| mutant.is_one_of(what)) {
        return Err(format!("nothing is named {}", what.join(", ")));
    }

    let (mutants, programs) = loop {
        let (sources, mutants) = mutated(&tree, &kept.left_out)?;
        tree.write(sources)?;
        match build::tests(&tree, &here.join("target"), &mutants)? {
            build::Built::Tests(programs) => break (mutants, programs),
            build::Built::DoNotCompile(names) => {
                println!("{} mutants do not compile, and are left out", names.len());
                kept.left_out.extend(names);
            }
        }
    };
    kept.save()?;

    if kept.recording.is_none() {
        kept.recording = Some(record::every_test(&programs, &std::env::temp_dir())?);
        kept.save()?;
    }
    let recording = kept.recording.as_ref().ok_or("nothing was recorded")?;

    let asked: Vec<&Mutant> = mutants
        .iter()
        .filter(|mutant| mutant.is_one_of(what))
        .collect();
    let fates = Fates::of(&here.join(FATES), tree.fingerprint())?;
    let fates = play::each(&asked, recording, &fates)?;
    Ok(report::print(&fates, &reasons, kept.left_out.len()))
}

/// The sources under test with all mutants but those, and the mutants.
fn mutated(tree: &Tree, left_out: &BTreeSet<String>) -> Result<(Sources, Vec<Mutant>)> {
    let mut mutator = Mutator::leaving_out(left_out);
    let mut sources = Sources::new();
    for (path, text) in tree.sources() {
        if let Some(module) = module_under_test(path) {
            let text = mutator
                .mutate(path, &module, text)
                .map_err(|error| format!("{path}: {error}"))?;
            sources.insert(path.clone(), text);
        }
    }
    let mutants = mutator.into_mutants();
    for (path, text) in switch::appended_to(mutants.len()) {
        let original = tree
            .sources()
            .get(path)
            .ok_or_else(|| format!("{path} is missing"))?;
        sources.insert(path.to_owned(), format!("{original}{text}"));
    }
    Ok((sources, mutants))
}

/// The module that a file of the checkout is, if it is under test: `verdict::decide` for
/// `core/src/verdict/decide/mod.rs`. Tests are not.
fn module_under_test(path: &str) -> Option<String> {
    let (_, root) = UNDER_TEST
        .iter()
        .find(|(directory, _)| path.starts_with(directory))?;
    let module = path.strip_prefix(root)?.strip_suffix(".rs")?;
    let module = module.strip_suffix("/mod").unwrap_or(module);
    let names: Vec<&str> = module.split('/').collect();
    (!names.contains(&"tests")).then(|| names.join("::"))
}

#[cfg(test)]
mod tests {
    use super::module_under_test;

    #[test]
    fn a_file_under_test_is_named_by_its_module() {
        let named = |path| module_under_test(path);
        assert_eq!(
            named("core/src/verdict/decide/mod.rs").as_deref(),
            Some("verdict::decide")
        );
        assert_eq!(named("src/guard/lease.rs").as_deref(), Some("guard::lease"));
        assert_eq!(named("src/guard/lease/tests.rs"), None);
        assert_eq!(named("core/src/verdict/decide/tests/rows.rs"), None);
        assert_eq!(named("src/cli/mod.rs"), None);
    }
}
