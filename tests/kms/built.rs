//! The built programs of the other packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the path of a program below kms/ or stores/, built from this tree. `cargo test` builds no program of
/// another package. In the tree of another Debian release there is no cargo: `./dev e2e --suite` has built them before.
pub(crate) fn built(program: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let dir = Path::new(env!("CARGO_BIN_EXE_vtpm-guard"))
            .parent()
            .unwrap();
        if !Path::new(env!("CARGO")).exists() {
            return dir.to_owned();
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root).args(["build", "--quiet", "--bins"]);
        build.arg("--target-dir").arg(dir.parent().unwrap());
        // What cargo says of this package: build scripts that look at it would run anew each time.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                build.env_remove(name);
            }
        }
        let packages = ["kms", "stores"].map(|dir| fs::read_dir(root.join(dir)).unwrap());
        for manifest in packages.into_iter().flatten() {
            let manifest = manifest.unwrap().path().join("Cargo.toml");
            build.arg("--package").arg(package(&manifest));
        }
        assert!(
            build.status().unwrap().success(),
            "the programs do not build"
        );
        dir.to_owned()
    });
    let path = dir.join(program);
    assert!(path.exists(), "{} was not built", path.display());
    path
}

fn package(manifest: &Path) -> String {
    let text = fs::read_to_string(manifest).unwrap();
    let name = text.lines().find_map(|line| line.strip_prefix("name = \""));
    name.unwrap().trim_end_matches('"').to_owned()
}
