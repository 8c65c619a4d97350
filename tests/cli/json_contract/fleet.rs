//! `fleet …` and `provider accept`: hosts with one shared store.

use std::fs::{self, File};
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use super::Answers;
use super::hosts::runs_elsewhere;
use super::site::{ENCRYPTED, PASSPHRASE, Site, guest};

/// A host that is in a fleet: of its two guests one runs, one would not start.
pub(super) fn joined() -> Site {
    let site = Site::with_guest();
    site.define("vm2", 2, true);
    site.run("replay bin/libvirt/qemu/vm2.xml --no-secret");
    site.add_fleet();
    site.did("fleet join --name host1");
    runs_elsewhere(&site);
    site
}

/// A host in a fleet with a provider `b` that a key manager opens, and a host that has that key manager, too.
pub(super) fn pair() -> (Site, Site) {
    let (first, second) = (Site::with_guest(), Site::new());
    first.add_key_manager();
    first.did("provider create b --slot box:key");
    first.sql("UPDATE key_provider SET exported_at = created_at");
    first.add_fleet();
    first.did("fleet join --name host1");
    second.add_key_manager();
    second.add_fleet_of(&first);
    (first, second)
}

pub(super) fn init(answers: &mut Answers) {
    let site = Site::empty();
    answers.ask(&site, "no store is configured", "");
    answers.ask(&site, "not an address", "--address nonsense");
    answers.ask(
        &site,
        "its program is not installed",
        "--address test://there",
    );
    site.add_fleet();
    answers.ask(&site, "the schema is made", "");
    answers.ask(&site, "only the SQL", "--sql");
    site.cut_fleet();
    answers.ask(&site, "the store does not answer", "");
}

pub(super) fn join(answers: &mut Answers) {
    answers.ask(&Site::empty(), "no store is configured", "");
    let (_first, second) = pair();
    answers.ask(&second, "another host has a provider", "--name host2");
    answers.ask(&second, "again", "--name host2");
    second.cut_fleet();
    answers.ask(&second, "the store does not answer", "");
}

pub(super) fn status(answers: &mut Answers) {
    answers.ask(&Site::empty(), "nothing is set up", "");
    let site = joined();
    answers.ask(&site, "joined", "");
    site.cut_fleet();
    answers.ask(&site, "the store does not answer", "");
}

pub(super) fn leave(answers: &mut Answers) {
    answers.ask(&Site::empty(), "nothing is set up", "");
    let site = joined();
    answers.ask(&site, "it was in one", "");
    answers.ask(&site, "again", "");
    site.did("fleet join");
    site.cut_fleet();
    answers.ask(&site, "the store does not answer", "");
    answers.ask(&site, "nor is it waited for", "--force");
}

pub(super) fn lost(answers: &mut Answers) {
    answers.ask(&Site::empty(), "nothing is set up", "host2");
    let site = joined();
    answers.ask(&site, "no such host", "host3");
    answers.ask(&site, "its guest may start here", "host2");
    site.cut_fleet();
    answers.ask(&site, "again, and nobody is told", &guest(80));
}

pub(super) fn accept(answers: &mut Answers) {
    let (first, second) = pair();
    answers.ask(&second, "this host is in no fleet", "b");
    second.did("fleet join --name host2");
    answers.ask(&second, "nobody has announced it", "x");
    answers.ask(&second, "not a key ID", "b --key 0");
    answers.ask(&second, "another host has announced it", "b");
    answers.ask(&second, "again", "b");
    let third = Site::new();
    third.add_fleet_of(&first);
    third.did("fleet join --name host3");
    answers.ask(&third, "its key does not open here", "b");
}

/// A host that gave its fleet the state of the guest `vm2` when that stopped, and one that knows the guest's key and has
/// no state of it.
fn with_state_of_the_first() -> (Site, Site) {
    let (first, second) = pair();
    first.define("vm2", 2, true);
    first.state(2, ENCRYPTED);
    first.give_secret(2, PASSPHRASE);
    first.did("adopt vm2 --provider b");
    let config = fs::read_to_string(first.path("config.toml")).unwrap();
    let config = config.replace("[fleet]\n", "[fleet]\nstate = \"stopped\"\n");
    first.file("config.toml", &config);
    let xml = first.path("bin/libvirt/qemu/vm2.xml");
    for call in ["prepare", "started", "release --sub-operation end"] {
        first.did(&format!("replay {xml} --no-secret --operation {call}"));
    }
    // It exchanges facts, as `sync` does.
    let told = first.did("fleet join");
    assert_eq!(told["states"], 1, "{told}");
    second.did("fleet join --name host2");
    second.define("vm2", 2, true);
    (first, second)
}

#[test]
fn a_state_that_the_fleet_gives_is_a_repair_whose_occasion_the_page_names() {
    let (_first, second) = with_state_of_the_first();
    let ran = second.run("check vm2").ends_with(3);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let repair = &answer["repairs"][0];
    assert_eq!(repair["kind"], "restore-tpm-state", "{answer}");
    assert_eq!(repair["occasion"], "fleet", "{answer}");
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/json.md");
    let page = fs::read_to_string(page).unwrap();
    let row = |line: &&str| line.starts_with("| `repairs[].occasion`");
    assert!(page.lines().find(row).unwrap().contains("`fleet`"));
}

/// A host that follows the fleet, as systemd runs it; its journal is the log of these tests. It ends with the test.
struct Following<'s> {
    site: &'s Site,
    process: Child,
    /// What it wrote to stderr.
    stderr: String,
}

impl<'s> Following<'s> {
    /// With this configuration, and an exchange each second.
    fn with(site: &'s Site, config: &str) -> Self {
        let config = config.replace("[fleet]\n", "[fleet]\ninterval = \"1s\"\n");
        site.file("config.toml", &config);
        let stderr = site.path("stderr");
        let process = Command::new(site.path("bin/vtpm-guard"))
            .args(site.arguments("sync --follow"))
            .stderr(File::create(&stderr).unwrap())
            .spawn();
        Self {
            site,
            process: process.unwrap(),
            stderr,
        }
    }

    /// With the configuration that is there, and once it has told the fleet of a provider.
    fn that_has_told(site: &'s Site) -> Self {
        site.did("provider create another");
        let config = fs::read_to_string(site.path("config.toml")).unwrap();
        let follows = Self::with(site, &config);
        assert!(follows.logs("told the fleet"));
        follows
    }

    /// Whether the log says so within twenty seconds.
    fn logs(&self, words: &str) -> bool {
        says(&self.site.path("log"), words)
    }
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn says(path: &str, words: &str) -> bool {
    has(path, |text| text.contains(words))
}

fn has(path: &str, wanted: impl Fn(&str) -> bool) -> bool {
    let mut tries = (0..400).inspect(|_| sleep(Duration::from_millis(50)));
    tries.any(|_| fs::read_to_string(path).is_ok_and(|text| wanted(&text)))
}

#[test]
fn a_host_that_follows_the_fleet_says_in_the_log_what_it_did_and_what_went_wrong() {
    let site = joined();
    let follows = Following::that_has_told(&site);
    site.cut_fleet();
    assert!(follows.logs("no facts were exchanged: "));
}

/// As in a unit that may not write the file: systemd gives stderr to the journal.
#[test]
fn a_host_that_follows_the_fleet_without_a_log_prints_what_it_does() {
    let site = joined();
    let config = fs::read_to_string(site.path("config.toml")).unwrap();
    let elsewhere = config.replace(&site.path("log"), &site.path("none/log"));
    assert_ne!(elsewhere, config);
    site.did("provider create another");
    let follows = Following::with(&site, &elsewhere);
    assert!(says(&follows.stderr, "no log: ") && says(&follows.stderr, "told the fleet"));
    site.cut_fleet();
    assert!(says(&follows.stderr, "no facts were exchanged: "));
}

#[test]
fn a_host_that_follows_the_fleet_outlives_a_configuration_that_is_wrong_for_a_while() {
    let site = joined();
    let follows = Following::that_has_told(&site);
    let right = fs::read_to_string(site.path("config.toml")).unwrap();
    site.file("config.toml", "[fleet\n");
    assert!(follows.logs("no facts were exchanged: "));
    site.file("config.toml", &right);
    site.did("provider create a-third");
    let after = |log: &str| {
        log.split("no facts were exchanged")
            .last()
            .unwrap()
            .to_owned()
    };
    assert!(has(&site.path("log"), |log| after(log)
        .contains("told the fleet")));
}
