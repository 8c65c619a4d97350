//! Kills a procedure at every moment between two steps that outlast it. The process that is
//! killed is a real one: this test binary, which runs the same test once more as a child.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use nix::libc::SIGKILL;

use super::fixture::Fixture;
use crate::host::crash::armed;

/// In a child: the directory of its host, and at which moment it is killed.
const CHILD: &str = "VTPM_GUARD_TEST_KILL";

/// More moments than any procedure has.
const MANY: usize = 200;

/// Plays `act` on hosts that `set_up` has prepared, and kills it at its first moment, its second,
/// and so on, until one runs to its end. `check` looks at each host that a kill has left, which
/// `act` then must bring to its end: `done` looks at that.
pub(crate) fn everywhere(
    set_up: impl Fn(&Fixture),
    act: impl Fn(&Fixture),
    check: impl Fn(&Fixture),
    done: impl Fn(&Fixture),
) {
    if let Ok(child) = env::var(CHILD) {
        let (nth, root) = child.split_once(' ').unwrap();
        let fixture = Fixture::at(Path::new(root));
        armed::kill_at(nth.parse().unwrap());
        act(&fixture);
        return;
    }
    for nth in 1..MANY {
        let fixture = Fixture::new();
        set_up(&fixture);
        if !is_killed_at(nth, fixture.root()) {
            assert!(nth > 1, "it has no step");
            done(&fixture);
            return;
        }
        check(&fixture);
        act(&fixture);
        done(&fixture);
    }
    panic!("it does not end");
}

/// Whether a child that plays this very test there was killed before its end.
fn is_killed_at(nth: usize, root: &Path) -> bool {
    let test = thread::current().name().unwrap().to_owned();
    let child = Command::new(env::current_exe().unwrap())
        .args([&test, "--exact", "--test-threads=1"])
        .env(CHILD, format!("{nth} {}", root.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let killed = child.status.signal() == Some(SIGKILL);
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(
        killed || said.contains("1 passed"),
        "at moment {nth}: {said}"
    );
    killed
}
