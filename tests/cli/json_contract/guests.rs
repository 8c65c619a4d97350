//! `adopt`, `encrypt`, `reset` and `state …`: what changes one guest.

use serde_json::json;

use super::Answers;
use super::site::{ENCRYPTED, PASSPHRASE, PLAIN, Site, guest, secret};

pub(super) fn adopt(answers: &mut Answers) {
    let site = Site::new();
    site.did("provider create b");
    answers.ask(&site, "no guest has an encrypted vTPM", "--all");
    for (name, number) in [("vm1", 1), ("vm2", 2), ("vm3", 3), ("vm4", 4)] {
        site.define(name, number, true);
    }
    site.state(1, ENCRYPTED);
    site.give_secret(1, PASSPHRASE);
    site.give_secret(2, "a key that no state proves");
    site.state(3, ENCRYPTED);
    site.give_secret(3, "another key");
    site.define_secret(4, "yes", "yes");
    site.give_value(4, "?");
    answers.ask(&site, "the secret stays", "vm1 --keep-plaintext");
    answers.ask(&site, "proven, unproven, refuted, not told", "--all");
    answers.ask(&site, "again", "vm1 vm2");
    site.define("vm5", 5, true);
    site.give_secret(5, "x");
    answers.ask(
        &site,
        "a provider that was never exported, a short key",
        "vm5 --provider b",
    );
    site.did("provider set-default a");
    site.file(&format!("bin/libvirt/memory/{}.refused", secret(5)), "");
    answers.ask(&site, "libvirt does not undefine the secret", "vm5");
    answers.ask(&site, "an unknown guest", "vm9");
    answers.ask(&site, "an unknown provider", "vm1 --provider x");
}

pub(super) fn encrypt(answers: &mut Answers) {
    let site = Site::new();
    site.define("vm1", 1, false);
    answers.ask(&site, "it has no state", "vm1");
    site.state(1, PLAIN);
    answers.ask(&site, "a plain state", "vm1");
    answers.ask(&site, "it is encrypted already", "vm1");
    site.define("vm1", 1, false);
    answers.ask(&site, "its XML was put back", "vm1");
    answers.ask(
        &site,
        "its XML gets persistent_state, too",
        "vm1 --persistent-state",
    );
    site.start("vm1");
    answers.ask(&site, "it runs", "vm1");
    answers.ask(&site, "an unknown guest", "vm9");
}

pub(super) fn reset(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "its state is there", "vm1");
    site.keep_copy();
    site.lose_state(1);
    answers.ask(&site, "a saved copy would take its place", "vm1");
    answers.ask(&site, "nothing is left to do", "vm1");
    site.define("vm2", 2, true);
    answers.ask(&site, "it has no key", "vm2");
}

fn with_copy() -> Site {
    let site = Site::with_guest();
    site.keep_copy();
    site.lose_state(1);
    site
}

pub(super) fn state_list(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    answers.ask(&Site::empty(), "there is no fleet", "--fleet");
    let states = with_copy();
    states.join_fleet(&[]);
    answers.ask(&states, "the fleet's store has none", "--fleet");
    let id = "ab".repeat(32);
    let (domain, host) = (guest(1), guest(80));
    let state = json!({"id": id, "domain": domain, "host": host, "at": 5, "body": "{}"});
    states.join_fleet(&[json!({"ok": true, "states": [state]})]);
    answers.ask(
        &states,
        "it has one that does not say where it is from",
        "--fleet",
    );
    let site = with_copy();
    answers.ask(&site, "a copy of after a run", "");
    site.did("reset vm1");
    answers.ask(&site, "it is set aside", "");
    site.state(1, ENCRYPTED);
    site.undefine("vm1");
    site.did(&format!("replay {}", site.path("transient.xml")));
    answers.ask(&site, "and one of before a start", "");
}

pub(super) fn state_show(answers: &mut Answers) {
    let site = with_copy();
    answers.ask(&site, "a copy of after a run", "vm1");
    site.define("vm2", 2, true);
    answers.ask(&site, "a guest without one", "vm2");
    std::fs::remove_dir_all(site.path("state/keys")).unwrap();
    answers.ask(&site, "its key could not be tried", "vm1");
}

pub(super) fn state_restore(answers: &mut Answers) {
    let site = with_copy();
    answers.ask(&site, "the state is gone", "vm1");
    answers.ask(&site, "it is there", "vm1");
    site.state(1, PLAIN);
    answers.ask(&site, "another state is there", "vm1");
    answers.ask(&site, "a guest without a copy", &guest(2));
    answers.ask(&site, "a copy that there is not", "vm1 --copy 00");
    site.join_fleet(&[json!({"ok": false, "error": "unreachable", "message": "no route"})]);
    answers.ask(&site, "the fleet's store is silent", "vm1 --copy 00");
}

pub(super) fn state_persist(answers: &mut Answers) {
    let site = Site::new();
    answers.ask(&site, "no guest is defined", "--all");
    site.define("vm1", 1, true);
    site.define("vm2", 2, false);
    answers.ask(&site, "one is encrypted", "--all");
    answers.ask(&site, "again", "vm1");
    answers.ask(&site, "a plain one", "vm2");
    site.define("vm3", 3, true);
    site.start("vm3");
    answers.ask(&site, "it runs", "vm3");
    answers.ask(&site, "an unknown guest", "vm9");
    site.define("vm4", 4, true);
    site.spoil("vm4");
    answers.ask(&site, "the XML of one cannot be read", "--all");
    answers.ask(&site, "the XML of the one that is named", "vm4");
}

pub(super) fn state_drop(answers: &mut Answers) {
    let site = with_copy();
    answers.ask(&site, "it is all that the key opens", "vm1");
    answers.ask(&site, "it goes all the same", "vm1 --force");
    answers.ask(&site, "there is none", "vm1");
}
