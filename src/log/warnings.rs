//! The warnings of an administrator's command, which are for the person who runs it.

use std::sync::{Mutex, PoisonError};

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt};

use super::fields::Fields;
use super::{LogError, install};

/// How many are kept: ten thousand guests may have the same trouble.
const KEPT: usize = 20;

/// What was warned of in this process.
static COLLECTED: Mutex<Warnings> = Mutex::new(Warnings {
    lines: Vec::new(),
    more: 0,
});

/// Warnings, as lines.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    /// The first different ones.
    pub lines: Vec<String>,
    /// How many came after those.
    pub more: usize,
}

impl Warnings {
    /// Keeps the warnings of this process from now on, for a command that has no log. They are not
    /// printed at once: a progress bar may be on the terminal, or a passphrase be typed.
    pub fn collect() -> Result<(), LogError> {
        install(
            tracing_subscriber::registry()
                .with(LevelFilter::WARN)
                .with(Collector(&COLLECTED)),
        )
    }

    /// Returns what was collected, and begins again.
    #[must_use]
    pub fn take() -> Self {
        std::mem::take(&mut *COLLECTED.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a test's own thread is warned of by this.
    #[cfg(test)]
    pub(crate) fn of(work: impl FnOnce()) -> Self {
        // Whoever listens must be there for ever.
        let here: &'static Mutex<Self> = Box::leak(Box::default());
        let collector = tracing_subscriber::registry()
            .with(LevelFilter::WARN)
            .with(Collector(here));
        tracing::subscriber::with_default(collector, work);
        let mut warnings = here.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *warnings)
    }

    fn add(&mut self, line: String) {
        if self.lines.contains(&line) {
            return;
        }
        if self.lines.len() < KEPT {
            self.lines.push(line);
        } else {
            self.more += 1;
        }
    }
}

struct Collector(&'static Mutex<Warnings>);

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = Fields::of(event).message();
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        warnings.add(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_line_kept_once_and_the_rest_is_counted() {
        let kept = Warnings::of(|| {
            for _ in 0..3 {
                tracing::warn!(domain = "vm1", error = "EIO", "not\nread");
            }
            tracing::info!("of no interest");
            for number in 0..KEPT + 4 {
                tracing::warn!(number, "a");
            }
        });
        assert_eq!(kept.lines[..2], ["vm1: not read: EIO", "a, number 0"]);
        assert_eq!((kept.lines.len(), kept.more), (KEPT, 5));
    }
}
