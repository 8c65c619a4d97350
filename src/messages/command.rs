//! Every command line that a hint, a message or a finding may name, in one table. A placeholder in
//! capitals is for the reader to replace.

use std::fmt;

use super::Arg;
use super::arg::kind::{File, Guest, Host, KeyRef, Mode, Pid, Provider, RefusalCode, Secret, Word};

macro_rules! commands {
    ($($name:ident $(($($arg:ident: $kind:ident),+))? = $line:literal;)*) => {
        /// A command line to name in a message, on one line, ready to be pasted into a shell.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Command {
            $(#[doc = concat!("`", $line, "`")] $name $(($(Arg<$kind>),+))?,)*
        }

        impl fmt::Display for Command {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$name $(($($arg),+))? => write!(f, $line),)*
                }
            }
        }

        #[cfg(test)]
        impl Command {
            /// Every command, with the kind of each argument in its place.
            pub(crate) fn every() -> Vec<Self> {
                vec![$(Self::$name $(($(Arg::placeholder(stringify!($kind))),+))?,)*]
            }
        }
    };
}

commands! {
    Adopt(guests: Guest) = "vtpm-guard adopt {guests}";
    AdoptWith(guests: Guest, provider: Provider) = "vtpm-guard adopt {guests} --provider {provider}";
    Check(guest: Guest) = "vtpm-guard check {guest}";
    CheckAll = "vtpm-guard check --all";
    CheckXml(file: File) = "vtpm-guard check --xml {file}";
    Doctor = "vtpm-guard doctor";
    Encrypt(guest: Guest) = "vtpm-guard encrypt {guest}";
    EncryptWith(guest: Guest, provider: Provider) = "vtpm-guard encrypt {guest} --provider {provider}";
    Explain = "vtpm-guard explain";
    ExplainCode(code: RefusalCode) = "vtpm-guard explain {code}";
    FleetJoin = "vtpm-guard fleet join";
    FleetLeave = "vtpm-guard fleet leave";
    FleetLeaveForced = "vtpm-guard fleet leave --force";
    FleetStatus = "vtpm-guard fleet status";
    FleetInit = "vtpm-guard fleet init";
    FleetInitSql = "vtpm-guard fleet init --sql";
    FleetLost(host: Host) = "vtpm-guard fleet lost {host}";
    History = "vtpm-guard history";
    HistoryOf(guest: Guest) = "vtpm-guard history {guest}";
    HistoryCaptures = "vtpm-guard history --captures";
    KeyBind(guest: Guest, provider: Provider) = "vtpm-guard key bind {guest} --provider {provider}";
    KeyClone(original: Guest, clone: Guest) = "vtpm-guard key clone {original} {clone}";
    KeyImport(guest: Guest, backup: File) = "vtpm-guard key import {guest} --from {backup}";
    KeyImportAs(guest: Guest, backup: File, old: Guest) = "vtpm-guard key import {guest} --from {backup} --as {old}";
    KeyList = "vtpm-guard key list";
    KeyPruneDryRun = "vtpm-guard key prune --dry-run";
    KeyRenew(guest: Guest) = "vtpm-guard key renew {guest}";
    KeyRetire(key: KeyRef) = "vtpm-guard key retire {key}";
    KeyShow(guest: Guest) = "vtpm-guard key show {guest}";
    KeyUnbind(guest: Guest) = "vtpm-guard key unbind {guest}";
    KeyUse(key: KeyRef) = "vtpm-guard key use {key}";
    Open = "vtpm-guard open";
    OpenOf(name: Provider) = "vtpm-guard open {name}";
    ProviderAccept(name: Provider) = "vtpm-guard provider accept {name}";
    ProviderCreate(name: Provider) = "vtpm-guard provider create {name}";
    ProviderCreateDefault(name: Provider) = "vtpm-guard provider create {name} --default";
    ProviderDeleteForced(name: Provider) = "vtpm-guard provider delete {name} --force";
    ProviderExport(name: Provider) = "vtpm-guard provider export {name} --output FILE";
    ProviderImport(file: File) = "vtpm-guard provider import {file}";
    ProviderImportAs(file: File, name: Provider) = "vtpm-guard provider import {file} --name {name}";
    ProviderImportDryRun(file: File) = "vtpm-guard provider import {file} --dry-run";
    ProviderList = "vtpm-guard provider list";
    ProviderRename(name: Provider, new: Provider) = "vtpm-guard provider rename {name} {new}";
    ProviderReseal(name: Provider) = "vtpm-guard provider reseal {name}";
    ProviderRotate(name: Provider) = "vtpm-guard provider rotate {name}";
    ProviderSetDefault(name: Provider) = "vtpm-guard provider set-default {name}";
    ProviderShow(name: Provider) = "vtpm-guard provider show {name}";
    Reset(guest: Guest) = "vtpm-guard reset {guest}";
    SlotList(name: Provider) = "vtpm-guard provider slot list {name}";
    SlotVerify(name: Provider) = "vtpm-guard provider slot verify {name}";
    Stage = "vtpm-guard stage";
    StateDrop(guest: Guest) = "vtpm-guard state drop {guest}";
    StateDropForced(guest: Guest) = "vtpm-guard state drop {guest} --force";
    StateList = "vtpm-guard state list";
    StateListFleet = "vtpm-guard state list --fleet";
    StatePersist(guests: Guest) = "vtpm-guard state persist {guests}";
    StatePersistAll = "vtpm-guard state persist --all";
    StateRestore(guest: Guest) = "vtpm-guard state restore {guest}";
    StateShow(guest: Guest) = "vtpm-guard state show {guest}";
    StoreBackup(file: File) = "vtpm-guard store backup {file}";
    StoreCheck = "vtpm-guard store check";
    StoreRestore(file: File) = "vtpm-guard store restore {file}";
    Sync = "vtpm-guard sync";
    Unstage = "vtpm-guard unstage";
    UnstageWait = "vtpm-guard unstage --wait";

    VirshDefine(file: File) = "virsh define {file}";
    VirshDomstate(guest: Guest) = "virsh domstate {guest}";
    VirshDomuuid(guest: Guest) = "virsh domuuid {guest}";
    VirshDumpxml(guest: Guest) = "virsh dumpxml {guest}";
    VirshEdit(guest: Guest) = "virsh edit {guest}";
    VirshList = "virsh list --all";
    VirshListAt(uri: Word) = "virsh -c {uri} list --all";
    VirshManagedsaveRemove(guest: Guest) = "virsh managedsave-remove {guest}";
    VirshMetadataRemove(guest: Guest) = "virsh metadata {guest} --uri urn:vtpm-guard:domain:1 --config --remove";
    VirshSecretDefine(file: File) = "virsh secret-define {file}";
    VirshSecretDumpxml(secret: Secret) = "virsh secret-dumpxml {secret}";
    VirshSecretList = "virsh secret-list";
    VirshSecretListAt(uri: Word) = "virsh -c {uri} secret-list";
    VirshSecretSetValue(secret: Secret) = "virsh secret-set-value {secret} --plain --file FILE";
    VirshSecretUndefine(secret: Secret) = "virsh secret-undefine {secret}";
    VirshShutdown(guest: Guest) = "virsh shutdown {guest}";
    VirshSnapshotDelete(guest: Guest) = "virsh snapshot-delete {guest} NAME";
    VirshSnapshotList(guest: Guest) = "virsh snapshot-list {guest} --active";
    VirshSnapshotRevert(guest: Guest) = "virsh snapshot-revert {guest} NAME";
    VirshStart(guest: Guest) = "virsh start {guest}";
    VirshUndefineTpm(guest: Guest) = "virsh undefine {guest} --tpm";
    VirtInstallPrintXml = "virt-install --print-xml 1";

    Ausearch = "ausearch -m avc -ts recent";
    AusearchOwn = "ausearch -m avc -ts boot -su vtpm_guard_t";
    ChmodMode(mode: Mode, file: File) = "chmod {mode} {file}";
    ChownRoot(file: File) = "chown root {file}";
    Df(path: File) = "df -h {path}";
    Findmnt(path: File) = "findmnt -T {path}";
    HasTpm2 = "systemd-creds has-tpm2";
    Kill(pid: Pid) = "kill {pid}";
    LinkHook(link: File) = "ln -sf /usr/sbin/vtpm-guard-hook {link}";
    ListFile(file: File) = "ls -ld {file}";
    Man(page: Word) = "man {page}";
    MakeDirectory(directory: File) = "mkdir -p {directory}";
    MountTmpfs = "mount -t tmpfs tmpfs /run";
    MoveAside(file: File) = "mv {file} {file}.old";
    PgrepSwtpm = "pgrep -a swtpm";
    Ps(pid: Pid) = "ps -fp {pid}";
    Remove(files: File) = "rm {files}";
    ListTargets(files: File) = "ls -lL {files}";
    Restorecon(files: File) = "restorecon -v {files}";
    Semodule = "semodule -X 200 -i /usr/share/selinux/packages/vtpm_guard.pp && restorecon -R -i /usr/sbin/vtpm-guard /usr/sbin/vtpm-guard-hook /usr/libexec/vtpm-guard-libvirt /var/lib/vtpm-guard /run/vtpm-guard";
    Sqlite(store: File, statement: Word) = "sqlite3 {store} {statement}";
    SystemctlEnableNow(unit: Word) = "systemctl enable --now {unit}";
    SystemctlMask(unit: Word) = "systemctl mask {unit}";
    SecretNotPrivate(definition: File) = "sed -i \"s/private='yes'/private='no'/\" {definition}";
    SystemctlRestart(unit: Word) = "systemctl restart {unit}";
    SystemctlReload(unit: Word) = "systemctl reload {unit}";
    SystemctlStatus(unit: Word) = "systemctl status {unit}";
    SystemctlDaemonReload = "systemctl daemon-reload";
    Timedatectl = "timedatectl";
    TpmSetLockoutAuth = "tpm2_changeauth -c lockout";
    Uuidgen = "uuidgen";
}
