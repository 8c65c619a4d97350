//! The switch of all mutants: a function at the end of the copies of two `lib.rs`. What is shipped never has it.

/// What the function is called, in both crates.
pub const NAME: &str = "__mutant";

/// The variable that says which mutant is on: its number. None is on without it.
pub const ON: &str = "VTPM_GUARD_MUTANT";

/// The variable that names a file to which each mutant that is reached is written, once.
pub const REACHED: &str = "VTPM_GUARD_MUTANTS_REACHED";

/// What is appended to which file, for so many mutants.
pub fn appended_to(mutants: usize) -> [(&'static str, String); 2] {
    let core = format!(
        r#"
/// Whether this mutant is on. A process reads the environment once; one that a test starts inherits it.
#[doc(hidden)]
#[allow(clippy::all, clippy::pedantic)]
pub fn {NAME}(number: usize) -> bool {{
    use std::sync::OnceLock;
    use std::sync::atomic::{{AtomicBool, Ordering}};
    static ASKED: OnceLock<(Option<usize>, Option<std::ffi::OsString>)> = OnceLock::new();
    static SEEN: [AtomicBool; {mutants}] = [const {{ AtomicBool::new(false) }}; {mutants}];
    let (on, reached) = ASKED.get_or_init(|| {{
        let on = std::env::var("{ON}").ok();
        (on.and_then(|on| on.parse().ok()), std::env::var_os("{REACHED}"))
    }});
    if let Some(path) = reached && !SEEN[number].swap(true, Ordering::Relaxed) {{
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(format!("{{number}}\n").as_bytes()).unwrap();
    }}
    *on == Some(number)
}}
"#
    );
    let library = format!("\n#[doc(hidden)]\npub use vtpm_guard_core::{NAME};\n");
    [("core/src/lib.rs", core), ("src/lib.rs", library)]
}
