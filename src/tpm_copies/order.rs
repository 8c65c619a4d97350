//! Which of several copies is the later one.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::saved_copy::SavedCopy;
use crate::clock::Timestamp;

/// Sorts copies of one guest, the latest first. Those of this host have numbers, which a clock that is set back does
/// not touch. One of the fleet is put between them by its time; a copy of this host counts as no older than those
/// that it followed, for a state that another host has saved is taken to be newer only where that is certain.
pub fn sort_latest_first<T>(copies: &mut [T], copy: impl Fn(&T) -> &SavedCopy) {
    let own = copies.iter().map(&copy).filter(|it| !it.is_of_fleet());
    let times: BTreeMap<_, _> = own
        .map(|it| (it.manifest.number, it.manifest.kept_at()))
        .collect();
    let mut latest = Timestamp(i64::MIN);
    let times: BTreeMap<_, _> = times
        .into_iter()
        .map(|(number, kept_at)| {
            latest = latest.max(kept_at);
            (number, latest)
        })
        .collect();
    copies.sort_by_key(|it| {
        let SavedCopy { manifest, .. } = copy(it);
        let own = times.get(&manifest.number);
        let own = own.filter(|_| !copy(it).is_of_fleet());
        Reverse(match own {
            Some(no_earlier_than) => (*no_earlier_than, manifest.number),
            None => (manifest.kept_at(), 0),
        })
    });
}
