//! Any bytes as what the plugin of a key manager writes: frames, of which none is longer than it may be, and documents, of
//! which none is both a request and a reply.

use vtpm_guard::internals::host::frame::read_frame;
use vtpm_guard::internals::kms::is_message;
use vtpm_guard::plugin::split_blob;

const LONGEST: usize = 64 << 10;

/// Tries these bytes.
pub fn check(stdout: &[u8]) {
    let mut rest = stdout;
    while let Ok(Some(frame)) = read_frame(&mut rest, LONGEST) {
        assert!(frame.len() <= LONGEST.min(stdout.len()));
        assert_ne!(is_message(&frame), (true, true));
        let _ = split_blob(&frame, Some);
    }
}
