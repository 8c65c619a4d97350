//! XML, as far as it does not concern domains: events one by one, names, attributes,
//! references, encodings.

use std::borrow::Cow;
use std::io::{self, BufRead};

use quick_xml::XmlVersion;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::{BytesDecl, BytesRef, BytesStart, Event};
use quick_xml::reader::Reader;

use super::error::{DomainXmlError, XmlError, excerpt};
use super::input::{Bounded, Stop};

/// Bytes of a name of an element or attribute: libxml2, which reads for libvirt, takes no longer
/// ones (`XML_MAX_NAME_LENGTH`).
const MAX_XML_NAME: usize = 50_000;

/// Bytes of a value that is kept: Linux's `PATH_MAX`; names and UUIDs are far shorter.
pub(super) const MAX_VALUE: usize = 4096;

/// Hands every event of the document to `take`, an empty element as its start and its end.
pub(super) fn for_each_event(
    mut input: impl BufRead,
    mut take: impl FnMut(&Event<'_>) -> Result<(), XmlError>,
) -> Result<(), DomainXmlError> {
    let mut head = [0; 4];
    let head = read_head(&mut input, &mut head)?;
    if is_wide(head) {
        return Err(DomainXmlError::Invalid {
            line: 1,
            error: XmlError::WideEncoding,
        });
    }
    // The parser takes a UTF-8 byte order mark away, if it comes in one read: hence the head.
    let mut reader = Reader::from_reader(Bounded::new(io::Read::chain(head, input)));
    reader.config_mut().expand_empty_elements = true;
    reader.config_mut().check_comments = true;
    let mut piece = Vec::new();
    loop {
        let line = reader.get_ref().line();
        let invalid = |error| DomainXmlError::Invalid { line, error };
        reader.get_mut().begin_piece();
        piece.clear();
        match reader.read_event_into(&mut piece) {
            Ok(Event::Eof) => return Ok(()),
            Ok(event) => take(&event).map_err(invalid)?,
            Err(error) => {
                return Err(match reader.get_mut().take_stop() {
                    Some(Stop::Io(error)) => DomainXmlError::Io(error),
                    Some(Stop::Limit(error)) => invalid(error),
                    None => invalid(error.into()),
                });
            }
        }
    }
}

/// Reads the first bytes, fewer only where the input has no more.
fn read_head<'h>(input: &mut impl io::Read, head: &'h mut [u8; 4]) -> io::Result<&'h [u8]> {
    let mut length = 0;
    while length < head.len() {
        match input.read(&mut head[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(&head[..length])
}

/// Whether these are the first bytes of UTF-16 or UTF-32: a byte order mark, or a NUL beside
/// the first character (XML 1.0, appendix F.1).
fn is_wide(head: &[u8]) -> bool {
    head.starts_with(&[0xFE, 0xFF]) || head.starts_with(&[0xFF, 0xFE]) || head.contains(&0)
}

/// Refuses an XML declaration that names another encoding than UTF-8 and its subset.
pub(super) fn check_declaration(declaration: &BytesDecl<'_>) -> Result<(), XmlError> {
    let Some(encoding) = declaration.encoding().transpose()? else {
        return Ok(());
    };
    let known = ["utf-8", "utf8", "us-ascii", "ascii"];
    if known.iter().any(|name| encoding.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(XmlError::DeclaredEncoding(excerpt(&encoding)))
}

/// Checks names, values and references of a start tag, of ignored elements too. Says whether
/// it declares a default namespace, so that itself and what is in it are foreign.
pub(super) fn check_tag(tag: &BytesStart<'_>) -> Result<bool, XmlError> {
    check_name(tag.name().as_ref())?;
    let mut foreign = false;
    // The parser's own look for repeated names takes the square of their number.
    let mut names = Vec::new();
    for attribute in tag.attributes().with_checks(false) {
        let attribute = attribute?;
        check_name(attribute.key.as_ref())?;
        names.push(attribute.key.into_inner());
        if attribute.value.contains('<') {
            return Err(XmlError::Syntax(
                "an attribute's value contains \"<\"".to_owned(),
            ));
        }
        attribute.normalized_value(XmlVersion::Implicit1_0)?;
        foreign |= attribute.key.as_ref() == "xmlns" && !attribute.value.is_empty();
    }
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let name = excerpt(pair[0]);
        return Err(XmlError::Syntax(format!(
            "the attribute \"{name}\" is there twice"
        )));
    }
    Ok(foreign)
}

/// A name by the rule of XML 1.0, section 2.3, in ASCII; beyond ASCII anything goes.
fn check_name(name: &str) -> Result<(), XmlError> {
    let starts = |c: char| c.is_ascii_alphabetic() || matches!(c, '_' | ':') || !c.is_ascii();
    let goes_on = |c: char| starts(c) || c.is_ascii_digit() || matches!(c, '-' | '.');
    if name.len() <= MAX_XML_NAME && name.starts_with(starts) && name.chars().all(goes_on) {
        return Ok(());
    }
    Err(XmlError::BadXmlName(excerpt(name)))
}

/// The value of an attribute without namespace; `what` names it in errors.
pub(super) fn attribute<'t>(
    tag: &'t BytesStart<'_>,
    name: &str,
    what: &'static str,
) -> Result<Option<Cow<'t, str>>, XmlError> {
    let Some(attribute) = tag.try_get_attribute(name)? else {
        return Ok(None);
    };
    let value = attribute.normalized_value(XmlVersion::Implicit1_0)?;
    if value.len() > MAX_VALUE {
        return Err(XmlError::TooLong {
            what,
            limit: MAX_VALUE,
        });
    }
    Ok(Some(value))
}

/// What a reference in a text stands for: a character, or one of XML's five entities.
pub(super) fn resolve(reference: &BytesRef<'_>) -> Result<Cow<'static, str>, XmlError> {
    if let Some(character) = reference.resolve_char_ref()? {
        return Ok(Cow::Owned(character.into()));
    }
    match resolve_xml_entity(reference) {
        Some(text) => Ok(Cow::Borrowed(text)),
        None => Err(XmlError::UnknownEntity(excerpt(reference))),
    }
}
