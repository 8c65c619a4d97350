//! The host on which programs are killed: directories in a mount namespace of its own, where the
//! programs find them in their usual places, and which are put back between two kills.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::host::dirs::StateDir;
use crate::key::id::KeyId;
use crate::keyring::Seal;
use crate::manage::host::default_deadline;
use crate::manage::tests::fixture::Fixture;
use crate::manage::tests::slots::toy_program;

/// What a process of its own does before it becomes a worker: `$0` is the directory of
/// [`Workshop`], the rest the worker's command line. The machine's own files are read, and stay
/// as they are.
const MOUNTS: &str = r#"
set -e
mkdir -p "$0/work"
mount -t tmpfs -o mode=0711 faults "$0/work"
for lower in /etc /var/lib; do
    upper="$0/work/overlay$lower"
    mkdir -p "$upper/upper" "$upper/work"
    mount -t overlay -o "lowerdir=$lower,upperdir=$upper/upper,workdir=$upper/work" overlay "$lower"
done
mount -t tmpfs -o mode=0755 faults /run
mount -t tmpfs -o mode=0755 faults /var/log
mkdir -p "$0/work/host/guard" "$0/work/host/guard.run" /var/lib/vtpm-guard /run/vtpm-guard /etc/vtpm-guard
chmod 0711 "$0/work/host"
chmod 0700 "$0/work/host/guard" "$0/work/host/guard.run"
mount --bind "$0/work/host/guard" /var/lib/vtpm-guard
mount --bind "$0/work/host/guard.run" /run/vtpm-guard
exec "$@"
"#;

/// The program of a shared store whose facts are files.
const STORE_PROGRAM: &str = include_str!("../cli/json_contract/fake-store");

/// The programs under test, and where workers have their hosts.
pub(super) struct Workshop {
    dir: PathBuf,
}

impl Workshop {
    pub(super) fn here() -> Self {
        let tests = std::env::current_exe().unwrap();
        let debug = tests.parent().and_then(Path::parent).unwrap();
        Self {
            dir: debug.join("faults"),
        }
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Copies the built programs to a directory of their own, where a helper that asks the fake
    /// libvirt is beside them.
    pub(super) fn prepare(&self) {
        let tests = std::env::current_exe().unwrap();
        let debug = tests.parent().and_then(Path::parent).unwrap();
        let bin = self.dir.join("bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["vtpm-guard", "vtpm-guard-hook"] {
            let built = debug.join(name);
            assert!(
                built.exists(),
                "{} is missing: ./dev faults builds it",
                built.display()
            );
            // Without what only a debugger reads, they start in half the time.
            let copied = Command::new("objcopy")
                .arg("--strip-debug")
                .args([&built, &bin.join(name)])
                .status();
            assert!(copied.unwrap().success(), "objcopy");
        }
        let helper = bin.join("vtpm-guard-libvirt");
        let tests = tests.display();
        let script = format!(
            "#!/bin/sh\nexec {tests} --exact faults::serves_the_fake_libvirt --ignored --nocapture --test-threads=1 3>&1 >/dev/null\n"
        );
        let plugin = bin.join("kms-pad");
        let store = bin.join("store-test");
        let beside_it = "Path(__file__).absolute().parent / \"fleet\"";
        assert!(STORE_PROGRAM.contains(beside_it));
        let of_the_host = format!("Path(\"{}\")", self.host().join("fleet").display());
        let store_program = STORE_PROGRAM.replace(beside_it, &of_the_host);
        for (path, text) in [
            (&helper, script.as_str()),
            (&plugin, toy_program()),
            (&store, &store_program),
        ] {
            fs::write(path, text).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    /// A worker: this test binary, which runs this test of it on a host of its own.
    pub(super) fn worker(&self, test: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", MOUNTS])
            .arg(&self.dir)
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .stdin(Stdio::null());
        command
    }

    pub(super) fn site(&self) -> Site {
        Site {
            work: self.dir.join("work"),
        }
    }

    /// The host of whichever worker asks.
    pub(super) fn host(&self) -> PathBuf {
        self.site().host()
    }
}

/// The host of a worker.
pub(super) struct Site {
    work: PathBuf,
}

/// The directories of a host, which are mount points or in use, and stay.
const DIRECTORIES: [&str; 3] = ["guard", "guard.run", "libvirt"];

impl Site {
    pub(super) fn host(&self) -> PathBuf {
        self.work.join("host")
    }

    /// A host with nothing on it but two providers.
    pub(super) fn begin(&self) -> Fixture {
        self.clear();
        Fixture::made_in(&self.host())
    }

    /// Remembers the host as it is.
    pub(super) fn remember(&self, name: &str) {
        let remembered = self.remembered(name);
        if remembered.exists() {
            fs::remove_dir_all(&remembered).unwrap();
        }
        copy(&self.host(), &remembered);
    }

    /// Makes the host what it was then.
    pub(super) fn put_back(&self, name: &str) -> Fixture {
        self.clear();
        copy(&self.remembered(name), &self.host());
        // Where the programs look for it.
        fs::copy(
            self.host().join("config.toml"),
            "/etc/vtpm-guard/config.toml",
        )
        .unwrap();
        Fixture::at(&self.host())
    }

    fn remembered(&self, name: &str) -> PathBuf {
        self.work
            .join("remembered")
            .join(name.replace([' ', '/'], "-"))
    }

    fn clear(&self) {
        for entry in fs::read_dir(self.host()).unwrap() {
            let path = entry.unwrap().path();
            let stays = DIRECTORIES.iter().any(|name| path.ends_with(name));
            if !stays {
                remove(&path);
                continue;
            }
            for entry in fs::read_dir(path).unwrap() {
                remove(&entry.unwrap().path());
            }
        }
    }
}

/// Seals the provider keys of a host as an installed one has them.
pub(super) fn seal_keys(host: &Fixture) {
    let keyring = host.host.keyring();
    for file in fs::read_dir(host.host.state_dir().keys()).unwrap() {
        let name = file.unwrap().file_name();
        let key_id = KeyId::parse(name.to_str().unwrap()).unwrap();
        let sealed = keyring.reseal(key_id, default_deadline()).unwrap();
        assert!(
            sealed.after > Seal::RootOnlyFile,
            "there is no systemd-creds"
        );
    }
}

/// What was logged since this was last asked. There is no journald on such a host.
pub(super) fn taken_log() -> String {
    let log = StateDir::default().log();
    let text = match fs::read(&log) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return String::new(),
        Err(error) => panic!("{}: {error}", log.display()),
    };
    fs::remove_file(log).unwrap();
    text
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Copies what is in a directory, with owners and modes.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, metadata) = {
            let entry = entry.unwrap();
            (entry.path(), entry.metadata().unwrap())
        };
        let to = to.join(from.file_name().unwrap());
        if metadata.is_symlink() {
            symlink(fs::read_link(&from).unwrap(), &to).unwrap();
            continue;
        }
        if metadata.is_dir() {
            copy(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
        let (user, group) = {
            use std::os::unix::fs::MetadataExt;
            (metadata.uid(), metadata.gid())
        };
        if (user, group) != (0, 0) {
            chown(&to, Some(user), Some(group)).unwrap();
        }
        fs::set_permissions(&to, metadata.permissions()).unwrap();
    }
}
