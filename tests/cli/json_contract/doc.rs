//! `docs/json.md` names every key and every word of the golden answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the page says of each command: the text under the heading that names it.
fn sections() -> BTreeMap<String, String> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/json.md")).unwrap();
    let mut sections = BTreeMap::new();
    for section in page.split("\n## ").skip(1) {
        let (heading, text) = section.split_once('\n').unwrap();
        for command in heading.split(", ") {
            sections.insert(command.trim_matches('`').to_owned(), text.to_owned());
        }
    }
    sections
}

/// The lines of a golden file that show what is on stdout: a key path and a kind. A line
/// without a path shows one more kind of the path above it.
fn shown(golden: &str) -> Vec<(String, String)> {
    let mut shown: Vec<(String, String)> = Vec::new();
    let mut is_stdout = false;
    for line in golden.lines() {
        let Some(line) = line.strip_prefix("  ") else {
            is_stdout = line == "stdout:";
            continue;
        };
        if !is_stdout {
            continue;
        }
        let (path, kind) = if let Some(kind) = line.strip_prefix(' ') {
            (shown.last().unwrap().0.clone(), kind.trim_start())
        } else {
            let (path, kind) = line.split_once(' ').unwrap();
            // A list of answers has the keys of one.
            let path = path.trim_end_matches('?').trim_start_matches("[]");
            (path.trim_start_matches('.').to_owned(), kind.trim())
        };
        shown.push((path, kind.to_owned()));
    }
    shown
}

#[test]
fn the_page_names_every_key_and_every_word() {
    let sections = sections();
    let mut missing = Vec::new();
    let goldens = fs::read_dir(Path::new(ROOT).join("tests/cli/json")).unwrap();
    let mut keys = 0;
    for golden in goldens {
        let golden = golden.unwrap().path();
        if golden
            .extension()
            .is_none_or(|extension| extension != "snap")
        {
            continue;
        }
        let text = fs::read_to_string(&golden).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("$ vtpm-guard "))
            .unwrap();
        let command = golden.file_stem().unwrap().to_str().unwrap();
        let command = sections
            .keys()
            .find(|name| name.replace(' ', "-") == command && line.contains(name.as_str()));
        let Some(command) = command else {
            missing.push(format!("{}: no section", golden.display()));
            continue;
        };
        let section = &sections[command];
        for (path, kind) in shown(&text) {
            keys += 1;
            for word in [path.as_str(), kind.trim_matches('"')] {
                let is_contract = word == path || kind.starts_with('"');
                let is_shown = word.is_empty() || word == "(document)" || !is_contract;
                if !is_shown && !section.contains(&format!("`{word}`")) {
                    missing.push(format!("{command}: `{word}` of {path}"));
                }
            }
        }
    }
    assert!(keys > 500, "{keys}");
    missing.sort();
    missing.dedup();
    assert!(
        missing.is_empty(),
        "docs/json.md lacks:\n{}",
        missing.join("\n")
    );
}
