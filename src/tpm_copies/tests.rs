//! A state in, a copy out, and back again.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;
use crate::domain::{Emulator, StateSource, TpmVersion};
use crate::host::dirs::StateDir;
use crate::ids::DomainUuid;
use crate::verdict::facts::CopyReason;

const STATE: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-plain/tpm2-00.permall");
const LATER: &[u8] = include_bytes!("../../tests/vectors/tpm-state/tpm2-encrypted/tpm2-00.permall");

/// A state of a newer format than this program knows.
fn newer(text: &str) -> Vec<u8> {
    let len = u32::try_from(10 + text.len()).unwrap();
    [
        &[3, 3, 0, 10, 0, 0],
        &len.to_be_bytes()[..],
        text.as_bytes(),
    ]
    .concat()
}

/// A guest's TPM state in libvirt's place, and the guard's state directory beside it.
struct Place {
    dir: TempDir,
    domain: DomainUuid,
    vtpm: Emulator,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
            domain: DomainUuid::random(),
            vtpm: Emulator {
                version: TpmVersion::V2_0,
                secret_uuid: None,
                persistent_state: false,
                source: None,
            },
        };
        place.put(STATE);
        place
    }

    fn states(&self) -> PathBuf {
        self.dir.path().join("swtpm")
    }

    fn state(&self) -> PathBuf {
        swtpm_path(&self.states(), self.domain, &self.vtpm)
    }

    fn put(&self, bytes: &[u8]) {
        fs::create_dir_all(self.state().parent().unwrap()).unwrap();
        fs::write(self.state(), bytes).unwrap();
    }

    /// As libvirt does.
    fn delete(&self) {
        fs::remove_dir_all(self.states().join(self.domain.to_string())).unwrap();
    }

    fn guard(&self) -> StateDir {
        StateDir::at(self.dir.path().join("guard"))
    }

    fn copy_store(&self) -> CopyStore {
        CopyStore::of(&self.guard(), self.domain)
    }

    fn shelf_path(&self) -> PathBuf {
        let shelves = self.dir.path().join("guard/tpm-state");
        shelves.join(self.domain.to_string())
    }

    fn original(&self) -> Option<LiveState> {
        LiveState::read(&self.states(), self.domain, &self.vtpm).unwrap()
    }

    fn keep(&self, reason: CopyReason) -> String {
        let original = self.original().unwrap();
        self.copy_store().save(&original, "vm1", reason).unwrap()
    }

    /// The copies that can be read, all of them.
    fn copies(&self) -> Vec<SavedCopy> {
        let (copies, unreadable) = self.copy_store().copies().unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        copies
    }

    fn restore_copy(&self) -> Result<CopyRestored, RestoreError> {
        let start = (self.states(), self.domain, &self.vtpm);
        restore_copy(&self.copies()[0], Some((&start.0, start.1, start.2)))
    }
}

fn swtpm_path(states: &Path, domain: DomainUuid, vtpm: &Emulator) -> PathBuf {
    crate::swtpm::state_path(states, domain, vtpm)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_copy_is_private_and_whole_and_comes_back_with_its_modes() {
    let place = Place::new();
    let guest = place.states().join(place.domain.to_string());
    fs::set_permissions(&guest, Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(guest.join("tpm2"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(place.state(), Permissions::from_mode(0o640)).unwrap();

    let sha256 = place.keep(CopyReason::Start);
    let files = [format!("{sha256}.json"), format!("{sha256}.state")];
    assert_eq!(names(&place.shelf_path()), files);
    assert_eq!(mode(&place.shelf_path()), 0o700);
    for file in files {
        assert_eq!(mode(&place.shelf_path().join(file)), 0o600);
    }

    place.delete();
    assert_eq!(place.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(fs::read(place.state()).unwrap(), STATE);
    assert_eq!(mode(&guest), 0o711);
    assert_eq!(mode(&guest.join("tpm2")), 0o700);
    assert_eq!(mode(&place.state()), 0o640);
    assert_eq!(names(&guest.join("tpm2")), ["tpm2-00.permall"]);
    assert_eq!(place.restore_copy().unwrap(), CopyRestored::AlreadyThere);
}

#[test]
fn where_no_tpm_has_run_yet_libvirts_directory_is_made_too() {
    let place = Place::new();
    place.keep(CopyReason::Start);
    fs::remove_dir_all(place.states()).unwrap();
    assert_eq!(place.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(fs::read(place.state()).unwrap(), STATE);
}

#[test]
fn another_state_is_never_overwritten() {
    let place = Place::new();
    place.keep(CopyReason::Start);
    place.put(b"another");
    let refused = place.restore_copy();
    assert!(
        matches!(refused, Err(RestoreError::Occupied { .. })),
        "{refused:?}"
    );
    assert_eq!(fs::read(place.state()).unwrap(), b"another");
    // A link that leads nowhere is no place for a state either.
    fs::remove_file(place.state()).unwrap();
    symlink(place.dir.path().join("elsewhere"), place.state()).unwrap();
    assert!(place.restore_copy().is_err());
    assert!(!place.dir.path().join("elsewhere").exists());
}

#[test]
fn no_directory_is_made_behind_a_link() {
    let place = Place::new();
    place.keep(CopyReason::Start);
    place.delete();
    let elsewhere = place.dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(&elsewhere, place.states().join(place.domain.to_string())).unwrap();
    assert!(place.restore_copy().is_err());
    assert!(names(&elsewhere).is_empty());
}

#[test]
fn the_same_bytes_are_kept_once_and_others_beside_them() {
    let place = Place::new();
    let first = place.keep(CopyReason::Start);
    assert_eq!(place.keep(CopyReason::Release), first);
    assert_eq!(place.copies().len(), 1);
    assert_eq!(place.copies()[0].manifest.reason, CopyReason::Start);

    place.put(LATER);
    let second = place.keep(CopyReason::Release);
    let kept = place.copies();
    let order: Vec<_> = kept.iter().map(|copy| copy.manifest.sha256()).collect();
    assert_eq!(order, [&second, &first], "the latest first");

    place.copy_store().drop_copy(&second).unwrap();
    place.copy_store().drop_copy(&second).unwrap();
    assert_eq!(place.copies().len(), 1);
}

#[test]
fn a_copy_that_was_set_aside_stays_and_the_same_bytes_may_stand_by_again() {
    let place = Place::new();
    place.keep(CopyReason::Start);
    assert_eq!(place.copy_store().set_aside(Timestamp(7)).unwrap(), 1);
    assert_eq!(place.copy_store().set_aside(Timestamp(8)).unwrap(), 0);
    assert!(!place.copies()[0].is_available());
    assert_eq!(
        place.copies()[0].manifest.set_aside_at(),
        Some(Timestamp(7))
    );
    place.keep(CopyReason::Start);
    assert_eq!(place.copies().len(), 1);
    assert!(place.copies()[0].is_available());
}

#[test]
fn without_its_manifest_a_copy_is_none_and_the_next_one_is_whole() {
    let place = Place::new();
    let sha256 = place.keep(CopyReason::Start);
    // As a kill between the two leaves it.
    fs::remove_file(place.shelf_path().join(format!("{sha256}.json"))).unwrap();
    fs::write(place.shelf_path().join(".half.1"), "half").unwrap();
    assert!(place.copies().is_empty());
    place.keep(CopyReason::Start);
    assert_eq!(place.copies()[0].bytes, STATE);

    place.copy_store().drop_copy(&sha256).unwrap();
    place.copy_store().write_run(RunRecord::default()).unwrap();
    place.copy_store().remove_run().unwrap();
    place.copy_store().remove_if_empty().unwrap();
    assert!(!place.shelf_path().exists());
}

#[test]
fn damage_is_told_and_mended_by_the_next_copy() {
    let place = Place::new();
    let sha256 = place.keep(CopyReason::Start);
    let file = |end: &str| place.shelf_path().join(format!("{sha256}{end}"));
    let manifest = fs::read_to_string(file(".json")).unwrap();
    let damages: [(&str, Vec<u8>); 5] = [
        (".state", STATE[1..].to_vec()),
        (".state", Vec::new()),
        (".json", manifest.as_bytes()[..40].to_vec()),
        (
            ".json",
            manifest.replace("\"format\": 1", "\"format\": 2").into(),
        ),
        (
            ".json",
            manifest
                .replace("/swtpm", "../x")
                .replace("\"/", "\"")
                .into(),
        ),
    ];
    for (end, damaged) in damages {
        fs::write(file(end), damaged).unwrap();
        let (copies, unreadable) = place.copy_store().copies().unwrap();
        assert_eq!((copies.len(), unreadable.len()), (0, 1), "{end}");
        place.keep(CopyReason::Start);
        assert_eq!(place.copies()[0].bytes, STATE);
    }
}

#[test]
fn a_directory_that_others_may_write_is_not_trusted() {
    let place = Place::new();
    place.keep(CopyReason::Start);
    fs::set_permissions(place.shelf_path(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        place.copy_store().copies(),
        Err(CopyError::NotTrusted { .. })
    ));
}

#[test]
fn a_state_elsewhere_comes_back_where_the_xml_has_it_now() {
    let mut place = Place::new();
    let dir = |place: &Place, name: &str| place.dir.path().join(name);
    place.vtpm.source = Some(StateSource::Dir(dir(&place, "old")));
    place.put(STATE);
    place.keep(CopyReason::Start);
    place.vtpm.source = Some(StateSource::Dir(dir(&place, "new")));
    assert_eq!(place.restore_copy().unwrap(), CopyRestored::Written);
    assert_eq!(fs::read(dir(&place, "new/tpm2-00.permall")).unwrap(), STATE);
    // One file is another format.
    place.vtpm.source = Some(StateSource::File(dir(&place, "file")));
    assert!(matches!(place.restore_copy(), Err(RestoreError::OtherTpm)));
}

#[test]
fn the_way_of_a_run_is_noted_and_forgotten() {
    let place = Place::new();
    let copy_store = place.copy_store();
    assert_eq!(copy_store.run().unwrap(), RunRecord::default());
    let run = RunRecord {
        starting: true,
        state: Some(place.keep(CopyReason::Start)),
        ended_normally: false,
        migrated: false,
        refused: None,
    };
    copy_store.write_run(run.clone()).unwrap();
    assert_eq!(copy_store.run().unwrap(), run);
    assert_eq!(place.copies().len(), 1, "it is no copy");
    copy_store.remove_run().unwrap();
    copy_store.remove_if_empty().unwrap();
    assert_eq!(copy_store.run().unwrap(), RunRecord::default());
    assert_eq!(place.copies().len(), 1);
    assert_eq!(domains(&place.guard()).unwrap(), [place.domain]);
}

#[test]
fn what_is_no_tpm_state_is_neither_kept_nor_put_back() {
    let place = Place::new();
    let sha256 = place.keep(CopyReason::Start);
    for other in [&b"root:$y$TOP-SECRET-OF-ROOT"[..], b"", &STATE[..700]] {
        place.put(other);
        let kept = LiveState::read(&place.states(), place.domain, &place.vtpm);
        let Err(CopyError::NotAState { how, .. }) = kept else {
            panic!("{kept:?}")
        };
        assert!(!how.contains("SECRET"), "{how}");
    }
    // As an older program kept it.
    place.delete();
    let other = b"root:$y$TOP-SECRET-OF-ROOT";
    let other_sha256 = super::files::hash(other);
    let file = |sha256: &str, end: &str| place.shelf_path().join(format!("{sha256}{end}"));
    let manifest = fs::read_to_string(file(&sha256, ".json")).unwrap();
    let manifest = manifest.replace(&sha256, &other_sha256);
    fs::write(
        file(&other_sha256, ".json"),
        manifest.replace("\"number\": 1", "\"number\": 2"),
    )
    .unwrap();
    fs::write(file(&other_sha256, ".state"), other).unwrap();
    assert_eq!(place.copies()[0].bytes, other);
    let refused = place.restore_copy();
    assert!(
        matches!(refused, Err(RestoreError::NotAState { .. })),
        "{refused:?}"
    );
    assert!(!place.state().exists());
}

#[test]
fn what_comes_back_belongs_to_the_owner_of_its_directory_and_is_no_program() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new();
    let directory = place.state().parent().unwrap().to_owned();
    std::os::unix::fs::chown(&directory, Some(107), Some(115)).unwrap();
    fs::set_permissions(place.state(), Permissions::from_mode(0o4755)).unwrap();
    place.keep(CopyReason::Start);
    place.delete();
    place.restore_copy().unwrap();
    let found = fs::metadata(place.state()).unwrap();
    assert_eq!((found.uid(), found.gid()), (107, 115));
    assert_eq!(found.mode() & 0o7777, 0o644);
}

#[test]
fn a_link_for_libvirts_directory_is_followed_when_a_copy_comes_back() {
    let place = Place::new();
    place.keep(CopyReason::Start);
    place.delete();
    let disk = place.dir.path().join("disk");
    fs::rename(place.states(), &disk).unwrap();
    symlink("disk", place.states()).unwrap();
    assert_eq!(place.restore_copy().unwrap(), CopyRestored::Written);
    let below = place
        .state()
        .strip_prefix(place.states())
        .unwrap()
        .to_owned();
    assert_eq!(fs::read(disk.join(below)).unwrap(), STATE);
    // By hand, too, without a definition that names the place.
    place.delete();
    assert_eq!(
        restore_copy(&place.copies()[0], None).unwrap(),
        CopyRestored::Written
    );
    assert_eq!(fs::read(place.state()).unwrap(), STATE);
}

#[test]
fn a_damaged_state_is_moved_to_the_guards_own_directory() {
    let place = Place::new();
    let guard = place.guard();
    let set_aside = || {
        let of = crate::swtpm::StatePath::of(&place.states(), place.domain, &place.vtpm);
        super::set_aside(&guard, place.domain, &of, Timestamp(7)).unwrap()
    };
    place.put(b"damaged");
    fs::set_permissions(place.state(), Permissions::from_mode(0o640)).unwrap();
    let aside = set_aside();
    assert!(
        aside.starts_with(guard.join("damaged-state")),
        "{}",
        aside.display()
    );
    assert_eq!(fs::read(&aside).unwrap(), b"damaged");
    assert_eq!(mode(&aside), 0o640);
    assert_eq!(mode(aside.parent().unwrap()), 0o700);
    assert!(names(place.state().parent().unwrap()).is_empty());

    // What is no file stays where it is, under another name.
    symlink("/etc/hostname", place.state()).unwrap();
    let beside = set_aside();
    assert_eq!(
        beside,
        place.state().with_file_name("tpm2-00.permall.damaged-7")
    );
    assert!(beside.is_symlink() && !place.state().is_symlink());
    fs::remove_dir_all(place.state().parent().unwrap()).unwrap();
    symlink("/tmp", place.state().parent().unwrap()).unwrap();
    let beside = set_aside();
    assert!(beside.ends_with("tpm2.damaged-7") && beside.is_symlink());
}

#[test]
fn a_sheltered_state_comes_back_with_its_owner_its_modes_and_its_lock() {
    let place = Place::new();
    let of = crate::swtpm::StatePath::of(&place.states(), place.domain, &place.vtpm);
    let shelter = HardLinks::of(&of).unwrap().unwrap();
    assert_eq!(shelter.restore().unwrap(), LinksRestored::NoLinks);
    let guest = place.states().join(place.domain.to_string());
    let lock = place.state().with_file_name(".lock");
    fs::write(&lock, "").unwrap();
    place.put(b"whatever is in it");
    for (path, mode) in [
        (&guest, 0o711),
        (&guest.join("tpm2"), 0o700),
        (&place.state(), 0o640),
    ] {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    let before = (inode(&place.state()), inode(&lock));

    shelter.make().unwrap();
    // As one that was killed left it.
    shelter.make().unwrap();
    assert!(shelter.exist());
    assert_eq!(shelter.restore().unwrap(), LinksRestored::StillThere);
    place.delete();
    assert_eq!(shelter.restore().unwrap(), LinksRestored::Restored);
    assert_eq!((inode(&place.state()), inode(&lock)), before);
    assert_eq!(
        (
            mode(&guest),
            mode(&guest.join("tpm2")),
            mode(&place.state())
        ),
        (0o711, 0o700, 0o640)
    );
    assert_eq!(shelter.restore().unwrap(), LinksRestored::NoLinks);

    shelter.make().unwrap();
    shelter.remove().unwrap();
    assert!(!shelter.exist() && place.state().exists());
}

/// An orchestrator retries, and swtpm's user writes other bytes each time.
#[test]
fn no_more_than_a_few_copies_stand_by_the_proven_and_the_latest_among_them() {
    let place = Place::new();
    let keep = |bytes: String| {
        place.put(&newer(&bytes));
        place.keep(CopyReason::Start)
    };
    let first = keep("the first".to_owned());
    let mut proven = None;
    for number in 0..100 {
        let latest = keep(format!("state {number}"));
        if number == 50 {
            proven = Some(latest.clone());
        }
        let is_proven = |copy: &SavedCopy| Some(copy.manifest.sha256()) == proven.as_deref();
        place.copy_store().drop_surplus(&latest, is_proven).unwrap();
        let copies = place.copies();
        assert!(copies.len() <= MAX_COPIES, "{} copies", copies.len());
        let has = |sha256: &str| copies.iter().any(|copy| copy.manifest.sha256() == sha256);
        assert!(has(&latest), "the latest");
        match &proven {
            Some(proven) => assert!(has(proven), "the proven one"),
            None => assert!(has(&first), "none is proven: the earliest"),
        }
    }
}

/// Its state is an old one again.
#[test]
fn the_copy_of_the_state_that_is_there_is_not_surplus() {
    let place = Place::new();
    let mut names = Vec::new();
    for number in 0..=MAX_COPIES {
        place.put(&newer(&format!("state {number}")));
        names.push(place.keep(CopyReason::Start));
    }
    place.put(&newer("state 1"));
    assert_eq!(place.keep(CopyReason::Start), names[1]);
    place
        .copy_store()
        .drop_surplus(&names[1], |_| false)
        .unwrap();
    let left = place.copies();
    let left: Vec<_> = left.iter().map(|copy| copy.manifest.sha256()).collect();
    assert_eq!(left, [&names[1], &names[0]]);
}

#[test]
fn what_was_set_aside_by_a_person_is_not_surplus() {
    let place = Place::new();
    for number in 0..10 {
        place.put(&newer(&format!("state {number}")));
        let current = place.keep(CopyReason::Start);
        place.copy_store().set_aside(Timestamp(number)).unwrap();
        place
            .copy_store()
            .drop_surplus(&current, |_| false)
            .unwrap();
    }
    assert_eq!(place.copies().len(), 10);
    assert!(place.copy_store().available_copies().unwrap().0.is_empty());
}
