//! What hosts tell each other by commands: announced keys, reports, and what a database lost.

use std::fs;

use serde_json::Value;

use crate::database::domain;
use crate::members::{Host, database};

#[test]
#[ignore = "needs root: a network of its own"]
fn an_announced_key_opens_at_once_and_wraps_new_keys_once_it_is_accepted() {
    let database = database();
    let (one, two) = (Host::new(&database, "one"), Host::new(&database, "two"));
    one.does("provider create nkp-a --slot box:k1");
    one.joins();
    let key = one.key("nkp-a").unwrap();
    let joined = two.joins();
    assert_eq!(joined["opened"][0]["name"], "nkp-a");
    let announced = format!("fleet/nkp-a/{key}");
    assert_eq!(two.providers(), [(announced.clone(), key.clone())]);
    let refused = two.run(&format!("provider set-default {announced}"));
    assert!(!refused.status.success(), "it would wrap new keys");
    let accepted = two.does("provider accept nkp-a");
    assert_eq!(accepted["was_accepted"], false);
    assert_eq!(two.key("nkp-a"), Some(key));
    assert_eq!(two.does("provider accept nkp-a")["was_accepted"], true);
    two.does("provider set-default nkp-a");

    let unknown = two.run("provider accept nkp-b");
    assert_eq!(unknown.status.code(), Some(2));
    // Without the key manager's passphrase it is announced, and no more.
    let three = Host::new(&database, "three");
    let config = fs::read_to_string(three.path("config.toml")).unwrap();
    let config = config.split("[kms.box]").next().unwrap();
    fs::write(three.path("config.toml"), config).unwrap();
    three.joins();
    assert_eq!(three.providers(), []);
    let refused = three.run("provider accept nkp-a");
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
#[ignore = "needs root: a network of its own"]
fn an_announced_key_that_was_deleted_here_stays_away_until_it_is_accepted() {
    let database = database();
    let (one, two) = (Host::new(&database, "one"), Host::new(&database, "two"));
    one.does("provider create nkp-a --slot box:k1");
    one.joins();
    let key = one.key("nkp-a").unwrap();
    two.joins();
    let announced = format!("fleet/nkp-a/{key}");
    two.does(&format!("provider delete {announced} --force"));
    for _ in 0..2 {
        assert_eq!(
            two.does("sync --compare")["fleet"]["opened"],
            Value::Array(Vec::new())
        );
        assert_eq!(two.providers(), []);
    }
    two.does("provider accept nkp-a");
    assert_eq!(two.key("nkp-a"), Some(key));
    // So does a provider of its own that others announce, too.
    two.does("provider delete nkp-a --force");
    two.does("sync");
    assert_eq!(two.providers(), []);
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_host_that_was_installed_again_is_told_of_what_it_was_before() {
    let database = database();
    let (before, after) = (Host::new(&database, "one"), Host::new(&database, "one"));
    let first = before.joins();
    assert_eq!(first["namesakes"], Value::Array(Vec::new()));
    let second = after.joins();
    assert_eq!(second["namesakes"][0], first["host"]);
    let words = after.run("fleet join --name one");
    let words = String::from_utf8_lossy(&words.stderr).into_owned();
    let command = format!("fleet lost {}", first["host"].as_str().unwrap());
    assert!(words.contains(&command), "{words}");
    after.does(&command);
    assert_eq!(after.joins()["namesakes"], Value::Array(Vec::new()));
}

#[test]
#[ignore = "needs root: a network of its own"]
fn a_sync_that_runs_by_hand_reports_no_more_often_than_one_that_follows() {
    let database = database();
    let one = Host::new(&database, "one");
    one.does("provider create nkp-a --slot box:k1");
    one.joins();
    for _ in 0..3 {
        one.does("sync");
    }
    let reports = "SELECT count(*) FROM vtpm_guard.fact WHERE kind = 'report'";
    assert_eq!(database.sql(reports), "1");
    // With another key it has something to say.
    one.does("provider create nkp-b --slot box:k1");
    one.does("sync");
    assert_eq!(database.sql(reports), "2");
}

#[test]
#[ignore = "needs root: a network of its own"]
fn what_a_database_lost_that_calls_itself_the_same_is_there_again_after_an_exchange() {
    let database = database();
    let (one, two) = (Host::new(&database, "one"), Host::new(&database, "two"));
    one.does("provider create nkp-a --slot box:k1");
    one.joins();
    let dumped = database.sql("SELECT max(made_in) FROM vtpm_guard.fact");
    one.makes_key(domain(1), "nkp-a");
    assert_eq!(one.does("sync")["fleet"]["compared"], false);
    let keys = "SELECT count(*) FROM vtpm_guard.fact WHERE kind = 'key'";
    assert_eq!(database.sql(keys), "1");
    database.sql(&format!(
        "DELETE FROM vtpm_guard.fact WHERE made_in > '{dumped}'"
    ));
    assert_eq!(database.sql(keys), "0");
    assert_eq!(one.does("sync")["fleet"]["compared"], true);
    assert_eq!(database.sql(keys), "1");
    two.joins();
    let listed = two.does(&format!("key list {}", domain(1)));
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(one.does("sync")["fleet"]["compared"], false, "once");
}
