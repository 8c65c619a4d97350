//! What is said of a fleet: errors, and what an exchange did.

use super::error::CommandError;
use super::provider_errors::bad_name_of;
use crate::fleet::{FleetError, Trouble};
use crate::manage::fleet::rotation::{HostResult, HostState, InterruptedRotation, RotateError};
use crate::manage::fleet::{FleetCommandError, FleetRound, OpenedKey};
use crate::messages::{Arg, Command, count, quoted};

/// What an exchange did, on one line.
pub(crate) fn exchanged(round: &FleetRound) -> String {
    let done = &round.exchanged;
    let mut parts = vec![
        format!("told the fleet {}", count(done.pushed, "fact")),
        format!("learnt {}", done.pulled),
    ];
    for (number, what, done) in [
        (done.states, "TPM state", "sent"),
        (done.added, "key reference", "added"),
        (done.changed, "key reference", "changed"),
        (done.rejected, "fact", "not believed"),
    ] {
        if number > 0 {
            parts.push(format!("{} {done}", count(number, what)));
        }
    }
    for name in &round.followed {
        parts.push(format!("provider {} has its next key", quoted(name)));
    }
    parts.join(", ")
}

/// Announced keys that were opened, one line each.
pub(crate) fn opened(opened: &[OpenedKey]) -> Vec<String> {
    let line = |it: &OpenedKey| {
        let (name, slot) = (quoted(&it.name), quoted(&it.slot));
        format!(
            "provider {name}: key {} was opened by {slot}",
            it.key_id.short()
        )
    };
    opened.iter().map(line).collect()
}

impl From<FleetCommandError> for CommandError {
    fn from(error: FleetCommandError) -> Self {
        match error {
            FleetCommandError::Host(error) => error.into(),
            FleetCommandError::Provider(error) => error.into(),
            FleetCommandError::Shared(error) => error.into(),
            FleetCommandError::NoAddress => {
                Self::usage(error).with_hint("set fleet.store in the configuration (docs/fleet.md)")
            }
            FleetCommandError::BadAddress(ref text) => {
                Self::usage(format!("{error}: {}", quoted(text)))
                    .with_hint("an address is like postgresql://db.example.com/vtpm_guard")
            }
            FleetCommandError::Endless => Self::failed(error).with_hint(
                "see who has stored so many: SELECT role, kind, count(*) FROM vtpm_guard.fact GROUP BY 1, 2",
            ),
            FleetCommandError::Untold(changes) => {
                Self::refused(format!("{error}: {} waits", count(changes, "change"))).with_hint(
                    format!(
                        "retry; if they wait for provider keys that do not open here: {}; to leave all the same: {}",
                        Command::ProviderList,
                        Command::FleetLeaveForced
                    ),
                )
            }
            FleetCommandError::Running => Self::failed(error).with_hint("retry"),
            FleetCommandError::NoMember => {
                Self::usage(error).with_hint(format!("join it: {}", Command::FleetJoin))
            }
            FleetCommandError::NoHost(ref text) | FleetCommandError::AmbiguousHost(ref text) => {
                Self::usage(format!("{error}: {}", quoted(text))).with_hint(format!(
                    "list them, with UUIDs: {} --json",
                    Command::FleetStatus
                ))
            }
            FleetCommandError::ThisHost => Self::refused(error)
                .with_hint(format!("to take it out of the fleet: {}", Command::FleetLeave)),
            FleetCommandError::NotAnnounced(ref name) => {
                Self::usage(format!("{error}: {}", quoted(name)))
                    .with_hint(format!("hear what is new: {}", Command::Sync))
            }
            FleetCommandError::AmbiguousKey(ref name, ref keys) => {
                let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
                Self::usage(format!("{error}: {}", quoted(name)))
                    .with_hint(format!("say which one with --key: {}", keys.join(", ")))
            }
            FleetCommandError::OtherName(ref name, ref other) => Self::refused(format!(
                "provider {}: {error}: {}",
                quoted(name),
                quoted(other)
            ))
            .with_hint(format!(
                "it wraps new keys under that name; to rename it: {}",
                Command::ProviderRename(Arg::provider_named(other), Arg::NEW)
            )),
            FleetCommandError::BadName(ref name, why) => bad_name_of("a host", name, why)
                .with_hint(format!("give it another one: {} --name NAME", Command::FleetJoin)),
            FleetCommandError::NotOpened(ref name, ref why) => {
                let mut message = format!("provider {}: {error}", quoted(name));
                if !why.is_empty() {
                    message = format!("{message}: {}", why.join("; "));
                }
                Self::refused(message).with_hint(
                    "give this host access to its key manager ([kms.NAME]), or import its recovery file",
                )
            }
        }
    }
}

impl From<RotateError> for CommandError {
    fn from(error: RotateError) -> Self {
        match error {
            RotateError::Slot(error) => error.into(),
            RotateError::Fleet(error) => error.into(),
            RotateError::Interrupted(interrupted) => half_rotated(*interrupted),
            RotateError::HostsWait(ref provider, ref hosts) => {
                let waiting = waiting(hosts, quoted).join(", ");
                Self::refused(format!("{error}: {waiting} wait")).with_hint(format!(
                    "nothing was re-wrapped; run it again, or do not wait for a host: {} --without HOST",
                    Command::ProviderRotate(provider.arg())
                ))
            }
        }
    }
}

/// The hosts that are waited for, as `say` says their names.
pub(crate) fn waiting(hosts: &[HostResult], say: impl Fn(&str) -> String) -> Vec<String> {
    let waiting = hosts.iter().filter(|it| it.result == HostState::Waiting);
    waiting.map(|it| host_among(it, hosts, &say)).collect()
}

/// A host by its name, as `say` says it; with its UUID where another one of these has the name, too.
pub(crate) fn host_among(
    host: &HostResult,
    hosts: &[HostResult],
    say: impl Fn(&str) -> String,
) -> String {
    let name = say(&host.name);
    let mut others = hosts.iter().filter(|it| it.host != host.host);
    if others.any(|it| it.name == host.name) {
        return format!("{name} ({})", host.host);
    }
    name
}

/// A rotation that ended before all key references were re-wrapped.
fn half_rotated(rotation: InterruptedRotation) -> CommandError {
    let provider = &rotation.provider;
    let name = quoted(&provider.name);
    let (done, of) = (rotation.done, rotation.of);
    let begun = rotation.new_key.map_or_else(
        || format!("completing an earlier rotation of provider {name}"),
        |key| {
            let key = key.short();
            format!("provider {name} has its new key {key}; re-wrapping")
        },
    );
    let reached = match of {
        0 => "before the first key reference".to_owned(),
        _ => format!("after {done} of {}", count(of, "key reference")),
    };
    // Once all are done, the next rotation would be another one.
    let go_on = if done < of || of == 0 {
        Command::ProviderRotate(provider.arg())
    } else {
        Command::ProviderShow(provider.arg())
    };
    let error = CommandError::from(rotation.error);
    error
        .after(format!("{begun} stopped {reached}"))
        .going_on(go_on)
}

impl From<FleetError> for CommandError {
    fn from(error: FleetError) -> Self {
        let hint = match &error {
            FleetError::NoProgram { kind, .. } => format!("install vtpm-guard-store-{kind}"),
            FleetError::NotTrusted(_) => "only root may be able to write it".to_owned(),
            FleetError::Program { .. } | FleetError::Nonsense { .. } => {
                "install the package of the store's program again".to_owned()
            }
            FleetError::Refused {
                program, trouble, ..
            } => match trouble {
                Trouble::Settings => {
                    return Self::usage(error)
                        .with_hint("correct [fleet] in the configuration (docs/fleet.md)");
                }
                Trouble::Credentials => "renew the credentials (docs/fleet.md)".to_owned(),
                Trouble::Unreachable => {
                    "retry once it answers; guests that are known here start all the same"
                        .to_owned()
                }
                Trouble::Denied => {
                    "give this host's role its rights: GRANT vtpm_guard_host TO ROLE".to_owned()
                }
                Trouble::NoSchema => format!("make it, as its owner: {}", Command::FleetInit),
                // Its package, which has the name of the program, and not ours: it alone knows the schema.
                Trouble::TooNew => format!("install the newer version of vtpm-guard-{program}"),
                Trouble::Failed => "the log of the database may say why".to_owned(),
            },
        };
        Self::failed(error).with_hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{HostUuid, ProviderUuid};
    use crate::key::id::KeyId;
    use crate::manage::providers::ProviderRef;
    use crate::store::StoreError;

    fn stopped(new_key: bool, done: usize, of: usize, error: StoreError) -> String {
        let error = CommandError::from(RotateError::Interrupted(Box::new(InterruptedRotation {
            provider: ProviderRef {
                name: "nkp-a".to_owned(),
                uuid: ProviderUuid::random(),
            },
            new_key: new_key.then(|| KeyId::from_bytes([0x1a; KeyId::LEN])),
            done,
            of,
            error: error.into(),
        })));
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn a_rotation_that_stopped_says_how_far_it_came_and_what_goes_on() {
        let full = || StoreError::NotAsWritten("full");
        assert_eq!(
            stopped(true, 100, 150, StoreError::Locked),
            "provider \"nkp-a\" has its new key 1a1a1a1a; re-wrapping stopped after 100 of 150 key \
             references: another program has locked the store, and the deadline has passed; go on \
             with the rest: vtpm-guard provider rotate nkp-a"
        );
        assert_eq!(
            stopped(false, 1, 2, full()),
            "completing an earlier rotation of provider \"nkp-a\" stopped after 1 of 2 key \
             references: the store does not keep what is written to it: full; show what differs \
             from its schema: vtpm-guard store check; then go on with the rest: vtpm-guard provider \
             rotate nkp-a"
        );
        assert!(stopped(true, 0, 0, full()).contains("stopped before the first key reference:"));
        let all = stopped(true, 2, 2, StoreError::Locked);
        assert!(
            !all.contains("rotate nkp-a"),
            "there would be another key: {all}"
        );
    }

    #[test]
    fn hosts_that_are_called_the_same_are_told_apart_by_their_uuids() {
        let of = |byte, name: &str, result| HostResult {
            host: HostUuid::from_bytes([byte; 16]),
            name: name.to_owned(),
            result,
        };
        let provider = ProviderRef {
            name: "nkp-a".to_owned(),
            uuid: ProviderUuid::random(),
        };
        let hosts = vec![
            of(1, "host-a", HostState::Opened),
            of(2, "host-a", HostState::Waiting),
            of(3, "host-b", HostState::Waiting),
        ];
        let error = CommandError::from(RotateError::HostsWait(provider, hosts));
        assert_eq!(
            error.to_string(),
            "not all hosts have opened the next key: \"host-a\" \
             (02020202-0202-0202-0202-020202020202), \"host-b\" wait"
        );
    }

    #[test]
    fn a_store_that_is_too_new_needs_the_newer_version_of_its_own_program() {
        let error = CommandError::from(FleetError::Refused {
            program: "store-postgresql".to_owned(),
            trouble: Trouble::TooNew,
            message: "version 9".to_owned(),
        });
        assert_eq!(
            error.hint(),
            Some("install the newer version of vtpm-guard-store-postgresql")
        );
    }
}
