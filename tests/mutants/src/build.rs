//! Builds the tests of the library and of its core, all mutants in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::Result;
use crate::blame::Regions;
use crate::mutate::Mutant;
use crate::tree::Tree;

/// What a build ends with.
pub enum Built {
    Tests(Vec<Program>),
    /// The names of mutants that are not Rust, such as a `-` of strings. The compiler stops at the first kind of
    /// error, so there may be more.
    DoNotCompile(BTreeSet<String>),
}

/// The tests of a package.
pub struct Program {
    pub path: PathBuf,
    /// Where cargo would start it.
    pub directory: PathBuf,
}

/// A line of cargo's, as far as it matters here.
#[derive(Deserialize)]
struct Line {
    message: Option<Message>,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Message {
    level: String,
    rendered: Option<String>,
    spans: Vec<Place>,
}

#[derive(Deserialize)]
struct Place {
    file_name: PathBuf,
    line_start: usize,
    column_start: usize,
    is_primary: bool,
}

/// Builds them, unless a mutant keeps them from compiling.
pub fn tests(tree: &Tree, target: &Path, mutants: &[Mutant]) -> Result<Built> {
    let target = std::path::absolute(target).map_err(|error| error.to_string())?;
    let built = Command::new("cargo")
        .args([
            "test",
            "--locked",
            "--no-run",
            "--lib",
            "--package=vtpm-guard-core",
            "--package=vtpm-guard",
        ])
        .arg("--message-format=json")
        .env("CARGO_TARGET_DIR", target)
        .current_dir(tree.root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let lines: Vec<Line> = serde_json::Deserializer::from_slice(&built.stdout)
        .into_iter()
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| format!("what cargo says of the build: {error}"))?;
    if built.status.success() {
        return Ok(Built::Tests(
            lines.into_iter().filter_map(program).collect(),
        ));
    }
    let errors: Vec<Message> = lines
        .into_iter()
        .filter_map(|line| line.message)
        .filter(|message| message.level == "error" && !message.spans.is_empty())
        .collect();
    let mut names = BTreeSet::new();
    for error in &errors {
        names.extend(to_blame(tree, error)?.map(|number| mutants[number].name.clone()));
    }
    if names.is_empty() {
        let said: Vec<String> = errors
            .into_iter()
            .filter_map(|error| error.rendered)
            .collect();
        return Err(format!(
            "the tests do not build, and no mutant is to blame\n{}",
            said.concat()
        ));
    }
    Ok(Built::DoNotCompile(names))
}

fn program(line: Line) -> Option<Program> {
    let directory = line.manifest_path?.parent()?.to_owned();
    Some(Program {
        path: line.executable?,
        directory,
    })
}

/// The mutant that an error comes from: that at its main place, else at one that belongs to it.
fn to_blame(tree: &Tree, error: &Message) -> Result<Option<usize>> {
    let (main, others): (Vec<&Place>, Vec<&Place>) =
        error.spans.iter().partition(|place| place.is_primary);
    for place in main.into_iter().chain(others) {
        // A place in a library or a macro of another crate has no mutant.
        let Ok(text) = fs::read_to_string(tree.root().join(&place.file_name)) else {
            continue;
        };
        let regions = Regions::of(&text)
            .map_err(|error| format!("{}: {error}", place.file_name.display()))?;
        let mutant = regions.mutant_at(place.line_start, place.column_start);
        if mutant.is_some() {
            return Ok(mutant);
        }
    }
    Ok(None)
}
