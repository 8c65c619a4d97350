//! What README and messages promise, the program keeps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use vtpm_guard::admin::cli::Cli;
use vtpm_guard::verdict::code::Code;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap()
}

#[test]
fn the_readme_lists_every_code_in_the_program_s_words() {
    let rows: Vec<String> = read("README.md")
        .lines()
        .filter(|line| line.starts_with("| VG"))
        .map(str::to_owned)
        .collect();
    let codes: Vec<String> = Code::ALL
        .iter()
        .map(|code| {
            format!(
                "| {} | {} | {} |",
                code.as_str(),
                code.name(),
                code.summary()
            )
        })
        .collect();
    assert_eq!(rows, codes);
}

/// README.md and all of docs/.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    docs.map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain([PathBuf::from("README.md")])
        .collect()
}

#[test]
fn every_page_and_picture_that_a_page_links_is_there() {
    let mut seen = 0;
    let mut missing = Vec::new();
    for page in pages() {
        let text = read(&page);
        let links = text.split("](").skip(1);
        for link in links.filter_map(|rest| rest.split([')', '#']).next()) {
            if link.is_empty() || link.contains("://") {
                continue;
            }
            seen += 1;
            let beside = Path::new(ROOT).join(&page).with_file_name(link);
            if !beside.exists() {
                missing.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(seen > 10, "only {seen} links were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// A command that a text tells people to run: what follows "vtpm-guard" after one of these.
const LEADS: [&str; 3] = [": vtpm-guard ", "`vtpm-guard ", "\nvtpm-guard "];

fn commands_in(text: &str) -> Vec<String> {
    // A string literal that goes on in the next line of the source.
    let text = text.replace("\\\n", "\n");
    LEADS
        .iter()
        .flat_map(|lead| text.split(*lead).skip(1))
        .map(|rest| {
            let words = rest.split_whitespace().take(4);
            words.collect::<Vec<_>>().join(" ")
        })
        .collect()
}

/// Walks down the verbs; what comes after the last one is its arguments.
fn is_known(command: &Command, words: &str) -> bool {
    let mut command = command;
    for word in words.split(' ') {
        let end = word.find(|c: char| !c.is_ascii_lowercase() && c != '-');
        let verb = &word[..end.unwrap_or(word.len())];
        match command.find_subcommand(verb) {
            Some(found) => command = found,
            None => break,
        }
        if end.is_some() {
            break;
        }
    }
    !command.has_subcommands()
}

fn rust_files(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn every_command_that_a_text_names_exists() {
    let cli = Cli::command();
    let mut texts = pages();
    texts.push(PathBuf::from("packaging/config/config.toml"));
    rust_files(&Path::new(ROOT).join("src"), &mut texts);
    let mut seen = 0;
    let mut unknown = Vec::new();
    for file in texts {
        for words in commands_in(&read(&file)) {
            seen += 1;
            if !is_known(&cli, &words) {
                unknown.push(format!("{}: vtpm-guard {words}", file.display()));
            }
        }
    }
    assert!(seen > 40, "only {seen} commands were found in the texts");
    assert!(unknown.is_empty(), "{unknown:#?}");
}
