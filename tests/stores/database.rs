//! A PostgreSQL for one test, and conversations with it through the built program.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use vtpm_guard::internals::clock::{Deadline, Timestamp};
use vtpm_guard::internals::config::StoreAddress;
use vtpm_guard::internals::fleet::{
    Client, Fact, FactId, FleetError, Kind, State, StateInfo, Trouble,
};
use vtpm_guard::internals::ids::{DomainUuid, HostUuid};
use vtpm_guard::internals::key::id::KeyId;

use crate::built::built;
use crate::service::Service;

/// How long a question may take in a test that is not about time.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// What a conversation has as credentials.
pub(crate) type Credentials = BTreeMap<String, String>;

/// A server with an empty database, or one with the schema in it.
pub(crate) struct Database {
    pub(crate) service: Service,
    _dir: TempDir,
}

impl Database {
    /// A server whose database has nothing in it.
    pub(crate) fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = Service::start("postgresql", dir.path()).unwrap();
        Self { service, _dir: dir }
    }

    /// A server whose database `init` has prepared.
    pub(crate) fn prepared() -> Self {
        let database = Self::empty();
        database.owner().init(soon()).unwrap();
        database
    }

    /// As a host, with its certificate.
    pub(crate) fn host(&self) -> Client {
        let fleet = &self.service.config.fleet;
        connect(fleet.store.as_ref().unwrap().as_str(), &fleet.credentials)
    }

    /// As another role, with its password.
    pub(crate) fn role(&self, name: &str) -> Client {
        let address = format!("postgresql://{name}@127.0.0.1:5480/vtpm_guard");
        connect(&address, &self.password(name))
    }

    pub(crate) fn owner(&self) -> Client {
        self.role("vtpm_guard_owner")
    }

    /// The credentials of a role with a password.
    pub(crate) fn password(&self, name: &str) -> Credentials {
        [
            ("ca", self.file("tls/ca.pem")),
            ("password_file", self.file(name)),
        ]
        .map(|(key, path)| (key.to_owned(), path))
        .into()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.service.dir().join(name).display().to_string()
    }

    /// The directory of its socket.
    pub(crate) fn place(&self) -> PathBuf {
        let place = fs::read_to_string(self.service.dir().join("place")).unwrap();
        place.trim_end().into()
    }

    /// A psql of the superuser, not started.
    pub(crate) fn psql(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.current_dir("/").args([
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
            "psql",
            "--quiet",
            "--no-psqlrc",
            "--no-align",
            "--tuples-only",
            "--port=5480",
            "--dbname=vtpm_guard",
        ]);
        command.arg("--host").arg(self.place());
        command
    }

    /// Runs a statement as the superuser, and returns what it says.
    #[track_caller]
    pub(crate) fn sql(&self, statement: &str) -> String {
        self.try_sql(statement).unwrap()
    }

    /// The same; an error is what psql says.
    pub(crate) fn try_sql(&self, statement: &str) -> Result<String, String> {
        let mut psql = self.psql();
        psql.args(["--set=ON_ERROR_STOP=1", "--command", statement]);
        let output = psql.output().unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        }
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// A conversation with a server at this address.
#[track_caller]
pub(crate) fn connect(address: &str, credentials: &Credentials) -> Client {
    try_connect(address, credentials).unwrap()
}

pub(crate) fn try_connect(address: &str, credentials: &Credentials) -> Result<Client, FleetError> {
    let address = StoreAddress::parse(address).unwrap();
    Client::start(&address, credentials, &built("store-postgresql"), soon())
}

/// A deadline for a question that is not about time.
pub(crate) fn soon() -> Deadline {
    Deadline::after(LONG)
}

pub(crate) fn domain(number: u8) -> DomainUuid {
    DomainUuid::parse(&format!("{number:032x}")).unwrap()
}

pub(crate) fn host(number: u8) -> HostUuid {
    HostUuid::parse(&format!("ffffffff{number:024x}")).unwrap()
}

pub(crate) fn key_id(number: u8) -> KeyId {
    KeyId::from_bytes([number; KeyId::LEN])
}

/// A fact about nothing in particular.
pub(crate) fn fact(kind: Kind, at: i64, body: &str) -> Fact {
    let body = format!("{{\"what\":\"{body}\"}}");
    Fact {
        id: FactId::of_body(kind, &body),
        kind,
        domain: None,
        key_id: None,
        host: host(1),
        at: Timestamp(at),
        body,
    }
}

/// A wrapped key of a guest.
pub(crate) fn key(guest: u8, kek: u8, at: i64) -> Fact {
    use base64ct::{Base64, Encoding};
    let wrapped = format!("key of {guest} under {kek} at {at}");
    let mut hash = Sha256::new();
    hash.update(domain(guest).as_bytes());
    hash.update(&wrapped);
    Fact {
        id: FactId(hash.finalize().into()),
        kind: Kind::Key,
        domain: Some(domain(guest)),
        key_id: Some(key_id(kek)),
        host: host(1),
        at: Timestamp(at),
        body: format!(
            "{{\"key\":\"{}\"}}",
            Base64::encode_string(wrapped.as_bytes())
        ),
    }
}

pub(crate) fn state(guest: u8, at: i64) -> State {
    let data = format!("state of {guest} at {at}").into_bytes();
    State {
        info: StateInfo {
            id: FactId::of_state(domain(guest), &data),
            domain: domain(guest),
            host: host(1),
            at: Timestamp(at),
            body: "{}".to_owned(),
        },
        data: Some(data),
    }
}

/// The trouble and the words of a refusal.
#[track_caller]
pub(crate) fn refusal<T>(answer: Result<T, FleetError>) -> (Trouble, String) {
    match answer.err().expect("it was done") {
        FleetError::Refused {
            trouble, message, ..
        } => (trouble, message),
        other => panic!("{other:?}"),
    }
}
