//! Does `SELinux` let the daemon run the hook, and the hook do its work?
//!
//! Labels alone do not say: a policy may lack a rule, and a boolean may take one away. So the kernel
//! is asked as it would decide: `selinuxfs` computes the domain of a program (`create`), and what a
//! domain may do (`access`).

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{Denied, Finding, HookFinding};
use crate::host::dirs::{self, LibvirtDirs};
use crate::host::process;
use crate::manage::host::{Host, default_deadline};

#[cfg(test)]
mod tests;

/// The guard's own domain, in a policy with levels and in one without.
const OWN_DOMAIN: [&str; 2] = [
    "system_u:system_r:vtpm_guard_t:s0",
    "system_u:system_r:vtpm_guard_t",
];

/// The longest list of labels that `restorecon` may print, in bytes.
const MAX_LABELS: usize = 64 * 1024;

/// The device of a TPM 2.0 that systemd-creds uses.
const TPM_DEVICE: &str = "tpmrm0";

pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let kernel = Kernel::at(Path::new(dirs::SELINUX));
    if !kernel.is_enabled() {
        return Vec::new();
    }
    let dirs = host.libvirt_dirs();
    let link = dirs.present_hook();
    let mut found = Vec::from_iter(wrong_label(
        Path::new("restorecon"),
        &link,
        host.state_dir(),
    ));
    if kernel.is_enforcing() {
        if link.exists() {
            found.extend(denied_on(host, &kernel, &dirs, &link));
        }
        found.extend(permissive(&kernel));
    }
    found.into_iter().map(Finding::from).collect()
}

/// Whether the guard's own domain, which the policy module brings, only logs what it would deny.
fn permissive(policy: &impl Policy) -> Option<HookFinding> {
    let mut answers = OWN_DOMAIN.into_iter();
    let answer = answers.find_map(|domain| policy.is_permissive(domain));
    answer?.then_some(HookFinding::SelinuxPermissive)
}

/// `restorecon -n` prints what it would relabel, and nothing where all is as the policy has it.
fn wrong_label(restorecon: &Path, link: &Path, state_dir: &Path) -> Option<HookFinding> {
    let target = fs::canonicalize(link).ok()?;
    let (link, state_dir) = (link.to_owned(), state_dir.to_owned());
    let paths: Vec<_> = [link, target, state_dir]
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    let mut arguments = vec!["-n", "-v"];
    arguments.extend(paths.iter().filter_map(|path| path.to_str()));
    let output = process::run(restorecon, &arguments, b"", MAX_LABELS, default_deadline());
    let labels = output.ok()?.stdout;
    let labels = String::from_utf8_lossy(&labels).trim().to_owned();
    (!labels.is_empty()).then_some(HookFinding::SelinuxLabel { paths, labels })
}

/// What the policy denies on this host, by the labels that its files and its daemon have now.
fn denied_on(host: &Host, kernel: &Kernel, dirs: &LibvirtDirs, link: &Path) -> Option<HookFinding> {
    let pid = fs::read_to_string(dirs.pid_file(host.daemons().of_guests())).ok()?;
    let daemon = Path::new(dirs::PROC).join(pid.trim()).join("attr/current");
    let daemon = fs::read_to_string(daemon).ok()?;
    let daemon = daemon.trim_end_matches(['\0', '\n']);
    let label = |path: &Path| label(Path::new("stat"), path);
    let tpm = Path::new(dirs::DEVICES).join(TPM_DEVICE);
    let needed = [
        (
            Denied::WriteStore,
            host.state_dir().store(),
            "file",
            "write",
        ),
        (
            Denied::WriteStore,
            host.state_dir().to_path_buf(),
            "dir",
            "add_name",
        ),
        (Denied::ReadStates, dirs.tpm_states(), "dir", "search"),
        (Denied::UseTpm, tpm, "chr_file", "write"),
    ];
    let needed = needed
        .into_iter()
        .filter_map(|(what, path, class, permission)| {
            Some((what, label(&path)?, class, permission))
        });
    denied(kernel, daemon, &label(link)?, needed.collect())
}

/// The label of a file, or of what a link leads to.
fn label(stat: &Path, path: &Path) -> Option<String> {
    let arguments = ["-L", "-c", "%C", path.to_str()?];
    let output = process::run(stat, &arguments, b"", 4096, default_deadline()).ok()?;
    let label = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && label.contains(':')).then_some(label)
}

/// What the hook does, to which label, in which class, with which permission.
type Need = (Denied, String, &'static str, &'static str);

/// What is denied to the hook that a daemon in this domain runs from a program with this label.
fn denied(
    policy: &impl Policy,
    daemon: &str,
    program: &str,
    needed: Vec<Need>,
) -> Option<HookFinding> {
    let allows = |domain: &str, object: &str, class, permission| {
        // What the kernel does not say is not denied.
        policy
            .allows(domain, object, class, permission)
            .unwrap_or(true)
    };
    let domain = policy.domain_of(daemon, program)?;
    let may_run = allows(daemon, program, "file", "execute")
        && if domain == daemon {
            allows(daemon, program, "file", "execute_no_trans")
        } else {
            allows(daemon, &domain, "process", "transition")
                && allows(&domain, program, "file", "entrypoint")
        };
    if !may_run {
        let (domain, denied) = (daemon.to_owned(), vec![Denied::RunHook]);
        return Some(HookFinding::SelinuxDenies { domain, denied });
    }
    let needed = needed.into_iter();
    let mut denied: Vec<_> = needed
        .filter(|(_, label, class, permission)| !allows(&domain, label, class, permission))
        .map(|(what, ..)| what)
        .collect();
    denied.dedup();
    (!denied.is_empty()).then_some(HookFinding::SelinuxDenies { domain, denied })
}

/// A policy that can be asked.
trait Policy {
    /// The domain of a program with this label that a process of `domain` runs.
    fn domain_of(&self, domain: &str, program: &str) -> Option<String>;

    /// Whether a domain has a permission; `None` where this policy does not know it.
    fn allows(&self, domain: &str, object: &str, class: &str, permission: &str) -> Option<bool>;

    /// Whether nothing is denied to a domain, only logged; `None` where this policy does not know it.
    fn is_permissive(&self, domain: &str) -> Option<bool>;
}

/// The kernel's policy, through selinuxfs (`security/selinux/selinuxfs.c` of Linux).
struct Kernel {
    selinuxfs: PathBuf,
}

impl Kernel {
    fn at(selinuxfs: &Path) -> Self {
        let selinuxfs = selinuxfs.to_owned();
        Self { selinuxfs }
    }

    fn is_enabled(&self) -> bool {
        self.selinuxfs.join("enforce").exists()
    }

    fn is_enforcing(&self) -> bool {
        let enforce = fs::read_to_string(self.selinuxfs.join("enforce"));
        enforce.is_ok_and(|value| value.starts_with('1'))
    }

    fn number(&self, path: &str) -> Option<u32> {
        let number = fs::read_to_string(self.selinuxfs.join(path)).ok()?;
        number.trim().parse().ok()
    }

    /// What a domain may do to an object of this class, as the kernel writes it.
    fn access(&self, domain: &str, object: &str, class: &str) -> Option<String> {
        let index = self.number(&format!("class/{class}/index"))?;
        self.ask("access", &format!("{domain} {object} {index}"))
    }

    /// Writes a question, and reads the answer from the same open file.
    fn ask(&self, file: &str, question: &str) -> Option<String> {
        let path = self.selinuxfs.join(file);
        let mut file: File = OpenOptions::new().read(true).write(true).open(path).ok()?;
        file.write_all(question.as_bytes()).ok()?;
        let mut answer = String::new();
        file.read_to_string(&mut answer).ok()?;
        Some(answer.trim_end_matches(['\0', '\n']).to_owned())
    }
}

impl Policy for Kernel {
    fn domain_of(&self, domain: &str, program: &str) -> Option<String> {
        let process = self.number("class/process/index")?;
        self.ask("create", &format!("{domain} {program} {process}"))
    }

    fn allows(&self, domain: &str, object: &str, class: &str, permission: &str) -> Option<bool> {
        let permission = self.number(&format!("class/{class}/perms/{permission}"))?;
        let answer = self.access(domain, object, class)?;
        is_allowed(&answer, permission)
    }

    fn is_permissive(&self, domain: &str) -> Option<bool> {
        let answer = self.access(domain, domain, "process")?;
        Some(AccessAnswer::parse(&answer)?.is_permissive)
    }
}

/// An answer of `access`.
struct AccessAnswer {
    allowed: u32,
    is_permissive: bool,
}

impl AccessAnswer {
    /// All words but the fifth are in hexadecimal: the permissions that are allowed, decided, audited
    /// when allowed, audited when denied; a sequence number; flags, of which the first says that the
    /// domain is permissive.
    fn parse(answer: &str) -> Option<Self> {
        let mut words = answer.split_whitespace();
        let hexadecimal = |word: &str| u32::from_str_radix(word, 16).ok();
        let allowed = hexadecimal(words.next()?)?;
        let flags = words.nth(4).and_then(hexadecimal).unwrap_or(0);
        Some(Self {
            allowed,
            is_permissive: flags & 1 != 0,
        })
    }
}

/// Permissions count from 1.
fn is_allowed(answer: &str, permission: u32) -> Option<bool> {
    let answer = AccessAnswer::parse(answer)?;
    let bit = 1u32.checked_shl(permission.checked_sub(1)?)?;
    Some(answer.allowed & bit != 0 || answer.is_permissive)
}
