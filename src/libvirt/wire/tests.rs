//! A daemon of the tests' own: one that plays along, and one that sends nonsense.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::daemon::{Call, message, receive, refusal, reply, string};
use super::message::Procedure;
use super::*;
use crate::ids::{DomainUuid, SecretUuid};
use crate::libvirt::protocol::Revealed;
use crate::libvirt::secret::definition;
use crate::verdict::Over;

const KEY: &[u8] = b"a made-up key";

/// What the daemon does when it is called.
#[derive(Clone)]
enum Action {
    Send(Vec<u8>),
    /// One byte at a time, each after so long.
    Drip(Vec<u8>, Duration),
    /// It keeps the connection, and never answers.
    Silence,
    /// It ends, perhaps within an answer.
    End(Vec<u8>),
}

struct Daemon {
    root: TempDir,
    dirs: LibvirtDirs,
    calls: Receiver<Call>,
}

impl Daemon {
    /// A libvirtd that answers each call so.
    fn new(answer: impl Fn(&Call) -> Action + Send + 'static) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dirs = LibvirtDirs::below(root.path());
        fs::create_dir_all(&dirs.run).unwrap();
        let listener = UnixListener::bind(dirs.socket("libvirt")).unwrap();
        let (seen, calls) = channel();
        thread::spawn(move || {
            for client in listener.incoming() {
                serve(client.unwrap(), &answer, &seen);
            }
        });
        Self { root, dirs, calls }
    }

    fn ask(&self, request: &SecretRequest<'_>, time: Duration) -> Result<Response, NoAnswer> {
        let mut value = None;
        let deadline = Deadline::after(time);
        Wire::default().ask(request, &mut value, &self.dirs, deadline)
    }

    /// The procedures that were called.
    fn called(&self) -> Vec<u32> {
        self.calls.try_iter().map(|call| call.procedure).collect()
    }
}

/// Serves one client until something ends.
fn serve(mut client: UnixStream, answer: &impl Fn(&Call) -> Action, seen: &Sender<Call>) {
    while let Some(call) = receive(&mut client) {
        let action = answer(&call);
        let _ = seen.send(call);
        match action {
            Action::Send(bytes) => client.write_all(&bytes).unwrap(),
            Action::Drip(bytes, pause) => {
                for byte in bytes {
                    thread::sleep(pause);
                    if client.write_all(&[byte]).is_err() {
                        return;
                    }
                }
            }
            Action::Silence => {
                let _ = client.read(&mut [0]);
                return;
            }
            Action::End(bytes) => {
                let _ = client.write_all(&bytes);
                return;
            }
        }
    }
}

fn secret() -> SecretUuid {
    SecretUuid::from_bytes([0x5e; 16])
}

fn domain() -> DomainUuid {
    DomainUuid::from_bytes([0xd0; 16])
}

fn own_secret() -> Vec<u8> {
    let mut bytes = secret().as_bytes().to_vec();
    bytes.extend(5_u32.to_be_bytes());
    bytes.extend(string(&format!("vtpm-guard:{}", domain())));
    bytes
}

/// The answer of a libvirtd that has no secret, and takes one.
fn plays_along(call: &Call) -> Vec<u8> {
    match call.procedure {
        // One way to authenticate: none.
        66 => reply(call, &[0, 0, 0, 1, 0, 0, 0, 0]),
        141 => refusal(call, 66, 30, "no secret with matching uuid"),
        142 => reply(call, &own_secret()),
        _ => reply(call, b""),
    }
}

fn provide() -> SecretRequest<'static> {
    SecretRequest::Provide {
        secret: secret(),
        domain: domain(),
        key: KEY,
        over: Over::GuardsOwn,
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn a_key_is_provided_by_six_calls() {
    let daemon = Daemon::new(|call| Action::Send(plays_along(call)));
    assert!(matches!(
        daemon.ask(&provide(), LONG),
        Ok(Response::Defined)
    ));
    // The last one is waited for so briefly that the daemon may get it only now.
    let mut calls = Vec::new();
    while calls.last().is_none_or(|call: &Call| call.procedure != 2) {
        calls.push(daemon.calls.recv_timeout(LONG).unwrap());
    }
    let procedures: Vec<u32> = calls.iter().map(|call| call.procedure).collect();
    assert_eq!(procedures, [66, 1, 141, 142, 144, 2]);
    let serials: Vec<u32> = calls.iter().map(|call| call.serial).collect();
    assert_eq!(serials, [1, 2, 3, 4, 5, 6]);
    let opened = [&[0, 0, 0, 1], &*string("secret:///system"), &[0; 4]].concat();
    assert_eq!(calls[1].arguments, opened);
    let xml = definition(secret(), domain());
    assert_eq!(calls[3].arguments, [string(&xml), vec![0; 4]].concat());
    let key = string(std::str::from_utf8(KEY).unwrap());
    assert_eq!(calls[4].arguments, [own_secret(), key, vec![0; 4]].concat());
}

#[test]
fn a_value_is_read_with_its_definition() {
    let xml = definition(secret(), domain());
    let told = xml.clone();
    let daemon = Daemon::new(move |call| {
        Action::Send(match call.procedure {
            141 => reply(call, &own_secret()),
            143 => reply(call, &string(&told)),
            145 => reply(call, &string("a made-up key")),
            _ => plays_along(call),
        })
    });
    let (mut value, request) = (None, SecretRequest::Reveal(secret()));
    let asked = Wire::default().ask(&request, &mut value, &daemon.dirs, Deadline::after(LONG));
    let expected = Response::Secret {
        definition: xml,
        value: Revealed::Follows,
    };
    assert!(asked.is_ok_and(|response| response == expected));
    assert_eq!(value.unwrap().as_slice(), KEY);
}

#[test]
fn a_refusal_is_told_in_libvirts_words() {
    let daemon = Daemon::new(|call| {
        Action::Send(match call.procedure {
            141 => refusal(call, 88, 46, "access\ndenied"),
            _ => plays_along(call),
        })
    });
    let answer = daemon.ask(&provide(), LONG);
    assert!(matches!(answer, Ok(Response::Refused(words)) if words == "access denied"));
    // An error of the connection is explained by libvirt's own client.
    let daemon = Daemon::new(|call| {
        Action::Send(match call.procedure {
            141 => refusal(call, 39, 7, "unknown procedure: 141"),
            _ => plays_along(call),
        })
    });
    let answer = daemon.ask(&provide(), LONG);
    assert!(matches!(answer, Err(NoAnswer::AskHelper)));
}

#[test]
fn a_daemon_that_wants_authentication_is_left_to_the_helper() {
    for methods in [
        &[0, 0, 0, 1, 0, 0, 0, 2][..],
        &[0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0],
        &[0, 0, 0, 0],
        &[],
    ] {
        let daemon = Daemon::new(move |call| {
            Action::Send(match call.procedure {
                66 => reply(call, methods),
                _ => plays_along(call),
            })
        });
        let answer = daemon.ask(&provide(), LONG);
        assert!(matches!(answer, Err(NoAnswer::AskHelper)), "{methods:?}");
        assert_eq!(daemon.called(), [66]);
    }
}

#[test]
fn what_nobody_asked_for_is_passed_over_but_not_for_ever() {
    for (unasked, reached) in [(16, true), (17, false)] {
        let daemon = Daemon::new(move |call| {
            // An event of secrets, and a sign that the daemon lives.
            let event = message([0x2000_8086, 1, 382, 2, 0, 0], &own_secret());
            let ping = message([0x6b65_6570, 1, 1, 2, 0, 0], b"");
            let mut bytes = Vec::new();
            for number in 0..unasked {
                bytes.extend_from_slice(if number % 2 == 0 { &event } else { &ping });
            }
            bytes.extend(plays_along(call));
            Action::Send(bytes)
        });
        assert_eq!(daemon.ask(&provide(), LONG).is_ok(), reached, "{unasked}");
    }
}

/// Answers that are none, to a call that a good one would answer so.
fn nonsense(call: &Call, good: &[u8]) -> Vec<Vec<u8>> {
    let header = [0x2000_8086, 1, call.procedure, 1, call.serial, 0];
    let with = |index: usize, number: u32| {
        let mut header = header;
        header[index] = number;
        message(header, &good[28..])
    };
    let mut lengths: Vec<Vec<u8>> = [0, 3, 4, 27, 0x0010_0000, 0x7fff_ffff, u32::MAX]
        .map(|length: u32| [&length.to_be_bytes(), &good[4..]].concat())
        .into();
    lengths.extend([
        with(0, 0x2000_8087),
        with(1, 2),
        with(2, call.procedure + 1),
        with(3, 0),
        with(3, 3),
        with(3, 5),
        with(3, 77),
        with(4, call.serial + 1),
        with(4, call.serial - 1),
        with(5, 2),
        with(5, 77),
        // More than the results.
        message(header, &[&good[28..], b"more"].concat()),
        // An error that is cut.
        message(
            [header[0], 1, call.procedure, 1, call.serial, 1],
            b"\0\0\0\x01",
        ),
        b"HTTP/1.1 400 Bad Request\r\n\r\nwhat do you want?".to_vec(),
    ]);
    lengths
}

/// The procedures in the order in which a key is provided.
const PROCEDURES: [u32; 5] = [66, 1, 141, 142, 144];

#[test]
fn nonsense_at_any_call_is_left_to_the_helper_and_nothing_is_called_after_it() {
    for (position, procedure) in PROCEDURES.into_iter().enumerate() {
        let call = Call {
            procedure,
            serial: 1 + u32::try_from(position).unwrap(),
            arguments: Vec::new(),
        };
        for (number, wrong) in nonsense(&call, &plays_along(&call)).into_iter().enumerate() {
            // An authentication list says how many it names; more is not looked at.
            let sent = wrong.clone();
            let daemon = Daemon::new(move |call| {
                if call.procedure == procedure {
                    return Action::End(sent.clone());
                }
                Action::Send(plays_along(call))
            });
            let answer = daemon.ask(&provide(), LONG);
            assert!(
                matches!(answer, Err(NoAnswer::AskHelper)),
                "{procedure}, nonsense {number}: {wrong:?}"
            );
            assert_eq!(daemon.called(), PROCEDURES[..=position]);
        }
    }
}

#[test]
fn a_daemon_that_ends_within_an_answer_is_left_to_the_helper() {
    for procedure in PROCEDURES {
        for length in [0, 1, 4, 27, 28, 31] {
            let daemon = Daemon::new(move |call| {
                let mut answer = plays_along(call);
                if call.procedure != procedure {
                    return Action::Send(answer);
                }
                answer.truncate(length.min(answer.len() - 1));
                Action::End(answer)
            });
            let answer = daemon.ask(&provide(), LONG);
            assert!(matches!(answer, Err(NoAnswer::AskHelper)));
        }
    }
}

#[test]
fn a_secret_that_was_not_asked_for_is_left_to_the_helper() {
    for (position, procedure) in [(2, 141), (3, 142)] {
        let daemon = Daemon::new(move |call| {
            let mut other = own_secret();
            other[0] ^= 1;
            Action::Send(match call.procedure {
                found if found == procedure => reply(call, &other),
                _ => plays_along(call),
            })
        });
        let answer = daemon.ask(&provide(), LONG);
        assert!(matches!(answer, Err(NoAnswer::AskHelper)));
        assert_eq!(daemon.called(), PROCEDURES[..=position]);
    }
}

#[test]
fn silence_ends_at_the_deadline_wherever_it_begins() {
    for procedure in PROCEDURES {
        for cut in [0, 2, 20] {
            let daemon = Daemon::new(move |call| {
                let answer = plays_along(call);
                if call.procedure != procedure {
                    return Action::Send(answer);
                }
                if cut == 0 {
                    return Action::Silence;
                }
                // One byte in half a minute.
                Action::Drip(answer, Duration::from_secs(30) / cut)
            });
            let asked = Instant::now();
            let answer = daemon.ask(&provide(), Duration::from_millis(150));
            assert!(matches!(answer, Err(NoAnswer::TimedOut)));
            let waited = asked.elapsed();
            assert!(waited >= Duration::from_millis(150), "{waited:?}");
            assert!(waited < Duration::from_secs(10), "{waited:?}");
        }
    }
}

#[test]
fn an_answer_that_drips_is_read_in_time() {
    let pause = Duration::from_millis(1);
    let daemon = Daemon::new(move |call| Action::Drip(plays_along(call), pause));
    assert!(matches!(
        daemon.ask(&provide(), LONG),
        Ok(Response::Defined)
    ));
}

#[test]
fn a_daemon_that_is_away_is_left_to_the_helper_and_another_is_asked_the_next_time() {
    let daemon = Daemon::new(|call| Action::Send(plays_along(call)));
    let (mut wire, mut value) = (Wire::default(), None);
    let mut ask = |dirs: &LibvirtDirs| {
        let asked = wire.ask(&provide(), &mut value, dirs, Deadline::after(LONG));
        asked.is_ok()
    };
    let nowhere = LibvirtDirs::below(&daemon.root.path().join("nowhere"));
    assert!(!ask(&nowhere));
    assert!(ask(&daemon.dirs));
    assert!(ask(&nowhere), "it is still connected");
    assert_eq!(daemon.called(), [66, 1, 141, 142, 144, 141, 142, 144]);
}

#[test]
fn a_daemon_with_a_full_queue_is_not_waited_for() {
    let root = tempfile::tempdir().unwrap();
    let dirs = LibvirtDirs::below(root.path());
    fs::create_dir_all(&dirs.run).unwrap();
    let path = dirs.socket("libvirt");
    let _listener = UnixListener::bind(&path).unwrap();
    let mut clients = Vec::new();
    let asked = Instant::now();
    let mut wire = Wire::default();
    while wire.expect_question(&dirs) {
        clients.push(std::mem::take(&mut wire));
        assert!(clients.len() < 100_000, "the queue has no end");
    }
    assert!(asked.elapsed() < LONG);
}

#[test]
fn the_socket_is_the_one_that_libvirts_client_takes() {
    let root = tempfile::tempdir().unwrap();
    let dirs = LibvirtDirs::below(root.path());
    fs::create_dir_all(&dirs.run).unwrap();
    assert_eq!(socket(&dirs), dirs.run.join("libvirt-sock"));
    fs::write(dirs.run.join("virtsecretd-sock"), "").unwrap();
    assert_eq!(socket(&dirs), dirs.run.join("virtsecretd-sock"));
}

#[test]
fn a_configuration_that_names_a_socket_is_left_to_the_helper() {
    for (conf, chooses_itself) in [
        (None, true),
        (
            Some("# remote_mode = \"legacy\"\nuri_aliases = [ ]\n"),
            true,
        ),
        (
            Some("uri_default = \"\"\n  remote_mode=\"legacy\"\n"),
            false,
        ),
        (Some("\u{1}"), true),
    ] {
        let root = tempfile::tempdir().unwrap();
        if let Some(conf) = conf {
            fs::write(root.path().join("libvirt.conf"), conf).unwrap();
        }
        assert_eq!(
            chooses_sockets_itself(root.path()),
            chooses_itself,
            "{conf:?}"
        );
    }
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("libvirt.conf"), b"# f\xfcr alle\n").unwrap();
    assert!(chooses_sockets_itself(root.path()));
    fs::remove_file(root.path().join("libvirt.conf")).unwrap();
    fs::create_dir(root.path().join("libvirt.conf")).unwrap();
    assert!(!chooses_sockets_itself(root.path()));
    fs::remove_dir(root.path().join("libvirt.conf")).unwrap();
    fs::write(root.path().join("libvirt.conf"), vec![b'#'; 70_000]).unwrap();
    assert!(!chooses_sockets_itself(root.path()));
}

#[test]
fn every_procedure_has_libvirts_number() {
    use Procedure::{SecretGetValue, SecretGetXmlDesc, SecretLookupByUsage, SecretUndefine};
    for (procedure, number) in [
        (SecretGetXmlDesc, 143),
        (SecretGetValue, 145),
        (SecretUndefine, 146),
        (SecretLookupByUsage, 147),
    ] {
        assert_eq!(procedure as u32, number);
    }
}

/// The seed of `fuzz/fuzz_targets/libvirt_replies.rs`.
#[test]
fn the_seed_for_fuzzing_is_understood() {
    let seed = include_bytes!("../../../fuzz/seeds/libvirt_replies/value");
    let value = value_from(seed, secret());
    assert_eq!(value.as_deref().map(Vec::as_slice), Some(KEY));
    for length in 0..seed.len() {
        assert!(value_from(&seed[..length], secret()).is_none(), "{length}");
    }
}
