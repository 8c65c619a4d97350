//! A session of psql that stays open, in which a test does one thing after the other.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use crate::database::Database;

/// An open session.
pub(crate) struct Psql {
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Psql {
    /// A session of a role, without its password: the superuser lends it.
    pub(crate) fn of(database: &Database, role: &str) -> Self {
        let mut child = database
            .psql()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut session = Self { child, answers };
        session.run(&format!("SET SESSION AUTHORIZATION {role};"));
        session
    }

    /// Runs statements, and waits until they are done. Returns what they say.
    pub(crate) fn run(&mut self, statements: &str) -> String {
        let stdin = self.child.stdin.as_mut().unwrap();
        writeln!(stdin, "{statements}\n\\echo done").unwrap();
        let mut said = String::new();
        loop {
            let mut line = String::new();
            assert!(
                self.answers.read_line(&mut line).unwrap() > 0,
                "psql ended: {said}"
            );
            if line == "done\n" {
                return said;
            }
            said.push_str(&line);
        }
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
