//! From XML events to a [`Domain`].
//!
//! libvirt finds things by `XPath` without namespaces: `/domain/name[1]`, `/domain/devices/tpm`.
//! An element below one without namespace has none itself exactly if its name bears no prefix
//! and it declares no default namespace. Everything else is ignored with all that is in it,
//! so no table of namespaces is needed.

use quick_xml::events::{BytesStart, Event};

use super::Domain;
use super::error::{DomainXmlError, XmlError, excerpt};
use super::tpm::{Tpm, put};
use super::travelling::TravellingReading;
use super::xml::{self, MAX_VALUE, attribute};
use crate::ids::DomainUuid;

/// Levels of elements; libvirt's own documents stay below 12, `<metadata>` may go as deep as
/// libxml2 does (`xmlParserMaxDepth`, 256 before 2.14).
const MAX_DEPTH: usize = 2048;

/// Bytes of the names of all open elements, which the parser keeps: as many as libvirt's own
/// calls carry of a whole document.
const MAX_OPEN_NAMES: usize = 4 << 20;

/// What has been read so far.
#[derive(Debug, Default)]
pub(super) struct Reading {
    context: XmlContext,
    /// Open elements, ignored ones too.
    depth: usize,
    /// Bytes of their names.
    open_names: usize,
    /// Open elements from the outermost ignored one.
    ignored: usize,
    /// Whether anything has been read: then an XML declaration comes too late.
    begun: bool,
    /// Whether `<domain>` has been seen.
    rooted: bool,
    /// Of the `<name>` or `<uuid>` that is open.
    text: String,
    name: Option<String>,
    uuid: Option<DomainUuid>,
    /// `/domain/os/type/@arch` is another one than x86. None named is the host's own, and
    /// TPM 1.2 is a matter of x86.
    other_arch: bool,
    tpm: Option<Tpm>,
    travelling: TravellingReading,
}

/// Where the reading is: the innermost open element that is not ignored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum XmlContext {
    #[default]
    Outside,
    Domain,
    Name,
    Uuid,
    Metadata,
    TravellingKeys,
    TravellingKey,
    Os,
    Devices,
    Tpm,
    Backend,
}

impl XmlContext {
    fn is_in_metadata(self) -> bool {
        matches!(
            self,
            Self::Metadata | Self::TravellingKeys | Self::TravellingKey
        )
    }
}

impl Reading {
    /// Takes the next event.
    pub(super) fn take(&mut self, event: &Event<'_>) -> Result<(), XmlError> {
        let begun = std::mem::replace(&mut self.begun, true);
        match event {
            Event::Start(tag) => self.open(tag),
            Event::End(tag) => {
                self.open_names = self.open_names.saturating_sub(tag.name().as_ref().len());
                self.close()
            }
            Event::Text(text) if self.depth > 0 => {
                self.text(&text.xml10_content());
                Ok(())
            }
            Event::CData(text) if self.depth > 0 => {
                self.text(&text.xml10_content());
                Ok(())
            }
            Event::GeneralRef(reference) if self.depth > 0 => {
                self.text(&xml::resolve(reference)?);
                Ok(())
            }
            Event::Text(text) if text.trim_ascii().is_empty() => Ok(()),
            Event::Decl(declaration) if !begun => xml::check_declaration(declaration),
            Event::Decl(_) => Err(XmlError::Syntax(
                "an XML declaration inside the document".into(),
            )),
            Event::DocType(_) => Err(XmlError::Doctype),
            Event::Text(_) | Event::CData(_) | Event::GeneralRef(_) => Err(XmlError::OutsideRoot),
            Event::Comment(_) | Event::PI(_) | Event::Empty(_) | Event::Eof => Ok(()),
        }
    }

    fn open(&mut self, tag: &BytesStart<'_>) -> Result<(), XmlError> {
        self.depth += 1;
        self.open_names += tag.name().as_ref().len();
        if self.depth > MAX_DEPTH || self.open_names > MAX_OPEN_NAMES {
            return Err(XmlError::TooDeep { limit: MAX_DEPTH });
        }
        let foreign = xml::check_tag(tag)?;
        if self.ignored == 0
            && let Some(context) = self.enter(tag, foreign)?
        {
            self.context = context;
        } else {
            self.ignored += 1;
        }
        Ok(())
    }

    /// Takes what an element's tag says. `None` if its content is to be ignored.
    fn enter(
        &mut self,
        tag: &BytesStart<'_>,
        foreign: bool,
    ) -> Result<Option<XmlContext>, XmlError> {
        let name = tag.name();
        if self.context == XmlContext::Outside {
            if std::mem::replace(&mut self.rooted, true) {
                return Err(XmlError::OutsideRoot);
            }
            if foreign || name.as_ref() != "domain" {
                return Err(XmlError::NotADomain(excerpt(name.as_ref())));
            }
            self.travelling.declare(self.depth, tag);
            return Ok(Some(XmlContext::Domain));
        }
        if foreign && self.context == XmlContext::Domain {
            return Ok(None);
        }
        if self.context == XmlContext::Domain && name.as_ref() == "metadata" {
            self.travelling.declare(self.depth, tag);
            return Ok(Some(XmlContext::Metadata));
        }
        if self.context.is_in_metadata() {
            self.travelling.declare(self.depth, tag);
            return Ok(self.enter_travelling(tag));
        }
        if foreign {
            return Ok(None);
        }
        Ok(match (self.context, name.as_ref()) {
            (XmlContext::Domain, "name") if self.name.is_none() => Some(XmlContext::Name),
            (XmlContext::Domain, "uuid") if self.uuid.is_none() => Some(XmlContext::Uuid),
            (XmlContext::Domain, "os") => Some(XmlContext::Os),
            (XmlContext::Domain, "devices") => Some(XmlContext::Devices),
            (XmlContext::Os, "type") => {
                let arch = attribute(tag, "arch", "an architecture")?;
                self.other_arch = arch.is_some_and(|arch| arch != "x86_64" && arch != "i686");
                None
            }
            (XmlContext::Devices, "tpm") => match Tpm::read(tag)? {
                Some(tpm) => {
                    put("tpm", &mut self.tpm, tpm)?;
                    Some(XmlContext::Tpm)
                }
                None => None,
            },
            (XmlContext::Tpm, "backend") => {
                if let Some(tpm) = &mut self.tpm {
                    tpm.take_backend(tag)?;
                }
                Some(XmlContext::Backend)
            }
            (XmlContext::Backend, name) => {
                if let Some(tpm) = &mut self.tpm {
                    tpm.take_backend_child(name, tag)?;
                }
                None
            }
            _ => None,
        })
    }

    /// Likewise, inside of `<metadata>`.
    fn enter_travelling(&mut self, tag: &BytesStart<'_>) -> Option<XmlContext> {
        match self.context {
            XmlContext::Metadata if self.travelling.is(tag, "vtpm") => {
                let counts = self.travelling.begin(tag);
                counts.then_some(XmlContext::TravellingKeys)
            }
            XmlContext::TravellingKeys if self.travelling.is(tag, "key") => {
                self.travelling.begin_key(tag);
                Some(XmlContext::TravellingKey)
            }
            _ => None,
        }
    }

    fn close(&mut self) -> Result<(), XmlError> {
        self.depth -= 1;
        if self.ignored > 0 {
            self.ignored -= 1;
            self.travelling.close(self.depth);
            return Ok(());
        }
        self.travelling.close(self.depth);
        self.context = match self.context {
            XmlContext::Outside | XmlContext::Domain => XmlContext::Outside,
            XmlContext::Name => {
                self.name = Some(domain_name(&self.text)?);
                self.text.clear();
                XmlContext::Domain
            }
            XmlContext::Uuid => {
                let uuid = DomainUuid::parse(&self.text);
                self.uuid = Some(uuid.map_err(|_| XmlError::bad_value("a UUID", &self.text))?);
                self.text.clear();
                XmlContext::Domain
            }
            XmlContext::TravellingKey => {
                self.travelling.end_key();
                XmlContext::TravellingKeys
            }
            XmlContext::TravellingKeys => XmlContext::Metadata,
            XmlContext::Metadata | XmlContext::Os | XmlContext::Devices => XmlContext::Domain,
            XmlContext::Tpm => {
                self.tpm.as_ref().map_or(Ok(()), Tpm::check)?;
                XmlContext::Devices
            }
            XmlContext::Backend => XmlContext::Tpm,
        };
        Ok(())
    }

    fn text(&mut self, text: &str) {
        if self.ignored == 0 && self.context == XmlContext::TravellingKey {
            self.travelling.text(text);
        }
        if self.ignored == 0 && matches!(self.context, XmlContext::Name | XmlContext::Uuid) {
            // Of a longer name, which is for people only, the beginning will do; a longer UUID
            // is none.
            let mut end = text.len().min(MAX_VALUE - self.text.len());
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            self.text.push_str(&text[..end]);
        }
    }

    /// Whether the last event was the tag of the TPM's `<backend>`, or something in it that
    /// is not looked at.
    pub(super) fn is_at_backend(&self) -> bool {
        self.context == XmlContext::Backend
    }

    /// Whether an emulated TPM has been seen, as far as the document was read.
    pub(super) fn has_emulated_tpm(&self) -> bool {
        self.tpm.as_ref().is_some_and(Tpm::is_emulated)
    }

    /// The document has ended.
    pub(super) fn finish(self) -> Result<Domain, DomainXmlError> {
        if self.depth > 0 || !self.rooted {
            return Err(DomainXmlError::Truncated);
        }
        let on_x86 = !self.other_arch;
        Ok(Domain {
            name: self.name.ok_or(DomainXmlError::Missing("name"))?,
            uuid: self.uuid.ok_or(DomainXmlError::Missing("uuid"))?,
            vtpm: self.tpm.and_then(|tpm| tpm.into_vtpm(on_x86)),
            travelling: self.travelling.finish(),
        })
    }
}

/// A domain's name: whatever libvirt has taken for one, control characters included. It takes
/// blanks at its ends for part of it, but no line break there: one comes from laying out the
/// document, with the blanks around it.
fn domain_name(text: &str) -> Result<String, XmlError> {
    let name = if text.contains('\n') {
        text.trim_ascii()
    } else {
        text
    };
    if name.is_empty() {
        return Err(XmlError::bad_value("a domain's name", name));
    }
    Ok(name.to_owned())
}
