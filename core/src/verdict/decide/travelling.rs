//! The keys that came with the guest's XML, and those of the fleet's store: which of them the start goes by, and
//! what the store learns.
//!
//! The rest of the table knows rows only. So it gets the facts with the chosen key as a row among
//! them, or without the rows that give way to it.

use std::borrow::Cow;

use super::{Case, provider};
use crate::ids::{DomainUuid, KeyRefId};
use crate::verdict::facts::{DekNumber, Facts, KeyRef, Proof, References, TpmState, Trial};
use crate::verdict::refusal::Refusal;
use crate::verdict::repair::Repair;
use crate::verdict::{Answer, Decision, Finding, Reason, Verdict};

/// What the keys in a guest's XML are good for, whether or not the guest could start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XmlKey {
    /// The guest has no key here that goes before this one.
    ToLearn(Box<KeyRef>),
    /// The guest has a key here.
    Known,
    /// There is none.
    None,
    /// They are another guest's: the XML is a copy of that guest's.
    OfOther(DomainUuid),
    /// They are retired here.
    Retired,
    /// The TPM's state was encrypted with none of them.
    Refuted,
    /// They do not open here.
    OutOfReach(Refusal),
}

/// What the keys in the guest's XML are good for.
#[must_use]
pub fn xml_key(facts: &Facts) -> XmlKey {
    if let Some(key) = View::of(facts).learns {
        return XmlKey::ToLearn(Box::new(key));
    }
    let (Ok(references), Some((secret_uuid, domain))) = (&facts.references, facts.secret()) else {
        return XmlKey::None;
    };
    let case = Case {
        facts,
        references,
        secret_uuid,
    };
    if case.keyed_rows().next().is_some() {
        XmlKey::Known
    } else if let Some(original) = facts.travelling.original {
        XmlKey::OfOther(original)
    } else if let Some(refusal) = case.xml_key_out_of_reach() {
        XmlKey::OutOfReach(refusal)
    } else if !candidates(facts).is_empty() {
        XmlKey::Refuted
    } else if domain
        .travelling
        .as_ref()
        .is_some_and(|found| !found.keys.is_empty())
    {
        XmlKey::Retired
    } else {
        XmlKey::None
    }
}

/// A key of the XML or of the fleet that opens, and that the guest has not retired.
struct Candidate<'a> {
    key: &'a KeyRef,
    dek: DekNumber,
    proof: Proof,
}

impl Candidate<'_> {
    /// Whether its generation is above that of every one of these rows.
    fn is_newer_than<'r>(&self, rows: impl IntoIterator<Item = &'r KeyRef>) -> bool {
        let newest = rows.into_iter().map(KeyRef::generation).max();
        Some(self.key.generation()) > newest
    }
}

/// The facts by which the rest of the table decides, and what is to be said of the choice.
pub(super) struct View<'a> {
    pub(super) facts: Cow<'a, Facts>,
    /// The key that the store learns if the start is allowed.
    learns: Option<KeyRef>,
    /// The row of another key, as new, that gives way to this key.
    preferred_over: Option<(KeyRefId, KeyRefId)>,
    /// The XML has a key that was passed over.
    has_other: bool,
}

impl<'a> View<'a> {
    fn unchanged(facts: &'a Facts, has_other: bool) -> Self {
        Self {
            facts: Cow::Borrowed(facts),
            learns: None,
            preferred_over: None,
            has_other,
        }
    }

    /// Chooses between the rows and the keys of the XML.
    pub(super) fn of(facts: &'a Facts) -> Self {
        let (Ok(references), Some(_)) = (&facts.references, facts.secret()) else {
            return Self::unchanged(facts, false);
        };
        let candidates = candidates(facts);
        let newest_of_all = newest(candidates.iter());
        if references.state_arrives {
            return match newest_of_all {
                Some(newest) => Self::by_generation(facts, references, newest),
                None => Self::unchanged(facts, false),
            };
        }
        let proven = || {
            references
                .key_refs
                .iter()
                .filter(|row| is_proven(facts, row))
        };
        if proven().next().is_some() {
            // The same key was chosen again on another host, and has a higher generation since.
            let has_proven_dek =
                |key: &Candidate<'_>| proven().any(|row| dek_of(facts, row) == Some(key.dek));
            let again = newest(candidates.iter().filter(|key| has_proven_dek(key)));
            if let Some(again) = again.filter(|key| key.is_newer_than(proven())) {
                return Self::with(facts, again.key, |_| true);
            }
            let is_known = |key: &KeyRef| proven().any(|row| row.generation() == key.generation());
            let mut in_xml = in_xml(facts);
            let has_other = !in_xml.all(is_known);
            return Self::unchanged(facts, has_other);
        }
        let is_proven = |key: &&Candidate<'_>| key.proof == Proof::Proven;
        if let Some(proven) = newest(candidates.iter().filter(is_proven)) {
            return Self::with(facts, proven.key, |_| true);
        }
        match newest_of_all {
            Some(newest) if *facts.effective_state() != TpmState::Encrypted => {
                Self::by_generation(facts, references, newest)
            }
            Some(newest) => Self::unchanged(facts, !newest.key.id.is_of_fleet()),
            None => Self::unchanged(facts, false),
        }
    }

    /// No state decides. The XML's key is used where no row holds another one; and while state is on
    /// its way, also before those of its generation and older ones: a wrong guess costs nothing then,
    /// for the guest's start fails, and its source still has it. The state that is here may be one
    /// that the guest has left behind; it proves something only between keys of one generation.
    fn by_generation(facts: &'a Facts, references: &References, newest: &Candidate<'_>) -> Self {
        let holds = |row: &KeyRef| dek_of(facts, row) == Some(newest.dek);
        let keyed = references.key_refs.iter();
        let keyed = keyed.filter(|row| row.wrapped_dek.is_some());
        let (holders, others): (Vec<_>, Vec<_>) = keyed.partition(|row| holds(row));
        let of_holders = holders.iter().map(|row| row.generation());
        let generation = of_holders.fold(newest.key.generation(), Ord::max);
        let gives_way = |other: &&KeyRef| {
            let is_older = other.generation() < generation;
            let is_as_new = other.generation() == generation && !is_proven(facts, other);
            references.state_arrives && (is_older || is_as_new)
        };
        if !others.iter().all(gives_way) {
            let has_other = holders.is_empty() && !newest.key.id.is_of_fleet();
            return Self::unchanged(facts, has_other);
        }
        let stays = |row: &KeyRef| row.wrapped_dek.is_none() || holds(row);
        let equal = others
            .iter()
            .filter(|other| dek_of(facts, other).is_some() && other.generation() == generation);
        // A generation never goes back: that of a key which was chosen again goes with it.
        let is_new = holders.is_empty() || newest.is_newer_than(holders.iter().copied());
        let view = if is_new {
            Self::with(facts, newest.key, stays)
        } else {
            Self {
                facts: Cow::Owned(only(facts, stays)),
                ..Self::unchanged(facts, false)
            }
        };
        Self {
            preferred_over: equal
                .map(|other| other.id)
                .min()
                .map(|row| (row, newest.key.id)),
            ..view
        }
    }

    /// The facts with this key as a row, beside those rows that stay.
    fn with(facts: &Facts, key: &KeyRef, stays: impl Fn(&KeyRef) -> bool) -> Self {
        let mut with = only(facts, stays);
        if let Ok(references) = &mut with.references {
            references.key_refs.push(key.clone());
        }
        Self {
            facts: Cow::Owned(with),
            learns: Some(key.clone()),
            preferred_over: None,
            has_other: false,
        }
    }

    /// Adds to a verdict on these facts what the store learns, and what is to be said.
    pub(super) fn complete(self, answer: Answer) -> Answer {
        let Answer::Verdict(mut verdict) = answer else {
            return answer;
        };
        // A start that goes by a value of libvirt's says nothing of the key, unless the state does.
        let is_used =
            verdict.secret.is_some() || *verdict.decision() == Decision::Allow(Reason::Proven);
        match self.learns {
            Some(key) if verdict.is_allowed() && is_used => {
                let provider = key.provider_name.clone();
                let learnt = if key.id.is_of_fleet() {
                    Finding::FleetKeyLearnt { provider }
                } else {
                    Finding::KeyLearnt { provider }
                };
                verdict.findings.insert(0, learnt);
                let key = Box::new(key);
                verdict.repairs.insert(0, Repair::LearnKey { key });
            }
            // Without that row the others are not superfluous.
            Some(_) => {
                verdict.drop_store_repairs();
                verdict.findings.retain(|found| !is_of_a_row(found));
            }
            None => {}
        }
        if let Some((row, key)) = self.preferred_over {
            verdict.note(if key.is_of_fleet() {
                Finding::FleetKeyPreferred(row)
            } else {
                Finding::XmlKeyPreferred(row)
            });
        }
        if self.has_other {
            verdict.note(Finding::OtherKeyInXml);
        }
        if let Some(fault) = self.facts.travelling.fault.filter(|_| is_managed(&verdict)) {
            verdict.note(Finding::XmlKeysDamaged(fault));
        }
        verdict.into()
    }
}

/// Whether a repair of a row goes with it.
fn is_of_a_row(found: &Finding) -> bool {
    matches!(
        found,
        Finding::OrphanPlaceholder(_) | Finding::DuplicateKey(_) | Finding::UnusableKey(_)
    )
}

/// Whether the verdict concerns an encrypted vTPM.
fn is_managed(verdict: &Verdict) -> bool {
    !matches!(
        verdict.decision(),
        Decision::Allow(Reason::NoEmulatedTpm | Reason::Unencrypted | Reason::UnreadableXml)
    )
}

/// The one of the highest generation; of equal ones the first, as they are written.
fn newest<'a, 'f>(
    candidates: impl DoubleEndedIterator<Item = &'a Candidate<'f>>,
) -> Option<&'a Candidate<'f>> {
    candidates.rev().max_by_key(|key| key.key.generation())
}

fn dek_of(facts: &Facts, row: &KeyRef) -> Option<DekNumber> {
    facts.trials.get(&row.id).and_then(Trial::dek)
}

fn is_proven(facts: &Facts, row: &KeyRef) -> bool {
    facts.trials.get(&row.id).is_some_and(Trial::is_proven)
}

/// The facts with these rows alone.
fn only(facts: &Facts, stays: impl Fn(&KeyRef) -> bool) -> Facts {
    let mut only = facts.clone();
    if let Ok(references) = &mut only.references {
        references.key_refs.retain(|row| stays(row));
    }
    only
}

fn candidates(facts: &Facts) -> Vec<Candidate<'_>> {
    let references = facts.references.as_ref().ok();
    let is_retired = |key: &KeyRef, dek: DekNumber| {
        references.is_some_and(|found| found.has_retired(key, dek, &facts.retired))
    };
    let opened = facts.travelling.keys.iter().filter_map(|key| {
        // What a row holds as well was tried as that row's.
        let trial = facts.trials.get(&key.id).or_else(|| {
            let row = references?.row_with(key)?;
            facts.trials.get(&row.id)
        })?;
        let &Trial::Opened { dek, proof, .. } = trial else {
            return None;
        };
        (!is_retired(key, dek)).then_some(Candidate { key, dek, proof })
    });
    opened.collect()
}

/// The keys of the XML.
fn in_xml(facts: &Facts) -> impl Iterator<Item = &KeyRef> {
    let keys = facts.travelling.keys.iter();
    keys.filter(|key| !key.id.is_of_fleet())
}

impl Case<'_> {
    /// The guest has no key here, and the one that came with its XML does not open: why.
    pub(super) fn xml_key_out_of_reach(&self) -> Option<Refusal> {
        let why = |key: &KeyRef| match self.facts.trials.get(&key.id)? {
            Trial::Opened { .. } => None,
            Trial::NotOpened(why) => Some(provider::why_not_opened(key, why, self.references)),
        };
        let refusals: Vec<_> = in_xml(self.facts).filter_map(why).collect();
        let corrupt = |refusal: &Refusal| matches!(refusal, Refusal::KeyCorrupt { .. });
        // A key that an import brings within reach goes before one that is damaged.
        match refusals.iter().find(|refusal| !corrupt(refusal)) {
            Some(refusal) => Some(refusal.clone()),
            None => refusals.into_iter().next().map(|refusal| match refusal {
                Refusal::KeyCorrupt {
                    reason, is_newer, ..
                } => Refusal::XmlKeyCorrupt { reason, is_newer },
                other => other,
            }),
        }
    }
}
