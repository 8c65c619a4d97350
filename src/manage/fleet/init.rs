//! `fleet init`: the schema of a shared store, made or brought up to date by its owner.

use serde::Serialize;

use super::connection::{FleetCommandError, connect, connect_to};
use crate::config::{Config, StoreAddress};
use crate::fleet::Client;
use crate::manage::host::{Host, default_deadline};

/// What `fleet init` did.
#[derive(Debug, Serialize)]
pub(crate) struct Initialized {
    /// What the server says of itself.
    pub(crate) server: String,
    /// The version of the schema that was there; 0: none.
    pub(crate) schema_before: u32,
    /// The version that is there now.
    pub(crate) schema: u32,
    /// The statements that make the roles of hosts, for the administrator.
    pub(crate) sql: String,
}

/// Makes the schema at this address, or at that of the configuration.
pub(crate) fn init(host: &Host, address: Option<&str>) -> Result<Initialized, FleetCommandError> {
    let mut client = client(&host.config()?, address)?;
    let done = client.init(default_deadline())?;
    Ok(Initialized {
        server: client.status(default_deadline())?.server,
        schema_before: done.before,
        schema: done.schema,
        sql: client.sql(default_deadline())?,
    })
}

/// The statements that would be run. Nobody is asked.
pub(crate) fn sql(host: &Host, address: Option<&str>) -> Result<String, FleetCommandError> {
    let mut client = client(&host.config()?, address)?;
    Ok(client.sql(default_deadline())?)
}

fn client(config: &Config, address: Option<&str>) -> Result<Client, FleetCommandError> {
    match address {
        None => connect(config),
        Some(text) => {
            let bad = || FleetCommandError::BadAddress(text.to_owned());
            connect_to(config, &StoreAddress::parse(text).ok_or_else(bad)?)
        }
    }
}
