//! A running helper: sends requests, reads responses, and never waits longer than the deadline.

use std::io::{self, ErrorKind};
use std::path::Path;

use zeroize::Zeroizing;

use super::protocol::{MAX_RESPONSE, MAX_VALUE, Request, Response};
use crate::clock::Deadline;
use crate::host::peer::Peer;
use crate::host::process;

/// The helper.
///
/// When this is dropped, the helper's stdin ends, and it closes its connection. Nobody waits for
/// that, because a guest's start would wait too; a helper that hangs in libvirt ends itself
/// (`helper::serve`).
pub(super) struct Conversation(Peer);

impl Conversation {
    /// Starts the helper for one libvirt connection.
    pub(super) fn start(program: &Path, uri: &str) -> io::Result<Self> {
        Peer::start(process::command(program, &[uri])).map(Self)
    }

    /// Asks one question. After an error the helper is killed.
    pub(super) fn ask(
        &mut self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> io::Result<Response> {
        let frame = request.to_frame()?;
        let answer = self.0.ask(&frame, MAX_RESPONSE, deadline);
        let answer = answer.and_then(|frame| Response::parse(&frame));
        let answer = answer.and_then(|first| self.with_its_other_parts(first, deadline));
        self.or_kill(answer)
    }

    /// Reads what belongs to a response that is one of several.
    fn with_its_other_parts(
        &mut self,
        first: Response,
        deadline: Deadline,
    ) -> io::Result<Response> {
        let (mut response, mut known) = (first, Vec::new());
        while let Response::SomeGuests(guests) = response {
            known.extend(guests);
            let next = self.0.receive(MAX_RESPONSE, deadline)?;
            response = Response::parse(&next.ok_or(ErrorKind::UnexpectedEof)?)?;
        }
        if let Response::Guests(guests) = &mut response {
            known.append(guests);
            *guests = known;
        }
        Ok(response)
    }

    /// Reads the value that the last response announced. After an error the helper is killed.
    pub(super) fn value(&mut self, deadline: Deadline) -> io::Result<Zeroizing<Vec<u8>>> {
        let value = self.0.receive(MAX_VALUE, deadline);
        self.or_kill(value.and_then(|frame| frame.ok_or_else(|| ErrorKind::UnexpectedEof.into())))
    }

    fn or_kill<T>(&mut self, answer: io::Result<T>) -> io::Result<T> {
        if answer.is_err() {
            self.0.kill();
        }
        answer
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;
    use crate::host::process::tests::write_program;
    use crate::ids::DomainUuid;
    use crate::libvirt::guests::Guest;

    #[test]
    fn definitions_that_are_too_long_for_one_response_arrive() {
        let guest = |number: usize| Guest {
            name: format!("vm{number}"),
            uuid: DomainUuid::random(),
            running: number.is_multiple_of(2),
            persistent: true,
            xml: "x".repeat(1 << 20),
        };
        let guests: Vec<_> = (0..80).map(guest).collect();
        assert!(Response::Guests(guests.clone()).to_frame().is_err());
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Vec::new();
        for part in Response::Guests(guests.clone()).into_parts() {
            frames.extend_from_slice(&part.to_frame().unwrap());
        }
        fs::write(dir.path().join("frames"), frames).unwrap();
        let helper = dir.path().join("helper");
        let script = format!("#!/bin/sh\ncat {}/frames\n", dir.path().display());
        write_program(&helper, &script);

        let mut conversation = Conversation::start(&helper, "qemu:///system").unwrap();
        let deadline = Deadline::after(Duration::from_secs(60));
        let answer = conversation.ask(&Request::Guests, deadline).unwrap();
        assert!(answer == Response::Guests(guests), "other guests");
    }
}
