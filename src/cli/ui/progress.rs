//! Progress of long work: on a terminal, on stderr, gone when the work is done.

use indicatif::{ProgressBar, ProgressStyle};

use crate::messages::one_line;

/// How far a piece of work has come. In a pipe nothing is shown.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// Work on so many things; one alone is not worth a bar.
    pub(crate) fn new(verb: &'static str, things: usize) -> Self {
        if things < 2 {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(things as u64).with_prefix(verb);
        let style = ProgressStyle::with_template("{prefix} {pos}/{len} {bar:24} {wide_msg}");
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    /// One thing that takes a while.
    pub(crate) fn waiting(what: &'static str) -> Self {
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.tick();
        Self(bar)
    }

    /// The next thing.
    pub(crate) fn at(&self, name: &str) {
        self.0.set_message(one_line(name));
        self.0.inc(1);
    }

    /// The end: the line goes away.
    pub(crate) fn done(&self) {
        self.0.finish_and_clear();
    }
}
