//! Whether a daemon answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Whether a daemon gave no answer in time when it was last asked. Clones share it, so that what asks
/// about many guests waits for a silent daemon once.
#[derive(Debug, Clone, Default)]
pub struct Silence(Arc<AtomicU8>);

/// It was not asked yet.
const UNKNOWN: u8 = 0;
/// It gave no answer in time.
const SILENT: u8 = 1;
/// It answered.
const ANSWERED: u8 = 2;

impl Silence {
    /// Returns whether it gave none.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) == SILENT
    }

    /// Returns whether it answered.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed) == ANSWERED
    }

    pub(crate) fn set(&self) {
        self.0.store(SILENT, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.0.store(ANSWERED, Ordering::Relaxed);
    }

    /// From here on the daemon is asked, and waited for, once more.
    pub fn forget(&self) {
        self.0.store(UNKNOWN, Ordering::Relaxed);
    }
}
