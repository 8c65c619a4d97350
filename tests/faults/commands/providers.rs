//! `provider ...`.

use super::*;
use crate::keyring::Seal;

pub(super) fn providers() -> Vec<Scenario> {
    vec![
        command!(
            "provider create",
            ["provider", "create", "c", "--default"],
            |_| (),
            |host| {
                has_provider(host, "c");
                assert!(host.provider("c").is_default);
            },
            again: &[1]
        ),
        command!(
            "provider rename",
            ["provider", "rename", "a", "c"],
            in_use,
            |host| {
                has_provider(host, "c");
                starts_with_one_key(host);
            },
            again: &[2]
        ),
        command!(
            "provider set-default",
            ["provider", "set-default", "b"],
            |_| (),
            |host| assert!(host.provider("b").is_default)
        ),
        command!(
            "provider rotate",
            ["provider", "rotate", "a"],
            |host| {
                in_use(host);
                host.guest_in_use("vm2");
            },
            |host| {
                has_provider(host, "a");
                assert!(host.provider("a").key_version > 1);
                starts_with_one_key(host);
                host.assert_starts_with_one_key(&host.defined("vm2"));
            }
        ),
        command!(
            "provider reseal",
            ["provider", "reseal"],
            in_use,
            |host| {
                for name in ["a", "b"] {
                    let seal = host.host.keyring().seal(host.provider(name).key_id);
                    assert_eq!(seal.unwrap(), Seal::Host);
                }
                starts_with_one_key(host);
            },
            keys_in_clear: true
        ),
        command!(
            "provider export",
            [
                "provider", "export", "a", "--output", "{root}/a.recovery",
                "--passphrase-file", "{root}/passphrase"
            ],
            |host| {
                in_use(host);
                passphrase(host);
            },
            |host| {
                // A file that could not be recorded any more is whole, and is not overwritten.
                RecoveryFile::read(&host.root().join("a.recovery")).unwrap();
            },
            again: &[1]
        ),
        command!(
            "provider import",
            [
                "provider", "import", "{root}/recovery", "--name", "c",
                "--passphrase-file", "{root}/passphrase"
            ],
            |host| {
                in_use(host);
                passphrase(host);
                recovery::write(host);
            },
            |host| {
                has_provider(host, "c");
                starts_with_one_key(host);
            },
            again: &[1]
        ),
        command!(
            "provider delete",
            ["provider", "delete", "b", "--force"],
            in_use,
            |host| {
                assert!(host.store().provider("b").is_err());
                // A key whose removal was interrupted stays, and is of no provider.
                assert!(host.sealed_keys() <= 2);
                starts_with_one_key(host);
            },
            again: &[2]
        ),
    ]
}
