//! The man pages in packaging/man say what the program says: they are made from its command
//! line, its codes and its shipped configuration. `./dev man` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod codes;
mod command;
mod configuration;
mod hook;
mod page;

use std::env;
use std::fs;
use std::path::Path;

use page::Page;

/// Set by `./dev man`: the pages are written instead of compared.
const WRITE: &str = "VTPM_GUARD_WRITE_MAN";

#[track_caller]
fn is_as_shipped(page: &Page) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/man")
        .join(page.file_name());
    let made = page.render();
    if env::var_os(WRITE).is_some() {
        fs::write(&file, made).unwrap();
        return;
    }
    let shipped = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        made == shipped,
        "{} is not what the program says: run ./dev man",
        file.display()
    );
}

#[test]
fn vtpm_guard_8() {
    is_as_shipped(&command::page());
}

#[test]
fn vtpm_guard_hook_8() {
    is_as_shipped(&hook::page());
}

#[test]
fn vtpm_guard_toml_5() {
    is_as_shipped(&configuration::page());
}

#[test]
fn vtpm_guard_codes_7() {
    is_as_shipped(&codes::page());
}
