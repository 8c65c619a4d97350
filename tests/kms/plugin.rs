//! The built plugins, and plugins that a test writes.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vtpm_guard::internals::kms::{Client, KmsError, KmsSettings, Setting};

use crate::built::built;
use crate::programs::write_program;

/// How long a conversation may take beyond its time-out on a busy machine: ending the plugin. What hangs in these tests
/// does so for a minute.
pub(crate) const GRACE: Duration = Duration::from_secs(15);

/// Settings of a section.
pub(crate) fn section(kind: &str, timeout: Duration, settings: &[(&str, Setting)]) -> KmsSettings {
    let settings = settings
        .iter()
        .map(|(key, value)| ((*key).to_owned(), value.clone()));
    KmsSettings {
        kind: kind.to_owned(),
        timeout,
        settings: settings.collect(),
    }
}

/// The value of a setting: a text.
pub(crate) fn text(text: impl Into<String>) -> Setting {
    Setting::Text(text.into())
}

/// A plugin as a test writes it, in a directory of its own.
pub(crate) struct Script {
    dir: TempDir,
    name: String,
}

impl Script {
    pub(crate) fn new(kind: &str, script: &str) -> Self {
        Self::named(&format!("kms-{kind}"), script)
    }

    /// A program with this name.
    pub(crate) fn named(name: &str, script: &str) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), name, script)
    }

    /// The real plugin of a kind, with its stderr in a file.
    pub(crate) fn around(kind: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("kms-{kind}");
        let (program, stderr) = (built(&name), dir.path().join("stderr"));
        let script = format!(
            "#!/bin/sh\nexec {} 2>>{}\n",
            program.display(),
            stderr.display()
        );
        Self::in_dir(dir, &name, &script)
    }

    fn in_dir(dir: TempDir, name: &str, script: &str) -> Self {
        let name = name.to_owned();
        let program = Self { dir, name };
        write_program(&program.path(), script);
        program
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join(&self.name)
    }

    /// A conversation with it.
    pub(crate) fn connect(&self, settings: &KmsSettings) -> Result<Client, KmsError> {
        Client::start("test", settings, &self.path())
    }

    /// The processes that run this script, or were forked by it.
    pub(crate) fn processes(&self) -> Vec<String> {
        let path = self.path().into_os_string().into_encoded_bytes();
        let mut found = Vec::new();
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let command_line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            if command_line
                .split(|byte| *byte == 0)
                .any(|argument| argument == path)
            {
                found.push(process.file_name().to_string_lossy().into_owned());
            }
        }
        found
    }

    /// Nothing of it may be left, as soon as the kernel has ended what was killed.
    #[track_caller]
    pub(crate) fn nothing_is_left(&self) {
        let end = Instant::now() + GRACE;
        while !self.processes().is_empty() {
            assert!(
                Instant::now() < end,
                "still running: {:?}",
                self.processes()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Makes a directory that only its owner can look into.
pub(crate) fn private_dir(parent: &Path, name: &str) -> PathBuf {
    let dir = parent.join(name);
    fs::DirBuilder::new().mode(0o700).create(&dir).unwrap();
    dir
}
