//! `encrypt` and `key renew` of a TPM state in swtpm's linear format: `<source type='file'>`.

use std::fs;
use std::path::PathBuf;

use serde::Serialize;

use super::fixture::{Defined, Fixture};
use super::kill;
use crate::domain::Vtpm;
use crate::guard::{Mode, prepare};
use crate::host::crash;
use crate::ids::{DomainUuid, SecretUuid};
use crate::manage::checks::{Finding, KeyFinding, RecoveryFiles, examine};
use crate::manage::encrypt::{EncryptAction, EncryptError, EncryptResult, encrypt};
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::renew::{RenewError, Renewed, renew};
use crate::manage::stopped_guest::StoppedError;
use crate::store::Origin;
use crate::swtpm::{LockError, OldState, StateFile, read_state};
use crate::verdict::Decision;
use crate::verdict::facts::Damage;
use crate::verdict::refusal::Refusal;

/// As swtpm made it, unencrypted.
const PLAIN: &[u8] = include_bytes!("../vectors/tpm-state/linear-plain/state.linear");

/// Where the volatile state's offset is in the header.
const VOLATILE: usize = 24;

fn file(fixture: &Fixture) -> PathBuf {
    fixture.root().join("state.linear")
}

/// A guest that has used its plain TPM.
fn plain(fixture: &Fixture) -> Defined {
    let source = format!("<source type='file' path='{}'/>", file(fixture).display());
    fs::write(file(fixture), PLAIN).unwrap();
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    fixture.define_with("vm1", uuid, secret, &source)
}

fn encrypted(fixture: &Fixture) -> Result<EncryptResult, EncryptError> {
    encrypt(&fixture.host, "vm1", None)
}

fn renewed(fixture: &Fixture) -> Result<Renewed, RenewError> {
    renew(&fixture.host, "vm1")
}

/// What the result says in JSON about the old state.
fn old_state(result: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(result).unwrap()["old_state"].take()
}

fn is_plain(fixture: &Fixture, guest: &Defined) -> bool {
    let domain = fixture.domain(guest);
    let Some(Vtpm::Emulator(vtpm)) = &domain.vtpm else {
        panic!("{domain:?}");
    };
    let states = fixture.libvirt.dirs().tpm_states();
    matches!(read_state(&states, guest.uuid, vtpm), StateFile::Plain)
}

/// Whether any of these bytes are still in the file, after its header.
fn holds(fixture: &Fixture, old: &[u8]) -> bool {
    let file = fs::read(file(fixture)).unwrap();
    let mut blocks = old[192..]
        .chunks_exact(32)
        .filter(|block| block.iter().any(|&byte| byte != 0));
    blocks.any(|block| file.windows(32).any(|found| found == block))
}

#[test]
fn a_kill_while_it_is_encrypted_leaves_a_guest_that_starts_or_that_the_next_run_completes() {
    kill::everywhere(
        |fixture| drop(plain(fixture)),
        |fixture| drop(encrypted(fixture).unwrap()),
        |fixture| {
            let guest = fixture.defined("vm1");
            let is_plain = is_plain(fixture, &guest);
            let half_done = is_plain && fixture.domain(&guest).encrypted_vtpm().is_some();
            assert!(half_done != fixture.is_allowed(&guest));
            assert!(is_plain || fixture.opening_row(&guest).is_some());
        },
        |fixture| {
            let guest = fixture.defined("vm1");
            assert!(fixture.would_start(&guest));
            assert!(
                !holds(fixture, PLAIN),
                "the plain state is still in the file"
            );
            let kept = fixture.host.state_dir().plain_states();
            let kept = kept.join(guest.uuid.to_string()).join("state.linear");
            assert!(fs::read(kept).unwrap().starts_with(&PLAIN[..2000]));
        },
    );
}

#[test]
fn a_kill_while_its_key_is_renewed_leaves_a_guest_that_starts() {
    let guest = |fixture: &Fixture| fixture.defined("vm1");
    kill::everywhere(
        |fixture| {
            plain(fixture);
            encrypted(fixture).unwrap();
        },
        |fixture| drop(renewed(fixture).unwrap()),
        |fixture| assert!(fixture.would_start(&guest(fixture))),
        |fixture| fixture.assert_starts_with_one_key(&guest(fixture)),
    );
}

#[test]
fn what_the_old_key_opened_is_overwritten() {
    let fixture = Fixture::new();
    plain(&fixture);
    assert_eq!(
        encrypted(&fixture).unwrap().action,
        EncryptAction::Encrypted
    );
    for _ in 0..3 {
        let before = fs::read(file(&fixture)).unwrap();
        renewed(&fixture).unwrap();
        assert!(!holds(&fixture, &before));
        assert!(fixture.would_start(&fixture.defined("vm1")));
    }
}

#[test]
fn an_old_state_that_cannot_be_overwritten_is_told_and_found_and_the_hint_helps() {
    let fixture = Fixture::new();
    let guest = plain(&fixture);
    let is_found = || {
        let recovery = RecoveryFiles {
            files: &[],
            passphrase: None,
        };
        let found = examine(&fixture.host, &recovery);
        found.iter().any(|one| {
            matches!(one, Finding::Key(KeyFinding::OldStateLeft { guest, .. })
                if guest.name.as_deref() == Some("vm1"))
        })
    };

    crash::armed::fail_at(1);
    let result = encrypted(&fixture).unwrap();
    assert!(matches!(result.old_state, Some(OldState::Left(_))));
    assert_eq!(old_state(&result), "left");
    assert!(holds(&fixture, PLAIN) && is_found());
    // It starts all the same, and nothing that it does makes the finding go.
    assert!(fixture.would_start(&guest));

    // What helps may fail, too.
    crash::armed::fail_at(1);
    let failed = encrypted(&fixture).unwrap_err();
    assert!(matches!(failed, EncryptError::NotErased(..)), "{failed:?}");
    let result = encrypted(&fixture).unwrap();
    assert_eq!(result.action, EncryptAction::None);
    assert_eq!(old_state(&result), "erased");
    assert!(!holds(&fixture, PLAIN) && !is_found());
    assert_eq!(
        old_state(&encrypted(&fixture).unwrap()),
        serde_json::Value::Null
    );

    let before = fs::read(file(&fixture)).unwrap();
    crash::armed::fail_at(1);
    let result = renewed(&fixture).unwrap();
    assert_eq!(old_state(&result), "left");
    assert!(holds(&fixture, &before) && is_found());
    // The next one overwrites what is left of all before it.
    let result = renewed(&fixture).unwrap();
    assert_eq!(old_state(&result), "erased");
    assert!(!holds(&fixture, &before) && !is_found());
}

#[test]
fn a_file_that_holds_a_volatile_state_too_is_left_alone() {
    let fixture = Fixture::new();
    plain(&fixture);
    let mut with_volatile = PLAIN.to_vec();
    with_volatile[VOLATILE] = 1;
    fs::write(file(&fixture), &with_volatile).unwrap();
    let refused = encrypted(&fixture).unwrap_err();
    assert!(
        matches!(
            &refused,
            EncryptError::Stopped(StoppedError::Locked(_, LockError::Volatile(_)))
        ),
        "{refused:?}"
    );
    assert_eq!(fs::read(file(&fixture)).unwrap(), with_volatile);
}

/// A typo in the path is enough to lead to a file of root's, short or longer than a state.
#[test]
fn a_path_that_leads_to_another_file_is_refused_and_the_file_stays() {
    let fixture = Fixture::new();
    plain(&fixture);
    encrypted(&fixture).unwrap();
    let guest = fixture.defined("vm1");
    fixture.save_copy(&guest);
    let refusal = || {
        let refusals = [Mode::DryRun, Mode::CarryOut].map(|mode| {
            let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
            let (domain, origin) = (Ok(fixture.domain(&guest)), Origin::Prepare);
            let outcome = prepare(&guard, &domain, origin, mode, default_deadline());
            match outcome.verdict.decision() {
                Decision::Allow(_) => None,
                Decision::Deny(why) => Some(why.clone()),
            }
        });
        let [foreseen, refused] = refusals;
        assert_eq!(foreseen, refused);
        refused
    };
    // In its own place the copy replaces what is damaged.
    let state = fs::read(file(&fixture)).unwrap();
    fs::write(file(&fixture), "damaged").unwrap();
    assert_eq!(refusal(), None);
    assert_eq!(fs::read(file(&fixture)).unwrap(), state);

    let passwd = fixture.root().join("passwd");
    let found = fixture.host.defined_guest("vm1").unwrap().xml;
    let elsewhere = found.replace(file(&fixture).to_str().unwrap(), passwd.to_str().unwrap());
    fixture.libvirt.guests.define(&elsewhere);
    for content in [vec![b'x'; 100], vec![b'x'; 20_000_000]] {
        fs::write(&passwd, &content).unwrap();
        let Some(Refusal::TpmStateDamaged {
            damage: Damage { how, .. },
            is_named_by_xml: true,
        }) = refusal()
        else {
            panic!("{:?}", refusal());
        };
        assert!(how.contains(passwd.to_str().unwrap()), "{how}");
        assert!(how.contains("is not known as a TPM state"), "{how}");
        assert!(fs::read(&passwd).unwrap() == content);
        let names = fs::read_dir(fixture.root()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(names.filter(|name| name.starts_with("passwd")).count(), 1);
    }
}
