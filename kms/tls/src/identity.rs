//! Whom a plugin trusts, and with which certificate it shows who it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use vtpm_guard::plugin::{PluginError, Settings, Trouble, read_credentials, read_trusted};

/// Where distributions keep the certificates that a host trusts: Debian; Fedora and RHEL; SUSE.
const HOST_BUNDLES: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
];

/// The settings `ca`, `certificate` and `key`: files in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `None`: the certificates that the host trusts.
    ca: Option<PathBuf>,
    own: Option<Own>,
}

/// A client certificate, with those between it and its authority, and its private key.
#[derive(Debug, Clone)]
struct Own {
    certificate: PathBuf,
    key: PathBuf,
}

impl Identity {
    /// Takes its settings.
    pub fn take(settings: &mut Settings) -> Result<Self, PluginError> {
        let ca = settings.path("ca")?;
        let own = match (settings.path("certificate")?, settings.path("key")?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some(Own { certificate, key }),
            _ => {
                let message = "certificate and key must be there both, or none of them";
                return Err(PluginError::new(Trouble::Settings, message));
            }
        };
        Ok(Self { ca, own })
    }

    /// The file with the client certificate.
    #[must_use]
    pub fn certificate(&self) -> Option<&Path> {
        self.own.as_ref().map(|own| own.certificate.as_path())
    }

    /// The files that are read for each connection.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let ca = self
            .ca
            .clone()
            .or_else(|| host_bundle().map(Path::to_owned));
        let own = self.own.iter().flat_map(|own| [&own.certificate, &own.key]);
        ca.into_iter().chain(own.cloned()).collect()
    }

    /// The authorities that are trusted, in the words of an error.
    pub(crate) fn authorities(&self) -> String {
        self.ca.as_ref().map_or_else(
            || "that this host trusts".to_owned(),
            |ca| format!("in {}", ca.display()),
        )
    }

    /// Reads the files.
    pub fn config(&self) -> Result<ClientConfig, PluginError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| PluginError::new(Trouble::Failed, error.to_string()))?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.own {
            None => builder.with_no_client_auth(),
            Some(Own { certificate, key }) => {
                let read = read_credentials(key)?;
                let private = PrivateKeyDer::from_pem_slice(&read).map_err(|error| {
                    unusable(key, &format!("it is no private key in PEM: {error}"))
                })?;
                let chain = certificates(certificate, &read_trusted(certificate)?)?;
                let mismatch = |error: rustls::Error| {
                    unusable(
                        key,
                        &format!("it does not go with {}: {error}", certificate.display()),
                    )
                };
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(mismatch)?
            }
        };
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn roots(&self) -> Result<RootCertStore, PluginError> {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = &self.ca {
            for certificate in certificates(ca, &read_trusted(ca)?)? {
                let added = roots.add(certificate);
                added.map_err(|error| unusable(ca, &format!("it is no authority: {error}")))?;
            }
            return Ok(roots);
        }
        let none = || {
            let message = "ca is missing, and this host has no certificates that it trusts";
            PluginError::new(Trouble::Settings, message)
        };
        let bundle = host_bundle().ok_or_else(none)?;
        // Hosts have old ones that no library takes.
        roots.add_parsable_certificates(certificates(bundle, &read_trusted(bundle)?)?);
        Ok(roots)
    }
}

/// The certificates that this host trusts.
fn host_bundle() -> Option<&'static Path> {
    let mut bundles = HOST_BUNDLES.into_iter().map(Path::new);
    bundles.find(|path| path.exists())
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PluginError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(unusable(path, "there is no certificate in PEM in it")),
        Err(error) => Err(unusable(
            path,
            &format!("it is no certificate in PEM: {error}"),
        )),
    }
}

fn unusable(path: &Path, why: &str) -> PluginError {
    PluginError::new(Trouble::Credentials, format!("{}: {why}", path.display()))
}
