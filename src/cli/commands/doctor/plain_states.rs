//! Plain TPM states that `encrypt` keeps until the guest has started.

use super::{Ailment, unreadable};
use crate::cli::context::Context;
use crate::guard::plain_state;
use crate::ids::DomainUuid;

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    match plain_state::list(context.host.state_dir()) {
        Ok(domains) => domains.into_iter().map(still_kept).collect(),
        Err(error) => vec![unreadable(&context.host.state_dir().plain_states(), &error)],
    }
}

fn still_kept(domain: DomainUuid) -> Ailment {
    Ailment::advice(
        format!("the plain TPM state of {domain}, which was encrypted, is still kept"),
        "whoever has this disk, or a backup of it, opens the guest's TPM as it was",
        format!(
            "start the guest, which proves the encrypted one: virsh start {domain}; if it is \
             gone: vtpm-guard state drop {domain}"
        ),
    )
}
