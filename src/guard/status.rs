//! What libvirt's own notes on a guest that runs say: that it runs, and, as it stops, whether it
//! runs on elsewhere. The hook's EXTRA tells the latter only since libvirt 10.5.

use std::fs::File;
use std::io::Read;

use super::Guard;
use crate::domain::Domain;

/// As much of a status file as is read, in bytes. The job stands near its beginning.
const STATUS_LIMIT: u64 = 1024 * 1024;

/// Whether this guest's migration away has succeeded, as its status file says at `stopped end`;
/// at `release end` it is gone. What cannot be read says nothing.
///
/// `<job type='none' async='migration out' phase='confirm3' …>` (libvirt 9.0,
/// `qemuDomainObjPrivateXMLFormatJob`): the source confirms once the destination has told that the
/// guest runs there; otherwise the phase is another (`qemuMigrationSrcConfirmPhase`).
pub(super) fn has_migrated_away(guard: &Guard, domain: &Domain) -> bool {
    let path = guard.libvirt_run_dir.join(format!("{}.xml", domain.name));
    let mut status = String::new();
    let read =
        File::open(path).and_then(|file| file.take(STATUS_LIMIT).read_to_string(&mut status));
    read.is_ok() && is_confirmed(&status)
}

/// Whether libvirt has notes of this guest: it runs. A start that is being prepared has none yet.
pub(super) fn is_running(guard: &Guard, domain: &Domain) -> bool {
    guard
        .libvirt_run_dir
        .join(format!("{}.xml", domain.name))
        .exists()
}

fn is_confirmed(status: &str) -> bool {
    let job = status.split_once("<job ").map(|(_, rest)| rest);
    let tag = job
        .and_then(|rest| rest.split_once('>'))
        .map(|(tag, _)| tag);
    tag.is_some_and(|tag| tag.contains("async='migration out'") && tag.contains("phase='confirm3'"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
