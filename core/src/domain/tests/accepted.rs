//! What libvirt accepts is never unreadable.

use super::*;

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
