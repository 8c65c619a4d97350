//! The first lines of `status`: hook, configuration, store, providers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::ui::describe;
use crate::cli::ui::error::CommandError;
use crate::cli::ui::printer::Printer;
use crate::cli::ui::table::{BAD, GOOD, NOTABLE};
use crate::host::dirs::HOOK;
use crate::host::dirs::LibvirtDirs;
use crate::keyring::KeyringError;
use crate::libvirt::Guest;
use crate::manage::unknown_guests;
use crate::messages::label;
use crate::store::{Access, KeyRefRecord, Store};
use crate::verdict::facts::Provider;

/// The link by which libvirt runs the hook, or the one that should be there.
pub(crate) fn hook_link(dirs: &LibvirtDirs) -> PathBuf {
    let (link, only) = (dirs.hook_link(), dirs.only_hook());
    let is_the_only_one = fs::read_link(&only).is_ok_and(|target| target == Path::new(HOOK));
    if is_the_only_one && !link.exists() {
        only
    } else {
        link
    }
}

pub(crate) struct Host {
    hook_link: PathBuf,
    configuration: String,
    store: PathBuf,
    store_exists: bool,
    keyed: usize,
    placeholders: usize,
    /// Guests that have keys and that libvirt does not know; `None` where it cannot be asked.
    forgotten: Option<usize>,
    /// Each with how its KEK is sealed here.
    providers: Vec<(Provider, String)>,
}

impl Host {
    /// Looks around. `known` are the guests that libvirt knows, if it could be asked.
    pub(crate) fn look(context: &Context, known: Option<&[Guest]>) -> Result<Self, CommandError> {
        let store = context.host.store(Access::Read)?;
        let providers = store.as_ref().map_or(Ok(Vec::new()), Store::providers)?;
        let rows = store
            .as_ref()
            .map_or(Ok(Vec::new()), |store| store.all_key_refs(None, false))?;
        let is_placeholder = |row: &&KeyRefRecord| row.key_ref.wrapped_dek.is_none();
        let placeholders = rows.iter().filter(is_placeholder).count();
        let with_seal = |provider: Provider| {
            let seal = seal(context, &provider);
            (provider, seal)
        };
        Ok(Self {
            hook_link: hook_link(&context.host.libvirt_dirs()),
            configuration: match context.host.config() {
                Ok(_) => "in order".to_owned(),
                Err(error) => error.to_string(),
            },
            store: context.host.state_dir().store(),
            store_exists: store.is_some(),
            keyed: rows.len() - placeholders,
            placeholders,
            forgotten: known.and_then(|known| unknown_guests::count(&context.host, known)),
            providers: providers.into_iter().map(with_seal).collect(),
        })
    }

    pub(crate) fn document(&self) -> Value {
        let provider = |(provider, seal): &(Provider, String)| {
            json!({
                "name": provider.name,
                "key_id": provider.key_id.to_string(),
                "seal": seal,
                "exported": provider.exported_at.is_some(),
            })
        };
        json!({
            "hook": { "path": self.hook_link, "installed": self.hook_link.exists() },
            "configuration": self.configuration,
            "store": { "path": self.store, "exists": self.store_exists },
            "providers": self.providers.iter().map(provider).collect::<Value>(),
            "key_refs": { "keyed": self.keyed, "placeholders": self.placeholders },
            "guests_unknown_to_libvirt": self.forgotten,
        })
    }

    pub(crate) fn print(&self, out: &mut Printer<'_>) -> io::Result<()> {
        out.part(format_args!("hook:          "))?;
        if self.hook_link.exists() {
            out.painted(GOOD, "installed")?;
        } else {
            out.painted(BAD, "not installed")?;
        }
        writeln!(out, " ({})", self.hook_link.display())?;
        writeln!(out, "configuration: {}", self.configuration)?;
        let exists = if self.store_exists {
            ""
        } else {
            " (there is none yet)"
        };
        writeln!(out, "store:         {}{exists}", self.store.display())?;
        writeln!(
            out,
            "keys:          {} in use, {} to be made at first start",
            self.keyed, self.placeholders
        )?;
        if let Some(words) = self.forgotten.and_then(describe::unknown_guests) {
            writeln!(out, "forgotten:     {words}")?;
        }
        if self.providers.is_empty() {
            writeln!(
                out,
                "providers:     none; make one: vtpm-guard provider create NAME --default"
            )?;
        }
        for (provider, seal) in &self.providers {
            out.part(format_args!(
                "provider:      {} (key {}), sealed by {seal}",
                label(&provider.name),
                provider.key_id.short()
            ))?;
            if provider.exported_at.is_none() {
                out.part(format_args!(", "))?;
                out.painted(NOTABLE, "never exported")?;
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

/// How a provider's KEK is sealed here, or why it is not.
fn seal(context: &Context, provider: &Provider) -> String {
    match context.host.keyring().seal(provider.key_id) {
        Ok(seal) => seal.to_string(),
        Err(KeyringError::Missing(_)) => "nothing: its key is missing".to_owned(),
        Err(error) => format!("nothing usable: {error}"),
    }
}
