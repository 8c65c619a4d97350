//! What a person sees: on terminals of two widths, without colours where they are not wanted,
//! and in a pipe.

use vtpm_guard::internals::ids::SecretUuid;

use crate::guest::Tpm;
use crate::host::Host;

const LONG: &str = "a-guest-whose-name-is-as-long-as-some-clouds-make-them-00000a1f";

/// A host with guests that start, that start after a repair, and that do not.
fn host() -> Host {
    let (host, guest) = Host::with_used_guest();
    host.guard(&["state", "persist", "vm1"]).ok();
    host.define_guest("unbound", Tpm::Encrypted(SecretUuid::random()));
    host.define_bound_guest(LONG, "nkp-a");
    host.define_guest("db", Tpm::Plain);
    host.insert_placeholder(&guest, "nkp-a");
    host
}

/// What a terminal of this width gets, with this in the environment.
fn seen(host: &Host, columns: u16, variables: &str, command: &str) -> String {
    let command = format!("stty cols {columns} rows 50; {variables} vtpm-guard {command}");
    let script = ["script", "--quiet", "--command", &command, "/dev/null"];
    let environment = ["env", "TERM=xterm-256color"];
    host.run(&[&environment[..], &script].concat()).stdout
}

/// The lines that stay on the terminal, and whether any of them is coloured or bold.
fn lines_that_stay(seen: &str) -> (Vec<String>, bool) {
    let after_progress = seen.rsplit("\x1b[2K").next().unwrap();
    let mut plain = String::new();
    let mut parts = after_progress.split('\x1b');
    plain += parts.next().unwrap();
    for part in parts {
        let (style, text) = part.split_once('m').unwrap();
        assert!(style.starts_with('['), "{style:?} is no style");
        plain += text;
    }
    let is_styled = after_progress.contains('\x1b');
    (plain.lines().map(str::to_owned).collect(), is_styled)
}

/// The lines of a table, up to the one that starts with this.
fn table<'l>(lines: &'l [String], end: &str) -> &'l [String] {
    let end = lines.iter().position(|line| line.starts_with(end));
    &lines[..end.unwrap()]
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn check_fits_the_terminal_and_its_progress_leaves_no_trace() {
    let host = host();
    let piped = host.guard(&["check", "--all"]).stdout;
    assert!(!piped.contains('\x1b'), "{piped:?}");
    let names: Vec<_> = piped
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names[..5], ["DOMAIN", LONG, "db", "unbound", "vm1"]);

    let wide = seen(&host, 200, "", "check --all");
    assert!(wide.contains("checking 4/4"), "{wide:?}");
    let (wide, is_styled) = lines_that_stay(&wide);
    assert!(is_styled);
    assert_eq!(wide, piped.lines().collect::<Vec<_>>());
    let hint =
        "  hint: unbound: bind it to a provider: vtpm-guard key bind unbound --provider NAME";
    assert!(wide.iter().any(|line| line == hint), "{wide:#?}");

    let (narrow, _) = lines_that_stay(&seen(&host, 80, "", "check --all"));
    let rows = table(&narrow, "  hint");
    assert!(rows.iter().all(|line| line.len() <= 80), "{rows:#?}");
    assert!(rows.len() > 5, "the long name wraps: {rows:#?}");

    let (plain, is_styled) = lines_that_stay(&seen(&host, 80, "NO_COLOR=1", "check --all"));
    assert!(!is_styled);
    assert_eq!(plain, narrow);
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn a_guest_that_has_not_started_yet_is_listed_by_its_name() {
    let host = host();
    let list = host.guard(&["key", "list"]).ok().stdout;
    let row = list.lines().find(|line| line.contains(" placeholder "));
    assert!(row.unwrap().contains(LONG), "{list}");
    let refused = host.guard(&["provider", "delete", "nkp-a"]);
    let names: Vec<_> = refused
        .stdout
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["DOMAIN", LONG, "vm1"], "{refused:#?}");
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn the_doctor_wraps_what_is_read_and_not_what_is_typed() {
    let host = host();
    host.define_secret(SecretUuid::random(), "by hand", Some("a key in clear"));
    let doctor = host.guard(&["doctor"]);
    assert_eq!(doctor.status, 1, "a guest would not start: {doctor:#?}");
    let piped = doctor.stdout;
    assert!(piped.lines().any(|line| line.len() > 80), "{piped}");
    let (lines, is_styled) = lines_that_stay(&seen(&host, 80, "", "doctor"));
    assert!(is_styled);
    let (typed, read): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|line| line.contains("         fix: "));
    assert!(read.iter().all(|line| line.len() <= 80), "{read:#?}");
    assert!(typed.iter().all(|line| piped.contains(line.as_str())));
}

#[test]
#[ignore = "needs root and namespaces: ./dev e2e"]
fn waiting_for_a_passphrase_s_key_leaves_no_trace() {
    let host = host();
    let export = "provider export nkp-a --output /run/again --passphrase-file /run/passphrase";
    let seen = seen(&host, 80, "", export);
    assert!(seen.contains("deriving a key from the passphrase"));
    let (lines, _) = lines_that_stay(&seen);
    assert!(
        lines[0].starts_with("exported provider \"nkp-a\""),
        "{lines:#?}"
    );
}
