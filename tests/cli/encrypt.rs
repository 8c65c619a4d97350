//! `encrypt`, `key renew`, `key clone` where nothing gets as far as libvirt. What they do with
//! guests is in tests/e2e/recrypting.rs.

use crate::env::{Host, VM1, VM2};

#[test]
fn without_a_store_there_is_no_provider_to_encrypt_with() {
    let host = Host::new();
    host.run(&["encrypt", VM1])
        .ends_with(4)
        .saying("vtpm-guard provider create NAME");
    host.run(&["encrypt", VM1, "--provider", "nkp-a"])
        .ends_with(2)
        .saying("nkp-a");
    assert!(!host.state_dir().exists());
}

#[test]
fn an_unknown_provider_encrypts_nothing() {
    let host = Host::with_provider("nkp-a");
    let before = host.stored();
    host.run(&["encrypt", VM1, "--provider", "nkp-x"])
        .ends_with(2)
        .saying("vtpm-guard provider list");
    assert_eq!(host.stored(), before);
}

#[test]
fn nothing_is_encrypted_under_a_configuration_that_was_not_meant() {
    let host = Host::with_provider("nkp-a");
    let config = host.file("config.toml", "[polcy]\n");
    for verb in [
        &["encrypt", VM1][..],
        &["key", "renew", VM1],
        &["key", "clone", VM1, VM2],
    ] {
        host.run(&[&["--config", &config], verb].concat())
            .ends_with(2)
            .saying("polcy");
    }
}
