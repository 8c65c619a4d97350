//! `key metadata`: the element with which a guest's keys travel.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::travelling::{finding, stays};
use crate::manage::key_metadata::{KeyMetadata, KeyMetadataError, show, write};
use crate::messages::{Command, count};

pub(super) fn run(context: &Context, guest: &str, writes: bool) -> Result<(), CommandError> {
    let done = if writes {
        write(&context.host, guest)
    } else {
        show(&context.host, guest)
    };
    context.output.print(&done?)
}

impl Answer for KeyMetadata {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let keys = count(self.keys.len(), "key");
        match self.written {
            None => self
                .element
                .lines()
                .try_for_each(|line| writeln!(out, "{line}")),
            Some(true) => writeln!(
                out,
                "the domain XML of {} has {keys} now",
                self.guest.label()
            ),
            Some(false) => writeln!(
                out,
                "the domain XML of {} has its {keys} already; nothing changed",
                self.guest.label()
            ),
        }
    }

    fn notes(&self) -> Vec<String> {
        let findings = self.findings.iter();
        findings.map(|it| finding(&self.guest, it)).collect()
    }
}

impl From<KeyMetadataError> for CommandError {
    fn from(error: KeyMetadataError) -> Self {
        match error {
            KeyMetadataError::Guest(error) => error.into(),
            KeyMetadataError::NoKey(guest) => {
                Self::refused(format!("{} has no key in use", guest.label())).with_hint(format!(
                    "for what its start would do: {}",
                    Command::Check(guest.arg)
                ))
            }
            KeyMetadataError::NoneTravels(guest, staying) => {
                let why: Vec<_> = staying.iter().map(|one| stays(&guest, *one)).collect();
                Self::refused(why.join("; ")).with_hint(format!(
                    "for details: {}; to give the guest a key that travels: {}",
                    Command::KeyShow(guest.arg.clone()),
                    Command::KeyRenew(guest.arg)
                ))
            }
            KeyMetadataError::Busy(guest) => Self::failed(format!(
                "{} is busy (a migration, a save): its domain XML cannot be changed now",
                guest.label()
            ))
            .with_hint("retry when that is over"),
            KeyMetadataError::Prevented(guest, found) => Self::refused(finding(&guest, &found)),
            KeyMetadataError::NotKept(guest) => Self::failed(format!(
                "libvirt has not kept what was written into the domain XML of {}",
                guest.label()
            ))
            .with_hint(format!("show it: {}", Command::VirshDumpxml(guest.arg))),
        }
    }
}
