#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::ErrorKind;

use super::*;

#[test]
fn a_request_has_the_header_and_one_item() {
    let bytes = request(Version(1, 2), Operation::Get, |payload| {
        payload.text(tag::UNIQUE_IDENTIFIER, "7");
    });
    let message = Fields::of(&bytes)
        .get(tag::REQUEST_MESSAGE)
        .unwrap()
        .structure()
        .unwrap();
    let header = message
        .get(tag::REQUEST_HEADER)
        .unwrap()
        .structure()
        .unwrap();
    let version = header
        .get(tag::PROTOCOL_VERSION)
        .unwrap()
        .structure()
        .unwrap();
    assert_eq!(Version::read(version), Ok(Version(1, 2)));
    assert_eq!(header.get(tag::BATCH_COUNT).unwrap().integer(), Ok(1));
    let item = message.get(tag::BATCH_ITEM).unwrap().structure().unwrap();
    assert_eq!(item.get(tag::OPERATION).unwrap().enumeration(), Ok(0x0a));
}

#[test]
fn a_refusal_without_words_is_one() {
    let bytes = Writer::message(tag::RESPONSE_MESSAGE, |message| {
        message.structure(tag::BATCH_ITEM, |item| {
            item.enumeration(tag::RESULT_STATUS, 1);
        });
    });
    match response(&bytes[8..]).unwrap() {
        Outcome::Refused(refusal) => assert_eq!(refusal.message, "it gave no reason"),
        Outcome::Done(_) => panic!("it was refused"),
    }
}

fn answer(write: impl FnOnce(&mut Writer)) -> Zeroizing<Vec<u8>> {
    Writer::message(tag::RESPONSE_MESSAGE, |message| {
        message.structure(tag::BATCH_ITEM, write);
    })
}

#[test]
fn a_response_is_received_to_its_end_and_no_further() {
    let sent = answer(|item| item.enumeration(tag::RESULT_STATUS, 0));
    let mut stream = &[&sent[..], b"more"].concat()[..];
    let received = receive(&mut stream).unwrap();
    assert_eq!((&received[..], stream), (&sent[HEADER_LEN..], &b"more"[..]));
    match response(&received).unwrap() {
        Outcome::Done(mut payload) => assert!(payload.next().unwrap().is_none()),
        Outcome::Refused(refusal) => panic!("{refusal:?}"),
    }
    for end in 0..sent.len() {
        match receive(&mut &sent[..end]) {
            Err(NotReceived::Lost(error)) => assert_eq!(error.kind(), ErrorKind::UnexpectedEof),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_no_response_or_too_long_is_not_waited_for() {
    let longest = u32::try_from(MAX_RESPONSE).unwrap();
    let head = |tag: Tag, length: u32| {
        let tag = &tag.0.to_be_bytes()[1..];
        [tag, &[1], &length.to_be_bytes()].concat()
    };
    for head in [
        head(tag::REQUEST_MESSAGE, 8),
        head(tag::RESPONSE_MESSAGE, longest + 1),
        head(tag::RESPONSE_MESSAGE, u32::MAX),
        b"HTTP/1.1".to_vec(),
    ] {
        let received = receive(&mut head.chain(io::repeat(0)));
        assert!(
            matches!(received, Err(NotReceived::NotKmip)),
            "{received:?}"
        );
    }
    let whole = head(tag::RESPONSE_MESSAGE, longest);
    let received = receive(&mut whole.chain(io::repeat(0))).unwrap();
    assert_eq!(received.len(), MAX_RESPONSE);
}

#[test]
fn a_response_without_an_item_or_a_status_is_malformed() {
    let empty = Writer::message(tag::RESPONSE_MESSAGE, |_| {});
    let missing = |tag| Some(Malformed::Missing(tag));
    assert_eq!(
        response(&empty[HEADER_LEN..]).err(),
        missing(tag::BATCH_ITEM)
    );
    let without = answer(|_| {});
    let found = response(&without[HEADER_LEN..]);
    assert_eq!(found.err(), missing(tag::RESULT_STATUS));
    let other = answer(|item| item.integer(tag::RESULT_STATUS, 0));
    let found = response(&other[HEADER_LEN..]);
    assert_eq!(found.err(), Some(Malformed::Type(tag::RESULT_STATUS)));
}

#[test]
fn a_refusal_has_a_meaning_where_a_key_was_to_be_opened_and_elsewhere() {
    let refusal = |reason| {
        let sent = answer(|item| {
            item.enumeration(tag::RESULT_STATUS, 1);
            item.enumeration(tag::RESULT_REASON, reason);
            item.text(tag::RESULT_MESSAGE, "no");
        });
        match response(&sent[HEADER_LEN..]).unwrap() {
            Outcome::Refused(refusal) => refusal,
            Outcome::Done(_) => panic!("it was refused"),
        }
    };
    for (reason, meant, not_opened, is_not_offered) in [
        (0x01, Trouble::NoKey, Trouble::NoKey, false),
        (0x03, Trouble::Credentials, Trouble::Credentials, false),
        (0x05, Trouble::Failed, Trouble::Failed, true),
        (0x07, Trouble::Failed, Trouble::NotOpened, true),
        (0x0a, Trouble::Failed, Trouble::NotOpened, true),
        (0x0c, Trouble::Denied, Trouble::Denied, true),
        (0x16, Trouble::Denied, Trouble::Denied, false),
        (0x100, Trouble::Failed, Trouble::NotOpened, false),
        (0x7777, Trouble::Failed, Trouble::Failed, false),
    ] {
        let refusal = refusal(reason);
        assert_eq!(refusal.explain().message, "no");
        let found = (refusal.explain().trouble, refusal.not_opened().trouble);
        assert_eq!(found, (meant, not_opened), "{reason:x}");
        assert_eq!(refusal.is_not_offered(), is_not_offered, "{reason:x}");
    }
}

#[test]
fn a_version_is_read_as_it_was_written() {
    for version in Version::KNOWN {
        let written = Writer::message(tag::RESPONSE_PAYLOAD, |payload| version.write(payload));
        let payload = Fields::of(&written).get(tag::RESPONSE_PAYLOAD).unwrap();
        let item = payload.structure().unwrap().get(tag::PROTOCOL_VERSION);
        let read = Version::read(item.unwrap().structure().unwrap());
        assert_eq!(read, Ok(version));
    }
}
