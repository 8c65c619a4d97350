//! Plays each test once, without any mutant: which mutants does it reach, and how long does it take?

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::build::Program;
use crate::processes::{End, Test};
use crate::{Result, switch, workers};

/// No test takes longer; one that does is broken.
const LIMIT: Duration = Duration::from_secs(600);

/// What is known of the tests.
#[derive(Deserialize, Serialize)]
pub struct Recording {
    /// The quickest first.
    tests: Vec<Recorded>,
    /// For each mutant, the places of those that reach it, the quickest first.
    reached: BTreeMap<usize, Vec<usize>>,
}

/// A test that passes.
#[derive(Deserialize, Serialize)]
pub struct Recorded {
    pub test: Test,
    pub took: Duration,
}

impl Recording {
    /// The tests that reach a mutant, the quickest first.
    pub fn reaching(&self, mutant: usize) -> impl Iterator<Item = &Recorded> {
        let places = self
            .reached
            .get(&mutant)
            .map(Vec::as_slice)
            .unwrap_or_default();
        places.iter().filter_map(|place| self.tests.get(*place))
    }
}

/// Plays every test of these programs; all must pass.
pub fn every_test(programs: &[Program], scratch: &Path) -> Result<Recording> {
    let mut tests = Vec::new();
    for program in programs {
        tests.extend(tests_of(program)?);
    }
    let numbered: Vec<(usize, &Test)> = tests.iter().enumerate().collect();
    let played = workers::each("recording", &numbered, |(number, test)| {
        let reached = scratch.join(format!("reached-{number}"));
        let first = play(test, &reached)?;
        // One that waits for something may fail on a busy machine.
        if first.is_some() {
            Ok(first)
        } else {
            play(test, &reached)
        }
    })?;
    let mut recorded = Vec::new();
    let mut failed = Vec::new();
    for (test, played) in tests.into_iter().zip(played) {
        match played {
            Some((took, mutants)) => recorded.push((Recorded { test, took }, mutants)),
            None => failed.push(test.name),
        }
    }
    if !failed.is_empty() {
        return Err(format!(
            "these tests fail without any mutant:\n{}",
            failed.join("\n")
        ));
    }
    recorded.sort_by_key(|(recorded, _)| recorded.took);
    let mut recording = Recording {
        tests: Vec::new(),
        reached: BTreeMap::new(),
    };
    for (place, (test, mutants)) in recorded.into_iter().enumerate() {
        recording.tests.push(test);
        for mutant in mutants {
            recording.reached.entry(mutant).or_default().push(place);
        }
    }
    Ok(recording)
}

/// How long a test took, and the mutants that it reached; none if it failed.
fn play(test: &Test, reached: &Path) -> Result<Option<(Duration, Vec<usize>)>> {
    let (end, time) = test.play((switch::REACHED, reached), LIMIT)?;
    let mutants = match fs::read_to_string(reached) {
        Ok(list) => numbers(&list)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(format!("{}: {error}", reached.display())),
    };
    Ok((end == End::Passed).then_some((time, mutants)))
}

/// Each once, although each process that a test starts writes its own.
fn numbers(text: &str) -> Result<Vec<usize>> {
    let mut numbers: Vec<usize> = text
        .lines()
        .map(|line| line.parse().map_err(|_| format!("{line:?} is no mutant")))
        .collect::<Result<_>>()?;
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn tests_of(program: &Program) -> Result<Vec<Test>> {
    let listed = Command::new(&program.path)
        .args(["--list", "--format=terse"])
        .current_dir(&program.directory)
        .output()
        .map_err(|error| format!("{}: {error}", program.path.display()))?;
    let list = String::from_utf8_lossy(&listed.stdout);
    let names = list.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names
        .map(|name| Test {
            program: program.path.clone(),
            directory: program.directory.clone(),
            name: name.to_owned(),
        })
        .collect())
}
