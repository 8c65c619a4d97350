//! A run of one guest, and what is saved of its TPM state.

use std::fs;

use super::fixture::{Defined, Fixture};
use super::starts::called;
use crate::config::{Config, KeptStates};
use crate::domain::{Domain, Vtpm};
use crate::guard::{Ending, Guard, Mode, Operation, follow_up, prepare};
use crate::key::dek::Dek;
use crate::manage::host::default_deadline;
use crate::store::Origin;
use crate::tpm_copies::{CopyStore, RunRecord};
use crate::verdict::facts::CopyReason;
use crate::verdict::outcome::Outcome;

/// One guest on a host.
pub(super) struct Run {
    pub(super) fixture: Fixture,
    pub(super) guest: Defined,
    pub(super) domain: Domain,
    /// With the key in use; without, it is the client's.
    pub(super) dek: Dek,
    pub(super) copies: CopyStore,
    pub(super) guard: Guard,
}

impl Run {
    /// The run of a guest that has used its TPM under a key of the guard's.
    pub(super) fn of_persistent() -> Self {
        let run = Self::without_key();
        run.fixture.add_key(&run.guest, "a", &run.dek);
        run
    }

    /// The same of a guest whose state libvirt deletes when it stops.
    pub(super) fn of_transient() -> Self {
        Self::of_persistent().made_transient()
    }

    /// The same of a guest of which the guard has no key.
    pub(super) fn without_key() -> Self {
        let fixture = Fixture::new();
        let guest = fixture.define("vm1");
        let dek = Dek::generate().unwrap();
        fixture.encrypt_state(&guest, &dek);
        fixture.libvirt.guests.start("vm1");
        Self {
            domain: fixture.domain(&guest),
            copies: CopyStore::of(fixture.host.state_dir(), guest.uuid),
            guard: called(&fixture),
            fixture,
            guest,
            dek,
        }
    }

    pub(super) fn made_transient(self) -> Self {
        self.fixture.libvirt.guests.undefine("vm1");
        self
    }

    /// Every run is saved (`state.keep = "all"`).
    pub(super) fn keeping_all(mut self) -> Self {
        self.guard.config.kept_states = KeptStates::All;
        self
    }

    /// From here on nobody can read the configuration: the defaults apply.
    pub(super) fn under_a_broken_configuration(mut self) -> Self {
        self.guard.config = Config {
            libvirt: self.guard.config.libvirt,
            ..Config::default()
        };
        self.guard.config_error = Some("config.toml: line 3".to_owned());
        self
    }

    /// There is a copy of what the TPM was before this run.
    pub(super) fn with_earlier_copy(self) -> Self {
        self.fixture.save_copy(&self.guest);
        self.fixture.encrypt_state(&self.guest, &self.dek);
        self
    }

    pub(super) fn with_record(self, record: RunRecord) -> Self {
        self.copies.write_run(record).unwrap();
        self
    }

    pub(super) fn with_unreadable_record(self) -> Self {
        let run = self.with_record(RunRecord::default());
        fs::write(run.copies.path().join("run.json"), "{}").unwrap();
        run
    }

    pub(super) fn without_state(self) -> Self {
        fs::remove_file(self.fixture.state_file(&self.guest)).unwrap();
        self
    }

    /// Its TPM state under this key, saved as after an earlier run.
    pub(super) fn with_copy_under(self, dek: &Dek) -> Self {
        self.fixture.encrypt_state(&self.guest, dek);
        self.fixture.save_copy(&self.guest);
        self
    }

    /// Its XML says that libvirt is to keep the TPM state.
    pub(super) fn with_persistent_state(mut self) -> Self {
        let Some(Vtpm::Emulator(vtpm)) = &mut self.domain.vtpm else {
            panic!("it has an emulated TPM");
        };
        vtpm.persistent_state = true;
        self
    }

    /// It has stopped some time ago.
    pub(super) fn not_running(self) -> Self {
        self.fixture.libvirt.guests.stop("vm1");
        self
    }

    /// It is prepared, and the guard allows it.
    pub(super) fn started(self) -> Self {
        assert!(self.prepared().is_allowed());
        self
    }

    /// What the guard says of its start.
    pub(super) fn prepared(&self) -> Outcome {
        let (domain, deadline) = (Ok(self.domain.clone()), default_deadline());
        let (origin, mode) = (Origin::Prepare, Mode::CarryOut);
        prepare(&self.guard, &domain, origin, mode, deadline)
    }

    /// libvirt's last hook.
    pub(super) fn released(self, ending: Ending) -> Self {
        self.follow_up(Operation::Released(ending))
    }

    /// The hook before it, with the guest's job in its status file.
    pub(super) fn stopped(self, job: &str) -> Self {
        let status = self.fixture.libvirt.dirs().running().join("vm1.xml");
        let text = format!("<domstatus state='paused'>\n  <job {job}/>\n</domstatus>\n");
        fs::write(status, text).unwrap();
        self.follow_up(Operation::Ended)
    }

    pub(super) fn follow_up(self, operation: Operation) -> Self {
        follow_up(&self.guard, operation, &self.domain, default_deadline()).unwrap();
        self
    }

    /// Why each copy was saved, the latest first.
    pub(super) fn saved(&self) -> Vec<CopyReason> {
        let (copies, unreadable) = self.copies.copies().unwrap();
        assert!(unreadable.is_empty(), "{unreadable:?}");
        let reasons = copies.into_iter().map(|copy| copy.manifest.reason);
        reasons.collect()
    }

    pub(super) fn record(&self) -> RunRecord {
        self.copies.run().unwrap()
    }

    /// Whether the state is linked, for the process that restores it after libvirt has deleted it.
    pub(super) fn is_linked(&self) -> bool {
        let states = self.fixture.libvirt.dirs().tpm_states();
        let links = states.join(format!(".vtpm-guard.{}", self.guest.uuid));
        links.exists()
    }
}
