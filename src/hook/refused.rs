//! What is written down about a refused start: a line in the log, its XML for `replay`; and in the
//! history, where the deadline or a panic refuses a start whose verdict was another, or none yet.

use std::sync::Arc;
use std::time::Duration;

use crate::capture;
use crate::clock::Deadline;
use crate::config::MAX_CAPTURED;
use crate::domain::{Domain, UnreadableDomain};
use crate::guard::{Guard, StartTime};
use crate::host::dirs::StateDir;
use crate::ids::DomainUuid;
use crate::log;
use crate::messages::{Named, refusal};
use crate::store::{Access, Event, Origin, Store, StoreError};
use crate::verdict::refusal::Refusal;

/// How long a locked store is waited for.
const TO_RECORD: Duration = Duration::from_millis(200);

/// A start that may be refused, and what is needed to write that down when nothing else answers.
#[derive(Clone)]
pub(super) struct Start {
    name: String,
    uuid: Option<DomainUuid>,
    xml: Arc<[u8]>,
    state_dir: StateDir,
    captures: usize,
    time: StartTime,
}

impl Start {
    pub(super) fn new(
        guard: &Guard,
        guest: &str,
        domain: &Result<Domain, UnreadableDomain>,
    ) -> Self {
        let named = domain.as_ref().map_or(Named::from(guest), Named::from);
        Self {
            name: named.name.to_owned(),
            uuid: named.uuid,
            xml: guard
                .call
                .as_ref()
                .map_or(Arc::default(), |call| Arc::clone(&call.xml)),
            state_dir: guard.state_dir.clone(),
            captures: captures(guard),
            time: guard.start_time.clone(),
        }
    }

    pub(super) fn named(&self) -> Named<'_> {
        Named {
            name: &self.name,
            uuid: self.uuid,
        }
    }

    /// Keeps the XML of the refused start.
    pub(super) fn capture(&self, why: &Refusal) {
        let kept = capture::keep(
            &self.state_dir,
            &self.xml,
            why.code(),
            &self.name,
            self.captures,
        );
        if let Err(error) = kept {
            tracing::warn!(%error, "the domain XML was not captured");
        }
    }

    /// Writes down a refusal that the decision table has not made: the log first, which depends on
    /// the fewest things.
    pub(super) fn write_down(&self, why: &Refusal) {
        log::refused(self.named(), Origin::Prepare.as_str(), self.time.get(), why);
        self.capture(why);
        if let Err(error) = self.record(why) {
            tracing::warn!(%error, "the refusal could not be recorded");
        }
    }

    fn record(&self, why: &Refusal) -> Result<(), StoreError> {
        let Some(uuid) = self.uuid else {
            return Ok(());
        };
        let deadline = Deadline::after(TO_RECORD);
        let mut store = match Store::open(&self.state_dir, Access::Write, deadline) {
            Err(StoreError::Missing) => return Ok(()),
            opened => opened?,
        };
        let (at, message) = (self.time.get(), refusal(self.named(), why).message);
        let event = Event {
            code: Some(why.code()),
            ..Event::new(at, Origin::Prepare, uuid, &self.name, message)
        };
        store.record_start(&event)
    }
}

/// How many captures are kept. A default that stands in for a setting that could not be read removes none.
fn captures(guard: &Guard) -> usize {
    match &guard.config_error {
        Some(_) => MAX_CAPTURED,
        None => guard.config.capture_denied,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Config;
    use crate::guard::HookCall;
    use crate::store::EventFilter;

    #[test]
    fn under_a_broken_configuration_no_capture_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let mut guard = Guard::new(Config::default(), StateDir::at(dir.path()));
        guard.call = Some(HookCall {
            attempt: Box::new(String::new),
            xml: b"<domain/>".as_slice().into(),
        });
        guard.config.capture_denied = 1;
        let captured = |guard: &Guard| {
            let unseen = Err(UnreadableDomain::unseen(""));
            let start = Start::new(guard, "vm1", &unseen);
            start.capture(&Refusal::DeadlinePassed);
            // A capture is named after the millisecond.
            std::thread::sleep(Duration::from_millis(2));
            capture::list(&guard.state_dir).unwrap().len()
        };
        guard.config_error = Some("line 3".to_owned());
        assert_eq!([captured(&guard), captured(&guard)], [1, 2]);
        guard.config_error = None;
        assert_eq!(captured(&guard), 1);
    }

    #[test]
    fn a_start_that_the_deadline_refuses_has_one_row_and_its_xml_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let state_dir = StateDir::at(dir.path());
        let soon = Deadline::after(Duration::from_secs(20));
        let mut store = Store::open(&state_dir, Access::Create, soon).unwrap();
        let uuid = DomainUuid::random();
        let guard = Guard::new(Config::default(), state_dir.clone());
        let at = guard.start_time.get();
        let allowed = Event {
            repairs_json: "[{\"kind\":\"create-key\"}]".to_owned(),
            ..Event::new(at, Origin::Prepare, uuid, "vm1", "allowed")
        };
        store.record_start(&allowed).unwrap();

        let start = |xml: &str, time: StartTime| Start {
            name: "vm1".to_owned(),
            uuid: Some(uuid),
            xml: xml.as_bytes().into(),
            state_dir: state_dir.clone(),
            captures: guard.config.capture_denied,
            time,
        };
        let rows = |store: &Store| {
            let rows = store.history(EventFilter::Domain(uuid), 10).unwrap();
            let describe = |row: crate::store::EventRow| {
                let created = row.repairs_json.contains("create-key");
                (row.operation, row.code, created)
            };
            rows.into_iter().map(describe).collect::<Vec<_>>()
        };
        let why = Refusal::DeadlinePassed;
        let refused = |created| ("prepare".to_owned(), Some(why.code()), created);

        // Its verdict was recorded as allowed, and then libvirt was asked.
        start("<domain/>", guard.start_time.clone()).write_down(&why);
        assert_eq!(rows(&store), [refused(true)]);
        let captures = capture::list(&state_dir).unwrap();
        assert_eq!(captures.len(), 1);
        assert_eq!(fs::read_to_string(&captures[0].path).unwrap(), "<domain/>");

        // It had no verdict yet; one that comes too late changes nothing but what it has repaired.
        std::thread::sleep(Duration::from_millis(5));
        let time = StartTime::default();
        start("", time.clone()).write_down(&why);
        assert_eq!(rows(&store), [refused(false), refused(true)]);
        let at = time.get();
        store.record_start(&Event { at, ..allowed }).unwrap();
        assert_eq!(rows(&store), [refused(true), refused(true)]);
    }
}
