//! Whether bytes can be found, in any form in which a program could have written them: in files, in what was said, in the
//! arguments and the environment of every process.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Write;
use std::fs;
use std::io::ErrorKind;
use std::mem;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use base64ct::{Base64, Base64Unpadded, Base64UrlUnpadded, Encoding};

/// The shortest that is looked for, in bytes. In a gigabyte of random bytes a half of it, eight bytes, is once in ten
/// thousand million times.
const SHORTEST: usize = 16;

/// Bytes that must be found nowhere, and what they are called.
#[derive(Clone)]
pub(crate) struct Secrets(Vec<(String, Vec<Vec<u8>>)>);

/// The forms in which these bytes could be written: as they are, and their halves; hexadecimal; base64 wherever in a text
/// they begin; a list of numbers, as a program writes bytes in JSON that does not think of it.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let half = bytes.len() / 2;
    let mut forms = vec![
        bytes.to_vec(),
        bytes[..half].to_vec(),
        bytes[half..].to_vec(),
    ];
    let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    let mut texts = vec![hex.to_uppercase(), hex];
    for start in 0..3 {
        // Three bytes are four characters, which those around them do not change.
        let whole = &bytes[start..start + (bytes.len() - start) / 3 * 3];
        texts.push(Base64Unpadded::encode_string(whole));
        texts.push(Base64UrlUnpadded::encode_string(whole));
    }
    for separator in [",", ", "] {
        let numbers: Vec<_> = bytes.iter().map(u8::to_string).collect();
        texts.push(numbers.join(separator));
    }
    forms.extend(texts.into_iter().map(String::into_bytes));
    forms
}

impl Secrets {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// One that is there already keeps its name.
    ///
    /// # Panics
    ///
    /// If its halves are so short that they could be somewhere by chance.
    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) {
        assert!(bytes.len() >= SHORTEST, "{name}: {} bytes", bytes.len());
        self.put(name, forms(bytes));
    }

    /// The same of a private key on a curve, in PEM: its lines, and its number, as it is written and as a program calculates
    /// with it.
    pub(crate) fn add_private_key(&mut self, name: &str, pem: &str) {
        let lines = || pem.lines().filter(|line| !line.starts_with("-----"));
        for line in lines().filter(|line| line.len() >= SHORTEST) {
            self.add_words(name, line);
        }
        let der = Base64::decode_vec(&lines().collect::<String>()).unwrap();
        // ECPrivateKey (RFC 5915): version 1, and an octet string with the number.
        let begin = b"\x02\x01\x01\x04\x20";
        let begin = memchr::memmem::find(&der, begin).unwrap() + begin.len();
        let mut number = der[begin..begin + 32].to_vec();
        self.add(name, &number);
        number.reverse();
        self.add(name, &number);
    }

    /// The same of words, whose halves are in other texts, too.
    pub(crate) fn add_words(&mut self, name: &str, words: &str) {
        self.put(name, vec![words.into()]);
    }

    fn put(&mut self, name: &str, forms: Vec<Vec<u8>>) {
        if !self.0.iter().any(|(_, others)| others[0] == forms[0]) {
            self.0.push((name.to_owned(), forms));
        }
    }

    /// The names of those that these bytes have in them.
    pub(crate) fn in_bytes(&self, bytes: &[u8]) -> BTreeSet<&str> {
        let found = self.0.iter().filter(|(_, forms)| {
            let mut forms = forms.iter();
            forms.any(|form| memchr::memmem::find(bytes, form).is_some())
        });
        found.map(|(name, _)| name.as_str()).collect()
    }

    /// Looks through all files below a directory. Returns what was found where, and how many files there were.
    pub(crate) fn in_files(&self, dir: &Path) -> (Vec<String>, usize) {
        let (mut found, mut count) = (Vec::new(), 0);
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            // A running program has removed it meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => return (found, count),
            Err(error) => panic!("{}: {error}", dir.display()),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // What a running program removes meanwhile is not there, and a name is content, too.
            let content = match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    let (below, files) = self.in_files(&path);
                    found.extend(below);
                    count += files;
                    Vec::new()
                }
                Ok(kind) if kind.is_file() => match fs::read(&path) {
                    Ok(content) => content,
                    Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
                    Err(error) => panic!("{} was not searched: {error}", path.display()),
                },
                _ => Vec::new(),
            };
            count += 1;
            let name = entry.file_name().into_encoded_bytes();
            for secret in self.in_bytes(&[content, name].concat()) {
                found.push(format!("{secret} in {}", path.display()));
            }
        }
        (found, count)
    }

    /// Asserts that none is in a file below these directories. Returns how many files there are.
    #[track_caller]
    pub(crate) fn are_in_no_file(&self, dirs: &[impl AsRef<Path>]) -> usize {
        let mut files = 0;
        for dir in dirs {
            let (found, count) = self.in_files(dir.as_ref());
            assert!(found.is_empty(), "{found:#?}");
            files += count;
        }
        files
    }

    /// Asserts that none is in a command line or an environment.
    #[track_caller]
    pub(crate) fn are_in_no_process(&self, seen: &Seen) {
        for text in &seen.texts {
            let found = self.in_bytes(text);
            let words = String::from_utf8_lossy(text).replace('\0', " ");
            assert!(found.is_empty(), "{found:?} in a process: {words}");
        }
    }

    /// The search must find what is there: each form, in a file.
    pub(crate) fn finds_each_form(&self, dir: &Path) {
        let witness = dir.join("witness");
        for (name, forms) in &self.0 {
            for form in forms {
                fs::write(&witness, [b"before".as_slice(), form, b"after"].concat()).unwrap();
                let (found, _) = self.in_files(dir);
                assert!(found.iter().any(|it| it.starts_with(name)), "{name}");
            }
        }
        fs::remove_file(witness).unwrap();
    }
}

/// Looks at the arguments and the environment of all processes again and again.
pub(crate) struct Processes {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<()>,
}

/// What was seen of processes.
#[derive(Default)]
pub(crate) struct Seen {
    /// Command lines and environments.
    pub(crate) texts: HashSet<Vec<u8>>,
    /// The names of the programs that processes ran while both were read, with the ids of these processes.
    pub(crate) programs: BTreeMap<String, BTreeSet<String>>,
}

impl Processes {
    pub(crate) fn watch() -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let (until, tell) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = thread::spawn(move || {
            while !until.load(SeqCst) {
                look(&tell);
            }
        });
        Self { stop, seen, thread }
    }

    /// Waits until what was seen is this. It must last: a process is seen now and then.
    #[track_caller]
    pub(crate) fn wait_until(&self, is_seen: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !is_seen(&lock(&self.seen)) {
            assert!(Instant::now() < end, "it was not seen");
            thread::sleep(Duration::from_millis(1));
        }
    }

    pub(crate) fn end(self) -> Seen {
        self.stop.store(true, SeqCst);
        self.thread.join().unwrap();
        mem::take(&mut *lock(&self.seen))
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(seen: &Mutex<Seen>) {
    for process in fs::read_dir("/proc").unwrap().flatten() {
        if process.file_name().as_encoded_bytes()[0].is_ascii_digit() {
            look_at(&process.path(), seen);
        }
    }
}

fn look_at(process: &Path, seen: &Mutex<Seen>) {
    // It is another program's until exec has put the new one in its place.
    let program = || {
        let path = fs::read_link(process.join("exe")).ok()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    };
    let before = program();
    // It may have ended meanwhile.
    let texts = ["cmdline", "environ"].map(|file| fs::read(process.join(file)).ok());
    let is_whole = texts.iter().all(Option::is_some) && texts[0] != Some(Vec::new());
    let mut seen = lock(seen);
    if let Some(program) = before.filter(|before| is_whole && program().as_ref() == Some(before)) {
        let pid = process.file_name().unwrap_or_default();
        let pids = seen.programs.entry(program).or_default();
        pids.insert(pid.to_string_lossy().into_owned());
    }
    seen.texts.extend(texts.into_iter().flatten());
}
