//! How hosts come to have the same facts: push, pull, and what finds differences.

use sha2::{Digest, Sha256};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};
use vtpm_guard::store_program::{
    Cursor, Fact, FactId, HostUuid, KeyId, Kind, MAX_IDS, Page, Scope, State, StoreError,
    Timestamp, fit,
};

use crate::connection::Session;
use crate::cursor::Position;
use crate::error;

/// How many facts a page has at most.
const MAX_PAGE: u32 = 5000;

/// How many bytes of facts a page has at most, as JSON.
const MAX_PAGE_BYTES: usize = 3 << 20;

/// How many buckets there are.
const BUCKETS: usize = 256;

/// A parameter of a statement.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// Stores facts and states in one transaction. Returns how many of them were not there.
pub(crate) async fn push(
    client: &mut Client,
    facts: &[Fact],
    states: &[State],
) -> Result<u64, StoreError> {
    let failed = |error: tokio_postgres::Error| error::of_statement(&error);
    let transaction = client.transaction().await.map_err(failed)?;
    let mut stored = 0;
    if !facts.is_empty() {
        let ids: Vec<&[u8]> = facts.iter().map(|fact| fact.id.0.as_slice()).collect();
        let kinds: Vec<_> = facts.iter().map(|fact| fact.kind.as_str()).collect();
        let domains: Vec<_> = facts
            .iter()
            .map(|fact| fact.domain.map(|domain| domain.to_string()))
            .collect();
        let key_ids: Vec<_> = facts
            .iter()
            .map(|fact| fact.key_id.map(|key_id| key_id.to_string()))
            .collect();
        let hosts: Vec<_> = facts.iter().map(|fact| fact.host.to_string()).collect();
        let times: Vec<_> = facts.iter().map(|fact| fact.at.0).collect();
        let bodies: Vec<_> = facts.iter().map(|fact| fact.body.as_str()).collect();
        let parameters: [Parameter<'_>; 7] = [
            (&ids, Type::BYTEA_ARRAY),
            (&kinds, Type::TEXT_ARRAY),
            (&domains, Type::TEXT_ARRAY),
            (&key_ids, Type::TEXT_ARRAY),
            (&hosts, Type::TEXT_ARRAY),
            (&times, Type::INT8_ARRAY),
            (&bodies, Type::TEXT_ARRAY),
        ];
        let statement = include_str!("../sql/queries/push_facts.sql");
        let done = transaction.execute_typed(statement, &parameters).await;
        stored += done.map_err(failed)?;
    }
    if !states.is_empty() {
        let infos = || states.iter().map(|state| &state.info);
        let ids: Vec<&[u8]> = infos().map(|info| info.id.0.as_slice()).collect();
        let domains: Vec<_> = infos().map(|info| info.domain.to_string()).collect();
        let hosts: Vec<_> = infos().map(|info| info.host.to_string()).collect();
        let times: Vec<_> = infos().map(|info| info.at.0).collect();
        let bodies: Vec<_> = infos().map(|info| info.body.as_str()).collect();
        let data: Vec<_> = states.iter().map(|state| state.data.as_deref()).collect();
        let parameters: [Parameter<'_>; 6] = [
            (&ids, Type::BYTEA_ARRAY),
            (&domains, Type::TEXT_ARRAY),
            (&hosts, Type::TEXT_ARRAY),
            (&times, Type::INT8_ARRAY),
            (&bodies, Type::TEXT_ARRAY),
            (&data, Type::BYTEA_ARRAY),
        ];
        let statement = include_str!("../sql/queries/push_states.sql");
        let done = transaction.execute_typed(statement, &parameters).await;
        stored += done.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(stored)
}

/// Facts of transactions that are over, after the cursor. Those of a transaction that is still open come when it, and
/// all that began before it, are over: its number says when it began, not when it ended.
pub(crate) async fn pull(
    session: &Session,
    after: &Cursor,
    scope: &Scope,
    limit: u32,
) -> Result<Page, StoreError> {
    let (client, database) = (&session.client, &session.identity);
    let horizon = rows(client, include_str!("../sql/queries/horizon.sql"), &[]).await?;
    let horizon = horizon.first().map(transaction_in(0)).transpose()?;
    let horizon = horizon.ok_or_else(|| error::nonsense("there is no snapshot"))?;
    let position = Position::read(after, database, horizon);
    let scope = ScopeTexts::of(scope);
    let (from, to) = (position.transaction.to_string(), horizon.to_string());
    let limit = limit.clamp(1, MAX_PAGE);
    let asked_for = i64::from(limit) + 1;
    let mut parameters = scope.parameters().to_vec();
    parameters.extend([
        (&from as &(dyn ToSql + Sync), Type::TEXT),
        (&position.kind, Type::TEXT),
        (&position.id, Type::BYTEA),
        (&to, Type::TEXT),
        (&asked_for, Type::INT8),
    ]);
    let rows = rows(client, include_str!("../sql/queries/pull.sql"), &parameters).await?;
    let (mut facts, mut last) = (Vec::new(), None);
    let mut left = MAX_PAGE_BYTES;
    let mut more = false;
    for (index, row) in rows.iter().enumerate() {
        let mut fact: Vec<_> = fact(row)?.into_iter().collect();
        if index >= limit as usize || fit(&mut fact, &mut left) {
            more = true;
            break;
        }
        last = Some(Position {
            transaction: transaction_in(7)(row)?,
            kind: column(row, 1)?,
            id: column(row, 0)?,
        });
        facts.extend(fact);
    }
    let next = match last {
        Some(last) if more => last,
        _ if more => position,
        // Nothing below the horizon is left, in scope or not.
        _ => Position::before(horizon),
    };
    let next = next.write(database);
    let next = next.ok_or_else(|| error::nonsense("a cursor is too long"))?;
    Ok(Page { facts, next, more })
}

/// The digest of each bucket.
pub(crate) async fn digests(client: &Client, scope: &Scope) -> Result<Vec<FactId>, StoreError> {
    let scope = ScopeTexts::of(scope);
    let statement = include_str!("../sql/queries/digests.sql");
    let rows = rows(client, statement, &scope.parameters()).await?;
    let mut digests = vec![FactId(Sha256::digest([]).into()); BUCKETS];
    for row in &rows {
        let bucket = usize::try_from(column::<i32>(row, 0)?).ok();
        let digest = bucket.and_then(|bucket| digests.get_mut(bucket));
        *digest.ok_or_else(|| error::nonsense("a bucket is no byte"))? = id_in(row, 1)?;
    }
    Ok(digests)
}

/// The ids in these buckets.
pub(crate) async fn ids(
    client: &Client,
    scope: &Scope,
    buckets: &[u8],
) -> Result<Vec<FactId>, StoreError> {
    let scope = ScopeTexts::of(scope);
    let buckets: Vec<i32> = buckets.iter().map(|bucket| i32::from(*bucket)).collect();
    let limit = i64::try_from(MAX_IDS + 1).unwrap_or(i64::MAX);
    let mut parameters = scope.parameters().to_vec();
    parameters.extend([
        (&buckets as &(dyn ToSql + Sync), Type::INT4_ARRAY),
        (&limit, Type::INT8),
    ]);
    let rows = rows(client, include_str!("../sql/queries/ids.sql"), &parameters).await?;
    rows.iter().map(|row| id_in(row, 0)).collect()
}

/// The facts with these ids.
pub(crate) async fn fetch(client: &Client, ids: &[FactId]) -> Result<Vec<Fact>, StoreError> {
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.0.as_slice()).collect();
    let parameters: [Parameter<'_>; 1] = [(&ids, Type::BYTEA_ARRAY)];
    let rows = rows(
        client,
        include_str!("../sql/queries/fetch.sql"),
        &parameters,
    )
    .await?;
    facts(&rows)
}

/// A scope as the function `in_scope` takes it.
struct ScopeTexts {
    always: Vec<&'static str>,
    scoped: Vec<&'static str>,
    key_ids: Vec<String>,
    domains: Vec<String>,
}

impl ScopeTexts {
    fn of(scope: &Scope) -> Self {
        let words = |kinds: &[Kind]| kinds.iter().map(|kind| kind.as_str()).collect();
        Self {
            always: words(&scope.always),
            scoped: words(&scope.scoped),
            key_ids: scope.key_ids.iter().map(ToString::to_string).collect(),
            domains: scope.domains.iter().map(ToString::to_string).collect(),
        }
    }

    fn parameters(&self) -> [Parameter<'_>; 4] {
        [
            (&self.always, Type::TEXT_ARRAY),
            (&self.scoped, Type::TEXT_ARRAY),
            (&self.key_ids, Type::TEXT_ARRAY),
            (&self.domains, Type::TEXT_ARRAY),
        ]
    }
}

/// Asks, in one round trip.
pub(crate) async fn rows(
    client: &Client,
    statement: &str,
    parameters: &[Parameter<'_>],
) -> Result<Vec<Row>, StoreError> {
    let rows = client.query_typed(statement, parameters).await;
    rows.map_err(|error| error::of_statement(&error))
}

/// Reads facts; those of a kind that this version does not know are left out.
pub(crate) fn facts(rows: &[Row]) -> Result<Vec<Fact>, StoreError> {
    let facts = rows.iter().filter_map(|row| fact(row).transpose());
    facts.collect()
}

fn fact(row: &Row) -> Result<Option<Fact>, StoreError> {
    let Some(kind) = Kind::parse(&column::<String>(row, 1)?) else {
        return Ok(None);
    };
    let key_id = column::<Option<String>>(row, 3)?
        .map(|key_id| KeyId::parse(&key_id).ok_or_else(|| error::nonsense("a key id is wrong")));
    Ok(Some(Fact {
        id: id_in(row, 0)?,
        kind,
        domain: column::<Option<String>>(row, 2)?
            .map(|domain| domain.parse().map_err(error::nonsense))
            .transpose()?,
        key_id: key_id.transpose()?,
        host: host_in(row, 4)?,
        at: Timestamp(column(row, 5)?),
        body: column(row, 6)?,
    }))
}

pub(crate) fn id_in(row: &Row, index: usize) -> Result<FactId, StoreError> {
    let bytes: &[u8] = column(row, index)?;
    let bytes = bytes.try_into().map_err(error::nonsense)?;
    Ok(FactId(bytes))
}

pub(crate) fn host_in(row: &Row, index: usize) -> Result<HostUuid, StoreError> {
    column::<String>(row, index)?
        .parse()
        .map_err(error::nonsense)
}

fn transaction_in(index: usize) -> impl Fn(&Row) -> Result<u64, StoreError> {
    move |row| {
        column::<String>(row, index)?
            .parse()
            .map_err(error::nonsense)
    }
}

/// A value; one of another type is no panic.
pub(crate) fn column<'a, T: tokio_postgres::types::FromSql<'a>>(
    row: &'a Row,
    index: usize,
) -> Result<T, StoreError> {
    row.try_get(index).map_err(error::nonsense)
}
