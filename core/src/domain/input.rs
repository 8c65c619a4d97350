//! The input, with a limit on the whole of it and on each piece of markup, because the XML
//! parser holds one piece in memory and knows no limits of its own.

use std::io::{self, BufRead, Read};

use super::XmlError;
use super::shorten::Shortener;

/// Bytes of a whole document. libvirt's own calls carry at most 4 MiB of XML
/// (`VIR_NET_MESSAGE_STRING_MAX`), and what it writes of them may be longer by the escapes
/// (`&apos;`) and the indentation: 16 times in the worst case. This bounds the time that an
/// endless input can take.
pub(super) const MAX_DOCUMENT: u64 = 64 << 20;

/// Bytes of one tag, text, comment and so on, after it was shortened. Only what cannot be
/// shortened reaches it, such as a tag that never ends; this bounds the memory.
pub(super) const MAX_PIECE: u64 = 1 << 20;

/// Bytes that are shortened at once.
const PART: usize = 8 << 10;

/// Why the input stopped before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Reading failed.
    Io(io::Error),
    /// A limit was reached.
    Limit(XmlError),
}

/// A [`BufRead`] that shortens what is too long, ends with an error where a limit is reached,
/// and counts lines.
#[derive(Debug)]
pub(super) struct Bounded<R> {
    inner: R,
    shortener: Shortener,
    /// Shortened, and not yet consumed from `position` on.
    ready: Vec<u8>,
    position: usize,
    /// Line breaks that were left out of `ready`.
    line_breaks: u64,
    document_left: u64,
    piece_left: u64,
    line: u64,
    stop: Option<Stop>,
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
            shortener: Shortener::default(),
            ready: Vec::with_capacity(PART),
            position: 0,
            line_breaks: 0,
            document_left: MAX_DOCUMENT,
            piece_left: MAX_PIECE,
            line: 1,
            stop: None,
        }
    }

    /// A new piece begins.
    pub(super) fn begin_piece(&mut self) {
        self.piece_left = MAX_PIECE;
    }

    /// The line of the next byte, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Why the last read failed, if it was the input that failed.
    pub(super) fn take_stop(&mut self) -> Option<Stop> {
        self.stop.take()
    }
}

impl<R: BufRead> Bounded<R> {
    /// Makes more of the input ready; nothing only at its end.
    fn refill(&mut self) -> Result<(), Refill> {
        self.ready.clear();
        self.position = 0;
        self.line += std::mem::take(&mut self.line_breaks);
        while self.ready.is_empty() {
            let chunk = self.inner.fill_buf().map_err(Refill::from)?;
            if chunk.is_empty() {
                break;
            }
            if self.document_left == 0 {
                let limit = MAX_DOCUMENT;
                return Err(Refill::Stop(Stop::Limit(XmlError::DocumentTooLarge {
                    limit,
                })));
            }
            let allowed = usize::try_from(self.document_left).unwrap_or(usize::MAX);
            let part = &chunk[..chunk.len().min(PART).min(allowed)];
            let length = part.len();
            self.line_breaks += self.shortener.pass(part, &mut self.ready);
            self.inner.consume(length);
            self.document_left -= length as u64;
        }
        Ok(())
    }

    fn stopped(&mut self, stop: Stop) -> io::Error {
        self.stop = Some(stop);
        io::Error::other("the input has stopped")
    }
}

/// Why nothing more was made ready.
enum Refill {
    /// The parser tries again by itself.
    Interrupted(io::Error),
    Stop(Stop),
}

impl From<io::Error> for Refill {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Interrupted => Self::Interrupted(error),
            _ => Self::Stop(Stop::Io(error)),
        }
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.ready.len() {
            match self.refill() {
                Ok(()) => {}
                Err(Refill::Interrupted(error)) => return Err(error),
                Err(Refill::Stop(stop)) => return Err(self.stopped(stop)),
            }
        }
        if self.piece_left == 0 && self.position < self.ready.len() {
            let limit = MAX_PIECE;
            return Err(self.stopped(Stop::Limit(XmlError::PieceTooLarge { limit })));
        }
        let ready = &self.ready[self.position..];
        let allowed = usize::try_from(self.piece_left).unwrap_or(usize::MAX);
        Ok(&ready[..ready.len().min(allowed)])
    }

    fn consume(&mut self, amount: usize) {
        let used = &self.ready[self.position..self.position + amount];
        self.line += used
            .iter()
            .map(|&byte| u64::from(byte == b'\n'))
            .sum::<u64>();
        self.position += amount;
        self.piece_left = self.piece_left.saturating_sub(amount as u64);
    }
}

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(out)?;
        self.consume(amount);
        Ok(amount)
    }
}
