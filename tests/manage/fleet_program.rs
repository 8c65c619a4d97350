//! A fleet's store that has its answers ready: the program of a scheme of its own, beside the test program.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use crate::clock::Timestamp;
use crate::domain::TpmVersion;
use crate::fleet::claim::{Claim, KeyClaim, PlacementClaim, Signed, StatusClaim};
use crate::fleet::status::KeyStatus;
use crate::fleet::tpm_state::{StateClaim, StateNote, outgoing};
use crate::fleet::{Fact, FactId, State};
use crate::host::process::tests::write_program;
use crate::ids::HostUuid;
use crate::key::kek::Kek;
use crate::manage::host::default_deadline;
use crate::store::KeyRefRecord;
use crate::swtpm::Backend;

/// The program of a scheme of its own, gone with the test.
pub(crate) struct StoreProgram {
    path: PathBuf,
    pub(crate) scheme: String,
}

impl StoreProgram {
    /// A scheme that nothing else has, and this script as its program.
    pub(crate) fn install(script: &str) -> Self {
        let letters = HostUuid::random().to_string().replace('-', "");
        let letter =
            |digit: char| char::from(b'a' + u8::try_from(digit.to_digit(16).unwrap()).unwrap());
        let scheme: String = letters.chars().map(letter).collect();
        let beside = std::env::current_exe().unwrap();
        let path = beside.with_file_name(format!("store-{scheme}"));
        write_program(&path, script);
        Self { path, scheme }
    }

    /// Makes it the fleet's store of a host, with more lines of `[fleet]`.
    pub(crate) fn configure(&self, fixture: &Fixture, more: &str) {
        let path = fixture.root().join("config.toml");
        let config = fs::read_to_string(&path).unwrap();
        let config = config.split("[fleet]").next().unwrap();
        let store = format!("[fleet]\nstore = \"{}://there\"\n{more}", self.scheme);
        fs::write(path, format!("{config}{store}")).unwrap();
    }
}

impl Drop for StoreProgram {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The store of a fleet, gone with the test.
pub(crate) struct FleetStore {
    program: StoreProgram,
    dir: tempfile::TempDir,
}

impl FleetStore {
    /// One that answers each question about a guest with these facts and states.
    pub(crate) fn with(facts: &[Fact], states: &[State]) -> Self {
        let answer = serde_json::json!({ "ok": true, "facts": facts, "states": states });
        Self::answering(&answer.to_string(), Duration::ZERO)
    }

    /// One that refuses.
    pub(crate) fn refusing(message: &str) -> Self {
        let answer = serde_json::json!({ "ok": false, "error": "unreachable", "message": message });
        Self::answering(&answer.to_string(), Duration::ZERO)
    }

    /// One that says this, after this time.
    pub(crate) fn answering(answer: &str, after: Duration) -> Self {
        Self::made(&[&[answer]], after)
    }

    /// One that answers the questions of each connection with its documents, in turn.
    pub(crate) fn in_turn(connections: &[&[&str]]) -> Self {
        Self::made(connections, Duration::ZERO)
    }

    /// The last connection's answers are those of all that follow.
    fn made(connections: &[&[&str]], after: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (number, answers) in (1..).zip(connections) {
            let frames: Vec<_> = answers.iter().map(|answer| frame(answer)).collect();
            fs::write(dir.path().join(format!("{number}")), frames.concat()).unwrap();
        }
        let place = dir.path().display();
        let choose = match connections.len() {
            1 => String::new(),
            last => format!(
                "n=$(($(/bin/cat {place}/asked | wc -l) + 1))\n[ $n -le {last} ] || n={last}\n"
            ),
        };
        let script = format!(
            "#!/bin/sh\n{choose}echo >>{place}/asked\n/bin/cat {place}/hello\nsleep {}\n\
             /bin/cat {place}/${{n-1}}\nexec /bin/cat >/dev/null\n",
            after.as_secs_f32()
        );
        let program = StoreProgram::install(&script);
        let hello = serde_json::json!({
            "ok": true, "protocol": 1, "kind": program.scheme, "version": "1"
        });
        fs::write(dir.path().join("hello"), frame(&hello.to_string())).unwrap();
        Self { program, dir }
    }

    /// How often its program was started.
    pub(crate) fn times_asked(&self) -> usize {
        let asked = fs::read(self.dir.path().join("asked"));
        asked.map_or(0, |lines| lines.len())
    }

    /// Makes it the fleet's store of a host, with more lines of `[fleet]`.
    pub(crate) fn configure(&self, fixture: &Fixture, more: &str) {
        self.program.configure(fixture, more);
    }
}

fn frame(document: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let length = u32::try_from(document.len()).unwrap();
    frame.write_all(&length.to_be_bytes()).unwrap();
    frame.write_all(document.as_bytes()).unwrap();
    frame
}

/// A host of the fleet that says what it has.
pub(crate) struct Member<'f> {
    pub(crate) fixture: &'f Fixture,
    pub(crate) host: HostUuid,
    pub(crate) name: &'static str,
}

impl<'f> Member<'f> {
    pub(crate) fn new(fixture: &'f Fixture, name: &'static str) -> Self {
        Self {
            fixture,
            host: HostUuid::random(),
            name,
        }
    }

    /// The provider key `a`.
    pub(crate) fn kek(&self) -> Kek {
        self.kek_of("a")
    }

    pub(crate) fn kek_of(&self, provider: &str) -> Kek {
        let key_id = self.fixture.provider(provider).key_id;
        let opened = self.fixture.host.keyring().open(key_id, default_deadline());
        opened.unwrap()
    }

    /// The keys of a guest that are in use.
    pub(crate) fn keys(&self, guest: &Defined) -> Vec<Fact> {
        let rows = self.fixture.rows(guest).into_iter();
        rows.filter(|row| row.retired_at.is_none())
            .map(|row| self.key(guest, &row))
            .collect()
    }

    pub(crate) fn key(&self, guest: &Defined, row: &KeyRefRecord) -> Fact {
        let wrapped = row.key_ref.wrapped_dek.clone().unwrap();
        let claim = KeyClaim::new(guest.uuid, wrapped, "a", Some(1)).unwrap();
        Claim::Key(claim).write(self.host, Timestamp(1))
    }

    /// That a key is this.
    pub(crate) fn status(
        &self,
        guest: &Defined,
        key: FactId,
        status: KeyStatus,
        kek: &Kek,
    ) -> Fact {
        let says = StatusClaim {
            key,
            domain: guest.uuid,
            revision: 2,
            status,
            host: self.host,
        };
        Claim::Status(Signed::new(says, kek)).write(self.host, Timestamp(1))
    }

    /// Where a guest is.
    pub(crate) fn placement(&self, guest: &Defined, running: bool, at: i64, kek: &Kek) -> Fact {
        let says = self.says(guest, running, at);
        Claim::Placement(Signed::new(says, kek)).write(self.host, Timestamp(1))
    }

    pub(crate) fn says(&self, guest: &Defined, running: bool, at: i64) -> PlacementClaim {
        PlacementClaim {
            domain: guest.uuid,
            name: guest.name.clone(),
            host: self.host,
            host_name: self.name.to_owned(),
            at,
            running,
        }
    }

    /// The TPM state that the guest has there, as of this time.
    pub(crate) fn state(&self, guest: &Defined, at: i64) -> State {
        let data = fs::read(self.fixture.state_file(guest)).unwrap();
        self.state_of(guest, &data, at, &self.kek())
    }

    pub(crate) fn state_of(&self, guest: &Defined, data: &[u8], at: i64, kek: &Kek) -> State {
        let claim = StateClaim {
            id: FactId::of_state(guest.uuid, data),
            domain: guest.uuid,
            host: self.host,
            host_name: self.name.to_owned(),
            at,
            note: StateNote {
                name: guest.name.clone(),
                tpm_version: TpmVersion::V2_0,
                backend: Backend::Directory,
            },
        };
        outgoing(&claim, data, kek).unwrap()
    }
}

/// A host that has the provider key of another one, and its guest without key and TPM state.
pub(crate) fn reinstalled(first: &Fixture, guest: &Defined) -> Fixture {
    let second = Fixture::new();
    second.adopt_provider_of(first, "a");
    let encryption = format!("<encryption secret='{}'/>", guest.secret);
    second.define_with(&guest.name, guest.uuid, guest.secret, &encryption);
    second
}
