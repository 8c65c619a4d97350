//! `doctor`: what can make the guard fail silently, or a start fail later.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::context::{self, Context};
use super::error::AdminError;
use super::status::HOOK_LINK;
use super::{drop_in, output};
use crate::ids::SecretUuid;
use crate::libvirt::Libvirt;
use crate::secret::HostSecrets;
use crate::staging::{Definition, DefinitionFiles, Place};
use crate::store::Access;
use crate::verdict::facts::HostSecret;

/// Something that is wrong: what, why it matters, the command that helps.
struct Ailment {
    what: String,
    why: &'static str,
    command: String,
}

pub(super) fn run(context: &Context) -> Result<ExitCode, AdminError> {
    let mut ailments = Vec::new();
    ailments.extend(hook());
    ailments.extend(configuration(context));
    ailments.extend(libvirt(context));
    ailments.extend(store(context));
    ailments.extend(daemon_start());
    ailments.extend(left_laid_out());
    let document: Value = ailments
        .iter()
        .map(|found| json!({ "what": found.what, "why": found.why, "command": found.command }))
        .collect();
    context.output.answer(&document, |out| {
        for Ailment { what, why, command } in &ailments {
            writeln!(
                out,
                "- {what}\n    why it matters: {why}\n    what helps:     {command}"
            )?;
        }
        match ailments.len() {
            0 => writeln!(out, "nothing found"),
            found => writeln!(out, "{found} found"),
        }
    })?;
    Ok(ExitCode::from(u8::from(!ailments.is_empty())))
}

fn hook() -> Option<Ailment> {
    let link = Path::new(HOOK_LINK);
    let what = match fs::metadata(link) {
        Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return None,
        Ok(_) => format!("{HOOK_LINK} cannot be executed"),
        Err(_) if link.is_symlink() => format!("{HOOK_LINK} leads nowhere"),
        Err(_) => format!("{HOOK_LINK} is not there"),
    };
    Some(Ailment {
        what,
        why: "libvirt starts guests without asking the guard, and without their keys",
        command: format!(
            "mkdir -p /etc/libvirt/hooks/qemu.d && ln -sf /usr/sbin/vtpm-guard-hook {HOOK_LINK}, \
             then reload the daemon: systemctl reload libvirtd"
        ),
    })
}

fn configuration(context: &Context) -> Option<Ailment> {
    let error = context.config().err()?;
    Some(Ailment {
        what: format!("the configuration is broken: {error}"),
        why: "the hook goes by the defaults until it is mended",
        command: "edit the file; vtpm-guard doctor says when it is in order".to_owned(),
    })
}

fn libvirt(context: &Context) -> Option<Ailment> {
    let uri = context.config().unwrap_or_default().secret_uri;
    // Any UUID will do: the question is whether there is an answer.
    let answer = Libvirt::at(&uri).state(SecretUuid::random(), context::patience());
    let HostSecret::Unreachable(reason) = answer else {
        return None;
    };
    Some(Ailment {
        what: format!("libvirt's secret driver does not answer at {uri}: {reason}"),
        why: "the hook could not hand over a key, and every start that needs one would be refused",
        command: format!("virsh -c {uri} secret-list"),
    })
}

fn daemon_start() -> Option<Ailment> {
    if !drop_in::is_missing() {
        return None;
    }
    let starting = DefinitionFiles::default().autostarting().ok()?;
    let is_encrypted = |guest: &Definition| {
        let domain = guest.domain.as_ref();
        domain.is_ok_and(|domain| domain.encrypted_vtpm().is_some())
    };
    let guest = starting.into_iter().find(is_encrypted)?.name;
    Some(Ailment {
        what: format!(
            "libvirtd starts \"{guest}\" by itself, but does not run vtpm-guard stage before"
        ),
        why: "a monolithic libvirtd takes no key while it starts its guests: they would be refused",
        command: "install the drop-in libvirtd.service.d/50-vtpm-guard.conf, then: \
                  systemctl daemon-reload"
            .to_owned(),
    })
}

fn left_laid_out() -> Option<Ailment> {
    let laid_out = Place::of_this_host().laid_out().ok()?;
    let keys = output::count(Some(laid_out.len()).filter(|&keys| keys > 0)?, "key");
    Some(Ailment {
        what: format!("{keys} laid out for the start of libvirtd"),
        why: "it has loaded them, and they need not lie in /run any longer",
        command: "vtpm-guard unstage".to_owned(),
    })
}

fn store(context: &Context) -> Vec<Ailment> {
    let found = context.store(Access::Read).and_then(|store| {
        let Some(store) = store else { return Ok(Vec::new()) };
        let providers = store.providers()?;
        let damage = store.check()?;
        Ok(damage
            .iter()
            .map(|finding| Ailment {
                what: format!("the store: {finding}"),
                why: "a start that needs this row may be refused",
                command: "vtpm-guard store check".to_owned(),
            })
            .chain(providers.iter().filter_map(|provider| {
                let error = context.keyring().open(provider.key_id, context::patience()).err()?;
                Some(Ailment {
                    what: format!("the key of provider \"{}\" does not open: {error}", provider.name),
                    why: "the guests that are bound to it cannot start",
                    command: "vtpm-guard provider import FILE".to_owned(),
                })
            }))
            .chain(providers.iter().filter(|provider| provider.exported_at.is_none()).map(|provider| {
                Ailment {
                    what: format!("provider \"{}\" was never exported", provider.name),
                    why: "with this host its key is lost, and with it every TPM that depends on it",
                    command: format!("vtpm-guard provider export {} --output FILE", provider.name),
                }
            }))
            .collect())
    });
    found.unwrap_or_else(|error: AdminError| {
        vec![Ailment {
            what: format!("the store cannot be used: {error}"),
            why: "no guest's key is known",
            command: "vtpm-guard store check".to_owned(),
        }]
    })
}
