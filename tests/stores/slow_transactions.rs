//! A transaction that ends long after later ones: what it has stored is pulled all the same, once.

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vtpm_guard::internals::fleet::{Client, Cursor, Kind, Scope};

use crate::database::{Database, host, soon};
use crate::psql::Psql;

/// How many sessions store facts at the same time.
const SESSIONS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Begin(usize),
    /// So many facts, of kinds that the host pulls or not.
    Insert(usize, u8, bool),
    Commit(usize),
    Rollback(usize),
    Pull(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let session = 0..SESSIONS;
    let step = prop_oneof![
        2 => session.clone().prop_map(Step::Begin),
        4 => (session.clone(), 1..4_u8, any::<bool>())
            .prop_map(|(session, count, is_in_scope)| Step::Insert(session, count, is_in_scope)),
        2 => session.clone().prop_map(Step::Commit),
        1 => session.prop_map(Step::Rollback),
        3 => (1..5_u32).prop_map(Step::Pull),
    ];
    proptest::collection::vec(step, 1..50)
}

/// What must have been pulled.
#[derive(Default)]
struct Model {
    /// Of each session, what it has stored and not committed yet; `None`: it is in no transaction.
    open: [Option<Vec<String>>; SESSIONS],
    committed: BTreeSet<String>,
    pulled: BTreeSet<String>,
}

struct World<'a> {
    client: &'a mut Client,
    sessions: &'a mut [Psql],
    cursor: &'a mut Cursor,
    next: &'a mut u32,
    model: Model,
}

impl World<'_> {
    fn play(&mut self, step: &Step) {
        match *step {
            Step::Begin(session) if self.model.open[session].is_none() => {
                self.sessions[session].run("BEGIN;");
                self.model.open[session] = Some(Vec::new());
            }
            Step::Insert(session, count, is_in_scope) => {
                for _ in 0..count {
                    self.insert(session, is_in_scope);
                }
            }
            Step::Commit(session) => {
                if let Some(facts) = self.model.open[session].take() {
                    self.sessions[session].run("COMMIT;");
                    self.model.committed.extend(facts);
                }
            }
            Step::Rollback(session) => {
                if self.model.open[session].take().is_some() {
                    self.sessions[session].run("ROLLBACK;");
                }
            }
            Step::Pull(limit) => {
                self.pull(limit);
            }
            Step::Begin(_) => {}
        }
    }

    fn insert(&mut self, session: usize, is_in_scope: bool) {
        let kind = if is_in_scope { Kind::Host } else { Kind::Event }.as_str();
        let body = format!("fact {}", self.next);
        *self.next += 1;
        self.sessions[session].run(&format!(
            "INSERT INTO vtpm_guard.fact (id, kind, host, at, body) VALUES \
             (sha256('{kind}' || '\\x00'::bytea || '{body}'), '{kind}', '{}', 1, '{body}');",
            host(1)
        ));
        match &mut self.model.open[session] {
            _ if !is_in_scope => {}
            Some(open) => open.push(body),
            None => {
                self.model.committed.insert(body);
            }
        }
    }

    /// Returns whether there is more.
    fn pull(&mut self, limit: u32) -> bool {
        let scope = Scope {
            always: vec![Kind::Host],
            ..Scope::default()
        };
        let page = self
            .client
            .pull(self.cursor, &scope, limit, soon())
            .unwrap();
        *self.cursor = page.next;
        assert!(page.facts.len() <= limit as usize);
        for fact in page.facts {
            assert!(
                self.model.committed.contains(&fact.body),
                "{} is not committed",
                fact.body
            );
            assert!(
                !self.model.pulled.contains(&fact.body),
                "{} came twice",
                fact.body
            );
            self.model.pulled.insert(fact.body);
        }
        page.more
    }
}

/// So that the numbers of the transactions that follow get another digit: they are no texts.
fn to_transaction(database: &Database, number: u32) {
    database.sql(&format!(
        "DO $$ BEGIN WHILE pg_current_xact_id()::text::bigint < {number} LOOP COMMIT; END LOOP; END $$"
    ));
}

#[test]
#[ignore = "needs root: a network of its own"]
fn whatever_is_committed_is_pulled_once_and_nothing_else() {
    let database = Database::prepared();
    let sessions: Vec<_> = (0..SESSIONS)
        .map(|_| Psql::of(&database, "host2"))
        .collect();
    // One database for all cases: the cursor goes on from one to the next.
    to_transaction(&database, 990);
    let kept = RefCell::new((database.host(), sessions, Cursor::default(), 0));
    let mut runner = TestRunner::new(Config {
        cases: 60,
        failure_persistence: None,
        max_shrink_iters: 0,
        ..Config::default()
    });
    let ran = runner.run(&steps(), |steps| {
        let (client, sessions, cursor, next) = &mut *kept.borrow_mut();
        let mut world = World {
            client,
            sessions,
            cursor,
            next,
            model: Model::default(),
        };
        steps.iter().for_each(|step| world.play(step));
        (0..SESSIONS).for_each(|session| world.play(&Step::Commit(session)));
        while world.pull(3) {}
        prop_assert_eq!(&world.model.pulled, &world.model.committed);
        Ok(())
    });
    ran.unwrap();
}

#[test]
#[ignore = "needs root: a network of its own"]
fn the_row_of_a_slow_transaction_is_not_lost() {
    let database = Database::prepared();
    let mut client = database.host();
    let mut sessions = ["host2", "host3"].map(|role| Psql::of(&database, role));
    let (mut cursor, mut next) = (Cursor::default(), 0);
    sessions[0].run("BEGIN;");
    let mut world = World {
        client: &mut client,
        sessions: &mut sessions,
        cursor: &mut cursor,
        next: &mut next,
        model: Model {
            open: [Some(Vec::new()), None, None, None],
            ..Model::default()
        },
    };
    world.insert(0, true);
    world.insert(1, true);
    // The later one is over, and waits for the one before it.
    assert!(!world.pull(10));
    assert_eq!(world.model.pulled.len(), 0);
    world.play(&Step::Commit(0));
    assert!(!world.pull(10));
    assert_eq!(world.model.pulled.len(), 2);
}
