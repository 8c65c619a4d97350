//! `state drop`: removes saved copies of a guest's TPM state for good, and the plain state of
//! before an `encrypt`.

use serde_json::{Value, json};

use super::{Judged, copies_of, no_copies};
use crate::cli::commands::key;
use crate::cli::context::Context;
use crate::cli::ui::error::CommandError;
use crate::clock::Timestamp;
use crate::guard::{plain_state, try_rows};
use crate::host::dirs::StateDir;
use crate::ids::DomainUuid;
use crate::manage::host::default_deadline;
use crate::manage::tpm_place;
use crate::messages::quoted;
use crate::store::{Access, Event, Origin, Store};
use crate::swtpm::StateFile;
use crate::tpm_copies::CopyStore;
use crate::verdict::facts::{KeyRef, References, Trial};

/// How many digits of a copy's SHA-256 name it.
const LEAST_DIGITS: usize = 4;

pub(crate) fn run(
    context: &Context,
    text: &str,
    named: &[String],
    force: bool,
) -> Result<(), CommandError> {
    let domain = context.host.guest(text)?;
    let label = domain.label();
    let (dropped, kept) = chosen(copies_of(context, domain.uuid)?, named)?;
    let state_dir = context.host.state_dir();
    let plain = named.is_empty() && has_plain_state(state_dir, domain.uuid)?;
    if dropped.is_empty() && !plain {
        return Err(no_copies(&domain));
    }
    let store = context.host.store(Access::Write)?;
    let remains = Remains::of(context, store.as_ref(), domain.uuid, &kept)?;
    let is_wanted = plain && remains.is_known || dropped.iter().any(|copy| remains.wants(copy));
    if !force && is_wanted && !remains.has_state {
        return Err(CommandError::refused(format!(
            "no other TPM state of {label} is known to be good: without {} its TPM is lost",
            match dropped.len() + usize::from(plain) {
                1 => "this copy",
                _ => "these copies",
            }
        ))
        .with_hint(format!(
            "put it back: vtpm-guard state restore {0}; or give its TPM up: vtpm-guard state drop \
             {0} --force",
            domain.arg
        )));
    }
    let copy_store = CopyStore::of(state_dir, domain.uuid);
    for judged in &dropped {
        copy_store.drop_copy(judged.copy.manifest.sha256())?;
    }
    if force && named.is_empty() {
        // With what cannot be read as a copy.
        copy_store.remove()?;
    } else if copy_store.exists() {
        copy_store.remove_if_empty()?;
    }
    if plain {
        plain_state::remove(state_dir, domain.uuid)
            .map_err(|error| not_plain(state_dir, &error))?;
    }
    let number = dropped.len() + usize::from(plain);
    let copies = match number {
        1 => "1 saved copy".to_owned(),
        _ => format!("{number} saved copies"),
    };
    let message = format!("{copies} of its TPM state removed");
    if let Some(mut store) = store {
        let (now, name) = (Timestamp::now(), domain.name.clone().unwrap_or_default());
        store.record_event(&Event::new(now, Origin::Drop, domain.uuid, name, message))?;
    }
    let document = json!({
        "domain": key::document(&domain),
        "dropped": dropped.iter().map(Judged::document).collect::<Value>(),
        "plain_state_dropped": plain,
        "kept": kept.len(),
    });
    context.output.answer(&document, |out| {
        writeln!(out, "removed {copies} of the TPM state of {label}")
    })?;
    Ok(())
}

/// The copies that were named, by the first digits of their SHA-256, and the others; all, where
/// none was named.
fn chosen(
    copies: Vec<Judged>,
    named: &[String],
) -> Result<(Vec<Judged>, Vec<Judged>), CommandError> {
    for digits in named {
        let is_it = |judged: &&Judged| judged.copy.manifest.sha256().starts_with(digits.as_str());
        let found = copies.iter().filter(is_it).count();
        if digits.len() < LEAST_DIGITS || found != 1 {
            let copy = quoted(digits);
            return Err(CommandError::usage(match found {
                0 => format!("there is no copy {copy}"),
                _ => format!("{copy} names more than one copy, or has too few digits"),
            })
            .with_hint("name it by its sha256: vtpm-guard state show DOMAIN"));
        }
    }
    let is_chosen = |judged: &Judged| {
        let sha256 = judged.copy.manifest.sha256();
        named.is_empty()
            || named
                .iter()
                .any(|digits| sha256.starts_with(digits.as_str()))
    };
    Ok(copies.into_iter().partition(is_chosen))
}

/// What keys a guest has in use.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keys {
    None,
    Unused,
    /// A guest has run with one of them.
    Used,
}

/// What a guest has without the copies that are to go.
struct Remains {
    /// Whether libvirt knows it, or cannot say.
    is_known: bool,
    keys: Keys,
    /// Whether it has its TPM: a copy that stays, or the state in its place, is plain, or a key in
    /// use opens it.
    has_state: bool,
}

impl Remains {
    fn of(
        context: &Context,
        store: Option<&Store>,
        domain: DomainUuid,
        kept: &[Judged],
    ) -> Result<Self, CommandError> {
        let (references, seen) = match store {
            Some(store) => (
                store.references(domain, Timestamp::now())?,
                store.seen_state(domain)?.map(|seen| seen.path),
            ),
            None => (References::default(), None),
        };
        let libvirt_state_dir = &context.host.libvirt_dirs().tpm_states();
        let defined = context.host.definition(domain);
        let vtpm = defined.as_ref().map(|(_, vtpm)| vtpm);
        let place = tpm_place::find(libvirt_state_dir, domain, vtpm, seen.as_deref());
        let (keyring, patience) = (context.host.keyring(), default_deadline());
        let trials = try_rows(&keyring, &references, domain, &place.state, patience);
        let has_state = matches!(place.state, StateFile::Plain)
            || trials.values().any(Trial::is_proven)
            || kept.iter().any(|copy| copy.opened);
        let found = context.host.libvirt().guest(domain, default_deadline());
        let is_keyed = |row: &KeyRef| row.wrapped_dek.is_some();
        let is_used = |row: &KeyRef| is_keyed(row) && row.first_used_at.is_some();
        let rows = &references.key_refs;
        let keys = if rows.iter().any(is_used) {
            Keys::Used
        } else if rows.iter().any(is_keyed) {
            Keys::Unused
        } else {
            Keys::None
        };
        Ok(Self {
            is_known: !matches!(found, Ok(None)),
            keys,
            has_state,
        })
    }

    /// Whether the guest may go on with this copy: its used key opens it, or it is the state of a
    /// guest without any key, which libvirt's own secret may open.
    fn wants(&self, copy: &Judged) -> bool {
        let is_state = !matches!(copy.state, StateFile::Absent | StateFile::Damaged(_));
        match self.keys {
            Keys::Used => copy.opened,
            Keys::Unused => false,
            Keys::None => self.is_known && is_state,
        }
    }
}

fn has_plain_state(state_dir: &StateDir, domain: DomainUuid) -> Result<bool, CommandError> {
    let kept = plain_state::list(state_dir).map_err(|error| not_plain(state_dir, &error))?;
    Ok(kept.contains(&domain))
}

fn not_plain(state_dir: &StateDir, error: &std::io::Error) -> CommandError {
    let copy_store = state_dir.plain_states();
    CommandError::failed(format!("{}: {error}", copy_store.display()))
}
