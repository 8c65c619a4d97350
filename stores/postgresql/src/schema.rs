//! The schema: what `init` makes, version after version, and what administrators may run themselves.

use std::fmt::Write;

use tokio_postgres::Client;
use vtpm_guard::store_program::{Initialized, StoreError, Trouble};

use crate::error;

/// The statements that lead from each version to the next one; the first, from nothing.
pub(crate) const STEPS: &[&str] = &[include_str!("../sql/v1.sql")];

/// What hosts may do; it holds for every version.
const GRANTS: &str = include_str!("../sql/grants.sql");

/// Roles and the database, for a superuser.
const ROLES: &str = include_str!("../sql/roles.sql");

/// Keeps two `init` from working at the same time; any number that nobody else uses.
const LOCK: i64 = 0x7674_706d_6775_6172;

/// Refuses a database that a newer version has made.
pub(crate) fn check(schema: u32) -> Result<(), StoreError> {
    let known = newest(STEPS);
    if schema > known {
        let message = format!("its schema has version {schema}; this version knows {known}");
        return Err(StoreError::new(Trouble::TooNew, message));
    }
    Ok(())
}

/// Makes the schema, or brings it up to date, in one transaction.
pub(crate) async fn init(client: &mut Client, steps: &[&str]) -> Result<Initialized, StoreError> {
    let failed = |error: tokio_postgres::Error| error::of_statement(&error);
    let transaction = client.transaction().await.map_err(failed)?;
    let lock = format!("SELECT pg_advisory_xact_lock({LOCK})");
    transaction.batch_execute(&lock).await.map_err(failed)?;
    let there = transaction
        .query_typed("SELECT to_regclass('vtpm_guard.fleet') IS NOT NULL", &[])
        .await
        .map_err(failed)?;
    let is_there: bool = there.first().is_some_and(|row| row.get(0));
    let before = if is_there {
        let rows = transaction
            .query_typed("SELECT schema FROM vtpm_guard.fleet", &[])
            .await
            .map_err(failed)?;
        rows.first()
            .and_then(|row| u32::try_from(row.get::<_, i32>(0)).ok())
            .ok_or_else(|| error::nonsense("vtpm_guard.fleet has no version"))?
    } else {
        0
    };
    let schema = newest(steps);
    if before > schema {
        check(before)?;
    }
    let done = usize::try_from(before).unwrap_or(usize::MAX);
    for step in steps.iter().skip(done) {
        transaction.batch_execute(step).await.map_err(failed)?;
    }
    transaction.batch_execute(GRANTS).await.map_err(failed)?;
    let version = format!("UPDATE vtpm_guard.fleet SET schema = {schema} WHERE schema <> {schema}");
    transaction.batch_execute(&version).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(Initialized { before, schema })
}

fn newest(steps: &[&str]) -> u32 {
    u32::try_from(steps.len()).unwrap_or(u32::MAX)
}

/// The statements of `init` for an empty database, and those that make roles.
pub(crate) fn for_people() -> String {
    let mut sql = String::new();
    let mut part = |title: &str, statements: &str| {
        let written = writeln!(sql, "-- == {title} ==\n\n{}\n", statements.trim_end());
        debug_assert!(written.is_ok());
    };
    part("once, as a superuser", ROLES);
    for step in STEPS {
        part("what `fleet init` runs, as the owner", step);
    }
    part("what hosts may do (a part of `fleet init`)", GRANTS);
    sql
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio_postgres::{Config, NoTls};

    use super::*;

    const SECOND: &str = "ALTER TABLE vtpm_guard.fleet ADD COLUMN motto text; \
        UPDATE vtpm_guard.fleet SET motto = 'one for all'";

    async fn owner() -> Client {
        let mut config = Config::new();
        config
            .host(std::env::var("VTPM_GUARD_TEST_DATABASE_SOCKET").unwrap())
            .port(5480)
            .user("vtpm_guard_owner")
            .password(std::env::var("VTPM_GUARD_TEST_DATABASE_PASSWORD").unwrap())
            .dbname("vtpm_guard");
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    async fn asked(client: &Client, statement: &str) -> String {
        client.query_typed(statement, &[]).await.unwrap()[0].get(0)
    }

    #[tokio::test]
    #[ignore = "tests/stores gives it a database"]
    async fn a_step_follows_the_other() {
        let mut client = owner().await;
        let first = &STEPS[..1];
        let both = [STEPS[0], SECOND];
        let made = |before, schema| Initialized { before, schema };
        assert_eq!(init(&mut client, first).await.unwrap(), made(0, 1));
        let epoch = asked(&client, "SELECT epoch::text FROM vtpm_guard.fleet").await;

        // One that fails leaves the version before, whole.
        let broken = [STEPS[0], SECOND, "SELECT 1 / 0"];
        init(&mut client, &broken).await.unwrap_err();
        let mut client = owner().await;
        assert_eq!(init(&mut client, first).await.unwrap(), made(1, 1));

        // Two at the same time: one makes the step, the other finds it made.
        let mut other = owner().await;
        let (one, two) = tokio::join!(init(&mut client, &both), init(&mut other, &both));
        let mut befores = [one.unwrap().before, two.unwrap().before];
        befores.sort_unstable();
        assert_eq!(befores, [1, 2]);
        assert_eq!(
            asked(&client, "SELECT motto FROM vtpm_guard.fleet").await,
            "one for all"
        );
        assert_eq!(
            asked(&client, "SELECT epoch::text FROM vtpm_guard.fleet").await,
            epoch
        );

        // An older program leaves it alone.
        let error = init(&mut client, first).await.unwrap_err();
        assert_eq!(error.trouble, Trouble::TooNew);
    }
}
