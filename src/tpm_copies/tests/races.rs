//! swtpm's user changes what is in a state's place while root looks at it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{Guest, LATER, STATE};
use crate::tpm_copies::LiveState;
use crate::verdict::facts::CopyReason;

const SECRET: &[u8] = b"root:$y$TOP-SECRET-OF-ROOT";

/// How long it goes on.
const TIME: Duration = Duration::from_millis(1500);

/// No look at a state may take as long as this.
const AT_ONCE: Duration = Duration::from_secs(2);

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

/// Exchanges `place` with each of these in turn, while `root` does something again and again. Returns how often both
/// were done.
fn while_exchanging(place: &Path, with: &[PathBuf], mut root: impl FnMut()) -> (usize, usize) {
    let done = AtomicBool::new(false);
    let mut rounds = 0;
    let exchanged = thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut count = 0;
            while !done.load(SeqCst) {
                // It may not be there at this moment.
                count += usize::from(exchange(place, &with[count % with.len()]).is_ok());
                thread::yield_now();
            }
            count
        });
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            let started = Instant::now();
            root();
            assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
            rounds += 1;
        }
        done.store(true, SeqCst);
        attacker.join().unwrap()
    });
    (rounds, exchanged)
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
    let mut saved = 0;
    let (rounds, exchanged) = while_exchanging(&guest.state(), &plants, || {
        match LiveState::read(&guest.states(), guest.domain, &guest.vtpm) {
            Ok(Some(live)) => {
                assert!([STATE, LATER].contains(&live.bytes()), "{live:?}");
                guest
                    .copy_store()
                    .save(&live, "vm1", CopyReason::Start)
                    .unwrap();
                saved += 1;
            }
            Ok(None) => {}
            Err(error) => assert!(!error.to_string().contains("SECRET"), "{error}"),
        }
    });
    assert!(rounds > 20 && exchanged > 20, "{rounds} {exchanged}");
    assert!(saved > 0, "it was never there");
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
    let mut restored = 0;
    let (rounds, exchanged) = while_exchanging(&tpm2, &[link], || {
        let _ = fs::remove_file(guest.state());
        restored += usize::from(guest.restore_copy().is_ok());
    });
    assert!(rounds > 20 && exchanged > 20, "{rounds} {exchanged}");
    assert!(restored > 0, "it was never restored");
    let left: Vec<_> = fs::read_dir(&victim).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(fs::read(victim.join("precious")).unwrap(), SECRET);
}
