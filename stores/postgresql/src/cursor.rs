//! How far a host has pulled: up to which transaction of which database.

use sha2::{Digest, Sha256};
use vtpm_guard::store_program::{Cursor, FactId};

use crate::connection::Database;

/// After the last fact that was given: transaction, kind, id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) transaction: u64,
    pub(crate) kind: String,
    pub(crate) id: Vec<u8>,
}

impl Position {
    /// Before the first fact.
    pub(crate) fn start() -> Self {
        Self::before(0)
    }

    /// Before the first fact of this transaction.
    pub(crate) fn before(transaction: u64) -> Self {
        Self {
            transaction,
            kind: String::new(),
            id: Vec::new(),
        }
    }

    /// Writes it as a cursor of this database.
    pub(crate) fn write(&self, database: &Database) -> Option<Cursor> {
        let id: String = self.id.iter().map(|byte| format!("{byte:02x}")).collect();
        let (mark, transaction, kind) = (mark(database), self.transaction, &self.kind);
        Cursor::parse(&format!("{mark}/{transaction}/{kind}/{id}"))
    }

    /// Reads a cursor. One of another database (a restored one, one that another server has taken over) says nothing
    /// about this one, and a transaction that has not been yet cannot be behind: those begin anew.
    pub(crate) fn read(cursor: &Cursor, database: &Database, horizon: u64) -> Self {
        Self::parse(cursor.as_str(), &mark(database))
            .filter(|position| position.transaction <= horizon)
            .unwrap_or_else(Self::start)
    }

    fn parse(text: &str, mark: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let theirs = parts.next()?;
        let transaction = parts.next()?.parse().ok()?;
        let kind = parts.next()?.to_owned();
        let id = match parts.next()? {
            "" => Vec::new(),
            digits => FactId::try_from(digits.to_owned()).ok()?.0.to_vec(),
        };
        (theirs == mark && parts.next().is_none()).then_some(Self {
            transaction,
            kind,
            id,
        })
    }
}

/// What tells one database from another.
fn mark(database: &Database) -> String {
    let hash = Sha256::digest(format!("{} {}", database.system, database.epoch));
    hash[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_was_written_for_its_own_database_alone() {
        let position = Position {
            transaction: u64::MAX,
            kind: "successor".to_owned(),
            id: vec![255; 32],
        };
        let (one, other) = (Database::named("1.1", "e"), Database::named("1.2", "e"));
        let cursor = position.write(&one).unwrap();
        assert_eq!(Position::read(&cursor, &one, u64::MAX), position);
        assert_eq!(
            Position::read(&cursor, &one, u64::MAX - 1),
            Position::start()
        );
        assert_eq!(Position::read(&cursor, &other, u64::MAX), Position::start());
        let before = Position::before(7).write(&one).unwrap();
        assert_eq!(Position::read(&before, &one, 7), Position::before(7));
    }

    #[test]
    fn anything_else_begins_anew() {
        let database = Database::named("1.1", "e");
        let mark = mark(&database);
        for text in [
            "",
            "x",
            "///",
            &mark,
            &format!("{mark}/x//"),
            &format!("{mark}/1/key/zz"),
            &format!("{mark}/1///"),
        ] {
            let cursor = Cursor::parse(text).unwrap();
            assert_eq!(
                Position::read(&cursor, &database, 9),
                Position::start(),
                "{text}"
            );
        }
    }
}
