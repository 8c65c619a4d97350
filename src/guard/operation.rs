//! The operations of libvirt's `qemu` hook at which the guard has something to do.

/// What libvirt is doing with a guest.
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

impl Operation {
    /// The operation that these two words of libvirt's stand for; `None` where there is
    /// nothing to do, unknown words included: what a later libvirt says is not refused.
    #[must_use]
    pub fn parse(operation: &str, sub_operation: &str) -> Option<Self> {
        match (operation, sub_operation) {
            ("prepare", "begin") => Some(Self::Prepare),
            ("started", "begin") => Some(Self::Started),
            ("stopped" | "release", "end") => Some(Self::Ended),
            ("migrate", "begin") => Some(Self::MigrateIn),
            ("restore", "begin") => Some(Self::Restore),
            _ => None,
        }
    }
}
