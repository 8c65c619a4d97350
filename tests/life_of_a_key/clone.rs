//! A guest is cloned with its TPM: its state is copied, and its key is wrapped for the clone, as
//! `key clone` does it.

use std::fs;

use vtpm_guard::clock::Timestamp;
use vtpm_guard::key::new_key::NewKey;
use vtpm_guard::key::wrap::{ALGORITHM, WrappedDek};
use vtpm_guard::store::{AddKey, OtherKeys};

use crate::host::{Host, dek};

/// Makes the other guest a clone of this one, if it has neither a key nor a TPM yet.
pub(crate) fn happen(host: &mut Host, original: usize) -> Option<String> {
    let clone = 1 - original;
    let (from, to) = (host.state_file(original), host.state_file(clone));
    if host.guests[original].running || host.guests[clone].running || to.exists() {
        return None;
    }
    let state = fs::read(from).ok()?;
    let rows = host.rows(original);
    let mut live = rows.iter().filter(|row| row.retired_at.is_none());
    let bytes = live.find_map(|row| {
        let bytes = host.unwrapped(row)?;
        (host.opens_state(original, &bytes) == Some(true)).then_some(bytes)
    })?;
    let mut store = host.store();
    let mut present = store
        .providers()
        .unwrap()
        .into_iter()
        .filter_map(|provider| {
            let mut keks = host.keks.iter();
            let (_, kek) = keks.find(|(_, kek)| kek.key_id() == provider.key_id)?;
            Some((provider, kek))
        });
    let (provider, kek) = present.next()?;
    let domain = host.guests[clone].domain.uuid;
    let key = NewKey {
        wrapped_dek: WrappedDek::wrap(kek, &dek(&bytes), domain).unwrap(),
        key_id: provider.key_id,
        key_version: provider.key_version,
        algorithm: ALGORITHM,
    };
    let now = Timestamp::now();
    let added = store.add_key(&AddKey {
        domain,
        provider: provider.uuid,
        key: &key,
        secret_uuid: Some(host.guests[clone].secret),
        first_used_at: Some(now),
        others: OtherKeys::Refuse,
        now,
    });
    added.ok()?;
    fs::create_dir_all(to.parent()?).unwrap();
    fs::write(to, state).unwrap();
    host.guests[clone].made_with.insert(bytes.clone());
    host.guests[clone].used.insert(bytes);
    Some("cloned".to_owned())
}
