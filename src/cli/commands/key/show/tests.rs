#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use super::*;
use crate::clock::{Deadline, Timestamp};
use crate::ids::{DomainUuid, KeyRefId, ProviderUuid};
use crate::key::dek::Dek;
use crate::key::kek::Kek;
use crate::key::wrap::WrappedDek;
use crate::keyring::{Keyring, WeakerSeal};
use crate::verdict::facts::KeyRef;

/// Puts a state that swtpm made at libvirt's place for this domain.
fn lay_state(libvirt_state_dir: &Path, domain: DomainUuid, vector: &str, file: &str) {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/tpm-state");
    let file = libvirt_state_dir.join(domain.to_string()).join(file);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::copy(vectors.join(vector).join(file.file_name().unwrap()), file).unwrap();
}

#[test]
fn the_key_that_opens_the_tpm_is_proven_and_another_refuted() {
    let dir = tempfile::tempdir().unwrap();
    let domain = DomainUuid::random();
    lay_state(dir.path(), domain, "tpm2-encrypted", "tpm2/tpm2-00.permall");
    let deadline = Deadline::after(Duration::from_secs(20));
    let keyring = Keyring::at(dir.path().join("keys"));
    let kek = Kek::generate().unwrap();
    keyring.store(&kek, WeakerSeal::Allowed, deadline).unwrap();
    let provider = Provider {
        uuid: ProviderUuid::random(),
        name: "nkp-a".to_owned(),
        key_id: kek.key_id(),
        key_version: 1,
        is_default: true,
        exported_at: None,
        created_at: Timestamp(0),
    };
    let row = |id, dek: &[u8]| KeyRefRecord {
        domain,
        key_ref: KeyRef {
            id: KeyRefId(id),
            secret_uuid: None,
            provider_uuid: Some(provider.uuid),
            provider_name: provider.name.clone(),
            key_version: Some(1),
            kek_ref: None,
            wrapped_dek: Some({
                let dek = Dek::from_bytes(Zeroizing::new(dek.to_vec()));
                WrappedDek::wrap(&kek, &dek, domain).unwrap()
            }),
            first_used_at: None,
            created_at: Timestamp(0),
        },
        retired_at: None,
        algorithm: None,
        updated_at: Timestamp(0),
    };
    let rows = [row(1, b"correct horse"), row(2, b"battery staple")];
    let all = References {
        key_refs: rows.iter().map(|row| row.key_ref.clone()).collect(),
        providers: vec![provider],
        ..References::default()
    };
    let state = tpm_place::find(dir.path(), domain, None, None).state;
    let trials = try_rows(&keyring, &all, domain, &state, deadline);
    let said = rows.each_ref().map(|row| {
        let tried = Tried {
            row,
            trial: trials.get(&row.key_ref.id),
            holder: holder(row, &all.providers),
        };
        (tried.opens(), tried.tpm())
    });
    assert_eq!(
        said,
        [
            (Some(Ok(())), Some("proven")),
            (Some(Ok(())), Some("refuted")),
        ]
    );
}
