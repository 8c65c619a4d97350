//! Imports point down only: the table of `src/lib.rs`, held against every file of `src`.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// One source file: which module it belongs to, and its text without comments.
struct Source {
    path: PathBuf,
    /// Its module path from the root of the library: `["key", "keyring", "dir"]`.
    module: Vec<String>,
    code: String,
}

/// The rank of each module that the table names, the lowest layer has 0.
struct Layers(BTreeMap<String, usize>);

impl Layers {
    fn read() -> Self {
        let root = fs::read_to_string(src().join("lib.rs")).unwrap();
        let rows: Vec<_> = root
            .lines()
            .filter(|line| line.starts_with("//! | "))
            .collect();
        let layers = rows.iter().skip(2).rev().enumerate();
        let names = layers.flat_map(|(rank, row)| {
            let names = row.split('`').skip(1).step_by(2);
            names.map(move |name| (name.to_owned(), rank))
        });
        Self(names.collect())
    }

    /// The layer of `a::b::c`: that of the longest beginning that the table names.
    fn of(&self, module: &[String]) -> Option<usize> {
        let beginnings = (1..=module.len()).rev();
        beginnings
            .map(|parts| module[..parts].join("::"))
            .find_map(|name| self.0.get(&name).copied())
    }
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All files of the library: the doors in `src/bin` are programs of their own.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut directories = vec![src()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(path));
            }
        }
    }
    found
}

fn source(path: PathBuf) -> Source {
    let relative = path.strip_prefix(src()).unwrap().with_extension("");
    let parts = relative
        .iter()
        .map(|part| part.to_str().unwrap().to_owned());
    let module = parts
        .filter(|part| part != "mod" && part != "lib")
        .collect();
    let text = fs::read_to_string(&path).unwrap();
    let code: Vec<_> = text
        .lines()
        .map(|line| line.split("//").next().unwrap())
        .collect();
    let code = code.join("\n");
    Source { path, module, code }
}

/// The modules that a source names: after `crate::`, after as many `super::` as lead to the
/// root, and each one of a group in braces.
fn named(source: &Source) -> Vec<Vec<String>> {
    let to_root = "super::".repeat(source.module.len());
    let mut paths = Vec::new();
    for start in ["crate::", to_root.as_str()] {
        if start.is_empty() {
            continue;
        }
        for (at, _) in source.code.match_indices(start) {
            let before = source.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &source.code[at + start.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let group = group.split('}').next().unwrap();
                paths.extend(group.split(',').map(|one| path(one.trim())));
            } else {
                paths.push(path(rest));
            }
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

/// The names, joined by `::`, that `text` begins with.
fn path(text: &str) -> Vec<String> {
    let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let end = text.find(|c| !is_of_path(c)).unwrap_or(text.len());
    let parts = text[..end].split("::").map(str::to_owned);
    parts.filter(|part| !part.is_empty()).collect()
}

/// Whether `code` holds `word` by itself.
fn has_word(code: &str, word: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.split(|c| !is_of_word(c)).any(|found| found == word)
}

#[test]
fn every_module_stands_in_the_table() {
    let layers = Layers::read();
    let root = fs::read_to_string(src().join("lib.rs")).unwrap();
    let declared = root
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod "));
    let mut seen = 0;
    for module in declared.map(|line| line.trim_end_matches(';')) {
        seen += 1;
        let layer = layers.of(&[module.to_owned()]);
        assert!(
            layer.is_some(),
            "src/lib.rs: its table does not say where `{module}` belongs"
        );
    }
    assert!(seen > 15, "src/lib.rs declares its modules another way now");
}

#[test]
fn imports_point_down_only() {
    let layers = Layers::read();
    let mut looked_at = 0;
    for source in sources() {
        let Some(own) = layers.of(&source.module) else {
            continue;
        };
        for module in named(&source) {
            let Some(other) = layers.of(&module) else {
                continue;
            };
            looked_at += 1;
            let same = module[0] == source.module[0];
            let file = source.path.display();
            let other_name = module.join("::");
            assert!(other <= own, "{file} looks up to {other_name}");
            // Siblings may use each other everywhere but at the top.
            let top = layers.0["admin"];
            assert!(
                own < top || other < top || same,
                "{file} knows {other_name}"
            );
        }
    }
    assert!(
        looked_at > 200,
        "the imports are written another way now: {looked_at} found"
    );
}

#[test]
fn the_core_knows_no_library() {
    let is_ours = |name: &str| ["std", "core", "crate", "super", "self"].contains(&name);
    let core = sources().into_iter().filter(|source| {
        let is_test = source.module.iter().any(|part| part == "tests");
        source
            .module
            .first()
            .is_some_and(|first| first == "verdict")
            && !is_test
    });
    let mut looked_at = 0;
    for source in core {
        let modules = submodules(&source);
        for line in source
            .code
            .lines()
            .filter_map(|line| line.trim().strip_prefix("use "))
        {
            looked_at += 1;
            let first = &path(line)[0];
            let file = source.path.display();
            assert!(
                is_ours(first) || modules.contains(first),
                "{file} uses {first}"
            );
        }
        for outside in [
            "fs",
            "process",
            "net",
            "env",
            "SystemTime",
            "Instant",
            "tracing",
        ] {
            let file = source.path.display();
            assert!(
                !has_word(&source.code, outside),
                "{file} reaches for {outside}"
            );
        }
    }
    assert!(
        looked_at > 20,
        "the core is somewhere else now: {looked_at} imports found"
    );
}

/// The modules that a source declares: `use` may begin with one of them.
fn submodules(source: &Source) -> Vec<String> {
    let lines = source.code.lines().map(str::trim);
    let declared = lines.filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    declared
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

#[test]
fn unsafe_code_has_one_address() {
    for source in sources() {
        let is_sys = source.module == ["sys"];
        let is_there = has_word(&source.code, "unsafe") || has_word(&source.code, "unsafe_code");
        assert_eq!(is_sys, is_there, "{}", source.path.display());
    }
}
