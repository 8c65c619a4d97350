//! `[policy]` of the configuration.

/// `[policy]` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// A provider is missing and libvirt has the secret: allow the start.
    pub degraded: Permission,
    /// The guest has no key reference and libvirt has the secret: allow the start.
    pub unmanaged: Permission,
    /// The guest's vTPM is not encrypted: allow the start.
    pub unencrypted: Permission,
    /// A used key's TPM state is missing: allow libvirt to make a new TPM.
    pub missing_state: Permission,
    /// What becomes of a transient guest's TPM at the normal end of a run.
    pub transient_state: TransientState,
    /// The provider that unbound guests are bound to; `None` binds none.
    pub auto_bind: Option<String>,
    /// The guest runs on another host, as that host has said last: allow the start.
    pub elsewhere: Permission,
}

/// What becomes of the TPM of a transient guest, whose state libvirt deletes when it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransientState {
    /// Its next run gets the state back.
    Keep,
    /// Its next run gets a new TPM under the same key.
    Fresh,
}

/// "allow" or "deny".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// "allow"
    Allow,
    /// "deny"
    Deny,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            degraded: Permission::Allow,
            unmanaged: Permission::Allow,
            unencrypted: Permission::Allow,
            missing_state: Permission::Deny,
            transient_state: TransientState::Keep,
            auto_bind: None,
            elsewhere: Permission::Allow,
        }
    }
}
