//! Whether a monolithic libvirtd of this host runs `stage` before it starts.

use std::fs;
use std::path::Path;

use crate::host::dirs::LibvirtDirs;

/// Where systemd looks for the drop-ins of a unit (systemd.unit(5)).
const UNIT_DIRS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether this host's libvirtd is monolithic and is started without `stage`.
pub(super) fn is_missing(dirs: &LibvirtDirs) -> bool {
    // There while a monolithic libvirtd runs.
    dirs.pid_file("libvirtd").exists()
        && !UNIT_DIRS
            .iter()
            .any(|dir| runs_stage(&Path::new(dir).join("libvirtd.service.d")))
}

fn runs_stage(drop_ins: &Path) -> bool {
    let files = drop_ins.read_dir().into_iter().flatten().flatten();
    files
        .map(|file| file.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .any(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("vtpm-guard stage")))
}
