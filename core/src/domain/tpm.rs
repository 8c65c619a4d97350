//! `/domain/devices/tpm` and its `<backend>`.

use std::borrow::Cow;
use std::path::Path;

use quick_xml::events::BytesStart;

use super::error::XmlError;
use super::xml::attribute;
use super::{Emulator, StateSource, TpmVersion, Vtpm};
use crate::ids::SecretUuid;

/// `/domain/devices/tpm`.
#[derive(Debug)]
pub(super) struct Tpm {
    /// Model `tpm-tis`, or none named.
    is_tis: bool,
    /// Its `<backend>` is of type emulator, whatever else is wrong with it.
    is_emulated: bool,
    backend: Option<Backend>,
}

/// Its `<backend>`.
#[derive(Debug)]
struct Backend {
    kind: BackendKind,
    version: Option<TpmVersion>,
    secret: Option<SecretUuid>,
    persistent_state: bool,
    source: Option<StateSource>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BackendKind {
    Emulator,
    Passthrough,
    External,
}

impl Tpm {
    /// Reads the tag. `None` for a `spapr-tpm-proxy`, which is there beside the domain's TPM.
    pub(super) fn read(tag: &BytesStart<'_>) -> Result<Option<Self>, XmlError> {
        let model = attribute(tag, "model", "a TPM model")?;
        if model.as_deref() == Some("spapr-tpm-proxy") {
            return Ok(None);
        }
        let is_tis = model.is_none_or(|model| model == "tpm-tis");
        Ok(Some(Self {
            is_tis,
            is_emulated: false,
            backend: None,
        }))
    }

    /// Whether a `<backend type='emulator'>` has been seen in it, right or wrong.
    pub(super) fn is_emulated(&self) -> bool {
        self.is_emulated
    }

    /// Takes the tag of its `<backend>`.
    pub(super) fn take_backend(&mut self, tag: &BytesStart<'_>) -> Result<(), XmlError> {
        let kind = attribute(tag, "type", "a type of TPM backend")?;
        self.is_emulated |= kind.as_deref() == Some("emulator");
        put("backend", &mut self.backend, Backend::read(tag)?)
    }

    /// Takes the tag of an element inside its `<backend>`.
    pub(super) fn take_backend_child(
        &mut self,
        name: &str,
        tag: &BytesStart<'_>,
    ) -> Result<(), XmlError> {
        self.backend
            .as_mut()
            .map_or(Ok(()), |backend| backend.take_child(name, tag))
    }

    /// Checks, at its end, that nothing is missing.
    pub(super) fn check(&self) -> Result<(), XmlError> {
        match self.backend {
            Some(_) => Ok(()),
            None => Err(XmlError::MissingChild {
                element: "tpm",
                child: "backend",
            }),
        }
    }

    /// What it is to the guard. `on_x86` decides the version that libvirt assumes where none
    /// is named (`qemuDomainTPMDefPostParse`, libvirt 9.0 to 12).
    pub(super) fn into_vtpm(self, on_x86: bool) -> Option<Vtpm> {
        let backend = self.backend?;
        Some(match backend.kind {
            BackendKind::Passthrough => Vtpm::Passthrough,
            BackendKind::External => Vtpm::External,
            BackendKind::Emulator => {
                let default = if self.is_tis && on_x86 {
                    TpmVersion::V1_2
                } else {
                    TpmVersion::V2_0
                };
                Vtpm::Emulator(Emulator {
                    version: backend.version.unwrap_or(default),
                    secret_uuid: backend.secret,
                    persistent_state: backend.persistent_state,
                    source: backend.source,
                })
            }
        })
    }
}

impl Backend {
    fn read(tag: &BytesStart<'_>) -> Result<Self, XmlError> {
        let kind = match &*required(tag, "backend", "type", "a type of TPM backend")? {
            "emulator" => BackendKind::Emulator,
            "passthrough" => BackendKind::Passthrough,
            "external" => BackendKind::External,
            other => return Err(XmlError::bad_value("a known type of TPM backend", other)),
        };
        let version = match attribute(tag, "version", "a TPM version")?.as_deref() {
            None => None,
            Some("1.2") => Some(TpmVersion::V1_2),
            Some("2.0") => Some(TpmVersion::V2_0),
            Some(other) => return Err(XmlError::bad_value("a known TPM version", other)),
        };
        let persistent_state = attribute(tag, "persistent_state", "yes or no")?;
        Ok(Self {
            kind,
            version,
            persistent_state: persistent_state.as_deref() == Some("yes"),
            secret: None,
            source: None,
        })
    }

    /// Takes an element inside the backend. Those of the other backends mean other things:
    /// an external one's `<source>` is a socket.
    fn take_child(&mut self, name: &str, tag: &BytesStart<'_>) -> Result<(), XmlError> {
        if self.kind != BackendKind::Emulator {
            return Ok(());
        }
        match name {
            "encryption" => {
                let secret = required(tag, "encryption", "secret", "a secret's UUID")?;
                let secret = SecretUuid::parse(&secret)
                    .map_err(|_| XmlError::bad_value("a secret's UUID", &secret))?;
                put("encryption", &mut self.secret, secret)
            }
            "source" => {
                let kind = required(tag, "source", "type", "a type of TPM source")?;
                let path = required(tag, "source", "path", "a path")?;
                if !Path::new(&*path).is_absolute() {
                    return Err(XmlError::bad_value("an absolute path", &path));
                }
                let source = match &*kind {
                    "dir" => StateSource::Dir(path.into_owned().into()),
                    "file" => StateSource::File(path.into_owned().into()),
                    other => return Err(XmlError::bad_value("a known type of TPM source", other)),
                };
                put("source", &mut self.source, source)
            }
            _ => Ok(()),
        }
    }
}

/// An attribute that must be there.
fn required<'t>(
    tag: &'t BytesStart<'_>,
    element: &'static str,
    name: &'static str,
    what: &'static str,
) -> Result<Cow<'t, str>, XmlError> {
    attribute(tag, name, what)?.ok_or(XmlError::MissingAttribute {
        element,
        attribute: name,
    })
}

/// Fills a slot that may be filled only once.
pub(super) fn put<T>(
    element: &'static str,
    slot: &mut Option<T>,
    value: T,
) -> Result<(), XmlError> {
    if slot.is_some() {
        return Err(XmlError::Repeated(element));
    }
    *slot = Some(value);
    Ok(())
}
