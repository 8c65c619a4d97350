//! What went wrong between this host and the database, in plain words.

use std::error::Error as _;
use std::io;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use vtpm_guard::store_program::{StoreError, Trouble};
use vtpm_guard_kms_tls::{Address, Identity, plugin_error};

use crate::address::Server;

/// How the library begins an error about what it was given.
const CONFIGURATION: &str = "invalid configuration";

/// The name of a server in an error.
pub(crate) fn place(server: &Server) -> String {
    match &server.host {
        socket if socket.starts_with('/') => format!("{socket}/.s.PGSQL.{}", server.port),
        address if address.contains(':') => format!("[{address}]:{}", server.port),
        name => format!("{name}:{}", server.port),
    }
}

/// Why a connection was not made.
pub(crate) fn of_connection(error: &Error, server: &Server, identity: &Identity) -> StoreError {
    let place = place(server);
    if error.as_db_error().is_some() {
        return of_statement(error).at(place);
    }
    // TLS has words of its own, which name the address already.
    let tls = Address::parse(&place, server.port);
    if let (Some(address), Some(error)) = (tls, io_error(error)) {
        return plugin_error(&address, identity, error).into();
    }
    // Such as that a password is wanted, and there is none.
    let trouble = match error.to_string().starts_with(CONFIGURATION) {
        true => Trouble::Credentials,
        false => Trouble::Unreachable,
    };
    StoreError::new(trouble, with_reason(error)).at(place)
}

/// Why a statement failed.
pub(crate) fn of_statement(error: &Error) -> StoreError {
    let Some(told) = error.as_db_error() else {
        // The connection ended, or what came was no answer.
        return StoreError::new(Trouble::Unreachable, with_reason(error));
    };
    let trouble = match told.code() {
        code if code.code().starts_with("28") => Trouble::Credentials,
        &SqlState::INSUFFICIENT_PRIVILEGE => Trouble::Denied,
        &SqlState::INVALID_CATALOG_NAME => Trouble::Settings,
        &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME => Trouble::NoSchema,
        &SqlState::QUERY_CANCELED
        | &SqlState::READ_ONLY_SQL_TRANSACTION
        | &SqlState::TOO_MANY_CONNECTIONS => Trouble::Unreachable,
        // The server is starting, ending, or has lost its disk: another one may do.
        code if ["08", "57P"]
            .iter()
            .any(|class| code.code().starts_with(class)) =>
        {
            Trouble::Unreachable
        }
        _ => Trouble::Failed,
    };
    let message = match told.code() {
        &SqlState::QUERY_CANCELED => "the database did not answer in time".to_owned(),
        _ => format!("{} (SQLSTATE {})", told.message(), told.code().code()),
    };
    StoreError::new(trouble, message)
}

/// What came is not what this program has stored.
pub(crate) fn nonsense(reason: impl std::fmt::Display) -> StoreError {
    StoreError::new(
        Trouble::Failed,
        format!("a row of the database is wrong: {reason}"),
    )
}

/// The error of the connection below, or of TLS.
fn io_error(error: &Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(found) = inner.downcast_ref::<io::Error>() {
            return Some(found);
        }
        source = inner.source();
    }
    None
}

fn with_reason(error: &Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
