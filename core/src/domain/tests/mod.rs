//! A document in, a domain or an error out.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use proptest::prelude::*;

use super::*;

mod accepted;
mod limits;
mod names;
mod tpm;
mod travelling;
mod xml;

const UUID: &str = "7c1d3b52-9a4e-4c55-8f10-0123456789ab";

/// A domain with this inside `<domain>`.
fn domain_with(inside: &str) -> String {
    format!("<domain type='kvm'><name>vm1</name><uuid>{UUID}</uuid>{inside}</domain>")
}

/// A domain with this inside `<devices>`.
fn devices(inside: &str) -> String {
    domain_with(&format!("<devices>{inside}</devices>"))
}

/// A domain with an emulated TPM of model `tpm-crb` and this inside its `<backend>`.
fn emulator_with(inside: &str) -> String {
    devices(&format!(
        "<tpm model='tpm-crb'><backend type='emulator'>{inside}</backend></tpm>"
    ))
}

fn vtpm(document: &str) -> Option<Vtpm> {
    read(document.as_bytes()).unwrap().vtpm
}

fn emulator(document: &str) -> Emulator {
    match vtpm(document) {
        Some(Vtpm::Emulator(emulator)) => emulator,
        other => panic!("{other:?} is no emulator: {document}"),
    }
}

fn name(document: &str) -> String {
    read(document.as_bytes()).unwrap().name
}

/// The error of a document, without its line.
#[track_caller]
fn error(document: impl AsRef<[u8]>) -> XmlError {
    match read(document.as_ref()) {
        Err(DomainXmlError::Invalid { error, .. }) => error,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(document.as_ref())),
    }
}

fn bad_value(wanted: &'static str, value: &str) -> XmlError {
    XmlError::BadValue {
        wanted,
        value: value.to_owned(),
    }
}
