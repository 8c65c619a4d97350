//! `provider accept`: a provider that another host announced.

use std::io;

use crate::cli::context::Context;
use crate::cli::ui::answer::Answer;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::key::id::KeyId;
use crate::manage::fleet::{AcceptedProvider, accept};
use crate::messages::quoted;

pub(super) fn run(context: &Context, name: &str, key: Option<&str>) -> Result<(), CommandError> {
    let bad = |text: &str| {
        CommandError::usage(format!("invalid key ID {}", quoted(text)))
            .with_hint("a key ID has 32 hexadecimal digits")
    };
    let key = key.map(|text| KeyId::parse(text).ok_or_else(|| bad(text)));
    let key = key.transpose()?;
    context.output.print(&accept(&context.host, name, key)?)
}

impl Answer for AcceptedProvider {
    fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        let (name, key) = (quoted(&self.provider.name), self.key_id.short());
        if self.was_accepted {
            return writeln!(
                out,
                "provider {name} already has key {key}; nothing changed"
            );
        }
        writeln!(out, "provider {name} wraps new keys with key {key}")?;
        match self.previous_key_id {
            Some(previous) => writeln!(
                out,
                "its previous key {} stays on this host: it opens what it wraps",
                previous.short()
            ),
            None => Ok(()),
        }
    }
}
