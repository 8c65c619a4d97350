//! The hook's arguments, as libvirt passes them: `GUEST OPERATION SUB-OPERATION EXTRA`.

use std::ffi::OsString;

use crate::guard::Operation;

/// One call of the hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HookEvent {
    /// The guest's name, as the first argument gives it.
    pub(super) guest: String,
    /// What libvirt does.
    pub(super) operation: Operation,
}

impl HookEvent {
    /// Parses the arguments (without the program's name). `None` if there is nothing to do. Unknown
    /// words are ignored, as a later libvirt may use them.
    pub(super) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Option<Self> {
        let mut arguments = arguments.into_iter();
        let guest = arguments.next()?;
        let (operation, sub_operation) = (arguments.next()?, arguments.next()?);
        let extra = arguments.next().unwrap_or_default();
        let words = (operation.to_str()?, sub_operation.to_str()?);
        let operation = Operation::parse(words.0, words.1, extra.to_str().unwrap_or("-"))?;
        Some(Self {
            guest: guest.to_string_lossy().into_owned(),
            operation,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Ending;

    fn operation(words: &[&str]) -> Option<Operation> {
        HookEvent::parse(words.iter().map(OsString::from)).map(|event| event.operation)
    }

    #[test]
    fn every_operation_of_the_hook_is_known() {
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
            Some(Operation::Released(Ending::Migrated))
        );
        assert_eq!(
            operation(&["vm1", "release", "end", "shutdown"]),
            Some(Operation::Released(Ending::Ended))
        );
        for end in [
            &["vm1", "release", "end", "-"][..],
            &["vm1", "release", "end"],
        ] {
            assert_eq!(operation(end), Some(Operation::Released(Ending::Unknown)));
        }
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
    fn all_other_calls_are_ignored() {
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
