//! What is left in the memory of the stores' program as it ends: nothing that opens the database.

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding};
use sha2::Sha256;
use tempfile::tempdir;
use vtpm_guard::internals::config::StoreAddress;
use vtpm_guard::internals::fleet::{Client, Kind};

use crate::built::built;
use crate::database::{Credentials, Database, fact, soon};
use crate::dump::{Dump, WITNESS};
use crate::plugin::{Script, private_dir};
use crate::traces::Secrets;

/// Of a role that is nothing else's text, nor its halves.
const PASSWORD: &str = "vQ3nZt8LrYw5KbXm";

/// Exchanges facts at this address, and looks for secrets in the memory of the program that has done it.
#[track_caller]
fn nothing_is_left(address: &str, credentials: &Credentials, mut secrets: Secrets) {
    Dump::needs_gdb();
    let dir = tempdir().unwrap();
    let dir = private_dir(dir.path(), "dump");
    let dump = Dump::into(&dir);
    let (program, place) = (built("store-postgresql"), dir.to_str().unwrap());
    let program = program.to_str().unwrap();
    let around = Script::named("store-postgresql", &Dump::script(program, place));
    // An argument of the program.
    secrets.add(WITNESS, program.as_bytes());
    let address = StoreAddress::parse(address).unwrap();
    let client = Client::start(&address, credentials, &around.path(), soon());
    let mut client = client.unwrap();
    client.status(soon()).unwrap();
    let facts = [fact(Kind::Event, 1, "x")];
    client.push(&facts, &[], soon()).unwrap();
    drop(client);
    let runs = dump.has_witness_alone("store-postgresql", &secrets, 0);
    assert_eq!(runs, 1);
}

/// What a password and the server's salt are derived to, which opens the database as the password does (RFC 5802).
fn salted(database: &Database) -> [u8; 32] {
    let stored = database.sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'host2'");
    let fields = stored.strip_prefix("SCRAM-SHA-256$").unwrap();
    let (rounds, rest) = fields.split_once(':').unwrap();
    let salt = rest.split_once('$').unwrap().0;
    let (rounds, salt) = (rounds.parse().unwrap(), Base64::decode_vec(salt).unwrap());
    let mut salted = [0; 32];
    pbkdf2::pbkdf2_hmac::<Sha256>(PASSWORD.as_bytes(), &salt, rounds, &mut salted);
    salted
}

#[test]
#[ignore = "needs root: a network of its own"]
fn no_password_is_left_in_its_memory() {
    let database = Database::prepared();
    database.sql(&format!("ALTER ROLE host2 PASSWORD '{PASSWORD}'"));
    let credentials = database.password("host2");
    fs::write(Path::new(&credentials["password_file"]), PASSWORD).unwrap();
    let mut secrets = Secrets::new();
    secrets.add("the password", PASSWORD.as_bytes());
    secrets.add("the salted password", &salted(&database));
    let address = "postgresql://host2@127.0.0.1:5480/vtpm_guard";
    nothing_is_left(address, &credentials, secrets);
}

#[test]
#[ignore = "needs root: a network of its own"]
fn no_private_key_is_left_in_its_memory() {
    let database = Database::prepared();
    let fleet = &database.service.config.fleet;
    let pem = fs::read_to_string(&fleet.credentials["key"]).unwrap();
    let mut secrets = Secrets::new();
    secrets.add_private_key("the private key", &pem);
    let address = fleet.store.as_ref().unwrap();
    nothing_is_left(address.as_str(), &fleet.credentials, secrets);
}
