//! The words of findings about the hook, and what runs beside it.

use std::path::{Path, PathBuf};

use super::Described;
use crate::cli::ui::host_errors::REINSTALL;
use crate::host::dirs::UNSTAGE_UNIT;
use crate::libvirt::Daemons;
use crate::manage::checks::{CannotRun, Denied, HookFinding};
use crate::messages::{Arg, Command, count, one_line, quoted};

pub(super) fn describe(finding: &HookFinding) -> Described {
    match finding {
        HookFinding::CannotRun { link, why, daemons } => cannot_run(link, *why, *daemons),
        HookFinding::NotForUsers { link } => Described::error(
            format!("{} cannot be executed by plain users", link.display()),
            "their session daemons run the same hook, and none of their guests can start",
            Command::ChmodMode(0o755_u32.into(), Arg::file(link)).to_string(),
        ),
        HookFinding::NotNoticed { daemons } => Described::warning(
            format!(
                "{} was started before the hook's link was made, and has not run it since",
                daemons.of_guests()
            ),
            "libvirt notices a first hook only when its daemon starts or is reloaded",
            format!("{}, then start a guest", reload(*daemons)),
        ),
        HookFinding::AppArmor {
            link,
            target,
            daemons,
        } => Described::error(
            format!(
                "AppArmor does not let {} run {}",
                daemons.of_guests(),
                target.display()
            ),
            "every start of every guest fails",
            format!(
                "install it as /usr/sbin/vtpm-guard-hook, and link it: {}",
                Command::LinkHook(Arg::file(link))
            ),
        ),
        HookFinding::SelinuxLabel { paths, labels } => Described::warning(
            format!("a file of the guard does not have the SELinux label of the policy: {labels}"),
            "an enforcing host may not let the daemon run the hook, or the hook do its work",
            Command::Restorecon(paths.iter().map(|path| Arg::file(path)).collect()).to_string(),
        ),
        HookFinding::SelinuxDenies { domain, denied } => selinux_denies(domain, denied),
        HookFinding::SelinuxPermissive => Described::note(
            "SELinux logs what the guard does against its policy, and does not deny it: the domain \
             vtpm_guard_t is permissive",
            "libvirt's daemons and guests are confined all the same, and cannot read the guard's store; \
             the rules of its own domain have not been enforced on every distribution yet",
            format!(
                "nothing has to be fixed; report what this lists: {}",
                Command::AusearchOwn
            ),
        ),
        HookFinding::SecondGuard(_)
        | HookFinding::LeftOver(_)
        | HookFinding::Dispatcher(_)
        | HookFinding::OtherHooks { .. } => beside(finding),
        HookFinding::NobodyStages { .. }
        | HookFinding::NobodyUnstages
        | HookFinding::UnstageGivesUp
        | HookFinding::LeftStaged(_) => staging(finding),
    }
}

fn selinux_denies(domain: &str, denied: &[Denied]) -> Described {
    let words: Vec<_> = denied
        .iter()
        .map(|denied| match denied {
            Denied::RunHook => "run the hook",
            Denied::WriteStore => "write the guard's store",
            Denied::ReadStates => "look at TPM states",
            Denied::UseTpm => "use the host's TPM",
        })
        .collect();
    Described::error(
        format!(
            "SELinux does not let {} {}",
            one_line(domain),
            words.join(", ")
        ),
        "starts are refused: with exit status 126, for a new key (VG401), or for a provider key \
         that is sealed to the TPM (VG104)",
        format!(
            "{}; denials are listed by: {}",
            Command::Semodule,
            Command::Ausearch
        ),
    )
}

/// The command that lets the daemon look for hooks.
fn reload(daemons: Daemons) -> Command {
    Command::SystemctlReload(daemons.of_guests().into())
}

fn cannot_run(link: &Path, why: CannotRun, daemons: Daemons) -> Described {
    let make = Command::LinkHook(Arg::file(link));
    let (why, fix) = match why {
        CannotRun::NotAFile => (
            "is not a program",
            // Into a directory `ln` would put the link.
            format!("{} && {make}", Command::MoveAside(Arg::file(link))),
        ),
        CannotRun::NotExecutable => (
            "is not executable",
            Command::ChmodMode(0o755_u32.into(), Arg::file(link)).to_string(),
        ),
        CannotRun::Dangling => ("is a link without a target", make.to_string()),
        CannotRun::ProgramGone => (
            "is a link to a program that is not there",
            REINSTALL.to_owned(),
        ),
        CannotRun::NotInConfiguration => (
            "does not exist",
            "name the hook in the host's configuration: virtualisation.libvirtd.hooks.qemu.\"50-vtpm-guard\", \
             and: nixos-rebuild switch"
                .to_owned(),
        ),
        CannotRun::Missing => {
            let directory = Arg::file(link.parent().unwrap_or(link));
            (
                "does not exist",
                format!("{} && {make}", Command::MakeDirectory(directory)),
            )
        }
    };
    Described::error(
        format!("{} {why}", link.display()),
        "libvirt starts guests without asking the guard, and without their keys",
        format!("{fix}, then reload the daemon: {}", reload(daemons)),
    )
}

/// What libvirt runs beside the guard.
fn beside(finding: &HookFinding) -> Described {
    match finding {
        HookFinding::SecondGuard(path) => Described::warning(
            format!("{} runs the guard a second time", path.display()),
            "libvirt runs every executable file of qemu.d, whatever its name: each start is \
             judged twice, and takes twice as long",
            Command::Remove(Arg::file(path)).to_string(),
        ),
        HookFinding::LeftOver(path) => Described::warning(
            format!(
                "{} looks like a backup copy, and libvirt runs it",
                path.display()
            ),
            "libvirt runs every executable file of qemu.d, whatever its name, and each can refuse a \
             start",
            format!(
                "remove it, or: {}",
                Command::ChmodMode("-x".into(), Arg::file(path))
            ),
        ),
        HookFinding::Dispatcher(script) => Described::warning(
            format!(
                "{} seems to run the programs of qemu.d itself",
                script.display()
            ),
            "libvirt runs them too: the guard is called twice, and gets no domain XML if the \
             script does not pass it on",
            format!("remove that loop from the script: {}", Arg::file(script)),
        ),
        HookFinding::OtherHooks { before, after } => Described::note(
            others(before, after),
            "each of them can refuse or delay a start; at a restore and an incoming migration the \
             guard reads the domain XML as changed by the one before it",
            format!(
                "if a start fails without a code of the guard's, look at them: {}",
                Command::ListTargets(
                    before
                        .iter()
                        .chain(after)
                        .map(|path| Arg::file(path))
                        .collect()
                )
            ),
        ),
        _ => unreachable!("only what runs beside the guard comes here"),
    }
}

fn others(before: &[PathBuf], after: &[PathBuf]) -> String {
    let list = |paths: &[PathBuf]| {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        paths.join(", ")
    };
    match (before, after) {
        ([], after) => format!("other hooks run after the guard: {}", list(after)),
        (before, []) => format!("other hooks run before the guard: {}", list(before)),
        (before, after) => format!(
            "other hooks run before the guard: {}; and after it: {}",
            list(before),
            list(after)
        ),
    }
}

/// Keys for guests that start with libvirtd.
fn staging(finding: &HookFinding) -> Described {
    let install = format!(
        "install the packaged drop-in libvirtd.service.d/50-vtpm-guard.conf and {UNSTAGE_UNIT}, \
         then: {}",
        Command::SystemctlDaemonReload
    );
    match finding {
        HookFinding::NobodyStages { guest } => Described::error(
            format!(
                "libvirtd autostarts {}, but does not run \"{}\" before",
                quoted(guest),
                Command::Stage
            ),
            "a monolithic libvirtd accepts no key while it starts its guests: they would be refused",
            install,
        ),
        HookFinding::LeftStaged(keys) => Described::error(
            format!(
                "{} still staged for the start of libvirtd",
                count(*keys, "key")
            ),
            "it has loaded them, and may hold them until it ends; nothing needs them any more",
            Command::Unstage.to_string(),
        ),
        HookFinding::UnstageGivesUp => Described::warning(
            format!("the drop-in of libvirtd.service does not start {UNSTAGE_UNIT}"),
            "where libvirtd needs more than a minute to start its guests, their keys would stay in \
             its memory",
            install,
        ),
        _ => Described::warning(
            format!(
                "the drop-in of libvirtd.service does not run \"{}\" as ExecStopPost",
                Command::Unstage
            ),
            "after a failed start of libvirtd the staged keys would stay in plaintext in /run",
            install,
        ),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_permissive_domain_is_a_note_that_says_what_is_confined_all_the_same() {
        let described = describe(&HookFinding::SelinuxPermissive);
        let json = serde_json::to_value(&described).unwrap();
        assert_eq!(json["severity"], "note");
        let what = json["what"].as_str().unwrap();
        assert!(
            what.ends_with("the domain vtpm_guard_t is permissive"),
            "{what}"
        );
        assert!(
            json["why"]
                .as_str()
                .unwrap()
                .contains("guests are confined")
        );
        let command = json["command"].as_str().unwrap();
        assert!(
            command.ends_with("ausearch -m avc -ts boot -su vtpm_guard_t"),
            "{command}"
        );
    }

    #[test]
    fn what_keeps_the_hook_from_running_is_what_the_command_fixes() {
        let link = Path::new("/etc/libvirt/hooks/qemu.d/50-vtpm-guard");
        let make = format!("ln -sf /usr/sbin/vtpm-guard-hook {}", link.display());
        for (why, fix) in [
            (
                CannotRun::NotAFile,
                format!("mv {0} {0}.old && {make}", link.display()),
            ),
            (
                CannotRun::NotExecutable,
                format!("chmod 0755 {}", link.display()),
            ),
            (CannotRun::Dangling, make.clone()),
            (
                CannotRun::ProgramGone,
                "install the package vtpm-guard again".to_owned(),
            ),
            (
                CannotRun::Missing,
                format!("mkdir -p /etc/libvirt/hooks/qemu.d && {make}"),
            ),
            (
                CannotRun::NotInConfiguration,
                "name the hook in the host's configuration: virtualisation.libvirtd.hooks.qemu.\"50-vtpm-guard\", and: \
                 nixos-rebuild switch"
                    .to_owned(),
            ),
        ] {
            let described = cannot_run(link, why, Daemons::Monolithic);
            let reload = "systemctl reload libvirtd";
            let expected = format!("{fix}, then reload the daemon: {reload}");
            assert_eq!(described.command, expected);
        }
        // chmod follows the link: no part of the line is for the shell to split.
        let blank = Path::new("/etc/libvirt hooks/qemu");
        let described = cannot_run(blank, CannotRun::NotExecutable, Daemons::Monolithic);
        let fix = "chmod 0755 '/etc/libvirt hooks/qemu', ";
        assert!(described.command.starts_with(fix), "{}", described.command);
    }
}
