//! A change of a row for each guest: all of them in one transaction, or some at a time.

use rusqlite::{Connection, Statement, ToSql};

use super::ROWS_AT_ONCE;
use super::error::Failure;

/// One statement for many rows.
pub(super) struct ManyRows {
    /// The table of the rows that are looked for.
    pub(super) table: &'static str,
    /// Which of them are to be changed.
    pub(super) condition: String,
    /// Changes the rows for which `{}` holds.
    pub(super) change: String,
}

// Where some rows are meant, a `+` keeps SQLite from looking the condition up in an index, which finds all others too.
impl ManyRows {
    /// The next rows after this id, in order.
    pub(super) fn next(
        &self,
        connection: &Connection,
        values: &[(&str, &dyn ToSql)],
        after: i64,
    ) -> Result<Vec<i64>, Failure> {
        let sql = format!(
            "SELECT rowid FROM {} WHERE +({}) AND rowid > :after ORDER BY rowid LIMIT :most",
            self.table, self.condition
        );
        let mut query = connection.prepare_cached(&sql)?;
        bind(&mut query, values)?;
        let place: [(&str, &dyn ToSql); 2] = [(":after", &after), (":most", &ROWS_AT_ONCE)];
        bind(&mut query, &place)?;
        let mut rows = query.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(row.get(0)?);
        }
        drop(rows);
        #[cfg(test)]
        super::testing::note_steps(&query);
        Ok(found)
    }

    /// Changes these rows, or all, unless they have been changed in the meantime.
    pub(super) fn change(
        &self,
        connection: &Connection,
        values: &[(&str, &dyn ToSql)],
        rows: Option<&[i64]>,
    ) -> Result<(), Failure> {
        let condition = match rows {
            Some(_) => format!(
                "{}.rowid IN (SELECT value FROM json_each(:rows)) AND +({})",
                self.table, self.condition
            ),
            None => self.condition.clone(),
        };
        let mut change = connection.prepare_cached(&self.change.replace("{}", &condition))?;
        bind(&mut change, values)?;
        if let Some(rows) = rows {
            let rows: Vec<_> = rows.iter().map(i64::to_string).collect();
            bind(&mut change, &[(":rows", &format!("[{}]", rows.join(",")))])?;
        }
        change.raw_execute()?;
        #[cfg(test)]
        super::testing::note_change(&change);
        Ok(())
    }
}

/// Binds those of the values that the statement names.
fn bind(statement: &mut Statement<'_>, values: &[(&str, &dyn ToSql)]) -> rusqlite::Result<()> {
    for (name, value) in values {
        if let Some(index) = statement.parameter_index(name)? {
            statement.raw_bind_parameter(index, value)?;
        }
    }
    Ok(())
}
