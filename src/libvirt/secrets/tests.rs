//! Starts that give a secret its key at the same time. What the rules are otherwise is tried against real daemons
//! (`tests/libvirt_rules`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};

use super::*;

const NO_SECRET: u32 = 66;
const INTERNAL: u32 = 1;

/// A daemon with one secret, which somebody else undefines and defines between the calls.
#[derive(Default)]
struct Busy {
    usage: RefCell<Option<String>>,
    value: RefCell<Option<Vec<u8>>>,
    /// How often a secret that was just defined is gone when it gets its value.
    undefined: Cell<u32>,
    /// How often somebody else defines it first.
    defined: Cell<u32>,
}

fn error(code: u32) -> CallError {
    CallError {
        code,
        domain: 20,
        message: "no".to_owned(),
    }
}

/// Whether it is to happen once more.
fn once_more(times: &Cell<u32>) -> bool {
    let left = times.get();
    times.set(left.saturating_sub(1));
    left > 0
}

impl SecretDriver for Busy {
    type Secret = ();

    fn look_up(&self, _: SecretUuid) -> Result<(), CallError> {
        let is_there = self.usage.borrow().is_some();
        is_there.then_some(()).ok_or_else(|| error(NO_SECRET))
    }

    fn usage(&self, (): &()) -> Result<Usage, CallError> {
        let id = self.usage.borrow().clone().unwrap();
        Ok(Usage {
            kind: USAGE_VTPM,
            id,
        })
    }

    fn holder(&self, _: &Usage) -> Result<SecretUuid, CallError> {
        Err(error(NO_SECRET))
    }

    fn define(&self, _: SecretUuid, xml: &str) -> Result<(), CallError> {
        if once_more(&self.defined) {
            *self.usage.borrow_mut() = Some(usage_name(DomainUuid::random()));
            return Err(error(INTERNAL));
        }
        let found = SecretDefinition::parse(xml).unwrap();
        *self.usage.borrow_mut() = Some(usage_name(found.guards_domain().unwrap()));
        Ok(())
    }

    fn set_value(&self, (): &(), value: &[u8]) -> Result<(), CallError> {
        if once_more(&self.undefined) {
            self.undefine(&())?;
            return Err(error(NO_SECRET));
        }
        *self.value.borrow_mut() = Some(value.to_vec());
        Ok(())
    }

    fn undefine(&self, (): &()) -> Result<(), CallError> {
        *self.usage.borrow_mut() = None;
        *self.value.borrow_mut() = None;
        Ok(())
    }

    fn definition(&self, (): &()) -> Result<String, CallError> {
        Err(error(INTERNAL))
    }

    fn value(&self, (): &()) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        Ok(None)
    }
}

fn provide(daemon: &Busy) -> Result<Response, SecretError> {
    let request = SecretRequest::Provide {
        secret: SecretUuid::random(),
        domain: DomainUuid::random(),
        key: b"key",
        over: Over::GuardsOwn,
    };
    answer(daemon, &request, &mut None)
}

#[test]
fn a_secret_that_another_start_undefines_or_defines_meanwhile_gets_its_key() {
    for (undefined, defined) in [(1, 0), (0, 1), (2, 2)] {
        let daemon = Busy {
            undefined: Cell::new(undefined),
            defined: Cell::new(defined),
            ..Busy::default()
        };
        provide(&daemon).unwrap();
        assert_eq!(daemon.value.borrow().as_deref(), Some(&b"key"[..]));
    }
}

#[test]
fn one_that_others_keep_changing_is_left_to_the_next_attempt() {
    let daemon = Busy {
        undefined: Cell::new(u32::MAX),
        ..Busy::default()
    };
    assert!(matches!(provide(&daemon), Err(SecretError::Changed)));
}
