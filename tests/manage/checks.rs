//! `doctor`: each examination finds what is wrong, and nothing on a host in order.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::fixture::Fixture;
use super::fleet_shared::SharedStore;
use super::slots::toy;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, Signed, SuccessorClaim};
use crate::guard::plain_state;
use crate::host::dirs::HOOK;
use crate::ids::{DomainUuid, ProviderUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::keyring::WeakerSeal;
use crate::libvirt::Daemons;
use crate::libvirt::fake::{Call, Failure};
use crate::libvirt::secret::staged_definition;
use crate::manage::checks::{
    CannotRun, Distrusted, Finding, HookFinding, HostFinding, KeyFinding, RecoveryFiles, examine,
};
use crate::manage::drop_state::drop_state;
use crate::manage::fleet::kept_name;
use crate::manage::host::default_deadline;
use crate::manage::open::open;
use crate::manage::provider_rotate::rotate;
use crate::manage::slots::add;
use crate::manage::unknown_guests;
use crate::store::{Event, KnownFact, NewProvider, Origin};
use crate::swtpm::LockedState;
use crate::tpm_copies::CopyStore;
use crate::verdict::code::Code;
use crate::verdict::facts::Provider;

fn look(fixture: &Fixture) -> Vec<Finding> {
    look_with(fixture, &[])
}

fn look_with(fixture: &Fixture, files: &[PathBuf]) -> Vec<Finding> {
    let passphrase = None;
    examine(&fixture.host, &RecoveryFiles { files, passphrase })
}

fn hooks(found: &[Finding]) -> Vec<&HookFinding> {
    let hooks = found.iter().filter_map(|one| match one {
        Finding::Hook(finding) => Some(finding),
        _ => None,
    });
    hooks.collect()
}

/// Whether one of them is such a finding about the host.
fn host(found: &[Finding], is: impl Fn(&HostFinding) -> bool) -> bool {
    found
        .iter()
        .any(|one| matches!(one, Finding::Host(finding) if is(finding)))
}

/// Whether one of them is such a finding about keys.
fn key(found: &[Finding], is: impl Fn(&KeyFinding) -> bool) -> bool {
    found
        .iter()
        .any(|one| matches!(one, Finding::Key(finding) if is(finding)))
}

#[test]
fn new_guests_are_bound_to_a_provider_that_is_here() {
    let fixture = Fixture::new();
    let is_missed = |name: &str| {
        host(
            &look(&fixture),
            |one| matches!(one, HostFinding::AutoBind(missed) if missed == name),
        )
    };
    assert!(!is_missed(""));
    fixture.configure("[policy]\nauto_bind = \"a\"");
    assert!(!is_missed("a"));
    fixture.sql("UPDATE key_provider SET name = 'c' WHERE name = 'a'");
    assert!(is_missed("a"));
}

#[test]
fn a_machine_without_systemd_is_reported() {
    let found = look(&Fixture::new());
    let is_missed = host(&found, |one| matches!(one, HostFinding::NoSystemd { .. }));
    assert_eq!(is_missed, !Path::new("/run/systemd/system").exists());
}

#[test]
fn a_log_that_cannot_be_written_is_reported_and_none_is_made() {
    let fixture = Fixture::new();
    let (file, directory) = (
        fixture.root().join("guard.log"),
        fixture.root().join("logs"),
    );
    fs::create_dir(&directory).unwrap();
    let config = fixture.root().join("config.toml");
    let before = fs::read_to_string(&config).unwrap();
    let is_missed = |target: &str| {
        fs::write(&config, format!("{before}\n[log]\ntarget = \"{target}\"\n")).unwrap();
        host(&look(&fixture), |one| matches!(one, HostFinding::NoLog(_)))
    };
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    assert!(!is_missed(&path(&file)));
    assert!(!file.exists());
    fs::write(&file, "").unwrap();
    set_mode(&file, 0o600);
    assert!(!is_missed(&path(&file)));
    let link = fixture.root().join("link.log");
    symlink(&file, &link).unwrap();
    for wrong in [
        "/".to_owned(),
        path(&directory),
        format!("{}/none/", path(&directory)),
        format!("{}/none/guard.log", path(&directory)),
        format!("{}/guard.log", path(&file)),
        path(&link),
    ] {
        assert!(is_missed(&wrong), "{wrong}");
    }
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    let has_journald = Path::new("/run/systemd/journal/socket").exists();
    assert_eq!(is_missed("journald"), !has_journald);
    assert!(!is_missed("auto"));
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Installs the hook, as a package does.
fn install_hook(fixture: &Fixture) -> PathBuf {
    let dirs = fixture.libvirt.dirs();
    fs::create_dir_all(dirs.hooks()).unwrap();
    let program = fixture.root().join("vtpm-guard-hook");
    fs::write(&program, "").unwrap();
    set_mode(&program, 0o755);
    symlink(&program, dirs.hook_link()).unwrap();
    program
}

#[test]
fn a_hook_that_cannot_run_is_reported() {
    let fixture = Fixture::new();
    let link = fixture.libvirt.dirs().hook_link();
    let cannot = |why| {
        let link = link.clone();
        HookFinding::CannotRun {
            link,
            why,
            daemons: Daemons::Monolithic,
        }
    };
    assert_eq!(hooks(&look(&fixture)), [&cannot(CannotRun::Missing)]);
    let program = install_hook(&fixture);
    for (mode, finding) in [
        (0o644, cannot(CannotRun::NotExecutable)),
        (0o750, HookFinding::NotForUsers { link: link.clone() }),
    ] {
        set_mode(&program, mode);
        assert_eq!(hooks(&look(&fixture)), [&finding]);
    }
    fs::remove_file(&program).unwrap();
    assert_eq!(hooks(&look(&fixture)), [&cannot(CannotRun::Dangling)]);
    fs::create_dir(&program).unwrap();
    assert_eq!(hooks(&look(&fixture)), [&cannot(CannotRun::NotAFile)]);
    // A new link helps where it leads elsewhere, and not where the package's program itself is gone.
    if !Path::new(HOOK).exists() {
        fs::remove_file(&link).unwrap();
        symlink(HOOK, &link).unwrap();
        assert_eq!(hooks(&look(&fixture)), [&cannot(CannotRun::ProgramGone)]);
    }
}

#[test]
fn a_daemon_that_may_not_know_the_hook_is_reported_until_it_has_run_it() {
    let fixture = Fixture::new();
    let pid_file = fixture.libvirt.dirs().pid_file("virtqemud");
    fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
    fs::write(pid_file, "1").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    install_hook(&fixture);
    let is_reported = || {
        hooks(&look(&fixture)).contains(&&HookFinding::NotNoticed {
            daemons: Daemons::Modular,
        })
    };
    assert!(is_reported());
    let note = fixture.host.state_dir().hook_noticed();
    fs::write(&note, "").unwrap();
    assert!(!is_reported(), "the package has reloaded it");
    fs::remove_file(note).unwrap();
    let (now, uuid) = (Timestamp::now(), DomainUuid::random());
    let event = Event::new(now, Origin::Prepare, uuid, "vm1", "allowed".to_owned());
    fixture.store().record_event(&event).unwrap();
    assert!(!is_reported());
}

#[test]
fn libvirt_lists_its_guests_once_and_one_finding_says_that_its_program_is_missing() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let pid_file = fixture.libvirt.dirs().pid_file("virtqemud");
    fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
    let keep = fixture
        .host
        .state_dir()
        .plain_states()
        .join(guest.uuid.to_string());
    fs::create_dir_all(keep).unwrap();
    for daemons in [Daemons::Monolithic, Daemons::Modular] {
        if daemons == Daemons::Modular {
            fs::write(&pid_file, "1").unwrap();
        }
        let asked = || {
            let calls = [Call::Guests, Call::GuestsCalled];
            calls.map(|call| fixture.libvirt.calls_of(call))
        };
        let [before, named] = asked();
        look(&fixture);
        assert_eq!(asked(), [before + 1, named], "{daemons:?}");
    }
    let silent = |found: &[Finding]| {
        let is_one = |one: &&Finding| {
            let Finding::Host(finding) = one else {
                return false;
            };
            matches!(
                finding,
                HostFinding::Libvirt { .. } | HostFinding::GuestsDaemon { .. }
            )
        };
        found.iter().filter(is_one).count()
    };
    assert_eq!(silent(&look(&fixture)), 0);
    for (failure, findings) in [(Failure::Unreachable, 2), (Failure::NoHelper, 1)] {
        for call in [Call::Inspect, Call::Guests] {
            fixture.libvirt.fail_each(call, failure);
        }
        assert_eq!(silent(&look(&fixture)), findings, "{failure:?}");
    }
}

#[test]
fn what_others_may_change_is_found_also_above_the_state_directory() {
    let fixture = Fixture::new();
    let program = install_hook(&fixture);
    let untrusted = |found: &[Finding]| {
        let paths = found.iter().filter_map(|one| match one {
            Finding::Host(HostFinding::Untrusted { path, what, .. }) => Some((path.clone(), *what)),
            _ => None,
        });
        paths.collect::<Vec<_>>()
    };
    assert_eq!(untrusted(&look(&fixture)), []);
    set_mode(&program, 0o775);
    let hook = fs::canonicalize(&program).unwrap();
    let found = untrusted(&look(&fixture));
    assert!(
        matches!(&found[..], [(path, Distrusted::Hook)] if fs::canonicalize(path).unwrap() == hook),
        "{found:?}"
    );
    set_mode(&program, 0o755);
    let keys = fixture.host.state_dir().keys();
    set_mode(&keys, 0o755);
    let found = untrusted(&look(&fixture));
    assert_eq!(found, [(keys.clone(), Distrusted::Open)]);
    set_mode(&keys, 0o700);
    set_mode(fixture.root(), 0o777);
    assert_eq!(untrusted(&look(&fixture)).len(), 1);
}

#[test]
fn providers_that_could_be_lost_are_reported() {
    let fixture = Fixture::new();
    let never = |found: &[Finding]| key(found, |one| matches!(one, KeyFinding::NeverExported(_)));
    assert!(never(&look(&fixture)));
    let now = Timestamp::now().0;
    fixture.sql(&format!("UPDATE key_provider SET exported_at = {now}"));
    let found = look(&fixture);
    assert!(!never(&found), "{found:?}");
    fixture.sql("UPDATE key_provider SET exported_at = 1000");
    let old = |one: &KeyFinding| matches!(one, KeyFinding::OldExport(..));
    assert!(key(&look(&fixture), old));
    fixture.lose_key("a");
    let is_a = |one: &KeyFinding| matches!(one, KeyFinding::Sealed(found, _) if found.name == "a");
    assert!(key(&look(&fixture), is_a));

    let file = fixture.root().join("a.recovery");
    fs::write(&file, "no recovery file").unwrap();
    let found = look_with(&fixture, &[file]);
    assert!(key(&found, |one| matches!(one, KeyFinding::Recovery(..))));
    assert!(key(&found, |one| matches!(one, KeyFinding::NotCovered(_))));
}

#[test]
fn a_previous_key_that_was_never_exported_is_as_bad_as_a_present_one_while_rows_need_it() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    rotate(&fixture.host, "a", WeakerSeal::Refused, &mut |_| {}).unwrap();
    let is_previous = |provider: &Provider| provider.name != "a" && provider.name != "b";
    let not_needed = || {
        key(
            &look(&fixture),
            |one| matches!(one, KeyFinding::PreviousNeverExported(found) if is_previous(found)),
        )
    };
    let needed = || {
        key(
            &look(&fixture),
            |one| matches!(one, KeyFinding::NeverExported(found) if is_previous(found)),
        )
    };
    assert!(not_needed() && !needed());
    let previous = fixture.store().providers().unwrap().into_iter();
    let previous = previous.into_iter().find(|it| is_previous(it)).unwrap();
    fixture.add_key(&guest, &previous.name, &Dek::generate().unwrap());
    assert!(needed() && !not_needed());
}

#[test]
fn guests_that_keep_one_another_from_starting_and_those_whose_state_goes_are_reported() {
    let fixture = Fixture::new();
    let first = fixture.guest_in_use("vm1");
    let at_undefine = |one: &KeyFinding| matches!(one, KeyFinding::DeletedAtUndefine(guests) if guests.len() == 1);
    let at_stop = |one: &KeyFinding| matches!(one, KeyFinding::DeletedAtStop(_));
    let found = look(&fixture);
    assert!(key(&found, at_undefine) && !key(&found, at_stop));

    let shared = |one: &KeyFinding| matches!(one, KeyFinding::Shared(_));
    assert!(!key(&found, shared));
    let encryption = format!("<encryption secret='{}'/>", first.secret);
    let second = fixture.define_with("vm2", DomainUuid::random(), first.secret, &encryption);
    fixture.add_key(&second, "b", &Dek::generate().unwrap());
    assert!(key(&look(&fixture), shared));
}

#[test]
fn another_hook_beside_the_guard_is_reported() {
    let fixture = Fixture::new();
    install_hook(&fixture);
    let others = |found: &[Finding]| {
        hooks(found)
            .into_iter()
            .any(|one| matches!(one, HookFinding::OtherHooks { .. }))
    };
    assert!(!others(&look(&fixture)));
    let other = fixture.libvirt.dirs().hooks().join("10-net");
    fs::write(&other, "").unwrap();
    set_mode(&other, 0o755);
    assert!(others(&look(&fixture)));
}

/// How many key references of `a` are said to be left by a rotation.
fn not_rewrapped(fixture: &Fixture) -> Option<usize> {
    look(fixture).into_iter().find_map(|one| match one {
        Finding::Key(KeyFinding::RotationUnfinished { provider, key_refs }) => {
            assert_eq!(provider.name, "a");
            Some(key_refs)
        }
        _ => None,
    })
}

#[test]
fn a_rotation_that_was_interrupted_is_reported_until_the_next_one_has_completed_it() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let guest = fixture.guest_in_use("vm2");
    let damaged = fixture.add_key(&guest, "a", &Dek::generate().unwrap());
    fixture.sql(&format!(
        "UPDATE key_ref SET wrapped_dek = CAST(substr(wrapped_dek, 1, 60) ||
             zeroblob(8) || substr(wrapped_dek, 69) AS BLOB) WHERE id = {damaged}"
    ));
    assert_eq!(not_rewrapped(&fixture), None);
    let rename = |from, to| {
        fixture.sql(&format!("ALTER TABLE key_ref RENAME COLUMN {from} TO {to}"));
    };
    let rotated = rotate(&fixture.host, "a", WeakerSeal::Refused, &mut |step| {
        if step.index == 0 {
            rename("algorithm", "cipher");
        }
    });
    rename("cipher", "algorithm");
    rotated.unwrap_err();
    // What does not open is not re-wrapped by another rotation either.
    assert_eq!(not_rewrapped(&fixture), Some(2));
    let done = rotate(&fixture.host, "a", WeakerSeal::Refused, &mut |_| {}).unwrap();
    assert!(!done.rotated);
    assert_eq!(done.rewrapped, 2);
    assert_eq!(not_rewrapped(&fixture), None);
}

#[test]
fn a_rotation_of_the_fleet_that_nobody_has_finished_is_reported() {
    let fixture = Fixture::new();
    let provider = fixture.provider("a");
    let is_begun = || {
        let found = look(&fixture);
        key(
            &found,
            |it| matches!(it, KeyFinding::RotationBegun(it) if it.uuid == provider.uuid),
        )
    };
    let mut store = fixture.store();
    let now = Timestamp::now();
    let next = Kek::generate().unwrap().key_id();
    let kept = NewProvider {
        uuid: ProviderUuid::random(),
        name: kept_name("a", next),
        key_id: next,
        key_version: 2,
        is_default: false,
        exported_at: None,
    };
    store.create_provider(&kept, &[], now).unwrap();
    let host = store.join_fleet("host1", now).unwrap();
    let keyring = fixture.host.keyring();
    let present = keyring.open(provider.key_id, default_deadline()).unwrap();
    let mut say = |signer: &Kek, finished| {
        let says = SuccessorClaim {
            name: "a".to_owned(),
            old: provider.key_id,
            new: next,
            key_version: 2,
            finished,
        };
        let claim = Claim::Successor(Signed::new(says, signer));
        let said = [KnownFact::said(claim, host, now)];
        store.mark_sent(&said, &[]).unwrap();
    };
    assert!(!is_begun());
    say(&Kek::generate().unwrap(), false);
    assert!(!is_begun(), "anybody can say so");
    say(&present, false);
    assert!(is_begun());
    say(&present, true);
    assert!(!is_begun(), "the provider follows with the next exchange");
}

/// Three lines for each of a hundred thousand rows were no help.
#[test]
fn rows_that_all_miss_one_provider_are_one_finding() {
    let fixture = Fixture::new();
    for name in ["a", "b"] {
        fixture.sql(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
             INSERT INTO key_ref (resource_uuid, provider_name, wrapped_dek)
             SELECT printf('e0000000-0000-4000-8000-%012x', i), '{name}', x'01' FROM n"
        ));
        fixture.sql(&format!("DELETE FROM key_provider WHERE name = '{name}'"));
    }
    let found = look(&fixture).into_iter();
    let of_store = found.filter_map(|finding| match finding {
        Finding::Key(KeyFinding::Store(found)) => Some((found.first.len(), found.others)),
        _ => None,
    });
    assert_eq!(of_store.collect::<Vec<_>>(), [(3, 47), (3, 47)]);
}

#[test]
fn the_store_and_the_clock_are_examined() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let ahead = Timestamp(Timestamp::now().0 + 3_600_000);
    let event = Event::new(ahead, Origin::Renew, guest.uuid, "vm1", "done".to_owned());
    fixture.store().record_event(&event).unwrap();
    assert!(key(&look(&fixture), |one| matches!(
        one,
        KeyFinding::Clock { .. }
    )));
    fixture.sql("UPDATE key_ref SET provider_uuid = 'x'");
    assert!(key(&look(&fixture), |one| matches!(
        one,
        KeyFinding::Store(_)
    )));
    fs::write(
        fixture.host.state_dir().store(),
        "not a database, but longer than its header",
    )
    .unwrap();
    let unusable = |one: &KeyFinding| matches!(one, KeyFinding::StoreUnusable(_));
    assert!(key(&look(&fixture), unusable));
}

#[test]
fn keys_and_states_on_the_disk_are_reported() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let secrets = fixture.libvirt.dirs().secrets();
    let definition = "<secret ephemeral='no'><usage type='vtpm'><name>x</name></usage></secret>";
    for (extension, is_encrypted) in [("base64", false), ("aes256cbc", true)] {
        let secret = SecretUuid::random();
        fs::write(secrets.join(format!("{secret}.xml")), definition).unwrap();
        let value = secrets.join(format!("{secret}.{extension}"));
        fs::write(&value, "eA==").unwrap();
        let is_it = |one: &KeyFinding| matches!(one, KeyFinding::OnDisk { file, encrypted, .. } if *file == value && *encrypted == is_encrypted);
        assert!(key(&look(&fixture), is_it), "{extension}");
    }
    let domain = fixture.domain(&guest);
    let (vtpm, _) = domain.encrypted_vtpm().unwrap();
    let states = fixture.libvirt.dirs().tpm_states();
    let locked = LockedState::lock(&states, guest.uuid, vtpm)
        .unwrap()
        .unwrap();
    plain_state::save(fixture.host.state_dir(), guest.uuid, &locked).unwrap();
    let kept = || {
        let found = look(&fixture).into_iter().find_map(|one| match one {
            Finding::Key(KeyFinding::PlainState { name, is_known, .. }) => Some((name, is_known)),
            _ => None,
        });
        found.map(|(name, is_known)| (name.unwrap_or_default(), is_known))
    };
    assert_eq!(kept(), Some(("vm1".to_owned(), true)));
    // What doctor says then: `state drop`.
    fixture.libvirt.guests.undefine("vm1");
    assert!(matches!(kept(), Some((_, false))));
    let unknown = unknown_guests::find(&fixture.host, &mut fixture.store(), &BTreeSet::new());
    assert_eq!(unknown.unwrap()[0].copies, 1, "it counts as one");
    let uuid = guest.uuid.to_string();
    let dropped = drop_state(&fixture.host, &uuid, &[], false).unwrap();
    assert!(dropped.plain_state_dropped);
    assert_eq!(kept(), None);
}

#[test]
fn a_secret_on_the_disk_is_named_with_the_guests_that_use_it() {
    let fixture = Fixture::new();
    let guest = fixture.define("vm1");
    let (used, unused) = (guest.secret, SecretUuid::random());
    for secret in [used, unused] {
        let secrets = fixture.libvirt.dirs().secrets();
        let definition = "<secret><usage type='vtpm'><name>x</name></usage></secret>";
        fs::write(secrets.join(format!("{secret}.xml")), definition).unwrap();
        fs::write(secrets.join(format!("{secret}.base64")), "eA==").unwrap();
    }
    let users = |of: SecretUuid| {
        let found = look(&fixture).into_iter().find_map(|one| match one {
            Finding::Key(KeyFinding::OnDisk { secret, guests, .. }) if secret == Some(of) => {
                Some(guests)
            }
            _ => None,
        });
        let users = found.unwrap()?.into_iter();
        Some(users.map(|guest| guest.uuid).collect::<Vec<_>>())
    };
    assert_eq!(users(used), Some(vec![guest.uuid]));
    assert_eq!(users(unused), Some(vec![]));
    // It may be the one that uses it: its XML cannot be read.
    let broken = fixture.libvirt.dirs().definitions().join("vm2.xml");
    let uuid = DomainUuid::random();
    fs::write(
        broken,
        format!("<domain><devices></domain><uuid>{uuid}</uuid>"),
    )
    .unwrap();
    assert_eq!(users(unused), None);
    fixture.libvirt.go_down();
    assert_eq!(users(unused), None);
}

#[test]
fn guests_that_would_not_start_are_reported_by_code() {
    let fixture = Fixture::new();
    let guests = ["vm1", "vm2", "vm3"].map(|name| fixture.guest_in_use(name));
    let found = || {
        let found = look(&fixture).into_iter().filter_map(|one| match one {
            Finding::Key(KeyFinding::WouldNotStart { guests, why }) => {
                let names: Vec<_> = guests.into_iter().map(|guest| guest.name).collect();
                Some((why.code(), names.join(" ")))
            }
            _ => None,
        });
        found.collect::<Vec<_>>()
    };
    assert_eq!(found(), []);
    fixture.write_state(&guests[0], b"damaged");
    for guest in &guests[1..] {
        fixture.encrypt_state(guest, &Dek::generate().unwrap());
    }
    let expected = [
        (Code::KeyDoesNotOpenTpm, "vm2 vm3".to_owned()),
        (Code::TpmStateDamaged, "vm1".to_owned()),
    ];
    assert_eq!(found(), expected);
}

#[test]
fn a_key_that_is_still_staged_is_reported() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let staged = fixture.host.run_dir().staged();
    fs::create_dir_all(&staged).unwrap();
    let definition = staged_definition(guest.secret, guest.uuid);
    fs::write(staged.join(format!("{}.xml", guest.secret)), definition).unwrap();
    let found = look(&fixture);
    assert!(hooks(&found).contains(&&HookFinding::LeftStaged(1)));
}

#[test]
fn a_modular_host_is_seen_as_a_whole() {
    let fixture = Fixture::new();
    let is_dead = |one: &HostFinding| matches!(one, HostFinding::GuestsDaemon { .. });
    let is_asked = |one: &HostFinding| matches!(one, HostFinding::SecretsAtGuestsDaemon { .. });
    let uri = "[secret]\nuri = \"qemu:///system\"\n";
    fixture
        .libvirt
        .fail_each(Call::Guests, Failure::Unreachable);
    let config = fixture.root().join("config.toml");
    let before = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{before}{uri}")).unwrap();
    // A libvirtd has the secrets, too. Where it answers for them, and lists no guests, that is reported.
    let found = look(&fixture);
    assert!(host(&found, is_dead) && !host(&found, is_asked));
    // Where it is silent altogether, that is one finding.
    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    let found = look(&fixture);
    assert!(!host(&found, is_dead) && !host(&found, is_asked));
    fixture.libvirt.recover();
    fixture
        .libvirt
        .fail_each(Call::Guests, Failure::Unreachable);

    let pid_file = fixture.libvirt.dirs().pid_file("virtqemud");
    fs::create_dir_all(pid_file.parent().unwrap()).unwrap();
    fs::write(pid_file, "1").unwrap();
    let found = look(&fixture);
    assert!(host(&found, is_dead) && host(&found, is_asked), "{found:?}");
    fixture.libvirt.recover();
    fs::write(&config, before).unwrap();
    let found = look(&fixture);
    assert!(!host(&found, is_dead) && !host(&found, is_asked));
}

#[test]
fn a_secret_driver_that_is_silent_is_one_finding_whatever_it_stops() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    let found = look(&fixture);
    assert!(host(&found, |one| matches!(
        one,
        HostFinding::Libvirt { .. }
    )));
    assert!(!key(&found, |one| matches!(
        one,
        KeyFinding::WouldNotStart { .. }
    )));
}

#[test]
fn a_link_to_a_staged_key_is_no_key_on_the_disk() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    let (secrets, staged) = (
        fixture.libvirt.dirs().secrets(),
        fixture.host.run_dir().staged(),
    );
    fs::create_dir_all(&staged).unwrap();
    let definition = staged_definition(guest.secret, guest.uuid);
    for (extension, text) in [("xml", definition.as_str()), ("base64", "eA==")] {
        let name = format!("{}.{extension}", guest.secret);
        fs::write(staged.join(&name), text).unwrap();
        symlink(staged.join(&name), secrets.join(&name)).unwrap();
    }
    let on_disk = |one: &KeyFinding| matches!(one, KeyFinding::OnDisk { .. });
    assert!(!key(&look(&fixture), on_disk));
    // `unstage` has removed the key, and not the link yet.
    fs::remove_file(staged.join(format!("{}.base64", guest.secret))).unwrap();
    assert!(!key(&look(&fixture), on_disk));
}

#[test]
fn a_libvirt_that_keeps_its_files_elsewhere_or_does_not_answer_is_reported() {
    let fixture = Fixture::new();
    fixture.guest_in_use("vm1");
    let setting = |one: &HostFinding, name: &str| matches!(one, HostFinding::Elsewhere { setting, .. } if *setting == name);
    let elsewhere = |name: &str| host(&look(&fixture), |one| setting(one, name));
    assert!(!elsewhere("config_dir") && !elsewhere("tpm_dir"));
    let config = fixture.root().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("libvirt/etc/libvirt", "nowhere/etc/libvirt")
            .replace("libvirt/var/lib/libvirt", "nowhere/var/lib/libvirt")
            .replace("libvirt/run/libvirt", "nowhere/run/libvirt"),
    )
    .unwrap();
    assert!(elsewhere("config_dir") && !elsewhere("run_dir") && !elsewhere("tpm_dir"));
    fixture.libvirt.guests.start("vm1");
    assert!(elsewhere("run_dir") && elsewhere("tpm_dir"));

    fixture
        .libvirt
        .fail_each(Call::Inspect, Failure::Unreachable);
    let silent = |one: &HostFinding| matches!(one, HostFinding::Libvirt { .. });
    assert!(host(&look(&fixture), silent));
    fs::write(&config, "nonsense = 1\n").unwrap();
    let broken = |one: &HostFinding| matches!(one, HostFinding::Configuration(_));
    assert!(host(&look(&fixture), broken));
}

#[test]
fn a_link_in_the_place_of_libvirts_states_is_noted() {
    let fixture = Fixture::new();
    let (states, target) = (
        fixture.libvirt.dirs().tpm_states(),
        fixture.root().join("states"),
    );
    fs::rename(&states, &target).unwrap();
    symlink(&target, &states).unwrap();
    let is_link = |one: &HostFinding| matches!(one, HostFinding::LinkedStates { target: found, .. } if *found == target);
    assert!(host(&look(&fixture), is_link));
}

#[test]
fn key_managers_and_the_slots_of_each_provider_are_tried() {
    let fixture = Fixture::new();
    fixture.with_toy("boot");
    add(&fixture.host, "a", &toy("one"), None).unwrap();
    let still_on_disk = |found: &[Finding]| {
        let of = found.iter().filter_map(|one| match one {
            Finding::Key(KeyFinding::StillOnDisk(provider)) => Some(provider.name.clone()),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    let closed = |found: &[Finding]| {
        let of = found.iter().filter_map(|one| match one {
            Finding::Key(KeyFinding::Slot(provider, ..)) => Some(provider.name.clone()),
            _ => None,
        });
        of.collect::<Vec<_>>()
    };
    let found = look(&fixture);
    assert_eq!(
        (still_on_disk(&found), closed(&found)),
        (vec!["a".to_owned()], Vec::new())
    );
    open(&fixture.host, &[]).unwrap();
    fixture.sql("UPDATE kek_slot SET blob = x'00'");
    let found = look(&fixture);
    assert_eq!(
        (still_on_disk(&found), closed(&found)),
        (Vec::new(), vec!["a".to_owned()])
    );
    // Of a key manager that does not answer one finding tells.
    let plugins = fixture.host.state_dir().with_extension("plugins");
    fs::remove_file(plugins.join("pad")).unwrap();
    let found = look(&fixture);
    assert!(host(&found, |one| matches!(
        one,
        HostFinding::KeyManager(_)
    )));
    assert_eq!(closed(&found), [""; 0]);
}

#[test]
fn slots_of_one_kind_alone_and_no_recovery_file_are_reported() {
    let fixture = Fixture::new();
    let now = Some(Timestamp::now());
    fixture.put_slot("a", "transit", ("vault", "a"), now);
    fixture.put_slot("b", "pkcs11", ("hsm", "b"), now);
    // One that has never opened is no other way.
    fixture.put_slot("a", "pkcs11", ("hsm", "a"), None);
    let kinds = || {
        let found = look(&fixture).into_iter().filter_map(|one| match one {
            Finding::Key(KeyFinding::OneKind(provider, kind)) => Some((provider.name, kind)),
            _ => None,
        });
        let mut found: Vec<_> = found.collect();
        found.sort();
        found
    };
    let row = |name: &str, kind: &str| (name.to_owned(), kind.to_owned());
    assert_eq!(kinds(), [row("a", "transit"), row("b", "pkcs11")]);
    fixture.put_slot("a", "pkcs11", ("hsm", "a"), now);
    assert_eq!(kinds(), [row("b", "pkcs11")]);
}

#[test]
fn copies_that_cannot_be_used_and_those_that_nobody_has_needed_for_long_are_reported() {
    let fixture = Fixture::new();
    let guest = fixture.guest_in_use("vm1");
    fixture.save_copy(&guest);
    let old = |found: &[Finding]| {
        key(
            found,
            |one| matches!(one, KeyFinding::OldCopy { guest: of, name, .. } if *of == guest.uuid && name.as_deref() == Some("vm1")),
        )
    };
    let event = Event::new(Timestamp(1), Origin::Prepare, guest.uuid, "vm1", "allowed");
    fixture.store().record_start(&event).unwrap();
    let damaged = |found: &[Finding]| key(found, |one| matches!(one, KeyFinding::Copy(_)));
    let found = look(&fixture);
    assert!(!old(&found) && !damaged(&found));
    let copies = fixture.host.copies_of(guest.uuid).unwrap();
    let manifest = &copies.judged[0].copy.manifest;
    let dir = CopyStore::of(fixture.host.state_dir(), guest.uuid);
    let path = dir.path().join(format!("{}.json", copies.judged[0].sha256));
    let text = fs::read_to_string(&path).unwrap();
    let saved_at = manifest.kept_at().0;
    let day = 24 * 60 * 60 * 1000;
    let date_back = |days: i64| {
        let text = text.replace(&saved_at.to_string(), &(saved_at - days * day).to_string());
        fs::write(&path, text).unwrap();
    };
    date_back(89);
    assert!(!old(&look(&fixture)));
    date_back(91);
    assert!(old(&look(&fixture)));
    // Where every run is saved, it is that of a guest that is shut off for long.
    fixture.configure("[state]\nkeep = \"all\"");
    assert!(!old(&look(&fixture)));
    fs::write(&path, "no manifest").unwrap();
    assert!(damaged(&look(&fixture)));
}

#[test]
fn a_membership_that_cannot_be_read_is_not_said_to_be_none() {
    let fixture = Fixture::new();
    let store = SharedStore::new();
    store.configure(&fixture, "");
    let is_outside = |found: &[Finding]| host(found, |one| matches!(one, HostFinding::NotInFleet));
    assert!(is_outside(&look(&fixture)));
    fixture.store().join_fleet("one", Timestamp::now()).unwrap();
    assert!(!is_outside(&look(&fixture)));
    fixture.sql("UPDATE fleet SET host_uuid = 'damaged'");
    assert!(!is_outside(&look(&fixture)));
}

#[test]
fn a_file_of_another_user_among_the_guards_own_is_told_from_an_open_one() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root can give a file away.
    }
    let fixture = Fixture::new();
    let (given, open) = (
        fixture.host.state_dir().join("given"),
        fixture.host.state_dir().join("open"),
    );
    for path in [&given, &open] {
        fs::write(path, "").unwrap();
        set_mode(path, 0o600);
    }
    // What was set aside of a guest keeps swtpm's user.
    let (plain, guest) = (fixture.guest_in_use("vm1"), fixture.guest_in_use("vm2"));
    let damaged = fixture.damaged_state(&guest);
    let kept = fixture.host.state_dir().plain_states();
    let kept = kept.join(plain.uuid.to_string());
    let mut private = fs::DirBuilder::new();
    private.mode(0o700).recursive(true).create(&kept).unwrap();
    let plain = kept.join("tpm2-00.permall");
    fs::write(&plain, "plain").unwrap();
    for path in [&damaged, &plain, &given] {
        std::os::unix::fs::chown(path, Some(65_534), None).unwrap();
    }
    set_mode(&damaged, 0o640);
    set_mode(&open, 0o666);
    let found = look(&fixture);
    let untrusted = |path: &Path, what: Distrusted| {
        host(
            &found,
            |one| matches!(one, HostFinding::Untrusted { path: of, what: it, .. } if of == path && *it == what),
        )
    };
    assert!(untrusted(&given, Distrusted::Owner), "{found:?}");
    assert!(untrusted(&open, Distrusted::Open), "{found:?}");
    let others = host(
        &found,
        |one| matches!(one, HostFinding::Untrusted { path, .. } if *path == damaged || *path == plain),
    );
    assert!(!others, "{found:?}");
    // Their directories are root's alone all the same.
    let dirs = [damaged.parent().unwrap(), &kept];
    for dir in dirs {
        std::os::unix::fs::chown(dir, Some(65_534), None).unwrap();
    }
    let found = look(&fixture);
    for dir in dirs {
        assert!(
            host(
                &found,
                |one| matches!(one, HostFinding::Untrusted { path, .. } if path == dir)
            ),
            "{found:?}"
        );
    }
}

#[test]
fn a_directory_of_secrets_that_is_missing_is_no_finding_and_one_that_cannot_be_read_is() {
    let fixture = Fixture::new();
    let secrets = fixture.libvirt.dirs().secrets();
    let is_unreadable = || {
        let found = look(&fixture);
        host(
            &found,
            |one| matches!(one, HostFinding::Unreadable(path, _) if *path == secrets),
        )
    };
    fs::remove_dir_all(&secrets).unwrap();
    assert!(!is_unreadable());
    fs::write(&secrets, "no directory").unwrap();
    assert!(is_unreadable());
}
