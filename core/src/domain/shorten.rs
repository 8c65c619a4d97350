//! Shortens the pieces of a document that are longer than the guard has any use for, before
//! the XML parser holds them in memory.
//!
//! libvirt takes descriptions, metadata and attributes of some MiB. The guard ignores them, but
//! must get past them: a guest must never be refused for the length of its description. So the
//! middle of such a piece is left out. The result is well-formed exactly if the document is,
//! and no element is lost or gained.

/// Bytes of one text, comment, CDATA section or processing instruction that are passed on.
const KEPT_TEXT: usize = 64 << 10;

/// Bytes of one attribute's value that are passed on: a path of `PATH_MAX` bytes, each of them
/// escaped, is shorter.
const KEPT_VALUE: usize = 32 << 10;

/// Bytes of one tag, after which further attributes are left out.
const KEPT_TAG: usize = 64 << 10;

/// Where in the document the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before any markup. Nothing is shortened: what begins with a long text is no domain.
    Start,
    /// Between markup.
    Text,
    /// Behind a `<`.
    Markup,
    /// Behind `<!`.
    Declaration,
    /// Behind `<!-`.
    CommentStart,
    /// In a tag, outside of its attributes' values.
    Tag,
    /// In a value that this quote ends.
    Value(u8),
    /// In a piece that its own terminator ends.
    Until(&'static [u8]),
    /// In a document type declaration, which is an error whatever it says.
    DocumentType,
}

const COMMENT_END: &[u8] = b"-->";
const CDATA_END: &[u8] = b"]]>";
const INSTRUCTION_END: &[u8] = b"?>";

/// How much of a document is passed on without a look at it: no piece of so much can be too long. That is all of
/// almost every document, and the look costs a start as much as the parser does.
const UNSEEN: usize = KEPT_VALUE;

/// The state between two parts of a document.
#[derive(Debug)]
pub(super) struct Shortener {
    /// What was passed on without a look: at its end the state below is that of the beginning. `None` once it was looked at.
    unseen: Option<Vec<u8>>,
    position: Position,
    /// Bytes of the present text, value or other piece that were passed on.
    kept: usize,
    /// Bytes of the present tag that were passed on.
    tag: usize,
    /// Whether the rest of the present piece is left out.
    skips: bool,
    /// Whether the rest of the present tag's attributes is left out.
    skips_attributes: bool,
    /// Whether a reference is open, which must not be cut.
    in_reference: bool,
    /// The last two bytes.
    last: [u8; 2],
}

impl Default for Shortener {
    fn default() -> Self {
        Self {
            unseen: Some(Vec::new()),
            position: Position::Start,
            kept: 0,
            tag: 0,
            skips: false,
            skips_attributes: false,
            in_reference: false,
            last: [0; 2],
        }
    }
}

impl Shortener {
    /// Appends the next part of the document to `out`, shortened. Returns how many of its line
    /// breaks were left out.
    pub(super) fn pass(&mut self, part: &[u8], out: &mut Vec<u8>) -> u64 {
        if let Some(unseen) = &mut self.unseen {
            if unseen.len() + part.len() <= UNSEEN {
                unseen.extend_from_slice(part);
                out.extend_from_slice(part);
                return 0;
            }
            // It is passed on already, and nothing of it is left out.
            let unseen = self.unseen.take().unwrap_or_default();
            self.look_at(&unseen, &mut Vec::with_capacity(unseen.len()));
        }
        self.look_at(part, out)
    }

    fn look_at(&mut self, part: &[u8], out: &mut Vec<u8>) -> u64 {
        let mut line_breaks = 0;
        for &byte in part {
            let before = out.len();
            self.take(byte, out);
            line_breaks += u64::from(byte == b'\n' && out.len() == before);
            self.last = [self.last[1], byte];
        }
        line_breaks
    }

    fn take(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.position {
            Position::Start | Position::Text => self.text(byte, out),
            Position::Markup => {
                self.begin(match byte {
                    b'!' => Position::Declaration,
                    b'?' => Position::Until(INSTRUCTION_END),
                    b'>' => Position::Text,
                    _ => Position::Tag,
                });
                out.push(byte);
            }
            Position::Declaration => {
                self.begin(match byte {
                    b'-' => Position::CommentStart,
                    b'[' => Position::Until(CDATA_END),
                    _ => Position::DocumentType,
                });
                out.push(byte);
            }
            Position::CommentStart => {
                self.begin(match byte {
                    b'-' => Position::Until(COMMENT_END),
                    _ => Position::DocumentType,
                });
                out.push(byte);
            }
            Position::Tag => self.tag(byte, out),
            Position::Value(quote) => self.value(quote, byte, out),
            Position::Until(end) => self.until(end, byte, out),
            Position::DocumentType => out.push(byte),
        }
    }

    fn begin(&mut self, position: Position) {
        if position == Position::Tag {
            self.tag = 0;
            self.skips_attributes = false;
        }
        self.position = position;
        self.kept = 0;
        self.skips = false;
        self.in_reference = false;
        // What opened a piece is no part of its terminator: `<!-->` ends no comment.
        self.last = [0; 2];
    }

    fn text(&mut self, byte: u8, out: &mut Vec<u8>) {
        if byte == b'<' {
            self.begin(Position::Markup);
            out.push(byte);
            return;
        }
        if byte == b'&' {
            // The parser takes a reference for a piece of its own.
            self.begin(self.position);
        }
        let may_cut = self.position == Position::Text && is_boundary(byte);
        self.skips |= may_cut && self.kept >= KEPT_TEXT;
        self.keep_unless_skipped(byte, out);
    }

    fn tag(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            b'>' => {
                self.begin(Position::Text);
                out.push(byte);
                return;
            }
            b'"' | b'\'' => {
                self.position = Position::Value(byte);
                self.kept = 0;
            }
            b' ' | b'\t' | b'\r' | b'\n' => self.skips_attributes |= self.tag >= KEPT_TAG,
            _ => {}
        }
        // The slash of an empty element.
        if !self.skips_attributes || byte == b'/' {
            self.tag += 1;
            out.push(byte);
        }
    }

    fn value(&mut self, quote: u8, byte: u8, out: &mut Vec<u8>) {
        if byte == quote {
            self.position = Position::Tag;
            self.skips = false;
            self.in_reference = false;
            if !self.skips_attributes {
                self.tag += 1;
                out.push(byte);
            }
            return;
        }
        let may_cut = is_boundary(byte) && !self.in_reference;
        self.skips |= self.skips_attributes || (self.kept >= KEPT_VALUE && may_cut);
        match byte {
            b'&' => self.in_reference = true,
            b';' => self.in_reference = false,
            _ => {}
        }
        self.tag += usize::from(!self.skips);
        self.keep_unless_skipped(byte, out);
    }

    fn until(&mut self, end: &'static [u8], byte: u8, out: &mut Vec<u8>) {
        let [earlier, late] = self.last;
        if [earlier, late, byte].ends_with(end) {
            if self.skips {
                out.extend_from_slice(end);
            } else {
                out.push(byte);
            }
            self.begin(Position::Text);
            return;
        }
        // A hyphen that is left before the terminator would make it a faulty one.
        let is_hyphen = end == COMMENT_END && (byte == b'-' || late == b'-');
        self.skips |= self.kept >= KEPT_TEXT && is_boundary(byte) && !is_hyphen;
        self.keep_unless_skipped(byte, out);
    }

    fn keep_unless_skipped(&mut self, byte: u8, out: &mut Vec<u8>) {
        if !self.skips {
            self.kept += 1;
            out.push(byte);
        }
    }
}

/// Whether a character of UTF-8 begins with this byte.
fn is_boundary(byte: u8) -> bool {
    byte & 0xC0 != 0x80
}

#[cfg(test)]
mod tests;
