//! `provider export` and `provider import`: a provider's way out of a host and back.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::env::{Host, VM1, VM2, golden, mode};

const PASSPHRASE: &str = "correct horse battery staple";

/// The recovery file of a vector and its passphrase. They cost little to open.
fn vector(host: &Host, name: &str) -> (String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/vectors/recovery")
        .join(name);
    let vector: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let text = |key: &str| vector[key].as_str().unwrap().to_owned();
    (
        host.file("recovery", &text("file")),
        host.file("passphrase", &text("passphrase")),
    )
}

/// `provider import` of this file, with this file's passphrase.
fn import_of<'a>(file: &'a str, passphrase: &'a str) -> [&'a str; 5] {
    ["provider", "import", file, "--passphrase-file", passphrase]
}

fn export(host: &Host, name: &str) -> (String, String) {
    let passphrase = host.passphrase_file();
    let file = host
        .path(&format!("{name}.recovery"))
        .to_str()
        .unwrap()
        .to_owned();
    let arguments = [
        "provider",
        "export",
        name,
        "--output",
        &file,
        "--passphrase-file",
        &passphrase,
    ];
    host.run(&arguments).succeeds();
    (file, passphrase)
}

#[test]
fn a_deleted_provider_comes_back_with_its_key_and_opens_its_guests() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    let before = host.json(&["provider", "show", "nkp-a"]);
    let (file, passphrase) = export(&host, "nkp-a");
    assert_eq!(mode(Path::new(&file)), 0o600);
    assert!(host.json(&["provider", "show", "nkp-a"])["exported_at"].is_i64());
    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();

    let import = import_of(&file, &passphrase);
    let stored = host.stored();
    golden(
        "provider-import-dry-run",
        &host.run(&[&import[..], &["--dry-run"]].concat()),
    );
    assert_eq!(host.stored(), stored);
    golden("provider-import", &host.run(&import));

    let after = host.json(&["provider", "show", "nkp-a"]);
    assert_eq!(after["key_id"], before["key_id"]);
    assert_ne!(after["uuid"], before["uuid"]);
    assert_eq!(after["opens"], true);
    assert_eq!(after["is_default"], true);
    assert!(after["exported_at"].is_i64(), "the file is its export");
    assert_eq!(
        host.json(&["key", "show", VM1])["key_refs"][0]["opens"],
        true
    );

    host.run(&import)
        .ends_with(1)
        .saying("already exists on this host and can be opened");
    let drill = [&import[..], &["--dry-run"]].concat();
    golden("provider-import-drill", &host.run(&drill));
    assert_eq!(host.json(&drill)["action"], "none");
}

#[test]
fn a_provider_whose_key_was_lost_opens_again() {
    let host = Host::new();
    let (file, passphrase) = vector(&host, "opens.toml");
    let import = import_of(&file, &passphrase);
    host.run(&import).succeeds();
    let uuid = host.json(&["provider", "show", "nkp-a"])["uuid"].clone();
    let key = host
        .state_dir()
        .join("keys/c84c106c3a2c5d245bb53134ca3ee131");
    for damage in ["", "nonsense"] {
        if damage.is_empty() {
            fs::remove_file(&key).unwrap();
        } else {
            fs::write(&key, damage).unwrap();
        }
        let would = host.json(&[&import[..], &["--dry-run"]].concat());
        assert_eq!(would["action"], "open-again");
        assert_eq!(host.json(&["provider", "show", "nkp-a"])["opens"], false);
        assert_eq!(host.json(&import)["uuid"], uuid);
        assert_eq!(host.json(&["provider", "show", "nkp-a"])["opens"], true);
    }
}

#[test]
fn a_name_that_another_key_has_is_refused_and_another_name_taken() {
    let host = Host::with_provider("nkp-a");
    let (file, passphrase) = vector(&host, "opens.toml");
    let import = import_of(&file, &passphrase);
    let before = host.stored();
    host.run(&import)
        .ends_with(1)
        .saying("with another key")
        .saying("--name NAME");
    host.run(&[&import[..], &["--name", "a/b"]].concat())
        .ends_with(2);
    assert_eq!(host.stored(), before);
    let imported = host.json(&[&import[..], &["--name", "nkp-b"]].concat());
    assert_eq!(imported["name"], "nkp-b");
    assert_eq!(imported["key_id"], "c84c106c3a2c5d245bb53134ca3ee131");
}

#[test]
fn a_key_that_is_here_under_another_name_is_refused() {
    let host = Host::new();
    let (file, passphrase) = vector(&host, "opens.toml");
    let import = import_of(&file, &passphrase);
    host.run(&import).succeeds();
    host.run(&["provider", "rename", "nkp-a", "nkp-b"])
        .succeeds();
    let before = host.stored();
    host.run(&import)
        .ends_with(1)
        .saying("is already on this host, as provider \"nkp-b\"")
        .saying("vtpm-guard provider rename nkp-b NEW");
    assert_eq!(host.stored(), before);
}

#[test]
fn a_key_that_was_rotated_away_or_announced_is_restored_by_its_file() {
    let host = Host::new();
    let (file, passphrase) = vector(&host, "opens.toml");
    let import = import_of(&file, &passphrase);
    let key_id = host.json(&import)["key_id"].as_str().unwrap().to_owned();
    let short = &key_id[..8];
    for name in [format!("nkp-a/{short}"), format!("fleet/nkp-a/{short}")] {
        let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
        store
            .execute("UPDATE key_provider SET name = ?1", [&name])
            .unwrap();
        drop(store);
        host.run(&[&import[..], &["--dry-run"]].concat()).succeeds();
        host.run(&import).ends_with(1).saying("nothing to import");
        fs::remove_file(host.state_dir().join("keys").join(&key_id)).unwrap();
        let restored = host.json(&import);
        assert_eq!(
            (&restored["action"], &restored["name"]),
            (&"open-again".into(), &name.clone().into())
        );
    }
    // It is not to be called something else, but to be accepted.
    let renamed = [&import[..], &["--name", "other"]].concat();
    host.run(&renamed)
        .ends_with(1)
        .saying("vtpm-guard provider accept nkp-a");
    let announced = format!("fleet/nkp-a/{short}");
    host.run(&["provider", "set-default", &announced])
        .ends_with(1)
        .saying("vtpm-guard provider accept nkp-a");
}

#[test]
fn a_file_that_cannot_be_used_says_why_and_changes_nothing() {
    let mut sentences = Vec::new();
    for (name, words) in [
        ("wrong-passphrase.toml", "the passphrase is wrong"),
        ("damaged-cut.toml", "it is damaged"),
        ("damaged-flipped-key.toml", "it is damaged"),
        ("too-new.toml", "newer than this program"),
        ("too-costly-memory.toml", "beyond 1 GiB"),
        (
            "not-a-recovery-file.toml",
            "it is not a vtpm-guard recovery file",
        ),
    ] {
        let host = Host::new();
        let (file, passphrase) = vector(&host, name);
        let ran = host.run(&import_of(&file, &passphrase));
        sentences.push(ran.ends_with(4).saying(words).stderr);
        assert!(!host.state_dir().exists(), "{name}");
    }
    sentences.sort();
    sentences.dedup();
    assert!(sentences.len() >= 5, "{sentences:#?}");
}

#[test]
fn an_export_overwrites_nothing() {
    let host = Host::with_provider("nkp-a");
    let output = host.file("there", "words");
    let passphrase = host.file("passphrase", PASSPHRASE);
    let export = |output: &str| {
        let arguments = [
            "provider",
            "export",
            "nkp-a",
            "--output",
            output,
            "--passphrase-file",
            &passphrase,
        ];
        host.run(&arguments)
    };
    export(&output).ends_with(1).saying("already exists");
    assert_eq!(fs::read_to_string(&output).unwrap(), "words");
    export(host.path("no/such/directory").to_str().unwrap()).ends_with(4);
    export(host.path("").to_str().unwrap()).ends_with(1);
    assert!(host.json(&["provider", "show", "nkp-a"])["exported_at"].is_null());
}

#[test]
fn a_passphrase_comes_from_a_file_or_stdin_and_is_never_empty() {
    let host = Host::with_provider("nkp-a");
    let export = [
        "provider",
        "export",
        "nkp-a",
        "--output",
        "f",
        "--passphrase-file",
    ];
    let empty = host.file("empty", "\nsecond line\n");
    host.run(&[&export[..], &[&empty]].concat())
        .ends_with(2)
        .saying("the passphrase is empty");
    host.run(&[&export[..], &["missing"]].concat())
        .ends_with(4)
        .saying("missing: No such file");
    host.run(&[&export[..], &["."]].concat())
        .ends_with(4)
        .saying("Is a directory");
    assert!(!host.path("f").exists());

    let mut from_stdin = host.command(&[&export[..], &["-"]].concat());
    from_stdin
        .write_stdin("pass word\nand no more\n")
        .assert()
        .success();
    host.run(&["provider", "delete", "nkp-a"]).succeeds();
    let same = host.file("same", "pass word");
    host.run(&["provider", "import", "f", "--passphrase-file", &same])
        .succeeds();
}

#[test]
fn a_weak_passphrase_and_one_that_others_can_read_are_noted() {
    let host = Host::with_provider("nkp-a");
    let weak = host.file("weak", "pw\n");
    let export = ["provider", "export", "nkp-a", "--passphrase-file", &weak];
    host.run(&[&export[..], &["--output", "f"]].concat())
        .succeeds()
        .saying("weak passphrase: it has 2 of the 12 characters")
        .saying("others can read the passphrase in");
    let answer = host.json(&[&export[..], &["--output", "g"]].concat());
    let warnings = answer["warnings"].as_array().unwrap();
    let kinds: Vec<_> = warnings.iter().map(|warning| &warning["kind"]).collect();
    assert_eq!(kinds, ["short-passphrase", "open-passphrase-file"]);

    let good = host.passphrase_file();
    let export = ["provider", "export", "nkp-a", "--passphrase-file", &good];
    let answer = host.json(&[&export[..], &["--output", "h"]].concat());
    assert_eq!(answer["warnings"], serde_json::json!([]));
}

/// Runs the command on a terminal of its own, on which somebody types these lines. Gives its
/// exit status.
fn type_at_terminal(host: &Host, arguments: &[&str], lines: &str) -> Option<i32> {
    let program = host.command(arguments);
    let words = std::iter::once(program.get_program()).chain(program.get_args());
    let words: Vec<_> = words.map(|word| word.to_str().unwrap()).collect();
    let mut script = Command::new("script")
        .args([
            "--quiet",
            "--return",
            "--command",
            &words.join(" "),
            "/dev/null",
        ])
        .current_dir(host.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    script
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    script.wait().unwrap().code()
}

#[test]
fn at_a_terminal_a_new_passphrase_is_typed_twice() {
    let host = Host::with_provider("nkp-a");
    let export = ["provider", "export", "nkp-a", "--output", "f"];
    assert_eq!(
        type_at_terminal(&host, &export, "pass word\npass wort\n"),
        Some(2)
    );
    assert!(!host.path("f").exists());
    assert_eq!(
        type_at_terminal(&host, &export, "pass word\npass word\n"),
        Some(0)
    );
    host.run(&["provider", "delete", "nkp-a"]).succeeds();
    assert_eq!(
        type_at_terminal(&host, &["provider", "import", "f"], "pass word\n"),
        Some(0)
    );
}

#[test]
fn without_a_terminal_nobody_can_be_asked() {
    let host = Host::with_provider("nkp-a");
    let (file, _) = vector(&host, "opens.toml");
    for arguments in [
        &["provider", "export", "nkp-a", "--output", "f"][..],
        &["provider", "import", &file],
    ] {
        // A session of its own has no terminal, whatever the tests were started from.
        let program = host.command(arguments);
        let output = Command::new("setsid")
            .arg("--wait")
            .arg(program.get_program())
            .args(program.get_args())
            .current_dir(host.path(""))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2));
        let words = String::from_utf8(output.stderr).unwrap();
        assert!(words.contains("--passphrase-file FILE"), "{words}");
    }
}

#[test]
fn import_counts_what_its_key_opens() {
    let host = Host::new();
    let (file, passphrase) = vector(&host, "opens.toml");
    let import = import_of(&file, &passphrase);
    host.run(&import).succeeds();
    host.start_for_the_first_time(VM1, "nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    host.start_for_the_first_time(VM2, "nkp-a");
    host.run(&["provider", "delete", "nkp-a", "--force"])
        .succeeds();
    let imported = host.json(&import);
    assert_eq!(
        imported["opens"],
        serde_json::json!({ "key_refs": 2, "guests": 2 })
    );
}

#[test]
fn a_half_made_row_of_another_tools_does_not_stand_in_the_way_of_an_import() {
    let host = Host::with_provider("nkp-a");
    host.start_for_the_first_time(VM1, "nkp-a");
    let (file, passphrase) = export(&host, "nkp-a");
    let store = rusqlite::Connection::open(host.state_dir().join("store.db")).unwrap();
    store
        .execute("UPDATE key_provider SET key_id = NULL", [])
        .unwrap();
    drop(store);
    host.run(&[
        "provider",
        "import",
        &file,
        "--passphrase-file",
        &passphrase,
    ])
    .succeeds();
    let list = host.json(&["provider", "list"]);
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["name"], "nkp-a");
    assert_eq!(host.store().check().unwrap(), []);
}
