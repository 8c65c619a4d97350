//! Every hint names commands that exist, about the right guest, whatever its name.

use std::collections::BTreeSet;

use vtpm_guard::internals::cli::args::{Cli, Command, Key, State};
use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::domain::TravellingFault;
use vtpm_guard::internals::ids::{DomainUuid, KeyRefId, SecretUuid};
use vtpm_guard::internals::key::id::KeyId;
use vtpm_guard::internals::messages::{Named, finding, misleads, refusal, refusal_line};
use vtpm_guard::internals::verdict::Finding;
use vtpm_guard::internals::verdict::elsewhere::{
    ElsewhereKind, OtherGuest, RelatedGuest, Relation, StateElsewhere,
};
use vtpm_guard::internals::verdict::facts::{
    Arrival, CopyReason, Damage, Obstacle, RunsOn, StoreAccessError,
};
use vtpm_guard::internals::verdict::refusal::Refusal;

use crate::command_line::{command_lines, parsed};
use crate::read;

const UUID: &str = "11111111-2222-4333-8444-00000000000b";
/// Of the second guest in a refusal that names two.
const OTHER_UUID: &str = "11111111-2222-4333-8444-00000000000c";

/// Guest names: ordinary ones, and ones that are meant to turn a command into one about another
/// guest, or into another command.
const NAMES: [&str; 25] = [
    "vm1",
    "my vm",
    "größe",
    "it's",
    "a\"b",
    "a\\b",
    "$(reboot)",
    "`reboot`",
    "x; vtpm-guard provider delete nkp-a --force",
    "x, vtpm-guard reset vm2",
    "x' --force; reboot '",
    "DOMAIN",
    "11111111-2222-4333-8444-00000000000a",
    "1111111122224333844400000000000A",
    " 11111111-2222-4333-8444-00000000000a ",
    "7",
    "007",
    "-f",
    "--all",
    "--",
    "",
    "a\nvtpm-guard reset vm2",
    "a\u{1b}[31m\u{9b}31m",
    "a\u{202e}b\u{2028}c",
    "a\u{200b}b",
];

fn key_id() -> KeyId {
    KeyId::parse("3f2a9c01000000000000000000000000").unwrap()
}

fn secret() -> SecretUuid {
    SecretUuid::parse("6dd3e4a5-1f2e-4a0b-9c8d-7e6f5a4b3c2d").unwrap()
}

fn state_elsewhere() -> StateElsewhere {
    StateElsewhere {
        path: "/there/tpm2-00.permall".into(),
        wanted: "/my states/tpm2-00.permall".into(),
        kind: ElsewhereKind::LastSeen,
    }
}

/// The refusals that name another guest, which has this name.
fn refusals_about_two(name: &str) -> impl Iterator<Item = Refusal> {
    let other = move |is_defined| OtherGuest {
        uuid: DomainUuid::parse(OTHER_UUID).unwrap(),
        name: Some(name.to_owned()),
        is_defined,
    };
    [true, false].into_iter().flat_map(move |is_defined| {
        let relative = move |by| RelatedGuest {
            domain: other(is_defined),
            by,
            has_state: is_defined,
        };
        [
            Refusal::KeyOfRelatedGuest {
                relative: relative(Relation::Secret),
                is_defined,
            },
            Refusal::KeyOfRelatedGuest {
                relative: relative(Relation::Name),
                is_defined,
            },
            Refusal::KeyOfOtherGuest {
                holder: other(is_defined),
                refuted: is_defined,
                is_defined,
            },
            Refusal::KeyOfOriginal {
                original: other(is_defined).uuid,
                is_lost: true,
                is_defined,
            },
            Refusal::KeyOfOriginal {
                original: other(is_defined).uuid,
                is_lost: false,
                is_defined,
            },
        ]
    })
}

/// One refusal of each kind.
#[allow(clippy::too_many_lines, reason = "one line for each refusal")]
fn refusals(word: &str) -> Vec<Refusal> {
    let word = || word.to_owned();
    let secret = secret();
    let (key_ref, key_refs) = (KeyRefId(1), vec![KeyRefId(1), KeyRefId(2)]);
    vec![
        Refusal::XmlKeyCorrupt {
            reason: word(),
            is_newer: false,
        },
        Refusal::XmlKeyCorrupt {
            reason: word(),
            is_newer: true,
        },
        Refusal::ProviderMissing {
            provider: word(),
            key_id: Some(key_id()),
        },
        Refusal::ProviderMissing {
            provider: word(),
            key_id: None,
        },
        Refusal::ProviderKeyMismatch {
            provider: word(),
            has: key_id(),
            wrapped_with: key_id(),
        },
        Refusal::ProviderAmbiguous {
            provider: word(),
            key_id: key_id(),
            candidates: vec![word(), word()],
        },
        Refusal::ProviderSealed {
            provider: word(),
            reason: word(),
            kms: Vec::new(),
        },
        Refusal::ProviderSealed {
            provider: word(),
            reason: word(),
            kms: vec![word()],
        },
        Refusal::KekNotHere {
            provider: word(),
            key_id: key_id(),
            kms: vec![word(), word()],
        },
        Refusal::KekExpired {
            provider: word(),
            kms: vec![word()],
            opened_at: None,
        },
        Refusal::AutoBindMissing { provider: word() },
        Refusal::ProviderTimedOut { provider: word() },
        Refusal::DeadlinePassed,
        Refusal::StagingTimePassed,
        Refusal::KeyMissing,
        Refusal::KeyMissingNotDefined {
            domain: DomainUuid::parse(UUID).unwrap(),
        },
        Refusal::KeyMissingStateElsewhere(state_elsewhere()),
        Refusal::UsedKeyRetired {
            key_ref,
            is_defined: false,
        },
        Refusal::UsedKeyRetired {
            key_ref,
            is_defined: true,
        },
        Refusal::KeyInMemoryOnly { retired: None },
        Refusal::KeyInMemoryOnly {
            retired: Some(key_ref),
        },
        Refusal::Unmanaged {
            is_clients: true,
            is_defined: false,
        },
        Refusal::Unmanaged {
            is_clients: false,
            is_defined: false,
        },
        Refusal::Unmanaged {
            is_clients: false,
            is_defined: true,
        },
        Refusal::KeyUnknown,
        Refusal::KeyNotImported,
        Refusal::KeysRetired {
            key_refs: vec![key_ref],
        },
        Refusal::KeysRetired {
            key_refs: key_refs.clone(),
        },
        Refusal::KeyRetired { key_ref },
        Refusal::TpmStateElsewhere(state_elsewhere()),
        Refusal::TpmStateUndefined,
        Refusal::KeyLost,
        Refusal::ClientsKeyMissing { secret },
        Refusal::KeyAmbiguous {
            key_refs: key_refs.clone(),
        },
        Refusal::KeyDoesNotOpenTpm { key_refs },
        Refusal::TpmStateMissing,
        Refusal::StateInSnapshots {
            names: vec![word()],
        },
        Refusal::SeenStateMissing {
            path: word().into(),
            at: Timestamp(5),
        },
        Refusal::SavedCopyOutdated {
            reason: CopyReason::Release,
            saved_at: Timestamp(5),
        },
        Refusal::SavedCopyOutdated {
            reason: CopyReason::Fleet,
            saved_at: Timestamp(5),
        },
        Refusal::RunsElsewhere(RunsOn {
            host: word(),
            since: Timestamp(5),
        }),
        Refusal::TpmStateNotRestored { reason: word() },
        Refusal::TpmStateDamaged {
            damage: word().into(),
            is_named_by_xml: false,
        },
        Refusal::TpmStateDamaged {
            damage: Damage {
                how: word(),
                link: Some("/a/link".into()),
            },
            is_named_by_xml: true,
        },
        Refusal::TpmObstructed(Obstacle::InUse {
            holder: word(),
            pid: Some(7),
        }),
        Refusal::TpmObstructed(Obstacle::InUse {
            holder: word(),
            pid: None,
        }),
        Refusal::TpmObstructed(Obstacle::BadLock {
            path: "/states/.lock".to_owned(),
            what: word(),
        }),
        Refusal::TpmObstructed(Obstacle::ClosedDirectory {
            path: "/my states".to_owned(),
            mode: 0o700,
            needed: 0o711,
            user: word(),
        }),
        Refusal::KeyCorrupt {
            key_ref,
            reason: word(),
            is_newer: false,
        },
        Refusal::KeyCorrupt {
            key_ref,
            reason: word(),
            is_newer: true,
        },
        Refusal::FleetKeyTooNew { reason: word() },
        Refusal::SecretRefused {
            secret,
            reason: word(),
        },
        Refusal::LibvirtUnreachable { reason: word() },
        Refusal::DefinitionsUnread { reason: word() },
        Refusal::LibvirtStarting,
        Refusal::SecretConflict {
            secret,
            reason: word(),
        },
        Refusal::SecretOfGuest {
            secret,
            guests: vec![word(), word()],
        },
        Refusal::SecretInUse {
            secret,
            guest: word(),
        },
        Refusal::HostValueDoesNotOpenTpm { secret },
        Refusal::RetiredKeyOpensTpm { key_ref },
        Refusal::Store(StoreAccessError::Unavailable(word())),
        Refusal::Store(StoreAccessError::Corrupt(word())),
        Refusal::Store(StoreAccessError::TooNew { found: 9, known: 1 }),
        Refusal::DomainXmlInvalid { reason: word() },
        Refusal::UnencryptedVtpm {
            has_state: true,
            is_defined: true,
        },
        Refusal::UnencryptedVtpm {
            has_state: false,
            is_defined: false,
        },
        Refusal::EncryptionMismatch {
            is_defined: true,
            state_encrypted: true,
        },
        Refusal::EncryptionMismatch {
            is_defined: false,
            state_encrypted: false,
        },
        Refusal::Internal { reason: word() },
    ]
}

/// One finding of each kind.
fn findings(word: &str) -> Vec<Finding> {
    let word = || word.to_owned();
    let id = KeyRefId(1);
    let degraded = refusals(&word()).into_iter().map(Finding::Degraded);
    let others = [
        Finding::StateUnreadable(word()),
        Finding::OrphanPlaceholder(id),
        Finding::ProviderLost {
            key_ref: id,
            provider: word(),
        },
        Finding::DuplicateKey(id),
        Finding::UnusableKey(id),
        Finding::IncompleteRow(id),
        Finding::Unmanaged,
        Finding::KeyInMemoryOnly { retired: None },
        Finding::KeyInMemoryOnly { retired: Some(id) },
        Finding::ClientsKey,
        Finding::HiddenValue(secret()),
        Finding::HostValueKept,
        Finding::HostValueProven,
        Finding::StoreUnusable(StoreAccessError::Unavailable(word())),
        Finding::XmlUnreadable(word()),
        Finding::DefinitionRead(word()),
        Finding::StateDamaged {
            how: word(),
            reason: CopyReason::Start,
        },
        Finding::NewTpmAllowed,
        Finding::FreshTpm,
        Finding::StateGone {
            reason: CopyReason::Start,
            saved_at: Timestamp(5),
        },
        Finding::StateArrives {
            arrival: Arrival::Restore,
            first_used_at: Some(Timestamp(5)),
        },
        Finding::KeyLearnt { provider: word() },
        Finding::FleetKeyLearnt { provider: word() },
        Finding::FleetKeyOutOfReach(Refusal::KeyMissing),
        Finding::FleetFactsIgnored(2),
        Finding::FleetSilent(word()),
        Finding::RunsElsewhere(RunsOn {
            host: word(),
            since: Timestamp(5),
        }),
        Finding::FleetKeyPreferred(id),
        Finding::XmlKeyPreferred(KeyRefId(1)),
        Finding::OtherKeyInXml,
        Finding::XmlKeysDamaged(TravellingFault::NotBase64),
        Finding::CopyNotKept(word()),
        Finding::ConfigurationBroken(word()),
        Finding::NotRecorded(word()),
    ];
    degraded.chain(others).collect()
}

/// The variants of an enum, as its source has them.
fn variants(file: &str, name: &str) -> BTreeSet<String> {
    let source = read(file);
    let (_, body) = source.split_once(&format!("pub enum {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}\n").unwrap();
    let lines = body.lines().filter_map(|line| line.strip_prefix("    "));
    lines
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| {
            line.split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap()
                .to_owned()
        })
        .collect()
}

fn variant(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn every_refusal_and_finding_is_tried() {
    let tried = refusals("x").into_iter().chain(refusals_about_two("x"));
    let tried: BTreeSet<_> = tried.map(|why| variant(&why)).collect();
    assert_eq!(tried, variants("core/src/verdict/refusal.rs", "Refusal"));
    let tried: BTreeSet<_> = findings("x").iter().map(variant).collect();
    assert_eq!(tried, variants("core/src/verdict/finding.rs", "Finding"));
}

/// The guest that a command is about.
fn guest_of(cli: &Cli) -> Option<&str> {
    match &cli.command {
        Command::Key(
            Key::Bind { domain, .. }
            | Key::Import { domain, .. }
            | Key::Show { domain }
            | Key::Unbind { domain }
            | Key::Renew { domain }
            | Key::Clone {
                new_domain: domain, ..
            },
        )
        | Command::State(State::Show { domain } | State::Restore { domain, .. })
        | Command::Encrypt { domain, .. }
        | Command::Reset { domain } => Some(domain),
        Command::Adopt { which, .. } | Command::Repair { which, .. } => Some(&which.domains[0]),
        Command::Check { which, .. } => which.domains.first().map(String::as_str),
        _ => None,
    }
}

/// Checks the commands of a hint that is about this guest.
fn check(hint: &str, name: &str, uuid: Option<DomainUuid>) -> usize {
    let lines = command_lines(hint);
    for line in &lines {
        let guest = match parsed(line) {
            Err(error) => panic!("{hint}\n{error}"),
            Ok(Some(cli)) => guest_of(&cli).map(str::to_owned),
            // A file, whatever it is called, is one word: `mv FILE FILE.old`, `chmod MODE FILE`.
            Ok(None) if ["mv", "chmod"].contains(&line[0].as_str()) => {
                assert_eq!(line.len(), 3, "{hint}");
                None
            }
            // virsh: what follows the verb.
            Ok(None) if ["edit", "start"].contains(&line[1].as_str()) => {
                assert_eq!(line.len(), 3, "{hint}");
                line.get(2).cloned()
            }
            Ok(None) => None,
        };
        let Some(guest) = guest else { continue };
        let uuid = uuid.map_or("DOMAIN".to_owned(), |uuid| uuid.to_string());
        assert!(
            guest == name || guest == uuid || guest == UUID,
            "{hint}: {guest:?}, not {name:?}"
        );
        let would_be_another = DomainUuid::parse(name).is_ok() || name.parse::<u32>().is_ok();
        assert!(
            guest == uuid || guest == UUID || !would_be_another,
            "{hint}: {guest:?}"
        );
    }
    lines.len()
}

#[test]
fn the_commands_of_every_hint_parse_and_are_about_the_guest_whatever_its_name() {
    let uuid = DomainUuid::parse(UUID).unwrap();
    let mut seen = 0;
    for name in NAMES {
        for uuid in [Some(uuid), None] {
            let guest = Named { name, uuid };
            for why in refusals(name).into_iter().chain(refusals_about_two(name)) {
                let words = refusal(guest, &why);
                let commands = check(&words.hint, name, uuid);
                assert!(commands > 0, "{:?} names no command: {}", why, words.hint);
                seen += commands;
                let line = refusal_line(guest, &why);
                assert!(!line.contains(misleads), "{line:?}");
            }
            for found in findings(name) {
                let (_, sentence) = finding(guest, &found);
                if let Finding::Degraded(why) = &found {
                    check(&refusal(guest, why).hint, name, uuid);
                } else if matches!(found, Finding::Unmanaged | Finding::HostValueProven) {
                    seen += check(&sentence, name, uuid);
                }
            }
        }
    }
    assert!(seen > 1000, "{seen}");
}

#[test]
fn a_name_that_begins_like_an_option_is_accepted_after_two_dashes() {
    use clap::Parser;
    for (line, meant) in [
        (vec!["key", "show", "--", "-f"], "-f"),
        (vec!["key", "bind", "--provider", "a", "--", "-f"], "-f"),
        (vec!["key", "unbind", "--", "--all"], "--all"),
        (vec!["key", "renew", "--json", "--", "-f"], "-f"),
        (vec!["key", "clone", "--", "-f", "-g"], "-g"),
        (vec!["key", "import", "--from", "x", "--", "-f"], "-f"),
        (vec!["adopt", "--provider", "a", "--", "-f", "-g"], "-f"),
        (vec!["check", "--", "-f"], "-f"),
        (vec!["repair", "--dry-run", "--", "--all"], "--all"),
        (vec!["encrypt", "--provider", "a", "--", "-f"], "-f"),
        (vec!["reset", "--", "-f"], "-f"),
        (vec!["state", "show", "--", "-f"], "-f"),
        (vec!["state", "restore", "--", "-f"], "-f"),
    ] {
        let words = std::iter::once("vtpm-guard").chain(line.iter().copied());
        let cli = Cli::try_parse_from(words).unwrap();
        assert_eq!(guest_of(&cli), Some(meant), "{line:?}");
    }
}
