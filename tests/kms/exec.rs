//! `kms-exec`, with a command that needs no server: keys are files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vtpm_guard::internals::kms::{KmsSettings, Setting, Trouble};

use crate::plugin::section;
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
        let key: [u8; 32] = std::array::from_fn(|_| 0);
        let mut random = fs::File::open("/dev/urandom").unwrap();
        let mut key = key;
        std::io::Read::read_exact(&mut random, &mut key).unwrap();
        fs::write(self.dir.join("vtpm.key"), key).unwrap();
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
