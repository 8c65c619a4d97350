//! Any bytes as what a store's program answers: nothing panics, none is both a request and a reply, what its facts say is
//! read again as it was written, and nobody has signed it with a key that is not theirs.

use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::fleet::claim::Claim;
use vtpm_guard::internals::fleet::tpm_state::{SignedState, StateNote};
use vtpm_guard::internals::fleet::{Fact, MAX_BODY, MAX_STATE, State, read_message};
use vtpm_guard::internals::ids::HostUuid;
use vtpm_guard::internals::key::kek::Kek;

/// Tries these bytes.
pub fn check(document: &[u8]) {
    let (is_request, reply) = read_message(document);
    assert!(!is_request || reply.is_none());
    let (facts, states) = reply.unwrap_or_default();
    let kek = Kek::from_slice(&[7; Kek::LEN]).expect("a key of its length");
    facts.iter().for_each(|fact| try_fact(fact, &kek));
    states.iter().for_each(|state| try_state(state, &kek));
}

fn try_fact(fact: &Fact, kek: &Kek) {
    assert!(fact.body.len() <= MAX_BODY);
    let Ok(claim) = Claim::read(fact) else {
        return;
    };
    let host = HostUuid::parse("20000000-0000-4000-8000-000000000002").expect("a UUID");
    let again = claim.write(host, Timestamp(0));
    assert_eq!(Claim::read(&again), Ok(claim.clone()));
    let is_signed = match &claim {
        Claim::Status(signed) => signed.check(kek).is_ok(),
        Claim::Provider(signed) => signed.check(kek).is_ok(),
        Claim::Successor(signed) => signed.check(kek).is_ok(),
        Claim::Placement(signed) => signed.check(kek).is_ok(),
        _ => false,
    };
    assert!(!is_signed);
}

fn try_state(state: &State, kek: &Kek) {
    assert!(
        state
            .data
            .as_ref()
            .is_none_or(|data| (1..=MAX_STATE).contains(&data.len()))
    );
    let _ = StateNote::from_json(&state.info.body);
    if let Some(signed) = SignedState::read(&state.info, state.info.domain) {
        assert_eq!(signed.unverified().id, state.info.id);
        assert!(signed.check(kek).is_none());
    }
}
