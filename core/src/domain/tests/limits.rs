//! Limits, and inputs that fail or come in pieces.

use super::*;

/// An input without end that counts what is taken from it.
struct Endless<'c> {
    start: &'static [u8],
    repeated: &'static [u8],
    read: &'c mut u64,
}

impl Read for Endless<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let piece = if self.start.is_empty() {
            self.repeated
        } else {
            self.start
        };
        let length = piece.len().min(out.len());
        out[..length].copy_from_slice(&piece[..length]);
        self.start = self.start.get(length..).unwrap_or_default();
        *self.read += length as u64;
        Ok(length)
    }
}

/// Padded, so that 64 MiB are no million events.
const ELEMENT: &[u8] = b"<a b='                                                        '/>";

#[test]
fn an_input_without_end_stops_soon() {
    const PIECE: u64 = 1 << 20;
    const DOCUMENT: u64 = 64 << 20;
    let cases: &[(&[u8], &[u8], u64)] = &[
        (b"", b"x", PIECE),
        (b"", b" ", PIECE),
        (b"<!DOCTYPE a [", b"<!ENTITY b 'c'>", PIECE),
        (b"<", b"name", PIECE),
        (b"</", b"name", PIECE),
        (b"<domain a='&", b"name", PIECE),
        (b"<domain>", b"text", DOCUMENT),
        (b"<domain ", b"a='1' ", DOCUMENT),
        (b"<domain>", ELEMENT, DOCUMENT),
        (b"", b"<a>", PIECE),
        (b"<domain>", b"<a>", PIECE),
    ];
    for &(start, repeated, limit) in cases {
        let mut taken = 0;
        let endless = Endless {
            start,
            repeated,
            read: &mut taken,
        };
        let result = read(BufReader::new(endless));
        let shown = format!("{}{}", start.escape_ascii(), repeated.escape_ascii());
        assert!(
            matches!(result, Err(DomainXmlError::Invalid { .. })),
            "{result:?}: {shown}…"
        );
        // One buffer of look-ahead, and the pieces before the endless one.
        assert!(taken <= limit + 16 * 1024, "{taken} bytes of {shown}…");
    }
}

#[test]
fn the_largest_honest_pieces_are_read() {
    let many = domain_with(&format!(
        "<metadata>{}</metadata>",
        "<a b='c'/>\n".repeat(200_000)
    ));
    assert!(read(many.as_bytes()).is_ok());
    let deep = |levels| {
        domain_with(&format!(
            "{}{}",
            "<a>".repeat(levels),
            "</a>".repeat(levels)
        ))
    };
    assert!(read(deep(2047).as_bytes()).is_ok());
    assert_eq!(error(deep(2048)), XmlError::TooDeep { limit: 2048 });
    let name = "x".repeat(50_000);
    let wide = domain_with(&format!("<{name}>").repeat(90));
    assert_eq!(error(wide), XmlError::TooDeep { limit: 2048 });
}

#[test]
fn a_limit_says_which_one_it_is() {
    let reference = domain_with(&format!("<a b='&{};'/>", "x".repeat(1 << 20)));
    assert_eq!(error(reference), XmlError::PieceTooLarge { limit: 1 << 20 });
    let document = domain_with(&format!("<a>{}</a>", "x".repeat(100_000)).repeat(700));
    assert_eq!(
        error(document),
        XmlError::DocumentTooLarge { limit: 64 << 20 }
    );
    let name = domain_with(&format!("<{}/>", "x".repeat(50_001)));
    assert_eq!(
        error(name),
        XmlError::BadXmlName(format!("{}…", "x".repeat(160)))
    );
}

#[test]
fn a_failing_input_is_not_a_fault_of_the_document() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    for start in ["", "<", "<domain><name>v"] {
        let input = BufReader::new(start.as_bytes().chain(Broken));
        match read(input) {
            Err(DomainXmlError::Io(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            other => panic!("{other:?} after {start:?}"),
        }
    }
}

#[test]
fn an_interrupted_read_is_tried_again() {
    /// Gives one byte, then an interruption, and so on.
    struct Nervous<'d>(&'d [u8], bool);
    impl Read for Nervous<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 = !self.1;
            if self.1 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let amount = out.len().min(1);
            self.0.read(&mut out[..amount])
        }
    }
    let document = emulator_with("");
    let input = BufReader::new(Nervous(document.as_bytes(), false));
    assert_eq!(read(input).unwrap(), read(document.as_bytes()).unwrap());
}

/// Pieces of which documents near the valid ones are made.
const PIECES: &[&str] = &[
    "<domain>",
    "</domain>",
    "<name>",
    "</name>",
    "<uuid>",
    "</uuid>",
    "<devices>",
    "</devices>",
    "<devices/>",
    "<tpm>",
    "</tpm>",
    "<tpm model='spapr-tpm-proxy'>",
    "<backend type='emulator'>",
    "<backend type='external'/>",
    "</backend>",
    "<encryption secret='",
    UUID,
    "'/>",
    "<source ",
    "type='dir'",
    " path='/x'",
    "/>",
    "xmlns='urn:x'",
    "<!--",
    "-->",
    "<![CDATA[",
    "]]>",
    "<?",
    "?>",
    "<!DOCTYPE a [",
    "]>",
    "&amp;",
    "&#x41;",
    "&",
    ";",
    "\u{feff}",
    "\0",
    "é",
    "vm1",
    "\n",
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(bytes.as_slice());
    }

    #[test]
    fn no_sequence_of_pieces_makes_it_panic(
        pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60),
        capacity in 1_usize..64,
    ) {
        let document = pieces.concat();
        let whole = read(document.as_bytes()).map_err(|error| error.to_string());
        let in_pieces = read(BufReader::with_capacity(capacity, document.as_bytes()));
        prop_assert_eq!(whole, in_pieces.map_err(|error| error.to_string()));
    }

    #[test]
    fn no_change_of_one_byte_makes_it_panic(place in 0_usize..400, byte in any::<u8>()) {
        let mut document = emulator_with(&format!("<encryption secret='{UUID}'/>")).into_bytes();
        let place = place % document.len();
        document[place] = byte;
        if let Ok(domain) = read(document.as_slice()) {
            prop_assert!(!domain.name.is_empty());
        }
    }
}

#[test]
fn it_reads_from_any_buffered_input() {
    let document = domain_with("");
    let boxed: Box<dyn BufRead> = Box::new(document.as_bytes());
    assert_eq!(read(boxed).unwrap().name, "vm1");
}
