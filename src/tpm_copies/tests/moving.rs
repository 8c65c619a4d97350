//! A state is moved away, or protected by hard links.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::{Guest, STATE, mode, names};
use crate::clock::Timestamp;
use crate::domain::{Emulator, StateSource};
use crate::host::crash::armed;
use crate::swtpm::{Backend, StatePath};
use crate::tpm_copies::manifest::{Attributes, Manifest};
use crate::tpm_copies::{CopyError, HardLinks, LinksRestored, may_be_set_aside, set_aside};
use crate::verdict::facts::CopyReason;

#[test]
fn a_damaged_state_is_moved_to_the_guards_directory() {
    let guest = Guest::new();
    let guard = guest.guard();
    let set_aside = || {
        let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
        let copy = &guest.copies()[0].manifest;
        set_aside(&guard, guest.domain, &of, copy, Timestamp(7)).unwrap()
    };
    guest.save(CopyReason::Start);
    guest.put(b"damaged");
    fs::set_permissions(guest.state(), Permissions::from_mode(0o640)).unwrap();
    let aside = set_aside();
    assert!(
        aside.starts_with(guard.join("damaged-state")),
        "{}",
        aside.display()
    );
    assert_eq!(fs::read(&aside).unwrap(), b"damaged");
    assert_eq!(mode(&aside), 0o640);
    assert_eq!(mode(aside.parent().unwrap()), 0o700);
    assert!(names(guest.state().parent().unwrap()).is_empty());

    // Anything but a file is only renamed; NFS may do that and say that it has failed.
    symlink("/etc/hostname", guest.state()).unwrap();
    armed::lose_answer_of_rename();
    let renamed_to = set_aside();
    assert_eq!(
        renamed_to,
        guest.state().with_file_name("tpm2-00.permall.damaged-7")
    );
    assert!(renamed_to.is_symlink() && !guest.state().is_symlink());
    fs::remove_dir_all(guest.state().parent().unwrap()).unwrap();
    symlink("/tmp", guest.state().parent().unwrap()).unwrap();
    let renamed_to = set_aside();
    assert!(renamed_to.ends_with("tpm2.damaged-7") && renamed_to.is_symlink());
}

/// A typo in `<source path='…'/>` is enough to lead to anything.
#[test]
fn what_the_xml_names_is_moved_only_where_it_is_known_as_the_guests_state() {
    let mut guest = Guest::new();
    let at = |name: &str| guest.dir.path().join(name);
    let [file, other, dir] = ["vm1.state", "root's", "vm1.tpm"].map(at);
    let linear = include_bytes!("../../../tests/vectors/tpm-state/linear-plain/state.linear");
    fs::write(&file, linear).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("tpm2-00.permall"), STATE).unwrap();
    for (source, state) in [
        (StateSource::File(file.clone()), file.clone()),
        (StateSource::Dir(dir.clone()), dir.join("tpm2-00.permall")),
    ] {
        guest.vtpm.source = Some(source.clone());
        guest.save(CopyReason::Start);
        let copy = guest.copies()[0].manifest.clone();
        let place = |source: &StateSource| {
            let vtpm = Emulator {
                source: Some(source.clone()),
                ..guest.vtpm.clone()
            };
            StatePath::of(&guest.states(), guest.domain, &vtpm)
        };
        let here = place(&source);
        fs::write(&state, "damaged").unwrap();
        may_be_set_aside(&here, &copy).unwrap();
        // Of root, who has restored it from a backup; of anybody else.
        let owned_by = |swtpms| Manifest {
            file: Attributes {
                uid: swtpms,
                ..copy.file
            },
            ..copy.clone()
        };
        let is_roots = copy.file.uid == 0;
        let of_another = owned_by(copy.file.uid + 1);
        assert_eq!(may_be_set_aside(&here, &of_another).is_ok(), is_roots);
        // What another host has saved was never here.
        let fleets = Manifest {
            reason: CopyReason::Fleet,
            ..of_another
        };
        assert!(may_be_set_aside(&here, &fleets).is_err());
        let aside = set_aside(&guest.guard(), guest.domain, &here, &copy, Timestamp(7));
        assert_eq!(fs::read(aside.unwrap()).unwrap(), b"damaged");
        // In another guest's place, which is swtpm's, too.
        let was_elsewhere = Manifest {
            path: at("another's"),
            ..copy.clone()
        };
        fs::write(&state, "another's, damaged").unwrap();
        assert!(may_be_set_aside(&here, &was_elsewhere).is_err());
        fs::remove_file(&state).unwrap();
        // A directory of another guest's states, which is swtpm's, too.
        fs::create_dir(&state).unwrap();
        let moves_a_directory = may_be_set_aside(&here, &copy).is_ok();
        assert_eq!(moves_a_directory, matches!(source, StateSource::Dir(_)));

        fs::write(&other, "root:x:0:0").unwrap();
        let elsewhere = place(&StateSource::File(other.clone()));
        let refused = set_aside(
            &guest.guard(),
            guest.domain,
            &elsewhere,
            &copy,
            Timestamp(8),
        );
        let refused = refused.unwrap_err();
        assert!(
            matches!(refused, CopyError::NotTheGuests { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains(other.to_str().unwrap()));
        assert_eq!(fs::read(&other).unwrap(), b"root:x:0:0");
        fs::remove_dir_all(guest.copies_dir()).unwrap();
    }
}

#[test]
fn a_state_with_hard_links_is_restored_with_its_owner_modes_and_lock() {
    let guest = Guest::new();
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let links = HardLinks::of(&of).unwrap().unwrap();
    assert_eq!(links.restore().unwrap(), LinksRestored::NoLinks);
    let guest_dir = guest.states().join(guest.domain.to_string());
    let lock = guest.state().with_file_name(".lock");
    fs::write(&lock, "").unwrap();
    guest.put(b"whatever is in it");
    for (path, mode) in [
        (&guest_dir, 0o711),
        (&guest_dir.join("tpm2"), 0o700),
        (&guest.state(), 0o640),
    ] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = (inode(&guest.state()), inode(&lock));

    links.make().unwrap();
    // Again, as after a kill.
    links.make().unwrap();
    assert!(links.exist());
    assert_eq!(links.restore().unwrap(), LinksRestored::StillThere);
    guest.delete();
    assert_eq!(links.restore().unwrap(), LinksRestored::Restored);
    assert_eq!((inode(&guest.state()), inode(&lock)), before);
    assert_eq!(
        (
            mode(&guest_dir),
            mode(&guest_dir.join("tpm2")),
            mode(&guest.state())
        ),
        (0o711, 0o700, 0o640)
    );
    assert_eq!(links.restore().unwrap(), LinksRestored::NoLinks);

    links.make().unwrap();
    links.give_up().unwrap();
    assert!(!links.exist() && guest.state().exists());
}

#[test]
fn a_state_that_libvirt_may_delete_again_is_restored_and_keeps_its_links() {
    let guest = Guest::new();
    let file = guest.states().join("vm1.state");
    guest.put(b"whatever is in it");
    fs::write(&file, b"whatever is in it").unwrap();
    let of_directory = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let of_file = StatePath::of_copy(&file, 0, Backend::Linear);
    for (of, state) in [(of_directory, guest.state()), (of_file, file)] {
        let links = HardLinks::of(&of).unwrap().unwrap();
        let delete = || match of.backend() {
            Backend::Directory => guest.delete(),
            Backend::Linear => fs::remove_file(&of.path).unwrap(),
        };
        links.make().unwrap();
        let own = links.identity().unwrap();
        let before = fs::metadata(&state).unwrap().ino();
        for _ in 0..3 {
            assert_eq!(links.restore_and_keep().unwrap(), LinksRestored::StillThere);
            delete();
            assert_eq!(links.restore_and_keep().unwrap(), LinksRestored::Restored);
            assert_eq!(fs::metadata(&state).unwrap().ino(), before);
            assert_eq!(links.identity(), Some(own));
        }
        links.remove_own((own.0, own.1 + 1)).unwrap();
        assert!(links.exist());
        links.remove_own(own).unwrap();
        assert!(!links.exist() && state.exists());
        delete();
        assert_eq!(links.restore_and_keep().unwrap(), LinksRestored::NoLinks);
    }
    assert!(names(&guest.states()).is_empty());
}

#[test]
fn links_that_are_being_removed_never_become_the_state() {
    let guest = Guest::new();
    guest.put(b"whatever is in it");
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let links = HardLinks::of(&of).unwrap().unwrap();
    links.make().unwrap();
    guest.delete();
    // Another process removes them while this one restores.
    let name = guest.states().join(format!(".vtpm-guard.{}", guest.domain));
    armed::meanwhile(2, move || {
        fs::remove_file(name.join("tpm2/tpm2-00.permall")).unwrap();
        fs::remove_dir_all(&name).unwrap();
    });
    assert_eq!(links.restore_and_keep().unwrap(), LinksRestored::NoLinks);
    assert!(!armed::forget() && names(&guest.states()).is_empty());
}

#[test]
fn what_a_kill_leaves_of_links_goes_with_the_next_ones_when_it_is_old() {
    let guest = Guest::new();
    guest.put(b"whatever is in it");
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let links = HardLinks::of(&of).unwrap().unwrap();
    let at = |name: String| guest.states().join(name);
    let spare = at(format!(
        ".vtpm-guard.spare.0123456789abcdef.{}",
        guest.domain
    ));
    let of_another = at(format!(
        ".vtpm-guard.spare.0123456789abcdef.a{}",
        guest.domain
    ));
    for dir in [&spare, &of_another] {
        fs::create_dir_all(dir.join("tpm2")).unwrap();
    }
    links.make().unwrap();
    assert!(spare.exists(), "it may be another process's");
    let later = Timestamp(Timestamp::now().0 + 180_000);
    assert!(links.remove_stale(later).unwrap());
    assert!(!spare.exists() && of_another.exists() && !links.exist());
    assert!(guest.state().exists());
}

#[test]
fn without_hard_links_the_directory_itself_is_away_until_libvirt_has_deleted_an_empty_one() {
    let guest = Guest::new();
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let links = HardLinks::of(&of).unwrap().unwrap();
    // Nothing is there that could be moved.
    guest.delete();
    assert!(links.move_away().is_err() && !links.exist());
    guest.put(b"whatever is in it");
    let inode = || fs::metadata(guest.state()).unwrap().ino();
    let before = inode();
    let move_away = || links.move_away();
    for has_flagged_renames in [true, true, false, false] {
        let moved = if has_flagged_renames {
            move_away()
        } else {
            armed::without_flagged_renames(move_away)
        };
        moved.unwrap();
        assert!(links.exist() && links.is_moved().unwrap() && !guest.state().exists());
        assert_eq!(links.restore().unwrap(), LinksRestored::StillThere);
        guest.delete();
        assert_eq!(links.restore().unwrap(), LinksRestored::Restored);
        assert_eq!(inode(), before);
    }
    // libvirt has not deleted it.
    links.move_away().unwrap();
    links.give_up().unwrap();
    assert!(inode() == before && !links.exist());

    // Of a kill before the move: the empty one is never given back as the state.
    let moved = format!(".vtpm-guard.moved.{}", guest.domain);
    let moved = guest.states().join(moved);
    fs::create_dir(&moved).unwrap();
    guest.delete();
    assert_eq!(links.restore().unwrap(), LinksRestored::NoLinks);
    assert!(!moved.exists() && !links.exist());
}

#[test]
fn where_no_hard_link_can_be_made_the_directory_is_moved() {
    let guest = Guest::new();
    // Links are made only as deep as libvirt makes directories.
    let deep = guest.state().with_file_name("a/b/c/d");
    fs::create_dir_all(deep).unwrap();
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let links = HardLinks::of(&of).unwrap().unwrap();
    links.make().unwrap();
    assert!(links.is_moved().unwrap() && !guest.state().exists());
    guest.delete();
    assert_eq!(links.restore().unwrap(), LinksRestored::Restored);
    assert!(guest.state().exists() && !links.exist());
}

#[test]
fn a_state_in_one_file_is_restored_from_a_hard_link() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vm1.state");
    let of = StatePath::of_copy(&file, 0, Backend::Linear);
    let links = HardLinks::of(&of).unwrap().unwrap();
    assert_eq!(links.restore().unwrap(), LinksRestored::NoLinks);
    assert!(links.make().is_err() && !links.exist());
    fs::write(&file, "whatever is in it").unwrap();
    let inode = || fs::metadata(&file).unwrap().ino();
    let before = inode();
    links.make().unwrap();
    // Again, as after a kill.
    links.make().unwrap();
    assert!(links.exist());
    assert_eq!(links.restore().unwrap(), LinksRestored::StillThere);
    fs::remove_file(&file).unwrap();
    assert_eq!(links.restore().unwrap(), LinksRestored::Restored);
    assert_eq!(inode(), before);
    assert_eq!(links.restore().unwrap(), LinksRestored::NoLinks);
    links.make().unwrap();
    links.give_up().unwrap();
    assert!(!links.exist() && file.exists());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn links_that_nobody_waits_with_any_more_are_removed_beside_the_state_and_never_instead_of_it() {
    let guest = Guest::new();
    guest.put(b"state");
    let of = StatePath::of(&guest.states(), guest.domain, &guest.vtpm);
    let links = HardLinks::of(&of).unwrap().unwrap();
    links.make().unwrap();
    let later = |seconds: i64| Timestamp(Timestamp::now().0 + seconds * 1000);
    assert!(!links.remove_stale(later(60)).unwrap());
    assert!(links.exist());
    // The links are all that is left of the state.
    let place = guest.states().join(guest.domain.to_string());
    let away = place.with_extension("away");
    fs::rename(&place, &away).unwrap();
    assert!(!links.remove_stale(later(600)).unwrap());
    fs::rename(&away, &place).unwrap();
    assert!(links.remove_stale(later(600)).unwrap());
    assert!(!links.exist());
    assert_eq!(fs::read(guest.state()).unwrap(), b"state");
}
