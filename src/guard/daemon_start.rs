//! Starts of guests while the daemon itself is starting. A monolithic libvirtd answers no calls then,
//! but its files show which secrets it has. virtqemud answers none either; virtsecretd, which has the
//! secrets, does.

use std::time::Duration;

use super::context::Guard;
use super::deadlines::{TO_RECORD_FOR_STARTING_DAEMON, to_record};
use super::silent_daemon::StartingVirtqemud;
use crate::clock::Deadline;
use crate::domain::Domain;
use crate::libvirt::{Daemons, StartingLibvirtd, called_by_starting_daemon, calling_daemon};
use crate::messages;
use crate::store::{Event, Origin};
use crate::swtpm::read_state;
use crate::verdict::facts::Permission;
use crate::verdict::outcome::{Outcome, SecretAction};
use crate::verdict::{Reason, Verdict};

/// How long one call of the hook may delay the daemon's start: waiting would not help, and all
/// other guests and clients wait.
const TIME_LIMIT: Duration = Duration::from_millis(1500);

impl Guard {
    /// If the daemon that calls this hook is still starting, reads the files of a libvirtd instead of
    /// calling it, and is brief with virtsecretd. Returns the new deadline: a shorter one for a libvirtd,
    /// except for a guest that is certain to start.
    #[must_use]
    pub fn handle_starting_daemon(
        &mut self,
        domain: Option<&Domain>,
        deadline: Deadline,
    ) -> Deadline {
        match called_by_starting_daemon() {
            None => return deadline,
            Some(Daemons::Modular) => {
                let known = calling_daemon().map(|daemon| StartingVirtqemud::of(self, daemon));
                self.starting_virtqemud = known;
                self.share(deadline, known.is_some_and(|known| known.was_silent));
                return deadline;
            }
            Some(Daemons::Monolithic) => {}
        }
        self.libvirt_starts = true;
        self.secrets = Some(Box::new(StartingLibvirtd(self.config.libvirt.secrets())));
        // A persistent secret of the guest starts it as if there were no guard: nobody could adopt
        // it now.
        self.config.policy.unmanaged = Permission::Allow;
        match domain.filter(|domain| has_loaded(self, domain)) {
            Some(_) => deadline,
            None => deadline.at_most(TIME_LIMIT),
        }
    }
}

/// Returns whether libvirtd is starting and has loaded the secret that was staged for this guest.
fn has_loaded(guard: &Guard, domain: &Domain) -> bool {
    let (Some(secrets), Some((_, secret))) = (&guard.secrets, domain.encrypted_vtpm()) else {
        return false;
    };
    let at_once = Deadline::after(Duration::ZERO);
    let is_staged = || match secrets.inspect(secret, at_once) {
        Ok(Some(found)) => {
            let of_guest = found.definition.guards_domain() == Some(domain.uuid);
            of_guest && found.definition.is_staged()
        }
        _ => false,
    };
    guard.libvirt_starts && is_staged()
}

/// Allows the start of a guest whose secret was staged for a starting libvirtd: `stage` has made
/// the verdict. `None`: the start must be judged, from the daemon's files.
pub(super) fn allow_loaded(
    guard: &Guard,
    domain: &Domain,
    origin: Origin,
    deadline: Deadline,
) -> Option<Outcome> {
    let (vtpm, _) = domain
        .encrypted_vtpm()
        .filter(|_| has_loaded(guard, domain))?;
    let reason = Reason::LoadedSecret;
    record(guard, domain, origin, reason, deadline);
    Some(Outcome {
        state: read_state(&guard.config.libvirt.tpm_states(), domain.uuid, vtpm).summary(),
        domain: Some(domain.clone()),
        verdict: Verdict::allow(reason),
        key: None,
        secret: SecretAction::None,
        dry_run: false,
    })
}

/// Records the start, if there is a store. The log has it even if that fails.
fn record(guard: &Guard, domain: &Domain, origin: Origin, why: Reason, deadline: Deadline) {
    let deadline = to_record(deadline).at_most(TO_RECORD_FOR_STARTING_DAEMON);
    let (at, why) = (guard.start_time.get(), messages::reason(why));
    let event = Event::new(at, origin, domain.uuid, &domain.name, why);
    let recorded = guard.with_store(deadline, |store| {
        store.record_start(&event)?;
        Ok(true)
    });
    if let Err(error) = recorded {
        tracing::warn!(domain = domain.name, %error, "the start could not be recorded");
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::clock::Timestamp;
    use crate::config::Config;
    use crate::domain;
    use crate::host::dirs::{LibvirtDirs, StateDir};
    use crate::ids::{DomainUuid, SecretUuid};
    use crate::libvirt::secret::{definition, staged_definition};
    use crate::store::{Access, EventFilter, Store};
    use crate::verdict::Decision;

    fn deadline() -> Deadline {
        Deadline::after(Duration::from_secs(30))
    }

    /// A guard that a starting libvirtd calls, a guest, and its secret.
    fn starting() -> (TempDir, Guard, Domain, SecretUuid) {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = Guard::new(Config::default(), StateDir::at(dir.path().join("state")));
        guard.config.libvirt = LibvirtDirs::below(dir.path());
        let secrets = guard.config.libvirt.secrets();
        fs::create_dir_all(&secrets).unwrap();
        guard.secrets = Some(Box::new(StartingLibvirtd(secrets)));
        guard.libvirt_starts = true;
        Store::open(&guard.state_dir, Access::Create, deadline()).unwrap();
        let secret = SecretUuid::random();
        let xml = format!(
            "<domain type='qemu'><name>vm1</name><uuid>{}</uuid><devices><tpm model='tpm-crb'>\
             <backend type='emulator' version='2.0'><encryption secret='{secret}'/></backend></tpm>\
             </devices></domain>",
            DomainUuid::random()
        );
        (dir, guard, domain::read(xml.as_bytes()).unwrap(), secret)
    }

    fn start(guard: &Guard, domain: &Domain) -> Option<Outcome> {
        allow_loaded(guard, domain, Origin::Prepare, deadline())
    }

    #[test]
    fn a_guest_whose_secret_was_staged_starts_with_libvirtd_and_the_history_has_it() {
        let (_dir, guard, domain, secret) = starting();
        let file = (guard.config.libvirt.secrets()).join(format!("{secret}.xml"));
        fs::write(file, staged_definition(secret, domain.uuid)).unwrap();
        let outcome = start(&guard, &domain).unwrap();
        let decision = outcome.verdict.decision();
        assert_eq!(*decision, Decision::Allow(Reason::LoadedSecret));
        let store = guard.open_store(Access::Read, deadline()).unwrap();
        let history = store.unwrap().history(EventFilter::All, 9).unwrap();
        let [row] = &history[..] else {
            panic!("{history:?}")
        };
        assert!(row.allowed && row.domain_uuid == domain.uuid);
        assert!(row.at <= Timestamp::now());
    }

    #[test]
    fn any_other_guest_that_starts_with_libvirtd_is_judged() {
        let (_dir, guard, domain, secret) = starting();
        let file = (guard.config.libvirt.secrets()).join(format!("{secret}.xml"));
        assert!(start(&guard, &domain).is_none(), "it has no secret");
        // One that was staged for another guest with the same secret, and one that was not staged.
        let staged = staged_definition(secret, DomainUuid::random());
        for xml in [staged, definition(secret, domain.uuid)] {
            fs::write(&file, &xml).unwrap();
            assert!(start(&guard, &domain).is_none(), "{xml}");
        }
        let up = Guard {
            libvirt_starts: false,
            ..guard
        };
        fs::write(&file, staged_definition(secret, domain.uuid)).unwrap();
        assert!(start(&up, &domain).is_none(), "libvirtd is up");
    }
}
