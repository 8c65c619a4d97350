//! A program of kms/ or stores/ that a test asks in words of its own, to see what it is between two questions.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use nix::unistd::Pid;
use serde_json::Value;

/// A program that runs.
pub(crate) struct Spoken(pub(crate) Child);

impl Spoken {
    pub(crate) fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().cast_signed())
    }

    /// Asks, and returns the answer.
    pub(crate) fn ask(&mut self, question: &Value) -> Value {
        let question = question.to_string();
        let length = u32::try_from(question.len()).unwrap().to_be_bytes();
        let frame = [&length[..], question.as_bytes()].concat();
        self.0.stdin.as_mut().unwrap().write_all(&frame).unwrap();
        let answers = self.0.stdout.as_mut().unwrap();
        let mut length = [0; 4];
        answers.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(length) as usize];
        answers.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}

impl Drop for Spoken {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
