//! Any text as libvirt's definition of a secret: what is read is in the text, what the guard writes is read as what it is, and
//! elements in elements change nothing of the rest, and take no time.

use vtpm_guard::internals::ids::{DomainUuid, SecretUuid};
use vtpm_guard::internals::libvirt::secret::{Purpose, SecretDefinition, definition};

/// Tries these bytes.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(found) = SecretDefinition::parse(text) {
        // A character reference is longer than the character.
        assert!(found.usage.len() + found.description.len() <= text.len());
        assert!(text.contains("vtpm") || found.purpose != Purpose::Vtpm);
        assert!(text.contains("yes") || !found.is_private && !found.is_ephemeral);
        assert_eq!(
            SecretDefinition::parse(&format!("<!-- a -->{text}")),
            Some(found)
        );
    }
    try_text(text);
    let domain = DomainUuid::from_bytes([0xd0; 16]);
    let ours = definition(SecretUuid::from_bytes([0x5e; 16]), domain);
    let (head, end) = ours.split_at(ours.len() - "</secret>".len());
    let expected = SecretDefinition::parse(&ours).expect("the guard's own");
    assert!(expected.is_private && expected.is_ephemeral);
    assert_eq!(expected.guards_domain(), Some(domain));
    let escaped = text.replace(['<', '>', '&'], " ");
    let with = format!("{head}<other>{escaped}</other>{end}");
    let found = SecretDefinition::parse(&with);
    assert_eq!(found, Some(expected));
}

/// The text as a description and as a usage, escaped as libvirt does.
fn try_text(text: &str) {
    // A parser makes one line feed of each line end.
    let text = text.replace('\r', "");
    let escape = |c: char| match c {
        '<' => "&lt;".to_owned(),
        '>' => "&gt;".to_owned(),
        '&' => "&amp;".to_owned(),
        '"' => "&quot;".to_owned(),
        '\'' => "&#x27;".to_owned(),
        c => c.to_string(),
    };
    let escaped: String = text.chars().map(escape).collect();
    let xml = format!(
        "<secret ephemeral='no' private='no'><description>{escaped}</description>\
         <usage type='vtpm'><name>{escaped}</name></usage></secret>"
    );
    let found = SecretDefinition::parse(&xml).expect("a definition");
    assert_eq!((&found.description, &found.usage), (&text, &text));
}
