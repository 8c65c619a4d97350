//! `kms-exec`: any command that wraps and unwraps on stdin and stdout is a key manager.

mod name;

use std::path::PathBuf;
use std::process::ExitCode;

use vtpm_guard::plugin::process::{self, ChildError};
use vtpm_guard::plugin::{
    Deadline, Kms, PluginError, RemoteKey, Settings, Trouble, Wrapped, Zeroizing, serve,
    trusted_path,
};

/// The longest output of a command, in bytes.
const MAX_OUTPUT: usize = 64 << 10;

fn main() -> ExitCode {
    serve::<Exec>()
}

/// The commands of a section.
struct Exec {
    wrap: CommandLine,
    unwrap: CommandLine,
    status: Option<CommandLine>,
}

impl Kms for Exec {
    const KIND: &str = "exec";

    fn new(settings: &mut Settings) -> Result<Self, PluginError> {
        let needed = |key: &str, line: Option<CommandLine>| {
            let missing = || PluginError::new(Trouble::Settings, format!("{key} is missing"));
            line.ok_or_else(missing)
        };
        Ok(Self {
            wrap: needed("wrap", CommandLine::take(settings, "wrap")?)?,
            unwrap: needed("unwrap", CommandLine::take(settings, "unwrap")?)?,
            status: CommandLine::take(settings, "status")?,
        })
    }

    fn status(&mut self, deadline: Deadline) -> Result<String, PluginError> {
        let Some(status) = &self.status else {
            return Ok("no status command".to_owned());
        };
        let output = status.run("", b"", deadline, Trouble::Unreachable)?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Ok(output.lines().next().unwrap_or("in order").to_owned())
    }

    fn wrap(
        &mut self,
        key: &RemoteKey<'_>,
        kek: &[u8],
        deadline: Deadline,
    ) -> Result<Wrapped, PluginError> {
        let output = self.wrap.run(key.name, kek, deadline, Trouble::Failed)?;
        Ok(Wrapped {
            blob: output.to_vec(),
            version: None,
        })
    }

    fn unwrap(
        &mut self,
        key: &RemoteKey<'_>,
        blob: &[u8],
        deadline: Deadline,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        self.unwrap
            .run(key.name, blob, deadline, Trouble::NotOpened)
    }
}

/// A program and its arguments, run without a shell.
struct CommandLine {
    program: PathBuf,
    args: Vec<String>,
}

impl CommandLine {
    fn take(settings: &mut Settings, key: &str) -> Result<Option<Self>, PluginError> {
        let Some(mut words) = settings.list(key)? else {
            return Ok(None);
        };
        let program = PathBuf::from(words.remove(0));
        if program.is_absolute() {
            let args = words;
            return Ok(Some(Self { program, args }));
        }
        let message = format!("{key} must begin with the absolute path of a program");
        Err(PluginError::new(Trouble::Settings, message))
    }

    /// Runs it. A command that fails is an error of this kind.
    fn run(
        &self,
        key: &str,
        input: &[u8],
        deadline: Deadline,
        failed: Trouble,
    ) -> Result<Zeroizing<Vec<u8>>, PluginError> {
        if let Some(message) = name::problem(&self.args, key) {
            return Err(PluginError::new(Trouble::NoKey, message));
        }
        // Run by the name of the section: of some programs the name says what they do.
        trusted_path(&self.program)?;
        let args: Vec<_> = self
            .args
            .iter()
            .map(|arg| arg.replace(name::PLACE, key))
            .collect();
        let args: Vec<_> = args.iter().map(String::as_str).collect();
        let output = process::run(&self.program, &args, input, MAX_OUTPUT, deadline);
        let output = output.map_err(|error| {
            let trouble = match error {
                ChildError::TimedOut(_) => Trouble::Unreachable,
                ChildError::NotInstalled(_) => Trouble::Settings,
                ChildError::TooMuchOutput { .. } | ChildError::Io(_) => Trouble::Failed,
            };
            PluginError::new(trouble, error.to_string())
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let mut message = format!("{}: {}", self.program.display(), output.status);
        if let Some(said) = output.stderr.lines().last() {
            message = format!("{message}: {said}");
        }
        Err(PluginError::new(failed, message))
    }
}
