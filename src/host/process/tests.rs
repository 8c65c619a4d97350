#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use super::*;

/// Makes a shell script that runs as a program. This process does not write it itself: a child of
/// another test could hold it open for writing, and then it cannot be run.
pub(crate) fn write_program(path: &Path, script: &str) {
    let copy = format!("cat >{0} && chmod 755 {0}", path.display());
    sh(&copy, script.as_bytes(), in_time()).unwrap();
}

const SOON: Duration = Duration::from_millis(150);

fn in_time() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn sh(script: &str, input: &[u8], deadline: Deadline) -> Result<Output, ChildError> {
    run(Path::new("sh"), &["-c", script], input, 1 << 20, deadline)
}

#[test]
fn input_goes_in_and_output_comes_out() {
    // More than a pipe holds, both ways at once: neither side may wait for the other.
    let input: Vec<u8> = (0..=255).cycle().take(700_000).collect();
    let output = sh("cat; echo ' a word ' >&2", &input, in_time()).unwrap();
    assert!(output.status.success());
    assert_eq!(*output.stdout, input);
    assert_eq!(output.stderr, "a word");
}

#[test]
fn a_failing_child_returns_its_status_and_message() {
    let output = sh("echo no >&2; exit 7", b"", in_time()).unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stderr, "no");
}

#[test]
fn a_child_that_does_not_read_its_input_is_no_error() {
    let input = vec![0; 1 << 20];
    let output = sh("exec <&-; echo done", &input, in_time()).unwrap();
    assert_eq!(*output.stdout, b"done\n");
    let output = sh("exit 3", &input, in_time()).unwrap();
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn a_child_without_input_reads_an_empty_stdin() {
    let output = sh("wc -c", b"", in_time()).unwrap();
    assert_eq!(output.stdout.trim_ascii(), b"0");
}

#[test]
fn a_missing_program_is_not_installed() {
    let result = run(Path::new("no-such-program"), &[], b"", 10, in_time());
    assert!(matches!(result, Err(ChildError::NotInstalled(_))));
    let result = run(Path::new("/no/such/program"), &[], b"", 10, in_time());
    assert!(matches!(result, Err(ChildError::NotInstalled(_))));
}

#[test]
fn a_child_that_hangs_is_killed_at_the_deadline_with_its_own_children() {
    let marker = format!("2{:06}", std::process::id());
    let before = Instant::now();
    let result = sh(
        &format!("sleep {marker} & sleep {marker}"),
        b"",
        Deadline::after(SOON),
    );
    assert!(matches!(result, Err(ChildError::TimedOut(_))));
    assert!(before.elapsed() < Duration::from_secs(5));
    let still_there = sh(
        "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $p; echo; done 2>/dev/null",
        b"",
        in_time(),
    )
    .unwrap();
    let processes = String::from_utf8_lossy(&still_there.stdout).into_owned();
    assert!(
        !processes.contains(&format!("sleep {marker}")),
        "{processes}"
    );
}

#[test]
fn a_child_that_closes_its_output_and_hangs_is_killed_too() {
    let before = Instant::now();
    let result = sh("exec >&- 2>&-; exec sleep 1000", b"", Deadline::after(SOON));
    assert!(matches!(result, Err(ChildError::TimedOut(_))));
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_child_that_never_reads_and_hangs_is_killed() {
    let result = sh("exec sleep 1000", &vec![0; 1 << 20], Deadline::after(SOON));
    assert!(matches!(result, Err(ChildError::TimedOut(_))));
}

#[test]
fn a_child_that_floods_stdout_is_stopped_at_the_limit() {
    let run_cat = |bytes| run(Path::new("cat"), &[], &vec![b'x'; bytes], 1000, in_time());
    assert_eq!(run_cat(1000).unwrap().stdout.len(), 1000);
    assert!(matches!(
        run_cat(1001),
        Err(ChildError::TooMuchOutput { limit: 1000, .. })
    ));
    assert!(matches!(
        run(Path::new("yes"), &[], b"", 1000, in_time()),
        Err(ChildError::TooMuchOutput { .. })
    ));
}

#[test]
fn a_child_that_floods_stderr_is_read_to_its_end_or_killed_at_the_deadline() {
    let output = sh("head -c 300000 /dev/zero | tr '\\0' e >&2", b"", in_time()).unwrap();
    assert_eq!(output.stderr.len(), MAX_STDERR);
    let result = sh("exec yes >&2", b"", Deadline::after(SOON));
    assert!(matches!(result, Err(ChildError::TimedOut(_))));
}

#[test]
fn a_child_inherits_no_variable_of_ours() {
    let output = run(Path::new("env"), &[], b"", 4096, in_time()).unwrap();
    let mut variables: Vec<_> = output.stdout.trim_ascii().split(|b| *b == b'\n').collect();
    variables.sort_unstable();
    assert_eq!(
        variables,
        [&b"LC_ALL=C"[..], format!("PATH={SEARCH_PATH}").as_bytes()]
    );
}

#[test]
fn a_child_inherits_no_file_of_ours() {
    let ours = tempfile::NamedTempFile::new().unwrap();
    let output = run(
        Path::new("ls"),
        &["-l", "/proc/self/fd"],
        b"",
        1 << 16,
        in_time(),
    )
    .unwrap();
    let open_files = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(open_files.contains("/proc/"), "{open_files}");
    assert!(
        !open_files.contains(ours.path().to_str().unwrap()),
        "{open_files}"
    );
}
