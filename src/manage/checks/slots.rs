//! Key managers: do they answer, do their slots open, and is somebody there who asks them after a reboot?

use std::collections::BTreeSet;

use super::nightly::not_settled;
use super::{Finding, HostFinding, KeyFinding, providers};
use crate::config::{Config, KekCache};
use crate::host::dirs::OPEN_UNITS;
use crate::keyring::KekPlace;
use crate::manage::host::Host;
use crate::manage::slots::open;
use crate::store::{Access, Slot};

/// Asks every key manager of the configuration, and opens every slot. Nothing is recorded: `provider slot verify`
/// does that.
pub(super) fn examine(host: &Host) -> Vec<Finding> {
    let Ok(config) = host.config() else {
        return Vec::new();
    };
    let store = host.store(Access::Read).ok().flatten();
    let slots = store.and_then(|store| store.slots().ok());
    let slots = slots.unwrap_or_default();
    let mut managers = host.key_managers(&config);
    let mut found = Vec::new();
    let mut silent = BTreeSet::new();
    for kms in config.kms.keys() {
        if let Err(error) = managers.status(kms) {
            silent.insert(kms.clone());
            found.push(HostFinding::KeyManager(error).into());
        }
    }
    for provider in providers(host) {
        let is_to_leave = config.kek_cache == KekCache::Boot && !provider.kms.names.is_empty();
        let place = host.keyring().place(provider.key_id);
        if is_to_leave && place.is_ok_and(|place| place == KekPlace::Disk) {
            found.push(KeyFinding::StillOnDisk(provider.clone()).into());
        }
        let its = slots.iter().filter(|slot| slot.key_id == provider.key_id);
        for slot in its.filter(|slot| !silent.contains(&slot.kms)) {
            if let Err(error) = open(&mut managers, slot) {
                let provider = provider.clone();
                found.push(KeyFinding::Slot(provider, slot.uuid, error).into());
            }
        }
    }
    let nobody = not_settled(needed_units(&config, &slots));
    let nobody = nobody.map(|units| HostFinding::OpenNotEnabled(units).into());
    found.into_iter().chain(nobody).collect()
}

/// The units that have to be enabled, so that starts find the keys of these slots.
fn needed_units(config: &Config, slots: &[Slot]) -> Vec<&'static str> {
    let [at_boot, from_time_to_time] = OPEN_UNITS;
    let (boot, expire) = (
        config.kek_cache == KekCache::Boot,
        config.kek_max_age.is_some(),
    );
    let needed = [(at_boot, boot || expire), (from_time_to_time, expire)];
    let needed = needed
        .into_iter()
        .filter(|(_, is_needed)| *is_needed && !slots.is_empty());
    needed.map(|(unit, _)| unit).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::ids::SlotUuid;
    use crate::key::id::KeyId;

    #[test]
    fn units_are_needed_where_a_slot_opens_what_is_lost_or_expires() {
        let [at_boot, _] = OPEN_UNITS;
        let slot = Slot {
            uuid: SlotUuid::random(),
            key_id: KeyId::from_bytes([1; KeyId::LEN]),
            kind: "pad".to_owned(),
            label: None,
            kms: "toy".to_owned(),
            remote_key: "one".to_owned(),
            remote_version: None,
            blob: vec![1],
            verified_at: None,
            created_at: Timestamp(0),
        };
        let expires = Some(Duration::from_secs(24 * 60 * 60));
        let (sealed, boot, both) = (KekCache::Sealed, KekCache::Boot, OPEN_UNITS.to_vec());
        for (kek_cache, kek_max_age, needed) in [
            (sealed, None, Vec::new()),
            (boot, None, vec![at_boot]),
            (sealed, expires, both.clone()),
            (boot, expires, both),
        ] {
            let config = Config {
                kek_cache,
                kek_max_age,
                ..Config::default()
            };
            assert_eq!(needed_units(&config, std::slice::from_ref(&slot)), needed);
            assert_eq!(needed_units(&config, &[]), [""; 0], "no slot");
        }
    }
}
