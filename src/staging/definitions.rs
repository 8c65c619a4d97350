//! Which guests will start with the daemon, from its files: it answers no calls yet.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{self, BufReader, ErrorKind};
use std::path::{Path, PathBuf};

use crate::clock::Deadline;
use crate::domain::{self, Domain, UnreadableDomain};
use crate::host::bounded::bounded;
use crate::host::dirs::LibvirtDirs;
use crate::host::interrupted::read_dir;
use crate::host::path_error::PathError;
use crate::host::text;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::files;

/// The definition of a guest, or why it could not be read.
pub struct Definition {
    /// The guest's name, from its file's name.
    pub name: String,
    /// The domain.
    pub domain: Result<Domain, UnreadableDomain>,
}

/// libvirt's files about guests: the definitions; `autostart` with a link `NAME.xml` to the
/// definition of each guest that starts with the daemon, and `NAME.xml.once` of one that does so
/// once (libvirt 11.2; `virDomainObjListLoadConfig` in its `src/conf/virdomainobjlist.c`); notes on
/// each guest that runs; the list of what libvirt-guests has saved or shut down, and will start
/// again: a line for each connection, its URI and then UUIDs.
pub struct DefinitionFiles(LibvirtDirs);

impl From<&LibvirtDirs> for DefinitionFiles {
    fn from(dirs: &LibvirtDirs) -> Self {
        Self(dirs.clone())
    }
}

impl DefinitionFiles {
    /// Returns the guests that the daemon itself starts at its first start after a boot.
    pub fn autostarting(&self) -> io::Result<Vec<Definition>> {
        Ok(self.read_all(self.autostart_names()?).collect())
    }

    /// Returns the guests that will start with the daemon, by name, without those that run already, and each with the
    /// domain XML of that start: the one in its managed save, if it has one.
    /// A daemon that is started once more after a boot, as by its socket, starts no guests.
    pub fn starting(&self) -> io::Result<Vec<Definition>> {
        let mut names = BTreeSet::new();
        if !self.0.autostarted().try_exists()? {
            names = self.autostart_names()?;
        }
        let uuids = self.stopped_for_shutdown()?;
        if !uuids.is_empty() {
            for file in file_names(&self.0.definitions())? {
                let Some(name) = file.strip_suffix(".xml") else {
                    continue;
                };
                if matches!(self.read(name), Some(Ok(domain)) if uuids.contains(&domain.uuid)) {
                    names.insert(name.to_owned());
                }
            }
        }
        names.retain(|name| !self.0.running().join(format!("{name}.xml")).exists());
        let starting = self.read_all(names).map(|guest| self.as_saved(guest));
        Ok(starting.collect())
    }

    /// Returns the guest as it is in its managed save, from which libvirt continues, whatever became of its definition
    /// since; its definition where there is no such image of it.
    fn as_saved(&self, guest: Definition) -> Definition {
        let Ok(defined) = &guest.domain else {
            return guest;
        };
        let dir = self.0.managed_saves();
        let image = dir.join(format!("{}.save", guest.name));
        let path = image.display().to_string();
        let read = bounded(&dir, move || files::saved_xml(&image)).map_err(io::Error::other);
        let xml = read.flatten().unwrap_or_else(|error| {
            tracing::warn!(%error, path, "the managed save could not be read: the key is staged for the definition");
            None
        });
        let saved = xml.and_then(|xml| domain::examine(&*xml).ok());
        // libvirt continues from no image of another guest.
        match saved.filter(|saved| (saved.uuid, &saved.name) == (defined.uuid, &defined.name)) {
            Some(saved) => Definition {
                domain: Ok(saved),
                ..guest
            },
            None => guest,
        }
    }

    /// Returns the guest with this UUID, defined or running. Files that cannot be read are ignored.
    #[must_use]
    pub fn defined_as(&self, uuid: DomainUuid) -> Option<Domain> {
        self.index(None).ok()?.defined_as(uuid)
    }

    /// Reads all of them once, until the deadline.
    pub fn index(&self, deadline: Option<Deadline>) -> Result<DefinitionIndex, DefinitionsError> {
        let mut index = DefinitionIndex::default();
        for dir in [self.0.definitions(), self.0.running()] {
            for name in file_names(&dir).map_err(PathError::at(&dir))? {
                if deadline.is_some_and(Deadline::has_passed) {
                    return Err(DefinitionsError::TooSlow);
                }
                if name.strip_suffix(".xml").is_some() {
                    index.add(dir.join(&name));
                }
            }
        }
        Ok(index)
    }

    fn autostart_names(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for link in file_names(&self.0.autostart())? {
            let link = link.strip_suffix(".once").unwrap_or(&link);
            names.extend(link.strip_suffix(".xml").map(str::to_owned));
        }
        Ok(names)
    }

    fn read_all(&self, names: BTreeSet<String>) -> impl Iterator<Item = Definition> {
        names.into_iter().filter_map(|name| {
            let domain = self.read(&name)?;
            Some(Definition { name, domain })
        })
    }

    /// Returns the definition of this name; `None` if there is none, or only a dangling link.
    fn read(&self, name: &str) -> Option<Result<Domain, UnreadableDomain>> {
        let file = match File::open(self.0.definitions().join(format!("{name}.xml"))) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => return Some(Err(UnreadableDomain::unseen(error.to_string()))),
        };
        Some(domain::examine(BufReader::new(file)))
    }

    fn stopped_for_shutdown(&self) -> io::Result<BTreeSet<DomainUuid>> {
        let list = match text::read(&self.0.stopped_for_shutdown()) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            list => list?,
        };
        Ok(stopped_in(&list))
    }
}

/// The guests in libvirt-guests' list: in each line the daemon's URI, and the UUIDs of its guests.
#[must_use]
pub fn stopped_in(list: &str) -> BTreeSet<DomainUuid> {
    let words = list
        .lines()
        .flat_map(|line| line.split_whitespace().skip(1));
    words
        .filter_map(|word| DomainUuid::parse(word).ok())
        .collect()
}

/// Why libvirt's definitions are not known.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionsError {
    /// The deadline passed.
    #[error("there was not enough time")]
    TooSlow,
    /// A directory.
    #[error("{0}")]
    Directory(#[from] PathError),
}

/// Which UUIDs are in which of libvirt's files about guests, defined or running: all files are read once, whatever
/// is looked up then, and however many guests are judged. Files that cannot be read are ignored: they may have gone.
#[derive(Debug, Default)]
pub struct DefinitionIndex {
    files: Vec<PathBuf>,
    /// For each UUID, the numbers of those files.
    containing: HashMap<[u8; 16], Vec<usize>>,
}

impl DefinitionIndex {
    fn add(&mut self, file: PathBuf) {
        let number = self.files.len();
        let uuids: BTreeSet<_> = uuids_in(&read_file(&file)).collect();
        for uuid in uuids {
            self.containing.entry(uuid).or_default().push(number);
        }
        self.files.push(file);
    }

    /// Returns the guests, defined or running, that name this secret.
    #[must_use]
    pub fn naming(&self, secret: SecretUuid) -> Vec<Domain> {
        let names_it = |domain: &Domain| matches!(domain.encrypted_vtpm(), Some((_, named)) if named == secret);
        self.containing(secret.as_bytes(), names_it)
    }

    /// Returns the guest with this UUID, defined or running.
    #[must_use]
    pub fn defined_as(&self, uuid: DomainUuid) -> Option<Domain> {
        let is_it = |domain: &Domain| domain.uuid == uuid;
        self.containing(uuid.as_bytes(), is_it).pop()
    }

    /// Returns the guests whose files contain this UUID, and for which `is_wanted` returns true. A guest that is
    /// defined and runs is returned once.
    fn containing(&self, uuid: &[u8; 16], is_wanted: impl Fn(&Domain) -> bool) -> Vec<Domain> {
        let mut found: Vec<Domain> = Vec::new();
        let files = self.containing.get(uuid);
        for number in files.into_iter().flatten() {
            let document = read_file(&self.files[*number]);
            let document = String::from_utf8_lossy(&document);
            let domain = domain_in(&document).filter(&is_wanted);
            found.extend(domain.filter(|new| found.iter().all(|old| old.uuid != new.uuid)));
        }
        found
    }
}

/// The UUIDs in a document, as libvirt writes them: in lower case, with hyphens.
pub fn uuids_in(document: &[u8]) -> impl Iterator<Item = [u8; 16]> {
    const LENGTH: usize = 36;
    let candidates = document.windows(LENGTH).filter(|text| text[8] == b'-');
    let is_lower = |text: &&[u8]| !text.iter().any(u8::is_ascii_uppercase);
    let candidates = candidates.filter(is_lower);
    let texts = candidates.filter_map(|text| std::str::from_utf8(text).ok());
    texts.filter_map(|text| Some(*DomainUuid::parse(text).ok()?.as_bytes()))
}

/// Returns what is in a file; nothing if it cannot be read.
fn read_file(path: &Path) -> Vec<u8> {
    #[cfg(test)]
    FILES_READ.set(FILES_READ.get() + 1);
    fs::read(path).unwrap_or_default()
}

#[cfg(test)]
thread_local! {
    static FILES_READ: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// How many files about guests this thread has read while it did this.
#[cfg(test)]
pub(crate) fn files_read(work: impl FnOnce()) -> usize {
    FILES_READ.set(0);
    work();
    FILES_READ.get()
}

/// Returns the domain in a definition, or in a status file, which contains its XML.
fn domain_in(document: &str) -> Option<Domain> {
    domain::read(files::domain_in(document)?.as_bytes()).ok()
}

/// Returns the UTF-8 file names in a directory; none if there is no such directory.
fn file_names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match read_dir(dir) {
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn uuid(number: u32) -> String {
        format!("11111111-2222-4333-8444-{number:012}")
    }

    /// libvirt's files with the definitions vm1 to vm4.
    fn files() -> (tempfile::TempDir, DefinitionFiles) {
        let dir = tempfile::tempdir().unwrap();
        let files = DefinitionFiles::from(&LibvirtDirs::below(dir.path()));
        fs::create_dir_all(files.0.autostart()).unwrap();
        fs::create_dir_all(files.0.running()).unwrap();
        fs::create_dir_all(&files.0.state).unwrap();
        for number in 1..=4 {
            let xml = format!(
                "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n<domain type='kvm'>\
                 <name>vm{number}</name><uuid>{}</uuid></domain>\n",
                uuid(number)
            );
            fs::write(files.0.definitions().join(format!("vm{number}.xml")), xml).unwrap();
        }
        (dir, files)
    }

    fn autostart(files: &DefinitionFiles, link: &str) {
        let name = link.strip_suffix(".once").unwrap_or(link);
        let target = files.0.definitions().join(name);
        symlink(target, files.0.autostart().join(link)).unwrap();
    }

    fn names(files: &DefinitionFiles) -> Vec<String> {
        let starting = files.starting().unwrap();
        starting.into_iter().map(|guest| guest.name).collect()
    }

    #[test]
    fn guests_that_libvirtd_starts_always_or_once_will_start() {
        let (_dir, files) = files();
        assert_eq!(names(&files), [""; 0]);
        autostart(&files, "vm3.xml");
        autostart(&files, "vm1.xml.once");
        autostart(&files, "vm1.xml");
        assert_eq!(names(&files), ["vm1", "vm3"]);
        let first = files.starting().unwrap().remove(0);
        assert_eq!(first.domain.unwrap().uuid.to_string(), uuid(1));
    }

    #[test]
    fn guests_that_libvirt_guests_stopped_will_start() {
        let (_dir, files) = files();
        let list = format!("default {} {}\nlxc:/// {}\n", uuid(4), uuid(2), uuid(9));
        fs::write(files.0.stopped_for_shutdown(), list).unwrap();
        assert_eq!(names(&files), ["vm2", "vm4"]);
        // One line that nobody can read hides no other one.
        let list = [
            b"lxc:///\xfc x\n",
            format!("default {}\n", uuid(4)).as_bytes(),
        ]
        .concat();
        fs::write(files.0.stopped_for_shutdown(), list).unwrap();
        assert_eq!(names(&files), ["vm4"]);
    }

    #[test]
    fn once_the_daemon_has_started_its_guests_it_starts_only_what_libvirt_guests_stopped() {
        let (_dir, files) = files();
        autostart(&files, "vm1.xml");
        fs::write(files.0.autostarted(), "").unwrap();
        assert_eq!(names(&files), [""; 0]);
        assert_eq!(files.autostarting().unwrap().len(), 1);
        let list = format!("default {}\n", uuid(2));
        fs::write(files.0.stopped_for_shutdown(), list).unwrap();
        assert_eq!(names(&files), ["vm2"]);
    }

    #[test]
    fn a_guest_that_runs_needs_no_key() {
        let (_dir, files) = files();
        autostart(&files, "vm1.xml");
        autostart(&files, "vm2.xml");
        fs::write(files.0.running().join("vm1.xml"), "<domstatus/>").unwrap();
        assert_eq!(names(&files), ["vm2"]);
    }

    #[test]
    fn a_saved_guest_starts_with_the_xml_in_its_managed_save() {
        let (_dir, files) = files();
        autostart(&files, "vm1.xml");
        let (before, now) = (SecretUuid::random(), SecretUuid::random());
        let xml = |number: u32, secret| {
            format!(
                "<domain type='kvm'><name>vm1</name><uuid>{}</uuid><devices><tpm model='tpm-crb'>\
                 <backend type='emulator' version='2.0'><encryption secret='{secret}'/></backend></tpm>\
                 </devices></domain>",
                uuid(number)
            )
        };
        fs::write(files.0.definitions().join("vm1.xml"), xml(1, now)).unwrap();
        let secret = || {
            let guest = files.starting().unwrap().remove(0);
            guest.domain.unwrap().encrypted_vtpm().unwrap().1
        };
        assert_eq!(secret(), now);
        fs::create_dir_all(files.0.managed_saves()).unwrap();
        let image = files.0.managed_saves().join("vm1.save");
        for (content, named) in [
            (files::image(&xml(1, before)), before),
            // Of another guest, which libvirt refuses; and none from which it continues.
            (files::image(&xml(2, before)), now),
            (files::image("<domain"), now),
            (b"LibvirtQemudPart".to_vec(), now),
        ] {
            fs::write(&image, content).unwrap();
            assert_eq!(secret(), named);
        }
        fs::remove_file(&image).unwrap();
        symlink("/dev/zero", &image).unwrap();
        assert_eq!(secret(), now, "QEMU's user could have made it");
    }

    #[test]
    fn a_dangling_link_is_no_guest_and_a_broken_definition_is_an_error() {
        let (_dir, files) = files();
        autostart(&files, "gone.xml");
        autostart(&files, "vm1.xml");
        fs::write(files.0.definitions().join("vm1.xml"), "<domain>").unwrap();
        let starting = files.starting().unwrap();
        assert_eq!(starting.len(), 1);
        assert!(starting[0].domain.is_err());
    }

    #[test]
    fn the_guests_that_name_a_secret_are_found_defined_or_running() {
        let (_dir, files) = files();
        let secret = SecretUuid::random();
        let with_tpm = |number: u32| {
            format!(
                "<domain type='kvm'><name>vm{number}</name><uuid>{}</uuid><devices>\
                 <tpm model='tpm-crb'><backend type='emulator' version='2.0'>\
                 <encryption secret='{secret}'/></backend></tpm></devices></domain>",
                uuid(number)
            )
        };
        fs::write(files.0.definitions().join("vm2.xml"), with_tpm(2)).unwrap();
        let notes = |number| {
            format!(
                "<domstatus state='running'>{}</domstatus>",
                with_tpm(number)
            )
        };
        fs::write(files.0.running().join("vm2.xml"), notes(2)).unwrap();
        fs::write(files.0.running().join("vm9.xml"), notes(9)).unwrap();
        let index = files.index(None).unwrap();
        let mut names: Vec<_> = index
            .naming(secret)
            .into_iter()
            .map(|found| found.name)
            .collect();
        names.sort();
        assert_eq!(names, ["vm2", "vm9"]);
        assert!(index.naming(SecretUuid::random()).is_empty());
        let vm9 = DomainUuid::parse(&uuid(9)).unwrap();
        assert_eq!(files.defined_as(vm9).unwrap().name, "vm9");
        // The definition of a guest that is gone by now.
        fs::remove_file(files.0.running().join("vm9.xml")).unwrap();
        assert!(index.defined_as(vm9).is_none());
    }

    #[test]
    fn definitions_that_were_not_all_read_are_not_taken_for_all() {
        let (_dir, files) = files();
        let read = |deadline| files.index(Some(deadline));
        let soon = Deadline::after(std::time::Duration::from_secs(60));
        let vm1 = DomainUuid::parse(&uuid(1)).unwrap();
        assert!(read(soon).unwrap().defined_as(vm1).is_some());
        let over = Deadline::after(std::time::Duration::ZERO);
        assert!(matches!(read(over), Err(DefinitionsError::TooSlow)));
        fs::remove_dir(files.0.running()).unwrap();
        assert!(read(soon).is_ok(), "nothing has run yet");
        fs::write(files.0.running(), "").unwrap();
        assert!(matches!(read(soon), Err(DefinitionsError::Directory(_))));
    }

    #[test]
    fn a_host_without_libvirt_has_no_guests() {
        let dir = tempfile::tempdir().unwrap();
        let files = DefinitionFiles::from(&LibvirtDirs::below(dir.path()));
        assert_eq!(names(&files), [""; 0]);
    }
}
