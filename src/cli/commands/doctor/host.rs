//! The words of findings about libvirt, files and disks.

use std::path::Path;

use super::Described;
use crate::cli::ui::answer::time;
use crate::cli::ui::host_errors::REINSTALL;
use crate::host::dirs::FLEET_UNIT;
use crate::host::trusted::{Distrust, Reason};
use crate::libvirt::Daemons;
use crate::libvirt::secret::SecretError;
use crate::log::LogError;
use crate::manage::checks::{Distrusted, HostFinding, Volatile};
use crate::messages::{Arg, Command, one_line, quoted};

pub(super) fn describe(finding: &HostFinding) -> Described {
    match finding {
        HostFinding::Unreadable(path, error) => Described::error(
            format!("{} cannot be read: {error}", path.display()),
            "what is in it could not be examined",
            format!("run it as root: {}", Command::Doctor),
        ),
        HostFinding::Configuration(error) => Described::error(
            format!("the configuration cannot be used: {error}"),
            "the hook uses the defaults until it is fixed",
            format!(
                "edit the file ({}), then check it: {}",
                Command::Man("vtpm-guard.toml".into()),
                Command::Doctor
            ),
        ),
        HostFinding::AutoBind(name) => auto_bind(name),
        HostFinding::NoLog(error) => no_log(error),
        HostFinding::Libvirt { .. }
        | HostFinding::GuestsDaemon { .. }
        | HostFinding::SecretsAtGuestsDaemon { .. } => daemon(finding),
        HostFinding::Elsewhere {
            guest,
            file,
            setting,
            found_in,
        } => {
            let directory = found_in.as_deref().unwrap_or(Path::new("DIRECTORY"));
            Described::error(
                format!(
                    "libvirt has the guest \"{}\", but {} does not exist: libvirt keeps its files \
                     elsewhere",
                    one_line(guest),
                    file.display()
                ),
                "the guard looks in the wrong directory: it sees no TPM states, definitions or \
                 secrets",
                format!(
                    "in /etc/vtpm-guard/config.toml: [libvirt] {setting} = \"{}\"",
                    directory.display()
                ),
            )
        }
        HostFinding::Untrusted { path, reason, what } => untrusted(path, *reason, *what),
        HostFinding::SharedTpm {
            device,
            user,
            qemu_conf,
        } => shared_tpm(device, user, qemu_conf),
        HostFinding::NotInFleet | HostFinding::NoExchange { .. } | HostFinding::FleetNotEnabled => {
            fleet(finding)
        }
        HostFinding::KeyManager(error) => Described::warning(
            error.to_string(),
            "guests start all the same while this host holds their provider keys; new keys and slots wait",
            "see docs/kms.md",
        ),
        HostFinding::SyncNotEnabled(_)
        | HostFinding::OpenNotEnabled(_)
        | HostFinding::NoNightlyCheck => units(finding),
        HostFinding::NoSystemd {
            daemons,
            autostarted,
        } => no_systemd(*daemons, autostarted.as_deref()),
        HostFinding::Volatile { .. }
        | HostFinding::DeadFileSystem(_)
        | HostFinding::Full { .. }
        | HostFinding::LinkedStates { .. } => disk(finding),
        HostFinding::OldLibvirt {
            version,
            directory,
            only_hook,
        } => old_libvirt(version, directory, only_hook),
    }
}

/// Units that the administrator has not enabled.
fn units(finding: &HostFinding) -> Described {
    match finding {
        HostFinding::SyncNotEnabled(units) => Described::warning(
            format!(
                "{} not enabled, and fleet.metadata is \"wrapped\"",
                are(units)
            ),
            "a key that is made at a start does not travel until somebody writes it into the \
                 guest's domain XML",
            enable(units),
        ),
        HostFinding::OpenNotEnabled(units) => Described::warning(
            format!(
                "{} not enabled, and this host opens provider keys through key managers",
                are(units)
            ),
            "after a reboot, or once provider.max_age is over, guests do not start (VG105, VG106) until \
                 somebody opens their keys",
            enable(units),
        ),
        HostFinding::NoNightlyCheck => Described::warning(
            "no nightly check runs: vtpm-guard-check.timer is not enabled",
            "that a guest would be refused, for a provider that was deleted or a state that is \
             gone, is noticed only when it is to start",
            format!(
                "{}; if something else runs {}: {}",
                Command::SystemctlEnableNow("vtpm-guard-check.timer".into()),
                Command::CheckAll,
                Command::SystemctlMask("vtpm-guard-check.timer".into())
            ),
        ),
        _ => unreachable!("only findings about units come here"),
    }
}

/// The commands that enable units.
fn enable(units: &[&'static str]) -> String {
    let enable = units.iter().copied().map(Arg::from);
    let enable = enable.map(|unit| Command::SystemctlEnableNow(unit).to_string());
    enable.collect::<Vec<_>>().join(" && ")
}

/// What does the work of the units instead is not known here: only a guest that nobody may stage a key for is a warning.
fn no_systemd(daemons: Daemons, autostarted: Option<&str>) -> Described {
    let nightly = format!("have cron run each night: {}", Command::CheckAll);
    let what = "systemd does not run on this host, and none of the guard's units does";
    let work = "; for a fleet and key managers, what its units run: see docs/install.md";
    let stages = format!(
        "have the script that starts {} run before it: {}; and after it, in the background: {}; {nightly}{work}",
        daemons.of_guests(),
        Command::Stage,
        Command::UnstageWait
    );
    match (autostarted, daemons) {
        (Some(guest), _) => Described::warning(
            format!(
                "{what}: nobody may stage the key of {}, which libvirtd autostarts",
                quoted(guest)
            ),
            "a monolithic libvirtd accepts no key while it starts its guests: they would be refused (VG302); and no \
             nightly check runs",
            stages,
        ),
        (None, Daemons::Monolithic) => Described::note(
            what,
            "no nightly check runs, and guests that are to autostart with libvirtd would be refused (VG302)",
            stages,
        ),
        (None, Daemons::Modular) => {
            Described::note(what, "no nightly check runs", format!("{nightly}{work}"))
        }
    }
}

fn volatile(path: &Path, what: Volatile) -> Described {
    let mount = format!(
        "have a disk mounted there before the next boot; for details: {}",
        Command::Findmnt(Arg::file(path))
    );
    let where_it_is = format!("{} is on a file system in memory", path.display());
    match what {
        Volatile::Keys => Described::error(
            where_it_is,
            "the next boot loses the store and every provider key, and with them every TPM that depends on them, \
             except for what recovery files and backups have",
            format!(
                "{mount}; until then export every provider: {}; and back up the store: {}",
                Command::ProviderExport(Arg::NAME),
                Command::StoreBackup(Arg::FILE)
            ),
        ),
        Volatile::States => Described::error(
            where_it_is,
            "the next boot loses every guest's TPM, and their starts are refused (VG205)",
            mount,
        ),
    }
}

fn old_libvirt(version: &str, directory: &Path, only_hook: &Path) -> Described {
    Described::error(
        format!("libvirt {version} does not know {}", directory.display()),
        "libvirt never runs the hook",
        format!(
            "link it as the only hook of this host: {}",
            Command::LinkHook(Arg::file(only_hook))
        ),
    )
}

fn no_log(error: &LogError) -> Described {
    Described::warning(
        error.to_string(),
        "what the hook did at a start, and what it warned of, is in the history alone, as far as it is there",
        format!(
            "correct log.target in the configuration ({}), or make its directory",
            Command::Man("vtpm-guard.toml".into())
        ),
    )
}

fn auto_bind(provider: &str) -> Described {
    Described::warning(
        format!(
            "policy.auto_bind names provider {}, which is not on this host",
            quoted(provider)
        ),
        "a new guest is refused (VG101), instead of being bound to it",
        format!(
            "restore it: {}; or create it: {}; or name another one ({})",
            Command::ProviderImport(Arg::FILE),
            Command::ProviderCreate(Arg::provider_named(provider)),
            Command::Man("vtpm-guard.toml".into())
        ),
    )
}

fn fleet(finding: &HostFinding) -> Described {
    let enable = Command::SystemctlEnableNow(FLEET_UNIT.into());
    match finding {
        HostFinding::NoExchange { last, is_off } => Described::warning(
            format!(
                "no facts were exchanged with the fleet since {}{}",
                time(Some(*last)),
                if *is_off {
                    format!(", and {FLEET_UNIT} is not enabled")
                } else {
                    String::new()
                }
            ),
            "other hosts do not know this host's new keys, nor this host theirs",
            if *is_off {
                enable.to_string()
            } else {
                // A program that an upgrade has replaced since may be what still runs.
                format!(
                    "{}; if the shared store answers: {}",
                    Command::FleetStatus,
                    Command::SystemctlRestart(FLEET_UNIT.into())
                )
            },
        ),
        HostFinding::NotInFleet => Described::warning(
            "fleet.store is set, and this host has not joined the fleet",
            "no facts are exchanged: other hosts do not know this host's keys, nor this host theirs",
            Command::FleetJoin.to_string(),
        ),
        _ => Described::warning(
            format!("{FLEET_UNIT} is not enabled, and this host is in a fleet"),
            "facts are exchanged only when somebody does so by hand",
            enable.to_string(),
        ),
    }
}

fn are(units: &[&str]) -> String {
    let verb = if units.len() == 1 { "is" } else { "are" };
    format!("{} {verb}", units.join(" and "))
}

/// The daemons, and who is asked for secrets.
fn daemon(finding: &HostFinding) -> Described {
    match finding {
        HostFinding::Libvirt {
            error: error @ SecretError::NoHelper(_),
            ..
        }
        | HostFinding::GuestsDaemon {
            error: error @ SecretError::NoHelper(_),
            ..
        } => Described::error(
            format!("libvirt cannot be asked: {error}"),
            "the hook could not provide a key, and every start that needs one would be refused",
            REINSTALL,
        ),
        HostFinding::Libvirt {
            uri,
            error,
            daemons,
        } => Described::error(
            format!("libvirt's secret driver does not answer at {uri}: {error}"),
            "the hook could not provide a key, and every start that needs one would be refused",
            format!(
                "{}; then: {}",
                Command::SystemctlStatus(daemons.of_secrets().into()),
                Command::VirshSecretListAt(Arg::uri(uri))
            ),
        ),
        HostFinding::GuestsDaemon { error, daemons } => Described::error(
            format!("{} does not list its guests: {error}", daemons.of_guests()),
            "it may start none of them, and what is said here of guests is incomplete",
            format!(
                "{}; then: {}",
                Command::SystemctlStatus(daemons.of_guests().into()),
                Command::VirshList
            ),
        ),
        HostFinding::SecretsAtGuestsDaemon { uri } => Described::error(
            format!("secrets are asked for at {uri}, which is virtqemud's"),
            "it answers nobody while it autostarts guests: the hook would wait for it in vain, and \
             refuse each of them",
            "in /etc/vtpm-guard/config.toml: [secret] uri = \"secret:///system\"",
        ),
        _ => unreachable!("only findings about daemons come here"),
    }
}

fn shared_tpm(device: &Path, user: &str, qemu_conf: &Path) -> Described {
    Described::warning(
        format!(
            "{} can be opened by user {}, which swtpm runs as",
            device.display(),
            quoted(user)
        ),
        "whoever breaks out of a guest into its swtpm can clear the host's TPM, which loses \
             every key that is sealed to it except for its recovery file, or keep it busy and \
             delay every start",
        format!(
            "run swtpm as a user of its own (swtpm_user in {}), or give \
                 the device another owner by a udev rule; set a lockout authorization ({}); and \
                 export every provider: {}",
            qemu_conf.display(),
            Command::TpmSetLockoutAuth,
            Command::ProviderExport(Arg::NAME)
        ),
    )
}

fn disk(finding: &HostFinding) -> Described {
    match finding {
        HostFinding::Volatile { path, what } => volatile(path, *what),
        HostFinding::DeadFileSystem(path) => Described::error(
            format!("the file system of {} does not answer", path.display()),
            "no guest whose TPM state is there can start, and none can be examined",
            Command::Findmnt(Arg::file(path)).to_string(),
        ),
        HostFinding::Full { path, free_kib } => Described::error(
            format!("{} has {free_kib} KiB left", path.display()),
            "a new guest's key or TPM state could not be written, and its start would fail",
            Command::Df(Arg::file(path)).to_string(),
        ),
        HostFinding::LinkedStates {
            path,
            target,
            daemons,
        } => Described::note(
            format!("{} is a link to {}", path.display(), target.display()),
            "if that file system is not mounted, every guest's TPM state counts as missing, and \
             its start is refused (VG205)",
            format!(
                "have it mounted before the daemon starts: RequiresMountsFor= in a drop-in of \
                 {}.service",
                daemons.of_guests()
            ),
        ),
        _ => unreachable!("only findings about disks come here"),
    }
}

fn untrusted(path: &Path, reason: Reason, what: Distrusted) -> Described {
    let file = Arg::file(path);
    let fix = match reason {
        Reason::Owner(_) => Command::ChownRoot(file),
        Reason::Writable(_) => Command::ChmodMode("go-w".into(), file),
        Reason::Accessible(_) => Command::ChmodMode("go-rwx".into(), file),
        Reason::NotAFile | Reason::NotADirectory | Reason::Link(_) | Reason::SecondName => {
            Command::ListFile(file)
        }
    };
    let path = path.to_owned();
    Described::error(
        Distrust::Untrusted { path, reason }.to_string(),
        match what {
            Distrusted::Hook => "libvirt runs the hook as root, and others can change it",
            Distrusted::Needed => {
                "others can change what the guard relies on, and it refuses to use it"
            }
            Distrusted::Owner => {
                "the guard trusts only files of the user that it runs as, and refuses to use it"
            }
            Distrusted::Open => "others than root can access keys, or what the guard decides by",
        },
        fix.to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::doctor::Severity;
    use crate::clock::Timestamp;

    /// The fix of a fleet without exchanges, where the unit is enabled or not.
    fn fix(is_off: bool) -> String {
        let last = Timestamp(0);
        describe(&HostFinding::NoExchange { last, is_off }).command
    }

    #[test]
    fn a_service_that_exchanges_nothing_may_be_the_program_that_an_upgrade_replaced() {
        assert_eq!(
            fix(false),
            "vtpm-guard fleet status; if the shared store answers: systemctl restart vtpm-guard-fleet.service"
        );
        assert_eq!(fix(true), "systemctl enable --now vtpm-guard-fleet.service");
    }

    #[test]
    fn hints_name_libvirts_files_where_the_configuration_says_they_are() {
        let old = describe(&HostFinding::OldLibvirt {
            version: "6.4".to_owned(),
            directory: "/var/lib/libvirt/hooks/qemu.d".into(),
            only_hook: "/var/lib/libvirt/hooks/qemu".into(),
        });
        assert!(
            old.what.ends_with(" /var/lib/libvirt/hooks/qemu.d"),
            "{}",
            old.what
        );
        assert!(
            old.command.ends_with(" /var/lib/libvirt/hooks/qemu"),
            "{}",
            old.command
        );
        let shared = describe(&HostFinding::SharedTpm {
            device: "/dev/tpm0".into(),
            user: "tss".to_owned(),
            qemu_conf: "/var/lib/libvirt/qemu.conf".into(),
        });
        let names = "swtpm_user in /var/lib/libvirt/qemu.conf";
        assert!(shared.command.contains(names), "{}", shared.command);
    }

    #[test]
    fn without_systemd_the_hint_says_what_the_daemons_of_this_host_need() {
        let hint = |daemons, guest| {
            let found = HostFinding::NoSystemd {
                daemons,
                autostarted: guest,
            };
            let Described {
                severity, command, ..
            } = describe(&found);
            (severity, command)
        };
        let stages = "have the script that starts libvirtd run before it: vtpm-guard stage; and after it, in the \
                      background: vtpm-guard unstage --wait; have cron";
        let (severity, command) = hint(Daemons::Monolithic, Some("vm1".to_owned()));
        assert!(
            severity == Severity::Warning && command.starts_with(stages),
            "{command}"
        );
        let (severity, command) = hint(Daemons::Monolithic, None);
        assert!(
            severity == Severity::Note && command.starts_with(stages),
            "{command}"
        );
        let (severity, command) = hint(Daemons::Modular, None);
        let nightly = "have cron run each night: vtpm-guard check --all; ";
        assert!(
            severity == Severity::Note && command.starts_with(nightly),
            "{command}"
        );
    }
}
