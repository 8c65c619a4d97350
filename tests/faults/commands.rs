//! What is killed: every command that changes something, and every call of the hook that does.

use std::fs;
use std::path::PathBuf;

use super::statements::Allowed;
use crate::ids::{DomainUuid, SecretUuid};
use crate::key::dek::Dek;
use crate::manage::host::default_deadline;
use crate::manage::tests::fixture::{Defined, Fixture};
use crate::manage::tests::recovery;
use crate::manage::tests::slots::toy;
use crate::recovery::file::RecoveryFile;

/// Which program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tool {
    /// `vtpm-guard`.
    Command,
    /// `vtpm-guard-hook`, which gets the XML of the guest that its first argument names.
    Hook,
}

/// A program that is killed on a host that was made for it.
pub(super) struct Scenario {
    /// The words of the command, or `hook` and the operation.
    pub(super) command: &'static str,
    /// What is special about this host.
    pub(super) of: &'static str,
    pub(super) tool: Tool,
    /// `{root}` is the directory of the host.
    pub(super) arguments: &'static [&'static str],
    pub(super) set_up: fn(&Fixture),
    /// Panics unless what the program is for is done.
    pub(super) done: fn(&Fixture),
    /// How it ends undisturbed: with 0, or with the status of a refusal.
    pub(super) ends: i32,
    /// How it may end when it is run again after a kill, beside success.
    pub(super) again: &'static [i32],
    /// It may succeed without having done it, if it says why.
    pub(super) may_leave_out: bool,
    pub(super) allowed: Allowed,
    /// Its provider keys are in root-only files, as on a host without systemd credentials. Others are sealed.
    pub(super) keys_in_clear: bool,
    /// libvirt's daemon listens on its socket. Elsewhere a helper alone reaches it.
    pub(super) over_the_socket: bool,
}

impl Scenario {
    /// A passphrase takes a second, on purpose.
    pub(super) fn is_slow(&self) -> bool {
        self.command == "provider export"
    }

    pub(super) fn name(&self) -> String {
        if self.of.is_empty() {
            self.command.to_owned()
        } else {
            format!("{} ({})", self.command, self.of)
        }
    }
}

const STRICT: Allowed = Allowed {
    forgets_keys: false,
    forgets_tpms: false,
    refuses_until_again: false,
};

/// The XML that libvirt gives a hook of the guest.
pub(super) fn xml(host: &Fixture) -> String {
    host.host.defined_guest("vm1").unwrap().xml
}

fn guest(host: &Fixture) -> Defined {
    host.defined("vm1")
}

fn in_use(host: &Fixture) {
    host.guest_in_use("vm1");
}

fn starts_with_one_key(host: &Fixture) {
    host.assert_starts_with_one_key(&guest(host));
}

fn has_provider(host: &Fixture, name: &str) {
    let key_id = host.provider(name).key_id;
    host.host
        .keyring()
        .open(key_id, default_deadline())
        .unwrap();
}

/// A guest that has another key beside the one that opens its TPM.
fn two_keys(host: &Fixture) {
    let guest = host.define("vm1");
    let other = Dek::generate().unwrap();
    let dek = Dek::generate().unwrap();
    host.add_key(&guest, "a", &dek);
    host.add_key(&guest, "a", &other);
    host.encrypt_state(&guest, &dek);
}

fn placeholder_beside(host: &Fixture) {
    in_use(host);
    host.sql(
        "INSERT INTO key_ref (resource_uuid, secret_uuid, provider_uuid, provider_name) SELECT \
         resource_uuid, secret_uuid, provider_uuid, provider_name FROM key_ref",
    );
}

fn copy_state(host: &Fixture, from: &Defined, to: &Defined) {
    let place = host.state_file(to);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::copy(host.state_file(from), place).unwrap();
}

fn plain(host: &Fixture) {
    let guest = host.define_with("vm1", DomainUuid::random(), SecretUuid::random(), "");
    host.plain_state(&guest);
}

fn persistent_secret(host: &Fixture) {
    let guest = host.define("vm1");
    let secret = guest.secret;
    let xml = format!(
        "<secret ephemeral='no' private='no'><uuid>{secret}</uuid><usage type='vtpm'>\
         <name>{secret}</name></usage></secret>"
    );
    host.libvirt.secrets.define(&xml).unwrap();
    let dek = Dek::generate().unwrap();
    let secrets = &host.libvirt.secrets;
    secrets.set_value(secret, dek.expose()).unwrap();
    host.encrypt_state(&guest, &dek);
    let provider = host.provider("a");
    let now = crate::clock::Timestamp::now();
    let mut store = host.store();
    store
        .mark_exported(provider.uuid, provider.key_id, now)
        .unwrap();
}

fn backup(host: &Fixture) -> PathBuf {
    let file = host.root().join("backup");
    host.store().backup(&file, default_deadline()).unwrap();
    file
}

/// The guest's only TPM state is a saved copy.
fn with_a_copy_alone(host: &Fixture) {
    in_use(host);
    host.save_copy(&guest(host));
    fs::remove_file(host.state_file(&guest(host))).unwrap();
}

fn copies(host: &Fixture) -> usize {
    host.host.all_copies().unwrap().judged.len()
}

fn autostart(host: &Fixture) {
    in_use(host);
    let dirs = host.libvirt.dirs();
    fs::create_dir_all(dirs.autostart()).unwrap();
    std::os::unix::fs::symlink(
        dirs.definitions().join("vm1.xml"),
        dirs.autostart().join("vm1.xml"),
    )
    .unwrap();
}

fn staged(host: &Fixture) -> usize {
    host.host.staging_dir().staged().unwrap().len()
}

fn travelling(host: &Fixture) {
    host.set_metadata("wrapped");
    in_use(host);
}

fn passphrase(host: &Fixture) {
    use std::os::unix::fs::PermissionsExt;
    let file = host.root().join("passphrase");
    fs::write(&file, "correct horse battery staple\n").unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
}

/// libvirt has a secret for the guest that opens its TPM.
fn has_its_key(host: &Fixture) {
    let guest = guest(host);
    let value = host.libvirt.secrets.value(guest.secret);
    assert!(host.is_opened_by(&guest, &value.expect("libvirt has no key")));
}

/// A guest of which libvirt has the key, and which is on its way.
fn started(host: &Fixture) {
    in_use(host);
    give_key(host);
    host.libvirt.guests.start("vm1");
}

fn give_key(host: &Fixture) {
    use crate::guard::{Mode, prepare};
    use crate::manage::host::BrokenConfig;
    use crate::store::Origin;
    let guard = host.host.guard(BrokenConfig::Fail).unwrap();
    let domain = Ok(host.domain(&guest(host)));
    let outcome = prepare(
        &guard,
        &domain,
        Origin::Prepare,
        Mode::CarryOut,
        default_deadline(),
    );
    assert!(outcome.is_allowed());
}

fn secret_is_dropped(host: &Fixture) {
    assert!(host.libvirt.secrets.value(guest(host).secret).is_none());
}

fn transient(host: &Fixture) {
    in_use(host);
    host.libvirt.guests.start("vm1");
    host.libvirt.guests.undefine("vm1");
}

/// All of them.
pub(super) fn all() -> Vec<Scenario> {
    let mut all = providers::providers();
    all.extend(key_managers::key_managers());
    all.extend(keys::keys());
    all.extend(guests::guests());
    all.extend(states::states_and_store());
    all.extend(hook::hook());
    all.extend(hook::over_the_socket());
    all.extend(refused::refused());
    all.extend(fleet::fleet());
    all.extend(fleet::rotations());
    all
}

macro_rules! command {
    ($command:literal, $arguments:expr, $set_up:expr, $done:expr $(, $field:ident: $value:expr)*) => {
        #[allow(clippy::needless_update, reason = "not all have other fields")]
        Scenario {
            $($field: $value,)*
            ..Scenario {
                command: $command,
                of: "",
                tool: Tool::Command,
                arguments: &$arguments,
                set_up: $set_up,
                done: $done,
                ends: 0,
                again: &[],
                may_leave_out: false,
                allowed: STRICT,
                keys_in_clear: false,
                over_the_socket: false,
            }
        }
    };
}

mod fleet;
mod guests;
mod hook;
mod key_managers;
mod keys;
mod left_out;
mod providers;
mod refused;
mod states;
