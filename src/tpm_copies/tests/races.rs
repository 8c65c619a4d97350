//! swtpm's user changes what is in a state's place while root looks at it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Guest, LATER, STATE};
use crate::tpm_copies::LiveState;
use crate::verdict::facts::CopyReason;

const SECRET: &[u8] = b"root:$y$TOP-SECRET-OF-ROOT";

/// How long it goes on at least, and at most.
const TIME: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(60);

/// No look at a state may take as long as this: a pipe would be waited for without end, and a terabyte for minutes.
const AT_ONCE: Duration = Duration::from_secs(10);

/// How often each side does what it does, at least.
const ENOUGH: usize = 20;

/// Everything that can take the place of a state's file.
fn plants(dir: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(dir).unwrap();
    let secret = dir.join("of-root");
    fs::write(&secret, SECRET).unwrap();
    let path = |name: &str| dir.join(name);
    symlink(&secret, path("link")).unwrap();
    symlink("/proc/self/environ", path("link-to-proc")).unwrap();
    symlink("/dev/zero", path("link-to-device")).unwrap();
    fs::hard_link(&secret, path("second-name")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    UnixListener::bind(path("socket")).unwrap();
    fs::create_dir(path("directory")).unwrap();
    File::create(path("huge"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    fs::write(path("state"), LATER).unwrap();
    let names = [
        "link",
        "link-to-proc",
        "link-to-device",
        "second-name",
        "fifo",
        "socket",
        "directory",
        "huge",
        "state",
    ];
    names.map(path).into()
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    let flags = RenameFlags::RENAME_EXCHANGE;
    Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, flags)?)
}

/// Exchanges `place` with each of these in turn, while `root` does something again and again, and returns whether that
/// had a result. Both happen often enough, however slow this machine is, and some of what root does has a result.
#[track_caller]
fn while_exchanging(place: &Path, with: &[PathBuf], mut root: impl FnMut() -> bool) {
    let (done, exchanged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut rounds, mut results) = (0, 0);
    let is_enough =
        |rounds, results| rounds > ENOUGH && exchanged.load(SeqCst) > ENOUGH && results > 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                let next = &with[exchanged.load(SeqCst) % with.len()];
                // It may not be there at this moment.
                exchanged.fetch_add(usize::from(exchange(place, next).is_ok()), SeqCst);
                thread::yield_now();
            }
        });
        // Also if root panics: the other thread is waited for.
        let _done = Done(&done);
        let started = Instant::now();
        while started.elapsed() < TIME
            || (!is_enough(rounds, results) && started.elapsed() < PATIENCE)
        {
            results += usize::from(root());
            rounds += 1;
        }
    });
    assert!(
        is_enough(rounds, results),
        "{rounds} rounds with {results} results, {exchanged:?} exchanges"
    );
}

/// Ends the exchanges when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// No file below this directory has the secret in it.
#[track_caller]
fn has_no_secret(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            has_no_secret(&path);
        } else {
            let bytes = fs::read(&path).unwrap();
            let has = bytes.windows(SECRET.len()).any(|part| part == SECRET);
            assert!(!has, "{}", path.display());
        }
    }
}

#[test]
fn what_takes_a_states_place_while_it_is_saved_is_never_saved_and_never_waited_for() {
    let guest = Guest::new();
    let plants = plants(&guest.dir.path().join("plants"));
    while_exchanging(&guest.state(), &plants, || {
        let started = Instant::now();
        let found = LiveState::read(&guest.states(), guest.domain, &guest.vtpm);
        assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
        match found {
            Ok(Some(live)) => {
                assert!([STATE, LATER].contains(&live.bytes()), "{live:?}");
                guest
                    .copy_store()
                    .save(&live, "vm1", CopyReason::Start)
                    .unwrap();
                true
            }
            Ok(None) => false,
            Err(error) => {
                assert!(!error.to_string().contains("SECRET"), "{error}");
                false
            }
        }
    });
    has_no_secret(&guest.dir.path().join("guard"));
}

#[test]
fn a_directory_that_becomes_a_link_while_a_state_is_restored_leads_nowhere() {
    let guest = Guest::new();
    guest.save(CopyReason::Start);
    let victim = guest.dir.path().join("victim");
    fs::create_dir_all(&victim).unwrap();
    fs::write(victim.join("precious"), SECRET).unwrap();
    let (tpm2, link) = (
        guest.state().parent().unwrap().to_owned(),
        guest.dir.path().join("link"),
    );
    symlink(&victim, &link).unwrap();
    while_exchanging(&tpm2, &[link], || {
        let _ = fs::remove_file(guest.state());
        guest.restore_copy().is_ok()
    });
    let left: Vec<_> = fs::read_dir(&victim).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read(victim.join("precious")).unwrap(), SECRET);
}
