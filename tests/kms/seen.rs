//! Whether a KEK can be seen: in the arguments or the environment of any process, in files.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64ct::{Base64, Base64UrlUnpadded, Encoding};
use vtpm_guard::internals::key::kek::Kek;

/// The forms in which a program could write it.
fn forms(kek: &Kek) -> Vec<Vec<u8>> {
    let bytes = kek.expose();
    let hex = |upper: bool| -> String {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        let digits: String = digits.collect();
        if upper { digits.to_uppercase() } else { digits }
    };
    vec![
        bytes.to_vec(),
        hex(false).into_bytes(),
        hex(true).into_bytes(),
        Base64::encode_string(bytes).into_bytes(),
        Base64UrlUnpadded::encode_string(bytes).into_bytes(),
    ]
}

/// Whether these bytes contain it.
pub(crate) fn has(bytes: &[u8], kek: &Kek) -> bool {
    contains(bytes, &forms(kek))
}

fn contains(bytes: &[u8], forms: &[Vec<u8>]) -> bool {
    let mut forms = forms.iter();
    forms.any(|form| bytes.windows(form.len()).any(|window| window == form))
}

/// Looks through all files below these directories.
#[track_caller]
pub(crate) fn no_file_has(kek: &Kek, dirs: &[&Path]) {
    let forms = forms(kek);
    for dir in dirs {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            // A server removes files of its own at any time.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => no_file_has(kek, &[&path]),
                Ok(kind) if kind.is_file() => {
                    let bytes = fs::read(&path).unwrap_or_default();
                    assert!(
                        !contains(&bytes, &forms),
                        "the KEK is in {}",
                        path.display()
                    );
                }
                _ => {}
            }
        }
    }
}

/// Looks at all processes again and again.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    plugin_seen: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

/// What was seen.
#[derive(Default)]
struct Seen {
    /// How often the plugin was among the processes.
    plugin: usize,
    leaks: Vec<String>,
}

impl Watch {
    pub(crate) fn start(kek: &Kek, kind: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (forms, plugin) = (forms(kek), format!("kms-{kind}").into_bytes());
        let until = Arc::clone(&stop);
        let plugin_seen = Arc::new(AtomicBool::new(false));
        let tell = Arc::clone(&plugin_seen);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            while !until.load(SeqCst) {
                look(&forms, &plugin, &mut seen);
                tell.store(seen.plugin > 0, SeqCst);
                thread::sleep(Duration::from_millis(1));
            }
            seen
        });
        Self {
            stop,
            plugin_seen,
            thread,
        }
    }

    /// Waits until the plugin, which must be running, has been seen.
    pub(crate) fn wait_for_plugin(&self) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.plugin_seen.load(SeqCst) && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[track_caller]
    pub(crate) fn end(self) {
        let seen = self.finish();
        assert!(seen.leaks.is_empty(), "the KEK is in {:?}", seen.leaks);
        assert!(
            seen.plugin > 0,
            "the plugin was not seen, so nothing was tried"
        );
    }

    fn finish(self) -> Seen {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap()
    }
}

fn look(forms: &[Vec<u8>], plugin: &[u8], seen: &mut Seen) {
    for process in fs::read_dir("/proc").unwrap().flatten() {
        if !process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            continue;
        }
        for file in ["cmdline", "environ"] {
            let path = process.path().join(file);
            // It may have ended meanwhile.
            let bytes = fs::read(&path).unwrap_or_default();
            if contains(&bytes, forms) {
                seen.leaks.push(path.display().to_string());
            }
            if file == "cmdline" && bytes.windows(plugin.len()).any(|window| window == plugin) {
                seen.plugin += 1;
            }
        }
    }
}

#[test]
fn a_key_in_an_argument_or_the_environment_is_seen() {
    let kek = Kek::generate().unwrap();
    let forms = forms(&kek);
    for form in &forms[1..] {
        let form = String::from_utf8(form.clone()).unwrap();
        for as_argument in [false, true] {
            let mut sleep = std::process::Command::new("sh");
            sleep.args(["-c", "sleep 60; true", "kms-leaks"]);
            if as_argument {
                sleep.arg(&form);
            } else {
                sleep.env("KEY", &form);
            }
            let watch = Watch::start(&kek, "leaks");
            let mut sleep = sleep.spawn().unwrap();
            thread::sleep(Duration::from_millis(100));
            let seen = watch.finish();
            sleep.kill().unwrap();
            sleep.wait().unwrap();
            assert!(!seen.leaks.is_empty() && seen.plugin > 0);
        }
    }
}

#[test]
fn a_key_in_a_file_is_seen() {
    let (kek, dir) = (Kek::generate().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(dir.path().join("below")).unwrap();
    no_file_has(&kek, &[dir.path()]);
    fs::write(
        dir.path().join("below/log"),
        [b"key ", &kek.expose()[..]].concat(),
    )
    .unwrap();
    let found = std::panic::catch_unwind(|| no_file_has(&kek, &[dir.path()]));
    assert!(found.is_err());
}
