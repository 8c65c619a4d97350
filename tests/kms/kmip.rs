//! `kms-kmip` with PyKMIP's server: wrapping there, and here with a key that it gives out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use vtpm_guard::internals::kms::{KmsError, KmsSettings, Trouble};

use crate::memory::nothing_is_left;
use crate::plugin::text;
use crate::service::Service;
use crate::suite::{Bench, Change, Changed, Kind};
use crate::traces::Secrets;

const TIMEOUT: Duration = Duration::from_secs(20);

/// Its port.
const PORT: u16 = 5696;

/// A server, and where a key is wrapped.
struct PyKmip {
    service: Service,
    operation: &'static str,
}

impl PyKmip {
    fn start(dir: &Path, operation: &'static str) -> Result<Self, String> {
        let service = Service::start("pykmip", dir)?;
        Ok(Self { service, operation })
    }

    fn section(&self, name: &str) -> KmsSettings {
        with(self.service.section(name), "operation", self.operation)
    }

    /// What it knows the plugin by.
    fn add_private_key(&self, secrets: &mut Secrets) {
        let pem = fs::read_to_string(self.service.dir().join("tls/client.key"));
        secrets.add_private_key("the private key", &pem.unwrap());
    }

    fn change(&mut self, change: Change) -> Changed {
        match change {
            Change::RemakeKey => self.service.run_verb("remake-key"),
            Change::DeleteKey => self.service.run_verb("delete-key"),
            Change::RotateKey => self.service.run_verb("rotate-key"),
            Change::Stop => self.service.run_verb("down"),
            Change::Freeze => self.service.signal(Signal::SIGSTOP),
            Change::ExpiredCertificate => self.service.run_verb("expire"),
            Change::WrongCertificate => return Changed::With(self.section("untrusted")),
            Change::WrongCredentials => return Changed::With(self.section("stranger")),
            Change::Through(port) => {
                let address = format!("127.0.0.1:{port}");
                let settings = with(self.section("pykmip"), "address", &address);
                return Changed::Behind(settings, PORT);
            }
        }
        Changed::Done
    }
}

/// The conformance suite for one way to wrap.
macro_rules! pykmip {
    ($operation:ident) => {
        mod $operation {
            use std::path::Path;

            use vtpm_guard::internals::kms::KmsSettings;

            use crate::suite::{Change, Changed, Kind, conformance};

            pub(super) struct Server(pub(super) super::PyKmip);

            impl Kind for Server {
                const NAME: &str = "kmip";

                fn start(dir: &Path) -> Result<Self, String> {
                    super::PyKmip::start(dir, stringify!($operation)).map(Self)
                }

                fn settings(&self) -> KmsSettings {
                    self.0.section("pykmip")
                }

                fn remote_key(&self) -> String {
                    "vtpm".to_owned()
                }

                fn change(&mut self, change: Change) -> Changed {
                    self.0.change(change)
                }
            }

            conformance!(Server, ignore = "needs root and PyKMIP: ./dev kms");
        }
    };
}

pykmip!(get);
pykmip!(encrypt);

#[test]
#[ignore = "needs root and PyKMIP: ./dev kms"]
fn nothing_is_left_in_its_memory_where_the_server_encrypts() {
    nothing_is_left(|server: &encrypt::Server, secrets| server.0.add_private_key(secrets));
}

/// The server's key has been here, too.
#[test]
#[ignore = "needs root and PyKMIP: ./dev kms"]
fn nothing_is_left_in_its_memory_of_a_key_that_the_server_gives_out() {
    nothing_is_left(|server: &get::Server, secrets| {
        server.0.add_private_key(secrets);
        let service = &server.0.service;
        service.run_verb("tell-key");
        let key = fs::read(service.dir().join("vtpm.key")).unwrap();
        assert_eq!(key.len(), 32);
        secrets.add("the server's key", &key);
    });
}

fn with(mut settings: KmsSettings, key: &str, value: &str) -> KmsSettings {
    settings.settings.insert(key.to_owned(), text(value));
    settings.timeout = TIMEOUT;
    settings
}

/// Checks what goes wrong when this key is to wrap.
#[track_caller]
fn refused(bench: &Bench<get::Server>, settings: &KmsSettings, key: &str, wanted: (Trouble, &str)) {
    let client = bench.plugin.connect(settings);
    let error = client
        .and_then(|mut client| client.wrap(key, &bench.kek))
        .err();
    match error.expect("it wrapped") {
        KmsError::Refused {
            trouble, message, ..
        } => {
            assert!(message.contains(wanted.1), "{message}");
            assert_eq!(trouble, wanted.0, "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root and PyKMIP: ./dev kms"]
fn auto_encrypts_at_the_server_where_the_key_may_and_what_was_wrapped_opens_everywhere() {
    let Some(bench) = Bench::<get::Server>::start() else {
        return;
    };
    bench.kind.0.service.run_verb("make-others");
    let section = bench.kind.settings();
    let sections = ["get", "encrypt", "auto"].map(|how| with(section.clone(), "operation", how));
    // The number of the method in the wrapped key: 1 here, 2 at the server.
    for (settings, key, number) in [
        (&sections[0], "vtpm", 1),
        (&sections[1], "vtpm", 2),
        (&sections[2], "vtpm", 2),
        (&sections[2], "wrap-only", 1),
    ] {
        let mut client = bench.plugin.connect(settings).unwrap();
        let wrapped = client.wrap(key, &bench.kek).unwrap();
        assert_eq!(wrapped.blob[..2], [1, number], "{key}");
        for settings in &sections {
            let mut client = bench.plugin.connect(settings).unwrap();
            let opened = client.unwrap(key, &wrapped, bench.kek.key_id());
            assert!(opened.unwrap().expose() == bench.kek.expose());
        }
    }
    let denied = (
        Trouble::Denied,
        "key \"wrap-only\": The Encrypt bit must be set",
    );
    refused(&bench, &sections[1], "wrap-only", denied);
    bench.end();
}

#[test]
#[ignore = "needs root and PyKMIP: ./dev kms"]
fn a_key_that_is_short_idle_or_not_the_only_one_does_not_wrap() {
    let Some(bench) = Bench::<get::Server>::start() else {
        return;
    };
    bench.kind.0.service.run_verb("make-others");
    let settings = with(bench.kind.settings(), "operation", "auto");
    for (key, trouble, why) in [
        (
            "idle",
            Trouble::NoKey,
            "the server has no such key that is active",
        ),
        (
            "short",
            Trouble::Denied,
            "it is an AES key of 128 bits; 256 are needed",
        ),
        (
            "twice",
            Trouble::NoKey,
            "the server has 2 such keys: name one by its identifier",
        ),
        ("id:no-such", Trouble::NoKey, "key id:no-such: "),
    ] {
        refused(&bench, &settings, key, (trouble, why));
    }
    let mut client = bench.plugin.connect(&settings).unwrap();
    let wrapped = client.wrap("id:1", &bench.kek).unwrap();
    assert_eq!(wrapped.remote_version.as_deref(), Some("1"));
    drop(client);
    bench.end();
}

#[test]
#[ignore = "needs root and PyKMIP: ./dev kms"]
fn what_is_wrong_with_a_section_is_named() {
    let Some(bench) = Bench::<get::Server>::start() else {
        return;
    };
    let good = bench.kind.settings();
    for (key, value, wanted) in [
        (
            "address",
            "127.0.0.1:1",
            (Trouble::Unreachable, "127.0.0.1:1: Connection refused"),
        ),
        (
            "address",
            "http://x/",
            (
                Trouble::Settings,
                "address \"http://x/\" is no HOST or HOST:PORT",
            ),
        ),
        (
            "operation",
            "mac",
            (Trouble::Settings, "operation \"mac\" is unknown"),
        ),
        (
            "ca",
            "/no/ca.pem",
            (Trouble::Credentials, "/no/ca.pem: there is no such file"),
        ),
        (
            "colour",
            "blue",
            (Trouble::Settings, "unknown key \"colour\""),
        ),
    ] {
        refused(&bench, &with(good.clone(), key, value), "vtpm", wanted);
    }
    for missing in [&["certificate"][..], &["key"], &["certificate", "key"]] {
        let mut settings = good.clone();
        for key in missing {
            settings.settings.remove(*key);
        }
        refused(
            &bench,
            &settings,
            "vtpm",
            (Trouble::Settings, "certificate and key"),
        );
    }
    let outdated = bench.kind.0.section("outdated");
    refused(
        &bench,
        &outdated,
        "vtpm",
        (Trouble::Credentials, "outdated.pem: it has expired"),
    );
    bench.end();
}
