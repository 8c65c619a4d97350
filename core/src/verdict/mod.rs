//! The core: facts in, verdict out. Pure: no SQLite, no libvirt, no files, no clock, no log.

pub mod adopt;
pub mod code;
pub mod decide;
pub mod elsewhere;
pub mod facts;
mod finding;
pub mod outcome;
pub mod refusal;
pub mod repair;

pub use finding::Finding;

use elsewhere::Search;
use facts::KeySource;
use refusal::Refusal;
use repair::Repair;

/// What [`decide::decide`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// The facts do not suffice: ask libvirt for the host secret and decide again.
    AskHostSecret,
    /// Something is missing, or what helps depends on libvirt's definition of the guest: look for it on this host,
    /// also under another name, and decide again.
    AskElsewhere(Search),
    /// Something is missing that another host may have: ask the shared store and decide again.
    AskFleet,
    /// The verdict.
    Verdict(Verdict),
}

/// What is to be done with one start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    decision: Decision,
    findings: Vec<Finding>,
    repairs: Vec<Repair>,
    secret: Option<ProvideSecret>,
}

impl Verdict {
    /// The start is allowed, with nothing to note, repair or provide.
    pub fn allow(reason: Reason) -> Self {
        Self::new(Decision::Allow(reason))
    }

    /// The start is refused. A refusal changes nothing: it has no repairs and provides no secret.
    pub fn deny(refusal: Refusal) -> Self {
        Self::new(Decision::Deny(refusal))
    }

    fn new(decision: Decision) -> Self {
        Self {
            decision,
            findings: Vec::new(),
            repairs: Vec::new(),
            secret: None,
        }
    }

    /// Returns whether the start is allowed.
    #[must_use]
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// What was noticed on the way, worth a word to the administrator.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The changes to the store and the TPM state. A verdict that is refused from the beginning
    /// has none.
    #[must_use]
    pub fn repairs(&self) -> &[Repair] {
        &self.repairs
    }

    /// The key that libvirt must be given, if any.
    #[must_use]
    pub fn secret(&self) -> Option<ProvideSecret> {
        self.secret
    }

    /// Returns whether the start is allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self.decision, Decision::Allow(_))
    }

    /// Adds a finding.
    pub fn note(&mut self, finding: Finding) {
        self.findings.push(finding);
    }

    /// Adds a finding, and the repair that fixes it.
    pub fn plan(&mut self, finding: Finding, repair: Repair) {
        self.findings.push(finding);
        self.repairs.push(repair);
    }

    /// Refuses a start before anything was repaired: nothing is, and libvirt is given no key.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.decision = Decision::Deny(refusal);
        self.repairs.clear();
        self.secret = None;
    }

    /// Refuses a start after its repairs were carried out, because libvirt took no key. The
    /// verdict keeps them, and the key that it would have provided.
    pub fn refuse_after_repairs(&mut self, refusal: Refusal) {
        self.decision = Decision::Deny(refusal);
    }

    /// The store has taken no change: only what was done with files remains of the repairs.
    pub fn drop_store_repairs(&mut self) {
        let is_of_a_file = |repair: &Repair| matches!(repair, Repair::RestoreTpmState { .. });
        self.repairs.retain(is_of_a_file);
    }

    fn with_finding(mut self, finding: Finding) -> Self {
        self.note(finding);
        self
    }

    fn with_secret(mut self, secret: ProvideSecret) -> Self {
        self.secret = Some(secret);
        self
    }
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

/// Allow or deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// The start is allowed.
    Allow(Reason),
    /// The start is refused.
    Deny(Refusal),
}

/// Why a start is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The domain has no emulated TPM.
    NoEmulatedTpm,
    /// Its emulated TPM is not encrypted.
    Unencrypted,
    /// The domain XML could not be read.
    UnreadableXml,
    /// The key opens the TPM's state: proven.
    Proven,
    /// The key is there; no state contradicts it.
    Unproven,
    /// A new key is made for a new TPM.
    NewKey,
    /// libvirt has a secret of its own, and the guard does not manage it.
    HostSecret,
    /// Whoever starts the guest brings its key, in a secret that libvirt discloses to nobody.
    ClientsKey,
    /// libvirtd is starting, and has loaded the guest's secret: it was staged, or is a
    /// persistent one.
    LoadedSecret,
    /// This operation is never refused.
    NotAStart,
}

/// Which key libvirt must be given, and what it may replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProvideSecret {
    /// Whose DEK.
    pub key: KeySource,
    /// What it may replace.
    pub over: Over,
}

/// What may be replaced when libvirt is given a key. No value is ever lost: one that root can
/// read is in the store before. A key never goes into somebody else's secret: the guard would not
/// drop it there, and another guest could be started with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Nothing: libvirt has this very value already, in somebody else's secret.
    TheSame,
    /// Nothing but secrets of the guard's own, whose values are all in the store.
    GuardsOwn,
    /// The definition of somebody else's secret: one of the guard's own, ephemeral and private,
    /// takes its place.
    ForeignDefinition,
    /// Somebody else's secret with a value that nobody can read, in the same way, as long as libvirt
    /// has it in memory alone: ephemeral and private.
    ForeignValue,
}
