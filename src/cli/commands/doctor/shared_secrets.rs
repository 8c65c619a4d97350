//! Guests that name one secret and have different keys.

use super::Ailment;
use crate::cli::context::Context;
use crate::cli::shared_secrets;

pub(crate) fn ailments(context: &Context) -> Vec<Ailment> {
    // That libvirt does not answer, or the store, is told of elsewhere.
    let guests = context.host.listed_guests().unwrap_or_default();
    let shared = shared_secrets::find(context, &guests).unwrap_or_default();
    shared
        .iter()
        .map(|shared| {
            Ailment::advice(
                shared.what(),
                "libvirt has one value for a secret, so that one of them waits, or is refused \
                 (VG303), while another one starts",
                shared.command(),
            )
        })
        .collect()
}
