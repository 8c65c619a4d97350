//! Any bytes as what a server answers that kms-transit asks: no body is longer than what was sent, and the answer is the same
//! whatever the size of the reads.

use std::io::Read;

#[path = "../../kms/transit/src/reply.rs"]
pub mod reply;

/// Tries these bytes.
pub fn check(stream: &[u8]) {
    let whole = reply::receive(&mut &stream[..]).map_err(|error| error.kind());
    // An answer that arrives byte by byte is looked through as often: only short ones.
    let size = if stream.len() < 512 {
        1
    } else {
        1 + stream.len() / 16
    };
    let in_pieces = reply::receive(&mut Pieces(stream, size)).map_err(|error| error.kind());
    match (whole, in_pieces) {
        (Ok(whole), Ok(in_pieces)) => {
            assert!(whole.body.len() <= stream.len() && whole.status < 1000);
            assert_eq!(whole.status, in_pieces.status);
            assert_eq!(whole.body, in_pieces.body);
        }
        (Err(whole), Err(in_pieces)) => assert_eq!(whole, in_pieces),
        (whole, in_pieces) => panic!("{:?}, in pieces {:?}", whole.is_ok(), in_pieces.is_ok()),
    }
}

/// A stream that gives no more at a time.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let size = self.1.min(buffer.len());
        self.0.read(&mut buffer[..size])
    }
}
