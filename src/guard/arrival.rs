//! TPM state that gets to its place after `prepare`: with a guest that migrates here, is restored,
//! or reverts to a snapshot of when it ran. Then no state here is no state gone, and a state that
//! is here proves nothing.
//!
//! libvirt announces the first two at the hook (`migrate begin`, `restore begin`), before it knows
//! whether it will start anything. So an announcement holds for the attempt alone that it was made
//! in. [`is_a_runs_own`] says what the third is known by.

use std::fs;
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use super::context::{Guard, HookCall};
use super::saved_runs::{has_managed_save, is_file_name, read_definition};
use super::status::is_running;
use crate::clock::Timestamp;
use crate::domain::Domain;
use crate::verdict::facts::{Announcement, Arrival};

/// How the TPM state of this start gets to its place; `None`: it is there, or it is gone.
/// `snapshots` are those of when the guest ran.
///
/// Whoever asks without being libvirtd asks about the guest's next start: that goes on from a
/// managed save, if there is one, and from no announcement.
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
    let reverts = || !snapshots.is_empty() && is_a_runs_own(guard, domain, &call.xml);
    match announced {
        Some(announcement) => Some(announcement.arrival),
        None => reverts().then_some(Arrival::Snapshot),
    }
}

/// What is to be noted at `migrate begin` and `restore begin`. Nothing where the guest runs:
/// libvirt will refuse to restore it; and nothing where nobody starts it.
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

/// Whether an announcement was made in the attempt that this `prepare` belongs to.
fn holds_for(announcement: &Announcement, call: &HookCall, guard: &Guard, domain: &Domain) -> bool {
    // libvirt refuses an image with the UUID of a guest of another name, after it has announced it.
    let is_of_this_attempt =
        announcement.domain_name == domain.name && announcement.attempt == (call.attempt)();
    // A guest that is migrated offline is announced, too. What comes of it is its definition,
    // which is written afterwards; a guest that migrates as it runs is prepared before.
    let came_offline = announcement.arrival == Arrival::Migration
        && defined_at(guard, domain).is_some_and(|defined| defined > announcement.at);
    is_of_this_attempt && !came_offline
}

/// When the guest's definition was last written.
fn defined_at(guard: &Guard, domain: &Domain) -> Option<Timestamp> {
    let written = fs::metadata(definition(guard, domain)?)
        .and_then(|metadata| metadata.modified())
        .ok()?;
    let since_epoch = written.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_epoch.as_millis()).ok().map(Timestamp)
}

/// Whether this domain XML is the configuration of a run, and not the guest's definition:
/// libvirt starts a guest with it that goes on from a snapshot of that run, and from nothing
/// else that it does not announce.
///
/// A run's configuration says of each disk that has no backing file `<backingStore/>`, and of a
/// CPU that it is to be just so (libvirt 9.0). Where that is missing (libvirt 11.3 goes back with
/// the definition of that time, and nothing tells it from an ordinary start), or the definition has
/// it too because somebody has copied it from a run, the start is an ordinary one.
fn is_a_runs_own(guard: &Guard, domain: &Domain, xml: &[u8]) -> bool {
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

fn definition(guard: &Guard, domain: &Domain) -> Option<PathBuf> {
    let file = format!("{}.xml", domain.name);
    is_file_name(&domain.name).then(|| guard.config.libvirt.definitions().join(file))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs::File;
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
            xml: xml.as_bytes().to_vec(),
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
    fn an_announcement_is_for_its_attempt_and_its_guest() {
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
    fn a_guest_whose_definition_came_after_its_announcement_was_migrated_offline() {
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
    }

    #[test]
    fn nothing_is_announced_for_a_guest_that_runs_nor_by_a_person() {
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
    fn a_person_asks_about_the_next_start_which_goes_on_from_a_managed_save() {
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
    fn a_run_that_is_gone_back_to_is_known_by_its_configuration() {
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
