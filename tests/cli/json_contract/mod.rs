//! The JSON of every command is a contract: its keys, their types, the words in it, and the exit
//! status beside it. `tests/cli/json` holds the answers; those of the first commit were given by
//! the program before issue 10. A key that is lost, renamed or of another type fails the test, and
//! so does a key that is added: whoever reads the difference accepts it (`cargo insta review`),
//! and names it in `docs/json.md`.

mod doc;
mod fleet;
mod guests;
mod hosts;
mod keys;
mod providers;
mod shape;
mod site;
mod slots;
mod verdicts;

use std::fmt::Write as _;

use serde_json::Value;

use crate::env::Ran;
use crate::help::commands;
use shape::shape;
use site::Site;

/// The answers of one command.
struct Answers {
    command: &'static str,
    /// Keys whose text is a word of the contract in this command's answers alone.
    words: &'static [&'static str],
    text: String,
}

impl Answers {
    /// Runs the command with these words after its name, and writes down what it answers.
    fn ask(&mut self, site: &Site, case: &str, words: &str) {
        let line = format!("{} {words}", self.command);
        let ran = site.run(line.trim());
        self.write(site, case, words, &ran);
    }

    /// The same on a host on which nothing else runs.
    fn ask_alone(&mut self, site: &Site, case: &str, before: &str, words: &str) {
        let line = format!("{} {words}", self.command);
        let ran = site.run_alone(before, line.trim());
        self.write(site, case, words, &ran);
    }

    fn write(&mut self, site: &Site, case: &str, words: &str, ran: &Ran) {
        let line = site.without_paths(format!("{} {words}", self.command).trim());
        let _ = writeln!(
            self.text,
            "# {case}\n$ vtpm-guard {line} --json\nexit {}",
            ran.status
        );
        if !ran.stdout.is_empty() {
            let document = serde_json::from_str(&ran.stdout).unwrap();
            let _ = write!(self.text, "stdout:\n{}", shape(&document, self.words));
        }
        // How many notes there are differs from host to host; that they are JSON does not.
        let mut talk: Vec<Value> = Vec::new();
        for line in ran.stderr.lines() {
            let said: Value =
                serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?} of {ran:?}"));
            if said.get("note").is_some_and(Value::is_string) {
                assert_eq!(said.as_object().unwrap().len(), 1, "{line}");
            } else {
                talk.push(said);
            }
        }
        for said in talk {
            let _ = write!(self.text, "stderr:\n{}", shape(&said, &[]));
        }
        self.text.push('\n');
    }
}

/// Compares what a command answers with its golden file.
fn golden(command: &'static str, ask: fn(&mut Answers)) {
    let words: &[&str] = if command == "explain" { &["name"] } else { &[] };
    let mut answers = Answers {
        command,
        words,
        text: String::new(),
    };
    ask(&mut answers);
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../json");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let name = command.replace(' ', "-");
    settings.bind(|| insta::assert_snapshot!(name, answers.text.trim_end()));
}

/// One test for each command.
macro_rules! contract {
    ($($test:ident: $command:literal, $ask:path;)*) => {
        const COVERED: &[&str] = &[$($command),*];
        $(
            #[test]
            fn $test() {
                golden($command, $ask);
            }
        )*
    };
}

contract! {
    provider_create: "provider create", providers::create;
    provider_list: "provider list", providers::list;
    provider_show: "provider show", providers::show;
    provider_rename: "provider rename", providers::rename;
    provider_set_default: "provider set-default", providers::set_default;
    provider_rotate: "provider rotate", providers::rotate;
    provider_accept: "provider accept", fleet::accept;
    provider_reseal: "provider reseal", providers::reseal;
    provider_export: "provider export", providers::export;
    provider_import: "provider import", providers::import;
    provider_delete: "provider delete", providers::delete;
    provider_slot_add: "provider slot add", slots::add;
    provider_slot_list: "provider slot list", slots::list;
    provider_slot_verify: "provider slot verify", slots::verify;
    provider_slot_remove: "provider slot remove", slots::remove;
    open: "open", slots::open;
    key_bind: "key bind", keys::bind;
    key_import: "key import", keys::import;
    key_list: "key list", keys::list;
    key_metadata: "key metadata", keys::metadata;
    key_show: "key show", keys::show;
    key_unbind: "key unbind", keys::unbind;
    key_retire: "key retire", keys::retire;
    key_renew: "key renew", keys::renew;
    key_clone: "key clone", keys::clone;
    key_use: "key use", keys::use_key;
    key_prune: "key prune", keys::prune;
    adopt: "adopt", guests::adopt;
    check: "check", verdicts::check;
    repair: "repair", verdicts::repair;
    replay: "replay", verdicts::replay;
    encrypt: "encrypt", guests::encrypt;
    reset: "reset", guests::reset;
    state_list: "state list", guests::state_list;
    state_show: "state show", guests::state_show;
    state_restore: "state restore", guests::state_restore;
    state_persist: "state persist", guests::state_persist;
    state_drop: "state drop", guests::state_drop;
    fleet_init: "fleet init", fleet::init;
    fleet_join: "fleet join", fleet::join;
    fleet_status: "fleet status", fleet::status;
    fleet_leave: "fleet leave", fleet::leave;
    fleet_lost: "fleet lost", fleet::lost;
    status: "status", hosts::status;
    history: "history", hosts::history;
    explain: "explain", hosts::explain;
    store_check: "store check", hosts::store_check;
    store_backup: "store backup", hosts::store_backup;
    store_restore: "store restore", hosts::store_restore;
    store_rebuild: "store rebuild", hosts::store_rebuild;
}

/// What needs a /run and a /proc of its own, which only root can make.
const NEED_ROOT: &[&str] = &["stage", "unstage", "doctor", "sync"];

fn golden_alone(command: &'static str, ask: fn(&mut Answers)) {
    assert!(NEED_ROOT.contains(&command));
    if nix::unistd::geteuid().is_root() {
        golden(command, ask);
    } else {
        eprintln!("skipped: {command} needs a /run of its own, and this user is not root");
    }
}

#[test]
fn stage() {
    golden_alone("stage", hosts::stage);
}

#[test]
fn unstage() {
    golden_alone("unstage", hosts::unstage);
}

#[test]
fn sync() {
    golden_alone("sync", hosts::sync);
}

#[test]
fn doctor() {
    golden_alone("doctor", hosts::doctor);
}

#[test]
fn every_command_is_here() {
    let verbs = commands();
    let is_group = |verb: &Vec<String>| {
        verbs
            .iter()
            .any(|other| other.len() > verb.len() && other.starts_with(verb))
    };
    let wanted: Vec<_> = verbs
        .iter()
        .filter(|verb| !is_group(verb))
        .map(|verb| verb.join(" "))
        // It prints a script.
        .filter(|verb| verb != "completions")
        .collect();
    assert!(wanted.len() > 35, "{wanted:?}");
    for verb in wanted {
        let is_here = COVERED
            .iter()
            .chain(NEED_ROOT)
            .any(|covered| *covered == verb);
        assert!(is_here, "the JSON of {verb:?} is not held by any test");
    }
}
