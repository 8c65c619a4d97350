//! Every row of the table has a test, and every test of the table names rows that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Of this directory, what tests no row.
const NO_ROWS: [&str; 4] = ["mod.rs", "given.rs", "rows.rs", "verdict.rs"];

fn core() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The numbers in this text.
fn numbers(text: &str) -> impl Iterator<Item = u32> {
    let words = text.split(|c: char| !c.is_ascii_digit());
    words.filter_map(|word| word.parse().ok())
}

/// The numbers of the rows of docs/decision-table.md: the first cell of each row.
fn rows_of_the_table() -> Vec<u32> {
    let table = fs::read_to_string(core().join("../docs/decision-table.md")).unwrap();
    let first_cell = |line: &str| line.strip_prefix("| ")?.split(' ').next()?.parse().ok();
    table.lines().filter_map(first_cell).collect()
}

/// The rows that each test names, by `file: test`.
fn rows_of_the_tests() -> Vec<(String, Vec<u32>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(core().join("src/verdict/decide/tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() || NO_ROWS.contains(&&*name) {
            continue;
        }
        let text = fs::read_to_string(path).unwrap();
        let (mut doc, mut is_test) = ("", false);
        for line in text.lines() {
            if line.starts_with("/// Row") {
                doc = line;
            } else if line == "#[test]" {
                is_test = true;
            } else if let Some(rest) = line.strip_prefix("fn ") {
                if is_test {
                    let function = rest.split('(').next().unwrap();
                    found.push((format!("{name}: {function}"), numbers(doc).collect()));
                }
                (doc, is_test) = ("", false);
            }
        }
    }
    found
}

#[test]
fn the_rows_are_numbered_without_a_gap() {
    let rows = rows_of_the_table();
    let last = u32::try_from(rows.len()).unwrap();
    assert_eq!(rows, (1..=last).collect::<Vec<_>>());
}

#[test]
fn every_test_names_rows_and_every_row_has_a_test() {
    let tests = rows_of_the_tests();
    let without: Vec<_> = tests.iter().filter(|(_, rows)| rows.is_empty()).collect();
    assert!(without.is_empty(), "name no row: {without:?}");
    let named: BTreeSet<u32> = tests.into_iter().flat_map(|(_, rows)| rows).collect();
    assert_eq!(named, rows_of_the_table().into_iter().collect());
}
