//! What is well-formed XML, and what is not.

use super::*;

#[test]
fn a_document_ends_with_its_domain() {
    let whole = emulator_with(&format!("<encryption secret='{UUID}'/>"));
    for length in 0..whole.len() {
        assert!(
            read(&whole.as_bytes()[..length]).is_err(),
            "cut at {length}: {whole}"
        );
    }
    for beside in [
        "x",
        "<domain/>",
        "&amp;",
        "<![CDATA[ ]]>",
        "</domain>",
        "\0",
    ] {
        assert!(
            read(format!("{whole}{beside}").as_bytes()).is_err(),
            "{beside:?} after"
        );
        assert!(
            read(format!("{beside}{whole}").as_bytes()).is_err(),
            "{beside:?} before"
        );
    }
    assert!(read(format!(" \n<!-- c --><?p?>{whole}\n<!-- c --><?p?>\n").as_bytes()).is_ok());
}

#[test]
fn a_document_that_is_not_well_formed_is_refused() {
    for inside in [
        "<a></b>",
        "</a>",
        "<a b='1' b='2'/>",
        "<a b=1/>",
        "<a b/>",
        "<a b='<'/>",
        "<a b='&nope;'/>",
        "<a b='&'/>",
        "<a <b/>",
        "<a<b/>",
        "<1/>",
        "< a/>",
        "<>",
        "</>",
        "<!-- a -- b -->",
        "<![cdata[]]>",
        "&",
        "&nope;",
        "&#0;",
        "&#xD800;",
        "<?xml version='1.0'?>",
        "<!DOCTYPE a>",
    ] {
        assert!(read(domain_with(inside).as_bytes()).is_err(), "{inside}");
    }
    assert_eq!(
        error(domain_with("&nope;")),
        XmlError::UnknownEntity("nope".to_owned())
    );
    assert_eq!(
        error(domain_with("<a b='&nope;'/>")),
        XmlError::UnknownEntity("nope".to_owned())
    );
    assert_eq!(error(b"<domain>\xFF</domain>"), XmlError::NotUtf8);
}

#[test]
fn an_encoding_other_than_utf_8_is_refused_by_name() {
    let declared =
        |name: &str| format!("<?xml version='1.0' encoding='{name}'?>{}", domain_with(""));
    for known in ["UTF-8", "utf-8", "US-ASCII"] {
        assert!(read(declared(known).as_bytes()).is_ok(), "{known}");
    }
    for other in ["UTF-16", "ISO-8859-15", "UTF-7", ""] {
        let expected = XmlError::DeclaredEncoding(other.to_owned());
        assert_eq!(error(declared(other)), expected);
    }
}

#[test]
fn a_fault_names_the_line_on_which_its_piece_begins() {
    let document = "<domain>\n  <name>a</name>\n\n  <uuid\n  >x</uuid>\n</domain>\n";
    let error = read(document.as_bytes()).unwrap_err();
    assert_eq!(error.to_string(), "line 5: \"x\" is not a UUID");
}

#[test]
fn text_in_a_message_is_short_and_on_one_line() {
    let message = error(emulator_with("<encryption secret='a&#10;b'/>")).to_string();
    assert_eq!(message, "\"a\\nb\" is not a secret's UUID");
    let message = error(domain_with(&format!("<a></{}>", "b".repeat(100_000)))).to_string();
    assert!(message.len() < 200, "{message}");
}

#[test]
fn a_document_reads_the_same_in_pieces_of_any_size() {
    let mut document = std::fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/vectors/domain-xml/laid-out-by-hand.xml"),
    )
    .unwrap();
    document.splice(..0, *b"\xEF\xBB\xBF");
    let whole = read(document.as_slice()).unwrap();
    assert_eq!(whole.name, "R&D <café>");
    for capacity in 1..40 {
        let pieces = BufReader::with_capacity(capacity, document.as_slice());
        assert_eq!(read(pieces).unwrap(), whole, "pieces of {capacity} bytes");
    }
}
