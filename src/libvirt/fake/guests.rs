//! The guests of a fake libvirt, in its files.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use super::disk::write;
use crate::domain::{self, Domain, DomainXmlError};
use crate::host::dirs::LibvirtDirs;
use crate::ids::DomainUuid;
use crate::libvirt::files;
use crate::libvirt::guests::{Guest, SavedRuns, not_defined};
use crate::libvirt::secret::SecretError;

/// libvirt's files about guests.
#[derive(Clone)]
pub(crate) struct GuestFiles {
    pub(super) definitions: PathBuf,
    pub(super) running: PathBuf,
    managed_saves: PathBuf,
    snapshots: PathBuf,
}

impl GuestFiles {
    pub(super) fn of(dirs: &LibvirtDirs) -> Self {
        Self {
            definitions: dirs.definitions(),
            running: dirs.running(),
            managed_saves: dirs.managed_saves(),
            snapshots: dirs.snapshots(),
        }
    }

    /// Defines a persistent guest, or redefines it.
    pub(crate) fn define(&self, xml: &str) {
        write(&self.definition(&read(xml).name), xml.as_bytes());
    }

    /// From now on this program cannot read a guest's definition, which libvirt lists all the same.
    pub(crate) fn spoil(&self, name: &str) {
        let xml = fs::read_to_string(self.definition(name)).unwrap();
        let xml = xml.trim_end().strip_suffix("</domain>").unwrap();
        write(&self.definition(name), xml.as_bytes());
    }

    /// Removes a guest's definition. One that runs is transient then.
    pub(crate) fn undefine(&self, name: &str) {
        fs::remove_file(self.definition(name)).unwrap();
    }

    /// Creates a transient guest, which runs.
    pub(crate) fn create(&self, xml: &str) {
        let status = format!("<domstatus state='running'>\n  {xml}\n</domstatus>\n");
        write(&self.status(&read(xml).name), status.as_bytes());
    }

    /// Starts a persistent guest.
    pub(crate) fn start(&self, name: &str) {
        self.create(&fs::read_to_string(self.definition(name)).unwrap());
        let _ = fs::remove_file(self.managed_save(name));
    }

    /// Stops a guest.
    pub(crate) fn stop(&self, name: &str) {
        fs::remove_file(self.status(name)).unwrap();
    }

    /// Stops a guest, and saves its run (virsh managedsave).
    pub(crate) fn save(&self, name: &str) {
        let status = fs::read_to_string(self.status(name)).unwrap();
        let xml = files::domain_in(&status).unwrap();
        self.stop(name);
        fs::create_dir_all(&self.managed_saves).unwrap();
        write(&self.managed_save(name), &files::image(xml));
    }

    /// Takes a snapshot of a guest that runs.
    pub(crate) fn snapshot(&self, name: &str, snapshot: &str) {
        fs::create_dir_all(self.snapshots(name)).unwrap();
        write(&self.snapshots(name).join(format!("{snapshot}.xml")), b"");
    }

    pub(super) fn all(&self) -> Vec<Guest> {
        let mut guests = BTreeMap::new();
        for dir in [&self.definitions, &self.running] {
            for file in fs::read_dir(dir).unwrap() {
                let file = file.unwrap().file_name().into_string().unwrap();
                if let Some(guest) = file.strip_suffix(".xml").map(|name| self.describe(name)) {
                    guests.insert(guest.name.clone(), guest);
                }
            }
        }
        guests.into_values().collect()
    }

    pub(super) fn called(&self, name_or_uuid: &str) -> Vec<Guest> {
        let uuid = DomainUuid::parse(name_or_uuid).ok();
        let (by_uuid, others): (Vec<_>, _) = self
            .all()
            .into_iter()
            .partition(|guest| Some(guest.uuid) == uuid);
        let by_name = others
            .into_iter()
            .filter(|guest| guest.name == name_or_uuid);
        by_uuid.into_iter().chain(by_name).collect()
    }

    pub(super) fn saved_runs(&self, domain: DomainUuid) -> Result<SavedRuns, SecretError> {
        let Guest { name, .. } = self.with_uuid(domain)?;
        let snapshots = fs::read_dir(self.snapshots(&name)).map_or(0, Iterator::count);
        Ok(SavedRuns {
            managed_save: self.managed_save(&name).exists(),
            snapshots: snapshots.try_into().unwrap(),
        })
    }

    /// Changes the definition of a guest that has one.
    pub(super) fn redefine(
        &self,
        domain: DomainUuid,
        edit: impl FnOnce(&str) -> Result<Option<String>, DomainXmlError>,
    ) -> Result<bool, SecretError> {
        let guest = self.with_uuid(domain)?;
        if !guest.persistent {
            return Err(not_defined());
        }
        let edited = edit(&guest.xml).map_err(|error| SecretError::Refused(error.to_string()))?;
        if let Some(xml) = edited.as_ref().filter(|_| !self.is_fixed(&guest.name)) {
            self.define(xml);
        }
        Ok(edited.is_some())
    }

    fn with_uuid(&self, domain: DomainUuid) -> Result<Guest, SecretError> {
        let unknown = || {
            let words = format!("Domain not found: no domain with matching uuid '{domain}'");
            SecretError::Refused(words)
        };
        let found = self.called(&domain.to_string()).into_iter();
        let mut found = found.filter(|guest| guest.uuid == domain);
        found.next().ok_or_else(unknown)
    }

    fn describe(&self, name: &str) -> Guest {
        let definition = fs::read_to_string(self.definition(name)).ok();
        let status = fs::read_to_string(self.status(name)).ok();
        let (persistent, running) = (definition.is_some(), status.is_some());
        let live = || {
            let status = status.unwrap();
            let (_, xml) = status.split_once('\n').unwrap();
            let (xml, _) = xml.trim_end().rsplit_once('\n').unwrap();
            xml.trim_start().to_owned()
        };
        let xml = definition.unwrap_or_else(live);
        // Also of a definition that this program cannot read.
        let (_, rest) = xml.split_once("<uuid>").unwrap();
        let (uuid, _) = rest.split_once("</uuid>").unwrap();
        Guest {
            name: name.to_owned(),
            uuid: DomainUuid::parse(uuid).unwrap(),
            running,
            persistent,
            xml,
        }
    }

    pub(super) fn definition(&self, name: &str) -> PathBuf {
        self.definitions.join(format!("{name}.xml"))
    }

    pub(super) fn status(&self, name: &str) -> PathBuf {
        self.running.join(format!("{name}.xml"))
    }

    /// There while a job of the guest is on.
    pub(super) fn job(&self, name: &str) -> PathBuf {
        self.running.join(format!("{name}.job"))
    }

    /// From now on libvirt says of this guest that it has changed what it was told, and has not.
    pub(crate) fn keep_as_it_is(&self, name: &str) {
        write(&self.fixed(name), b"");
    }

    pub(super) fn is_fixed(&self, name: &str) -> bool {
        self.fixed(name).exists()
    }

    fn fixed(&self, name: &str) -> PathBuf {
        self.running.join(format!("{name}.fixed"))
    }

    fn managed_save(&self, name: &str) -> PathBuf {
        self.managed_saves.join(format!("{name}.save"))
    }

    fn snapshots(&self, name: &str) -> PathBuf {
        self.snapshots.join(name)
    }
}

fn read(xml: &str) -> Domain {
    domain::read(xml.as_bytes()).unwrap()
}
