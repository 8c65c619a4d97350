//! The connection to the first server that answers and may be written to. Nothing is waited for longer than the
//! deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::tls::NoTls;
use tokio_postgres::{Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use vtpm_guard::store_program::{
    Deadline, Status, StoreError, Timestamp, Trouble, Zeroizing, read_credentials,
};
use vtpm_guard_kms_tls::Identity;

use crate::address::{Address, Server};
use crate::error;
use crate::schema;

/// The shortest time that the server gets for a statement of a connection.
const MIN_STATEMENT_TIME: Duration = Duration::from_secs(1);

/// A connection, and how to make one.
pub(crate) struct Connection {
    address: Address,
    identity: Identity,
    password_file: Option<PathBuf>,
    runtime: Runtime,
    session: Option<Session>,
}

/// A connection to a database with a schema.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) identity: Database,
}

/// Which database it is.
pub(crate) struct Database {
    pub(crate) schema: u32,
    pub(crate) epoch: String,
    pub(crate) system: String,
    server: String,
    role: String,
    now_ms: i64,
}

impl Database {
    async fn of(client: &Client) -> Result<Self, StoreError> {
        let rows = client
            .query_typed(include_str!("../sql/queries/identity.sql"), &[])
            .await
            .map_err(|error| error::of_statement(&error))?;
        let row = rows.first().ok_or_else(|| {
            StoreError::new(Trouble::NoSchema, "the table vtpm_guard.fleet is empty")
        })?;
        let database = Self {
            schema: u32::try_from(row.get::<_, i32>(0)).unwrap_or(u32::MAX),
            epoch: row.get(1),
            system: row.get(2),
            server: row.get(3),
            role: row.get(4),
            now_ms: row.get(5),
        };
        schema::check(database.schema)?;
        Ok(database)
    }

    /// One of this name, for a test.
    #[cfg(test)]
    pub(crate) fn named(system: &str, epoch: &str) -> Self {
        Self {
            schema: 1,
            epoch: epoch.to_owned(),
            system: system.to_owned(),
            server: String::new(),
            role: String::new(),
            now_ms: 0,
        }
    }

    pub(crate) fn status(&self) -> Status {
        Status {
            system: self.system.clone(),
            epoch: self.epoch.clone(),
            schema: self.schema,
            server: format!("PostgreSQL {}", self.server),
            role: self.role.clone(),
            now: Timestamp(self.now_ms),
        }
    }
}

impl Connection {
    pub(crate) fn new(
        address: Address,
        identity: Identity,
        password_file: Option<PathBuf>,
    ) -> Result<Self, StoreError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|error| StoreError::new(Trouble::Failed, error.to_string()))?;
        Ok(Self {
            address,
            identity,
            password_file,
            runtime,
            session: None,
        })
    }

    /// Does something with the connection; the first time, it connects.
    pub(crate) fn run<T>(
        &mut self,
        deadline: Deadline,
        question: impl AsyncFnOnce(&mut Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let (address, identity) = (&self.address, &self.identity);
        let (password_file, kept) = (self.password_file.as_deref(), self.session.take());
        let mut session = kept.filter(|session| !session.client.is_closed());
        let answer = self.runtime.block_on(within(deadline, async {
            let open = match &mut session {
                Some(open) => open,
                none => {
                    let client = connect(address, identity, password_file, deadline).await?;
                    let identity = Database::of(&client).await?;
                    none.insert(Session { client, identity })
                }
            };
            question(open).await
        }));
        // After the deadline, or without an answer, nobody knows what the server will say next.
        let is_lost = answer
            .as_ref()
            .is_err_and(|error| error.trouble == Trouble::Unreachable);
        self.session = session.filter(|_| !is_lost);
        answer
    }

    /// Does something with a connection of its own to a database that may have no schema.
    pub(crate) fn run_without_schema<T>(
        &mut self,
        deadline: Deadline,
        question: impl AsyncFnOnce(&mut Client) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.session = None;
        let (address, identity) = (&self.address, &self.identity);
        let password_file = self.password_file.as_deref();
        self.runtime.block_on(within(deadline, async {
            let mut client = connect(address, identity, password_file, deadline).await?;
            question(&mut client).await
        }))
    }
}

async fn within<T>(
    deadline: Deadline,
    question: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(deadline.remaining(), question).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::new(
            Trouble::Unreachable,
            "the database did not answer in time",
        )),
    }
}

/// Connects to the first server that answers and may be written to. Each gets a fair part of the time.
async fn connect(
    address: &Address,
    identity: &Identity,
    password_file: Option<&Path>,
    deadline: Deadline,
) -> Result<Client, StoreError> {
    let password = password_file.map(read_credentials).transpose()?;
    let servers = address.servers();
    let mut errors: Vec<StoreError> = Vec::new();
    for (index, server) in servers.iter().enumerate() {
        let others = u32::try_from(servers.len() - index).unwrap_or(u32::MAX);
        let time = deadline.remaining() / others;
        let connected = timeout(
            time,
            connect_to(server, identity, password.as_ref(), deadline),
        );
        match connected.await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(error)) => errors.push(error),
            Err(_) => errors.push(
                StoreError::new(Trouble::Unreachable, "no answer in time").at(error::place(server)),
            ),
        }
    }
    // What one of them says about this host is more than that another one is away.
    let told = errors
        .iter()
        .find(|error| error.trouble != Trouble::Unreachable);
    let trouble = told.map_or(Trouble::Unreachable, |error| error.trouble);
    let messages: Vec<_> = errors.into_iter().map(|error| error.message).collect();
    Err(StoreError::new(trouble, messages.join("; ")))
}

async fn connect_to(
    server: &Server,
    identity: &Identity,
    password: Option<&Zeroizing<Vec<u8>>>,
    deadline: Deadline,
) -> Result<Client, StoreError> {
    let mut config: Config = server.config.clone();
    if let Some(password) = password {
        config.password(password.as_slice());
    }
    let failed = |error: tokio_postgres::Error| error::of_connection(&error, server, identity);
    let client = if server.is_verified {
        config.ssl_mode(tokio_postgres::config::SslMode::Require);
        let tls = MakeRustlsConnect::new(identity.config()?);
        let (client, connection) = config.connect(tls).await.map_err(failed)?;
        tokio::spawn(connection);
        client
    } else {
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        tokio::spawn(connection);
        client
    };
    // What nobody waits for any more, the server need not finish. Nor need it compile queries that take milliseconds:
    // where its statistics are old it would, in each session again.
    let time = deadline.remaining().max(MIN_STATEMENT_TIME).as_millis();
    let settings = format!(
        "SET statement_timeout = {time}; SET idle_in_transaction_session_timeout = {time}; \
         SET jit = off; SET search_path = pg_catalog, pg_temp"
    );
    client.batch_execute(&settings).await.map_err(failed)?;
    Ok(client)
}
