//! Any bytes as what the store, of a fleet also whoever keeps that, says of a slot: the wrapped provider key that a plugin
//! gets, and the name of the key that wrapped it. A wrapped key is read to its last byte, so that written down again it is the
//! same; and no name leads anywhere else, to another path, file or option.

#[path = "../../kms/pkcs11/src/blob.rs"]
#[allow(dead_code, reason = "what wraps is not called here")]
mod pkcs11_blob;
#[path = "../../kms/pkcs11/src/name.rs"]
mod pkcs11_name;

#[path = "../../kms/exec/src/name.rs"]
mod exec_name;
#[path = "../../kms/kmip/src/name.rs"]
mod kmip_name;
#[path = "../../kms/transit/src/name.rs"]
mod transit_name;

use super::kmip_response::blob::Blob;
use vtpm_guard::plugin::split_blob;

/// Tries these bytes as a wrapped key, and as a name.
pub fn check(data: &[u8]) {
    try_blob(data);
    if let Ok(name) = std::str::from_utf8(data) {
        try_name(name);
        try_mount(name);
    }
}

fn try_blob(bytes: &[u8]) {
    let head = split_blob(bytes, Some).map(|(method, rest)| (method, rest.len()));
    if let Ok((_, rest)) = head {
        assert_eq!(rest + 2, bytes.len());
    }
    let of_pkcs11 = pkcs11_blob::Blob::parse(bytes);
    if let Ok(blob) = &of_pkcs11 {
        assert_eq!(blob.to_bytes(), bytes);
        assert_eq!(
            head.as_ref().ok().map(|(method, _)| *method),
            Some(blob.method.number())
        );
    }
    let of_kmip = Blob::parse(bytes);
    if let Ok(blob) = &of_kmip {
        assert_eq!(blob.to_bytes(), bytes);
    }
    // What has no head is neither's.
    assert!(head.is_ok() || of_pkcs11.is_err() && of_kmip.is_err());
}

/// Whether these bytes are a wrapped key of kms-pkcs11, and one of kms-kmip.
pub fn blobs(bytes: &[u8]) -> (bool, bool) {
    (
        pkcs11_blob::Blob::parse(bytes).is_ok(),
        Blob::parse(bytes).is_ok(),
    )
}

fn try_name(name: &str) {
    if let Ok(path) = transit_name::path("transit", "decrypt", name) {
        assert_eq!(path, format!("transit/decrypt/{name}"));
        assert_eq!(path.split('/').count(), 3);
        assert!(is_plain(&path) && name != "." && name != "..");
    }
    if let Ok(parsed) = pkcs11_name::Name::parse(name) {
        let shown = parsed.to_string();
        match &parsed {
            pkcs11_name::Name::Label(label) => assert_eq!(label, name),
            pkcs11_name::Name::Id(id) => {
                assert_eq!(shown, name.to_ascii_lowercase());
                assert_eq!(id.len() * 2, name.len() - "id:".len());
                assert_eq!(pkcs11_name::Name::parse(&shown).ok(), Some(parsed));
            }
        }
    }
    if let Ok(parsed) = kmip_name::Name::parse(name) {
        assert!((1..=1024).contains(&name.len()));
        match parsed {
            kmip_name::Name::Name(text) => assert!(text == name && !name.starts_with("id:")),
            kmip_name::Name::Id(id) => assert!(format!("id:{id}") == name && !id.is_empty()),
        }
    }
    let args = ["--recipient", "{key}", "x {key}"].map(str::to_owned);
    if exec_name::problem(&args, name).is_none() {
        assert!(!name.starts_with(['-', '/']) && !name.contains(char::is_whitespace));
        assert!(name.is_ascii() && !name.contains(|it: char| "\0\"'$`;&|<>(){}*?~\\".contains(it)));
        assert!(name.split('/').all(|part| part != ".."));
    }
}

/// Where an engine is mounted is configuration; what is said of it holds all the same.
fn try_mount(text: &str) {
    if transit_name::is_mount(text) {
        assert!(is_plain(text) && !text.starts_with('/') && !text.contains("//"));
        assert!(text.split('/').all(|part| part != ".."));
    }
}

/// Whether nothing in it means anything in a URL or in the head of a request.
fn is_plain(path: &str) -> bool {
    path.bytes()
        .all(|byte| byte.is_ascii_graphic() && !b"?#%\\:@".contains(&byte))
}
