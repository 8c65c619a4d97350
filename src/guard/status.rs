//! libvirt's status files of running guests: whether a guest runs, and, when it stops, whether it
//! has migrated away. The hook's EXTRA reports the latter only since libvirt 10.5.

use std::fs::File;
use std::io::Read;

use super::context::Guard;
use crate::domain::Domain;
use crate::host::text;

/// How much of a status file is read, in bytes. The job is near its beginning.
const STATUS_LIMIT: u64 = 1024 * 1024;

/// `VIR_MIGRATE_POSTCOPY` (`include/libvirt/libvirt-domain.h`), in the flags of a job.
const MIGRATE_POSTCOPY: u64 = 1 << 15;

/// Returns whether this guest has migrated away, from its status file at `stopped end`; at
/// `release end` the file is gone. `false` if it cannot be read.
///
/// `<job type='none' async='migration out' phase='confirm3' …>` (libvirt 9.0,
/// `qemuDomainObjPrivateXMLFormatJob`): the source confirms once the destination has reported that
/// the guest runs there; otherwise the phase is another (`qemuMigrationSrcConfirmPhase`).
pub(super) fn has_migrated_away(guard: &Guard, domain: &Domain) -> bool {
    status(guard, domain).is_some_and(|status| is_confirmed(&status))
}

/// Returns how far a guest had come when it stopped, from its status file at `stopped end`; at
/// `release end` the file is gone. `None` if there is none, or it has no job.
///
/// A start that fails still has its job: `<job async='start' …>`, `async='migration in'`. A guest whose
/// memory is copied after it went on here has that job, too, and has run:
/// `<domstatus state='running' reason='post-copy' …>`, or `'post-copy failed'`.
pub(super) fn progress(guard: &Guard, domain: &Domain) -> Option<Progress> {
    progress_in(&status(guard, domain)?)
}

/// How far a guest had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its start was not over. libvirt 9.0 also says so of a guest that runs, and that it reverts to a
    /// snapshot (`qemuSnapshotRevert`).
    Starting,
    /// Its migration to this host was not over.
    Arriving,
    /// It had run.
    Ran,
}

fn status(guard: &Guard, domain: &Domain) -> Option<String> {
    let path = guard
        .config
        .libvirt
        .running()
        .join(format!("{}.xml", domain.name));
    beginning(File::open(path).ok()?)
}

/// The beginning of a status file. Where it is cut, that may be within a character.
fn beginning(file: impl Read) -> Option<String> {
    let mut status = Vec::new();
    file.take(STATUS_LIMIT).read_to_end(&mut status).ok()?;
    Some(text::lossy(status))
}

/// Returns whether the guest has a status file: it runs. At `prepare` there is none yet.
pub(super) fn is_running(guard: &Guard, domain: &Domain) -> bool {
    guard
        .config
        .libvirt
        .running()
        .join(format!("{}.xml", domain.name))
        .exists()
}

/// Whether a status file says how far its guest is, for fuzzing.
#[cfg(feature = "internals")]
#[must_use]
pub fn is_understood(status: &str) -> bool {
    is_confirmed(status) || progress_in(status).is_some()
}

fn is_confirmed(status: &str) -> bool {
    job(status).is_some_and(|job| {
        job.contains("async='migration out'") && job.contains("phase='confirm3'")
    })
}

fn progress_in(status: &str) -> Option<Progress> {
    let job = job(status)?;
    Some(if job.contains("async='start'") {
        Progress::Starting
    } else if job.contains("async='migration in'") && !runs_by_post_copy(status, job) {
        Progress::Arriving
    } else {
        Progress::Ran
    })
}

/// Whether a guest whose migration to this host is not over runs here all the same, or has.
///
/// If it is ended then, QEMU reports that it shuts down, and the reason is another. Before the guest runs, libvirt is in
/// the last phase only for moments, or ends QEMU without looking at its reports.
fn runs_by_post_copy(status: &str, job: &str) -> bool {
    let Some(state) = attributes(status, "<domstatus ") else {
        return false;
    };
    let has_shut_down = state.contains("state='shutdown'") && job.contains("phase='finish3'");
    state.contains(" reason='post-copy") || has_shut_down && allows_post_copy(job)
}

fn allows_post_copy(job: &str) -> bool {
    let flags = job.split_once(" flags='0x").and_then(|(_, flags)| {
        let (flags, _) = flags.split_once('\'')?;
        u64::from_str_radix(flags, 16).ok()
    });
    flags.is_some_and(|flags| flags & MIGRATE_POSTCOPY != 0)
}

/// Returns the attributes of the job in a status file.
fn job(status: &str) -> Option<&str> {
    attributes(status, "<job ")
}

/// Returns the attributes of the first element that begins so.
fn attributes<'s>(status: &'s str, element: &str) -> Option<&'s str> {
    let (_, rest) = status.split_once(element)?;
    rest.split_once('>').map(|(attributes, _)| attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_file_that_is_cut_within_a_character_says_what_it_says() {
        let begins = "<domstatus state='paused'>\n  <job type='none' async='start' phase='none'/>";
        let limit = usize::try_from(STATUS_LIMIT).unwrap_or(usize::MAX);
        for longer in 0..4 {
            let title = "🔑".repeat((limit - begins.len()) / 4 + 1);
            let file = format!("{}{begins}{title}</domstatus>", " ".repeat(longer));
            let found = beginning(file.as_bytes());
            let progress = found.as_deref().and_then(progress_in);
            assert_eq!(progress, Some(Progress::Starting), "{longer}");
        }
    }

    #[test]
    fn a_guest_whose_start_is_not_over_has_not_run() {
        let status = |state: &str, job: &str| {
            progress_in(&format!("<domstatus {state} pid='7'>\n  <job {job}/>"))
        };
        for (job, expected) in [
            ("type='none' async='none'", Progress::Ran),
            ("type='destroy' async='none'", Progress::Ran),
            ("type='none' async='save' phase='none'", Progress::Ran),
            ("type='none' async='start' phase='none'", Progress::Starting),
            (
                "type='none' async='migration in' phase='prepare'",
                Progress::Arriving,
            ),
        ] {
            let found = status("state='paused' reason='starting up'", job);
            assert_eq!(found, Some(expected), "{job}");
        }
        // Its memory is still being copied, and it runs.
        let arriving = "type='none' async='migration in' phase='finish3'";
        for state in [
            "state='running' reason='post-copy'",
            "state='running' reason='post-copy failed'",
            "state='paused' reason='post-copy failed'",
        ] {
            assert_eq!(status(state, arriving), Some(Progress::Ran), "{state}");
        }
        let state = "state='paused' reason='migration'";
        assert_eq!(status(state, arriving), Some(Progress::Arriving));
        // It was ended then.
        let state = "state='shutdown' reason='unknown'";
        let ended = |flags: &str| status(state, &format!("{arriving} flags='{flags}'"));
        assert_eq!(ended("0x8001"), Some(Progress::Ran));
        assert_eq!(ended("0x4001"), Some(Progress::Arriving));
        assert_eq!(status(state, arriving), Some(Progress::Arriving));
        let earlier = "async='migration in' phase='prepare' flags='0x8001'";
        assert_eq!(status(state, earlier), Some(Progress::Arriving));
        assert_eq!(progress_in(""), None);
    }

    /// What is fuzzed is this file.
    #[cfg(feature = "internals")]
    #[test]
    fn a_status_file_is_read_as_the_fuzzers_read_it() {
        assert!(is_understood(
            "<domstatus>\n  <job type='none' async='start'/>"
        ));
        assert!(!is_understood("<domstatus/>"));
    }

    #[test]
    fn only_a_confirmed_migration_is_one() {
        let status = |job: &str| format!("<domstatus state='paused'>\n  <job {job}>\n  </job>");
        for (job, confirmed) in [
            (
                "type='none' async='migration out' phase='confirm3' flags='0x101'",
                true,
            ),
            (
                "type='none' async='migration out' phase='confirm3_cancelled'",
                false,
            ),
            ("type='none' async='migration out' phase='perform3'", false),
            ("type='none' async='migration in' phase='confirm3'", false),
            ("type='none' async='save' flags='0x0'/", false),
        ] {
            assert_eq!(is_confirmed(&status(job)), confirmed, "{job}");
        }
        let elsewhere = "<job type='none' async='none'/> async='migration out' phase='confirm3'>";
        assert!(!is_confirmed(elsewhere) && !is_confirmed(""));
    }
}
