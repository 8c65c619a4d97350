//! Any bytes as what a store's program answers: nothing panics, none is both a request and a reply, what its facts say is
//! read again as it was written, and nobody has signed it with a key that is not theirs.

use vtpm_guard::internals::clock::Timestamp;
use vtpm_guard::internals::fleet::claim::{Claim, Signed, Statement};
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
    assert!(!is_signed(claim, kek));
}

/// Whether this key has signed it, whoever it says has. Otherwise the key's id ends the attempt.
fn is_signed(claim: Claim, kek: &Kek) -> bool {
    fn by<T: Statement>(mut signed: Signed<T>, kek: &Kek) -> bool {
        signed.key_id = kek.key_id();
        signed.check(kek).is_ok()
    }
    match claim {
        Claim::Status(signed) => by(signed, kek),
        Claim::Provider(signed) => by(signed, kek),
        Claim::Successor(signed) => by(signed, kek),
        Claim::Placement(signed) => by(signed, kek),
        _ => false,
    }
}

fn try_state(state: &State, kek: &Kek) {
    assert!(
        state
            .data
            .as_ref()
            .is_none_or(|data| (1..=MAX_STATE).contains(&data.len()))
    );
    let _ = StateNote::from_json(&state.info.body);
    if let Some(mut signed) = SignedState::read(&state.info, state.info.domain) {
        assert_eq!(signed.unverified().id, state.info.id);
        signed.key_id = kek.key_id();
        assert!(signed.check(kek).is_none());
    }
}
