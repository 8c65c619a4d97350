//! `provider slot …`, `open`

use super::Answers;
use super::site::Site;

fn site() -> Site {
    let site = Site::empty();
    site.add_key_manager();
    site.did("provider create a --slot box:one");
    site
}

pub(super) fn add(answers: &mut Answers) {
    let site = site();
    answers.ask(&site, "a key manager wraps it", "a box:two --label second");
    answers.ask(&site, "a key manager does not", "a closed:one");
    answers.ask(&site, "not a slot", "a box");
}

pub(super) fn list(answers: &mut Answers) {
    let site = site();
    site.did("provider slot add a box:two --label second");
    site.sql("UPDATE key_provider SET exported_at = created_at");
    answers.ask(&site, "this host, a recovery file, a key manager", "a");
    answers.ask(&site, "an unknown provider", "x");
}

pub(super) fn verify(answers: &mut Answers) {
    let site = site();
    site.sql("UPDATE key_provider SET exported_at = created_at");
    answers.ask(&site, "all open", "a");
    site.sql("UPDATE kek_slot SET kms = 'closed'");
    answers.ask(&site, "one does not", "a");
}

pub(super) fn remove(answers: &mut Answers) {
    let site = site();
    answers.ask(&site, "by its key", "a box:one");
    answers.ask(&site, "there is none", "a box:one");
    answers.ask(&site, "this host's own", "a host");
}

pub(super) fn open(answers: &mut Answers) {
    answers.ask(&Site::empty(), "there is none", "");
    let site = site();
    answers.ask(&site, "it is here", "");
    std::fs::remove_dir_all(site.path("state/keys")).unwrap();
    answers.ask(&site, "a key manager opens it", "a");
    std::fs::remove_dir_all(site.path("state/keys")).unwrap();
    site.sql("UPDATE kek_slot SET kms = 'closed'");
    answers.ask(&site, "no key manager opens it", "");
}
