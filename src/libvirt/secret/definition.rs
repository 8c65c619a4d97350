//! A secret's definition, as libvirt writes it (`virSecretDefFormat` in its
//! `src/conf/secret_conf.c`).

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use serde::{Deserialize, Serialize};

use crate::ids::{DomainUuid, SecretUuid};

/// The prefix of the usage names of the guard's own secrets.
const USAGE_PREFIX: &str = "vtpm-guard:";

/// The part of a description that marks a staged secret.
const STAGED: &str = "vtpm-guard stage";

/// The length of the longest path that is looked at.
const DEEPEST: usize = 3;

/// What libvirt lets a secret be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// `<usage type='vtpm'>`: for vTPMs alone.
    Vtpm,
    /// No usage: for anything, including vTPMs.
    Anything,
    /// Another usage: libvirt does not use it for a vTPM.
    Other,
}

/// A secret's definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDefinition {
    /// libvirt keeps its value only in memory.
    pub is_ephemeral: bool,
    /// libvirt discloses its value to no client.
    pub is_private: bool,
    /// What it is for.
    pub purpose: Purpose,
    /// Its usage: a name for a vTPM's secret; empty if it has none.
    pub usage: String,
    /// Its description; empty if it has none.
    pub description: String,
}

impl SecretDefinition {
    /// Parses a definition; `None` if the text is not one.
    #[must_use]
    pub fn parse(xml: &str) -> Option<Self> {
        let mut reader = Reader::from_str(xml);
        let mut path: Vec<String> = Vec::new();
        let mut found = None;
        loop {
            match reader.read_event().ok()? {
                Event::Start(tag) => {
                    path.push(tag.name().as_ref().to_owned());
                    open(&mut found, &path, &tag)?;
                }
                Event::Empty(tag) => {
                    path.push(tag.name().as_ref().to_owned());
                    open(&mut found, &path, &tag)?;
                    path.pop();
                }
                Event::End(_) => {
                    path.pop()?;
                }
                Event::Text(text) => take_text(found.as_mut(), &path, &text.xml10_content()),
                Event::GeneralRef(reference) => {
                    let character = match reference.resolve_char_ref().ok()? {
                        Some(character) => character.to_string(),
                        None => {
                            quick_xml::escape::resolve_predefined_entity(&reference)?.to_owned()
                        }
                    };
                    take_text(found.as_mut(), &path, &character);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        found.filter(|_| path.is_empty())
    }

    /// Returns whether the secret was staged.
    #[must_use]
    pub fn is_staged(&self) -> bool {
        self.description.contains(STAGED)
    }

    /// Returns the domain whose key the secret has, if it is one of the guard's own.
    #[must_use]
    pub fn guards_domain(&self) -> Option<DomainUuid> {
        let is_for_vtpms = self.purpose == Purpose::Vtpm;
        domain_of_usage(&self.usage).filter(|_| is_for_vtpms)
    }
}

/// Returns the usage name of the guard's own secret for this domain. The guard drops no secret with
/// another usage name.
#[must_use]
pub fn usage_name(domain: DomainUuid) -> String {
    format!("{USAGE_PREFIX}{domain}")
}

/// Returns the XML that defines the guard's own secret: ephemeral, so libvirt keeps the key only in
/// memory, and private, so libvirt discloses it to no client.
#[must_use]
pub fn definition(secret: SecretUuid, domain: DomainUuid) -> String {
    described(secret, domain, "vtpm-guard")
}

/// Returns the XML for a secret that is staged for the daemon's start. Its description says so until
/// a later start redefines it.
#[must_use]
pub fn staged_definition(secret: SecretUuid, domain: DomainUuid) -> String {
    described(secret, domain, STAGED)
}

/// Returns the domain in the usage name of one of the guard's own secrets.
#[must_use]
pub fn domain_of_usage(usage: &str) -> Option<DomainUuid> {
    DomainUuid::parse(usage.strip_prefix(USAGE_PREFIX)?).ok()
}

fn described(secret: SecretUuid, domain: DomainUuid, by: &str) -> String {
    let usage_name = usage_name(domain);
    format!(
        "<secret ephemeral='yes' private='yes'>\
           <uuid>{secret}</uuid>\
           <description>vTPM key of {domain} ({by})</description>\
           <usage type='vtpm'><name>{usage_name}</name></usage>\
         </secret>"
    )
}

fn open(found: &mut Option<SecretDefinition>, path: &[String], tag: &BytesStart<'_>) -> Option<()> {
    let is_yes = |name| attribute(tag, name).is_some_and(|value| value == "yes");
    match (names(path).as_slice(), found.as_mut()) {
        (["secret"], None) => {
            *found = Some(SecretDefinition {
                is_ephemeral: is_yes("ephemeral"),
                is_private: is_yes("private"),
                purpose: Purpose::Anything,
                usage: String::new(),
                description: String::new(),
            });
        }
        (["secret", "usage"], Some(found)) => {
            found.purpose = match attribute(tag, "type").as_deref() {
                Some("vtpm") => Purpose::Vtpm,
                _ => Purpose::Other,
            };
        }
        (_, Some(_)) => {}
        (_, None) => return None,
    }
    Some(())
}

fn take_text(found: Option<&mut SecretDefinition>, path: &[String], text: &str) {
    let Some(found) = found else { return };
    match names(path).as_slice() {
        ["secret", "usage", _] => found.usage.push_str(text),
        ["secret", "description"] => found.description.push_str(text),
        _ => {}
    }
}

/// The path of an element, as far as it is looked at: whoever nests elements a million times would have each path copied.
fn names(path: &[String]) -> Vec<&str> {
    path.iter().take(DEEPEST + 1).map(String::as_str).collect()
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = tag.try_get_attribute(name).ok()??;
    Some(attribute.value.into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_definition_as_libvirt_writes_it_is_read() {
        let xml = "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n\
             <secret ephemeral='no' private='yes'>\n  <uuid>x</uuid>\n  \
             <description>a &amp; b&#x1F;</description>\n  \
             <usage type='vtpm'>\n    <name>vm&lt;1&gt;</name>\n  </usage>\n</secret>\n";
        let found = SecretDefinition::parse(xml).unwrap();
        assert!(!found.is_ephemeral && found.is_private);
        assert_eq!(found.purpose, Purpose::Vtpm);
        assert_eq!(found.usage, "vm<1>");
        assert_eq!(found.description, "a & b\u{1f}");
    }

    #[test]
    fn a_secret_without_a_usage_is_for_anything() {
        let found = SecretDefinition::parse("<secret ephemeral='yes' private='no'/>").unwrap();
        assert_eq!(found.purpose, Purpose::Anything);
        assert!(found.is_ephemeral && !found.is_private);
        let volume = "<secret><usage type='volume'><volume>/a</volume></usage></secret>";
        let found = SecretDefinition::parse(volume).unwrap();
        assert_eq!(
            (found.purpose, found.usage.as_str()),
            (Purpose::Other, "/a")
        );
    }

    #[test]
    fn elements_that_are_nested_without_end_take_no_time() {
        let started = std::time::Instant::now();
        let (begins, ends) = ("<a>".repeat(100_000), "</a>".repeat(100_000));
        let xml =
            format!("<secret>{begins}x{ends}<usage type='vtpm'><name>y</name></usage></secret>");
        let found = SecretDefinition::parse(&xml).unwrap();
        assert_eq!((found.purpose, &*found.usage), (Purpose::Vtpm, "y"));
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    }

    #[test]
    fn text_that_is_not_a_definition_gives_none() {
        for text in [
            "",
            "secret",
            "<domain/>",
            "<secret>",
            "<secret",
            "<a><secret/></a>",
        ] {
            assert_eq!(SecretDefinition::parse(text), None, "{text:?}");
        }
    }
}
