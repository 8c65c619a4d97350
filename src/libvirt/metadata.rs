//! The guard's element in the metadata of a guest, as libvirt returns and takes it.

use serde::{Deserialize, Serialize};

/// The guard's element in a guest's definitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// In the definition of the guest that runs.
    pub live: Element,
    /// In the one that its next start uses.
    pub persistent: Element,
}

/// The guard's element in one definition of a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Element {
    /// There is no such definition: the guest does not run, or is transient.
    NoDefinition,
    /// The definition has none.
    Missing,
    /// This one, without prefix and namespace.
    Present(String),
}

impl Metadata {
    /// The definitions that there are: `None` for one without the element.
    pub fn elements(&self) -> impl Iterator<Item = Option<&str>> {
        [&self.live, &self.persistent]
            .into_iter()
            .filter_map(|element| match element {
                Element::NoDefinition => None,
                Element::Missing => Some(None),
                Element::Present(text) => Some(Some(text.as_str())),
            })
    }
}

/// What setting the element did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataChange {
    /// It is done; this was read back.
    Done(Metadata),
    /// A job of the guest (a migration, a save, a backup) is in the way. It may yet happen.
    Busy,
    /// libvirt does not know the guest.
    Gone,
}
