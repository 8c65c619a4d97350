//! docs/kms-settings.md: its sections are ones that the plugins take, and it has no setting that they do not
//! know.

use std::fs;
use std::path::Path;

use vtpm_guard::internals::config::Config;

use crate::plugin::Script;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

fn page() -> String {
    fs::read_to_string(Path::new(ROOT).join("docs/kms-settings.md")).unwrap()
}

#[test]
fn the_sections_of_the_page_are_taken() {
    let (page, dir) = (page(), tempfile::tempdir().unwrap());
    let mut taken = 0;
    for block in page.split("```toml\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        let file = dir.path().join("config.toml");
        fs::write(&file, block).unwrap();
        for (name, section) in Config::load(&file).unwrap().kms {
            let hello = Script::around(&section.kind).connect(&section);
            assert!(hello.is_ok(), "{name}: {:?}", hello.err());
            taken += 1;
        }
    }
    assert!(taken > 1, "the page has no sections");
}

#[test]
fn the_tables_of_the_page_have_the_settings_of_the_plugins() {
    let page = page();
    for chapter in page.split("\n## ").skip(1) {
        let (kind, _) = chapter.split_once(':').unwrap();
        let sources = [format!("kms/{kind}/src"), "kms/tls/src".to_owned()];
        let code: String = sources
            .iter()
            .map(|dir| code(&Path::new(ROOT).join(dir)))
            .collect();
        let mut rows = 0;
        for row in chapter.lines().filter(|line| line.starts_with("| `")) {
            let (settings, _) = row.trim_start_matches("| ").split_once(" | ").unwrap();
            for setting in settings.split(", ") {
                let setting = format!("\"{}\"", setting.trim_matches('`'));
                assert!(code.contains(&setting), "kms-{kind} knows no {setting}");
                rows += 1;
            }
        }
        assert!(rows > 0, "{kind} has no table");
    }
}

fn code(dir: &Path) -> String {
    let files = fs::read_dir(dir).unwrap().flatten().map(|file| file.path());
    files
        .map(|path| {
            if path.is_dir() {
                code(&path)
            } else {
                fs::read_to_string(path).unwrap()
            }
        })
        .collect()
}
