//! `kms-exec`, with a command that needs no server: keys are files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::kms::{KmsError, KmsSettings, Setting, Trouble};

use crate::plugin::{Script, section};
use crate::suite::{Change, Changed, Kind, conformance};

/// Encrypts with a key in a file, and authenticates.
const COMMAND: &str = r#"
import hashlib, hmac, os, sys, time
verb, dir, name = sys.argv[1:]
if os.path.exists(dir + "/hang"): time.sleep(60)
try: key = open(f"{dir}/{name}.key", "rb").read()
except OSError as error: sys.exit(str(error))
def tag(text): return hmac.new(key, text, hashlib.sha256).digest()
def crypt(nonce, text): return bytes(a ^ b for a, b in zip(text, tag(nonce)))
data = sys.stdin.buffer.read()
if verb == "wrap":
    nonce = os.urandom(16)
    text = nonce + crypt(nonce, data)
    sys.stdout.buffer.write(text + tag(text))
else:
    text = data[:-32]
    if not hmac.compare_digest(tag(text), data[-32:]): sys.exit("it is no box of this key")
    sys.stdout.buffer.write(crypt(text[:16], text[16:]))
"#;

/// Keys in files.
struct Files {
    dir: PathBuf,
}

impl Files {
    fn make_key(&self) {
        let key = Kek::generate().unwrap();
        fs::write(self.dir.join("vtpm.key"), key.expose()).unwrap();
    }

    fn command(&self, verb: &str) -> Setting {
        let (program, dir) = (self.dir.join("box"), self.dir.display());
        let words = [
            "/usr/bin/python3".into(),
            program.display().to_string(),
            verb.into(),
        ];
        Setting::List([&words[..], &[dir.to_string(), "{key}".into()]].concat())
    }
}

impl Kind for Files {
    const NAME: &str = "exec";

    fn start(dir: &Path) -> Result<Self, String> {
        fs::write(dir.join("box"), COMMAND).unwrap();
        let files = Self {
            dir: dir.to_owned(),
        };
        files.make_key();
        Ok(files)
    }

    fn settings(&self) -> KmsSettings {
        let commands = [
            ("wrap", self.command("wrap")),
            ("unwrap", self.command("unwrap")),
        ];
        section("exec", Duration::ZERO, &commands)
    }

    fn remote_key(&self) -> String {
        "vtpm".to_owned()
    }

    fn change(&mut self, change: Change) -> Changed {
        match change {
            Change::RemakeKey => self.make_key(),
            Change::DeleteKey => fs::remove_file(self.dir.join("vtpm.key")).unwrap(),
            Change::Freeze => fs::write(self.dir.join("hang"), "").unwrap(),
            Change::RotateKey => return Changed::Never("a command tells no versions"),
            Change::Stop | Change::Through(_) => return Changed::Never("it has no server"),
            Change::WrongCertificate | Change::ExpiredCertificate => {
                return Changed::Never("it has no certificates");
            }
            Change::WrongCredentials => return Changed::Never("credentials are the command's"),
        }
        Changed::Done
    }

    /// A command says only that it has failed.
    fn trouble(change: Change) -> &'static [Trouble] {
        match change {
            Change::Freeze => &[Trouble::Unreachable],
            _ => &[Trouble::NotOpened],
        }
    }
}

conformance!(Files);

/// For a command that hangs, and for one that ends.
const SHORT: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(20);

/// What becomes of a wrap by this command.
fn wrap_by(command: &[&str]) -> Result<(), KmsError> {
    wrap_with("vtpm", command)
}

/// The same, with a key of this name.
fn wrap_with(key: &str, command: &[&str]) -> Result<(), KmsError> {
    wrap_within(LONG, key, command)
}

fn wrap_within(timeout: Duration, key: &str, command: &[&str]) -> Result<(), KmsError> {
    let command = Setting::List(command.iter().map(|word| (*word).to_owned()).collect());
    let commands = [("wrap", command.clone()), ("unwrap", command)];
    let script = Script::around("exec");
    let section = section("exec", timeout, &commands);
    let mut client = script.connect(&section)?;
    let wrapped = client.wrap(key, &Kek::generate().unwrap());
    drop(client);
    script.nothing_is_left();
    wrapped.map(|_| ())
}

#[test]
fn what_is_wrong_with_a_command_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("open");
    fs::write(&program, "#!/bin/sh\ncat\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o777)).unwrap();
    let writable = program.to_str().unwrap();
    for (command, trouble, words) in [
        (&["cat"][..], Trouble::Settings, "the absolute path"),
        (
            &["/usr/bin/no-such-program"],
            Trouble::Settings,
            "no such file",
        ),
        (&[writable], Trouble::Settings, "others may write to it"),
        (&["/usr/bin/false"], Trouble::Failed, "exit status: 1"),
        (
            &["/usr/bin/sh", "-c", "kill -9 $$"],
            Trouble::Failed,
            "signal: 9",
        ),
        (
            &["/usr/bin/sh", "-c", "echo one >&2; echo two >&2; exit 3"],
            Trouble::Failed,
            "3: two",
        ),
        (
            &["/usr/bin/sleep", "60"],
            Trouble::Unreachable,
            "did not end in time",
        ),
        (&["/usr/bin/yes"], Trouble::Failed, "more than 65536 bytes"),
    ] {
        let timeout = if trouble == Trouble::Unreachable {
            SHORT
        } else {
            LONG
        };
        match wrap_within(timeout, "vtpm", command) {
            Err(KmsError::Refused {
                trouble: found,
                message,
                ..
            }) => {
                assert_eq!(found, trouble, "{command:?}: {message}");
                assert!(message.contains(words), "{command:?}: {message}");
            }
            other => panic!("{command:?}: {other:?}"),
        }
    }
    let empty = wrap_by(&["/usr/bin/true"]).unwrap_err();
    assert!(matches!(empty, KmsError::Nonsense { .. }), "{empty:?}");
}

#[test]
fn the_name_of_a_key_is_no_option_and_no_file_elsewhere() {
    let whole = &["/usr/bin/tee", "{key}"][..];
    let word = &["/usr/bin/sh", "-c", "cat; : {key}"][..];
    let inside = &["/usr/bin/sh", "-c", "cat", "x", r#"{"thp":"{key}"}"#][..];
    let none = &["/usr/bin/cat"][..];
    for (key, command, words) in [
        ("-a", whole, "may not begin with -"),
        ("--output", whole, "may not begin with -"),
        ("-a", word, "may not begin with -"),
        ("/etc/shadow", whole, "may not begin with /"),
        ("/etc/shadow", inside, "may not begin with /"),
        ("..", inside, "have .. between slashes"),
        ("keys/../../x", none, "have .. between slashes"),
        ("a b", none, "letters, digits"),
    ] {
        match wrap_with(key, command) {
            Err(KmsError::Refused {
                trouble: Trouble::NoKey,
                message,
                ..
            }) => assert!(message.contains(words), "{key}: {message}"),
            other => panic!("{key}: {other:?}"),
        }
    }
    for (key, command) in [
        ("-thumbprint_", inside),
        ("-a", none),
        ("a/b..c/.d", inside),
        ("a-b", word),
    ] {
        // It was run, and gave the provider key back as it was.
        let ran = wrap_with(key, command).unwrap_err();
        assert!(matches!(ran, KmsError::NotWrapped(_)), "{key}: {ran:?}");
    }
}
