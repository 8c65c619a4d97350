//! The plugin of docs/kms-plugins.md, as it stands in the page.

use std::fs;
use std::path::Path;
use std::time::Duration;

use vtpm_guard::internals::key::kek::Kek;
use vtpm_guard::internals::kms::KmsError;

use crate::plugin::{Script, section, text};

/// What stands in the page between this line and the end of the block.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kms-plugins.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, block) = page.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_plugin_of_the_page_wraps_and_unwraps() {
    let script = Script::new("pad", &block("python"));
    let pad = script.dir().join("pad");
    fs::write(&pad, [0x5a; 32]).unwrap();
    let example = block("toml");
    assert!(
        example.contains("kind = \"pad\"") && example.contains("pad_file = "),
        "{example}"
    );
    let settings = [("pad_file", text(pad.to_str().unwrap()))];
    let settings = section("pad", Duration::from_secs(5), &settings);
    let kek = Kek::generate().unwrap();

    let mut client = script.connect(&settings).unwrap();
    client.status().unwrap();
    let wrapped = client.wrap("any", &kek).unwrap();
    assert_ne!(wrapped.blob, kek.expose());
    let opened = script
        .connect(&settings)
        .unwrap()
        .unwrap("any", &wrapped, kek.key_id());
    assert_eq!(opened.unwrap().expose(), kek.expose());

    fs::write(&pad, [0xa5; 32]).unwrap();
    let opened = script
        .connect(&settings)
        .unwrap()
        .unwrap("any", &wrapped, kek.key_id());
    assert!(matches!(opened.err(), Some(KmsError::OtherKey { .. })));
}
