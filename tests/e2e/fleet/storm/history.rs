//! What the history has of the starts of a storm, compared with what the log says of each.

use std::collections::BTreeSet;

use rusqlite::Row;

use crate::guest::Guest;
use crate::host::Host;

/// The end of the finding of a start whose row was given up.
const NOT_RECORDED: &str = "could not be recorded";

/// An allowed start, as the log has it.
struct LoggedStart {
    /// The time of its row in the history, in milliseconds.
    at: i64,
    is_recorded: bool,
}

impl Host {
    /// The history has each of this many starts of a guest, but those of which the log says that they are not recorded.
    /// Guest and millisecond identify a start: of starts at once some may share a row. Returns how many are not recorded.
    #[track_caller]
    pub(super) fn has_all_starts_of(&self, guest: &Guest, starts: usize, log: &str) -> usize {
        let (name, logged) = (&guest.name, logged_starts(log, &guest.name));
        assert_eq!(logged.len(), starts, "{name}: starts in the log");
        let recorded = logged.iter().filter(|start| start.is_recorded);
        let expected: BTreeSet<_> = recorded.clone().map(|start| start.at).collect();
        let expected: Vec<_> = expected.into_iter().collect();
        assert_eq!(
            self.starts_of(guest),
            expected,
            "{name}: rows of starts that the log says are recorded"
        );
        assert!(
            !expected.is_empty(),
            "{name}: its first start is written with its key"
        );
        starts - recorded.count()
    }

    /// The times of the rows that the history has of starts of this guest that were allowed, in order.
    pub(super) fn starts_of(&self, guest: &Guest) -> Vec<i64> {
        let sql = "SELECT at FROM event
                   WHERE domain_uuid = ?1 AND operation = 'prepare' AND decision = 'allow' ORDER BY at";
        let store = self.store();
        let mut query = store.prepare(sql).unwrap();
        let time = |row: &Row<'_>| row.get(0);
        let rows = query.query_map([guest.uuid.to_string()], time).unwrap();
        rows.map(Result::unwrap).collect()
    }
}

fn logged_starts(log: &str, guest: &str) -> Vec<LoggedStart> {
    let fields = [
        format!(" domain=\"{guest}\" "),
        " operation=\"prepare\" ".to_owned(),
        " decision=\"allow\" ".to_owned(),
    ];
    let is_start = |line: &&str| fields.iter().all(|field| line.contains(field));
    let start = |line: &str| {
        let (_, rest) = line.split_once(" at=").unwrap();
        let (at, _) = rest.split_once(' ').unwrap();
        LoggedStart {
            at: at.parse().unwrap(),
            is_recorded: !line.contains(NOT_RECORDED),
        }
    };
    log.lines().filter(is_start).map(start).collect()
}
