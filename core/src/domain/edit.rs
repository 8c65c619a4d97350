//! The two changes that the guard makes to a domain XML: an emulated TPM gets `<encryption>`, or
//! `persistent_state='yes'`.
//!
//! They are spliced into the text, so that every other byte stays as libvirt wrote it.

use quick_xml::events::Event;
use quick_xml::reader::Reader;

use super::parse::Reading;
use super::{Domain, DomainXmlError, Emulator, Vtpm, XmlError, read};
use crate::ids::SecretUuid;

/// The attribute with which libvirt keeps a TPM's state when it forgets the guest.
const PERSISTENT_STATE: &str = "persistent_state";

/// The document with `<encryption secret='…'/>` as the first child of the `<backend>` of its
/// emulated TPM. `None` if it has no emulated TPM, or one that has the element already.
pub fn encrypt_vtpm(document: &str, secret: SecretUuid) -> Result<Option<String>, DomainXmlError> {
    let change = |vtpm: &mut Emulator| vtpm.secret_uuid.replace(secret).is_none();
    edit(document, change, |head| {
        let element = format!("<encryption secret='{secret}'/>");
        match head.strip_suffix("/>") {
            Some(head) => format!("{head}>{element}</backend>"),
            None => format!("{head}{element}"),
        }
    })
}

/// The document with `persistent_state='yes'` in the `<backend>` of its emulated TPM. `None` if it
/// has no emulated TPM, or one that has the attribute already.
pub fn persist_vtpm_state(document: &str) -> Result<Option<String>, DomainXmlError> {
    let change = |vtpm: &mut Emulator| !std::mem::replace(&mut vtpm.persistent_state, true);
    edit(document, change, |head| {
        // No attribute's value has a bare "<" in it.
        let (before, tag) = head.split_at(head.rfind('<').unwrap_or_default());
        let tag = without_attribute(tag, PERSISTENT_STATE);
        let end = if tag.ends_with("/>") { "/>" } else { ">" };
        let open = tag.strip_suffix(end).unwrap_or(&tag).trim_ascii_end();
        format!("{before}{open} {PERSISTENT_STATE}='yes'{end}")
    })
}

/// Edits the text up to the end of the `<backend>` tag of the emulated TPM, if `change` says that
/// this TPM is to be changed, and how it is to read then.
fn edit(
    document: &str,
    change: impl FnOnce(&mut Emulator) -> bool,
    splice: impl FnOnce(&str) -> String,
) -> Result<Option<String>, DomainXmlError> {
    let mut wanted: Domain = read(document.as_bytes())?;
    let is_wanted = match &mut wanted.vtpm {
        Some(Vtpm::Emulator(vtpm)) => change(vtpm),
        _ => false,
    };
    let Some(end_of_tag) = end_of_backend_tag(document)?.filter(|_| is_wanted) else {
        return Ok(None);
    };
    let (head, tail) = document.split_at(end_of_tag);
    let edited = splice(head) + tail;
    // What goes to libvirt is what was meant, whatever the document looked like.
    Ok((read(edited.as_bytes())? == wanted).then_some(edited))
}

/// A tag without this attribute.
fn without_attribute(tag: &str, name: &str) -> String {
    let blank = |text: &str| text.ends_with(|last: char| last.is_ascii_whitespace());
    for (at, _) in tag.match_indices(name).filter(|(at, _)| blank(&tag[..*at])) {
        let rest = tag[at + name.len()..].trim_ascii_start();
        let value = rest.strip_prefix('=').map(str::trim_ascii_start);
        let quote = value.and_then(|value| value.chars().next());
        if let (Some(value), Some(quote @ ('\'' | '"'))) = (value, quote)
            && let Some((_, rest)) = value[1..].split_once(quote)
        {
            return format!("{}{rest}", tag[..at].trim_ascii_end());
        }
    }
    tag.to_owned()
}

/// Where the tag of the TPM's `<backend>` ends, in bytes.
fn end_of_backend_tag(document: &str) -> Result<Option<usize>, DomainXmlError> {
    let invalid = |error: XmlError| DomainXmlError::Invalid { line: 1, error };
    let mut reader = Reader::from_str(document);
    reader.config_mut().expand_empty_elements = true;
    let mut reading = Reading::default();
    loop {
        let event = reader.read_event().map_err(|error| invalid(error.into()))?;
        if event == Event::Eof {
            return Ok(None);
        }
        reading.take(&event).map_err(invalid)?;
        if reading.is_at_backend() {
            return Ok(usize::try_from(reader.buffer_position())
                .ok()
                .filter(|&position| document.is_char_boundary(position)));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const SECRET: &str = "6f0c3c6e-4c0f-4b0d-9d52-8a3f0a9a0001";

    fn secret() -> SecretUuid {
        SECRET.parse().unwrap()
    }

    /// A domain with a foreign `<tpm>` in its metadata, an ignored one of another model, and
    /// this backend.
    fn domain(backend: &str) -> String {
        format!(
            "<domain type='kvm'>\n  <name>vm &amp; ü</name>\n  \
             <uuid>7c1d3b52-9a4e-4c55-8f10-0123456789ab</uuid>\n  \
             <metadata><x:tpm xmlns:x='urn:x'><backend type='emulator'/></x:tpm></metadata>\n  \
             <devices>\n    <!-- <backend/> -->\n    \
             <tpm model='spapr-tpm-proxy'><backend type='passthrough'/></tpm>\n    \
             <tpm model='tpm-crb'>\n      {backend}\n    </tpm>\n  </devices>\n</domain>\n"
        )
    }

    fn element() -> String {
        format!("<encryption secret='{SECRET}'/>")
    }

    #[test]
    fn an_empty_backend_is_opened_for_it() {
        let document = domain("<backend type='emulator' version='2.0'/>");
        let edited = encrypt_vtpm(&document, secret()).unwrap().unwrap();
        let tag = "<backend type='emulator' version='2.0'>";
        assert_eq!(edited, domain(&format!("{tag}{}</backend>", element())));
    }

    #[test]
    fn a_backend_with_children_gets_it_first_and_keeps_them() {
        let tag = "<backend type='emulator' persistent_state=\"yes\" >";
        let rest = "\n  <active_pcr_banks><sha256/></active_pcr_banks></backend>";
        let edited = encrypt_vtpm(&domain(&format!("{tag}{rest}")), secret());
        assert_eq!(
            edited.unwrap().unwrap(),
            domain(&format!("{tag}{}{rest}", element()))
        );
    }

    #[test]
    fn a_tpm_that_is_encrypted_already_or_not_emulated_is_left_alone() {
        let encrypted = format!("<backend type='emulator'>{}</backend>", element());
        for backend in [&encrypted, "<backend type='passthrough'/>"] {
            assert_eq!(encrypt_vtpm(&domain(backend), secret()).unwrap(), None);
        }
        let without =
            "<domain><name>a</name><uuid>7c1d3b52-9a4e-4c55-8f10-0123456789ab</uuid></domain>";
        assert_eq!(encrypt_vtpm(without, secret()).unwrap(), None);
    }

    #[test]
    fn a_backend_gets_the_attribute_once_and_nothing_else_changes() {
        let element = element();
        for (before, after) in [
            (
                "<backend type='emulator' version='2.0'/>".to_owned(),
                "<backend type='emulator' version='2.0' persistent_state='yes'/>".to_owned(),
            ),
            (
                format!("<backend type='emulator' >{element}</backend>"),
                format!("<backend type='emulator' persistent_state='yes'>{element}</backend>"),
            ),
            (
                "<backend persistent_state = \"no\" type='emulator' debug='20' />".to_owned(),
                "<backend type='emulator' debug='20' persistent_state='yes'/>".to_owned(),
            ),
        ] {
            let edited = persist_vtpm_state(&domain(&before)).unwrap();
            assert_eq!(edited, Some(domain(&after)));
            assert_eq!(persist_vtpm_state(&domain(&after)).unwrap(), None);
        }
        let other = domain("<backend type='passthrough'/>");
        assert_eq!(persist_vtpm_state(&other).unwrap(), None);
    }

    #[test]
    fn a_document_that_is_no_domain_is_an_error() {
        assert!(encrypt_vtpm("<domain><devices>", secret()).is_err());
        assert!(persist_vtpm_state("<domain><devices>").is_err());
    }
}
