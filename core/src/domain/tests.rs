//! A document in, a domain or a fault out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use proptest::prelude::*;

use super::*;

const UUID: &str = "7c1d3b52-9a4e-4c55-8f10-0123456789ab";

/// A domain with this inside `<domain>`.
fn domain_with(inside: &str) -> String {
    format!("<domain type='kvm'><name>vm1</name><uuid>{UUID}</uuid>{inside}</domain>")
}

/// A domain with this inside `<devices>`.
fn devices(inside: &str) -> String {
    domain_with(&format!("<devices>{inside}</devices>"))
}

/// A domain with an emulated TPM of model `tpm-crb` and this inside its `<backend>`.
fn emulator_with(inside: &str) -> String {
    devices(&format!(
        "<tpm model='tpm-crb'><backend type='emulator'>{inside}</backend></tpm>"
    ))
}

fn vtpm(document: &str) -> Option<Vtpm> {
    read(document.as_bytes()).unwrap().vtpm
}

fn emulator(document: &str) -> Emulator {
    match vtpm(document) {
        Some(Vtpm::Emulator(emulator)) => emulator,
        other => panic!("{other:?} is no emulator: {document}"),
    }
}

fn name(document: &str) -> String {
    read(document.as_bytes()).unwrap().name
}

/// The fault of a document, without its line.
#[track_caller]
fn fault(document: impl AsRef<[u8]>) -> XmlError {
    match read(document.as_ref()) {
        Err(DomainXmlError::Invalid { fault, .. }) => fault,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(document.as_ref())),
    }
}

fn bad_value(wanted: &'static str, value: &str) -> XmlError {
    XmlError::BadValue {
        wanted,
        value: value.to_owned(),
    }
}

// What counts as the domain's TPM.

#[test]
fn every_vector_reads_as_its_line_says() {
    let none = "no TPM";
    let expected = BTreeMap::from([
        ("prepare-no-tpm", none),
        (
            "prepare-encrypted",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000001",
        ),
        ("prepare-unencrypted", "1.2"),
        ("prepare-tpm12", "1.2"),
        ("prepare-passthrough", "passthrough"),
        ("prepare-external", "external"),
        (
            "prepare-foreign-tpm",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000001",
        ),
        ("spapr-tpm-proxy-alone", none),
        (
            "spapr-tpm-proxy-beside",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000002",
        ),
        (
            "source-dir",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000003, dir /srv/tpm/guest",
        ),
        ("source-file", "2.0, file /dev/vg0/tpm&guest"),
        ("two-emulators", "error: line 11: there is a second <tpm>"),
        (
            "laid-out-by-hand",
            "2.0, secret 3f2a9c01-0000-4000-8000-000000000006",
        ),
        ("byte-order-mark", none),
        (
            "utf-16",
            "error: line 1: the document is UTF-16 or UTF-32; only UTF-8 is read",
        ),
        (
            "utf-16-without-mark",
            "error: line 1: the document is UTF-16 or UTF-32; only UTF-8 is read",
        ),
        (
            "latin-1",
            "error: line 1: the document declares the encoding \"ISO-8859-1\"; only UTF-8 is read",
        ),
        (
            "latin-1-undeclared",
            "error: line 2: the document is not UTF-8",
        ),
        (
            "doctype-bomb",
            "error: line 2: the document has a DOCTYPE, which no domain XML has",
        ),
        (
            "domstatus",
            "error: line 1: the root element is <domstatus>, not <domain> without a namespace",
        ),
        ("deep-nesting", "no TPM"),
    ]);
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/domain-xml");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let document = std::fs::read(&path).unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        found.insert(stem, in_words(&document));
    }
    let found: BTreeMap<_, _> = found
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    assert_eq!(found, expected);
}

fn in_words(document: &[u8]) -> String {
    let emulator = match read(document).map(|domain| domain.vtpm) {
        Err(error) => return format!("error: {error}"),
        Ok(None) => return "no TPM".to_owned(),
        Ok(Some(Vtpm::Passthrough)) => return "passthrough".to_owned(),
        Ok(Some(Vtpm::External)) => return "external".to_owned(),
        Ok(Some(Vtpm::Emulator(emulator))) => emulator,
    };
    let version = match emulator.version {
        TpmVersion::V1_2 => "1.2",
        TpmVersion::V2_0 => "2.0",
    };
    let secret = emulator
        .secret_uuid
        .map(|secret| format!(", secret {secret}"));
    let source = emulator.source.map(|source| match source {
        StateSource::Dir(path) => format!(", dir {}", path.display()),
        StateSource::File(path) => format!(", file {}", path.display()),
    });
    [
        version.to_owned(),
        secret.unwrap_or_default(),
        source.unwrap_or_default(),
    ]
    .concat()
}

#[test]
fn only_the_path_of_libvirt_leads_to_a_tpm() {
    let tpm = "<tpm><backend type='emulator' version='2.0'/></tpm>";
    for foreign in [
        domain_with(tpm),
        devices(&format!("<hostdev>{tpm}</hostdev>")),
        domain_with(&format!("<metadata><devices>{tpm}</devices></metadata>")),
        domain_with(&format!("<devices xmlns='urn:x'>{tpm}</devices>")),
        domain_with(&format!("<x:devices xmlns:x='urn:x'>{tpm}</x:devices>")),
        domain_with(&format!("<x:devices>{tpm}</x:devices>")),
        domain_with(&format!("<DEVICES>{tpm}</DEVICES>")),
        devices(&format!("<!--{tpm}-->")),
        devices(&format!("<![CDATA[{tpm}]]>")),
        devices(&tpm.replace("<tpm", "<tpm xmlns='urn:x'")),
        devices(&tpm.replace("tpm>", "x:tpm>")),
    ] {
        assert_eq!(vtpm(&foreign), None, "{foreign}");
    }
    let own = domain_with(&format!("<devices xmlns=''>{tpm}</devices>"));
    assert!(vtpm(&own).is_some(), "no namespace at all");
    let later = domain_with(&format!("<devices/><devices>{tpm}</devices>"));
    assert!(vtpm(&later).is_some(), "libvirt looks into every <devices>");
}

#[test]
fn foreign_children_of_a_backend_say_nothing_of_it() {
    let secret = format!("<encryption secret='{UUID}'/>");
    for foreign in [
        emulator_with(&secret.replace("<encryption", "<encryption xmlns='urn:x'")),
        emulator_with(&format!("<x:group>{secret}</x:group>")),
        emulator_with(&secret.replace("encryption", "x:encryption")),
    ] {
        assert_eq!(emulator(&foreign).secret_uuid, None, "{foreign}");
    }
    assert_eq!(
        fault(emulator_with("<encryption x:secret='1'/>")),
        missing("encryption", "secret")
    );
}

fn missing(element: &'static str, attribute: &'static str) -> XmlError {
    XmlError::MissingAttribute { element, attribute }
}

#[test]
fn a_tpm_without_a_version_gets_libvirts_default() {
    let version = |arch: &str, model: &str| {
        emulator(&domain_with(&format!(
            "<devices><tpm{model}><backend type='emulator'/></tpm></devices>
             <os><type{arch}>hvm</type></os>"
        )))
        .version
    };
    for (arch, model, expected) in [
        (" arch='x86_64'", " model='tpm-tis'", TpmVersion::V1_2),
        (" arch='i686'", "", TpmVersion::V1_2),
        ("", " model='tpm-tis'", TpmVersion::V1_2),
        (" arch='x86_64'", " model='tpm-crb'", TpmVersion::V2_0),
        (" arch='aarch64'", " model='tpm-tis'", TpmVersion::V2_0),
        (" arch='ppc64le'", "", TpmVersion::V2_0),
        (" arch='ppc64le'", " model='tpm-spapr'", TpmVersion::V2_0),
    ] {
        assert_eq!(version(arch, model), expected, "{arch}{model}");
    }
}

#[test]
fn the_source_of_an_external_backend_is_a_socket_and_not_state() {
    let backend = "<backend type='external'><source type='unix' path='x'/><encryption/></backend>";
    assert_eq!(
        vtpm(&devices(&format!("<tpm>{backend}</tpm>"))),
        Some(Vtpm::External)
    );
}

#[test]
fn libvirt_keeps_a_state_only_where_the_xml_says_so() {
    let backend = |attribute: &str| {
        let tpm = format!("<tpm><backend type='emulator' {attribute}/></tpm>");
        emulator(&devices(&tpm)).persistent_state
    };
    assert!(backend("persistent_state='yes'"));
    assert!(!backend("persistent_state='no'") && !backend(""));
}

#[test]
fn what_is_wrong_with_a_tpm_is_named() {
    let tpm = |inside: &str| devices(&format!("<tpm>{inside}</tpm>"));
    let encryption = format!("<encryption secret='{UUID}'/>");
    for (document, expected) in [
        (
            devices("<tpm/>"),
            XmlError::MissingChild {
                element: "tpm",
                child: "backend",
            },
        ),
        (tpm("<backend/>"), missing("backend", "type")),
        (
            tpm("<backend type='vtpm'/>"),
            bad_value("a known type of TPM backend", "vtpm"),
        ),
        (
            tpm("<backend type='emulator' version='3.0'/>"),
            bad_value("a known TPM version", "3.0"),
        ),
        (
            tpm(&"<backend type='external'/>".repeat(2)),
            XmlError::Repeated("backend"),
        ),
        (
            devices(&"<tpm><backend type='external'/></tpm>".repeat(2)),
            XmlError::Repeated("tpm"),
        ),
        (
            emulator_with(&encryption.repeat(2)),
            XmlError::Repeated("encryption"),
        ),
        (
            emulator_with("<encryption/>"),
            missing("encryption", "secret"),
        ),
        (
            emulator_with("<encryption secret=''/>"),
            bad_value("a secret's UUID", ""),
        ),
        (
            emulator_with("<encryption secret='vm1'/>"),
            bad_value("a secret's UUID", "vm1"),
        ),
        (
            emulator_with("<source path='/x'/>"),
            missing("source", "type"),
        ),
        (
            emulator_with("<source type='dir'/>"),
            missing("source", "path"),
        ),
        (
            emulator_with("<source type='dir' path='x'/>"),
            bad_value("an absolute path", "x"),
        ),
        (
            emulator_with("<source type='nbd' path='/x'/>"),
            bad_value("a known type of TPM source", "nbd"),
        ),
    ] {
        assert_eq!(fault(&document), expected, "{document}");
    }
}

// Names and UUIDs.

#[test]
fn a_name_is_put_together_from_its_pieces() {
    let named = |name: &str| domain_with("").replace("vm1", name);
    for (written, expected) in [
        ("a&amp;b&lt;&gt;&quot;&apos;", "a&b<>\"'"),
        ("&#118;&#x6D;<![CDATA[<1>]]>", "vm<1>"),
        ("vm<!-- no part of it -->1<?nor this?>", "vm1"),
        ("\n    vm1\n  ", "vm1"),
        ("  two blanks ", "  two blanks "),
        ("Gäst №1", "Gäst №1"),
    ] {
        assert_eq!(name(&named(written)), expected);
    }
    assert_eq!(
        name(&named("vm1</name><name>vm2")),
        "vm1",
        "as libvirt's /domain/name[1]"
    );
    for empty in ["", "\n"] {
        assert_eq!(fault(named(empty)), bad_value("a domain's name", ""));
    }
    assert_eq!(name(&named(&"ü<!---->".repeat(4097))), "ü".repeat(2048));
}

#[test]
fn a_uuid_is_read_in_any_spelling() {
    for written in [
        UUID.to_uppercase(),
        UUID.replace('-', ""),
        format!("\n  {UUID}\n"),
        format!("<![CDATA[{}]]>{}", &UUID[..9], &UUID[9..]),
    ] {
        let document = domain_with("").replace(UUID, &written);
        assert_eq!(
            read(document.as_bytes()).unwrap().uuid,
            DomainUuid::parse(UUID).unwrap()
        );
    }
    assert_eq!(
        fault(domain_with("").replace(UUID, "vm1")),
        bad_value("a UUID", "vm1")
    );
}

#[test]
fn a_domain_without_name_or_uuid_is_none() {
    let without = |from: &str| read(domain_with("").replacen(from, "x", 2).as_bytes()).unwrap_err();
    assert!(matches!(without("name"), DomainXmlError::Missing("name")));
    assert!(matches!(without("uuid"), DomainXmlError::Missing("uuid")));
}

// What libvirt accepts.

/// Documents that libvirt 9.0 takes and hands to its hooks, each with this inside `<devices>`:
/// the cases of the security audit, and their siblings.
#[allow(clippy::too_many_lines, reason = "a list")]
fn accepted_by_libvirt(devices: &str) -> Vec<(&'static str, String)> {
    const MIB: usize = 1 << 20;
    let whole = |inside: &str| domain_with(&format!("{inside}<devices>{devices}</devices>"));
    let named = |name: &str| whole("").replacen("vm1", name, 1);
    let metadata = |inside: &str| {
        whole(&format!(
            "<metadata><x:a xmlns:x='urn:x'>{inside}</x:a></metadata>"
        ))
    };
    let attributes: Vec<_> = (0..60_000).map(|n| format!(" a{n}='{n}'")).collect();
    let attributes = attributes.concat();
    vec![
        ("plain", whole("")),
        ("name with DEL", named("de\x7fl")),
        ("name with U+0085", named("ne\u{85}l")),
        ("name with CR", named("c\rr")),
        ("name with a CR reference", named("c&#13;r")),
        ("name with TAB", named("t\tb")),
        ("name with line break inside", named("a\nb")),
        ("name with U+202E", named("ev\u{202e}il")),
        ("name of one blank", named(" ")),
        ("name of 255 bytes", named(&"x".repeat(255))),
        ("name of 256 bytes", named(&"x".repeat(256))),
        ("name of 5000 bytes", named(&"ü".repeat(2500))),
        ("name of 100,000 bytes", named(&"ü".repeat(50_000))),
        ("name of escapes", named(&"&apos;".repeat(300))),
        (
            "description of 4 MiB",
            whole(&format!(
                "<description>{}</description>",
                "d".repeat(4 * MIB)
            )),
        ),
        (
            "description of escapes",
            whole(&format!(
                "<description>{}</description>",
                "&apos;".repeat(MIB)
            )),
        ),
        (
            "description not in ASCII",
            whole(&format!(
                "<description>{}</description>",
                "ü€".repeat(MIB / 2)
            )),
        ),
        (
            "title of 2 MiB",
            whole(&format!("<title>{}</title>", "t".repeat(2 * MIB))),
        ),
        ("metadata text", metadata(&"m".repeat(2 * MIB))),
        (
            "metadata CDATA",
            metadata(&format!("<![CDATA[{}]]>", "]<tpm>&".repeat(MIB / 3))),
        ),
        (
            "metadata comment",
            metadata(&format!("<!--{}-->", "<tpm> - ".repeat(MIB / 4))),
        ),
        (
            "metadata instruction",
            metadata(&format!("<?x {}?>", "? > ".repeat(MIB / 2))),
        ),
        (
            "metadata attribute",
            metadata(&format!("<b c='{}'/>", "&lt;v".repeat(MIB / 2))),
        ),
        (
            "metadata attribute with quotes",
            metadata(&format!("<b c=\"{}\"/>", "'>/".repeat(MIB / 2))),
        ),
        (
            "metadata attributes",
            metadata(&format!("<b{attributes}/>")),
        ),
        (
            "metadata attributes, not empty",
            metadata(&format!("<b{attributes}>text</b>")),
        ),
        (
            "metadata element name",
            metadata(&format!("<{}/>", "e".repeat(1100))),
        ),
        (
            "metadata attribute name",
            metadata(&format!("<b {}='1'/>", "a".repeat(40_000))),
        ),
        (
            "metadata element name of libxml2's length",
            metadata(&format!("<{}/>", "e".repeat(50_000))),
        ),
        (
            "metadata with 240 levels",
            metadata(&format!("{}{}", "<b>".repeat(240), "</b>".repeat(240))),
        ),
        (
            "metadata with a TPM",
            metadata("<devices><tpm><backend type='emulator'/></tpm></devices>"),
        ),
        ("many elements", metadata(&"<b/>\n".repeat(100_000))),
        ("white space", whole(&" \n".repeat(MIB))),
        (
            "the comment of libvirt's own files",
            format!("<!--\nWARNING: {}\n-->\n{}", "w".repeat(100_000), whole("")),
        ),
    ]
}

#[test]
fn nothing_that_libvirt_accepts_is_unreadable() {
    for (what, document) in accepted_by_libvirt("") {
        match read(document.as_bytes()) {
            Ok(domain) => assert_eq!(domain.vtpm, None, "{what}"),
            Err(error) => panic!("{what}: {error}"),
        }
    }
}

#[test]
fn an_encrypted_tpm_is_found_wherever_libvirt_finds_it() {
    let tpm = format!(
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'>\
         <encryption secret='{UUID}'/></backend></tpm>"
    );
    for (what, document) in accepted_by_libvirt(&tpm) {
        let domain = read(document.as_bytes()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let secret = domain
            .encrypted_vtpm()
            .map(|(_, secret)| secret.to_string());
        assert_eq!(secret.as_deref(), Some(UUID), "{what}");
    }
    let quoted = emulator_with("<source type='dir' path='/&apos;&#127;&#10;x'/>");
    let source = Some(StateSource::Dir("/'\x7f\nx".into()));
    assert_eq!(emulator(&quoted).source, source);
}

#[test]
fn what_was_seen_before_an_error_is_known() {
    let cut = |document: String, at: &str| document[..document.find(at).unwrap()].to_owned();
    let encryption = format!("<encryption secret='{UUID}'/>");
    for (document, seen) in [
        (String::new(), false),
        (domain_with("<a></b>"), false),
        (devices("<tpm/>"), false),
        (devices("<tpm><backend type='passthrough'/></tpm><"), false),
        (cut(emulator_with(""), "<backend"), false),
        (cut(emulator_with(&encryption), "<encryption"), true),
        (cut(emulator_with(&encryption), "</backend>"), true),
        (format!("{}<", emulator_with("")), true),
        (emulator_with("<encryption secret='x'/>"), true),
        (
            devices("<tpm><backend type='emulator' version='3.0'/></tpm>"),
            true,
        ),
    ] {
        let unreadable = examine(document.as_bytes()).unwrap_err();
        assert_eq!(unreadable.has_emulated_tpm, seen, "{document}");
        assert_eq!(
            unreadable.reason,
            read(document.as_bytes()).unwrap_err().to_string()
        );
    }
}

// XML.

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
        fault(domain_with("&nope;")),
        XmlError::UnknownEntity("nope".to_owned())
    );
    assert_eq!(
        fault(domain_with("<a b='&nope;'/>")),
        XmlError::UnknownEntity("nope".to_owned())
    );
    assert_eq!(fault(b"<domain>\xFF</domain>"), XmlError::NotUtf8);
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
        assert_eq!(fault(declared(other)), expected);
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
    let message = fault(emulator_with("<encryption secret='a&#10;b'/>")).to_string();
    assert_eq!(message, "\"a\\nb\" is not a secret's UUID");
    let message = fault(domain_with(&format!("<a></{}>", "b".repeat(100_000)))).to_string();
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

// Limits.

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
    assert_eq!(fault(deep(2048)), XmlError::TooDeep { limit: 2048 });
    let name = "x".repeat(50_000);
    let wide = domain_with(&format!("<{name}>").repeat(90));
    assert_eq!(fault(wide), XmlError::TooDeep { limit: 2048 });
}

#[test]
fn a_limit_says_which_one_it_is() {
    let reference = domain_with(&format!("<a b='&{};'/>", "x".repeat(1 << 20)));
    assert_eq!(fault(reference), XmlError::PieceTooLarge { limit: 1 << 20 });
    let document = domain_with(&format!("<a>{}</a>", "x".repeat(100_000)).repeat(700));
    assert_eq!(
        fault(document),
        XmlError::DocumentTooLarge { limit: 64 << 20 }
    );
    let name = domain_with(&format!("<{}/>", "x".repeat(50_001)));
    assert_eq!(
        fault(name),
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
