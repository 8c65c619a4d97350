//! Names and UUIDs.

use super::*;

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
        assert_eq!(error(named(empty)), bad_value("a domain's name", ""));
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
        error(domain_with("").replace(UUID, "vm1")),
        bad_value("a UUID", "vm1")
    );
}

#[test]
fn a_domain_without_name_or_uuid_is_none() {
    let without = |from: &str| read(domain_with("").replacen(from, "x", 2).as_bytes()).unwrap_err();
    assert!(matches!(without("name"), DomainXmlError::Missing("name")));
    assert!(matches!(without("uuid"), DomainXmlError::Missing("uuid")));
}
