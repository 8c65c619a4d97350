//! `stage` and `unstage`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::fixture::Fixture;
use super::kill;
use crate::clock::Deadline;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::libvirt::fake::{Call, Failure};
use crate::libvirt::secret::SecretError;
use crate::manage::host::Host;
use crate::manage::stage::{StageError, stage, stage_until};
use crate::manage::unstage::{Daemon, Patience, UnstageError, Unstaged, unstage_once_read};
use crate::staging::{StagingError, files_read};
use crate::store::EventFilter;
use crate::verdict::Decision;
use crate::verdict::refusal::Refusal;

/// Starts libvirtd, which loads the secrets in its directory.
fn start_daemon(fixture: &Fixture) {
    let pid_file = fixture.libvirt.dirs().pid_file("libvirtd");
    fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
    fs::write(pid_file, "1").unwrap();
    fixture.libvirt.secrets.restart();
}

#[test]
fn the_modular_daemons_need_no_staged_keys() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    // What is left of a time with libvirtd goes.
    stage(&fixture.host).unwrap();
    assert_eq!(staged(&fixture), 1);
    let pid_file = fixture.libvirt.dirs().pid_file("virtqemud");
    fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
    fs::write(pid_file, "1").unwrap();
    assert!(stage(&fixture.host).unwrap().is_empty());
    assert_eq!(staged(&fixture), 0);
}

/// The hook allows its start, for it may have no vTPM; `stage` says that it gets no key, and why.
#[test]
fn a_guest_whose_definition_cannot_be_read_is_refused_a_key_with_the_reason() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let dirs = fixture.libvirt.dirs();
    fs::write(dirs.definitions().join("vm1.xml"), "<domain").unwrap();
    let started = stage(&fixture.host).unwrap();
    let [one] = started.as_slice() else {
        panic!("{} guests", started.len());
    };
    let Decision::Deny(Refusal::DomainXmlInvalid { reason }) = one.outcome.verdict.decision()
    else {
        panic!("{:?}", one.outcome.verdict);
    };
    assert!(!reason.is_empty());
    assert_eq!(staged(&fixture), 0);
}

/// Each guest without a key is looked for under other names; with ten thousand definitions that took minutes, and
/// the daemon waits.
#[test]
fn the_definitions_are_read_once_for_all_guests_that_have_no_key() {
    let fixture = Fixture::new();
    let read = |guests: usize| {
        files_read(|| {
            let judged = stage(&fixture.host).unwrap();
            assert_eq!(judged.len(), guests);
            for one in &judged {
                let decision = one.outcome.verdict.decision();
                assert_eq!(*decision, Decision::Deny(Refusal::KeyMissing));
            }
        })
    };
    let define = |numbers: std::ops::Range<usize>| {
        for number in numbers {
            let name = format!("vm{number}");
            fixture.define(&name);
            fixture.autostart(&name);
        }
    };
    define(0..1);
    let of_one = read(1);
    define(1..20);
    let of_twenty = read(20);
    assert!(of_twenty <= 20 * of_one, "{of_one} and {of_twenty} files");
}

#[test]
fn guests_for_which_there_is_no_time_left_are_refused_unjudged() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let uuid = DomainUuid::random();
    let without = format!("<domain type='qemu'><name>vm2</name><uuid>{uuid}</uuid></domain>");
    fixture.libvirt.guests.define(&without);
    fixture.autostart("vm2");
    let over = Deadline::after(Duration::ZERO);
    let judged = stage_until(&fixture.host, over).unwrap();
    let decision = judged[0].outcome.verdict.decision();
    assert_eq!(*decision, Decision::Deny(Refusal::StagingTimePassed));
    assert_eq!(judged[0].outcome.domain.as_ref().unwrap().uuid, guest.uuid);
    assert!(judged[1].outcome.is_allowed(), "it has no TPM");
    assert_eq!(staged(&fixture), 0);
    let history = fixture.store().history(EventFilter::All, 9).unwrap();
    assert!(history.is_empty(), "{history:?}");
}

fn has_value(fixture: &Fixture, secret: SecretUuid) -> bool {
    fixture.libvirt.secrets.value(secret).is_some()
}

/// What a person, or `ExecStopPost`, runs.
fn unstage(host: &Host) -> Result<Unstaged, UnstageError> {
    crate::manage::unstage::unstage(host, Patience::OneMinute, |_| ())
}

/// What the unit runs.
fn unstage_waiting(host: &Host) -> Result<Unstaged, UnstageError> {
    crate::manage::unstage::unstage(host, Patience::WhileItRuns, |_| ())
}

fn staged(fixture: &Fixture) -> usize {
    fixture.host.staging_dir().staged().unwrap().len()
}

#[test]
fn keys_are_staged_loaded_by_the_daemon_and_removed() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let keyless = fixture.define("vm2");
    fixture.autostart(&keyless.name);
    fixture.guest_in_use("vm3");

    let started = stage(&fixture.host).unwrap();
    let allowed: Vec<_> = started
        .iter()
        .map(|one| (one.name.as_str(), one.outcome.is_allowed()))
        .collect();
    assert_eq!(allowed, [("vm1", true), ("vm2", false)]);
    assert_eq!(staged(&fixture), 1);
    assert!(!has_value(&fixture, guest.secret));

    start_daemon(&fixture);
    assert!(has_value(&fixture, guest.secret));
    let Unstaged { keys, daemon } = unstage(&fixture.host).unwrap();
    assert_eq!(daemon, Daemon::Runs);
    assert!(keys.len() == 1 && keys[0].dropped, "{keys:?}");
    assert!(!has_value(&fixture, guest.secret));
    assert_eq!(staged(&fixture), 0);
    assert_eq!(unstage(&fixture.host).unwrap().keys, []);
}

#[test]
fn without_a_daemon_the_files_alone_are_removed() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    stage(&fixture.host).unwrap();
    // Nobody would answer.
    fixture
        .libvirt
        .fail_each(Call::Guests, Failure::Unreachable);
    let removed = unstage(&fixture.host).unwrap();
    assert!(removed.daemon == Daemon::IsDown && !removed.keys[0].dropped);
    assert_eq!(staged(&fixture), 0);
    let document = serde_json::to_value(&removed).unwrap();
    assert_eq!(document[0]["secret"]["action"], "none");
    assert_eq!(document[0]["domain"]["uuid"], guest.uuid.to_string());
}

#[test]
fn a_guest_that_runs_keeps_its_secret_where_the_lifetime_is_a_run() {
    for (lifetime, dropped) in [("run", false), ("keep", false), ("start", true)] {
        let fixture = Fixture::new();
        fixture.configure(&format!("[secret]\nlifetime = \"{lifetime}\""));
        let guest = fixture.guest_in_use("vm1");
        fixture.autostart(&guest.name);
        stage(&fixture.host).unwrap();
        start_daemon(&fixture);
        fixture.libvirt.guests.start("vm1");
        let removed = unstage(&fixture.host).unwrap();
        assert_eq!(removed.keys[0].dropped, dropped, "{lifetime}");
        assert_eq!(has_value(&fixture, guest.secret), !dropped, "{lifetime}");
    }
}

#[test]
fn a_guest_that_does_not_run_loses_its_secret_whoever_else_runs() {
    let fixture = Fixture::new();
    fixture.configure("[secret]\nlifetime = \"run\"");
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    stage(&fixture.host).unwrap();
    start_daemon(&fixture);
    fixture.guest_in_use("vm2");
    fixture.libvirt.guests.start("vm2");
    assert!(unstage(&fixture.host).unwrap().keys[0].dropped);
    assert!(!has_value(&fixture, guest.secret));
}

/// The names in the directories of staged keys and of libvirt's secrets that end like this.
fn files(fixture: &Fixture, extension: &str) -> usize {
    let dirs = [
        fixture.host.run_dir().staged(),
        fixture.libvirt.dirs().secrets(),
    ];
    let names = dirs
        .iter()
        .flat_map(|dir| dir.read_dir().unwrap().flatten());
    let names = names.filter(|entry| {
        let name = entry.file_name().into_string().unwrap();
        name.ends_with(extension)
    });
    names.count()
}

#[test]
fn a_daemon_that_does_not_answer_leaves_no_key_behind_and_a_later_call_finishes() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    stage(&fixture.host).unwrap();
    start_daemon(&fixture);
    for failure in [Failure::Unreachable, Failure::Refused] {
        fixture.libvirt.fail_each(Call::DropStaged, failure);
        let error = unstage(&fixture.host).unwrap_err();
        assert!(matches!(error, UnstageError::Libvirt(_)), "{error:?}");
        assert_eq!(files(&fixture, ".base64"), 0);
        assert_eq!(files(&fixture, ".xml"), 2, "they name what libvirt holds");
    }
    fixture.libvirt.recover();
    assert!(has_value(&fixture, guest.secret));
    assert!(unstage(&fixture.host).unwrap().keys[0].dropped);
    assert!(!has_value(&fixture, guest.secret));
    assert_eq!(files(&fixture, ""), 0);
}

#[test]
fn the_unit_waits_for_a_daemon_that_starts_its_guests_for_long() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    stage(&fixture.host).unwrap();
    start_daemon(&fixture);
    fixture.libvirt.fail_at(1, Failure::Unreachable);
    let removed = unstage_waiting(&fixture.host).unwrap();
    assert!(removed.keys[0].dropped);
    assert!(!has_value(&fixture, guest.secret));
    assert_eq!(files(&fixture, ""), 0);
}

#[test]
fn the_unit_does_not_ask_for_ever_what_is_not_allowed() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    stage(&fixture.host).unwrap();
    start_daemon(&fixture);
    fixture
        .libvirt
        .fail_each(Call::DropStaged, Failure::Refused);
    let error = unstage_waiting(&fixture.host).unwrap_err();
    assert!(matches!(error, UnstageError::Libvirt(_)), "{error:?}");
    assert_eq!(files(&fixture, ".base64"), 0, "it gives up: no key stays");
}

/// The keys must not stay on the tmpfs, and libvirtd must have had the time to read them.
#[test]
fn the_unit_does_not_wait_for_ever_for_a_program_that_is_not_installed() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let unstage = |read_within| {
        let has_read_them = Deadline::after(read_within);
        unstage_once_read(&fixture.host, Patience::WhileItRuns, has_read_them, |_| ())
    };
    stage(&fixture.host).unwrap();
    start_daemon(&fixture);
    fixture.libvirt.fail_each(Call::Guests, Failure::NoHelper);
    let started = Instant::now();
    let error = unstage(Duration::from_secs(2)).unwrap_err();
    let no_helper = matches!(error, UnstageError::Libvirt(SecretError::NoHelper(_)));
    assert!(no_helper, "{error:?}");
    assert!(
        started.elapsed() >= Duration::from_secs(2),
        "it was not read"
    );
    assert_eq!(files(&fixture, ".base64"), 0);
    assert_eq!(files(&fixture, ".xml"), 2, "they name what libvirt holds");
    // It is installed again.
    fixture.libvirt.recover();
    assert!(unstage(Duration::ZERO).unwrap().keys[0].dropped);
    assert!(!has_value(&fixture, guest.secret));
    assert_eq!(files(&fixture, ""), 0);

    // An upgrade that takes a moment changes nothing.
    stage(&fixture.host).unwrap();
    start_daemon(&fixture);
    fixture.libvirt.fail_at(1, Failure::NoHelper);
    assert!(unstage(Duration::from_secs(30)).unwrap().keys[0].dropped);
}

#[test]
fn the_unit_leaves_what_is_staged_for_the_next_start_of_a_daemon_that_ended() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    stage(&fixture.host).unwrap();
    let left = unstage_waiting(&fixture.host).unwrap();
    assert_eq!((left.daemon, left.keys), (Daemon::Ended, vec![]));
    assert_eq!(staged(&fixture), 1);
}

#[test]
fn a_daemon_that_has_started_its_guests_since_the_boot_gets_no_keys_and_no_events() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let events = || {
        let history = fixture.store().history(EventFilter::All, 100).unwrap();
        history.len()
    };
    stage(&fixture.host).unwrap();
    let once = events();
    // What an earlier call left goes.
    assert_eq!(staged(&fixture), 1);
    fs::write(fixture.libvirt.dirs().autostarted(), "").unwrap();
    assert!(stage(&fixture.host).unwrap().is_empty());
    assert_eq!((staged(&fixture), events()), (0, once));
}

#[test]
fn nothing_is_staged_on_what_others_can_read_nor_without_definitions() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let staging = fixture.host.run_dir().staged();
    fs::create_dir_all(&staging).unwrap();
    fs::set_permissions(&staging, PermissionsExt::from_mode(0o755)).unwrap();
    let error = stage(&fixture.host).err().unwrap();
    let is_distrusted = matches!(error, StageError::Staging(StagingError::NotTrusted(_)));
    assert!(is_distrusted, "{error:?}");
    assert!(unstage(&fixture.host).is_ok());
    fs::remove_dir_all(&staging).unwrap();

    let autostart = fixture.libvirt.dirs().autostart();
    fs::remove_dir_all(&autostart).unwrap();
    fs::write(&autostart, "no directory").unwrap();
    let error = stage(&fixture.host).err().unwrap();
    assert!(matches!(error, StageError::Definitions(_)), "{error:?}");
}

#[test]
fn a_kill_of_either_leaves_what_the_next_replaces() {
    kill::everywhere(
        |fixture| {
            let guest = fixture.guest_in_use("vm1");
            fixture.autostart(&guest.name);
        },
        |fixture| {
            stage(&fixture.host).unwrap();
            start_daemon(fixture);
            unstage(&fixture.host).unwrap();
        },
        |fixture| {
            // Whatever is left, the state and its key are.
            assert!(fixture.opening_row(&fixture.defined("vm1")).is_some());
        },
        |fixture| {
            let guest = fixture.defined("vm1");
            assert_eq!(staged(fixture), 0);
            assert!(!has_value(fixture, guest.secret));
            assert!(fixture.would_start(&guest));
        },
    );
}

#[test]
fn a_secret_of_another_key_is_not_overwritten() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.autostart(&guest.name);
    let foreign = format!(
        "<secret ephemeral='no' private='no'><uuid>{}</uuid><usage type='vtpm'><name>mine</name>\
         </usage></secret>",
        guest.secret
    );
    fixture.libvirt.secrets.define(&foreign).unwrap();
    let other = Dek::generate().unwrap();
    let set = fixture
        .libvirt
        .secrets
        .set_value(guest.secret, other.expose());
    set.unwrap();
    let started = stage(&fixture.host).unwrap();
    assert!(!started[0].outcome.is_allowed());
    assert_eq!(staged(&fixture), 0);
}
