//! What went wrong on a connection, in plain words.

use std::io::{self, ErrorKind};

use rustls::{AlertDescription, CertificateError, Error};
use vtpm_guard::plugin::{PluginError, Trouble};

use crate::{Address, Identity};

/// The error of a connection to this address, for an administrator.
pub fn plugin_error(address: &Address, identity: &Identity, error: &io::Error) -> PluginError {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref());
    let (trouble, reason) = match (tls, error.kind()) {
        (Some(Error::InvalidCertificate(certificate)), _) => (
            Trouble::Unreachable,
            of_its_certificate(certificate, identity),
        ),
        (Some(Error::AlertReceived(alert)), _) => of_an_alert(*alert, identity),
        (Some(other), _) => (Trouble::Unreachable, format!("TLS: {other}")),
        (None, ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            (Trouble::Unreachable, "no answer in time".to_owned())
        }
        (None, ErrorKind::UnexpectedEof) => (
            Trouble::Unreachable,
            "the connection ended within an answer".to_owned(),
        ),
        (None, _) => (Trouble::Unreachable, error.to_string()),
    };
    PluginError::new(trouble, format!("{address}: {reason}"))
}

fn of_its_certificate(error: &CertificateError, identity: &Identity) -> String {
    match error {
        CertificateError::Expired => "its certificate has expired".to_owned(),
        CertificateError::ExpiredContext { time, not_after } => {
            let hours = time.as_secs().saturating_sub(not_after.as_secs()) / 3600;
            match hours {
                0..48 => format!("its certificate expired {hours} hours ago"),
                _ => format!("its certificate expired {} days ago", hours / 24),
            }
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is this host's clock right?".to_owned()
        }
        CertificateError::UnknownIssuer => {
            let authorities = identity.authorities();
            format!("its certificate is of no authority {authorities}")
        }
        CertificateError::NotValidForName => "its certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            format!("its certificate is for another name: {}", names.join(", "))
        }
        CertificateError::Revoked => "its certificate was revoked".to_owned(),
        other => format!("its certificate cannot be used: {other}"),
    }
}

/// The name in what rustls calls `DnsName("...")` or `IpAddress(...)`.
fn bare(name: &str) -> &str {
    let inside = name
        .split_once('(')
        .map(|(_, rest)| rest.trim_end_matches(')'));
    inside.unwrap_or(name).trim_matches('"')
}

/// What the other side does not like.
fn of_an_alert(alert: AlertDescription, identity: &Identity) -> (Trouble, String) {
    let why = match alert {
        AlertDescription::CertificateRequired => "it wants a client certificate",
        AlertDescription::CertificateExpired => "it has expired",
        AlertDescription::CertificateRevoked => "it was revoked",
        AlertDescription::UnknownCA => "it does not know its authority",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => "it gives no other reason",
        other => {
            let reason = format!("it ended the TLS connection ({other:?})");
            return (Trouble::Unreachable, reason);
        }
    };
    let reason = match identity.certificate() {
        Some(own) => format!("it does not take the certificate {}: {why}", own.display()),
        None => "it wants a client certificate: certificate and key are missing".to_owned(),
    };
    (Trouble::Credentials, reason)
}
