//! The guard's element in the metadata of the guests of a fake libvirt.

use std::fs;
use std::path::Path;

use super::disk::write;
use super::guests::GuestFiles;
use crate::domain::{NAMESPACE, TravellingKeys};
use crate::ids::DomainUuid;
use crate::libvirt::metadata::{Element, Metadata, MetadataChange};

/// How the element begins and ends; the tests write it with this prefix alone.
const TAGS: (&str, &str) = ("<vg:vtpm", "</vg:vtpm>");

impl GuestFiles {
    pub(super) fn metadata(&self, domain: DomainUuid) -> Option<Metadata> {
        let name = self.name_of(domain)?;
        Some(Metadata {
            live: element(&self.status(&name)),
            persistent: element(&self.definition(&name)),
        })
    }

    pub(super) fn set_metadata(&self, domain: DomainUuid, element: Option<&str>) -> MetadataChange {
        let Some(name) = self.name_of(domain) else {
            return MetadataChange::Gone;
        };
        if self.job(&name).exists() {
            return MetadataChange::Busy;
        }
        let element = element.map(|text| TravellingKeys::from_libvirt(text).unwrap().to_xml());
        let files = [self.status(&name), self.definition(&name)];
        for file in files.iter().filter(|_| !self.is_fixed(&name)) {
            if let Ok(xml) = fs::read_to_string(file) {
                write(file, set(&xml, element.as_deref()).as_bytes());
            }
        }
        MetadataChange::Done(self.metadata(domain).unwrap())
    }

    /// Begins a job of a guest, for which a change of its metadata would have to wait.
    pub(crate) fn begin_job(&self, name: &str) {
        write(&self.job(name), b"");
    }

    /// Ends it.
    pub(crate) fn end_job(&self, name: &str) {
        fs::remove_file(self.job(name)).unwrap();
    }

    fn name_of(&self, domain: DomainUuid) -> Option<String> {
        // Not by a list of all, which would be made once for each guest of many.
        let uuid = format!("<uuid>{domain}</uuid>");
        let files = [&self.definitions, &self.running].map(|dir| fs::read_dir(dir).unwrap());
        let mut paths = files.into_iter().flatten().map(|file| file.unwrap().path());
        let found = paths.find(|path| {
            let xml = fs::read_to_string(path).unwrap_or_default();
            path.extension().is_some_and(|extension| extension == "xml") && xml.contains(&uuid)
        });
        Some(found?.file_stem()?.to_str()?.to_owned())
    }
}

/// The element in this file, without prefix and namespace.
fn element(file: &Path) -> Element {
    let Ok(xml) = fs::read_to_string(file) else {
        return Element::NoDefinition;
    };
    let Some((_, element, _)) = split(&xml) else {
        return Element::Missing;
    };
    let bare = element.replace(&format!(" xmlns:vg='{NAMESPACE}'"), "");
    Element::Present(bare.replace("<vg:", "<").replace("</vg:", "</"))
}

/// What stands before the element, the element, and what stands behind it.
fn split(xml: &str) -> Option<(&str, String, &str)> {
    let (begin, end) = TAGS;
    let (before, rest) = xml.split_once(begin)?;
    let (inside, after) = rest.split_once(end).unwrap();
    Some((before, format!("{begin}{inside}{end}"), after))
}

fn set(xml: &str, element: Option<&str>) -> String {
    let without = match split(xml) {
        Some((before, _, after)) => format!("{before}{after}"),
        None => xml.to_owned(),
    };
    let without = without.replace("<metadata></metadata>", "");
    match element {
        None => without,
        Some(element) if without.contains("</metadata>") => {
            without.replace("</metadata>", &format!("{element}</metadata>"))
        }
        Some(element) => without.replacen(
            "</uuid>",
            &format!("</uuid><metadata>{element}</metadata>"),
            1,
        ),
    }
}
