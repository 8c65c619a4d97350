//! A conversation with a program that is started for it and ended after it: JSON documents in frames, over its stdin and
//! stdout. What it answers is not trusted: it is bounded, and its words are cut.

use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::frame::{join, to_frame};
use super::peer::Peer;
use super::process;
use crate::clock::Deadline;

/// How long a program may take to end once its stdin has ended.
const END_TIME: Duration = Duration::from_millis(500);

/// How much earlier than the deadline a program is asked to answer, at most.
const MARGIN: Duration = Duration::from_millis(250);

/// The longest sentence of a program that goes into an error, in characters.
const MAX_WORDS: usize = 500;

/// A program that runs.
pub struct Conversation {
    peer: Peer,
    /// The longest document, in bytes.
    max_document: usize,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum TalkError {
    /// Not by the deadline.
    TimedOut,
    /// It is not one of the protocol, and why.
    Nonsense(String),
    /// The program did not start, or it ended.
    Broken(io::Error),
}

impl Conversation {
    /// Starts the program, as the leader of a process group of its own.
    pub fn start(program: &Path, max_document: usize) -> io::Result<Self> {
        let mut command = process::command(program, &[]);
        command.process_group(0);
        let peer = Peer::start(command)?;
        Ok(Self { peer, max_document })
    }

    /// Sends a document, and reads the one that answers it.
    pub fn ask<R: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
        deadline: Deadline,
    ) -> Result<R, TalkError> {
        let frames = self.document(request)?;
        self.exchange(&frames, deadline)
    }

    /// Sends a document and a body after it, and reads the document that answers them.
    pub fn ask_with<R: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
        body: &[u8],
        max_body: usize,
        deadline: Deadline,
    ) -> Result<R, TalkError> {
        let document = self.document(request)?;
        let frames = join(&document, &to_frame(&[body], max_body)?);
        self.exchange(&frames, deadline)
    }

    /// Reads the bytes that follow an answer.
    pub fn body(
        &mut self,
        max_len: usize,
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, TalkError> {
        let body = self.peer.receive(max_len, deadline)?;
        body.ok_or_else(|| io::Error::from(ErrorKind::UnexpectedEof).into())
    }

    fn document(&self, request: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
        let document = serde_json::to_vec(request)?;
        to_frame(&[&document], self.max_document)
    }

    fn exchange<R: DeserializeOwned>(
        &mut self,
        frames: &[u8],
        deadline: Deadline,
    ) -> Result<R, TalkError> {
        let frame = self.peer.ask(frames, self.max_document, deadline)?;
        serde_json::from_slice(&frame).map_err(|error| TalkError::Nonsense(words(&error)))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.peer.end(END_TIME);
    }
}

impl From<io::Error> for TalkError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::InvalidData => Self::Nonsense(words(&error)),
            ErrorKind::TimedOut => Self::TimedOut,
            kind => Self::Broken(io::Error::new(kind, words(&error))),
        }
    }
}

/// What a program is told of the deadline: a little less than is left, so that its own words about what did
/// not answer are here in time.
pub fn milliseconds(deadline: Deadline) -> u64 {
    let left = deadline.remaining();
    let left = left.saturating_sub(MARGIN.min(left / 10));
    u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
}

/// A program's sentence on one line, and not longer than a line or two.
pub fn words(text: &(impl ToString + ?Sized)) -> String {
    let text = text.to_string();
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_WORDS).collect()
}

/// Makes the enum of what can go wrong in a program: a word of its protocol for each, and what it means.
macro_rules! troubles {
    ($(#[$doc:meta])* $name:ident { $($(#[$of_variant:meta])* $variant:ident = $word:literal, $meaning:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(from = "String")]
        pub enum $name {
            $($(#[$of_variant])* #[serde(rename = $word)] $variant,)*
        }

        /// A word that is not known is [`Self::Failed`].
        impl From<String> for $name {
            fn from(word: String) -> Self {
                match &*word {
                    $($word => Self::$variant,)*
                    _ => Self::Failed,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $meaning,)*
                })
            }
        }
    };
}

pub(crate) use troubles;
