//! Any bytes as what a server answers that kms-transit asks: no body is longer than what was sent, and the answer is the same
//! whatever the size of the reads.

use std::io::Read;

#[path = "../../kms/transit/src/reply.rs"]
pub mod reply;

/// Tries these bytes.
pub fn check(stream: &[u8]) {
    try_chunks(stream);
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

/// The bytes as a body in chunks, each as long as its first byte says: they are joined, and none ends in another way.
fn try_chunks(body: &[u8]) {
    let mut sent = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    let mut rest = body;
    let mut ends = Vec::new();
    while let Some(&first) = rest.first() {
        let (chunk, after) = rest.split_at(rest.len().min(1 + usize::from(first)));
        sent.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        sent.extend_from_slice(chunk);
        ends.push(sent.len());
        sent.extend_from_slice(b"\r\n");
        rest = after;
    }
    sent.extend_from_slice(b"0\r\n\r\n");
    let answer = reply::receive(&mut &sent[..]).expect("what was sent");
    assert_eq!(&answer.body[..], body);
    if let Some(end) = ends.get(body.len() % ends.len().max(1)) {
        sent[*end] = b'x';
        assert!(
            reply::receive(&mut &sent[..]).is_err(),
            "a chunk that goes on"
        );
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
