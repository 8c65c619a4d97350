//! What `doctor` examines: what can make the guard fail silently, or a start fail later. One file
//! for each examination; all of them only read.

mod configuration;
mod copies;
mod drop_in;
mod finding;
mod hook;
mod host_tpm;
mod libvirt_dirs;
mod other_hooks;
mod plaintext;
mod recovery;
mod room;
mod staged;
mod store;
mod tpm_states;
mod trust;
mod unsealing;

pub(crate) use finding::{CannotRun, Distrusted, Finding, HookFinding, HostFinding, KeyFinding};
pub(crate) use recovery::RecoveryFiles;

use super::host::Host;
use super::shared_secrets;

/// Examines the host, and these recovery files. What one examination cannot see because another
/// reports it, such as a store that cannot be read, it leaves out.
pub(crate) fn examine(host: &Host, recovery: &RecoveryFiles<'_>) -> Vec<Finding> {
    // Whether libvirt answers comes first: what asks it afterwards does not wait again.
    let mut found = configuration::examine(host);
    found.extend(hook::examine(host));
    found.extend(other_hooks::examine(&host.libvirt_dirs()));
    found.extend(libvirt_dirs::examine(host));
    found.extend(staged::examine(host));
    found.extend(trust::examine(host));
    found.extend(store::examine(host));
    found.extend(unsealing::examine(host));
    found.extend(recovery::examine(host, recovery));
    found.extend(plaintext::in_libvirt(host));
    found.extend(shared(host));
    found.extend(tpm_states::examine(host));
    found.extend(copies::examine(host));
    found.extend(plaintext::kept_by_encrypt(host));
    found.extend(room::examine(host));
    found.extend(host_tpm::examine(host));
    found
}

fn shared(host: &Host) -> Vec<Finding> {
    let guests = host.listed_guests().unwrap_or_default();
    let shared = shared_secrets::find(host, &guests).unwrap_or_default();
    let findings = shared.into_iter().map(KeyFinding::Shared);
    findings.map(Finding::from).collect()
}
