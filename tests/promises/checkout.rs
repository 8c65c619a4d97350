//! What the pages and the workflow for contributors say about a checkout: `./dev`, `hooks/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{ROOT, pages, read, rust_files};

/// The verbs of `./dev`, from its help.
fn verbs() -> BTreeSet<String> {
    let help = Command::new(Path::new(ROOT).join("dev"))
        .arg("help")
        .output()
        .unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    help.lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_verb_of_dev_that_a_page_or_the_workflow_names_is_there() {
    let verbs = verbs();
    let workflow = Path::new(".github/workflows/ci.yml").to_owned();
    let run = Path::new(".ci/run").to_owned();
    let mut named = BTreeSet::new();
    for page in pages().into_iter().chain([workflow, run]) {
        let text = read(&page);
        let after = text.split("./dev ").skip(1);
        let words = after.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
        named.extend(words.filter_map(|mut words| words.next().map(str::to_owned)));
    }
    named.remove("help");
    named.remove("");
    let unknown: Vec<_> = named.difference(&verbs).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {verbs:?}");
    assert!(named.contains("test") && named.contains("msrv"));
}

/// What a page has in backticks, without its code blocks.
pub(crate) fn in_backticks(page: &str) -> Vec<String> {
    let mut is_block = false;
    let prose = page.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_block ^= is_fence;
        !is_block && !is_fence
    });
    let prose = prose.collect::<Vec<_>>().join("\n");
    let spans = prose.split('`').skip(1).step_by(2);
    spans.map(str::to_owned).collect()
}

/// A path, or each that braces stand for: `a/{b,c}.rs`.
fn expanded(path: &str) -> Vec<String> {
    let braces = path
        .split_once('{')
        .and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    let Some((before, (words, after))) = braces else {
        return vec![path.to_owned()];
    };
    let words = words.split(',');
    words.map(|word| format!("{before}{word}{after}")).collect()
}

/// Whether a part of a path stands for others: `kms/KIND`, `kms/*`.
fn has_placeholder(path: &str) -> bool {
    let is_placeholder = |part: &str| {
        part.contains('*') || part.len() > 1 && part.chars().all(|c| c.is_ascii_uppercase())
    };
    path.split('/').any(is_placeholder)
}

#[test]
fn every_file_of_the_checkout_that_a_page_names_is_there() {
    let root = fs::read_dir(ROOT).unwrap().map(|entry| entry.unwrap());
    let directories: Vec<_> = root
        .filter(|entry| entry.path().is_dir() && entry.file_name() != "target")
        .map(|entry| format!("{}/", entry.file_name().to_str().unwrap()))
        .collect();
    let is_here = |word: &&str| directories.iter().any(|name| word.starts_with(name));
    let mut seen = 0;
    let mut missing = Vec::new();
    for page in pages() {
        for span in in_backticks(&read(&page)) {
            for path in span.split_whitespace().filter(is_here).flat_map(expanded) {
                seen += 1;
                if !has_placeholder(&path) && !Path::new(ROOT).join(&path).exists() {
                    missing.push(format!("{}: {path}", page.display()));
                }
            }
        }
    }
    assert!(seen > 100, "only {seen} paths were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// `Facts::effective_state`, `guard::commit`: what contributors look for.
#[test]
fn every_item_of_the_code_that_a_page_for_contributors_names_is_there() {
    let mut code = String::new();
    let mut modules = BTreeSet::new();
    for directory in ["src", "core/src", "kms", "stores", "tests"] {
        let mut files = Vec::new();
        rust_files(&Path::new(ROOT).join(directory), &mut files);
        for file in files {
            code += &read(&file);
            let parts = file.to_str().unwrap().split('/');
            modules.extend(parts.map(|part| part.trim_end_matches(".rs").to_owned()));
        }
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words: BTreeSet<_> = code.split(|c| !is_part(c)).collect();
    let mut seen = 0;
    let mut missing = Vec::new();
    for page in [
        "docs/architecture.md",
        "docs/security-review.md",
        "CONTRIBUTING.md",
    ] {
        for span in in_backticks(&read(page)) {
            let items = span.split(|c| !is_part(c) && c != ':');
            for item in items.filter(|item| item.contains("::")) {
                seen += 1;
                let is_there = |part: &str| words.contains(part) || modules.contains(part);
                if !item.split("::").all(is_there) {
                    missing.push(format!("{page}: {item}"));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} items were found");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn the_page_for_many_hosts_lists_every_alert_with_its_severity() {
    let rules = read("packaging/monitoring/vtpm-guard.rules.yml");
    let value = |text: &str, key: &str| {
        let (_, rest) = text.split_once(key).unwrap();
        rest.lines().next().unwrap().trim().to_owned()
    };
    let in_rules: BTreeSet<_> = rules
        .split("- alert:")
        .skip(1)
        .map(|rule| (value(rule, ""), value(rule, "severity:")))
        .collect();
    let page = read("docs/many-hosts.md");
    let rows = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `VtpmGuard"));
    let on_page: BTreeSet<_> = rows
        .map(|row| {
            let mut cells = row.split('|').map(str::trim);
            let name = cells.next().unwrap().trim_end_matches('`');
            (format!("VtpmGuard{name}"), cells.next().unwrap().to_owned())
        })
        .collect();
    assert!(in_rules.len() > 8, "{in_rules:?}");
    assert_eq!(on_page, in_rules);
}

#[test]
fn paths_in_a_page_are_read_as_a_reader_reads_them() {
    let page = "a `b\nc` d\n```\n`e`\n```\n`f/{g,h}.rs`";
    assert_eq!(in_backticks(page), ["b\nc", "f/{g,h}.rs"]);
    assert_eq!(expanded("f/{g,h}.rs"), ["f/g.rs", "f/h.rs"]);
    assert_eq!(expanded("f/g.rs"), ["f/g.rs"]);
    assert!(has_placeholder("kms/KIND") && has_placeholder("kms/*"));
    assert!(!has_placeholder("packaging/README.md"));
}

/// A start of virtqemud's that comes before virtsecretd's socket would find nobody to give the key to.
/// `packaging/make` takes all units and drop-ins as they are here.
#[test]
fn virtqemud_starts_after_the_socket_of_virtsecretd() {
    let drop_in = read("packaging/systemd/virtqemud.service.d/50-vtpm-guard.conf");
    for line in [
        "[Unit]",
        "Wants=virtsecretd.socket",
        "After=virtsecretd.socket",
    ] {
        assert!(drop_in.lines().any(|found| found == line), "{line}");
    }
    assert!(read("packaging/make").contains("cp -r packaging/systemd/. "));
}

/// Each job runs one verb, so each of them also runs on a contributor's machine.
#[test]
fn every_job_of_the_workflow_calls_dev() {
    let workflow = read(".github/workflows/ci.yml");
    let (_, jobs) = workflow.split_once("\njobs:\n").unwrap();
    let jobs: Vec<_> = jobs.split("\n\n").collect();
    assert!(jobs.len() > 5, "{jobs:#?}");
    for job in jobs {
        let calls = |line: &str| line.contains("- run: ./dev ") || line.contains("- run: .ci/run");
        assert_eq!(job.lines().filter(|line| calls(line)).count(), 1, "{job}");
    }
}

#[test]
fn hooks_holds_both_links_and_both_lead_to_the_installed_program() {
    let hooks = Path::new(ROOT).join("hooks");
    for link in ["qemu", "qemu.d/50-vtpm-guard"] {
        let program = fs::read_link(hooks.join(link)).unwrap();
        assert_eq!(program, Path::new("/usr/sbin/vtpm-guard-hook"), "{link}");
    }
}
