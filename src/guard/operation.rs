//! The operations of libvirt's `qemu` hook at which the guard has something to do.

/// What libvirt does with a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `prepare begin`
    Prepare,
    /// `started begin`
    Started,
    /// `stopped end`
    Ended,
    /// `release end`, the last call of a run.
    Released(Ending),
    /// `migrate begin`
    MigrateIn,
    /// `restore begin`
    Restore,
}

/// Why a run or a start has ended: the hook's EXTRA at `release end`, since libvirt 10.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// `failed`: the start has failed.
    Failed,
    /// `migrated`: the guest continues on another host, with its TPM.
    Migrated,
    /// Any other reason: the guest has run.
    Ended,
    /// `-`: before libvirt 10.5, for every reason.
    Unknown,
}

impl Operation {
    /// Whether it follows a start. What precedes one, an announcement, decides about that start.
    #[must_use]
    pub fn follows(self) -> bool {
        match self {
            Self::Started | Self::Ended | Self::Released(_) => true,
            Self::Prepare | Self::MigrateIn | Self::Restore => false,
        }
    }

    /// Parses libvirt's arguments; `None` if there is nothing to do. Unknown words are ignored, as
    /// a later libvirt may use them.
    #[must_use]
    pub fn parse(operation: &str, sub_operation: &str, extra: &str) -> Option<Self> {
        match (operation, sub_operation) {
            ("prepare", "begin") => Some(Self::Prepare),
            ("started", "begin") => Some(Self::Started),
            ("stopped", "end") => Some(Self::Ended),
            ("release", "end") => Some(Self::Released(match extra {
                "failed" => Ending::Failed,
                "migrated" => Ending::Migrated,
                "-" | "" => Ending::Unknown,
                _ => Ending::Ended,
            })),
            ("migrate", "begin") => Some(Self::MigrateIn),
            ("restore", "begin") => Some(Self::Restore),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirts_words_are_known_and_others_are_nothing_to_do() {
        let parse = |words: &str| {
            let mut words = words.split(' ');
            let mut next = || words.next().unwrap_or_default();
            Operation::parse(next(), next(), next())
        };
        let released = |ending| Some(Operation::Released(ending));
        for (words, expected) in [
            ("prepare begin -", Some(Operation::Prepare)),
            ("started begin -", Some(Operation::Started)),
            ("stopped end -", Some(Operation::Ended)),
            ("release end failed", released(Ending::Failed)),
            ("release end migrated", released(Ending::Migrated)),
            ("release end -", released(Ending::Unknown)),
            ("release end", released(Ending::Unknown)),
            ("release end shutdown", released(Ending::Ended)),
            ("release end crashed", released(Ending::Ended)),
            ("migrate begin -", Some(Operation::MigrateIn)),
            ("restore begin -", Some(Operation::Restore)),
            ("start begin -", None),
            ("reconnect begin -", None),
            ("attach begin -", None),
            ("prepare end -", None),
            ("stopped begin -", None),
            ("", None),
        ] {
            assert_eq!(parse(words), expected, "{words}");
        }
    }

    /// An announcement decides about the start that it precedes.
    #[test]
    fn what_follows_a_start_may_be_brief_and_what_precedes_it_may_not() {
        let ended = Operation::Released(Ending::Unknown);
        for operation in [Operation::Started, Operation::Ended, ended] {
            assert!(operation.follows(), "{operation:?}");
        }
        for operation in [Operation::Prepare, Operation::MigrateIn, Operation::Restore] {
            assert!(!operation.follows(), "{operation:?}");
        }
    }
}
