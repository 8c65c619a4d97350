//! The wrapped keys that travel with a guest, in its own XML:
//!
//! ```xml
//! <metadata>
//!   <vg:vtpm xmlns:vg='urn:vtpm-guard:domain:1' domain='UUID'>
//!     <vg:key generation='3' provider='nkp-a'>BASE64 of the wrapped DEK</vg:key>
//!   </vg:vtpm>
//! </metadata>
//! ```
//!
//! `domain` is whose keys they are: a copied XML says so. `generation` is for people; the wrapped
//! DEK has its own, which is authentic. Whatever is wrong with the element is told, and never makes
//! the document unreadable.

use std::fmt::Write as _;

use base64ct::{Base64, Encoding};
use quick_xml::XmlVersion;
use quick_xml::escape::escape;
use quick_xml::events::BytesStart;

use super::xml::attribute;
use crate::ids::DomainUuid;
use crate::key::wrap::WrappedDek;

/// The namespace of the element: how libvirt finds it.
pub const NAMESPACE: &str = "urn:vtpm-guard:domain:1";

/// The prefix that libvirt is asked to write for it.
pub const PREFIX: &str = "vg";

/// Keys that are read, and written, of one guest.
pub const MAX_KEYS: usize = 8;

/// Bytes of all their text together.
const MAX_TEXT: usize = 128 << 10;

/// Bytes of one key's text. What is longer has been shortened before it was parsed.
const MAX_KEY_TEXT: usize = 48 << 10;

/// Declarations of the namespace that are remembered at once; libvirt writes one.
const MAX_DECLARATIONS: usize = 16;

/// A `<vg:vtpm>` in a guest's `<metadata>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TravellingKeys {
    /// Whose keys they are; `None` where the element does not say it.
    pub domain: Option<DomainUuid>,
    /// The keys that could be read, as they stand there.
    pub keys: Vec<TravellingKey>,
    /// What is wrong with the element, and was passed over.
    pub fault: Option<TravellingFault>,
}

/// A `<vg:key>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TravellingKey {
    /// The wrapped DEK; nothing of it is checked yet.
    pub wrapped_dek: WrappedDek,
    /// The name of the provider that wrapped it, on the host that wrote it; for people.
    pub provider: String,
}

/// What is wrong with a `<vg:vtpm>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TravellingFault {
    /// It does not say whose keys it has.
    #[error("the attribute domain is not a UUID")]
    NoDomain,
    /// There is a second one; the first counts.
    #[error("there is a second <vtpm> of this namespace")]
    Second,
    /// More keys than are read, or more text.
    #[error("it is larger than {MAX_KEYS} keys or {MAX_TEXT} bytes")]
    TooLarge,
    /// A key that is not in base64, or empty.
    #[error("a key is not base64")]
    NotBase64,
}

impl TravellingKey {
    /// Whether it is short enough to be read again.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.text_len() <= MAX_KEY_TEXT
    }

    fn text_len(&self) -> usize {
        self.wrapped_dek.as_bytes().len().div_ceil(3) * 4
    }
}

impl TravellingKeys {
    /// How many of these, from the first, one element may have.
    #[must_use]
    pub fn how_many_fit(keys: &[TravellingKey]) -> usize {
        let mut text = 0;
        let fitting = keys.iter().take(MAX_KEYS).take_while(|key| {
            text += key.text_len();
            key.fits() && text <= MAX_TEXT
        });
        fitting.count()
    }

    /// Whether the keys are those of `domain`.
    #[must_use]
    pub fn are_of(&self, domain: DomainUuid) -> bool {
        self.domain == Some(domain)
    }

    /// The element as it stands in a domain XML.
    #[must_use]
    pub fn to_xml(&self) -> String {
        self.write(
            &format!("{PREFIX}:"),
            &format!(" xmlns:{PREFIX}='{NAMESPACE}'"),
        )
    }

    /// The element as libvirt wants it, which adds prefix and namespace itself.
    #[must_use]
    pub fn for_libvirt(&self) -> String {
        self.write("", "")
    }

    /// Reads the element as libvirt returns it: without prefix and namespace. `None` if it is not
    /// one that this program knows.
    #[must_use]
    pub fn from_libvirt(element: &str) -> Option<Self> {
        let rest = element.trim().strip_prefix("<vtpm")?;
        let document = format!(
            "<domain><name>x</name><uuid>00000000-0000-4000-8000-000000000000</uuid><metadata>\
             <vtpm xmlns='{NAMESPACE}'{rest}</metadata></domain>"
        );
        super::read(document.as_bytes()).ok()?.travelling
    }

    fn write(&self, prefix: &str, namespace: &str) -> String {
        let domain = self.domain.map(|uuid| format!(" domain='{uuid}'"));
        let mut xml = format!("<{prefix}vtpm{namespace}{}>\n", domain.unwrap_or_default());
        for key in &self.keys {
            let generation = key.wrapped_dek.generation().unwrap_or_default();
            // XML has no way to write a control character, and none for these two.
            let unwritable = |c: char| c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}');
            let provider = key.provider.replace(unwritable, " ");
            let text = Base64::encode_string(key.wrapped_dek.as_bytes());
            let _ = writeln!(
                xml,
                "  <{prefix}key generation='{generation}' provider='{}'>{text}</{prefix}key>",
                escape(provider.as_str()),
            );
        }
        xml + &format!("</{prefix}vtpm>")
    }
}

/// What has been read so far, and which prefixes stand for the namespace.
#[derive(Debug, Default)]
pub(super) struct TravellingReading {
    prefixes: Vec<Declaration>,
    found: Option<TravellingKeys>,
    /// The `<vg:key>` that is open: its provider and its text.
    open: Option<(String, String)>,
    /// Bytes of text of all keys.
    text: usize,
}

/// An `xmlns` of an open element that bears on the namespace.
#[derive(Debug)]
struct Declaration {
    depth: usize,
    prefix: String,
    is_ours: bool,
}

impl TravellingReading {
    /// Takes the namespaces that a tag at this depth declares.
    pub(super) fn declare(&mut self, depth: usize, tag: &BytesStart<'_>) {
        for attribute in tag.attributes().with_checks(false).flatten() {
            let prefix = match attribute.key.as_ref().strip_prefix("xmlns") {
                Some("") => "",
                Some(prefix) => match prefix.strip_prefix(':') {
                    Some(prefix) => prefix,
                    None => continue,
                },
                None => continue,
            };
            let uri = attribute.normalized_value(XmlVersion::Implicit1_0);
            let is_ours = uri.is_ok_and(|uri| uri == NAMESPACE);
            let counts = is_ours || self.stands_for_it(prefix);
            if counts && self.prefixes.len() < MAX_DECLARATIONS {
                self.prefixes.push(Declaration {
                    depth,
                    prefix: prefix.to_owned(),
                    is_ours,
                });
            }
        }
    }

    fn stands_for_it(&self, prefix: &str) -> bool {
        let mut innermost = self.prefixes.iter().rev();
        innermost
            .find(|declared| declared.prefix == prefix)
            .is_some_and(|declared| declared.is_ours)
    }

    /// Elements deeper than this are closed.
    pub(super) fn close(&mut self, depth: usize) {
        while self
            .prefixes
            .pop_if(|declared| declared.depth > depth)
            .is_some()
        {}
    }

    /// Whether this tag is the namespace's element of this name.
    pub(super) fn is(&self, tag: &BytesStart<'_>, name: &str) -> bool {
        let full = tag.name();
        let (prefix, local) = full.as_ref().split_once(':').unwrap_or(("", full.as_ref()));
        local == name && self.stands_for_it(prefix)
    }

    /// Takes the tag of a `<vg:vtpm>`. Says whether its content counts.
    pub(super) fn begin(&mut self, tag: &BytesStart<'_>) -> bool {
        if let Some(found) = &mut self.found {
            found.fault.get_or_insert(TravellingFault::Second);
            return false;
        }
        let domain = value(tag, "domain").and_then(|text| DomainUuid::parse(&text).ok());
        self.found = Some(TravellingKeys {
            domain,
            keys: Vec::new(),
            fault: domain.is_none().then_some(TravellingFault::NoDomain),
        });
        true
    }

    /// Takes the tag of a `<vg:key>`.
    pub(super) fn begin_key(&mut self, tag: &BytesStart<'_>) {
        let provider = value(tag, "provider").unwrap_or_default();
        self.open = Some((provider, String::new()));
    }

    /// Takes text of the open `<vg:key>`.
    pub(super) fn text(&mut self, text: &str) {
        if let Some((_, open)) = &mut self.open {
            let text = text.chars().filter(|c| !c.is_ascii_whitespace());
            let room = MAX_KEY_TEXT + 1 - open.len().min(MAX_KEY_TEXT + 1);
            open.extend(text.take(room));
        }
    }

    /// The open `<vg:key>` ends.
    pub(super) fn end_key(&mut self) {
        let (Some((provider, text)), Some(found)) = (self.open.take(), &mut self.found) else {
            return;
        };
        self.text += text.len();
        let fits = text.len() <= MAX_KEY_TEXT && self.text <= MAX_TEXT;
        if !fits || found.keys.len() == MAX_KEYS {
            found.fault.get_or_insert(TravellingFault::TooLarge);
            return;
        }
        match Base64::decode_vec(&text) {
            Ok(bytes) if !bytes.is_empty() => found.keys.push(TravellingKey {
                wrapped_dek: WrappedDek::from_stored(bytes),
                provider,
            }),
            _ => {
                found.fault.get_or_insert(TravellingFault::NotBase64);
            }
        }
    }

    /// The document has ended.
    pub(super) fn finish(self) -> Option<TravellingKeys> {
        self.found
    }
}

/// An attribute; one that is too long is as none.
fn value(tag: &BytesStart<'_>, name: &str) -> Option<String> {
    let value = attribute(tag, name, "an attribute").ok().flatten();
    value.map(std::borrow::Cow::into_owned)
}
