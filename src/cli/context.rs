//! What every command works with: where its answer goes, and the host.

use super::args::Global;
use super::ui::answer::Output;
use super::ui::error::CommandError;
use crate::config::Config;
use crate::host::dirs::StateDir;
use crate::host::sys;
use crate::log::{self, LogError, Warnings};
use crate::manage::host::{Host, HostError};

/// Keeps keys out of core dumps, for every command: most of them open one.
pub(crate) fn protect_keys() -> Result<(), CommandError> {
    sys::protect_process().map_err(|error| {
        CommandError::failed(format!("keys cannot be kept out of core dumps: {error}"))
    })
}

/// What every command works with.
pub(crate) struct Context {
    pub(crate) output: Output,
    pub(crate) host: Host,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self {
            output: Output::new(global.json),
            host: Host::new(global.state_dir, global.config),
        }
    }

    /// Keeps what the work warns of for the end of the command.
    pub(crate) fn collect_warnings(&self) {
        if let Err(error) = Warnings::collect() {
            self.output.note(&error.to_string());
        }
    }

    /// Reports what the work has warned of.
    pub(crate) fn report_warnings(&self) {
        let Warnings { lines, more } = Warnings::take();
        for line in lines {
            self.output.note(&line);
        }
        if more > 0 {
            self.output
                .note(&format!("{more} more warnings like these"));
        }
    }

    /// Sends what happens beside the answer to the hook's log, once there is a store: of commands that
    /// systemd runs, nobody may read what they print.
    pub(crate) fn log(&self) -> Result<(), HostError> {
        self.log_by(log::init_or_collect)
    }

    /// The same of a command that goes on for days: what would be reported at its end is printed at once.
    pub(crate) fn log_or_print(&self) -> Result<(), HostError> {
        self.log_by(log::init_or_print)
    }

    fn log_by(
        &self,
        init: fn(&Config, &StateDir) -> Result<(), LogError>,
    ) -> Result<(), HostError> {
        if !self.host.state_dir().store().exists() {
            return Ok(());
        }
        if let Err(error) = init(&self.host.config()?, self.host.state_dir()) {
            self.output.note(&error.to_string());
        }
        Ok(())
    }
}
