#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;

use super::*;
use crate::host::frame::read_frame;
use crate::libvirt::metadata::Element;

const SECRET: &str = "6f0c3c6e-4c0f-4b0d-9d52-8a3f0a9a0001";
const DOMAIN: &str = "6f0c3c6e-4c0f-4b0d-9d52-8a3f0a9a0002";

fn secret() -> SecretUuid {
    SECRET.parse().unwrap()
}

fn domain() -> DomainUuid {
    DOMAIN.parse().unwrap()
}

/// The bytes that the other side reads.
fn sent(frame: &[u8]) -> Zeroizing<Vec<u8>> {
    read_frame(&mut &*frame, MAX_RESPONSE).unwrap().unwrap()
}

#[test]
fn every_request_arrives_as_it_was_sent() {
    let requests = [
        Request::Secret(SecretRequest::Provide {
            secret: secret(),
            domain: domain(),
            key: b"a made-up key\n with a line feed, \0 and \xff",
            over: Over::ForeignDefinition,
        }),
        Request::Secret(SecretRequest::Provide {
            secret: secret(),
            domain: domain(),
            key: &[],
            over: Over::GuardsOwn,
        }),
        Request::Secret(SecretRequest::Drop {
            secret: secret(),
            domain: domain(),
        }),
        Request::Secret(SecretRequest::Reveal(secret())),
        Request::Secret(SecretRequest::Undefine(secret())),
        Request::EncryptVtpm {
            domain: domain(),
            secret: secret(),
        },
        Request::PersistVtpmState(domain()),
        Request::SavedRuns(domain()),
        Request::Secret(SecretRequest::DropStaged {
            secret: secret(),
            domain: domain(),
        }),
        Request::Metadata(domain()),
        Request::SetMetadata {
            domain: domain(),
            element: Some("<vtpm domain='x'>\n  <key/>\n</vtpm>"),
        },
        Request::SetMetadata {
            domain: domain(),
            element: None,
        },
        Request::Guests,
        Request::Guest("a name with spaces, ünïcode and a\nline feed"),
    ];
    for request in requests {
        let frame = sent(&request.to_frame().unwrap());
        assert!(Request::parse(&frame) == Some(request));
    }
}

#[test]
fn every_response_arrives_as_it_was_sent() {
    let guest = Guest {
        name: "vm \"1\"".to_owned(),
        uuid: domain(),
        running: true,
        persistent: false,
        xml: "<domain>\n  <name>vm</name>\n</domain>".to_owned(),
    };
    let responses = [
        Response::Absent,
        Response::Changed,
        Response::Dropped(true),
        Response::Secret {
            definition: "<secret ephemeral=\"no\"/>".to_owned(),
            value: Revealed::Follows,
        },
        Response::Undefined(false),
        Response::Redefined(false),
        Response::SavedRuns(SavedRuns {
            managed_save: true,
            snapshots: 2,
        }),
        Response::Metadata(Metadata {
            live: Element::NoDefinition,
            persistent: Element::Present("<vtpm domain='x'/>\n".to_owned()),
        }),
        Response::Busy,
        Response::Guests(vec![guest]),
        Response::Conflict("the usage belongs to another".to_owned()),
    ];
    for response in responses {
        let frame = sent(&response.to_frame().unwrap());
        assert_eq!(Response::parse(&frame).unwrap(), response);
    }
}

#[test]
fn a_request_is_written_into_a_buffer_of_its_final_size() {
    let key = vec![7; 65536];
    let request = Request::Secret(SecretRequest::Provide {
        secret: secret(),
        domain: domain(),
        key: &key,
        over: Over::GuardsOwn,
    });
    let frame = request.to_frame().unwrap();
    assert_eq!(frame.len(), frame.capacity());
}

#[test]
fn what_is_too_long_is_neither_sent_nor_read() {
    let key = vec![0; MAX_REQUEST];
    let request = Request::Secret(SecretRequest::Provide {
        secret: secret(),
        domain: domain(),
        key: &key,
        over: Over::GuardsOwn,
    });
    assert!(request.to_frame().is_err());
    assert!(read_frame(&mut &b"\xff\xff\xff\xff"[..], MAX_REQUEST).is_err());
}

#[test]
fn a_stream_that_ends_between_frames_ends_well_and_one_that_ends_within_does_not() {
    assert!(read_frame(&mut &b""[..], 10).unwrap().is_none());
    assert!(read_frame(&mut &b"\0\0\0\x05gues"[..], 10).is_err());
}

#[test]
fn words_that_are_no_request_are_none() {
    for words in [
        "",
        "\n",
        "guests",
        "guests \n",
        "guests\nbody",
        "state\n",
        "state vm1\n",
        &format!("state {SECRET} {DOMAIN}\n"),
        &format!("provide {SECRET} {DOMAIN}\nkey"),
        &format!("provide {SECRET} {DOMAIN} perhaps\nkey"),
        &format!("drop {SECRET}\n"),
    ] {
        assert!(Request::parse(words.as_bytes()).is_none(), "{words:?}");
    }
}

proptest! {
    #[test]
    fn no_garbage_breaks_a_reader(bytes: Vec<u8>) {
        let _ = Request::parse(&bytes);
        let _ = Response::parse(&bytes);
        let _ = read_frame(&mut &*bytes, 64);
    }

    #[test]
    fn any_key_arrives(key: Vec<u8>, over in proptest::sample::select(OVER.to_vec())) {
        let request = Request::Secret(SecretRequest::Provide {
            secret: secret(),
            domain: domain(),
            key: &key,
            over,
        });
        let frame = sent(&request.to_frame().unwrap());
        prop_assert!(Request::parse(&frame) == Some(request));
    }
}
