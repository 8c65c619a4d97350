//! What `doctor` can find.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::host::trusted::Reason;
use crate::ids::{DomainUuid, SecretUuid, SlotUuid};
use crate::keyring::{KeyringError, Seal};
use crate::kms::KmsError;
use crate::libvirt::Daemons;
use crate::libvirt::secret::SecretError;
use crate::log::LogError;
use crate::manage::dry_start::CheckedGuest;
use crate::manage::guests::GuestRef;
use crate::manage::host::HostError;
use crate::manage::providers::ProviderRef;
use crate::manage::shared_secrets::SharedSecret;
use crate::recovery::file::RecoveryError;
use crate::store::AlikeFindings;
use crate::tpm_copies::CopyError;
use crate::verdict::facts::Provider;
use crate::verdict::refusal::Refusal;

/// A problem, or a fact that helps to understand what happens on this host.
#[derive(Debug)]
pub(crate) enum Finding {
    /// About the hook, and what runs beside it.
    Hook(HookFinding),
    /// About libvirt, files and disks.
    Host(HostFinding),
    /// About keys, the store and TPM states.
    Key(KeyFinding),
}

impl From<HookFinding> for Finding {
    fn from(finding: HookFinding) -> Self {
        Self::Hook(finding)
    }
}

impl From<HostFinding> for Finding {
    fn from(finding: HostFinding) -> Self {
        Self::Host(finding)
    }
}

impl From<KeyFinding> for Finding {
    fn from(finding: KeyFinding) -> Self {
        Self::Key(finding)
    }
}

/// Whether libvirt runs the hook, and which other programs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HookFinding {
    /// libvirt cannot run it.
    CannotRun {
        link: PathBuf,
        why: CannotRun,
        daemons: Daemons,
    },
    /// Plain users cannot run it, whose session daemons do.
    NotForUsers { link: PathBuf },
    /// The daemon may not know of it yet.
    NotNoticed { daemons: Daemons },
    /// `AppArmor` keeps the daemon from running this program.
    AppArmor {
        link: PathBuf,
        target: PathBuf,
        daemons: Daemons,
    },
    /// One of these does not have the `SELinux` label of the policy; `restorecon` reports this.
    SelinuxLabel { paths: Vec<PathBuf>, labels: String },
    /// `SELinux`, which is enforced, denies this to a domain.
    SelinuxDenies { domain: String, denied: Vec<Denied> },
    /// `SELinux` is enforced, but not for the guard's own domain.
    SelinuxPermissive,
    /// Another link to the guard, or a copy of its link.
    SecondGuard(PathBuf),
    /// A file that a package manager or an editor left behind, and that libvirt runs.
    LeftOver(PathBuf),
    /// A script that seems to run the programs of `qemu.d` itself.
    Dispatcher(PathBuf),
    /// Other programs that libvirt runs before and after the guard.
    OtherHooks {
        before: Vec<PathBuf>,
        after: Vec<PathBuf>,
    },
    /// libvirtd starts this guest by itself, and nobody stages keys before.
    NobodyStages { guest: String },
    /// After a start of libvirtd that failed, nobody removes the staged keys.
    NobodyUnstages,
    /// If its guests need long to start, nobody has libvirtd drop the staged keys.
    UnstageGivesUp,
    /// So many keys are still staged.
    LeftStaged(usize),
}

/// What `SELinux` denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// To the daemon: to run the hook.
    RunHook,
    /// To the hook: to write the store.
    WriteStore,
    /// To look at TPM states.
    ReadStates,
    /// To use the host's TPM.
    UseTpm,
}

/// Why libvirt cannot run the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CannotRun {
    /// It is not a file.
    NotAFile,
    /// It is not executable.
    NotExecutable,
    /// The link has no target.
    Dangling,
    /// The link is as it should be, and the package's program is gone.
    ProgramGone,
    /// Nothing is there.
    Missing,
    /// Nothing is there, and the host's configuration makes what is: NixOS removes any other link when libvirtd starts.
    NotInConfiguration,
}

/// What is wrong with the host.
#[derive(Debug)]
pub(crate) enum HostFinding {
    /// A file or directory could not be read.
    Unreadable(PathBuf, io::Error),
    /// The configuration cannot be used.
    Configuration(HostError),
    /// `policy.auto_bind` names this provider, which is not on this host.
    AutoBind(String),
    /// There is no log.
    NoLog(LogError),
    /// libvirt's secret driver does not answer at this URI.
    Libvirt {
        uri: String,
        error: SecretError,
        daemons: Daemons,
    },
    /// The daemon that runs guests does not list them, and its secret driver, if it has it, answers.
    GuestsDaemon {
        error: SecretError,
        daemons: Daemons,
    },
    /// Secrets are asked for at this URI of virtqemud, which answers nobody while it autostarts guests.
    SecretsAtGuestsDaemon { uri: String },
    /// libvirt has a file of this guest, and not where the configuration says.
    Elsewhere {
        guest: String,
        file: PathBuf,
        /// The setting that says where.
        setting: &'static str,
        /// The directory where it is, if that is known.
        found_in: Option<PathBuf>,
    },
    /// Others than root can change or read what the guard relies on.
    Untrusted {
        path: PathBuf,
        reason: Reason,
        what: Distrusted,
    },
    /// This file system does not answer.
    DeadFileSystem(PathBuf),
    /// This directory is on a file system in memory.
    Volatile { path: PathBuf, what: Volatile },
    /// systemd does not run, whose units do a part of the guard's work; and a guest with a key that libvirtd starts by
    /// itself, if there is one.
    NoSystemd {
        daemons: Daemons,
        autostarted: Option<String>,
    },
    /// It has only so many KiB left.
    Full { path: PathBuf, free_kib: u64 },
    /// libvirt's directory of TPM states is a link.
    LinkedStates {
        path: PathBuf,
        target: PathBuf,
        daemons: Daemons,
    },
    /// The timer of the nightly check is not enabled.
    NoNightlyCheck,
    /// Keys are to travel, and these units that write them are not enabled.
    SyncNotEnabled(Vec<&'static str>),
    /// The configuration names a shared store, and this host is in no fleet.
    NotInFleet,
    /// No facts were exchanged with the fleet since then; and whether the unit that does it is off.
    NoExchange { last: Timestamp, is_off: bool },
    /// The unit that exchanges facts is not enabled.
    FleetNotEnabled,
    /// A key manager does not answer, or does not take the credentials.
    KeyManager(KmsError),
    /// Provider keys need a key manager, and these units that ask it are not enabled.
    OpenNotEnabled(Vec<&'static str>),
    /// This version of libvirt does not know `qemu.d`, this directory, and runs only this one hook.
    OldLibvirt {
        version: String,
        directory: PathBuf,
        only_hook: PathBuf,
    },
    /// The user that swtpm runs as, as this file says, can open the host's TPM.
    SharedTpm {
        device: PathBuf,
        user: String,
        qemu_conf: PathBuf,
    },
}

/// What the next boot loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Volatile {
    /// The guard's own directory: provider keys, the store.
    Keys,
    /// The TPM states of guests.
    States,
}

/// What a file that is not trusted is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distrusted {
    /// The hook.
    Hook,
    /// A file or directory that the guard refuses to use then.
    Needed,
    /// In the state directory, with the wrong owner.
    Owner,
    /// In the state directory, open to others.
    Open,
}

/// What is wrong with keys, or will be.
#[derive(Debug)]
pub(crate) enum KeyFinding {
    /// The store cannot be used.
    StoreUnusable(HostError),
    /// Damage or inconsistencies in it that are alike.
    Store(AlikeFindings),
    /// A provider's key does not open.
    Sealed(Provider, Arc<KeyringError>),
    /// It opened too late for a start, or not in all the time that it was given.
    SlowToOpen {
        provider: Provider,
        opened: bool,
        took: Duration,
        allowed: Duration,
    },
    /// This host could seal it better.
    WeakSeal {
        provider: Provider,
        seal: Seal,
        strongest: Seal,
    },
    /// It was never exported, and keys in use need it.
    NeverExported(Provider),
    /// It was never exported, and only old backups need it.
    PreviousNeverExported(Provider),
    /// It was never exported, and beside this host only key managers of one kind open its key.
    OneKind(Provider, String),
    /// A key that is to be on no disk, for a key manager opens it, is on this host's.
    StillOnDisk(Provider),
    /// This slot does not open the provider's key.
    Slot(Provider, SlotUuid, KmsError),
    /// So many key references of it are still under a key that it had before its last rotation.
    RotationUnfinished { provider: Provider, key_refs: usize },
    /// A host of the fleet has announced its next key, and no host has finished the rotation.
    RotationBegun(Provider),
    /// It was exported a long time ago.
    OldExport(Provider, Timestamp),
    /// It opens on this host's TPM alone.
    SealedToTpm(Provider),
    /// This host has a TPM 2.0, but systemd lacks this to seal the provider's key with it.
    UnusedTpm {
        provider: Provider,
        lacking: Vec<String>,
    },
    /// The last decision is later than the clock.
    Clock { last: Timestamp, now: Timestamp },
    /// This recovery file cannot be used.
    Recovery(PathBuf, RecoveryError),
    /// No recovery file that was named restores this provider.
    NotCovered(Provider),
    /// This file of libvirt holds a vTPM's key, in plaintext or encrypted by libvirt.
    OnDisk {
        file: PathBuf,
        encrypted: bool,
        secret: Option<SecretUuid>,
        /// The guests that name its secret; `None` where libvirt did not list them.
        guests: Option<Vec<GuestRef>>,
    },
    /// libvirt deletes the TPM state of these guests when they are undefined.
    DeletedAtUndefine(Vec<GuestRef>),
    /// libvirt deletes the TPM state of these guests when they stop.
    DeletedAtStop(Vec<GuestRef>),
    /// Guests with different keys under one secret.
    Shared(SharedSecret),
    /// The keys of these guests are to travel, and are not in their XML.
    NotTravelling(Vec<GuestRef>),
    /// These providers were announced by other hosts, and open here; they wrap no new keys.
    NotAccepted(Vec<ProviderRef>),
    /// The starts of these guests would be refused or would fail, all for reasons with one code.
    WouldNotStart {
        guests: Vec<CheckedGuest>,
        /// That of the first.
        why: Refusal,
    },
    /// A saved copy of TPM state cannot be used.
    Copy(CopyError),
    /// The newest copy of a guest's TPM state is old.
    OldCopy {
        guest: DomainUuid,
        name: Option<String>,
        saved_at: Timestamp,
    },
    /// The file of a guest's TPM state also holds parts of an earlier one, which `encrypt` or
    /// `key renew` could not overwrite.
    OldStateLeft { guest: GuestRef, file: PathBuf },
    /// The unencrypted state from before an `encrypt` is still there.
    PlainState {
        guest: DomainUuid,
        name: Option<String>,
        /// Whether libvirt knows the guest, or cannot say.
        is_known: bool,
    },
}

/// A file that could not be looked at.
pub(super) fn unreadable(path: &Path, error: io::Error) -> Finding {
    HostFinding::Unreadable(path.to_owned(), error).into()
}
