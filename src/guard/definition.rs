//! A guest whose domain XML did not reach the hook: libvirt's own definition of it tells.

use std::fs::File;
use std::io::BufReader;

use super::context::Guard;
use crate::domain::{self, Domain, UnreadableDomain};

impl Guard {
    /// The guest as libvirt's file of its persistent definition describes it, which then becomes
    /// a finding of the verdict. At `prepare` it is what libvirt starts, unless somebody starts
    /// another definition under the same name and UUID. The notes on running guests have no
    /// entry of it yet.
    ///
    /// A guest that libvirt has no such file of (a transient one) stays unread.
    pub fn defined_by_libvirt(
        &mut self,
        guest: &str,
        unreadable: UnreadableDomain,
    ) -> Result<Domain, UnreadableDomain> {
        // libvirt takes no slash in a name; it would lead to another file.
        if guest.is_empty() || guest.contains('/') {
            return Err(unreadable);
        }
        let path = self
            .config
            .libvirt
            .definitions()
            .join(format!("{guest}.xml"));
        let Ok(file) = File::open(&path) else {
            return Err(unreadable);
        };
        let UnreadableDomain {
            reason,
            has_emulated_tpm,
        } = unreadable;
        match domain::examine(BufReader::new(file)) {
            Ok(domain) => {
                self.xml_error = Some(format!(
                    "the domain XML that was given could not be read ({reason}); the guest is \
                     taken as {} describes it",
                    path.display()
                ));
                Ok(domain)
            }
            Err(other) => Err(UnreadableDomain {
                reason,
                has_emulated_tpm: has_emulated_tpm || other.has_emulated_tpm,
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::host::dirs::{LibvirtDirs, StateDir};

    const UUID: &str = "7c1d3b52-9a4e-4c55-8f10-0123456789ab";

    fn domain(devices: &str) -> String {
        format!(
            "<!-- libvirt's --><domain><name>vm1</name><uuid>{UUID}</uuid>\
             <devices>{devices}</devices></domain>"
        )
    }

    fn empty() -> UnreadableDomain {
        UnreadableDomain::unseen("stdin was empty")
    }

    /// A guard of a host below `root`.
    fn guard(root: &std::path::Path) -> Guard {
        let mut guard = Guard::new(Config::default(), StateDir::at(root));
        guard.config.libvirt = LibvirtDirs::below(root);
        std::fs::create_dir_all(guard.config.libvirt.definitions()).unwrap();
        guard
    }

    #[test]
    fn a_definition_takes_the_place_of_an_xml_that_did_not_arrive() {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = guard(dir.path());
        let definition = guard.config.libvirt.definitions().join("vm1.xml");
        let tpm = "<tpm><backend type='emulator'/></tpm>";
        std::fs::write(definition, domain(tpm)).unwrap();
        let read = guard.defined_by_libvirt("vm1", empty()).unwrap();
        assert_eq!(
            (read.uuid.to_string().as_str(), read.has_emulated_tpm()),
            (UUID, true)
        );
        let trouble = guard.xml_error.take().unwrap();
        assert!(
            trouble.contains("stdin was empty") && trouble.contains("vm1.xml"),
            "{trouble}"
        );
    }

    #[test]
    fn without_a_definition_the_guest_stays_unread() {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = guard(dir.path());
        let definitions = guard.config.libvirt.definitions();
        std::fs::write(definitions.with_file_name("vm1.xml"), domain("")).unwrap();
        for name in ["vm1", "", "../vm1"] {
            assert_eq!(guard.defined_by_libvirt(name, empty()), Err(empty()));
        }
        assert_eq!(guard.xml_error, None);

        let broken = "<domain><devices><tpm><backend type='emulator'>";
        std::fs::write(definitions.join("vm1.xml"), broken).unwrap();
        let seen = guard.defined_by_libvirt("vm1", empty()).unwrap_err();
        assert!(seen.has_emulated_tpm && seen.reason == "stdin was empty");
    }
}
