//! `provider …`

use std::fs;

use super::Answers;
use super::site::{Site, guest};

pub(super) fn create(answers: &mut Answers) {
    let site = Site::empty();
    answers.ask(&site, "the first", "a");
    answers.ask(&site, "as the default", "b --default");
    answers.ask(&site, "there is one of that name", "a");
    answers.ask(&site, "not a name", "a/b");
}

pub(super) fn list(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    let site = Site::with_guest();
    site.did("provider create b");
    answers.ask(&site, "one is exported", "");
}

pub(super) fn show(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "one", "a");
    answers.ask(&site, "an unknown one", "x");
}

pub(super) fn rename(answers: &mut Answers) {
    let site = Site::new();
    answers.ask(&site, "it has another name", "a b");
    answers.ask(&site, "it has that name already", "b b");
    site.did("provider create c");
    answers.ask(&site, "another one has it", "b c");
}

pub(super) fn set_default(answers: &mut Answers) {
    let site = Site::new();
    site.did("provider create b");
    answers.ask(&site, "it is not yet", "b");
    answers.ask(&site, "it is already", "b");
    answers.ask(&site, "an unknown one", "x");
}

pub(super) fn rotate(answers: &mut Answers) {
    let site = Site::with_guest();
    site.define("vm2", 2, true);
    site.did("key bind vm2 --provider a");
    answers.ask(&site, "a guest has a key", "a");
    site.sql(&format!(
        "INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name, key_version, kek_ref, \
         wrapped_dek, algorithm) SELECT '{}', provider_uuid, provider_name, key_version, kek_ref, \
         wrapped_dek, algorithm FROM key_ref WHERE wrapped_dek IS NOT NULL",
        guest(3)
    ));
    answers.ask(&site, "a row does not open", "a");
    answers.ask(&site, "an unknown one", "x");
    let (first, second) = super::fleet::pair();
    second.did("fleet join --name host2");
    let third = Site::new();
    third.add_fleet_of(&first);
    third.did("fleet join --name host3");
    answers.ask(&first, "another host is to open it first", "b --wait 0s");
    second.did("sync");
    answers.ask(&first, "it has, a third one needs it not", "b");
    answers.ask(&first, "not waiting for it", "b --without host2");
    first.cut_fleet();
    answers.ask(&first, "the shared store does not answer", "b");
}

pub(super) fn reseal(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    let site = Site::new();
    answers.ask(&site, "all", "");
    answers.ask(&site, "one", "a");
    answers.ask(&site, "an unknown one", "x");
    for key in fs::read_dir(site.path("state/keys")).unwrap() {
        fs::remove_file(key.unwrap().path()).unwrap();
    }
    answers.ask(&site, "a key is gone", "");
}

pub(super) fn export(answers: &mut Answers) {
    let site = Site::new();
    let (file, passphrase) = (site.path("new.recovery"), site.passphrase());
    let words = format!("a --output {file} --passphrase-file {passphrase}");
    answers.ask(&site, "a good passphrase", &words);
    answers.ask(&site, "the file is there", &words);
    let weak = site.file("weak", "short\n");
    let file = site.path("weak.recovery");
    let words = format!("a --output {file} --passphrase-file {weak}");
    answers.ask(&site, "a passphrase that others know", &words);
    site.did("provider rotate a");
    let file = site.path("rotated.recovery");
    let words = format!("a --output {file} --passphrase-file {passphrase}");
    answers.ask(&site, "its key was rotated", &words);
}

pub(super) fn import(answers: &mut Answers) {
    let site = Site::with_guest();
    site.export("a", "a.recovery");
    let (file, passphrase) = (site.path("a.recovery"), site.passphrase());
    let words = format!("{file} --passphrase-file {passphrase}");
    answers.ask(&site, "it is here", &words);
    for key in fs::read_dir(site.path("state/keys")).unwrap() {
        fs::remove_file(key.unwrap().path()).unwrap();
    }
    let dry = format!("{words} --dry-run");
    answers.ask(&site, "its key is gone: what would be done", &dry);
    answers.ask(&site, "its key is gone", &words);
    site.did("provider delete a --force");
    answers.ask(&site, "it was deleted: what would be done", &dry);
    answers.ask(&site, "it was deleted", &words);
    let wrong = site.file("wrong", "a wrong passphrase\n");
    let words = format!("{file} --passphrase-file {wrong}");
    answers.ask(&site, "another passphrase", &words);
}

pub(super) fn delete(answers: &mut Answers) {
    let site = Site::with_guest();
    answers.ask(&site, "a guest needs it", "a");
    answers.ask(
        &site,
        "a guest needs it, and it goes all the same",
        "a --force",
    );
    site.did("provider create b");
    answers.ask(&site, "it was never exported", "b");
    answers.ask(&site, "an unknown one", "x");
}
