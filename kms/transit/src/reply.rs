//! The answer to a request over HTTP: of any length and shape, read into buffers that are wiped.

use std::io::{self, ErrorKind, Read};

use vtpm_guard::plugin::Zeroizing;

/// The longest answer, in bytes: one is some hundred.
const MAX_ANSWER: usize = 256 << 10;

/// The most fields that the head of an answer may have.
const MAX_FIELDS: usize = 64;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

/// Reads to the end of the stream, which a TLS connection announces: what ends before is an error.
pub(crate) fn receive(from: &mut impl Read) -> io::Result<Answer> {
    let mut bytes = Zeroizing::new(vec![0; MAX_ANSWER]);
    let mut length = 0;
    loop {
        if let Some(answer) = parse(&bytes[..length])? {
            return Ok(answer);
        }
        match from.read(&mut bytes[length..]) {
            Ok(0) if length == MAX_ANSWER => return Err(nonsense("it is too long")),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => length += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns the answer; `None`: more of it is to come.
fn parse(bytes: &[u8]) -> io::Result<Option<Answer>> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(start) = head
        .parse(bytes)
        .map_err(|error| nonsense(&error.to_string()))?
    else {
        return Ok(None);
    };
    let field = |name: &str| {
        let mut fields = head.headers.iter();
        let found = fields.find(|field| field.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let status = head.code.unwrap_or_default();
    let bytes = &bytes[start..];
    let coding = field("Transfer-Encoding");
    let body = match (coding, field("Content-Length")) {
        (Some(coding), _) if coding.eq_ignore_ascii_case("chunked") => unchunk(bytes)?,
        (Some(_), _) => return Err(nonsense("it has a coding that was not asked for")),
        (None, Some(length)) => {
            let length = length
                .parse()
                .map_err(|_| nonsense("its length is no number"))?;
            bytes.get(..length).map(<[u8]>::to_vec).map(Zeroizing::new)
        }
        (None, None) if status == 204 => Some(Zeroizing::default()),
        (None, None) => return Err(nonsense("it does not say how long it is")),
    };
    Ok(body.map(|body| Answer { status, body }))
}

/// Joins the chunks of a body; `None`: more is to come.
fn unchunk(mut bytes: &[u8]) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut body = Zeroizing::new(Vec::with_capacity(bytes.len()));
    loop {
        let size =
            httparse::parse_chunk_size(bytes).map_err(|_| nonsense("a chunk has no size"))?;
        let httparse::Status::Complete((start, size)) = size else {
            return Ok(None);
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let end = usize::try_from(size)
            .ok()
            .and_then(|size| start.checked_add(size));
        let end = end.ok_or_else(|| nonsense("a chunk is too long"))?;
        let Some(chunk) = bytes.get(start..end) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => bytes = &bytes[end + 2..],
            Some(_) => return Err(nonsense("a chunk does not end")),
            None => return Ok(None),
        }
    }
}

fn nonsense(reason: &str) -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        format!("the answer is no HTTP: {reason}"),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nbod\r\n1;x\r\ny\r\n0\r\n\r\n";

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        for (bytes, status) in [(PLAIN, 200), (CHUNKED, 404)] {
            let answer = receive(&mut &bytes[..]).unwrap();
            assert_eq!((answer.status, &answer.body[..]), (status, &b"body"[..]));
        }
        let empty = receive(&mut &b"HTTP/1.1 204 No Content\r\n\r\n"[..]).unwrap();
        assert_eq!((empty.status, empty.body.len()), (204, 0));
    }

    #[test]
    fn a_part_of_an_answer_is_none() {
        for end in 0..PLAIN.len() {
            let error = receive(&mut &PLAIN[..end]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{end}");
        }
        // All but the empty line that ends the chunks has nothing in it.
        for end in 0..CHUNKED.len() - 4 {
            let error = receive(&mut &CHUNKED[..end]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{end}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            let _ = receive(&mut &bytes[..]);
            let _ = unchunk(&bytes);
            let answer = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]];
            let _ = receive(&mut &answer.concat()[..]);
        }

        #[test]
        fn chunks_are_joined(chunks: Vec<Vec<u8>>) {
            let mut bytes = Vec::new();
            for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            proptest::prop_assert!(unchunk(&bytes).unwrap().is_none());
            bytes.extend_from_slice(b"0\r\n\r\n");
            proptest::prop_assert_eq!(&*unchunk(&bytes).unwrap().unwrap(), &chunks.concat());
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for bytes in [
            &b"SSH-2.0-OpenSSH\r\n"[..],
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        ] {
            let error = receive(&mut &bytes[..]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
        }
        let endless = [
            &b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"[..],
            &vec![b'x'; MAX_ANSWER],
        ];
        let error = receive(&mut &endless.concat()[..]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
}
