//! How a copy is restored.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::{Guest, STATE, mode, names};
use crate::domain::StateSource;
use crate::host::crash::armed;
use crate::swtpm::StatePath;
use crate::tpm_copies::{
    CopyError, CopyRestored, HardLinks, LiveState, RestoreError, files, restore_copy,
};
use crate::verdict::facts::CopyReason;

#[test]
fn a_copy_is_private_and_is_restored_with_its_modes() {
    let guest = Guest::new();
    let guest_dir = guest.states().join(guest.domain.to_string());
    fs::set_permissions(&guest_dir, Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(guest_dir.join("tpm2"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(guest.state(), Permissions::from_mode(0o640)).unwrap();

    let sha256 = guest.save(CopyReason::Start);
    let files = [format!("{sha256}.json"), format!("{sha256}.state")];
    assert_eq!(names(&guest.copies_dir()), files);
    assert_eq!(mode(&guest.copies_dir()), 0o700);
    for file in files {
        assert_eq!(mode(&guest.copies_dir().join(file)), 0o600);
    }

    guest.delete();
    assert_eq!(guest.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(fs::read(guest.state()).unwrap(), STATE);
    assert_eq!(mode(&guest_dir), 0o711);
    assert_eq!(mode(&guest_dir.join("tpm2")), 0o700);
    assert_eq!(mode(&guest.state()), 0o640);
    assert_eq!(names(&guest_dir.join("tpm2")), ["tpm2-00.permall"]);
    assert_eq!(guest.restore_copy().unwrap(), CopyRestored::AlreadyThere);
}

#[test]
fn libvirts_directory_of_states_is_made_where_no_tpm_ran_yet() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    fs::remove_dir_all(guest.states()).unwrap();
    assert_eq!(guest.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(fs::read(guest.state()).unwrap(), STATE);
}

#[test]
fn directories_are_made_again_on_a_file_system_without_renames_that_replace_nothing() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    let whole = [guest.domain.to_string()];
    let all = guest.states();
    for deleted in [&all.join(&whole[0]), &all] {
        fs::remove_dir_all(deleted).unwrap();
        let restored = armed::without_flagged_renames(|| guest.restore_copy());
        assert_eq!(restored.unwrap(), CopyRestored::Written);
        assert_eq!(fs::read(guest.state()).unwrap(), STATE);
        assert_eq!(names(&guest.states()), whole);
    }
    // A rename that is done although its answer was lost.
    guest.delete();
    armed::lose_answer_of_rename();
    assert_eq!(guest.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(names(&guest.states()), whole);
}

#[test]
fn a_directory_that_could_not_be_made_leaves_nothing_that_counts_as_hard_links() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    guest.delete();
    let links = || {
        let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
        HardLinks::of(&of).unwrap().unwrap()
    };
    // Somebody takes the name meanwhile: just before the directory would get it.
    let taken = guest.states().join(guest.domain.to_string());
    let take = taken.clone();
    armed::meanwhile(1, move || fs::write(take, "").unwrap());
    assert!(guest.restore_copy().is_err());
    assert_eq!(names(&guest.states()), [guest.domain.to_string()]);
    assert!(!links().exist());
    fs::remove_file(&taken).unwrap();

    // What a killed process has left is removed when it is old, and is no hard link before that.
    let left = format!(".vtpm-guard.spare.0123456789abcdef.{}", guest.domain);
    fs::create_dir(guest.states().join(&left)).unwrap();
    assert!(!links().exist());
    guest.restore_copy().unwrap();
    assert_eq!(names(&guest.states()), [left, guest.domain.to_string()]);
}

#[test]
fn another_state_is_never_overwritten() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    guest.put(b"another");
    let refused = guest.restore_copy();
    assert!(
        matches!(refused, Err(RestoreError::Occupied { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(guest.state()).unwrap(), b"another");
    // A dangling link is not replaced either.
    fs::remove_file(guest.state()).unwrap();
    symlink(guest.dir.path().join("elsewhere"), guest.state()).unwrap();
    assert!(guest.restore_copy().is_err());
    assert!(!guest.dir.path().join("elsewhere").exists());
}

#[test]
fn no_directory_is_made_behind_a_link() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    guest.delete();
    let elsewhere = guest.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, guest.states().join(guest.domain.to_string())).unwrap();
    assert!(guest.restore_copy().is_err());
    assert!(names(&elsewhere).is_empty());
}

#[test]
fn a_state_is_restored_at_the_path_that_the_xml_has_now() {
    let mut guest = Guest::new();
    let dir = |guest: &Guest, name: &str| guest.dir.path().join(name);
    guest.vtpm.source = Some(StateSource::Dir(dir(&guest, "old")));
    guest.put(STATE);
    guest.save(CopyReason::Start);
    guest.vtpm.source = Some(StateSource::Dir(dir(&guest, "new")));
    assert_eq!(guest.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(fs::read(dir(&guest, "new/tpm2-00.permall")).unwrap(), STATE);
    // One file is another format.
    guest.vtpm.source = Some(StateSource::File(dir(&guest, "file")));
    assert!(matches!(guest.restore_copy(), Err(RestoreError::OtherTpm)));
}

#[test]
fn a_file_that_is_not_a_tpm_state_is_neither_saved_nor_restored() {
    let guest = Guest::new();
    let sha256 = guest.save(CopyReason::Start);
    for other in [&b"root:$y$TOP-SECRET-OF-ROOT"[..], b"", &STATE[..700]] {
        guest.put(other);
        let saved = LiveState::read(&guest.states(), guest.domain, &guest.vtpm);
        let Err(CopyError::NotAState { reason, .. }) = saved else {
            panic!("{saved:?}")
        };
        assert!(!reason.contains("SECRET"), "{reason}");
    }
    // As an earlier version saved it.
    guest.delete();
    let other = b"root:$y$TOP-SECRET-OF-ROOT";
    let other_sha256 = files::hash(other);
    let file = |sha256: &str, end: &str| guest.copies_dir().join(format!("{sha256}{end}"));
    let manifest = fs::read_to_string(file(&sha256, ".json")).unwrap();
    let manifest = manifest.replace(&sha256, &other_sha256);
    fs::write(
        file(&other_sha256, ".json"),
        manifest.replace("\"number\": 1", "\"number\": 2"),
    )
    .unwrap();
    fs::write(file(&other_sha256, ".state"), other).unwrap();
    assert_eq!(guest.copies()[0].bytes, other);
    let refused = guest.restore_copy();
    assert!(
        matches!(refused, Err(RestoreError::NotAState { .. })),
        "{refused:?}"
    );
    assert!(!guest.state().exists());
}

#[test]
fn a_restored_state_belongs_to_the_owner_of_its_directory_and_is_not_executable() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let guest = Guest::new();
    let directory = guest.state().parent().unwrap().to_owned();
    std::os::unix::fs::chown(&directory, Some(107), Some(115)).unwrap();
    fs::set_permissions(guest.state(), Permissions::from_mode(0o4755)).unwrap();
    guest.save(CopyReason::Start);
    guest.delete();
    guest.restore_copy().unwrap();
    let found = fs::metadata(guest.state()).unwrap();
    assert_eq!((found.uid(), found.gid()), (107, 115));
    assert_eq!(found.mode() & 0o7777, 0o644);
}

#[test]
fn a_link_instead_of_libvirts_directory_is_followed_when_a_copy_is_restored() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    guest.delete();
    let disk = guest.dir.path().join("disk");
    fs::rename(guest.states(), &disk).unwrap();
    symlink("disk", guest.states()).unwrap();
    assert_eq!(guest.restore_copy().unwrap(), CopyRestored::Written);
    let below = guest
        .state()
        .strip_prefix(guest.states())
        .unwrap()
        .to_owned();
    assert_eq!(fs::read(disk.join(below)).unwrap(), STATE);
    // Also without a domain XML.
    guest.delete();
    assert_eq!(
        restore_copy(&guest.copies()[0], None).unwrap(),
        CopyRestored::Written
    );
    assert_eq!(fs::read(guest.state()).unwrap(), STATE);
}
