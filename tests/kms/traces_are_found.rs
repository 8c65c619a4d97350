//! What is looked for in files and processes is found where it is.

use std::fs;
use std::panic::catch_unwind;
use std::process::{Command, Stdio};

use base64ct::{Base64, Encoding};
use vtpm_guard::internals::key::kek::Kek;

use crate::traces::{Processes, Secrets, Seen};

fn secrets(kek: &Kek) -> Secrets {
    let mut secrets = Secrets::new();
    secrets.add("the KEK", kek.expose());
    secrets
}

#[test]
fn in_a_file_below_a_directory() {
    let (secrets, dir) = (
        secrets(&Kek::generate().unwrap()),
        tempfile::tempdir().unwrap(),
    );
    let below = dir.path().join("below");
    fs::create_dir(&below).unwrap();
    assert_eq!(secrets.are_in_no_file(&[dir.path()]), 1);
    secrets.finds_each_form(&below);
}

#[test]
fn in_an_argument_and_in_the_environment() {
    let kek = Kek::generate().unwrap();
    let (secrets, text) = (secrets(&kek), Base64::encode_string(kek.expose()));
    for as_argument in [false, true] {
        let mut leaks = Command::new("sh");
        leaks.args(["-c", "read line", "leaks"]);
        if as_argument {
            leaks.arg(&text);
        } else {
            leaks.env("KEY", &text);
        }
        let processes = Processes::watch();
        let mut leaks = leaks.stdin(Stdio::piped()).spawn().unwrap();
        let has = |text: &Vec<u8>| !secrets.in_bytes(text).is_empty();
        processes.wait_until(|seen: &Seen| seen.texts.iter().any(has));
        leaks.kill().unwrap();
        leaks.wait().unwrap();
        let seen = processes.end();
        assert!(catch_unwind(|| secrets.are_in_no_process(&seen)).is_err());
    }
}
