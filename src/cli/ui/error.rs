//! Errors of the administrator's commands, by what they mean for the exit status.

use std::fmt;
use std::process::ExitCode;

/// Why a command did not do what it was asked to. The kind decides the exit status.
#[derive(Debug, Clone)]
pub(crate) struct CommandError {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// What helps where the same may succeed a moment later.
pub(crate) const RUN_AGAIN: &str = "run it again: what was done by then stays done";

/// What kind of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Asked for properly, and refused: it would do harm, or would not start. Status 1.
    Refused,
    /// Wrong arguments, or a broken configuration. Status 2.
    Usage,
    /// This user may not do it. Status 4.
    NoPermission,
    /// Anything else: files, store, libvirt. Status 4.
    Failed,
}

impl CommandError {
    /// Something that would do harm.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::new(Kind::Refused, message)
    }

    /// Arguments that name nothing, or a configuration that cannot be used.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Something that did not work.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Adds the command, or the way, that helps.
    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The same, after a part of the work, which stays done.
    #[must_use]
    pub(crate) fn after(mut self, part: impl fmt::Display) -> Self {
        self.message = format!("{part}: {}", self.message);
        self
    }

    /// Adds what goes on with the rest of the work, after what helps against the error.
    #[must_use]
    pub(crate) fn going_on(mut self, go_on: impl fmt::Display) -> Self {
        let first = self.hint.filter(|hint| hint != RUN_AGAIN);
        let first = first.map_or_else(String::new, |hint| format!("{hint}; then "));
        self.hint = Some(format!("{first}go on with the rest: {go_on}"));
        self
    }

    /// Something that this user may not do.
    pub(crate) fn no_permission(message: impl fmt::Display) -> Self {
        Self::new(Kind::NoPermission, format_args!("no permission: {message}"))
            .with_hint("run it as root")
    }

    /// The exit status (docs/json.md).
    pub(crate) fn status(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Refused => 1,
            Kind::Usage => 2,
            Kind::NoPermission | Kind::Failed => 4,
        })
    }

    /// Whether it was asked for properly, and refused.
    pub(crate) fn is_refusal(&self) -> bool {
        self.kind == Kind::Refused
    }

    /// The hint, if there is one.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
