//! The input, with a limit on the whole of it and on each piece of markup, because the XML
//! parser holds one piece in memory and knows no limits of its own.

use std::io::{self, BufRead, Read};

use super::XmlFault;

/// Bytes of a whole document. libvirt's own calls carry at most 4 MiB of XML
/// (`VIR_NET_MESSAGE_STRING_MAX`); this bounds the time that an endless input can take.
pub(super) const MAX_DOCUMENT: u64 = 16 << 20;

/// Bytes of one tag, text, comment and so on. The largest honest ones are texts in
/// `<metadata>` and `<sysinfo>`, some tens of KiB; this bounds the memory.
pub(super) const MAX_PIECE: u64 = 1 << 20;

/// Why the input stopped before its end.
#[derive(Debug)]
pub(super) enum Stop {
    /// Reading failed.
    Io(io::Error),
    /// A limit was reached.
    Limit(XmlFault),
}

/// A [`BufRead`] that ends with an error where a limit is reached, and that counts lines.
#[derive(Debug)]
pub(super) struct Bounded<R> {
    inner: R,
    document_left: u64,
    piece_left: u64,
    line: u64,
    stop: Option<Stop>,
}

impl<R> Bounded<R> {
    pub(super) fn new(inner: R) -> Self {
        Self {
            inner,
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

    /// The limit that has been reached.
    fn limit_fault(&self) -> XmlFault {
        if self.document_left == 0 {
            XmlFault::DocumentTooLarge {
                limit: MAX_DOCUMENT,
            }
        } else {
            XmlFault::PieceTooLarge { limit: MAX_PIECE }
        }
    }
}

impl<R: BufRead> BufRead for Bounded<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let limit = self.document_left.min(self.piece_left);
        let fault = (limit == 0).then(|| self.limit_fault());
        let stop = match (self.inner.fill_buf(), fault) {
            // The parser tries again by itself.
            (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            (Err(error), _) => Stop::Io(error),
            (Ok(chunk), Some(fault)) if !chunk.is_empty() => Stop::Limit(fault),
            (Ok(chunk), _) => {
                let allowed = usize::try_from(limit).unwrap_or(usize::MAX);
                return Ok(&chunk[..chunk.len().min(allowed)]);
            }
        };
        self.stop = Some(stop);
        Err(io::Error::other("the input has stopped"))
    }

    fn consume(&mut self, amount: usize) {
        // What fill_buf has shown is still there: this reads nothing.
        if let Some(used) = self
            .inner
            .fill_buf()
            .ok()
            .and_then(|chunk| chunk.get(..amount))
        {
            self.line += used
                .iter()
                .map(|&byte| u64::from(byte == b'\n'))
                .sum::<u64>();
        }
        self.document_left = self.document_left.saturating_sub(amount as u64);
        self.piece_left = self.piece_left.saturating_sub(amount as u64);
        self.inner.consume(amount);
    }
}

impl<R: BufRead> Read for Bounded<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let amount = self.fill_buf()?.read(out)?;
        self.consume(amount);
        Ok(amount)
    }
}
