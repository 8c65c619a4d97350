//! `adopt`, where it does not come as far as libvirt; the rest is in `tests/e2e/adopting.rs`.

use crate::env::{Host, VM1};

#[test]
fn without_a_store_or_with_an_unknown_provider_nothing_is_adopted() {
    let host = Host::new();
    host.run(&["adopt", VM1])
        .ends_with(2)
        .saying("there is no default provider");
    host.run(&["adopt", VM1, "--provider", "nkp-a"])
        .ends_with(2)
        .saying("key provider \"nkp-a\" not found");
    assert!(!host.state_dir().join("store.db").exists());

    host.run(&["provider", "create", "nkp-a"]).succeeds();
    let before = host.stored();
    host.run(&["adopt", "--all", "--provider", "nkp-b"])
        .ends_with(2)
        .saying("key provider \"nkp-b\" not found");
    assert_eq!(host.stored(), before);
}

#[test]
fn guests_are_named_or_all_of_them_are_meant_and_not_both() {
    let host = Host::with_provider("nkp-a");
    for arguments in [&["adopt"][..], &["adopt", VM1, "--all"]] {
        host.run(arguments).ends_with(2).saying("Usage:");
    }
}

#[test]
fn a_broken_configuration_is_an_error_before_anything_is_asked() {
    let host = Host::with_provider("nkp-a");
    let file = host.file("broken.toml", "[secret]\nlifetime = \"for ever\"\n");
    host.run(&["adopt", VM1, "--config", &file])
        .ends_with(2)
        .saying("lifetime");
}
