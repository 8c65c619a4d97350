//! Any bytes as what a server answers that kms-transit asks: nothing panics, and no body is longer than what was sent.

#[path = "../../kms/transit/src/reply.rs"]
mod reply;

/// Tries these bytes.
pub fn check(mut stream: &[u8]) {
    let sent = stream.len();
    if let Ok(answer) = reply::receive(&mut stream) {
        assert!(answer.body.len() <= sent && answer.status < 1000);
    }
}
