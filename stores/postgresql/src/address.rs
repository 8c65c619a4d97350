//! Where the database is: `postgresql://[USER@]HOST[:PORT][,HOST[:PORT]...]/DATABASE[?sslmode=verify-full]`.

use std::fs;
use std::net::IpAddr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, TargetSessionAttrs};

/// What may stand after the question mark, beside `sslmode`.
const PARAMETERS: [&str; 3] = ["application_name", "host", "target_session_attrs"];

/// What the kernel calls this host, as `uname -n` does.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// One server after the other, as they stand in the address.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    servers: Vec<Server>,
}

/// One of the servers.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// What [`Config::connect`] needs to connect to it alone.
    pub(crate) config: Config,
    /// Whether it must show a certificate for its name. Where it need not, nobody else can listen.
    pub(crate) is_verified: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Reads an address. An error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (rest, sslmode) = take_parameters(text)?;
        // Not what it says: it may quote a password.
        let config: Config = rest.parse().map_err(|_| {
            "it must be like postgresql://db1.example.com,db2.example.com/vtpm_guard".to_owned()
        })?;
        if config.get_password().is_some() {
            return Err(
                "the address has a password in it: put it into a file, and name that in \
                        fleet.password_file"
                    .to_owned(),
            );
        }
        if config.get_dbname().is_none() {
            return Err("the address names no database".to_owned());
        }
        let is_off = match sslmode.as_deref() {
            None | Some("verify-full") => false,
            Some("disable") => true,
            Some(other) => {
                return Err(format!(
                    "sslmode \"{other}\" does not verify who answers; it must be verify-full"
                ));
            }
        };
        let user = match config.get_user() {
            Some(user) => user.to_owned(),
            None => own_name()?,
        };
        let ports = config.get_ports();
        let servers = config.get_hosts().iter().enumerate().map(|(index, host)| {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            let (name, is_local) = match host {
                Host::Tcp(name) => (name.clone(), is_loopback(name)),
                Host::Unix(directory) => (directory.display().to_string(), true),
            };
            let is_unix = matches!(host, Host::Unix(_));
            if is_off && !is_local {
                return Err(format!(
                    "sslmode=disable is for Unix sockets and loopback; {name} is neither"
                ));
            }
            let mut alone = Config::new();
            alone
                .host(&name)
                .port(port)
                .user(&user)
                .dbname(config.get_dbname().unwrap_or_default())
                .application_name(config.get_application_name().unwrap_or("vtpm-guard"))
                .target_session_attrs(TargetSessionAttrs::ReadWrite);
            Ok(Server {
                config: alone,
                is_verified: !(is_unix || is_off),
                host: name,
                port,
            })
        });
        let servers = servers.collect::<Result<Vec<_>, _>>()?;
        if servers.is_empty() {
            return Err("the address names no host".to_owned());
        }
        Ok(Self { servers })
    }

    /// The servers, in their order.
    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }
}

/// Takes `sslmode` out, whose values the library does not know, and refuses what would have no effect or a wrong one.
fn take_parameters(text: &str) -> Result<(String, Option<String>), String> {
    let Some((rest, query)) = text.split_once('?') else {
        return Ok((text.to_owned(), None));
    };
    let (mut kept, mut sslmode) = (Vec::new(), None);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=').unwrap_or((parameter, "")) {
            ("sslmode", value) => sslmode = Some(value.to_owned()),
            ("target_session_attrs", "read-write") => {}
            ("target_session_attrs", _) => {
                return Err("target_session_attrs must be read-write: hosts store facts".to_owned());
            }
            (name, _) if PARAMETERS.contains(&name) => kept.push(parameter),
            ("password", _) => {
                return Err(
                    "the address has a password in it: put it into a file, and name \
                            that in fleet.password_file"
                        .to_owned(),
                );
            }
            (name, _) => return Err(format!("the address has an unknown parameter \"{name}\"")),
        }
    }
    Ok((format!("{rest}?{}", kept.join("&")), sslmode))
}

fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

/// The name of this host, which is the role where the address names none.
fn own_name() -> Result<String, String> {
    let name = fs::read_to_string(HOST_NAME).unwrap_or_default();
    Some(name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .ok_or_else(|| "the address names no user, and this host has no name".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<(String, u16, bool)> {
        let address = Address::parse(text).unwrap();
        let servers = address.servers().iter();
        servers
            .map(|server| (server.host.clone(), server.port, server.is_verified))
            .collect()
    }

    #[test]
    fn hosts_are_verified_unless_nobody_else_can_answer() {
        for (text, expected) in [
            (
                "postgresql://db1,db2:6432/f",
                vec![("db1", 5432, true), ("db2", 6432, true)],
            ),
            (
                "postgresql://host1@db1/f?sslmode=verify-full&target_session_attrs=read-write",
                vec![("db1", 5432, true)],
            ),
            ("postgresql://127.0.0.1/f", vec![("127.0.0.1", 5432, true)]),
            (
                "postgresql://127.0.0.1:1,[::1]:2/f?sslmode=disable",
                vec![("127.0.0.1", 1, false), ("::1", 2, false)],
            ),
            (
                "postgresql:///f?host=/run/postgresql",
                vec![("/run/postgresql", 5432, false)],
            ),
            (
                "postgresql://%2Frun%2Fpostgresql:5433/f",
                vec![("/run/postgresql", 5433, false)],
            ),
        ] {
            let expected: Vec<_> = expected
                .into_iter()
                .map(|(host, port, verified)| (host.to_owned(), port, verified))
                .collect();
            assert_eq!(servers(text), expected, "{text}");
        }
    }

    #[test]
    fn what_would_not_be_safe_or_have_no_effect_is_an_error() {
        for (text, reason) in [
            (
                "postgresql://db1/f?sslmode=require",
                "does not verify who answers",
            ),
            (
                "postgresql://db1/f?sslmode=prefer",
                "does not verify who answers",
            ),
            ("postgresql://db1/f?sslmode=disable", "db1 is neither"),
            (
                "postgresql://127.0.0.1,db1/f?sslmode=disable",
                "db1 is neither",
            ),
            (
                "postgresql://localhost/f?sslmode=disable",
                "localhost is neither",
            ),
            ("postgresql://u:secret@db1/f", "has a password in it"),
            ("postgresql://db1/f?password=secret", "has a password in it"),
            (
                "postgresql://db1/f?target_session_attrs=any",
                "must be read-write",
            ),
            (
                "postgresql://db1/f?sslrootcert=/ca.pem",
                "unknown parameter \"sslrootcert\"",
            ),
            ("postgresql://db1", "names no database"),
            ("postgresql:///f", "names no host"),
            ("postgresql://db1:x/f", "it must be like"),
            ("mysql://db1/f", "it must be like"),
        ] {
            let error = Address::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn without_a_user_the_role_is_this_hosts_name() {
        let address = Address::parse("postgresql://db1/f").unwrap();
        let user = address.servers()[0].config.get_user().unwrap();
        assert_eq!(Some(user), own_name().ok().as_deref());
        assert!(!user.is_empty() && !user.contains('\n'), "{user}");
    }
}
