//! Programs that lie: each is a clear error. (Those that hang, flood or die are conversations like those with plugins of
//! key managers, which are tested there.)

use std::time::Duration;

use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::config::StoreAddress;
use vtpm_guard::internals::fleet::{Client, Cursor, FactId, FleetError, Kind, Scope, Trouble};

use crate::database::{Credentials, domain, fact, soon};
use crate::plugin::Script;

/// What each program does well; the reply to the next request is in `REPLY`.
const GOOD: &str = r#"#!/usr/bin/python3
import json, struct, sys, time

def read():
    head = sys.stdin.buffer.read(4)
    return json.loads(sys.stdin.buffer.read(struct.unpack(">I", head)[0])) if head else sys.exit()

def write(document):
    data = json.dumps(document).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
    sys.stdout.buffer.flush()

HASH = "ab" * 32
UUID = "00000000-0000-0000-0000-000000000001"
FACT = {"id": HASH, "kind": "event", "domain": None, "key_id": None, "host": UUID, "at": 1, "body": "{}"}
STATE = {"id": HASH, "domain": UUID, "host": UUID, "at": 1, "body": "{}", "data": "AAAA"}
"#;

const HELLO: &str =
    "read(); write({'ok': True, 'protocol': 1, 'kind': 'broken', 'version': '1'})\n";

fn connect(script: &Script) -> Result<Client, FleetError> {
    let address = StoreAddress::parse("broken://anywhere").unwrap();
    let program = script.dir().join("store-broken");
    Client::start(&address, &Credentials::new(), &program, soon())
}

/// What a question to a program makes that answers like this.
fn asked<T>(
    reply: &str,
    question: impl FnOnce(&mut Client) -> Result<T, FleetError>,
) -> Result<T, FleetError> {
    let script = program(&format!("{HELLO}read(); write({reply})"));
    question(&mut connect(&script)?)
}

fn program(rest: &str) -> Script {
    Script::named("store-broken", &format!("{GOOD}{rest}"))
}

#[track_caller]
fn is_nonsense<T>(answer: Result<T, FleetError>, reason: &str) {
    let error = answer.err().expect("it was taken");
    assert!(matches!(error, FleetError::Nonsense { .. }), "{error:?}");
    assert!(error.to_string().contains(reason), "{error}");
}

#[test]
fn facts_of_another_shape_are_not_taken() {
    let fetch = |client: &mut Client| client.fetch(&[FactId([0xab; 32])], soon());
    let reply = |change: &str| format!("{{'ok': True, 'facts': [{{**FACT, {change}}}]}}");
    for (change, reason) in [
        ("'id': 'ab'", "64 hexadecimal digits"),
        ("'id': 'x' * 64", "64 hexadecimal digits"),
        ("'id': 'cd' * 32", "not asked for"),
        ("'domain': 'vm1'", "not a UUID"),
        ("'host': None", "invalid type"),
        ("'key_id': 'ab'", "32 hexadecimal digits"),
        ("'at': 'now'", "invalid type"),
        ("'at': 1e99", "invalid type"),
        ("'body': 'x' * (256 * 1024 + 1)", "a body has 262145 bytes"),
        ("'body': 'a\\0b'", "a body has a zero byte"),
    ] {
        is_nonsense(asked(&reply(change), fetch), reason);
    }
    is_nonsense(asked("{'ok': True}", fetch), "facts is missing");
    is_nonsense(
        asked("{'ok': True, 'facts': [FACT, FACT]}", fetch),
        "not asked for",
    );
    is_nonsense(asked("[]", fetch), "");
    assert_eq!(asked(&reply("'at': 2"), fetch).unwrap()[0].at.0, 2);
}

#[test]
fn a_fact_of_a_newer_kind_is_left_out() {
    let reply = "{'ok': True, 'facts': [{**FACT, 'kind': 'poem'}, FACT]}";
    let found = asked(reply, |client| client.newest(Kind::Event, soon())).unwrap();
    assert_eq!(found.facts.len(), 1);
}

#[test]
fn states_of_another_shape_are_not_taken() {
    let about = |client: &mut Client| client.about(domain(1), soon());
    let reply =
        |change: &str| format!("{{'ok': True, 'facts': [], 'states': [{{**STATE, {change}}}]}}");
    for (change, reason) in [
        ("'data': '!'", "base64"),
        ("'data': ''", "a state has 0 bytes"),
        ("'data': 'AAAA' * 174763", "a state has 524289 bytes"),
        ("'data': None", "a state has no bytes"),
        ("'domain': None", "invalid type"),
    ] {
        is_nonsense(asked(&reply(change), about), reason);
    }
    let state = |client: &mut Client| client.state(FactId([0; 32]), soon());
    is_nonsense(
        asked("{'ok': True, 'states': [STATE]}", state),
        "not asked for",
    );
}

#[test]
fn other_answers_of_another_shape_are_not_taken() {
    let pull = |client: &mut Client| client.pull(&Cursor::default(), &Scope::default(), 1, soon());
    for (reply, reason) in [
        (
            "{'ok': True, 'facts': [], 'next': '', 'more': True}",
            "next is where it began",
        ),
        (
            "{'ok': True, 'facts': [], 'next': 'x' * 129, 'more': False}",
            "128 printable",
        ),
        (
            "{'ok': True, 'facts': [], 'next': 'a b', 'more': False}",
            "128 printable",
        ),
        (
            "{'ok': True, 'facts': [], 'more': False}",
            "next is missing",
        ),
    ] {
        is_nonsense(asked(reply, pull), reason);
    }
    let digests = |client: &mut Client| client.digests(&Scope::default(), soon());
    is_nonsense(
        asked("{'ok': True, 'digests': [HASH] * 255}", digests),
        "there are 255 digests",
    );
    let status = |client: &mut Client| client.status(soon());
    let reply = |name: &str| {
        format!(
            "{{'ok': True, 'system': '1', 'epoch': '{name}', 'schema': 1, 'server': 's', 'role': 'r', 'now_ms': 1}}"
        )
    };
    is_nonsense(
        asked(&reply("\\x1b[31m"), status),
        "epoch is too long, or not on a line",
    );
    is_nonsense(asked(&reply(&"e".repeat(501)), status), "epoch is too long");
    asked(&reply("e"), status).unwrap();
}

#[test]
fn its_errors_have_known_words_and_stay_on_a_line() {
    let push = |client: &mut Client| client.push(&[fact(Kind::Event, 1, "x")], &[], soon());
    let error = asked(
        "{'ok': False, 'error': 'too-new', 'message': 'a\\nb' + 'c' * 1000}",
        push,
    );
    let line = error.unwrap_err().to_string();
    assert!(
        line.starts_with(
            "the shared store: its schema is newer than the program that speaks with it: a bccc"
        ),
        "{line}"
    );
    assert!(line.len() < 700 && !line.contains('\n'), "{line}");
    let error = asked("{'ok': False, 'error': 'out-of-cheese'}", push).unwrap_err();
    assert!(
        matches!(
            error,
            FleetError::Refused {
                trouble: Trouble::Failed,
                ..
            }
        ),
        "{error:?}"
    );
    let script = program(&format!("{HELLO}read(); time.sleep(60)"));
    let mut client = connect(&script).unwrap();
    let error = client
        .status(Deadline::after(Duration::from_millis(300)))
        .unwrap_err();
    assert!(
        matches!(
            error,
            FleetError::Refused {
                trouble: Trouble::Unreachable,
                ..
            }
        ),
        "{error:?}"
    );
    drop(client);
    script.nothing_is_left();
}

#[test]
fn one_of_another_kind_or_version_is_not_used() {
    let script = program("read(); write({'ok': True, 'protocol': 1, 'kind': 'other'})");
    is_nonsense(connect(&script), "it names another kind, or none");
    let script = program("read(); write({'ok': True, 'protocol': 2, 'kind': 'broken'})");
    is_nonsense(
        connect(&script),
        "it speaks version 2 of the protocol, not 1",
    );
}

#[test]
fn one_that_is_not_there_or_that_others_may_write_is_not_started() {
    let script = program(HELLO);
    let chmod = std::process::Command::new("chmod")
        .arg("777")
        .arg(script.path())
        .status();
    assert!(chmod.unwrap().success());
    let error = connect(&script).err().unwrap();
    assert!(matches!(error, FleetError::NotTrusted(_)), "{error:?}");
    std::fs::remove_file(script.path()).unwrap();
    let error = connect(&script).err().unwrap();
    assert!(matches!(error, FleetError::NoProgram { .. }), "{error:?}");
}
