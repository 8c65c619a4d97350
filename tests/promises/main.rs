//! What README and messages promise, the program keeps.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use vtpm_guard::internals::messages::explain;
use vtpm_guard::internals::verdict::code::Code;

use crate::checkout::in_backticks;
use crate::command_line::{command_lines, is_command, names_a_command, parsed};

mod checkout;
mod command_line;
mod hints;
mod units;

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

#[test]
fn the_troubleshooting_page_knows_every_code() {
    let page = read("docs/troubleshooting.md");
    let row = |code: &&Code| page.contains(&format!("\n| {} | ", code.as_str()));
    let missing: Vec<_> = Code::ALL.iter().filter(|code| !row(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The pages at the top and all of docs/.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(Path::new(ROOT).join("docs")).unwrap();
    docs.map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .chain(
            [
                "README.md",
                "CONTRIBUTING.md",
                "SECURITY.md",
                "RELEASING.md",
                "packaging/README.md",
            ]
            .map(PathBuf::from),
        )
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

/// The string literals of a Rust source, with a digit in place of each format argument.
/// Byte strings are not text.
fn literals(source: &str) -> Vec<String> {
    let mut literals = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (before, behind) = rest.split_at(at);
        if let Some(comment) = behind.strip_prefix("//") {
            rest = comment.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(char) = behind
            .strip_prefix("'\"'")
            .or(behind.strip_prefix("'\\\"'"))
        {
            rest = char;
        } else if let Some(body) = behind.strip_prefix('"') {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let is_raw = before.trim_end_matches('#').ends_with('r');
            let is_bytes = before.ends_with('b') || before.trim_end_matches('#').ends_with("br");
            let (text, behind) = if is_raw {
                body.split_once(&format!("\"{}", "#".repeat(hashes)))
                    .unwrap()
            } else {
                let end = end_of_literal(body);
                (&body[..end], &body[end + 1..])
            };
            if !is_bytes {
                literals.push(filled(text));
            }
            rest = behind;
        } else {
            rest = &behind[1..];
        }
    }
    literals
}

fn end_of_literal(body: &str) -> usize {
    let mut escaped = false;
    let end = body.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    });
    end.unwrap()
}

/// A literal as it is printed.
fn filled(text: &str) -> String {
    let mut joined = String::new();
    for part in text.split("\\\n") {
        let part = if joined.is_empty() {
            part
        } else {
            part.trim_start()
        };
        joined.push_str(part);
    }
    let mut filled = String::new();
    let mut rest = joined.replace("\\\"", "\"").replace("\\n", "\n");
    while let Some((before, behind)) = rest.split_once('{') {
        filled.push_str(before);
        let Some((_, behind)) = behind.split_once('}') else {
            break;
        };
        filled.push('1');
        rest = behind.to_owned();
    }
    filled + &rest
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
fn every_command_that_a_text_names_parses() {
    let mut texts: Vec<(PathBuf, String)> = pages()
        .into_iter()
        .chain([
            PathBuf::from("packaging/config/config.toml"),
            PathBuf::from("packaging/hook.sh"),
        ])
        .map(|page| (page.clone(), read(page)))
        .collect();
    let mut sources = Vec::new();
    rust_files(&Path::new(ROOT).join("src"), &mut sources);
    for file in sources {
        let all = literals(&read(&file));
        texts.extend(all.into_iter().map(|text| (file.clone(), text)));
    }
    let mut seen = 0;
    let mut unknown = Vec::new();
    for (file, text) in texts {
        for line in command_lines(&text) {
            if !is_command(&line) {
                continue;
            }
            seen += 1;
            if let Err(error) = parsed(&line) {
                unknown.push(format!("{}: {error}", file.display()));
            }
        }
    }
    assert!(seen > 100, "only {seen} commands were found in the texts");
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
}

/// Where a command line may be written out.
const MAY_NAME_COMMANDS: [&str; 2] = [
    // The table itself.
    "src/messages/command.rs",
    // The description of a staged secret in libvirt, by which `unstage` knows it.
    "src/libvirt/secret/definition.rs",
];

#[test]
fn command_lines_are_built_in_one_place() {
    let mut sources = Vec::new();
    rust_files(&Path::new(ROOT).join("src"), &mut sources);
    let mut elsewhere = Vec::new();
    for source in sources {
        let file = source.strip_prefix(ROOT).unwrap().to_str().unwrap();
        let is_test = file.ends_with("/tests.rs") || file.contains("/tests/");
        let mut exceptions = MAY_NAME_COMMANDS.iter();
        if is_test || exceptions.any(|exception| file.starts_with(exception)) {
            continue;
        }
        let text = read(file);
        let begins = ["\n#[cfg(test)]\n#[allow", "\n#[cfg(test)]\nmod tests {"];
        let tests = begins
            .into_iter()
            .filter_map(|begin| text.find(begin))
            .min();
        let program = &text[..tests.unwrap_or(text.len())];
        let named = literals(program).into_iter();
        let named = named.filter(|text| names_a_command(text));
        elsewhere.extend(named.map(|text| format!("{file}: {text}")));
    }
    assert!(elsewhere.is_empty(), "{}", elsewhere.join("\n"));
}

/// The text of every Rust file below this directory.
fn sources(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &sources(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).unwrap();
        }
    }
    text
}

/// The command lines in the code blocks of a page, word by word.
fn code(page: &str) -> Vec<Vec<String>> {
    let mut is_code = false;
    let mut lines = Vec::new();
    for line in read(page).lines().map(str::trim) {
        if line.starts_with("```") {
            is_code = !is_code;
        } else if is_code {
            lines.push(line.split(' ').map(str::to_owned).collect());
        }
    }
    lines
}

/// The files that a line of the installation by hand makes.
fn installed(line: &[String]) -> Vec<String> {
    let words: Vec<_> = line.iter().map(String::as_str).collect();
    let (sources, target) = match words[..] {
        ["install", "-m", _, ref sources @ .., target] => (sources.to_vec(), target),
        ["install", "-D", "-m", _, source, target] | ["cp", "-P" | "-Pn", source, target] => {
            (vec![source], target)
        }
        ["packaging/selinux/build", target, ..] => return vec![target.to_owned()],
        _ => return Vec::new(),
    };
    if !target.ends_with('/') {
        return vec![target.to_owned()];
    }
    let names = sources.iter().flat_map(|source| {
        let (directory, name) = source.rsplit_once('/').unwrap();
        let Some(prefix) = name.strip_suffix('*') else {
            return vec![name.to_owned()];
        };
        let entries = fs::read_dir(directory).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(prefix)).collect()
    });
    names.map(|name| format!("{target}{name}")).collect()
}

#[test]
fn what_is_installed_by_hand_is_removed_by_hand() {
    let made = code("docs/install.md")
        .iter()
        .flat_map(|line| installed(line))
        .collect::<Vec<_>>();
    assert!(made.len() >= 11, "{made:?}");
    let page = read("docs/uninstall.md");
    let removed: BTreeSet<_> = page.split([' ', '\n', '`', ',']).collect();
    let left: Vec<_> = made
        .iter()
        .filter(|file| !removed.contains(file.as_str()))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The names of the functions of a source, and of those that are tests: what tests call is none.
fn functions(source: &str) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let (mut all, mut tests) = (BTreeSet::new(), BTreeSet::new());
    let mut is_test = false;
    for line in source.lines().map(str::trim) {
        is_test |= line == "#[test]";
        let words = line
            .strip_prefix("fn ")
            .or_else(|| Some(line.split_once(" fn ")?.1));
        let Some(words) = words.filter(|_| !line.starts_with("//")) else {
            continue;
        };
        let end = words.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &words[..end.unwrap_or(words.len())];
        all.insert(name);
        if std::mem::take(&mut is_test) {
            tests.insert(name);
        }
    }
    (all, tests)
}

#[test]
fn what_a_test_calls_is_no_test() {
    let source = "fn a() {}\n    #[test]\n    #[ignore = \"why\"]\n    fn b() {\n}\npub(crate) fn c() {\n // fn d()\n}";
    let (all, tests) = functions(source);
    assert_eq!(all, BTreeSet::from(["a", "b", "c"]));
    assert_eq!(tests, BTreeSet::from(["b"]));
}

/// Whether a word of a page may be the name of a test.
fn may_be_a_test(word: &str) -> bool {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.matches('_').count() > 2 && word.chars().all(is_part)
}

/// Other things with such names: settings of others, and modules.
const NO_TESTS: [&str; 2] = ["life_of_a_key", "state_in_a_file"];

#[test]
fn every_test_that_a_page_names_is_there_and_is_a_test() {
    let code: String = ["core/src", "src", "tests", "kms", "stores"]
        .iter()
        .map(|directory| sources(&Path::new(ROOT).join(directory)))
        .collect();
    let (functions, tests) = functions(&code);
    // Metrics, keys of JSON and variables of packages have such names, too.
    let is_word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let packaging = all_text(&Path::new(ROOT).join("packaging"));
    let others: BTreeSet<_> = code
        .split(is_word)
        .chain(packaging.split(is_word))
        .collect();
    let contract =
        ["docs/decision-table.md", "docs/invariants.md"].map(|page| Path::new(ROOT).join(page));
    let (mut seen, mut missing) = (0, Vec::new());
    for page in pages() {
        for span in in_backticks(&read(&page)) {
            let name = span.rsplit("::").next().unwrap();
            if !may_be_a_test(name) || NO_TESTS.contains(&name) {
                continue;
            }
            let may_be_other = !contract.contains(&page) && !functions.contains(name);
            seen += usize::from(tests.contains(name));
            let is_there = tests.contains(name) || may_be_other && others.contains(name);
            if !is_there {
                missing.push(format!("{}: {name}", page.display()));
            }
        }
    }
    assert!(seen > 100, "only {seen} tests were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// The text of all files below a directory.
fn all_text(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &all_text(&path);
        } else if path.is_file() {
            text += &String::from_utf8_lossy(&fs::read(&path).unwrap());
        }
    }
    text
}

/// What people type into a search after a firmware update or a repair.
#[test]
fn a_cleared_or_replaced_tpm_is_found_by_the_words_that_people_search_for() {
    let explained = format!("{:?}", explain(Code::ProviderSealed));
    for text in [read("docs/recovery.md"), explained] {
        for word in ["cleared", "replaced", "mainboard", "firmware", "TPM 2.0"] {
            assert!(text.contains(word), "{word}");
        }
    }
}
