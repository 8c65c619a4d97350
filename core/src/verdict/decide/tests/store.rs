//! A store that cannot be used.

use super::given::{findings, for_another_use, guest, hidden, unreachable, valueless, verdict};
use crate::verdict::Finding;
use crate::verdict::facts::{HostSecret, StoreAccessError, TpmState};
use HostSecret::Absent as NoSecret;
use TpmState::Plain;

/// Rows 86, 87 and 88.
#[test]
fn an_unusable_store_is_refused_unless_libvirts_secret_can_be_used() {
    let cases = [
        (
            StoreAccessError::Unavailable("locked".to_owned()),
            "deny VG401",
        ),
        (
            StoreAccessError::Corrupt("damaged".to_owned()),
            "deny VG402",
        ),
        (
            StoreAccessError::TooNew { found: 9, known: 1 },
            "deny VG403",
        ),
    ];
    for (trouble, refused) in cases {
        let facts = guest().store(trouble.clone());
        for no_help in [NoSecret, valueless(), for_another_use(), unreachable()] {
            assert_eq!(verdict(&facts.clone().host(no_help)), refused);
        }
        let carried = facts.host(hidden());
        assert_eq!(verdict(&carried), "allow HostSecret");
        assert_eq!(findings(&carried), [Finding::StoreUnusable(trouble)]);
        assert_eq!(verdict(&carried.state(Plain)), "deny VG503");
    }
}
