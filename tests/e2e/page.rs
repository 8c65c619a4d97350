//! Pages of docs/ whose commands are played word for word.

use std::fs;
use std::path::Path;

use crate::host::{Host, Output};

/// The blocks of commands under a heading of a page, one after the other.
pub(crate) fn blocks(page: &str, heading: &str) -> Vec<String> {
    blocks_in("sh", page, heading)
}

/// The blocks of this language in a section of a page.
pub(crate) fn blocks_in(language: &str, page: &str, heading: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("docs")
        .join(page);
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text
        .split_once(&format!("\n## {heading}\n"))
        .unwrap_or_else(|| panic!("{page} has no heading {heading:?}"));
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1);
    let blocks: Vec<_> = blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect();
    assert!(
        !blocks.is_empty(),
        "no {language} under {heading:?} of {page}"
    );
    blocks
}

impl Host {
    /// Plays commands as a shell would that stops at the first failure.
    pub(crate) fn play(&self, commands: &str) -> Output {
        self.run_with_input(&["sh", "-eux"], commands)
    }

    /// Gives the host an empty disk at `/mnt`, with the passphrase of all recovery files on it.
    pub(crate) fn attach_backup_disk(&self) {
        self.run(&["mount", "-t", "tmpfs", "-o", "mode=0700", "none", "/mnt"])
            .ok();
        fs::create_dir(self.path("/mnt/backup")).unwrap();
        let passphrase = self.path(crate::guest::PASSPHRASE_FILE);
        let passphrase = fs::read(passphrase).unwrap_or_else(|_| b"of a new host".to_vec());
        self.write("/mnt/backup/passphrase", passphrase);
    }
}
