//! `provider slot ...` and `open`, killed anywhere: the plugin is the worked example of docs/kms-plugins.md.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::fixture::Fixture;
use super::kill;
use crate::clock::Timestamp;
use crate::host::process::tests::write_program;
use crate::keyring::{KekPlace, WeakerSeal};
use crate::manage::fleet::rotation::RotateError;
use crate::manage::host::default_deadline;
use crate::manage::open::{OpenResult, open};
use crate::manage::provider_create::create;
use crate::manage::provider_rotate::rotate;
use crate::manage::slots::{
    ListedSlot, SlotError, SlotSpec, TRIED_EVERY, add, list, remove, try_old, verify,
};

const PAGE: &str = include_str!("../../docs/kms-plugins.md");

impl Fixture {
    /// Has the key manager `toy`, with the plugin of the page, and this `provider.cache`.
    pub(crate) fn with_toy(&self, cache: &str) {
        let plugins = self.host.state_dir().with_extension("plugins");
        fs::create_dir_all(&plugins).unwrap();
        fs::set_permissions(&plugins, fs::Permissions::from_mode(0o755)).unwrap();
        let program = toy_program();
        let (path, pad) = (plugins.join("kms-pad"), plugins.join("pad"));
        if !path.exists() {
            write_program(&path, program);
            fs::write(&pad, [0x5a; 32]).unwrap();
        }
        let config = self.root().join("config.toml");
        let before = fs::read_to_string(&config).unwrap();
        let before = before.split("[provider]").next().unwrap();
        let section = format!(
            "[provider]\ncache = \"{cache}\"\n[kms.toy]\nkind = \"pad\"\npad_file = {pad:?}\n"
        );
        fs::write(&config, format!("{before}{section}")).unwrap();
    }

    fn place_of(&self, provider: &str) -> Option<KekPlace> {
        let key_id = self.store().provider(provider).unwrap().key_id;
        self.host.keyring().place(key_id).ok()
    }

    /// Whether the key of this provider, as it is now, opens by its slot or on this host.
    fn can_be_opened(&self, provider: &str) -> bool {
        let verified = verify(&self.host, provider).unwrap();
        verified.slots.iter().any(|slot| slot.opens == Some(true))
    }
}

/// The plugin of the page.
pub(crate) fn toy_program() -> &'static str {
    let program = PAGE.split("```python\n").nth(1).unwrap();
    program.split("```").next().unwrap()
}

pub(crate) fn toy(key: &str) -> SlotSpec {
    format!("toy:{key}").parse().unwrap()
}

#[test]
fn a_provider_with_a_slot_is_made_whole_or_not_at_all() {
    kill::everywhere(
        |fixture| fixture.with_toy("sealed"),
        |fixture| {
            if fixture.store().provider("c").is_err() {
                create(
                    &fixture.host,
                    "c",
                    false,
                    &[toy("one")],
                    WeakerSeal::Allowed,
                )
                .unwrap();
            }
        },
        |fixture| {
            let made = fixture.store().provider("c").is_ok();
            assert!(!made || fixture.can_be_opened("c"));
        },
        |fixture| {
            let slots = list(&fixture.host, "c").unwrap().slots;
            assert_eq!(slots.len(), 2);
            assert!(verify(&fixture.host, "c").unwrap().all_open());
        },
    );
}

#[test]
fn a_key_on_its_way_from_the_disk_to_tmpfs_and_back_is_always_somewhere() {
    for (from, to, place) in [
        ("sealed", "boot", KekPlace::Tmpfs),
        ("boot", "sealed", KekPlace::Disk),
    ] {
        kill::everywhere(
            |fixture| {
                fixture.with_toy(from);
                add(&fixture.host, "a", &toy("one"), None).unwrap();
                open(&fixture.host, &[]).unwrap();
                fixture.with_toy(to);
            },
            |fixture| {
                let opened = open(&fixture.host, &[]).unwrap();
                assert!(opened.iter().all(|it| it.result != OpenResult::NotOpened));
            },
            |fixture| assert!(fixture.place_of("a").is_some()),
            |fixture| {
                assert_eq!(fixture.place_of("a"), Some(place));
                let key_id = fixture.store().provider("a").unwrap().key_id;
                let keyring = fixture.host.keyring();
                assert!(keyring.open(key_id, default_deadline()).is_ok());
            },
        );
    }
}

#[test]
fn a_rotation_that_is_killed_leaves_each_key_its_slots() {
    kill::everywhere(
        |fixture| {
            fixture.with_toy("boot");
            add(&fixture.host, "a", &toy("one"), Some("first")).unwrap();
            open(&fixture.host, &[]).unwrap();
        },
        |fixture| drop(rotate(&fixture.host, "a", WeakerSeal::Allowed, &mut |_| {}).unwrap()),
        |fixture| {
            let slots = list(&fixture.host, "a").unwrap().slots;
            assert!(
                slots
                    .iter()
                    .any(|slot| slot.label.as_deref() == Some("first"))
            );
            assert!(fixture.can_be_opened("a"));
        },
        |fixture| {
            assert!(verify(&fixture.host, "a").unwrap().all_open());
            assert_eq!(fixture.place_of("a"), Some(KekPlace::Tmpfs));
        },
    );
}

#[test]
fn a_key_on_tmpfs_that_has_lost_its_slot_goes_back_to_the_disk() {
    let fixture = Fixture::new();
    fixture.with_toy("boot");
    add(&fixture.host, "a", &toy("one"), None).unwrap();
    open(&fixture.host, &[]).unwrap();
    assert_eq!(fixture.place_of("a"), Some(KekPlace::Tmpfs));
    // As after the restore of an older backup.
    fixture.sql("DELETE FROM kek_slot");
    open(&fixture.host, &[]).unwrap();
    assert_eq!(fixture.place_of("a"), Some(KekPlace::Disk));
}

#[test]
fn a_key_leaves_the_disk_only_when_the_store_has_it_that_a_slot_opens_it() {
    let fixture = Fixture::new();
    fixture.with_toy("sealed");
    add(&fixture.host, "a", &toy("one"), None).unwrap();
    fixture.with_toy("boot");
    // As on a disk that is full: the store takes no time of a slot.
    fixture.sql(
        "UPDATE kek_slot SET verified_at = NULL;
         ALTER TABLE kek_slot ADD COLUMN no_time TEXT CHECK (verified_at IS NULL)",
    );
    let opened = || open(&fixture.host, &["a".to_owned()]).unwrap().remove(0);
    let kept = opened();
    assert_eq!(kept.result, OpenResult::NotRenewed, "{kept:?}");
    assert_eq!(fixture.place_of("a"), Some(KekPlace::Disk));
    // One that is not here counts more than a note about it.
    fixture.lose_key("a");
    let brought = opened();
    assert_eq!(brought.result, OpenResult::Opened, "{brought:?}");
    assert_eq!(fixture.place_of("a"), Some(KekPlace::Tmpfs));
    assert_eq!((kept.trouble.len(), brought.trouble.len()), (1, 1));
    assert_eq!(kept.trouble, brought.trouble);
}

#[test]
fn a_rotation_wraps_the_next_key_only_where_the_present_one_opens() {
    let fixture = Fixture::new();
    fixture.with_toy("sealed");
    add(&fixture.host, "a", &toy("one"), None).unwrap();
    let before = fixture.provider("a").key_id;
    fixture.sql("UPDATE kek_slot SET blob = x'00'");
    let refused = rotate(&fixture.host, "a", WeakerSeal::Allowed, &mut |_| {});
    assert!(
        matches!(refused, Err(RotateError::Slot(SlotError::Kms(_)))),
        "{:?}",
        refused.err()
    );
    assert_eq!(fixture.provider("a").key_id, before);
}

#[test]
fn a_key_of_which_cannot_be_told_where_it_is_is_not_passed_over() {
    let fixture = Fixture::new();
    assert!(open(&fixture.host, &[]).unwrap().is_empty());
    let sealed = fixture.host.state_dir().keys();
    let sealed = sealed.join(fixture.provider("a").key_id.to_string());
    fs::remove_file(&sealed).unwrap();
    assert!(
        open(&fixture.host, &[]).unwrap().is_empty(),
        "it is missing"
    );
    fs::create_dir(&sealed).unwrap();
    let opened = open(&fixture.host, &[]).unwrap();
    assert_eq!(opened[0].result, OpenResult::NotOpened);
    assert!(!opened[0].trouble.is_empty());
}

#[test]
fn the_last_slot_that_opens_stays() {
    let fixture = Fixture::new();
    fixture.with_toy("boot");
    add(&fixture.host, "a", &toy("one"), None).unwrap();
    open(&fixture.host, &[]).unwrap();
    let last = remove(&fixture.host, "a", "toy:one").unwrap_err();
    assert!(
        matches!(&last, SlotError::Last(_, none) if none.is_empty()),
        "{last:?}"
    );
    // One that was verified once, and opens no more, is no other way.
    add(&fixture.host, "a", &toy("two"), None).unwrap();
    fixture.sql("UPDATE kek_slot SET blob = x'00' WHERE remote_key = 'two'");
    let last = remove(&fixture.host, "a", "toy:one").unwrap_err();
    assert!(
        matches!(&last, SlotError::Last(_, why) if why.len() == 1),
        "{last:?}"
    );
    remove(&fixture.host, "a", "toy:two").unwrap();
    // The disk is.
    fixture.with_toy("sealed");
    open(&fixture.host, &[]).unwrap();
    remove(&fixture.host, "a", "toy:one").unwrap();
    assert_eq!(fixture.place_of("a"), Some(KekPlace::Disk));
}

#[test]
fn a_slot_of_another_key_opens_nothing() {
    let fixture = Fixture::new();
    fixture.with_toy("boot");
    for name in ["a", "b"] {
        add(&fixture.host, name, &toy(name), None).unwrap();
    }
    // Somebody who can write the store puts one in the place of the other.
    fixture.sql(
        "UPDATE kek_slot SET blob = (SELECT blob FROM kek_slot WHERE remote_key = 'b')
         WHERE remote_key = 'a'",
    );
    let opened = open(&fixture.host, &["a".to_owned()]).unwrap().remove(0);
    assert_eq!(opened.result, OpenResult::NotRenewed, "{opened:?}");
    assert!(opened.trouble[0].contains("is not the key"), "{opened:?}");
    assert_eq!(fixture.place_of("a"), Some(KekPlace::Disk));
}

#[test]
fn a_slot_is_removed_by_its_uuid_its_label_or_its_key() {
    let fixture = Fixture::new();
    let slots: Vec<_> = ["one", "two", "three"]
        .map(|key| fixture.put_slot("a", "pad", ("toy", key), None))
        .into();
    // Of another provider: nobody means it.
    fixture.put_slot("b", "pad", ("toy", "one"), None);
    fixture.sql("UPDATE kek_slot SET label = 'spare' WHERE remote_key = 'three'");
    let removed = |named: &str| {
        let done = remove(&fixture.host, "a", named).unwrap();
        assert_eq!(done.provider.name, "a");
        let left = list(&fixture.host, "a").unwrap().slots;
        let left = left.into_iter().filter_map(|slot| slot.remote_key);
        let mut left: Vec<_> = left.collect();
        left.sort();
        (done.slot.name(), left)
    };
    let (name, left) = removed(&slots[1].uuid.to_string());
    assert_eq!(
        (name.as_str(), left),
        ("toy:two", vec!["one".to_owned(), "three".to_owned()])
    );
    let (name, left) = removed("spare");
    assert_eq!((name.as_str(), left), ("toy:three", vec!["one".to_owned()]));
    let (name, left) = removed("toy:one");
    assert_eq!((name.as_str(), left.len()), ("toy:one", 0));
    assert_eq!(list(&fixture.host, "b").unwrap().slots.len(), 2);
}

#[test]
fn what_names_no_slot_or_several_removes_none() {
    let fixture = Fixture::new();
    for key in ["one", "two"] {
        fixture.put_slot("a", "pad", ("toy", key), None);
    }
    fixture.sql("UPDATE kek_slot SET label = 'spare'");
    let refused = |named: &str| remove(&fixture.host, "a", named).unwrap_err();
    let several = refused("spare");
    assert!(matches!(&several, SlotError::Ambiguous(_, named) if named == "spare"));
    let none = refused("toy:three");
    assert!(matches!(&none, SlotError::NoSlot(_, named) if named == "toy:three"));
    // What is listed beside them and is no row.
    for kind in ["host", "recovery"] {
        let not_a_slot = refused(kind);
        assert!(matches!(not_a_slot, SlotError::NotRemovable(_, of) if of == kind));
    }
    let slots = list(&fixture.host, "a").unwrap().slots;
    let mut names: Vec<_> = slots.iter().map(ListedSlot::name).collect();
    names.sort();
    assert_eq!(names, ["host", "toy:one", "toy:two"]);
}

#[test]
fn a_key_is_asked_for_again_long_before_it_expires() {
    let fixture = Fixture::new();
    fixture.with_toy("sealed");
    add(&fixture.host, "a", &toy("one"), None).unwrap();
    let config = fixture.root().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace("[provider]\n", "[provider]\nmax_age = \"24h\"\n");
    fs::write(&config, text).unwrap();
    let pad = fixture
        .host
        .state_dir()
        .with_extension("plugins")
        .join("pad");
    let open_after = |hours: i64| {
        let opened_at = Timestamp::now().0 - hours * 60 * 60 * 1000;
        fixture.sql(&format!("UPDATE kek_slot SET verified_at = {opened_at}"));
        let opened = open(&fixture.host, &["a".to_owned()]).unwrap();
        (opened[0].result, opened[0].result.is_here())
    };
    assert_eq!(open_after(11), (OpenResult::Here, true));
    assert_eq!(open_after(13), (OpenResult::Opened, true));
    fs::remove_file(pad).unwrap();
    assert_eq!(open_after(13), (OpenResult::NotRenewed, true));
    assert_eq!(open_after(25), (OpenResult::NotOpened, false));
}

#[test]
fn the_sealed_key_of_a_host_is_tried_and_a_recovery_file_is_not() {
    let fixture = Fixture::new();
    fixture.sql("UPDATE key_provider SET exported_at = 1000");
    let tried = || {
        let slots = verify(&fixture.host, "a").unwrap().slots;
        let tried = slots.into_iter().map(|it| (it.slot.kind, it.opens));
        tried.collect::<Vec<_>>()
    };
    let slot = |kind: &str, opens| (kind.to_owned(), opens);
    assert_eq!(tried(), [slot("host", Some(true)), slot("recovery", None)]);
    let key_id = fixture.provider("a").key_id.to_string();
    fs::write(
        fixture.host.state_dir().join("keys").join(&key_id),
        "damaged",
    )
    .unwrap();
    let verified = verify(&fixture.host, "a").unwrap();
    assert_eq!(tried(), [slot("host", Some(false)), slot("recovery", None)]);
    assert!(!verified.all_open());
    let listed = list(&fixture.host, "a").unwrap().slots.remove(0);
    assert!(listed.label.unwrap().contains("is damaged"));
    fixture.lose_key("a");
    assert_eq!(tried(), [slot("recovery", None)]);
}

#[test]
fn each_slot_is_tried_for_itself() {
    let fixture = Fixture::new();
    fixture.with_toy("boot");
    for key in ["one", "two"] {
        add(&fixture.host, "a", &toy(key), None).unwrap();
    }
    open(&fixture.host, &["a".to_owned()]).unwrap();
    assert!(verify(&fixture.host, "a").unwrap().all_open());
    let listed = list(&fixture.host, "a").unwrap();
    let host = &listed.slots[0];
    let label = host.label.as_deref().unwrap();
    assert!(label.ends_with("until the next reboot"), "{label}");

    fixture.sql("UPDATE kek_slot SET blob = x'00' WHERE remote_key = 'two'");
    let verified = verify(&fixture.host, "a").unwrap();
    let tried = verified.slots.iter();
    let tried = tried.filter_map(|it| Some((it.slot.remote_key.as_deref()?, it.opens)));
    let tried: Vec<_> = tried.collect();
    assert_eq!(tried, [("one", Some(true)), ("two", Some(false))]);
    assert!(!verified.all_open());
}

#[test]
fn slots_that_nobody_has_opened_for_long_are_tried() {
    let fixture = Fixture::new();
    fixture.with_toy("boot");
    for key in ["old", "young"] {
        add(&fixture.host, "a", &toy(key), None).unwrap();
    }
    let now = Timestamp::now().0;
    let at = |key: &str, at: i64| {
        fixture.sql(&format!(
            "UPDATE kek_slot SET verified_at = {at} WHERE remote_key = '{key}'"
        ));
    };
    let (old, young) = (now - TRIED_EVERY - 1, now - TRIED_EVERY + 60_000);
    at("old", old);
    at("young", young);
    let mut managers = fixture.host.key_managers(&fixture.host.config().unwrap());
    try_old(&mut fixture.store(), &mut managers).unwrap();
    let verified = |key: &str| {
        let mut slots = fixture.store().slots().unwrap().into_iter();
        slots
            .find(|slot| slot.remote_key == key)
            .unwrap()
            .verified_at
            .unwrap()
            .0
    };
    assert!(verified("old") >= now);
    assert_eq!(verified("young"), young);
}
