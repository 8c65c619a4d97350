//! `kms-exec` with clevis and a real tang.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use vtpm_guard::internals::kms::{KmsSettings, Trouble};

use crate::service::Service;
use crate::suite::{Change, Changed, Kind, conformance};

/// A server, and clevis.
struct Tang(Service);

impl Kind for Tang {
    const NAME: &str = "exec";

    fn start(dir: &Path) -> Result<Self, String> {
        Ok(Self(Service::start("tang", dir)?))
    }

    fn settings(&self) -> KmsSettings {
        self.0.section("tang")
    }

    fn remote_key(&self) -> String {
        fs::read_to_string(self.0.dir().join("thumbprint"))
            .unwrap()
            .trim()
            .to_owned()
    }

    fn change(&mut self, change: Change) -> Changed {
        match change {
            Change::RemakeKey => self.0.run_verb("remake-key"),
            Change::DeleteKey => self.0.run_verb("delete-key"),
            Change::RotateKey => self.0.run_verb("rotate-key"),
            Change::Stop => self.0.run_verb("down"),
            Change::Freeze => self.0.signal(Signal::SIGSTOP),
            Change::Through(_) => {
                return Changed::Never("the address of tang is in what was wrapped");
            }
            Change::WrongCertificate | Change::ExpiredCertificate => {
                return Changed::Never(
                    "tang has no certificates: what it says is signed by its keys",
                );
            }
            Change::WrongCredentials => return Changed::Never("tang knows no credentials"),
        }
        Changed::Done
    }

    /// clevis says only that it has failed, and why in its words.
    fn trouble(change: Change) -> &'static [Trouble] {
        match change {
            Change::Freeze => &[Trouble::Unreachable],
            _ => &[Trouble::NotOpened],
        }
    }
}

conformance!(Tang, ignore = "needs root, tang and clevis: ./dev kms");
