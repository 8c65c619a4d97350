//! Which guests will start with the daemon, as far as its files tell: it cannot be asked yet.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use crate::domain::{self, Domain};
use crate::ids::DomainUuid;

/// The definition of a guest, or why it could not be read.
pub struct Definition {
    /// The guest's name: its file's.
    pub name: String,
    /// The domain.
    pub domain: Result<Domain, String>,
}

/// The places of libvirt's files about guests.
pub struct DefinitionFiles {
    /// The persistent definitions, `NAME.xml`; below it `autostart`, with a link `NAME.xml` to
    /// the definition of each guest that starts with the daemon, and `NAME.xml.once` of one
    /// that does so once (libvirt 11.2; `virDomainObjListLoadConfig` in its
    /// `src/conf/virdomainobjlist.c`).
    pub definitions: PathBuf,
    /// `NAME.xml` of each guest that runs; gone after a boot.
    pub running: PathBuf,
    /// The list of what libvirt-guests has saved or shut down, and will start again: a line
    /// for each connection, its URI and then UUIDs.
    pub stopped_for_shutdown: PathBuf,
}

impl Default for DefinitionFiles {
    fn default() -> Self {
        Self {
            definitions: "/etc/libvirt/qemu".into(),
            running: "/run/libvirt/qemu".into(),
            stopped_for_shutdown: "/var/lib/libvirt/libvirt-guests".into(),
        }
    }
}

impl DefinitionFiles {
    /// The guests that will start with the daemon, by name. One that runs already needs no key.
    pub fn starting(&self) -> io::Result<Vec<Definition>> {
        let mut names = BTreeSet::new();
        for link in file_names(&self.definitions.join("autostart"))? {
            let link = link.strip_suffix(".once").unwrap_or(&link);
            names.extend(link.strip_suffix(".xml").map(str::to_owned));
        }
        let uuids = self.stopped_for_shutdown()?;
        if !uuids.is_empty() {
            for file in file_names(&self.definitions)? {
                let Some(name) = file.strip_suffix(".xml") else {
                    continue;
                };
                if matches!(self.read(name), Some(Ok(domain)) if uuids.contains(&domain.uuid)) {
                    names.insert(name.to_owned());
                }
            }
        }
        let is_down = |name: &String| !self.running.join(format!("{name}.xml")).exists();
        let read = |name: String| {
            let domain = self.read(&name)?;
            Some(Definition { name, domain })
        };
        Ok(names.into_iter().filter(is_down).filter_map(read).collect())
    }

    /// The definition of this name; `None` if there is none, as behind a link that leads
    /// nowhere.
    fn read(&self, name: &str) -> Option<Result<Domain, String>> {
        let file = match File::open(self.definitions.join(format!("{name}.xml"))) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(Err(error.to_string())),
        };
        Some(domain::read(BufReader::new(file)).map_err(|error| error.to_string()))
    }

    fn stopped_for_shutdown(&self) -> io::Result<BTreeSet<DomainUuid>> {
        let list = match fs::read_to_string(&self.stopped_for_shutdown) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            list => list?,
        };
        let words = list
            .lines()
            .flat_map(|line| line.split_whitespace().skip(1));
        Ok(words
            .filter_map(|word| DomainUuid::parse(word).ok())
            .collect())
    }
}

/// The names in a directory that libvirt could have given; none where there is no such
/// directory.
fn file_names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match dir.read_dir() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let name = |entry: io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name());
    let names: Vec<_> = entries.map(name).collect::<io::Result<_>>()?;
    Ok(names
        .into_iter()
        .filter_map(|name| name.into_string().ok())
        .collect())
}
