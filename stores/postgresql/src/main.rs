//! `store-postgresql`: a PostgreSQL database as the shared store of a fleet.

mod address;
mod connection;
mod cursor;
mod error;
mod facts;
mod look_up;
mod schema;

use std::alloc::System;
use std::path::PathBuf;
use std::process::ExitCode;

use vtpm_guard::store_program::{
    Cursor, Deadline, DomainUuid, Fact, FactId, Initialized, Kind, Page, Scope, Search, Settings,
    State, Status, Store, StoreError, Trouble, serve,
};
use vtpm_guard_kms_tls::{Identity, Needs};
use zeroizing_alloc::ZeroAlloc;

use crate::address::Address;
use crate::connection::Connection;

/// Wipes all that is freed: what the libraries for PostgreSQL and TLS have had contains passwords and keys.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    serve::<Postgresql>()
}

/// The settings, and the connection once there is one.
struct Postgresql {
    connection: Connection,
}

impl Store for Postgresql {
    const KIND: &str = "postgresql";

    fn new(settings: &mut Settings) -> Result<Self, StoreError> {
        let address = Address::parse(&settings.needed("address")?)
            .map_err(|reason| StoreError::new(Trouble::Settings, reason))?;
        let identity = Identity::take(settings)?;
        let password_file: Option<PathBuf> = settings.path("password_file")?;
        let mut files = identity.files();
        files.extend(password_file.clone());
        let needs = Needs {
            files,
            ports: address.servers().iter().map(|server| server.port).collect(),
        };
        let connection = Connection::new(address, identity, password_file)?;
        needs.confine();
        Ok(Self { connection })
    }

    fn status(&mut self, deadline: Deadline) -> Result<Status, StoreError> {
        self.connection
            .run(deadline, async |session| Ok(session.identity.status()))
    }

    fn init(&mut self, deadline: Deadline) -> Result<Initialized, StoreError> {
        self.connection
            .run_without_schema(deadline, async |client| {
                schema::init(client, schema::STEPS).await
            })
    }

    fn sql(&mut self) -> String {
        schema::for_people()
    }

    fn push(
        &mut self,
        facts: &[Fact],
        states: &[State],
        deadline: Deadline,
    ) -> Result<u64, StoreError> {
        self.connection.run(deadline, async |session| {
            facts::push(&mut session.client, facts, states).await
        })
    }

    fn pull(
        &mut self,
        after: &Cursor,
        scope: &Scope,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Page, StoreError> {
        self.connection.run(deadline, async |session| {
            facts::pull(session, after, scope, limit).await
        })
    }

    fn digests(&mut self, scope: &Scope, deadline: Deadline) -> Result<Vec<FactId>, StoreError> {
        self.connection.run(deadline, async |session| {
            facts::digests(&session.client, scope).await
        })
    }

    fn ids(
        &mut self,
        scope: &Scope,
        buckets: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<FactId>, StoreError> {
        self.connection.run(deadline, async |session| {
            facts::ids(&session.client, scope, buckets).await
        })
    }

    fn fetch(&mut self, ids: &[FactId], deadline: Deadline) -> Result<Vec<Fact>, StoreError> {
        self.connection.run(deadline, async |session| {
            facts::fetch(&session.client, ids).await
        })
    }

    fn ask(
        &mut self,
        domain: DomainUuid,
        deadline: Deadline,
    ) -> Result<(Vec<Fact>, Vec<State>), StoreError> {
        self.connection.run(deadline, async |session| {
            look_up::ask(&session.client, domain).await
        })
    }

    fn search(&mut self, search: &Search, deadline: Deadline) -> Result<Vec<Fact>, StoreError> {
        self.connection.run(deadline, async |session| {
            look_up::search(&session.client, search).await
        })
    }

    fn newest(&mut self, kind: Kind, deadline: Deadline) -> Result<Vec<Fact>, StoreError> {
        self.connection.run(deadline, async |session| {
            look_up::newest(&session.client, kind).await
        })
    }

    fn states(
        &mut self,
        domain: Option<DomainUuid>,
        limit: u32,
        deadline: Deadline,
    ) -> Result<Vec<State>, StoreError> {
        self.connection.run(deadline, async |session| {
            look_up::states(&session.client, domain, limit).await
        })
    }

    fn state(&mut self, id: FactId, deadline: Deadline) -> Result<Option<State>, StoreError> {
        self.connection.run(deadline, async |session| {
            look_up::state(&session.client, id).await
        })
    }
}
