//! What can happen to a host.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::clone;
use super::host::{Host, TRANSIENT, soon};
use super::statements;
use super::tpm;
use crate::guard::{Mode, Operation};
use crate::ids::KeyRefId;
use crate::key::dek::Dek;
use crate::key::wrap::{Generation, WrappedDek};
use crate::keyring::WeakerSeal;
use crate::manage;
use crate::manage::bind::bind;
use crate::manage::fleet::rotation::RotateError;
use crate::manage::key_refs::{retire, unbind, use_key};
use crate::manage::provider_delete::delete;
use crate::manage::provider_rotate::{RotatedProvider, rotate as rotate_provider};
use crate::manage::renew::renew;
use crate::manage::reset::reset;
use crate::manage::restore_state::restore;
use crate::store::KeyRefRecord;
use crate::verdict::Decision;

/// How a start that the guard allows goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StartEnds {
    Runs,
    /// It runs, but somebody holds the store's write lock when the hook wants to note it.
    RunsUnnoted,
    /// Before swtpm has made or opened a state.
    FailsBeforeState,
    /// QEMU does not start.
    FailsAfterState,
    /// The host dies: nobody calls the hook again, and libvirt forgets its secrets.
    HostDiesBeforeState,
    HostDiesAfterState,
}

/// The TPM state of a start that the hook was told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced<'a> {
    Nothing,
    /// A saved guest's: an older one lies at its place all the time.
    Saved,
    /// A migrated guest's: it comes after `prepare`.
    Arriving(&'a [u8]),
}

/// Guests and providers by number, rows by chance.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Start(usize, StartEnds),
    /// The hook is killed before it has written anything.
    StartKilledEarly(usize),
    Stop(usize),
    /// The file system of the states was unmounted before it: all of them are out of sight, and
    /// back afterwards.
    StopWithoutStates(usize),
    /// Saved and restored: the state stays where it is.
    SaveAndRestore(usize),
    /// It comes from another host: its state arrives after `prepare`.
    MigrateIn(usize),
    /// libvirt announces a restore that it then refuses: the guest runs, or the image is another's.
    RestoreRefused(usize),
    /// A restore that is prepared and fails, after libvirt has made a TPM for it.
    RestoreFails(usize),
    /// The same, with the state gone.
    RestoreWithoutStateFails(usize),
    LoseState(usize),
    /// The other guest becomes a clone of this one.
    Clone(usize),
    DaemonRestarts,
    Bind(usize, usize),
    Unbind(usize),
    Reset(usize),
    Retire(usize, Pick),
    Use(usize, Pick),
    Renew(usize),
    RestoreState(usize),
    DeleteProvider(usize),
    /// Another tool deletes the row; its UUID dangles in the key references.
    DeleteProviderByHand(usize),
    ImportProvider(usize),
    Rotate(usize),
    InsertPlaceholder(usize, usize),
    InsertDuplicate(usize),
    /// A row with another key, as a wrong restore brings it.
    InsertOtherKey(usize, usize),
    DropColumns(usize),
}

/// One of several, by chance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pick(Index);

/// Random stories.
pub(crate) fn events() -> impl Strategy<Value = Vec<Event>> {
    use Event::*;
    let guest = || 0..2_usize;
    let provider = || 0..2_usize;
    let pick = || any::<Index>().prop_map(Pick);
    let ends = prop_oneof![
        6 => Just(StartEnds::Runs),
        2 => Just(StartEnds::RunsUnnoted),
        1 => Just(StartEnds::FailsBeforeState),
        1 => Just(StartEnds::FailsAfterState),
        1 => Just(StartEnds::HostDiesBeforeState),
        1 => Just(StartEnds::HostDiesAfterState),
    ];
    let event = prop_oneof![
        12 => (guest(), ends).prop_map(|(guest, ends)| Start(guest, ends)),
        1 => guest().prop_map(StartKilledEarly),
        8 => guest().prop_map(Stop),
        2 => guest().prop_map(StopWithoutStates),
        2 => guest().prop_map(SaveAndRestore),
        2 => guest().prop_map(MigrateIn),
        2 => guest().prop_map(RestoreRefused),
        1 => guest().prop_map(RestoreFails),
        2 => guest().prop_map(RestoreWithoutStateFails),
        1 => guest().prop_map(LoseState),
        3 => guest().prop_map(Clone),
        1 => Just(DaemonRestarts),
        8 => (guest(), provider()).prop_map(|(guest, provider)| Bind(guest, provider)),
        1 => guest().prop_map(Unbind),
        1 => guest().prop_map(Reset),
        1 => (guest(), pick()).prop_map(|(guest, row)| Retire(guest, row)),
        2 => (guest(), pick()).prop_map(|(guest, row)| Use(guest, row)),
        3 => guest().prop_map(Renew),
        2 => guest().prop_map(RestoreState),
        2 => provider().prop_map(DeleteProvider),
        1 => provider().prop_map(DeleteProviderByHand),
        5 => (0..4_usize).prop_map(ImportProvider),
        2 => provider().prop_map(Rotate),
        2 => (guest(), provider()).prop_map(|(guest, it)| InsertPlaceholder(guest, it)),
        2 => guest().prop_map(InsertDuplicate),
        1 => (guest(), provider()).prop_map(|(guest, it)| InsertOtherKey(guest, it)),
        2 => guest().prop_map(DropColumns),
    ];
    // Most stories are about guests that are bound and have run.
    let beginning = vec![Bind(0, 0), Start(0, StartEnds::Runs), Stop(0)];
    vec(event, 1..24).prop_map(move |story| [beginning.clone(), story].concat())
}

impl Event {
    pub(crate) fn happen(self, host: &mut Host) {
        let what = match self {
            Self::Start(guest, ends) => start(host, guest, ends, Announced::Nothing),
            Self::StartKilledEarly(guest) => {
                let _ = host.prepare(guest, Mode::DryRun);
                Some("killed".to_owned())
            }
            Self::Stop(guest) => stop(host, guest),
            Self::StopWithoutStates(guest) => host.guests[guest].running.then(|| {
                host.hide_states();
                stop(host, guest);
                host.show_states();
                "stopped".to_owned()
            }),
            Self::SaveAndRestore(guest) => save_and_restore(host, guest),
            Self::MigrateIn(guest) => migrate_in(host, guest),
            Self::RestoreRefused(guest) => {
                host.next_attempt();
                host.follow_up(guest, Operation::Restore);
                Some("refused".to_owned())
            }
            Self::RestoreFails(guest) => restore_fails(host, guest),
            Self::RestoreWithoutStateFails(guest) => {
                let running = host.guests[guest].running;
                let lost = !running && fs::remove_file(host.state_file(guest)).is_ok();
                if lost {
                    restore_fails(host, guest)
                } else {
                    None
                }
            }
            Self::LoseState(guest) => {
                let running = host.guests[guest].running;
                let lost = !running && fs::remove_file(host.state_file(guest)).is_ok();
                lost.then(|| "lost".to_owned())
            }
            Self::Clone(original) => clone::happen(host, original),
            Self::DaemonRestarts => {
                host.libvirt.secrets.restart();
                None
            }
            Self::Bind(..)
            | Self::Unbind(_)
            | Self::Reset(_)
            | Self::Retire(..)
            | Self::Use(..)
            | Self::Renew(_)
            | Self::RestoreState(_) => self.administer(host),
            Self::DeleteProvider(_)
            | Self::DeleteProviderByHand(_)
            | Self::ImportProvider(_)
            | Self::Rotate(_) => self.change_providers(host),
            Self::InsertPlaceholder(..)
            | Self::InsertDuplicate(_)
            | Self::InsertOtherKey(..)
            | Self::DropColumns(_) => self.meddle(host),
        };
        host.say(format!("  {}", what.as_deref().unwrap_or("-")));
    }

    /// What the administrator does to guests. A command that is refused changes nothing.
    fn administer(self, host: &mut Host) -> Option<String> {
        match self {
            Self::Bind(guest, provider) => {
                bind(host.manage(), &host.arg(guest), Some(NAMES[provider])).ok()?;
                Some("bound".to_owned())
            }
            Self::Unbind(guest) => {
                unbind(host.manage(), &host.arg(guest)).ok()?;
                Some("unbound".to_owned())
            }
            Self::Reset(guest) => {
                reset(host.manage(), &host.arg(guest)).ok()?;
                host.guests[guest].used.clear();
                Some("reset".to_owned())
            }
            Self::Retire(guest, pick) => {
                let row = pick.one_of(&host.rows(guest))?;
                // Refused for a placeholder.
                retire(host.manage(), row).ok()?;
                Some("retired".to_owned())
            }
            Self::Use(guest, pick) => {
                let row = pick.one_of(&host.rows(guest))?;
                use_key(host.manage(), row).ok()?;
                Some("in use".to_owned())
            }
            Self::Renew(guest) => {
                let renewed = renew(host.manage(), &host.arg(guest)).ok()?;
                let rows = host.rows(guest);
                let row = rows.iter().find(|row| row.key_ref.id == renewed.key_ref);
                let bytes = host.unwrapped(row.unwrap()).unwrap();
                host.guests[guest].made_with.insert(bytes.clone());
                host.guests[guest].used.insert(bytes);
                Some("renewed".to_owned())
            }
            Self::RestoreState(guest) => restore_state(host, guest),
            _ => None,
        }
    }

    fn change_providers(self, host: &mut Host) -> Option<String> {
        match self {
            Self::DeleteProvider(provider) => {
                delete(host.manage(), NAMES[provider], true).ok()?;
                Some("deleted".to_owned())
            }
            Self::DeleteProviderByHand(provider) => {
                let name = NAMES[provider];
                host.site
                    .sql(&format!("DELETE FROM key_provider WHERE name = '{name}'"));
                None
            }
            Self::ImportProvider(kek) => {
                let kek = kek.min(host.keks.len() - 1);
                host.import(kek).then(|| "imported".to_owned())
            }
            Self::Rotate(provider) => rotate(host, NAMES[provider]),
            _ => None,
        }
    }

    /// What other tools do to the store.
    fn meddle(self, host: &mut Host) -> Option<String> {
        let uuid = |guest: usize| host.guests[guest].domain.uuid;
        match self {
            Self::InsertPlaceholder(guest, provider) => {
                let provider = host.store().provider(NAMES[provider]).ok()?;
                host.site.sql(&format!(
                    "INSERT INTO key_ref (resource_uuid, provider_uuid, provider_name)
                     VALUES ('{}', '{}', '{}')",
                    uuid(guest),
                    provider.uuid,
                    provider.name
                ));
                Some("inserted".to_owned())
            }
            Self::InsertDuplicate(guest) => {
                let columns = "resource_uuid, secret_uuid, provider_name, key_version, kek_ref,
                               wrapped_dek, algorithm, first_used_at, retired_at";
                host.site.sql(&format!(
                    "INSERT INTO key_ref ({columns}) SELECT {columns} FROM key_ref
                     WHERE resource_uuid = '{}' AND length(wrapped_dek) > 0 LIMIT 1",
                    uuid(guest)
                ));
                Some("inserted".to_owned())
            }
            Self::InsertOtherKey(guest, kek) => {
                let (name, kek) = &host.keks[kek];
                let dek = Dek::generate().unwrap();
                let wrapped = WrappedDek::wrap(kek, &dek, uuid(guest), Generation(1)).unwrap();
                let digits = wrapped.as_bytes().iter().map(|byte| format!("{byte:02x}"));
                let hex = digits.collect::<Vec<_>>().concat();
                host.site.sql(&format!(
                    "INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
                     VALUES ('{}', '{name}', x'{hex}')",
                    uuid(guest)
                ));
                None
            }
            Self::DropColumns(guest) => {
                host.site.sql(&format!(
                    "UPDATE key_ref SET key_version = NULL, kek_ref = '', provider_uuid = NULL,
                                        secret_uuid = NULL
                     WHERE resource_uuid = '{}'",
                    uuid(guest)
                ));
                None
            }
            _ => None,
        }
    }
}

/// The providers that there are at the beginning.
const NAMES: [&str; 2] = ["a", "b"];

impl Pick {
    fn one_of(self, rows: &[KeyRefRecord]) -> Option<KeyRefId> {
        (!rows.is_empty()).then(|| self.0.get(rows).key_ref.id)
    }
}

/// A start as libvirt does it: the hook, the secret, swtpm, QEMU.
fn start(
    host: &mut Host,
    guest: usize,
    ends: StartEnds,
    announced: Announced<'_>,
) -> Option<String> {
    if host.guests[guest].running {
        return None;
    }
    let is_announced = announced != Announced::Nothing;
    if !is_announced {
        host.next_attempt();
    }
    let seen = statements::before_a_start(host, guest);
    let outcome = host.prepare(guest, Mode::CarryOut);
    statements::of_a_start(host, guest, &seen, &outcome);
    if let Decision::Deny(refusal) = outcome.verdict.decision() {
        host.ends(guest);
        return Some(format!("refused {}", refusal.code().as_str()));
    }
    match ends {
        StartEnds::FailsBeforeState => {
            host.ends(guest);
            return Some("failed".to_owned());
        }
        StartEnds::HostDiesBeforeState => {
            host.libvirt.secrets.restart();
            return Some("died".to_owned());
        }
        _ => {}
    }
    let value = host.libvirt.secrets.value(host.guests[guest].secret);
    let value = value.expect("a start that is allowed finds its secret");
    if let Announced::Arriving(state) = announced {
        let path = host.state_file(guest);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, state).unwrap();
    }
    match host.opens_state(guest, &value) {
        Some(true) => statements::of_a_tpm_that_is_there(host, guest),
        Some(false) => {
            statements::of_a_value_that_does_not_open(host, guest, &outcome, is_announced);
            host.ends(guest);
            return Some("CMD_INIT".to_owned());
        }
        None => {
            statements::of_a_new_tpm(host, guest, &value);
            tpm::make(&host.state_file(guest), &value);
        }
    }
    host.guests[guest].made_with.insert(value.clone());
    if matches!(ends, StartEnds::HostDiesAfterState) {
        host.libvirt.secrets.restart();
        return Some("died".to_owned());
    }
    if matches!(ends, StartEnds::FailsAfterState) {
        host.ends(guest);
        return Some("failed".to_owned());
    }
    host.runs(guest);
    if matches!(ends, StartEnds::RunsUnnoted) {
        host.started_while_the_store_is_locked(guest);
    } else {
        host.follow_up(guest, Operation::Started);
        host.guests[guest].used.insert(value);
    }
    Some("runs".to_owned())
}

fn stop(host: &mut Host, guest: usize) -> Option<String> {
    let running = std::mem::take(&mut host.guests[guest].running);
    running.then(|| {
        host.ends(guest);
        "stopped".to_owned()
    })
}

/// The state of a guest that is defined stays in its place; that of a transient one comes with
/// the saved stream, after `prepare`.
fn save_and_restore(host: &mut Host, guest: usize) -> Option<String> {
    let saved = fs::read(host.state_file(guest)).ok()?;
    stop(host, guest)?;
    host.next_attempt();
    host.follow_up(guest, Operation::Restore);
    if guest != TRANSIENT {
        return start(host, guest, StartEnds::Runs, Announced::Saved);
    }
    let what = start(host, guest, StartEnds::Runs, Announced::Arriving(&saved));
    if !host.guests[guest].running {
        // The saved stream still has it: what is left is as after a run.
        fs::create_dir_all(host.state_file(guest).parent()?).unwrap();
        fs::write(host.state_file(guest), saved).unwrap();
    }
    what
}

/// The state is taken away and comes back after `prepare`, as on a destination.
fn migrate_in(host: &mut Host, guest: usize) -> Option<String> {
    if host.guests[guest].running {
        return None;
    }
    let path = host.state_file(guest);
    let state = fs::read(&path).ok()?;
    fs::remove_file(&path).unwrap();
    host.next_attempt();
    host.follow_up(guest, Operation::MigrateIn);
    let what = start(host, guest, StartEnds::Runs, Announced::Arriving(&state));
    // Where it was refused, the source still has it. A failed arrival was set aside with its
    // directory.
    fs::create_dir_all(path.parent()?).unwrap();
    fs::write(&path, state).unwrap();
    what
}

/// Nothing of the stream arrives, and QEMU does not start.
fn restore_fails(host: &mut Host, guest: usize) -> Option<String> {
    if host.guests[guest].running {
        return None;
    }
    host.next_attempt();
    host.follow_up(guest, Operation::Restore);
    let outcome = host.prepare(guest, Mode::CarryOut);
    if let Decision::Deny(refusal) = outcome.verdict.decision() {
        host.ends(guest);
        return Some(format!("refused {}", refusal.code().as_str()));
    }
    let value = host.libvirt.secrets.value(host.guests[guest].secret)?;
    if !host.state_file(guest).exists() {
        tpm::make_makeshift(&host.state_file(guest), &value);
    }
    host.ends(guest);
    Some("failed".to_owned())
}

/// The best saved copy in the place of the state.
fn restore_state(host: &mut Host, guest: usize) -> Option<String> {
    let path = host.state_file(guest);
    let before = fs::read(&path).ok();
    restore(host.manage(), &host.arg(guest), None).ok()?;
    if !tpm::is_makeshift(&path) {
        return Some("restored".to_owned());
    }
    // Nobody keeps a TPM that was made for a restore that failed.
    match before {
        Some(state) => fs::write(&path, state).unwrap(),
        None => fs::remove_file(&path).unwrap(),
    }
    None
}

/// The administrator's command.
pub(crate) fn rotation(
    host: &manage::host::Host,
    name: &str,
) -> Result<RotatedProvider, RotateError> {
    rotate_provider(host, name, WeakerSeal::Refused, &mut |_| {})
}

/// The administrator's command, and what it leaves: one more KEK that a recovery file may hold.
fn rotate(host: &mut Host, name: &str) -> Option<String> {
    let before = host.store().provider(name).ok()?;
    let done = rotation(host.manage(), name);
    let after = host.store().provider(name).unwrap();
    let keyring = host.guard.keyring();
    if done.is_err() {
        assert_eq!(after, before, "a rotation that failed has changed nothing");
        return None;
    }
    if after.key_id != before.key_id {
        let kek = keyring.open(after.key_id, soon()).unwrap();
        host.site.put_key(&kek);
        host.keks.push((name.to_owned(), kek));
        assert!(
            keyring.open(before.key_id, soon()).is_ok(),
            "the previous key goes with an export alone"
        );
        statements::of_a_rotation(host, before.key_id);
    }
    Some("rotated".to_owned())
}
