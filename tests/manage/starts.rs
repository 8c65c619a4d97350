//! Starts by the hook's own way, and what follows them: which row the history has of each, and when
//! libvirt is asked.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::ended_runs::{ENDED, STARTING};
use super::fixture::{Defined, Fixture};
use crate::clock::{Deadline, Timestamp};
use crate::config::Lifetime;
use crate::guard::{Ending, Guard, HookCall, Mode, Operation, follow_up, prepare};
use crate::host::crash::armed;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::keyring::unlock::Unlocker;
use crate::libvirt::fake::{Call, Failure};
use crate::manage::bind::bind;
use crate::manage::host::{BrokenConfig, default_deadline};
use crate::manage::key_refs::retire;
use crate::store::{EventFilter, EventRow, Origin};
use crate::verdict::code::Code;
use crate::verdict::outcome::Outcome;
use crate::verdict::refusal::Refusal;
use crate::verdict::{Decision, Finding};

/// The guard as libvirtd calls it.
pub(super) fn called(fixture: &Fixture) -> Guard {
    let mut guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    guard.call = Some(HookCall {
        attempt: Box::new(|| "1 1 1".to_owned()),
        xml: [].into(),
    });
    guard
}

/// A start, as far as the guard judges it. The code of its refusal.
fn start(fixture: &Fixture, guest: &Defined) -> Option<Code> {
    code(&judged(fixture, guest, Mode::CarryOut, default_deadline()))
}

fn judged(fixture: &Fixture, guest: &Defined, mode: Mode, deadline: Deadline) -> Outcome {
    let (guard, domain) = (called(fixture), Ok(fixture.domain(guest)));
    let origin = match mode {
        Mode::DryRun => Origin::Check,
        Mode::CarryOut | Mode::RepairOnly => Origin::Prepare,
    };
    prepare(&guard, &domain, origin, mode, deadline)
}

fn code(outcome: &Outcome) -> Option<Code> {
    match outcome.verdict.decision() {
        Decision::Allow(_) => None,
        Decision::Deny(why) => Some(why.code()),
    }
}

/// What libvirt calls besides `prepare`.
fn call(fixture: &Fixture, guest: &Defined, operation: Operation) {
    let domain = fixture.domain(guest);
    follow_up(&called(fixture), operation, &domain, default_deadline()).unwrap();
}

/// `stopped end`, with this job in the guest's status file.
fn stop_with_job(fixture: &Fixture, guest: &Defined, job: &str) {
    let status = fixture.libvirt.dirs().running();
    let status = status.join(format!("{}.xml", guest.name));
    let domain = fixture.domain(guest);
    fs::write(
        &status,
        format!("<domstatus>\n  <job {job}/>\n</domstatus>\n"),
    )
    .unwrap();
    follow_up(
        &called(fixture),
        Operation::Ended,
        &domain,
        default_deadline(),
    )
    .unwrap();
    fs::remove_file(status).unwrap();
}

/// A guest whose vTPM is not encrypted, with its TPM state.
fn unencrypted(fixture: &Fixture, name: &str) -> Defined {
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    let guest = fixture.define_with(name, uuid, secret, "");
    fixture.plain_state(&guest);
    guest
}

/// What libvirt calls after a start that failed or was refused.
fn fail(fixture: &Fixture, guest: &Defined) {
    for operation in [Operation::Ended, Operation::Released(Ending::Failed)] {
        let domain = fixture.domain(guest);
        let done = follow_up(&called(fixture), operation, &domain, default_deadline());
        // A libvirt that does not answer is what some of these are about.
        drop(done);
    }
}

fn history(fixture: &Fixture, guest: &Defined) -> Vec<EventRow> {
    let events = EventFilter::Domain(guest.uuid);
    fixture.store().history(events, 100).unwrap()
}

/// The operation, the code and the repairs of each row, newest first.
fn rows(fixture: &Fixture, guest: &Defined) -> Vec<(String, Option<Code>, bool)> {
    let describe = |row: EventRow| (row.operation, row.code, row.repairs_json != "[]");
    let rows = history(fixture, guest).into_iter().map(describe);
    rows.collect()
}

#[test]
fn a_start_is_one_row_with_what_became_of_it() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    // What the verdict repairs: the row names another secret.
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    assert_eq!(start(&fixture, &guest), None);
    assert_eq!(rows(&fixture, &guest), [("prepare".to_owned(), None, true)]);

    // It fails after it was allowed: the same row says so, and keeps what was repaired.
    fail(&fixture, &guest);
    assert_eq!(rows(&fixture, &guest), [("stopped".to_owned(), None, true)]);
    let message = history(&fixture, &guest).remove(0).message;
    assert!(message.starts_with("the start failed after"), "{message}");

    // One that works is a row of its own.
    assert_eq!(start(&fixture, &guest), None);
    let domain = fixture.domain(&guest);
    let guard = called(&fixture);
    follow_up(&guard, Operation::Started, &domain, default_deadline()).unwrap();
    fail(&fixture, &guest);
    let operations = |rows: &[(String, Option<Code>, bool)]| {
        let operations = rows.iter().map(|(operation, ..)| operation.clone());
        operations.collect::<Vec<_>>()
    };
    let found = rows(&fixture, &guest);
    assert_eq!(operations(&found), ["prepare", "stopped"]);
}

#[test]
fn a_start_whose_key_libvirt_does_not_take_is_one_row_with_the_refusal() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    for (failure, code) in [
        (Failure::Unreachable, Code::LibvirtUnreachable),
        (Failure::Refused, Code::SecretRefused),
    ] {
        let before = rows(&fixture, &guest).len();
        fixture.libvirt.fail_each(Call::Provide, failure);
        assert_eq!(start(&fixture, &guest), Some(code));
        fail(&fixture, &guest);
        let found = rows(&fixture, &guest);
        assert_eq!(found.len(), before + 1, "{found:?}");
        assert_eq!(found[0].0, "prepare");
        assert_eq!(found[0].1, Some(code));
    }
    assert!(rows(&fixture, &guest)[1].2, "the repairs stay in its row");
}

/// Until then the first verdict is recorded, and repaired; the start is judged once more.
#[test]
fn a_start_whose_secret_changes_meanwhile_is_one_row() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    // The guest's XML is asked for, its secret inspected, and then it is to get the key.
    fixture.libvirt.fail_at(3, Failure::Changed);
    assert_eq!(start(&fixture, &guest), None);
    assert_eq!(fixture.libvirt.calls_of(Call::Provide), 2);
    assert_eq!(rows(&fixture, &guest), [("prepare".to_owned(), None, true)]);

    // It never stops changing: the row says what became of the start.
    let guest = fixture.guest_in_use("vm2");
    fixture.sql("UPDATE key_ref SET secret_uuid = NULL");
    fixture.libvirt.fail_each(Call::Provide, Failure::Changed);
    let code = Some(Code::StoreUnavailable);
    assert_eq!(start(&fixture, &guest), code);
    assert_eq!(rows(&fixture, &guest), [("prepare".to_owned(), code, true)]);
}

#[test]
fn a_refused_start_that_provided_nothing_is_followed_by_no_question() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    assert_eq!(start(&fixture, &guest), Some(Code::LibvirtUnreachable));
    fail(&fixture, &guest);
    assert_eq!(fixture.libvirt.calls_of(Call::DropOwn), 0);
    assert_eq!(rows(&fixture, &guest).len(), 1);

    // Nor is one that the table refuses.
    fixture.libvirt.recover();
    fixture.lose_key("a");
    assert_eq!(start(&fixture, &guest), Some(Code::ProviderSealed));
    fail(&fixture, &guest);
    assert_eq!(fixture.libvirt.calls_of(Call::DropOwn), 0);

    // The next run of the guest has a secret again, and ends with it.
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    start(&fixture, &guest);
    fail(&fixture, &guest);
    fixture.libvirt.recover();
    assert_eq!(start(&fixture, &guest), None);
    assert!(fixture.libvirt.secrets.value(guest.secret).is_some());
    fail(&fixture, &guest);
    assert!(fixture.libvirt.secrets.value(guest.secret).is_none());
}

#[test]
fn what_libvirt_may_have_taken_after_all_is_dropped() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Provide, Failure::AnswerLost);
    assert_eq!(start(&fixture, &guest), Some(Code::LibvirtUnreachable));
    assert!(fixture.libvirt.secrets.value(guest.secret).is_some());
    fixture.libvirt.recover();
    fail(&fixture, &guest);
    assert!(fixture.libvirt.secrets.value(guest.secret).is_none());
}

/// A store that somebody else has locked: neither its history nor anything else makes a start last longer than it may.
#[test]
fn a_locked_store_holds_no_start_beyond_its_deadline() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let database = fixture.host.state_dir().join("store.db");
    let lock = rusqlite::Connection::open(database).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let judge = || {
        let (guard, domain) = (called(&fixture), Ok(fixture.domain(&guest)));
        let deadline = Deadline::after(Duration::from_millis(3_500));
        let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
        let outcome = prepare(&guard, &domain, origin, mode, deadline);
        assert!(!deadline.has_passed(), "it came too late");
        outcome
    };
    // What cannot be recorded refuses nothing.
    let allowed = judge();
    assert!(allowed.is_allowed(), "{:?}", allowed.verdict);
    let findings = allowed.verdict.findings();
    assert!(
        findings
            .iter()
            .any(|it| matches!(it, Finding::NotRecorded(_))),
        "{findings:?}"
    );
    // Nor does it hold the answer of a start that is refused afterwards.
    fixture.libvirt.fail_each(Call::Provide, Failure::Refused);
    let refused = judge();
    let Decision::Deny(why) = refused.verdict.decision() else {
        panic!("{:?}", refused.verdict)
    };
    assert_eq!(why.code(), Code::SecretRefused);
    drop(lock);
    assert_eq!(rows(&fixture, &guest), []);
}

/// As an earlier release left it: the first change brings it to the present schema, and no start waits for that.
#[test]
fn an_older_store_that_is_locked_is_read_as_it_is() {
    let fixture = Fixture::new();
    let (used, bound) = (fixture.guest_in_use("vm1"), fixture.define("vm2"));
    bind(&fixture.host, "vm2", None).unwrap();
    fixture.sql(
        "DROP TABLE fleet; DROP TABLE fleet_outbox; DROP TABLE fleet_fact; DROP TABLE fleet_pending;
         DROP TABLE fleet_scope; DROP TABLE fleet_declined; DROP TABLE fleet_placement;
         DROP TABLE fleet_state; PRAGMA user_version = 4",
    );
    let database = fixture.host.state_dir().join("store.db");
    let lock = rusqlite::Connection::open(database).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let judge = |guest| {
        let deadline = Deadline::after(Duration::from_millis(3_500));
        let outcome = judged(&fixture, guest, Mode::CarryOut, deadline);
        assert!(!deadline.has_passed(), "it came too late");
        outcome
    };
    let allowed = judge(&used);
    assert_eq!(code(&allowed), None, "{:?}", allowed.verdict);
    let findings = allowed.verdict.findings();
    let is_said = |it: &Finding| matches!(it, Finding::NotRecorded(_));
    assert!(findings.iter().any(is_said), "{findings:?}");
    // Nobody would know its key afterwards.
    assert_eq!(code(&judge(&bound)), Some(Code::StoreUnavailable));

    drop(lock);
    assert_eq!(start(&fixture, &used), None);
    assert_eq!(rows(&fixture, &used).len(), 1);
    assert_eq!(start(&fixture, &bound), None);
    assert!(fixture.rows(&bound)[0].key_ref.wrapped_dek.is_some());
    assert_eq!(fixture.store().check().unwrap(), []);
}

/// To SQLite it is a file that only a later version may write: it opens, and takes nothing.
#[test]
fn a_store_that_cannot_be_written_still_has_the_keys() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let database = fixture.host.state_dir().join("store.db");
    fixture.sql("PRAGMA wal_checkpoint(TRUNCATE)");

    let file = fs::File::options().write(true).open(database).unwrap();
    file.write_all_at(&[3], 18).unwrap();
    let guard = called(&fixture);
    let (domain, deadline) = (fixture.domain(&guest), default_deadline());
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let allowed = prepare(&guard, &Ok(domain), origin, mode, deadline);
    assert!(allowed.is_allowed(), "{:?}", allowed.verdict);
    let value = fixture.libvirt.secrets.value(guest.secret).unwrap();
    assert!(fixture.is_opened_by(&guest, &value));
    let findings = allowed.verdict.findings();
    let is_said = |it: &Finding| matches!(it, Finding::NotRecorded(_));
    assert!(findings.iter().any(is_said), "{findings:?}");
}

/// The guest would have a TPM whose key nobody knows afterwards.
#[test]
fn a_new_key_that_cannot_be_stored_is_given_to_no_guest() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    bind(&fixture.host, "vm1", None).unwrap();
    let database = fixture.host.state_dir().join("store.db");
    let lock = rusqlite::Connection::open(database).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (guard, domain) = (called(&fixture), Ok(fixture.domain(&guest)));
    let deadline = Deadline::after(Duration::from_millis(3_500));
    let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
    let refused = prepare(&guard, &domain, origin, mode, deadline);
    let Decision::Deny(why) = refused.verdict.decision() else {
        panic!("{:?}", refused.verdict)
    };
    assert_eq!(why.code(), Code::StoreUnavailable);
    assert_eq!(fixture.libvirt.calls_of(Call::Provide), 0);
    drop(lock);
    assert_eq!(start(&fixture, &guest), None);
    assert!(fixture.rows(&guest)[0].key_ref.wrapped_dek.is_some());
}

#[test]
fn a_value_of_libvirts_that_the_guests_key_replaces_is_kept() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let other = Dek::generate().unwrap();
    define_secret(&fixture, &guest, "ephemeral='no' private='no'");
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, other.expose()).unwrap();
    assert_eq!(start(&fixture, &guest), None);
    let value = secrets.value(guest.secret).unwrap();
    assert!(fixture.is_opened_by(&guest, &value));

    let retired: Vec<_> = fixture
        .rows(&guest)
        .into_iter()
        .filter(|row| row.retired_at.is_some())
        .map(|row| row.key_ref)
        .collect();
    let providers = fixture.store().providers().unwrap();
    let mut unlocker = Unlocker::new(&fixture.host.keyring());
    let kept = unlocker.open_rows(retired, &providers, guest.uuid, default_deadline());
    assert_eq!(kept.len(), 1);
    assert!(kept[0].dek.same_as(&other));
}

#[test]
fn that_the_client_provides_the_key_is_noted_until_a_start_goes_by_another() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let is_noted = || {
        let now = Timestamp::now();
        let references = fixture.store().references(guest.uuid, now).unwrap();
        references.clients_key
    };
    let key = Dek::generate().unwrap();
    define_secret(&fixture, &guest, "ephemeral='yes' private='yes'");
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, key.expose()).unwrap();
    assert_eq!(start(&fixture, &guest), None);
    assert!(is_noted());
    // A refused start goes by no key.
    secrets.undefine(guest.secret);
    assert_eq!(start(&fixture, &guest), Some(Code::KeyMissing));
    assert!(is_noted());
    fixture.add_key(&guest, "a", &key);
    fixture.encrypt_state(&guest, &key);
    assert_eq!(start(&fixture, &guest), None);
    assert!(!is_noted());
}

/// `policy.unmanaged` and `policy.unencrypted`: what helps needs a definition of the guest, a state, or a value that can
/// be read.
#[test]
fn what_the_policy_refuses_says_whether_libvirt_knows_the_guest_and_what_there_is_to_work_on() {
    let fixture = Fixture::new();
    fixture.configure("[policy]\nunmanaged = \"deny\"\nunencrypted = \"deny\"");
    let mine = fixture.define("mine");
    define_secret(&fixture, &mine, "ephemeral='no' private='no'");
    let clients = fixture.define("clients");
    let secrets = &fixture.libvirt.secrets;
    let ephemeral = format!(
        "<secret ephemeral='yes' private='yes'><uuid>{}</uuid><usage type='vtpm'><name>nova</name>\
         </usage></secret>",
        clients.secret
    );
    secrets.define(&ephemeral).unwrap();
    for guest in [&mine, &clients] {
        let key = Dek::generate().unwrap();
        secrets.set_value(guest.secret, key.expose()).unwrap();
    }
    let used = unencrypted(&fixture, "used");
    let (uuid, secret) = (DomainUuid::random(), SecretUuid::random());
    let new = fixture.define_with("new", uuid, secret, "");
    let encrypted = fixture.define_with("encrypted", DomainUuid::random(), secret, "");
    fixture.encrypt_state(&encrypted, &Dek::generate().unwrap());
    let mismatch = |is_defined| Refusal::EncryptionMismatch {
        state_encrypted: true,
        is_defined,
    };
    let unmanaged = |is_clients, is_defined| Refusal::Unmanaged {
        is_clients,
        is_defined,
    };
    let plain = |has_state, is_defined| Refusal::UnencryptedVtpm {
        has_state,
        is_defined,
    };
    for (guest, defined, undefined) in [
        (&mine, unmanaged(false, true), unmanaged(false, false)),
        (&clients, unmanaged(true, true), unmanaged(true, false)),
        (&used, plain(true, true), plain(true, false)),
        (&new, plain(false, true), plain(false, false)),
        (&encrypted, mismatch(true), mismatch(false)),
    ] {
        let domain = Ok(fixture.domain(guest));
        let refused = || {
            let (guard, deadline) = (called(&fixture), default_deadline());
            let outcome = prepare(&guard, &domain, Origin::Prepare, Mode::CarryOut, deadline);
            match outcome.verdict.decision() {
                Decision::Deny(why) => why.clone(),
                allowed @ Decision::Allow(_) => panic!("{}: {allowed:?}", guest.name),
            }
        };
        assert_eq!(refused(), defined, "{}", guest.name);
        fixture.libvirt.guests.undefine(&guest.name);
        assert_eq!(refused(), undefined, "{}", guest.name);
    }
}

/// Defines the guest's secret as somebody else would, without a value.
pub(super) fn define_secret(fixture: &Fixture, guest: &Defined, attributes: &str) {
    let secret = guest.secret;
    let xml = format!(
        "<secret {attributes}><uuid>{secret}</uuid><usage type='vtpm'><name>mine</name></usage>\
         </secret>"
    );
    fixture.libvirt.secrets.define(&xml).unwrap();
}

#[test]
fn a_secret_lives_as_long_as_the_configuration_says() {
    for (lifetime, while_it_runs, afterwards) in [
        (Lifetime::Start, false, false),
        (Lifetime::Run, true, false),
        (Lifetime::Keep, true, true),
    ] {
        let fixture = Fixture::new();
        let guest = fixture.guest_in_use("vm1");
        let mut guard = called(&fixture);
        guard.config.secret_lifetime = lifetime;
        let domain = fixture.domain(&guest);
        let has_secret = |operations: &[Operation]| {
            for operation in operations {
                follow_up(&guard, *operation, &domain, default_deadline()).unwrap();
            }
            fixture.libvirt.secrets.value(guest.secret).is_some()
        };
        assert_eq!(start(&fixture, &guest), None);
        assert!(has_secret(&[]));
        let runs = has_secret(&[Operation::Started]);
        assert_eq!(runs, while_it_runs, "{lifetime:?}");
        let ended = [Operation::Ended, Operation::Released(Ending::Ended)];
        assert_eq!(has_secret(&ended), afterwards, "{lifetime:?}");
    }
}

/// Otherwise the next start would go by it.
#[test]
fn a_key_that_is_taken_back_stays_in_libvirt_under_no_lifetime() {
    for lifetime in [Lifetime::Run, Lifetime::Keep] {
        let fixture = Fixture::new();
        let guest = fixture.define("vm1");
        bind(&fixture.host, "vm1", None).unwrap();
        assert_eq!(start(&fixture, &guest), None);
        let mut guard = called(&fixture);
        guard.config.secret_lifetime = lifetime;
        let (domain, deadline) = (fixture.domain(&guest), default_deadline());
        let failed = Operation::Released(Ending::Failed);
        follow_up(&guard, failed, &domain, deadline).unwrap();
        let is_live = |row: &&crate::store::KeyRefRecord| row.retired_at.is_none();
        let rows = fixture.rows(&guest);
        let live = rows.iter().find(is_live).unwrap();
        assert!(
            live.key_ref.wrapped_dek.is_none(),
            "it is a placeholder again"
        );
        assert_eq!(fixture.libvirt.secrets.value(guest.secret), None);
    }
}

#[test]
fn a_new_key_stays_once_its_tpm_has_a_state() {
    for ending in [Ending::Failed, Ending::Unknown] {
        let fixture = Fixture::new();
        let guest = fixture.define("vm1");
        bind(&fixture.host, "vm1", None).unwrap();
        assert_eq!(start(&fixture, &guest), None);
        let value = fixture.libvirt.secrets.value(guest.secret).unwrap();
        fixture.encrypt_state(&guest, &Dek::from_bytes(value.into()));
        call(&fixture, &guest, Operation::Released(ending));
        assert!(fixture.would_start(&guest), "{ending:?}");
        // Nor does a later start take it back that fails while the state is out of sight.
        let state = fixture.state_file(&guest);
        let away = state.with_extension("away");
        fs::rename(&state, &away).unwrap();
        call(&fixture, &guest, Operation::Released(ending));
        fs::rename(away, state).unwrap();
        assert!(fixture.would_start(&guest), "{ending:?}");
    }
}

#[test]
fn the_run_of_a_guest_without_a_key_of_the_guards_is_followed_by_no_question() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    define_secret(&fixture, &guest, "ephemeral='yes' private='yes'");
    let key = Dek::generate().unwrap();
    let secrets = &fixture.libvirt.secrets;
    secrets.set_value(guest.secret, key.expose()).unwrap();
    assert_eq!(start(&fixture, &guest), None);
    call(&fixture, &guest, Operation::Started);
    call(&fixture, &guest, Operation::Ended);
    call(&fixture, &guest, Operation::Released(Ending::Ended));
    assert_eq!(fixture.libvirt.calls_of(Call::DropOwn), 0);
}

/// It reads the TPM state and writes to the store.
#[test]
fn a_libvirt_that_is_silent_when_a_secret_is_dropped_leaves_time_for_what_follows() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    assert_eq!(start(&fixture, &guest), None);
    fixture.libvirt.fail_each(Call::DropOwn, Failure::Silent);
    let (guard, domain) = (called(&fixture), fixture.domain(&guest));
    let deadline = Deadline::after(Duration::from_secs(5));
    let failed = Operation::Released(Ending::Failed);
    assert!(follow_up(&guard, failed, &domain, deadline).is_err());
    assert!(deadline.remaining() > Duration::from_secs(2));
    assert_eq!(rows(&fixture, &guest)[0].0, "stopped");
}

#[test]
fn an_announcement_ends_with_its_start_whether_the_vtpm_is_encrypted_or_not() {
    let fixture = Fixture::new();
    for guest in [fixture.guest_in_use("vm1"), unencrypted(&fixture, "vm2")] {
        let is_announced = || {
            let references = fixture.store().references(guest.uuid, Timestamp::now());
            references.unwrap().announced.is_some()
        };
        for ends in [
            Operation::Started,
            Operation::Ended,
            Operation::Released(Ending::Unknown),
        ] {
            call(&fixture, &guest, Operation::Restore);
            assert!(is_announced());
            call(&fixture, &guest, ends);
            assert!(!is_announced(), "{}: {ends:?}", guest.name);
        }
    }
}

/// So that its loss is noticed.
#[test]
fn the_state_that_a_guest_has_run_with_is_remembered() {
    let fixture = Fixture::new();
    let seen = |guest: &Defined| {
        let seen = fixture.store().seen_state(guest.uuid).unwrap();
        seen.map(|seen| seen.path)
    };
    let guest = fixture.guest_in_use("vm1");
    assert_eq!(start(&fixture, &guest), None);
    assert_eq!(seen(&guest), None);
    call(&fixture, &guest, Operation::Started);
    assert_eq!(seen(&guest), Some(fixture.state_file(&guest)));

    // Where `started` was missed, the end of the run says it.
    let guest = fixture.guest_in_use("vm2");
    assert_eq!(start(&fixture, &guest), None);
    stop_with_job(&fixture, &guest, STARTING);
    assert_eq!(seen(&guest), None);
    stop_with_job(&fixture, &guest, ENDED);
    assert_eq!(seen(&guest), Some(fixture.state_file(&guest)));

    // libvirt deletes that of a transient guest with each run.
    let guest = fixture.guest_in_use("vm3");
    fixture.libvirt.guests.start("vm3");
    fixture.libvirt.guests.undefine("vm3");
    call(&fixture, &guest, Operation::Started);
    assert_eq!(seen(&guest), None);
}

#[test]
fn a_start_that_fails_is_known_to_have_failed_at_its_first_hook() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    assert_eq!(start(&fixture, &guest), None);
    stop_with_job(&fixture, &guest, STARTING);
    assert_eq!(rows(&fixture, &guest)[0].0, "stopped");
}

#[test]
fn a_start_waits_for_the_lock_of_a_tpm_that_ends_and_a_check_does_not() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let outcome = |looks, mode| {
        armed::lock_elsewhere(looks);
        let outcome = judged(&fixture, &guest, mode, default_deadline());
        armed::lock_elsewhere(0);
        code(&outcome)
    };
    assert_eq!(outcome(3, Mode::CarryOut), None);
    assert_eq!(outcome(1, Mode::DryRun), Some(Code::TpmInUse));
    // The one that has it may be where the guest comes from.
    call(&fixture, &guest, Operation::Restore);
    assert_eq!(outcome(usize::MAX, Mode::CarryOut), None);
}

#[test]
fn a_lock_that_is_held_for_long_refuses_a_start_before_its_deadline() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    armed::lock_elsewhere(usize::MAX);
    let deadline = Deadline::after(Duration::from_millis(2_500));
    let outcome = judged(&fixture, &guest, Mode::CarryOut, deadline);
    assert_eq!(code(&outcome), Some(Code::TpmInUse));
    assert!(!deadline.has_passed());
}

/// libvirt starts it, and fails: that is not the guard's to refuse.
#[test]
fn a_lock_on_a_state_without_encryption_is_said_by_a_check_alone() {
    let fixture = Fixture::new();
    let guest = unencrypted(&fixture, "vm1");
    armed::lock_elsewhere(usize::MAX);
    assert_eq!(start(&fixture, &guest), None);
    let checked = judged(&fixture, &guest, Mode::DryRun, default_deadline());
    armed::lock_elsewhere(0);
    assert_eq!(code(&checked), Some(Code::TpmInUse));
    // Nothing is read or noted of such a guest.
    assert_eq!(rows(&fixture, &guest), []);
    let noted = fixture.host.run_dir().starts();
    assert!(!noted.join(guest.uuid.to_string()).exists());
}

#[test]
fn a_missing_state_that_a_snapshot_has_is_said_to_be_there() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fs::remove_dir_all(fixture.state_file(&guest).parent().unwrap()).unwrap();
    let snapshots = fixture.libvirt.dirs().snapshots().join("vm1");
    fs::create_dir_all(&snapshots).unwrap();
    fs::write(
        snapshots.join("before.xml"),
        "<memory snapshot='internal'/>",
    )
    .unwrap();
    let outcome = judged(&fixture, &guest, Mode::CarryOut, default_deadline());
    let Decision::Deny(Refusal::StateInSnapshots { names }) = outcome.verdict.decision() else {
        panic!("{:?}", outcome.verdict)
    };
    assert_eq!(names, &["before"]);
}

#[test]
fn a_retired_key_that_opens_the_state_is_named() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let key_ref = fixture.opening_row(&guest).unwrap();
    retire(&fixture.host, key_ref).unwrap();
    fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    let outcome = judged(&fixture, &guest, Mode::CarryOut, default_deadline());
    let why = outcome.verdict.decision();
    assert_eq!(
        *why,
        Decision::Deny(Refusal::RetiredKeyOpensTpm { key_ref })
    );
}

/// libvirt would take an empty one for a TPM that is set up, and make none with certificates.
#[test]
fn an_empty_directory_goes_before_a_new_tpm_is_made_and_stays_for_a_state_that_arrives() {
    for arrives in [false, true] {
        let fixture = Fixture::new();
        let guest = fixture.define("vm1");
        bind(&fixture.host, "vm1", None).unwrap();
        if arrives {
            fixture.add_key(&guest, "a", &Dek::generate().unwrap());
            call(&fixture, &guest, Operation::Restore);
        }
        let directory = fixture.state_file(&guest).parent().unwrap().to_owned();
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(start(&fixture, &guest), None);
        assert_eq!(directory.exists(), arrives);
    }
}
