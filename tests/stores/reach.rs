//! Servers that are away, are not who they should be, do not take the credentials, or hang: the right word, within the
//! deadline.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use vtpm_guard::internals::clock::Deadline;
use vtpm_guard::internals::fleet::{Kind, Trouble};

use crate::database::{Credentials, Database, connect, fact, refusal, soon, try_connect};
use crate::plugin::GRACE;

/// For what hangs: it is waited for.
const SHORT: Duration = Duration::from_secs(1);

/// The trouble and the words of a status that must fail before the deadline: what hangs has other words.
#[track_caller]
fn fails(address: &str, credentials: &Credentials) -> (Trouble, String) {
    let answer = try_connect(address, credentials).and_then(|mut client| client.status(soon()));
    refusal(answer)
}

#[track_caller]
fn fails_with(address: &str, credentials: &Credentials, word: Trouble, words: &str) {
    let (trouble, message) = fails(address, credentials);
    assert_eq!(trouble, word, "{message}");
    assert!(message.contains(words), "{message}");
}

const ADDRESS: &str = "postgresql://host2@127.0.0.1:5480/vtpm_guard";

#[test]
#[ignore = "needs root: a network of its own"]
fn a_server_that_is_not_who_it_should_be_gets_nothing() {
    let database = Database::prepared();
    let password = database.password("host2");
    for (certificate, words) in [
        ("use-expired", "127.0.0.1:5480: its certificate expired"),
        (
            "use-elsewhere",
            "127.0.0.1:5480: its certificate is for another name: kms.invalid",
        ),
    ] {
        database.service.run_verb(certificate);
        fails_with(ADDRESS, &password, Trouble::Unreachable, words);
    }
    database.service.run_verb("use-server");
    connect(ADDRESS, &password).status(soon()).unwrap();
    let mut other = password.clone();
    other.insert("ca".to_owned(), database.file("tls/other-ca.pem"));
    let words = "its certificate is of no authority in ";
    fails_with(ADDRESS, &other, Trouble::Unreachable, words);
    other.remove("ca");
    fails_with(
        ADDRESS,
        &other,
        Trouble::Unreachable,
        "of no authority that this host trusts",
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn credentials_that_do_not_hold_are_named() {
    let database = Database::prepared();
    let mut wrong = database.password("wrong");
    let words = "127.0.0.1:5480: password authentication failed for user \"host2\"";
    fails_with(ADDRESS, &wrong, Trouble::Credentials, words);
    wrong.insert(
        "password_file".to_owned(),
        "/nonexistent/password".to_owned(),
    );
    fails_with(
        ADDRESS,
        &wrong,
        Trouble::Credentials,
        "/nonexistent/password: there is no such file",
    );
    let for_all = database.file("for-all");
    std::fs::write(&for_all, "password-of-host2").unwrap();
    let chmod = std::process::Command::new("chmod")
        .args(["644", &for_all])
        .status();
    assert!(chmod.unwrap().success());
    wrong.insert("password_file".to_owned(), for_all);
    fails_with(
        ADDRESS,
        &wrong,
        Trouble::Credentials,
        "others have access to it",
    );
    wrong.remove("password_file");
    let (trouble, message) = fails(ADDRESS, &wrong);
    assert_eq!(trouble, Trouble::Credentials, "{message}");

    let address = "postgresql://host@127.0.0.1:5480/vtpm_guard";
    let certificate = |name: &str| -> Credentials {
        [
            ("ca", database.file("tls/ca.pem")),
            ("certificate", database.file(&format!("tls/{name}.pem"))),
            ("key", database.file(&format!("tls/{name}.key"))),
        ]
        .map(|(key, path)| (key.to_owned(), path))
        .into()
    };
    connect(address, &certificate("client"))
        .status(soon())
        .unwrap();
    for name in ["stranger", "outdated"] {
        let (trouble, message) = fails(address, &certificate(name));
        assert_eq!(trouble, Trouble::Credentials, "{name}: {message}");
    }
    // The certificate is good, and for another role.
    let (trouble, message) = fails(ADDRESS, &certificate("client"));
    assert_eq!(trouble, Trouble::Credentials, "{message}");
    let nowhere = "postgresql://host2@127.0.0.1:5480/nowhere";
    let (trouble, message) = fails(nowhere, &database.password("host2"));
    assert_eq!(trouble, Trouble::Settings, "{message}");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn what_is_not_encrypted_must_be_said_and_stay_on_this_host() {
    let database = Database::prepared();
    let open = "postgresql://host3@127.0.0.1:5480/vtpm_guard?sslmode=disable";
    let password = database.password("host3");
    assert_eq!(
        connect(open, &password).status(soon()).unwrap().role,
        "host3"
    );
    let socket = format!(
        "postgresql:///vtpm_guard?host={}",
        database.place().display()
    );
    let socket = socket.replace(":///", "://host3@:5480/");
    let status = try_connect(&socket, &password).and_then(|mut client| client.status(soon()));
    assert_eq!(status.unwrap().role, "host3");
    let elsewhere = open.replace("127.0.0.1", "192.0.2.1");
    fails_with(
        &elsewhere,
        &password,
        Trouble::Settings,
        "sslmode=disable is for Unix sockets",
    );
}

#[test]
#[ignore = "needs root: a network of its own"]
fn the_first_server_that_may_be_written_to_is_used() {
    let database = Database::prepared();
    let password = database.password("host2");
    database.service.run_verb("standby");
    let address = |hosts: &str| format!("postgresql://host2@{hosts}/vtpm_guard");
    let (dead, standby, primary) = ("127.0.0.1:1", "127.0.0.1:5481", "127.0.0.1:5480");
    let mut client = connect(&address(&[dead, standby, primary].join(",")), &password);
    let before = client.status(soon()).unwrap();
    client
        .push(&[fact(Kind::Event, 1, "x")], &[], soon())
        .unwrap();
    let (trouble, message) = fails(&address(&[dead, standby].join(",")), &password);
    assert_eq!(trouble, Trouble::Unreachable);
    assert!(
        message.contains("127.0.0.1:1: ") && message.contains("; 127.0.0.1:5481: "),
        "{message}"
    );

    // A primary that hangs holds up nobody beyond its share; once the standby is promoted, it is another timeline.
    database.service.run_verb("promote");
    database.service.run_verb("freeze");
    let until = Instant::now() + Duration::from_secs(60);
    let mut client = connect(&address(&[primary, standby].join(",")), &password);
    let after = loop {
        match client.status(Deadline::after(5 * SHORT)) {
            Ok(after) => break after,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    assert_ne!(after.system, before.system);
    assert_eq!(after.epoch, before.epoch);
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_server_that_hangs_holds_nobody_beyond_the_deadline() {
    let database = Database::prepared();
    let password = database.password("host2");
    let mut client = connect(ADDRESS, &password);
    client.status(soon()).unwrap();
    database.service.run_verb("freeze");
    // Within a conversation, and a new one.
    let start = Instant::now();
    let (trouble, message) =
        refusal(client.push(&[fact(Kind::Event, 1, "x")], &[], Deadline::after(SHORT)));
    assert!(start.elapsed() < SHORT + GRACE);
    assert_eq!(
        (trouble, &*message),
        (Trouble::Unreachable, "the database did not answer in time")
    );
    let start = Instant::now();
    let status = connect(ADDRESS, &password).status(Deadline::after(SHORT));
    assert!(start.elapsed() < SHORT + GRACE);
    let (trouble, message) = refusal(status);
    assert_eq!(trouble, Trouble::Unreachable, "{message}");
    assert!(message.contains("in time"), "{message}");
    database.service.run_verb("thaw");
    // The same conversation goes on.
    client
        .push(&[fact(Kind::Event, 1, "x")], &[], soon())
        .unwrap();
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_connection_that_ended_is_made_again() {
    let database = Database::prepared();
    let mut client = database.host();
    client.status(soon()).unwrap();
    database.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'host'");
    thread::sleep(Duration::from_millis(50));
    let first = client.status(soon());
    let again = first.or_else(|_| client.status(soon()));
    again.unwrap();
}

#[test]
#[ignore = "needs root: a network of its own"]
fn statements_that_wait_or_fail_are_told() {
    let database = Database::prepared();
    let mut client = database.host();
    client.status(soon()).unwrap();
    // Another transaction has stored the same fact, and is not over.
    let mut slow = crate::psql::Psql::of(&database, "host2");
    let same = fact(Kind::Event, 1, "x");
    let (id, body) = (same.id, &same.body);
    slow.run(&format!(
        "BEGIN; INSERT INTO vtpm_guard.fact (id, kind, host, at, body) VALUES \
         ('\\x{id}', 'event', gen_random_uuid(), 1, '{body}');"
    ));
    let pushed = client.push(std::slice::from_ref(&same), &[], Deadline::after(SHORT));
    let (trouble, message) = refusal(pushed);
    assert_eq!(trouble, Trouble::Unreachable, "{message}");
    slow.run("ROLLBACK;");
    client.push(&[same], &[], soon()).unwrap();
    // As a full disk would: the server's own words.
    database.sql(
        "CREATE FUNCTION public.disk_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         RAISE SQLSTATE '53100' USING MESSAGE = 'could not extend file: No space left on device'; END $$; \
         CREATE TRIGGER disk_full BEFORE INSERT ON vtpm_guard.fact EXECUTE FUNCTION public.disk_full()",
    );
    let (trouble, message) = refusal(client.push(&[fact(Kind::Event, 2, "y")], &[], soon()));
    assert_eq!(trouble, Trouble::Failed);
    assert_eq!(
        message,
        "could not extend file: No space left on device (SQLSTATE 53100)"
    );
    client.status(soon()).unwrap();
}

/// Serves each connection by this function, on a port of its own.
fn server(serve: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            serve(&mut stream);
        }
    });
    format!("postgresql://host2@127.0.0.1:{port}/vtpm_guard?sslmode=disable")
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_server_that_sends_nonsense_is_not_understood() {
    let database = Database::empty();
    let password = database.password("host2");
    let hello = |stream: &mut TcpStream| {
        let _ = stream.read(&mut [0; 1024]);
    };
    let servers = [
        server(move |stream| hello(stream)),
        server(move |stream| {
            hello(stream);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            thread::sleep(Duration::from_secs(2));
        }),
        server(move |stream| {
            hello(stream);
            // An error of two gigabytes.
            let _ = stream.write_all(b"E\x7f\xff\xff\xff");
            while stream.write_all(&[b'x'; 4096]).is_ok() {}
        }),
        server(move |stream| {
            hello(stream);
            // It takes anybody, and then a row comes that nobody has asked for.
            let _ = stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05ID\0\0\0\x04");
            thread::sleep(Duration::from_secs(2));
        }),
        server(|stream| {
            while stream.write_all(b"y").is_ok() {
                thread::sleep(Duration::from_millis(10));
            }
        }),
    ];
    for (number, address) in servers.iter().enumerate() {
        let start = Instant::now();
        let answer = connect(address, &password).status(Deadline::after(SHORT));
        assert!(answer.is_err(), "{number}");
        assert!(
            start.elapsed() < SHORT + GRACE,
            "{number}: {:?}",
            start.elapsed()
        );
    }
    // Over TLS, too: it is no TLS.
    let address = servers[1].replace("?sslmode=disable", "");
    fails_with(&address, &password, Trouble::Unreachable, "127.0.0.1:");
}
