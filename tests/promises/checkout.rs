//! What the pages and the workflow for contributors say about a checkout: `./dev`, `hooks/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{ROOT, pages, read};

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
