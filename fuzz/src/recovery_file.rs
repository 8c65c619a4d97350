//! Any bytes as a recovery file, whole or with a checksum that is made right: what is read is written as it was, and read
//! again as the same; a file that asks for too much or has a name that nobody could print is not read.

use vtpm_guard::internals::recovery::file::{RecoveryError, RecoveryFile};

/// Tries these bytes. Opening what is whole would take Argon2's time.
pub fn check(file: &[u8]) {
    let read = RecoveryFile::parse(file);
    let by_force = RecoveryFile::parse_by_force(file);
    if read.is_ok() {
        assert!(by_force.is_ok(), "{by_force:?}");
    }
    [read, by_force].into_iter().for_each(try_read);
}

fn try_read(read: Result<RecoveryFile, RecoveryError>) {
    let file = match read {
        Ok(file) => file,
        Err(RecoveryError::TooNew(format)) => return assert!(format > 1),
        Err(
            RecoveryError::NotARecoveryFile | RecoveryError::Damaged | RecoveryError::TooCostly,
        ) => return,
        Err(error) => panic!("{error}"),
    };
    let name = &file.header().provider;
    assert!((1..=255).contains(&name.len()) && !name.contains(char::is_control));
    let written = file.to_string();
    assert!(written.contains(&format!("\nProvider: {name}\n")));
    let again = RecoveryFile::parse(written.as_bytes()).expect("what was written");
    assert_eq!(again.header(), file.header());
    assert_eq!(again.to_string(), written);
}
