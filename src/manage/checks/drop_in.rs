//! Whether the libvirtd of a host runs `stage` before it starts.

use std::path::Path;

use crate::host::dirs::{UNIT_DIRS, UNSTAGE_UNIT};
use crate::host::text;
use crate::messages::Command;

/// What this host's libvirtd lacks of the drop-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lacking {
    /// It is started without `stage`.
    Stage,
    /// After a start that failed, nobody runs `unstage`.
    UnstageAfterFailure,
    /// After a start that takes long, `unstage` gives up: it is of an older version.
    UnstageThatWaits,
}

/// What a monolithic libvirtd lacks.
pub(crate) fn lacking() -> Option<Lacking> {
    let drop_ins = UNIT_DIRS.map(|dir| Path::new(dir).join("libvirtd.service.d"));
    let texts: Vec<_> = drop_ins.iter().flat_map(|dir| texts(dir)).collect();
    lacking_in(&texts)
}

fn lacking_in(texts: &[String]) -> Option<Lacking> {
    let runs = |key: &str, command: &str| {
        let mut lines = texts.iter().flat_map(|text| text.lines());
        lines.any(|line| line.starts_with(key) && line.ends_with(command))
    };
    if !runs("ExecStartPre=", &Command::Stage.to_string()) {
        return Some(Lacking::Stage);
    }
    if !runs("ExecStopPost=", &Command::Unstage.to_string()) {
        return Some(Lacking::UnstageAfterFailure);
    }
    (!runs("ExecStartPost=", UNSTAGE_UNIT)).then_some(Lacking::UnstageThatWaits)
}

fn texts(drop_ins: &Path) -> Vec<String> {
    let files = drop_ins.read_dir().into_iter().flatten().flatten();
    files
        .map(|file| file.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "conf")
        })
        .filter_map(|path| text::read(&path).ok())
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use super::*;

    const SHIPPED: &str =
        include_str!("../../../packaging/systemd/libvirtd.service.d/50-vtpm-guard.conf");

    #[test]
    fn the_shipped_drop_in_lacks_nothing_and_an_older_one_the_clearing_after_a_failure() {
        assert_eq!(lacking_in(&[SHIPPED.to_owned()]), None);
        let older = SHIPPED.replace("\nExecStopPost=", "\n#");
        assert_eq!(lacking_in(&[older]), Some(Lacking::UnstageAfterFailure));
        let waits = "systemctl --no-block start vtpm-guard-unstage.service";
        let older = SHIPPED.replace(waits, "/usr/sbin/vtpm-guard unstage");
        assert_eq!(lacking_in(&[older]), Some(Lacking::UnstageThatWaits));
        assert_eq!(lacking_in(&[]), Some(Lacking::Stage));
    }

    #[test]
    fn only_what_systemd_reads_as_a_drop_in_counts() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "50-vtpm-guard.conf",
            "50-vtpm-guard.conf.dpkg-old",
            "README",
        ] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        assert_eq!(texts(dir.path()), ["50-vtpm-guard.conf"]);
        // Whoever wrote the comment had another encoding.
        let shipped = [b"# f\xfcr alle\n", SHIPPED.as_bytes()].concat();
        fs::write(dir.path().join("50-vtpm-guard.conf"), shipped).unwrap();
        assert_eq!(lacking_in(&texts(dir.path())), None);
        assert_eq!(texts(&dir.path().join("missing")), [""; 0]);
    }
}
