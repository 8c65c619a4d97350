//! Guests whose domain XML did not reach the hook: libvirt's own definition is used instead.

use std::fs::File;
use std::io::BufReader;

use super::context::Guard;
use crate::domain::{self, Domain, UnreadableDomain};

impl Guard {
    /// Returns the guest as libvirt's persistent definition describes it, and notes a finding for
    /// the verdict. At `prepare` that is what libvirt starts, unless another definition is started
    /// under the same name and UUID. The status files of running guests do not have it yet.
    ///
    /// A guest without such a file (a transient one) stays unreadable.
    pub fn defined_by_libvirt(
        &mut self,
        guest: &str,
        unreadable: UnreadableDomain,
    ) -> Result<Domain, UnreadableDomain> {
        // libvirt allows no slash in a name; it would lead to another file.
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
    fn a_definition_replaces_an_xml_that_did_not_arrive() {
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
        let error = guard.xml_error.take().unwrap();
        assert!(
            error.contains("stdin was empty") && error.contains("vm1.xml"),
            "{error}"
        );
    }

    #[test]
    fn without_a_definition_the_guest_stays_unreadable() {
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
