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
        self.or_kill(answer.and_then(|frame| Response::parse(&frame)))
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
