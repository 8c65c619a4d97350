//! TPM state that arrives after `prepare`: the guest migrates here, is restored, or reverts to a
//! snapshot of a run. Then a missing state is not a lost one, and a state that is here proves
//! nothing.
//!
//! libvirt announces the first two at the hook (`migrate begin`, `restore begin`), before it knows
//! whether it will start anything. So an announcement is valid only for the attempt in which it was
//! made. [`is_of_a_run`] explains how the third is recognised.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::context::{Guard, HookCall};
use super::saved_runs::{has_managed_save, is_file_name};
use super::status::is_running;
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::verdict::facts::{Announcement, Arrival};

/// How much of a definition is read, in bytes.
const READ_LIMIT: u64 = 1024 * 1024;

/// Returns how the TPM state of this start arrives; `None`: it is there, or it is gone.
/// `snapshots` are those with the guest's memory.
///
/// Without a call of libvirtd this is about the guest's next start, which continues from a managed
/// save, if there is one, and ignores announcements.
pub(super) fn expected(
    guard: &Guard,
    domain: &Domain,
    announced: Option<&Announcement>,
    snapshots: &[String],
) -> Option<Arrival> {
    let Some(call) = &guard.call else {
        return has_managed_save(guard, &domain.name).then_some(Arrival::Restore);
    };
    let announced = announced.filter(|it| holds_for(it, call, guard, domain));
    let reverts = || !snapshots.is_empty() && is_of_a_run(guard, domain, &call.xml);
    match announced {
        Some(announcement) => Some(announcement.arrival),
        None => reverts().then_some(Arrival::Snapshot),
    }
}

/// Returns what is recorded at `migrate begin` and `restore begin`. Nothing if the guest runs, as
/// libvirt will refuse to restore it, and nothing if libvirtd does not call.
pub(super) fn announcement(
    guard: &Guard,
    domain: &Domain,
    arrival: Arrival,
) -> Option<Announcement> {
    let call = guard.call.as_ref()?;
    (!is_running(guard, domain)).then(|| Announcement {
        domain_name: domain.name.clone(),
        arrival,
        attempt: (call.attempt)(),
        at: Timestamp::now(),
    })
}

/// Returns whether an announcement was made in the attempt that this `prepare` belongs to.
fn holds_for(announcement: &Announcement, call: &HookCall, guard: &Guard, domain: &Domain) -> bool {
    // libvirt announces an image with the UUID of a guest of another name, and then refuses it.
    let is_of_this_attempt =
        announcement.domain_name == domain.name && announcement.attempt == (call.attempt)();
    // An offline migration is announced too. Its result is the definition, which is written
    // afterwards; for a live migration `prepare` comes before that.
    let came_offline = announcement.arrival == Arrival::Migration
        && defined_at(guard, domain).is_some_and(|defined| defined > announcement.at);
    is_of_this_attempt && !came_offline
}

/// Returns when the guest's definition was last written.
fn defined_at(guard: &Guard, domain: &Domain) -> Option<Timestamp> {
    let written = fs::metadata(definition(guard, domain)?)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let since_epoch = written.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(Timestamp)
}

/// Returns whether this domain XML is the configuration of a run, and not the guest's definition:
/// libvirt uses it only to continue from a snapshot of that run, or in starts that it announces.
///
/// A run's configuration has `<backingStore/>` for each disk without a backing file, and
/// `check='full'` for the CPU (libvirt 9.0). If these are missing (libvirt 11.3 reverts with the
/// definition of that time, which looks like an ordinary start), or if the definition has them too
/// because it was copied from a run, the start counts as an ordinary one.
fn is_of_a_run(guard: &Guard, domain: &Domain, xml: &[u8]) -> bool {
    let definition = definition(guard, domain).and_then(|path| read_definition(&path));
    let (Some(definition), Ok(xml)) = (definition, std::str::from_utf8(xml)) else {
        return false;
    };
    let traces = |xml: &str| ["<backingStore/>", "check='full'"].map(|it| xml.matches(it).count());
    let [in_definition, in_run] = [traces(&definition), traces(xml)];
    in_run
        .iter()
        .zip(in_definition)
        .any(|(run, defined)| *run > defined)
}

fn read_definition(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    let file = File::open(path).ok()?;
    file.take(READ_LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn definition(guard: &Guard, domain: &Domain) -> Option<PathBuf> {
    let file = format!("{}.xml", domain.name);
    is_file_name(&domain.name).then(|| guard.config.libvirt.definitions().join(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::time::{Duration, SystemTime};

    use tempfile::TempDir;

    use super::*;
    use crate::config::Config;
    use crate::host::dirs::{LibvirtDirs, StateDir};
    use crate::ids::DomainUuid;

    /// The thread of a daemon that calls the hook in these tests.
    const ATTEMPT: &str = "5 500 6";

    fn domain() -> Domain {
        Domain {
            name: "vm1".to_owned(),
            uuid: DomainUuid::random(),
            vtpm: None,
            travelling: None,
        }
    }

    /// A guard that libvirtd calls with this XML.
    fn called_with(xml: &str) -> (TempDir, Guard) {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(Config::default(), StateDir::at(dir.path().join("state")));
        let dirs = LibvirtDirs::below(dir.path());
        for made in [
            dirs.definitions(),
            dirs.running(),
            dirs.managed_saves(),
            dirs.snapshots().join("vm1"),
        ] {
            fs::create_dir_all(made).unwrap();
        }
        guard.config.libvirt = dirs;
        guard.call = Some(HookCall {
            attempt: Box::new(|| ATTEMPT.to_owned()),
            xml: xml.as_bytes().into(),
        });
        (dir, guard)
    }

    fn announced(arrival: Arrival) -> Announcement {
        Announcement {
            domain_name: "vm1".to_owned(),
            arrival,
            attempt: ATTEMPT.to_owned(),
            at: Timestamp::now(),
        }
    }

    #[test]
    fn an_announcement_is_valid_for_its_attempt_and_its_guest_only() {
        let (_dir, guard) = called_with("");
        let arrives = |it: &Announcement| expected(&guard, &domain(), Some(it), &[]);
        for arrival in [Arrival::Migration, Arrival::Restore] {
            let announced = announced(arrival);
            assert_eq!(arrives(&announced), Some(arrival));
            for attempt in ["", "5 500", "5 500 7", "5 501 6"] {
                let of_another = Announcement {
                    attempt: attempt.to_owned(),
                    ..announced.clone()
                };
                assert_eq!(arrives(&of_another), None, "{attempt:?}");
            }
            let of_another_name = Announcement {
                domain_name: "vm2".to_owned(),
                ..announced
            };
            assert_eq!(arrives(&of_another_name), None);
        }
    }

    #[test]
    fn a_definition_that_is_newer_than_the_announcement_is_an_offline_migration() {
        let (_dir, guard) = called_with("");
        let definition = guard.config.libvirt.definitions().join("vm1.xml");
        fs::write(&definition, "").unwrap();
        let write_at = |at: SystemTime| {
            File::options()
                .write(true)
                .open(&definition)
                .unwrap()
                .set_modified(at)
                .unwrap();
        };
        let arrives = |arrival| super::expected(&guard, &domain(), Some(&announced(arrival)), &[]);
        write_at(SystemTime::now() - Duration::from_secs(5));
        assert_eq!(arrives(Arrival::Migration), Some(Arrival::Migration));
        write_at(SystemTime::now() + Duration::from_secs(5));
        assert_eq!(arrives(Arrival::Migration), None);
        assert_eq!(arrives(Arrival::Restore), Some(Arrival::Restore));
        // One of the same moment was there.
        let announced = announced(Arrival::Migration);
        let at = |milliseconds: i64| {
            let since_epoch = u64::try_from(announced.at.0 + milliseconds).unwrap();
            write_at(UNIX_EPOCH + Duration::from_millis(since_epoch));
            super::expected(&guard, &domain(), Some(&announced), &[])
        };
        assert_eq!(at(0), Some(Arrival::Migration));
        assert_eq!(at(1), None);
    }

    #[test]
    fn nothing_is_announced_for_a_running_guest_or_without_libvirtd() {
        let (_dir, mut guard) = called_with("");
        let noted = |guard: &Guard| announcement(guard, &domain(), Arrival::Restore);
        assert_eq!(noted(&guard).unwrap().attempt, ATTEMPT);
        let status = guard.config.libvirt.running().join("vm1.xml");
        fs::write(&status, "").unwrap();
        assert_eq!(noted(&guard), None);
        fs::remove_file(status).unwrap();
        guard.call = None;
        assert_eq!(noted(&guard), None);
    }

    #[test]
    fn without_libvirtd_the_next_start_continues_from_a_managed_save() {
        let (_dir, mut guard) = called_with("");
        let save = guard.config.libvirt.managed_saves().join("vm1.save");
        fs::write(&save, "").unwrap();
        assert_eq!(
            expected(&guard, &domain(), None, &[]),
            None,
            "libvirt announces it"
        );
        guard.call = None;
        let asked =
            |guard: &Guard| expected(guard, &domain(), Some(&announced(Arrival::Migration)), &[]);
        assert_eq!(asked(&guard), Some(Arrival::Restore));
        fs::remove_file(save).unwrap();
        assert_eq!(asked(&guard), None);
    }

    #[test]
    fn a_reverted_run_is_recognised_by_its_configuration() {
        let run = "<cpu check='full'/><disk><backingStore/></disk>";
        let names = ["before".to_owned()];
        for (xml, definition, is_reverted) in [
            (run, Some("<cpu check='none'/><disk/>"), true),
            (
                "<cpu/><disk><backingStore/></disk>",
                Some("<cpu/><disk/>"),
                true,
            ),
            // Copied from a run, or just started.
            (run, Some(run), false),
            (
                "<cpu check='none'/><disk/>",
                Some("<cpu check='none'/><disk/>"),
                false,
            ),
            (run, None, false),
        ] {
            let (_dir, guard) = called_with(xml);
            if let Some(definition) = definition {
                fs::write(
                    guard.config.libvirt.definitions().join("vm1.xml"),
                    definition,
                )
                .unwrap();
            }
            let found = expected(&guard, &domain(), None, &names);
            assert_eq!(found.is_some(), is_reverted, "{xml} {definition:?}");
            assert_eq!(expected(&guard, &domain(), None, &[]), None, "no snapshots");
        }
    }
}
