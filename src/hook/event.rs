//! The hook's arguments, as libvirt gives them: `GUEST OPERATION SUB-OPERATION EXTRA`.

use std::ffi::{OsStr, OsString};

/// One call of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookEvent {
    /// The guest's name, as the first argument gives it.
    pub guest: String,
    /// What libvirt is doing.
    pub operation: Operation,
}

/// The operations at which the guard has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `prepare begin`
    Prepare,
    /// `started begin`
    Started,
    /// `stopped end`, `release end`
    Ended,
    /// `migrate begin`
    MigrateIn,
    /// `restore begin`
    Restore,
}

impl HookEvent {
    /// Reads the arguments (without the program's name). `None` for every call at which there
    /// is nothing to do, unknown words among them: what a later libvirt says is not refused.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter();
        let guest = arguments.next()?;
        let operation = Operation::parse(&arguments.next()?, &arguments.next()?)?;
        Some(Self {
            guest: guest.to_string_lossy().into_owned(),
            operation,
        })
    }
}

impl Operation {
    /// The operation that these two words stand for.
    #[must_use]
    pub fn parse(operation: &OsStr, sub_operation: &OsStr) -> Option<Self> {
        match (operation.to_str()?, sub_operation.to_str()?) {
            ("prepare", "begin") => Some(Self::Prepare),
            ("started", "begin") => Some(Self::Started),
            ("stopped" | "release", "end") => Some(Self::Ended),
            ("migrate", "begin") => Some(Self::MigrateIn),
            ("restore", "begin") => Some(Self::Restore),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(words: &[&str]) -> Option<Operation> {
        HookEvent::parse(words.iter().map(OsString::from)).map(|event| event.operation)
    }

    #[test]
    fn the_operations_of_the_design_are_known() {
        assert_eq!(
            operation(&["vm1", "prepare", "begin", "-"]),
            Some(Operation::Prepare)
        );
        assert_eq!(
            operation(&["vm1", "started", "begin", "-"]),
            Some(Operation::Started)
        );
        assert_eq!(
            operation(&["vm1", "stopped", "end", "failed"]),
            Some(Operation::Ended)
        );
        assert_eq!(
            operation(&["vm1", "release", "end", "migrated"]),
            Some(Operation::Ended)
        );
        assert_eq!(
            operation(&["vm1", "migrate", "begin", "-"]),
            Some(Operation::MigrateIn)
        );
        assert_eq!(
            operation(&["vm1", "restore", "begin", "-"]),
            Some(Operation::Restore)
        );
    }

    #[test]
    fn at_all_other_calls_there_is_nothing_to_do() {
        for words in [
            &["vm1", "start", "begin", "-"][..],
            &["vm1", "reconnect", "begin", "-"],
            &["vm1", "attach", "begin", "-"],
            &["vm1", "prepare", "end", "-"],
            &["vm1", "stopped", "begin", "-"],
            &["vm1", "teleport", "begin", "-"],
            &["vm1", "", "", ""],
            &["vm1", "prepare"],
            &["vm1"],
            &[],
        ] {
            assert_eq!(operation(words), None, "{words:?}");
        }
    }
}
