#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::host::process::tests::write_program;

const DAEMON: &str = "system_u:system_r:virtqemud_t:s0-s0:c0.c1023";
const GUARD: &str = "system_u:system_r:vtpm_guard_t:s0-s0:c0.c1023";
const OWN: &str = "system_u:object_r:vtpm_guard_exec_t:s0";
const BIN: &str = "system_u:object_r:bin_t:s0";
const STORE: &str = "system_u:object_r:vtpm_guard_var_lib_t:s0";

/// A policy with these rules: domain, type of the object, class, permission.
struct Rules(Vec<[&'static str; 4]>);

fn type_of(context: &str) -> &str {
    context.split(':').nth(2).unwrap()
}

impl Policy for Rules {
    fn domain_of(&self, domain: &str, program: &str) -> Option<String> {
        let is_own = program == OWN;
        Some(if is_own { GUARD } else { domain }.to_owned())
    }

    fn allows(&self, domain: &str, object: &str, class: &str, permission: &str) -> Option<bool> {
        let rule = [type_of(domain), type_of(object), class, permission];
        (class != "unknown").then(|| self.0.contains(&rule))
    }

    /// A policy without levels knows no context that has one.
    fn is_permissive(&self, domain: &str) -> Option<bool> {
        let rules = self.0.iter();
        let mut of_domain = rules.filter(|rule| rule[0] == domain);
        of_domain.next().map(|rule| rule[1] == "permissive")
    }
}

/// What is denied to a hook with this label.
fn found(rules: &[[&'static str; 4]], program: &str) -> Option<(String, Vec<Denied>)> {
    let needed = vec![
        (Denied::WriteStore, STORE.to_owned(), "file", "write"),
        (Denied::WriteStore, STORE.to_owned(), "dir", "add_name"),
        (Denied::UseTpm, STORE.to_owned(), "unknown", "write"),
    ];
    let found = denied(&Rules(rules.to_vec()), DAEMON, program, needed)?;
    let HookFinding::SelinuxDenies { domain, denied } = found else {
        panic!("{found:?}");
    };
    Some((type_of(&domain).to_owned(), denied))
}

#[test]
fn the_way_from_the_daemon_into_the_guard_s_domain_is_followed() {
    let mut rules = vec![
        ["virtqemud_t", "vtpm_guard_exec_t", "file", "execute"],
        ["virtqemud_t", "vtpm_guard_t", "process", "transition"],
        ["vtpm_guard_t", "vtpm_guard_exec_t", "file", "entrypoint"],
        ["vtpm_guard_t", "vtpm_guard_var_lib_t", "file", "write"],
        ["vtpm_guard_t", "vtpm_guard_var_lib_t", "dir", "add_name"],
    ];
    assert_eq!(found(&rules, OWN), None);
    rules.pop();
    let own = |denied| Some(("vtpm_guard_t".to_owned(), vec![denied]));
    assert_eq!(found(&rules, OWN), own(Denied::WriteStore));
    let daemon = |denied| Some(("virtqemud_t".to_owned(), vec![denied]));
    for missing in 0..3 {
        let mut rules = rules.clone();
        rules.remove(missing);
        assert_eq!(found(&rules, OWN), daemon(Denied::RunHook), "{missing}");
    }
    // Without the module the hook stays in the domain of the daemon.
    assert_eq!(found(&rules, BIN), daemon(Denied::RunHook));
    rules.push(["virtqemud_t", "bin_t", "file", "execute"]);
    rules.push(["virtqemud_t", "bin_t", "file", "execute_no_trans"]);
    assert_eq!(found(&rules, BIN), daemon(Denied::WriteStore));
}

#[test]
fn a_permissive_domain_of_the_guard_is_reported_in_policies_with_and_without_levels() {
    for domain in OWN_DOMAIN {
        let with = |word| permissive(&Rules(vec![[domain, word, "", ""]]));
        assert_eq!(with("permissive"), Some(HookFinding::SelinuxPermissive));
        assert_eq!(with("enforced"), None);
    }
    assert_eq!(permissive(&Rules(Vec::new())), None, "no module");
}

#[test]
fn the_kernel_s_answers_are_read() {
    // Permissions 1 and 3; the rest as the kernel writes it.
    let answer = "5 ffffffff 0 ffffffff 12 0";
    let allowed: Vec<_> = (1..=4)
        .map(|bit| is_allowed(answer, bit).unwrap())
        .collect();
    assert_eq!(allowed, [true, false, true, false]);
    assert_eq!(
        is_allowed("0 ffffffff 0 ffffffff 12 1", 2),
        Some(true),
        "permissive"
    );
    assert_eq!(is_allowed("", 1), None);
    assert_eq!(is_allowed("1 0 0 0 0 0", 0), None);
}

#[test]
fn a_host_without_selinux_is_not_asked() {
    let kernel = Kernel::at(Path::new("/nowhere"));
    assert!(!kernel.is_enabled() && !kernel.is_enforcing());
    assert_eq!(kernel.allows(DAEMON, OWN, "file", "execute"), None);
}

#[test]
fn a_question_goes_to_the_kernel_with_the_numbers_of_its_policy() {
    let selinuxfs = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = selinuxfs.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("enforce", "1");
    write("class/file/index", "7");
    write("class/file/perms/execute", "15\n");
    // A plain file keeps the question, where the kernel's would have the answer after it.
    write("access", "");
    let kernel = Kernel::at(selinuxfs.path());
    assert!(kernel.is_enabled() && kernel.is_enforcing());
    assert!(!Kernel::at(Path::new("/nowhere")).is_enabled());
    assert_eq!(kernel.allows(DAEMON, OWN, "file", "execute"), None);
    let asked = fs::read_to_string(selinuxfs.path().join("access")).unwrap();
    assert_eq!(asked, format!("{DAEMON} {OWN} 7"));
    // So the answer stands there before, where the question ends.
    let answer = |file: &str, question: &str, answer: &str| {
        write(file, &format!("{}{answer}", " ".repeat(question.len())));
    };
    for (allowed, is_allowed) in [("4000", true), ("3fff", false)] {
        answer(
            "access",
            &asked,
            &format!("{allowed} ffffffff 0 ffffffff 12 0"),
        );
        let found = kernel.allows(DAEMON, OWN, "file", "execute");
        assert_eq!(found, Some(is_allowed));
    }
    write("class/process/index", "2\n");
    for (flags, is_permissive) in [("1", true), ("0", false)] {
        let question = format!("{GUARD} {GUARD} 2");
        answer(
            "access",
            &question,
            &format!("0 ffffffff 0 ffffffff 12 {flags}"),
        );
        assert_eq!(kernel.is_permissive(GUARD), Some(is_permissive));
    }
    let question = format!("{DAEMON} {OWN} 2");
    answer("create", &question, &format!("{GUARD}\0"));
    assert_eq!(kernel.domain_of(DAEMON, OWN).as_deref(), Some(GUARD));
    let asked = fs::read_to_string(selinuxfs.path().join("create")).unwrap();
    assert!(asked.starts_with(&question));
}

#[test]
fn what_restorecon_would_relabel_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (link, target) = (dir.path().join("link"), dir.path().join("target"));
    let restorecon = dir.path().join("restorecon");
    fs::write(&target, "").unwrap();
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let look = || wrong_label(&restorecon, &link, &dir.path().join("missing"));
    write_program(&restorecon, "#!/bin/sh\necho \"Would relabel $*\"\n");
    let target = fs::canonicalize(&target).unwrap();
    let labels = format!(
        "Would relabel -n -v {} {}",
        link.display(),
        target.display()
    );
    let paths = vec![link.clone(), target];
    assert_eq!(look(), Some(HookFinding::SelinuxLabel { paths, labels }));
    write_program(&restorecon, "#!/bin/sh\necho\n");
    assert_eq!(look(), None, "all is as the policy has it");
    fs::remove_file(&restorecon).unwrap();
    assert_eq!(look(), None, "nobody says");
}

#[test]
fn a_file_has_a_label_where_stat_prints_one() {
    let dir = tempfile::tempdir().unwrap();
    let stat = dir.path().join("stat");
    for (script, found) in [
        (format!("echo {OWN}"), Some(OWN)),
        ("echo '?'".to_owned(), None),
        (format!("echo {OWN}; exit 1"), None),
        ("echo failed; exit 1".to_owned(), None),
    ] {
        write_program(&stat, &format!("#!/bin/sh\n{script}\n"));
        assert_eq!(label(&stat, dir.path()).as_deref(), found, "{script}");
    }
}
