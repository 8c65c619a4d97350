//! The programs of kms/ and stores/ dump no core, in which a key could be.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};

use crate::built::built;
use crate::confined::{PROGRAMS, any_question};
use crate::spoken::Spoken;

/// A signal that dumps a core ends each of these programs without one, whatever limit whoever started it has set.
#[test]
fn no_program_dumps_a_core() {
    let dir = tempfile::tempdir().unwrap();
    let start = |program: &Path| {
        let mut command = Command::new("prlimit");
        command.args(["--core=unlimited:unlimited", "--"]);
        Spoken::start(command.arg(program).current_dir(&dir))
    };
    let abort = |mut program: Spoken| {
        kill(program.pid(), Signal::SIGABRT).unwrap();
        let status = program.0.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32));
        let files = fs::read_dir(&dir).unwrap().count();
        (status.core_dumped(), files)
    };
    let mut other = start(Path::new("/usr/bin/cat"));
    // It says what it hears once it has begun: prlimit has no core limit yet.
    assert_eq!(other.ask(&any_question()), any_question());
    if abort(other) == (false, 0) {
        // As a machine is set up whose cores go to a program that is not here.
        let _ = writeln!(std::io::stderr(), "\nleft out: this machine dumps no cores");
        return;
    }
    let cores = fs::read_dir(&dir).unwrap().flatten();
    cores.for_each(|core| fs::remove_file(core.path()).unwrap());
    for name in PROGRAMS {
        let mut program = start(&built(name));
        // An answer says that it has begun.
        program.ask(&any_question());
        assert_eq!(abort(program), (false, 0), "{name}");
    }
}
