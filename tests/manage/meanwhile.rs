//! What somebody else does at every moment between two steps of a procedure that outlast it.

use std::fs;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::fixture::{Defined, Fixture};
use crate::clock::{Deadline, Timestamp};
use crate::guard::{Mode, prepare};
use crate::host::crash::armed;
use crate::host::poll::poll;
use crate::key::kek::Kek;
use crate::libvirt::fake::Call;
use crate::manage::host::BrokenConfig;
use crate::manage::providers::ProvidersLock;
use crate::store::{KeyChange, Origin};

/// Plays `procedure` on hosts that `set_up` has prepared. `somebody` acts at its first moment, at
/// its second, and so on, until it ends before that. `check` is given each result.
pub(crate) fn everywhere<T>(
    set_up: impl Fn(&Fixture),
    somebody: impl Fn(&Fixture) + Copy + 'static,
    procedure: impl Fn(&Fixture) -> T,
    mut check: impl FnMut(&Fixture, T),
) {
    for nth in 1.. {
        let fixture = Fixture::new();
        set_up(&fixture);
        let root = fixture.root().to_owned();
        armed::meanwhile(nth, move || somebody(&Fixture::at(&root)));
        let result = procedure(&fixture);
        if armed::forget() {
            assert!(nth > 1, "it has no step");
            return;
        }
        check(&fixture, result);
    }
}

/// Somebody who has this lock for a moment. What it finds just before the lock is free.
pub(crate) fn busy<T: Send + 'static>(
    lock: impl Send + 'static,
    finds: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        let found = finds();
        drop(lock);
        found
    })
}

/// Somebody who acts as soon as libvirt has been asked to list its guests.
pub(crate) fn once_listed<T: Send + 'static>(
    fixture: &Fixture,
    act: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let libvirt = fixture.libvirt.clone();
    thread::spawn(move || {
        let soon = Deadline::after(Duration::from_secs(10));
        let is_listed = || (libvirt.calls_of(Call::Guests) > 0).then_some(());
        let listed = poll(Duration::from_millis(1), soon, is_listed);
        let done = act();
        assert!(listed.is_some(), "libvirt was not asked until then");
        done
    })
}

/// A rotation that has the providers' lock, and gives `a` this key.
pub(crate) fn rotation(fixture: &Fixture, new: &Kek) -> JoinHandle<()> {
    fixture.put_key(new);
    let (root, key_id) = (fixture.root().to_owned(), new.key_id());
    busy(ProvidersLock::acquire(&fixture.host).unwrap(), move || {
        let fixture = Fixture::at(&root);
        let change = KeyChange {
            provider: &fixture.provider("a"),
            key_id,
            key_version: 2,
            slots: &[],
            rewrapped: &[],
            now: Timestamp::now(),
        };
        fixture.store().change_key(&change).unwrap();
    })
}

/// libvirt starts the guest: the hook judges it, and libvirt gets a key or none. It waits for a
/// locked store no longer than this test wants to.
pub(crate) fn start(fixture: &Fixture, guest: &Defined) {
    start_within(fixture, guest, Duration::from_millis(200));
}

/// The same with so much time, as where a TPM state has to be restored.
pub(crate) fn start_within(fixture: &Fixture, guest: &Defined, time: Duration) {
    let guard = fixture.host.guard(BrokenConfig::Fail).unwrap();
    let domain = Ok(fixture.domain(guest));
    let deadline = Deadline::after(time);
    prepare(&guard, &domain, Origin::Prepare, Mode::CarryOut, deadline);
}

/// Puts a directory in the place of the guest's TPM state, so that no file can be moved there.
pub(crate) fn obstruct(fixture: &Fixture, guest: &Defined) {
    let state = fixture.state_file(guest);
    if state.is_dir() {
        return;
    }
    fs::rename(&state, state.with_extension("aside")).unwrap();
    fs::create_dir(&state).unwrap();
}

/// Takes it away again.
pub(crate) fn clear(fixture: &Fixture, guest: &Defined) {
    let state = fixture.state_file(guest);
    if state.is_dir() {
        fs::remove_dir(&state).unwrap();
        fs::rename(state.with_extension("aside"), &state).unwrap();
    }
}
