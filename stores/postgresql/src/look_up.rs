//! What a start, and what people, look for.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};
use vtpm_guard::store_program::{
    DomainUuid, Fact, FactId, Kind, Search, State, StateInfo, StoreError, Timestamp,
};

use crate::error;
use crate::facts::{Parameter, column, facts, host_in, id_in, rows};

/// How many facts or states an answer has at most.
const MAX_FOUND: u32 = 10_000;

/// All that a start of this guest may need.
pub(crate) async fn ask(
    client: &Client,
    domain: DomainUuid,
) -> Result<(Vec<Fact>, Vec<State>), StoreError> {
    let domain = domain.to_string();
    let parameters: [Parameter<'_>; 1] = [(&domain, Type::TEXT)];
    // Both are on their way before the first is answered.
    let (found, found_states) = tokio::join!(
        rows(client, include_str!("../sql/queries/ask.sql"), &parameters),
        rows(
            client,
            include_str!("../sql/queries/ask_states.sql"),
            &parameters
        ),
    );
    Ok((facts(&found?)?, states_in(&found_states?, true)?))
}

/// Facts, newest first.
pub(crate) async fn search(client: &Client, search: &Search) -> Result<Vec<Fact>, StoreError> {
    let kinds: Vec<_> = search.kinds.iter().map(|kind| kind.as_str()).collect();
    let domain = search.domain.map(|domain| domain.to_string());
    let host = search.host.map(|host| host.to_string());
    let (since, until) = (search.since.map(|at| at.0), search.until.map(|at| at.0));
    let limit = i64::from(search.limit.min(MAX_FOUND));
    let parameters: [Parameter<'_>; 6] = [
        (&kinds, Type::TEXT_ARRAY),
        (&domain, Type::TEXT),
        (&host, Type::TEXT),
        (&since, Type::INT8),
        (&until, Type::INT8),
        (&limit, Type::INT8),
    ];
    facts(
        &rows(
            client,
            include_str!("../sql/queries/search.sql"),
            &parameters,
        )
        .await?,
    )
}

/// Each host's newest fact of a kind.
pub(crate) async fn newest(client: &Client, kind: Kind) -> Result<Vec<Fact>, StoreError> {
    let kind = kind.as_str();
    let parameters: [Parameter<'_>; 1] = [(&kind, Type::TEXT)];
    facts(
        &rows(
            client,
            include_str!("../sql/queries/newest.sql"),
            &parameters,
        )
        .await?,
    )
}

/// States without their bytes, newest first.
pub(crate) async fn states(
    client: &Client,
    domain: Option<DomainUuid>,
    limit: u32,
) -> Result<Vec<State>, StoreError> {
    let domain = domain.map(|domain| domain.to_string());
    let limit = i64::from(limit.min(MAX_FOUND));
    let parameters: [Parameter<'_>; 2] = [(&domain, Type::TEXT), (&limit, Type::INT8)];
    let rows = rows(
        client,
        include_str!("../sql/queries/states.sql"),
        &parameters,
    )
    .await?;
    states_in(&rows, false)
}

/// One state with its bytes.
pub(crate) async fn state(client: &Client, id: FactId) -> Result<Option<State>, StoreError> {
    let id = id.0.as_slice();
    let parameters: [Parameter<'_>; 1] = [(&id, Type::BYTEA)];
    let rows = rows(
        client,
        include_str!("../sql/queries/state.sql"),
        &parameters,
    )
    .await?;
    Ok(states_in(&rows, true)?.pop())
}

fn states_in(rows: &[Row], with_data: bool) -> Result<Vec<State>, StoreError> {
    let states = rows.iter().map(|row| {
        Ok(State {
            info: StateInfo {
                id: id_in(row, 0)?,
                domain: column::<String>(row, 1)?.parse().map_err(error::nonsense)?,
                host: host_in(row, 2)?,
                at: Timestamp(column(row, 3)?),
                body: column(row, 4)?,
            },
            data: with_data.then(|| column(row, 5)).transpose()?,
        })
    });
    states.collect()
}
