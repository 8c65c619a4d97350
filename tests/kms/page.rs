//! docs/kms.md, played: a provider is made in a key manager, moves to an HSM and back, and gets another key. Its key
//! never leaves what the page says.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::built::built;
use crate::plugin::private_dir;
use crate::programs::write_program;
use crate::service::Service;

/// What the page calls the key managers and their keys, and what the services call theirs.
const NAMES: [(&str, &str); 2] = [
    ("vault:vtpm-guard", "openbao:vtpm"),
    ("hsm:vtpm-guard", "softhsm:vtpm"),
];

/// The commands in a section of the page.
fn commands(heading: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kms.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```sh\n").skip(1);
    let lines = blocks.flat_map(|block| block.split("```").next().unwrap().lines());
    let lines: Vec<_> = lines
        .map(|line| {
            NAMES.iter().fold(line.to_owned(), |line, (page, ours)| {
                line.replace(page, ours)
            })
        })
        .collect();
    assert!(!lines.is_empty(), "no commands under {heading:?}");
    lines
}

/// A host of its own: a state directory, and the sections of both services.
struct Host<'a>(&'a Path);

impl Host<'_> {
    fn run(&self, line: &str) -> (bool, String) {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.0.display());
        let output = Command::new("sh")
            .args(["-c", line])
            .env("PATH", path)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    #[track_caller]
    fn play(&self, heading: &str) {
        for line in commands(heading) {
            let (done, said) = self.run(&line);
            assert!(done, "{line}: {said}");
        }
    }

    /// The slots of key managers that the provider has; all of them open.
    fn slots(&self) -> Vec<String> {
        let (done, said) = self.run("vtpm-guard provider slot verify nkp-a --json");
        assert!(done, "{said}");
        let verified: Value = serde_json::from_str(&said).unwrap();
        let slots = verified["slots"].as_array().unwrap().iter();
        slots
            .filter_map(|slot| Some(slot["kms"].as_str()?.to_owned()))
            .collect()
    }
}

#[test]
#[ignore = "needs root, OpenBao and SoftHSM: ./dev kms"]
fn the_page_takes_a_provider_to_a_key_manager_and_from_there_to_an_hsm() {
    let dir = tempfile::tempdir().unwrap();
    let services = Service::start("softhsm", dir.path())
        .and_then(|hsm| Ok((hsm, Service::start("openbao", dir.path())?)));
    let (hsm, vault) = match services {
        Ok(services) => services,
        Err(why) => {
            assert!(std::env::var_os("VTPM_GUARD_EVERY_KMS").is_none(), "{why}");
            eprintln!("left out: docs/kms.md: {why}");
            return;
        }
    };
    built("kms-transit");
    let home = private_dir(dir.path(), "host");
    let sections =
        [&hsm, &vault].map(|it| fs::read_to_string(it.dir().join("config.toml")).unwrap());
    fs::write(home.join("config.toml"), sections.concat()).unwrap();
    let program = home.join("vtpm-guard");
    let script = format!(
        "#!/bin/sh\nexec {} --config {1}/config.toml --state-dir {1}/state \"$@\"\n",
        env!("CARGO_BIN_EXE_vtpm-guard"),
        home.display()
    );
    write_program(&program, &script);
    let host = Host(&home);

    host.play("A new provider");
    assert_eq!(host.slots(), ["openbao"]);
    // To one key manager more, and away from the first.
    host.play("An existing provider");
    assert_eq!(host.slots(), ["softhsm"]);
    // The key is the same all the time: what is gone from this host comes back.
    fs::remove_dir_all(home.join("state/keys")).unwrap();
    let (done, said) = host.run("vtpm-guard open");
    assert!(
        done && said.contains("was opened by \"softhsm:vtpm\""),
        "{said}"
    );
    // A key that was made anew in the HSM under the old name opens nothing; the other key manager does.
    let (done, said) = host.run("vtpm-guard provider slot add nkp-a openbao:vtpm");
    assert!(done, "{said}");
    hsm.run_verb("remake-key");
    fs::remove_dir_all(home.join("state/keys")).unwrap();
    let (done, said) = host.run("vtpm-guard open");
    assert!(
        done && said.contains("was opened by \"openbao:vtpm\""),
        "{said}"
    );
    let (done, said) = host.run("vtpm-guard provider slot remove nkp-a softhsm:vtpm");
    assert!(done, "{said}");
    assert_eq!(host.slots(), ["openbao"]);
    // A rotation begins only if every key manager wraps the new key.
    vault.run_verb("down");
    let (done, said) = host.run("vtpm-guard provider rotate nkp-a");
    assert!(!done && said.contains("kms.openbao"), "{said}");
}
