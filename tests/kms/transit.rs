//! `kms-transit` with OpenBao, the real server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use vtpm_guard::internals::kms::{KmsError, KmsSettings, Setting, Trouble};

use crate::memory::nothing_is_left;
use crate::plugin::text;
use crate::service::Service;
use crate::suite::{Bench, Change, Changed, Kind, conformance};

/// A server, reached through this section of its configuration.
struct OpenBao(Service);

impl Kind for OpenBao {
    const NAME: &str = "transit";

    fn start(dir: &Path) -> Result<Self, String> {
        Ok(Self(Service::start("openbao", dir)?))
    }

    fn settings(&self) -> KmsSettings {
        self.0.section("openbao")
    }

    fn remote_key(&self) -> String {
        "vtpm".to_owned()
    }

    fn change(&mut self, change: Change) -> Changed {
        match change {
            Change::RemakeKey => self.0.run_verb("remake-key"),
            Change::DeleteKey => self.0.run_verb("delete-key"),
            Change::RotateKey => self.0.run_verb("rotate-key"),
            Change::Stop => self.0.run_verb("down"),
            Change::Freeze => self.0.signal(Signal::SIGSTOP),
            Change::WrongCertificate => return Changed::With(self.0.section("untrusted")),
            Change::ExpiredCertificate => return Changed::With(self.0.section("expired")),
            Change::WrongCredentials => return Changed::With(self.0.section("wrong-token")),
            Change::Through(port) => {
                let address = format!("https://127.0.0.1:{port}");
                return Changed::Behind(with(self.settings(), "address", text(address)), 8200);
            }
        }
        Changed::Done
    }
}

conformance!(OpenBao, ignore = "needs root and OpenBao: ./dev kms");

#[test]
#[ignore = "needs root and OpenBao: ./dev kms"]
fn nothing_is_left_in_its_memory() {
    nothing_is_left(|bao: &OpenBao, secrets| {
        let token = fs::read(bao.0.dir().join("token")).unwrap();
        secrets.add("the token", token.trim_ascii());
    });
}

fn with(mut settings: KmsSettings, key: &str, value: Setting) -> KmsSettings {
    settings.settings.insert(key.to_owned(), value);
    settings
}

/// What goes wrong with a section of the server's configuration.
#[track_caller]
fn refused(bench: &Bench<OpenBao>, settings: KmsSettings) -> (Trouble, String) {
    match bench.try_with(settings) {
        Ok(()) => panic!("it works"),
        Err(KmsError::Refused {
            trouble, message, ..
        }) => {
            eprintln!("{trouble:?}: {message}");
            (trouble, message)
        }
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root and OpenBao: ./dev kms"]
fn a_host_logs_in_with_a_token_as_an_app_role_or_with_a_certificate() {
    let Some(bench) = Bench::<OpenBao>::start() else {
        return;
    };
    for section in ["openbao", "approle", "certificate", "mutual", "namespace"] {
        let mut client = bench
            .plugin
            .connect(&bench.kind.0.section(section))
            .unwrap();
        let detail = client.status().unwrap();
        assert!(
            detail.starts_with("version 2.") && detail.contains(", token until 20"),
            "{detail}"
        );
        drop(client);
        bench.try_with(bench.kind.0.section(section)).unwrap();
    }
    bench.end();
}

#[test]
#[ignore = "needs root and OpenBao: ./dev kms"]
fn what_is_wrong_with_a_section_is_named() {
    let Some(bench) = Bench::<OpenBao>::start() else {
        return;
    };
    let dir = bench.kind.0.dir().display().to_string();
    let section = |name: &str| bench.kind.0.section(name);
    let outdated = format!("{dir}/tls/outdated.pem: it has expired");
    let stranger = format!("{dir}/tls/stranger.pem: ");
    let other_ca = format!("is of no authority in {dir}/tls/other-ca.pem");
    for (name, trouble, words) in [
        ("wrong-token", Trouble::Credentials, "permission denied"),
        (
            "wrong-role",
            Trouble::Credentials,
            "auth/approle/login: invalid role",
        ),
        (
            "wrong-secret",
            Trouble::Credentials,
            "auth/approle/login: invalid ",
        ),
        ("powerless", Trouble::Denied, "transit/encrypt/vtpm: "),
        (
            "outdated",
            Trouble::Credentials,
            "auth/cert/login: failed to verify",
        ),
        ("mutual-outdated", Trouble::Credentials, &outdated),
        ("stranger", Trouble::Credentials, "auth/cert/login: "),
        ("mutual-stranger", Trouble::Credentials, &stranger),
        (
            "mutual-without",
            Trouble::Credentials,
            "certificate and key are missing",
        ),
        ("untrusted", Trouble::Unreachable, &other_ca),
        (
            "host-authorities",
            Trouble::Unreachable,
            "is of no authority that this host trusts",
        ),
        (
            "expired",
            Trouble::Unreachable,
            "127.0.0.1:8210: its certificate expired ",
        ),
        (
            "elsewhere",
            Trouble::Unreachable,
            "is for another name: kms.invalid",
        ),
    ] {
        let (found, message) = refused(&bench, section(name));
        assert_eq!(found, trouble, "{name}: {message}");
        assert!(message.contains(words), "{name}: {message}");
    }
    bench.end();
}

#[test]
#[ignore = "needs root and OpenBao: ./dev kms"]
fn what_is_wrong_with_a_setting_is_named() {
    let Some(bench) = Bench::<OpenBao>::start() else {
        return;
    };
    let dir = bench.kind.0.dir().display().to_string();
    let section = |name: &str| bench.kind.0.section(name);
    let changed = |key: &str, value: &str| with(section("openbao"), key, text(value));
    for (settings, trouble, words) in [
        (changed("mount", "elsewhere"), Trouble::Denied, "elsewhere/"),
        (
            changed("namespace", "team-a"),
            Trouble::NoKey,
            "namespace not found",
        ),
        (
            changed("address", "https://127.0.0.1:1"),
            Trouble::Unreachable,
            "127.0.0.1:1: ",
        ),
        (
            changed("address", "https://kms.invalid"),
            Trouble::Unreachable,
            "kms.invalid:8200: ",
        ),
        (
            changed("address", "http://127.0.0.1:8200"),
            Trouble::Settings,
            "is no URL",
        ),
        (
            changed("adress", "x"),
            Trouble::Settings,
            "unknown key \"adress\"",
        ),
        (
            changed("role_id", "x"),
            Trouble::Settings,
            "exactly one of these",
        ),
        (
            changed("key", &format!("{dir}/tls/client.key")),
            Trouble::Settings,
            "both",
        ),
        (
            changed("token_file", &format!("{dir}/none")),
            Trouble::Credentials,
            "/none: ",
        ),
        (
            changed("ca", &format!("{dir}/log")),
            Trouble::Credentials,
            "no certificate in PEM",
        ),
    ] {
        let (found, message) = refused(&bench, settings);
        assert_eq!(found, trouble, "{message}");
        assert!(message.contains(words), "{words}: {message}");
    }
    bench.end();
}

#[test]
#[ignore = "needs root and OpenBao: ./dev kms"]
fn a_version_that_was_given_up_is_named_and_so_is_a_sealed_server() {
    let Some(bench) = Bench::<OpenBao>::start() else {
        return;
    };
    let mut client = bench.connect(Duration::from_secs(20)).unwrap();
    let kek = vtpm_guard::internals::key::kek::Kek::generate().unwrap();
    let wrapped = client.wrap("vtpm", &kek).unwrap();
    assert_eq!(wrapped.remote_version.as_deref(), Some("1"));
    assert!(wrapped.blob.starts_with(b"vault:v1:"));
    let error = client
        .unwrap("another", &wrapped, kek.key_id())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            KmsError::Refused {
                trouble: Trouble::Denied,
                ..
            }
        ),
        "{error:?}"
    );
    bench.kind.0.run_verb("forget-old-versions");
    let error = client.unwrap("vtpm", &wrapped, kek.key_id()).err().unwrap();
    assert!(
        matches!(
            error,
            KmsError::Refused {
                trouble: Trouble::NoKey,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("(it was wrapped by version 1)"),
        "{error}"
    );
    bench.kind.0.run_verb("seal");
    for error in [
        client.unwrap("vtpm", &wrapped, kek.key_id()).err().unwrap(),
        client.status().unwrap_err(),
    ] {
        eprintln!("{error}");
        let unreachable = matches!(
            error,
            KmsError::Refused {
                trouble: Trouble::Unreachable,
                ..
            }
        );
        assert!(
            unreachable && error.to_string().contains("sealed"),
            "{error:?}"
        );
    }
    drop(client);
    bench.end();
}
