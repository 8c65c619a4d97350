//! `kms-pkcs11` with tokens: SoftHSM in each of its ways to wrap, and a TPM (tpm2-pkcs11 over swtpm).

use std::fs;
use std::marker::PhantomData;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use vtpm_guard::internals::kms::{KmsError, KmsSettings, Setting, Trouble};

use crate::memory::nothing_is_left;
use crate::plugin::text;
use crate::service::Service;
use crate::suite::{self, Bench, Change, Changed, Kind};

const TIMEOUT: Duration = Duration::from_secs(20);

/// SoftHSM, used by a section of its configuration and with a key.
struct SoftHsm<How>(Service, PhantomData<How>);

/// A way to wrap.
trait Way {
    const SECTION: &str;
    const KEY: &str = "vtpm";
}

struct AesGcm;
struct KeyWrap;
struct KeyWrapPad;
struct RsaOaep;

impl Way for AesGcm {
    const SECTION: &str = "softhsm";
}
impl Way for KeyWrap {
    const SECTION: &str = "key-wrap";
}
impl Way for KeyWrapPad {
    const SECTION: &str = "key-wrap-pad";
}
impl Way for RsaOaep {
    const SECTION: &str = "softhsm";
    const KEY: &str = "vtpm-rsa";
}

impl<How: Way> Kind for SoftHsm<How> {
    const NAME: &str = "pkcs11";

    fn start(dir: &Path) -> Result<Self, String> {
        Ok(Self(Service::start("softhsm", dir)?, PhantomData))
    }

    fn settings(&self) -> KmsSettings {
        self.0.section(How::SECTION)
    }

    fn remote_key(&self) -> String {
        How::KEY.to_owned()
    }

    fn change(&mut self, change: Change) -> Changed {
        match change {
            Change::RemakeKey => self.0.run_verb("remake-key"),
            Change::DeleteKey => self.0.run_verb("delete-key"),
            Change::Stop => return Changed::With(self.0.section("no-token")),
            Change::WrongCredentials => return Changed::With(self.0.section("wrong-pin")),
            Change::Freeze => return Changed::Never("files answer; the TPM has this case"),
            other => return never(other),
        }
        Changed::Done
    }
}

/// What there is for no token.
fn never(change: Change) -> Changed {
    Changed::Never(match change {
        Change::RotateKey => "keys of a token have no versions",
        Change::WrongCertificate | Change::ExpiredCertificate => "it has no certificates",
        _ => "it has no network",
    })
}

mod aes_gcm {
    use crate::suite::conformance;

    conformance!(
        super::SoftHsm<super::AesGcm>,
        ignore = "needs root and SoftHSM: ./dev kms"
    );
}

mod rsa_oaep {
    use crate::suite::conformance;

    conformance!(
        super::SoftHsm<super::RsaOaep>,
        ignore = "needs root and SoftHSM: ./dev kms"
    );
}

/// Of the suite, what depends on the way to wrap.
#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn aes_key_wrap() {
    suite::round_trip::<SoftHsm<KeyWrap>>();
    suite::does_not_open::<SoftHsm<KeyWrap>>(Change::RemakeKey);
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn aes_key_wrap_with_padding() {
    suite::round_trip::<SoftHsm<KeyWrapPad>>();
    suite::does_not_open::<SoftHsm<KeyWrapPad>>(Change::RemakeKey);
}

/// Of this way to wrap.
fn nothing_of_softhsm_is_left<How: Way>() {
    nothing_is_left(|token: &SoftHsm<How>, secrets| {
        let pin = fs::read(token.0.dir().join("pin")).unwrap();
        secrets.add("the PIN", pin.trim_ascii());
    });
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn nothing_is_left_in_its_memory() {
    nothing_of_softhsm_is_left::<AesGcm>();
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn nothing_of_a_key_wrap_is_left_in_its_memory() {
    nothing_of_softhsm_is_left::<KeyWrapPad>();
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn nothing_of_rsa_is_left_in_its_memory() {
    nothing_of_softhsm_is_left::<RsaOaep>();
}

mod tpm {
    use super::*;
    use crate::suite::conformance;

    /// A TPM.
    struct Tpm(Service);

    impl Kind for Tpm {
        const NAME: &str = "pkcs11";

        fn start(dir: &Path) -> Result<Self, String> {
            Ok(Self(Service::start("tpm2-pkcs11", dir)?))
        }

        fn settings(&self) -> KmsSettings {
            self.0.section("tpm2-pkcs11")
        }

        fn remote_key(&self) -> String {
            "vtpm".to_owned()
        }

        fn change(&mut self, change: Change) -> Changed {
            match change {
                Change::RemakeKey => self.0.run_verb("remake-key"),
                Change::DeleteKey => self.0.run_verb("delete-key"),
                Change::Stop => self.0.run_verb("down"),
                Change::Freeze => self.0.signal(Signal::SIGSTOP),
                Change::WrongCredentials => return Changed::With(self.0.section("wrong-pin")),
                other => return never(other),
            }
            Changed::Done
        }
    }

    conformance!(Tpm, ignore = "needs root and tpm2-pkcs11: ./dev kms");
}

type Any = SoftHsm<AesGcm>;

/// Checks what goes wrong when this key is to wrap.
#[track_caller]
fn refused(bench: &Bench<Any>, settings: &KmsSettings, key: &str, wanted: (Trouble, &str)) {
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

fn with(mut settings: KmsSettings, key: &str, value: Option<&str>) -> KmsSettings {
    let map = &mut settings.settings;
    match value {
        Some(value) => map.insert(key.to_owned(), text(value)),
        None => map.remove(key),
    };
    settings.timeout = TIMEOUT;
    settings
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn a_key_that_is_short_or_may_leave_the_token_does_not_wrap() {
    let Some(bench) = Bench::<Any>::start() else {
        return;
    };
    bench.kind.0.run_verb("make-others");
    let settings = with(bench.kind.settings(), "slot", None);
    for (key, why) in [
        (
            "short",
            "key \"short\" is an AES key of 128 bits; 256 are needed",
        ),
        ("leaves", "key \"leaves\" may leave the token"),
        ("short-rsa", "is an RSA key of 1024 bits; 2048 are needed"),
    ] {
        refused(&bench, &settings, key, (Trouble::Denied, why));
    }
    bench.end();
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn of_two_keys_with_one_label_the_one_that_wrapped_opens() {
    let Some(bench) = Bench::<Any>::start() else {
        return;
    };
    let settings = with(bench.kind.settings(), "slot", None);
    let mut client = bench.plugin.connect(&settings).unwrap();
    let first = client.wrap("vtpm", &bench.kek).unwrap();
    bench.kind.0.run_verb("make-second");
    let second = client.wrap("id:03", &bench.kek).unwrap();
    let versions = [&first, &second].map(|wrapped| wrapped.remote_version.clone());
    assert_eq!(versions, [Some("01".to_owned()), Some("03".to_owned())]);
    for wrapped in [&first, &second] {
        let opened = client.unwrap("vtpm", wrapped, bench.kek.key_id());
        assert!(opened.unwrap().expose() == bench.kek.expose());
    }
    drop(client);
    let ambiguous = "it has 2 keys \"vtpm\": name one by its CKA_ID, as id:HEX";
    refused(&bench, &settings, "vtpm", (Trouble::NoKey, ambiguous));
    bench.end();
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn what_was_wrapped_opens_whatever_the_mechanism_of_the_section_is_now() {
    let Some(bench) = Bench::<Any>::start() else {
        return;
    };
    let sections = ["softhsm", "key-wrap", "key-wrap-pad"];
    let sections = sections.map(|name| with(bench.kind.0.section(name), "slot", None));
    let wrapped = sections.each_ref().map(|settings| {
        let mut client = bench.plugin.connect(settings).unwrap();
        client.wrap("vtpm", &bench.kek).unwrap()
    });
    for (index, wrapped) in wrapped.iter().enumerate() {
        // The format, and the number of the method.
        let number = u8::try_from(index + 1).unwrap();
        assert_eq!(wrapped.blob[..2], [1, number]);
        for settings in &sections {
            let mut client = bench.plugin.connect(settings).unwrap();
            let opened = client.unwrap("vtpm", wrapped, bench.kek.key_id());
            assert!(opened.unwrap().expose() == bench.kek.expose());
        }
    }
    bench.end();
}

#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn what_is_wrong_with_a_section_is_named() {
    let Some(bench) = Bench::<Any>::start() else {
        return;
    };
    let good = bench.kind.settings();
    let dir = bench.kind.0.dir().display().to_string();
    let pin = format!("C_Login returned CKR_PIN_INCORRECT with the PIN in {dir}/wrong-pin");
    let wrong_pin = format!("{dir}/wrong-pin");
    for (key, value, wanted) in [
        ("module", None, (Trouble::Settings, "module is missing")),
        (
            "module",
            Some("/no/module.so"),
            (Trouble::Settings, "/no/module.so: there is no such file"),
        ),
        (
            "module",
            Some("/etc/passwd"),
            (Trouble::Settings, "/etc/passwd: invalid ELF header"),
        ),
        (
            "module",
            Some("libsofthsm2.so"),
            (Trouble::Settings, "module must be an absolute path"),
        ),
        (
            "token",
            None,
            (Trouble::Settings, "one of token and slot must be given"),
        ),
        (
            "slot",
            Some("1"),
            (Trouble::Settings, "one of token and slot must be given"),
        ),
        (
            "token",
            Some("elsewhere"),
            (
                Trouble::Unreachable,
                "there is no such token; there are: \"guard\"",
            ),
        ),
        (
            "pin_file",
            Some("/no/pin"),
            (Trouble::Credentials, "/no/pin: there is no such file"),
        ),
        (
            "pin_file",
            Some("/etc/passwd"),
            (
                Trouble::Credentials,
                "/etc/passwd is not trusted: others have access to it",
            ),
        ),
        ("pin_file", Some(&wrong_pin), (Trouble::Credentials, &pin)),
        // Keys made with --private are not there for one who has not logged in.
        ("pin_file", None, (Trouble::NoKey, "it has no key \"vtpm\"")),
        (
            "mechanism",
            Some("des"),
            (Trouble::Settings, "mechanism \"des\" is unknown"),
        ),
        (
            "mechanism",
            Some("rsa-oaep"),
            (Trouble::Denied, "mechanism rsa-oaep cannot be used"),
        ),
        (
            "environment",
            Some("A=B"),
            (Trouble::Settings, "environment must be a list of texts"),
        ),
        (
            "colour",
            Some("blue"),
            (Trouble::Settings, "unknown key \"colour\""),
        ),
    ] {
        refused(&bench, &with(good.clone(), key, value), "vtpm", wanted);
    }
    bench.end();
}

/// The number of a slot does instead of the token's label.
#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn a_slot_is_named_by_its_number() {
    let Some(bench) = Bench::<Any>::start() else {
        return;
    };
    let settings = with(bench.kind.settings(), "token", None);
    // An error lists the slots that there are.
    let client = bench
        .plugin
        .connect(&with(settings.clone(), "slot", Some("0")));
    let error = client.unwrap().status().unwrap_err().to_string();
    let (_, number) = error.split_once("there are: ").expect(&error);
    let client = bench.plugin.connect(&with(settings, "slot", Some(number)));
    let detail = client.unwrap().status().unwrap();
    assert!(
        detail.starts_with("token \"guard\": SoftHSM project SoftHSM v2, serial number "),
        "{detail}"
    );
    bench.end();
}

/// A module that anybody may have written is not loaded into root's process.
#[test]
#[ignore = "needs root and SoftHSM: ./dev kms"]
fn a_module_that_others_may_write_is_not_loaded() {
    let Some(bench) = Bench::<Any>::start() else {
        return;
    };
    let settings = bench.kind.settings();
    let Setting::Text(module) = &settings.settings["module"] else {
        panic!("it is a text");
    };
    let copy = bench.kind.0.dir().join("module.so");
    let installed = std::process::Command::new("install")
        .args(["-m", "0666", module])
        .arg(&copy)
        .status();
    assert!(installed.unwrap().success());
    let settings = with(settings, "module", copy.to_str());
    refused(
        &bench,
        &settings,
        "vtpm",
        (
            Trouble::Settings,
            "module.so is not trusted: others may write to it",
        ),
    );
    bench.end();
}
