//! `key unbind`: stops managing a guest.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::manage::key_refs::{KeyRefError, Unbound, unbind};
use crate::messages::{Arg, Command, count};

pub(super) fn run(context: &Context, guest: &str) -> Result<(), CommandError> {
    context.output.print(&unbind(&context.host, guest)?)
}

impl Answer for Unbound {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        if !self.changed {
            return writeln!(
                out,
                "{} is already bound to no provider; nothing changed",
                self.guest.label()
            );
        }
        writeln!(
            out,
            "{} is bound to no provider: {} deleted, {} retired",
            self.guest.label(),
            count(self.placeholders, "placeholder"),
            count(self.retired, "key")
        )
    }

    fn notes(&self) -> Vec<String> {
        let show = Command::KeyShow(self.guest.arg.clone());
        let note = format!(
            "a retired key is kept; to use it again: {show}, {}",
            Command::KeyUse(Arg::ID)
        );
        let left = format!(
            "its XML still has keys that were not written there by sync; a host that opens them \
             uses them. To remove them: {}",
            Command::VirshMetadataRemove(self.guest.arg.clone())
        );
        // One that was unbound before has nothing but retired keys.
        let retired = (self.retired > 0 || !self.changed).then_some(note);
        retired
            .into_iter()
            .chain(self.left_in_xml.then_some(left))
            .collect()
    }
}

impl From<KeyRefError> for CommandError {
    fn from(error: KeyRefError) -> Self {
        match error {
            KeyRefError::Guest(error) => error.into(),
            KeyRefError::None(guest) => {
                Self::usage(format!("{} has no key reference", guest.label())).with_hint(format!(
                    "bind it to a provider: {}",
                    Command::KeyBind(guest.arg, Arg::NAME)
                ))
            }
        }
    }
}
