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
