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
enum Place {
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

/// The state between two parts of a document.
#[derive(Debug)]
pub(super) struct Shortener {
    place: Place,
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
            place: Place::Start,
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
        match self.place {
            Place::Start | Place::Text => self.text(byte, out),
            Place::Markup => {
                self.begin(match byte {
                    b'!' => Place::Declaration,
                    b'?' => Place::Until(INSTRUCTION_END),
                    b'>' => Place::Text,
                    _ => Place::Tag,
                });
                out.push(byte);
            }
            Place::Declaration => {
                self.begin(match byte {
                    b'-' => Place::CommentStart,
                    b'[' => Place::Until(CDATA_END),
                    _ => Place::DocumentType,
                });
                out.push(byte);
            }
            Place::CommentStart => {
                self.begin(match byte {
                    b'-' => Place::Until(COMMENT_END),
                    _ => Place::DocumentType,
                });
                out.push(byte);
            }
            Place::Tag => self.tag(byte, out),
            Place::Value(quote) => self.value(quote, byte, out),
            Place::Until(end) => self.until(end, byte, out),
            Place::DocumentType => out.push(byte),
        }
    }

    fn begin(&mut self, place: Place) {
        if place == Place::Tag {
            self.tag = 0;
            self.skips_attributes = false;
        }
        self.place = place;
        self.kept = 0;
        self.skips = false;
        self.in_reference = false;
        // What opened a piece is no part of its terminator: `<!-->` ends no comment.
        self.last = [0; 2];
    }

    fn text(&mut self, byte: u8, out: &mut Vec<u8>) {
        if byte == b'<' {
            self.begin(Place::Markup);
            out.push(byte);
            return;
        }
        if byte == b'&' {
            // The parser takes a reference for a piece of its own.
            self.begin(self.place);
        }
        let may_cut = self.place == Place::Text && is_boundary(byte);
        self.skips |= may_cut && self.kept >= KEPT_TEXT;
        self.keep_unless_skipped(byte, out);
    }

    fn tag(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            b'>' => {
                self.begin(Place::Text);
                out.push(byte);
                return;
            }
            b'"' | b'\'' => {
                self.place = Place::Value(byte);
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
            self.place = Place::Tag;
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
            self.begin(Place::Text);
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
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The document shortened, in parts of this many bytes.
    fn shortened(document: &str, part: usize) -> (String, u64) {
        let (mut shortener, mut out, mut line_breaks) = (Shortener::default(), Vec::new(), 0);
        for part in document.as_bytes().chunks(part) {
            line_breaks += shortener.pass(part, &mut out);
        }
        (String::from_utf8(out).unwrap(), line_breaks)
    }

    #[test]
    fn a_document_of_honest_lengths_stays_as_it_is() {
        let document = "\u{feff}<?xml version='1.0'?>\n<!-- a - b --><a b='>' c=\"'&amp;\"/>\
                        <x><![CDATA[<]] >]]]>text &#38; more</x ><?pi ?? ?>";
        for part in 1..20 {
            assert_eq!(shortened(document, part), (document.to_owned(), 0));
        }
    }

    #[test]
    fn only_the_middle_of_a_long_piece_is_left_out() {
        let long = "ü&amp;-".repeat(40_000).replace('&', "&#38;&");
        for (before, after) in [
            ("<a>", "</a>"),
            ("<a><!--", "--><b/></a>"),
            ("<a><![CDATA[", "]]><b/></a>"),
            ("<a><?pi ", "?><b/></a>"),
            ("<a b='", "' c='d'/>"),
            ("<a b=\"", "\"><c/></a>"),
        ] {
            let long = if before.ends_with("--") {
                long.replace('-', "+")
            } else if before.ends_with('>') {
                "ü".repeat(100_000)
            } else {
                long.clone()
            };
            let (short, _) = shortened(&format!("{before}{long}{after}"), 4096);
            assert!(short.len() < 70_000, "{} bytes of {before}", short.len());
            assert!(short.starts_with(before) && short.ends_with(after));
        }
    }

    #[test]
    fn attributes_beyond_a_limit_are_left_out_whole() {
        let many = " a='<not>/\n'".repeat(50_000);
        for (before, after) in [("<x", "/><y/>"), ("<x", "></x>")] {
            let (short, line_breaks) = shortened(&format!("{before}{many}{after}"), 1000);
            assert!(short.len() < 70_000);
            assert!(
                short.ends_with(&format!("'{after}")),
                "{}",
                &short[short.len() - 40..]
            );
            assert_eq!(short.matches('\n').count() as u64 + line_breaks, 50_000);
        }
    }

    proptest! {
        #[test]
        fn the_size_of_the_parts_does_not_matter(
            pieces in proptest::collection::vec("[<>!?'\"&;/ a\\-\\[\\]\n]{0,40}", 0..20),
            part in 1_usize..50,
        ) {
            let document = pieces.concat();
            prop_assert_eq!(shortened(&document, part), shortened(&document, 1 << 20));
        }
    }
}
