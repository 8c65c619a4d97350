//! Providers whose keys are sealed to this host's TPM 2.0: what becomes of them with it, and who
//! else may use it.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, User, getgrouplist};

use super::{Finding, HostFinding, KeyFinding, providers};
use crate::host::dirs::DEVICES;
use crate::keyring::{Keyring, Seal};
use crate::manage::host::{Host, default_deadline};
use crate::swtpm::{QemuConf, resolve};
use crate::verdict::facts::Provider;

/// The user that swtpm runs as where nothing says otherwise.
const DEFAULT_USER: &str = "tss";

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let (providers, keyring) = (providers(host), host.keyring());
    let unused = unused(Path::new(DEVICES), &providers, &keyring).map(Finding::from);
    let sealed = sealed_to_tpm(&providers, &keyring);
    if sealed.is_empty() {
        return unused.into_iter().collect();
    }
    let dirs = host.libvirt_dirs();
    let users = swtpm_users(&dirs.qemu_conf(), &dirs.tpm_states());
    let device = shared_device(Path::new(DEVICES), &users, &dirs.qemu_conf());
    let sealed = sealed.into_iter().map(KeyFinding::SealedToTpm);
    sealed
        .map(Finding::from)
        .chain(device.map(Finding::from))
        .chain(unused)
        .collect()
}

/// A provider whose key is not sealed to the TPM of this host, because systemd cannot use it.
fn unused(dev: &Path, providers: &[Provider], keyring: &Keyring) -> Option<KeyFinding> {
    // The resource manager of a TPM 2.0; a TPM 1.2 has none.
    let has_tpm = |device: &PathBuf| device.to_string_lossy().contains("tpmrm");
    if !devices(dev).iter().any(has_tpm) {
        return None;
    }
    let provider = providers.iter().find(|provider| {
        let seal = keyring.seal(provider.key_id);
        seal.is_ok_and(|seal| seal < Seal::HostAndTpm2)
    })?;
    let lacking = keyring.lacking_for_tpm(default_deadline()).ok()?;
    (!lacking.is_empty()).then(|| KeyFinding::UnusedTpm {
        provider: provider.clone(),
        lacking,
    })
}

fn sealed_to_tpm(providers: &[Provider], keyring: &Keyring) -> Vec<Provider> {
    let is_sealed = |provider: &&Provider| {
        let seal = keyring.seal(provider.key_id);
        seal.is_ok_and(|seal| seal == Seal::HostAndTpm2)
    };
    providers.iter().filter(is_sealed).cloned().collect()
}

/// The users that swtpm runs as on this host: the one that libvirt is configured for, and those
/// whose TPM states are there.
fn swtpm_users(qemu_conf: &Path, states: &Path) -> Vec<User> {
    let conf = QemuConf::read(qemu_conf);
    let owners = states.read_dir().into_iter().flatten().flatten();
    let owners = owners.flat_map(|domain| domain.path().read_dir().into_iter().flatten().flatten());
    let mut uids: Vec<_> = owners
        .filter_map(|state| state.metadata().ok())
        .filter(Metadata::is_dir)
        .map(|dir| dir.uid())
        .collect();
    uids.sort_unstable();
    uids.dedup();
    let mut users: Vec<User> = uids
        .into_iter()
        .filter_map(|uid| User::from_uid(Uid::from_raw(uid)).ok()?)
        .collect();
    let name = conf.user().or(users.is_empty().then_some(DEFAULT_USER));
    let by_name = |name: &str| User::from_name(name).ok()?;
    let by_number = |uid| User::from_uid(Uid::from_raw(uid)).ok()?;
    let named = name.and_then(|name| resolve(name, by_name, by_number));
    users.extend(named.filter(|named| users.iter().all(|user| user.uid != named.uid)));
    users
}

/// A device of the TPM that one of these users may open.
fn shared_device(dev: &Path, users: &[User], qemu_conf: &Path) -> Option<HostFinding> {
    let open_to = |device: &PathBuf| {
        let metadata = fs::metadata(device).ok()?;
        users.iter().find(|user| may_open(&metadata, user))
    };
    devices(dev).into_iter().find_map(|device| {
        let user = open_to(&device)?.name.clone();
        Some(HostFinding::SharedTpm {
            device,
            user,
            qemu_conf: qemu_conf.to_owned(),
        })
    })
}

/// `tpm0`, `tpmrm0` and the like.
fn devices(dev: &Path) -> Vec<PathBuf> {
    let is_tpm = |name: &str| {
        let number = name.strip_prefix("tpmrm").or(name.strip_prefix("tpm"));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let entries = dev.read_dir().into_iter().flatten().flatten();
    let mut devices: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_tpm))
        .map(|entry| entry.path())
        .collect();
    devices.sort();
    devices
}

/// Whether a user may read and write a device.
fn may_open(device: &Metadata, user: &User) -> bool {
    let mode = device.mode();
    if user.uid.is_root() {
        return true;
    }
    if device.uid() == user.uid.as_raw() {
        return mode & 0o600 == 0o600;
    }
    if groups(user).contains(&Gid::from_raw(device.gid())) {
        return mode & 0o060 == 0o060;
    }
    mode & 0o006 == 0o006
}

fn groups(user: &User) -> Vec<Gid> {
    let name = std::ffi::CString::new(user.name.as_str()).unwrap_or_default();
    getgrouplist(&name, user.gid).unwrap_or_else(|_| vec![user.gid])
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use nix::unistd::geteuid;

    use super::*;
    use crate::host::process::tests::write_program;
    use crate::keyring::seal::Sealer;
    use crate::manage::tests::fixture::a_provider;

    fn user(name: &str) -> Option<User> {
        User::from_name(name).unwrap()
    }

    /// Devices of these names, owners, groups and modes. Real nodes need no test: only their
    /// owner and mode count.
    fn dev(nodes: &[(&str, u32, u32, u32)]) -> tempfile::TempDir {
        let dev = tempfile::tempdir().unwrap();
        for (name, uid, gid, mode) in nodes {
            let path = dev.path().join(name);
            fs::write(&path, "").unwrap();
            chown(&path, Some(*uid), Some(*gid)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
        }
        dev
    }

    #[test]
    fn a_device_of_swtpm_s_user_is_reported() {
        if !geteuid().is_root() {
            return;
        }
        let nobody = user("nobody").unwrap();
        let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
        for (nodes, reported) in [
            (&[("tpm0", uid, 0, 0o660)][..], true),
            (&[("tpmrm0", 0, gid, 0o660)], true),
            (&[("tpm0", 0, 0, 0o660), ("tpmrm0", 0, 0, 0o666)], true),
            (&[("tpm0", 0, 0, 0o660), ("tpmrm0", 0, 0, 0o660)], false),
            (&[("tpm0", uid, gid, 0o000)], false),
            (
                &[("tpm", uid, gid, 0o660), ("tpmlog0", uid, gid, 0o660)],
                false,
            ),
            (&[], false),
        ] {
            let dev = dev(nodes);
            let found = shared_device(dev.path(), std::slice::from_ref(&nobody), Path::new("/x"));
            let named =
                matches!(&found, Some(HostFinding::SharedTpm { user, .. }) if user == "nobody");
            assert_eq!(named, reported, "{nodes:?}: {found:?}");
        }
    }

    #[test]
    fn swtpm_s_user_is_the_configured_one_and_whoever_has_states() {
        let dir = tempfile::tempdir().unwrap();
        let (conf, states) = (dir.path().join("qemu.conf"), dir.path().join("swtpm"));
        let names = || -> Vec<_> {
            let users = swtpm_users(&conf, &states).into_iter();
            users.map(|user| user.name).collect()
        };
        let default: Vec<_> = user(DEFAULT_USER)
            .map(|user| user.name)
            .into_iter()
            .collect();
        assert_eq!(names(), default);
        fs::write(&conf, "#swtpm_user = \"tss\"\nswtpm_user = \"nobody\"\n").unwrap();
        assert_eq!(names(), ["nobody"]);
        let number = user("nobody").unwrap().uid;
        fs::write(&conf, format!("swtpm_user = '+{number}' # nobody\n")).unwrap();
        assert_eq!(names(), ["nobody"]);
        fs::create_dir_all(states.join("some-uuid/tpm2")).unwrap();
        let me = User::from_uid(geteuid()).unwrap().unwrap().name;
        assert_eq!(names(), [me, "nobody".to_owned()]);
    }

    #[test]
    fn a_tpm_that_systemd_cannot_use_is_reported_where_a_key_could_be_sealed_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("systemd-creds");
        let script = "#!/bin/sh\nprintf 'partial\\n-firmware\\n+driver\\n-libraries\\n'\nexit 17\n";
        write_program(&program, script);
        let keyring = Keyring::with_sealer(dir.path().join("keys"), Sealer::at(program));
        let provider = a_provider();
        let lacking = |nodes: &[&str], seal: &str| {
            let keys = dir.path().join("keys");
            let _ = fs::create_dir(&keys);
            fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
            let file = keys.join(provider.key_id.to_string());
            fs::write(&file, format!("vtpm-guard-kek 1 {seal}\nx")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let dev = tempfile::tempdir().unwrap();
            for node in nodes {
                fs::write(dev.path().join(node), "").unwrap();
            }
            let found = unused(dev.path(), std::slice::from_ref(&provider), &keyring);
            found.map(|found| match found {
                KeyFinding::UnusedTpm { lacking, .. } => lacking.join(","),
                other => panic!("{other:?}"),
            })
        };
        let tpm2 = ["tpm0", "tpmrm0"];
        let libraries = Some("libraries".to_owned());
        assert_eq!(lacking(&tpm2, "systemd-creds host"), libraries);
        assert_eq!(lacking(&tpm2, "root-only"), libraries);
        assert_eq!(lacking(&tpm2, "systemd-creds host+tpm2"), None);
        assert_eq!(lacking(&["tpm0"], "systemd-creds host"), None, "a TPM 1.2");
    }

    #[test]
    fn only_a_key_that_is_sealed_to_the_tpm_depends_on_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        fs::create_dir(&keys).unwrap();
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).unwrap();
        let provider = a_provider();
        let file = keys.join(provider.key_id.to_string());
        for (seal, depends) in [("host+tpm2", true), ("host", false)] {
            fs::write(&file, format!("vtpm-guard-kek 1 systemd-creds {seal}\nx")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            let found = sealed_to_tpm(std::slice::from_ref(&provider), &Keyring::at(keys.clone()));
            assert_eq!(!found.is_empty(), depends, "{seal}");
        }
    }
}
