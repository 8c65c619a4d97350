//! `fleet lost`: an administrator says that a host is off, and that none of its guests runs there any more.

use serde::Serialize;

use super::connection::{FleetCommandError, connect, member};
use super::round::{Follower, round};
use super::status::{find_host, hosts};
use super::tell;
use crate::clock::Timestamp;
use crate::fleet::claim::{Claim, HostClaim, PlacementClaim, Signed};
use crate::ids::HostUuid;
use crate::keyring::unlock::Unlocker;
use crate::manage::guests::GuestRef;
use crate::manage::host::{Host, default_deadline};
use crate::manage::sync::exclusive;
use crate::store::{Access, KnownFact, Membership, Merge, Store};

/// What `fleet lost` did.
#[derive(Debug, Serialize)]
pub(crate) struct LostHost {
    /// The host.
    pub(crate) host: HostUuid,
    pub(crate) name: String,
    /// Its guests, as it has said last.
    pub(crate) guests: Vec<GuestRef>,
    /// Whether the other hosts were told.
    pub(crate) told: bool,
    /// Why they were not.
    pub(crate) trouble: Option<String>,
}

/// Records that the host of this name or UUID runs nothing any more.
pub(crate) fn lost(host: &Host, text: &str) -> Result<LostHost, FleetCommandError> {
    // First: a host that is in no fleet waits for nobody.
    drop(member(host, Access::Read)?);
    // It goes by what is known of guests; and `fleet leave` forgets that.
    let exclusive = exclusive(host, None)?;
    let (mut store, own) = member(host, Access::Write)?;
    let (uuid, name) = find(&store, &own, text)?;
    if uuid == own.host {
        return Err(FleetCommandError::ThisHost);
    }
    let now = Timestamp::now();
    let mut unlocker = Unlocker::new(&host.keyring());
    let (mut merge, mut guests) = (Merge::default(), Vec::new());
    let mut notes = Vec::new();
    for row in store.all_placements()? {
        let was = &row.placement;
        if row.is_own || was.host != uuid {
            continue;
        }
        // Also what was said before: perhaps nobody heard it.
        let now_says = PlacementClaim {
            // Not now: what another host has saved since is no older for it.
            at: was.at.saturating_add(i64::from(was.running)),
            running: false,
            ..was.clone()
        };
        let rows = store.all_key_refs(Some(now_says.domain), false)?;
        let rows = rows.iter().map(|row| &row.key_ref);
        if was.running {
            guests.push(GuestRef::of_uuid(
                now_says.domain,
                Some(now_says.name.clone()),
            ));
        }
        if let Some(kek) = unlocker.kek_of(rows, default_deadline()) {
            let claim = Claim::Placement(Signed::new(now_says.clone(), &kek));
            notes.push(KnownFact::said(claim, uuid, now));
        }
        merge.placements.push(now_says);
    }
    let left = Claim::Host(HostClaim::new(uuid, &name, now, true));
    let left = KnownFact::said(left, own.host, now);
    notes.push(left.clone());
    merge.facts.push(left);
    store.set_deadline(default_deadline())?;
    store.merge(&merge, now)?;
    drop((store, exclusive));
    let trouble = tell(host, &notes).err().map(|error| error.to_string());
    Ok(LostHost {
        host: uuid,
        name,
        guests,
        told: trouble.is_none(),
        trouble,
    })
}

/// Tells the others at once.
fn tell(host: &Host, notes: &[KnownFact]) -> Result<(), FleetCommandError> {
    tell::push(&mut connect(&host.config()?)?, notes)?;
    round(host, &mut Follower::default(), false)?;
    Ok(())
}

/// The host of this name or UUID, as far as this host has heard of it.
fn find(
    store: &Store,
    own: &Membership,
    text: &str,
) -> Result<(HostUuid, String), FleetCommandError> {
    let mut known = hosts(store)?;
    known.insert(own.host, own.name.clone());
    for row in store.all_placements()? {
        let placement = row.placement;
        known.entry(placement.host).or_insert(placement.host_name);
    }
    let uuid = find_host(&known, text)?;
    let name = known.remove(&uuid).unwrap_or_default();
    Ok((uuid, name))
}
