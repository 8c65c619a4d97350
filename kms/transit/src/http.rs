//! One request over HTTP, and its answer: a connection each, over TLS, into buffers that are wiped.

use std::io::{self, Write};

use vtpm_guard::plugin::{Deadline, PluginError, Trouble, Zeroizing};
use vtpm_guard_kms_tls::{Address, Identity, Stream, plugin_error};

use crate::reply::{Answer, receive};

/// The port of Vault and of OpenBao.
const PORT: u16 = 8200;

/// Where the API is, and how this host shows who it is.
pub(crate) struct Server {
    pub(crate) address: Address,
    pub(crate) identity: Identity,
}

/// A request.
pub(crate) struct Request<'a> {
    pub(crate) method: &'a str,
    /// What follows `/v1/`.
    pub(crate) path: &'a str,
    pub(crate) fields: &'a [(&'a str, &'a str)],
    pub(crate) body: &'a [u8],
}

impl Server {
    /// Reads a URL.
    pub(crate) fn new(url: &str, identity: Identity) -> Result<Self, PluginError> {
        let wrong = || {
            let message =
                format!("address \"{url}\" is no URL such as \"https://kms.example.com:8200\"");
            PluginError::new(Trouble::Settings, message)
        };
        let address = url.strip_prefix("https://").ok_or_else(wrong)?;
        let address = address.strip_suffix('/').unwrap_or(address);
        let address = Address::parse(address, PORT).ok_or_else(wrong)?;
        Ok(Self { address, identity })
    }

    /// Sends a request, and reads the answer to it.
    pub(crate) fn ask(
        &self,
        request: &Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, PluginError> {
        let mut stream = Stream::connect(&self.address, &self.identity, deadline)?;
        let answer = send(&mut stream, &self.address, request).and_then(|()| receive(&mut stream));
        answer.map_err(|error| plugin_error(&self.address, &self.identity, &error))
    }
}

fn send(to: &mut impl Write, address: &Address, request: &Request<'_>) -> io::Result<()> {
    let (address, length) = (address.to_string(), request.body.len().to_string());
    let mut head = vec![request.method, " /v1/", request.path, " HTTP/1.1\r\n"];
    let fields = [
        ("Host", &*address),
        ("Content-Length", &*length),
        ("Connection", "close"),
    ];
    for (name, value) in fields.iter().chain(request.fields) {
        head.extend([name, ": ", value, "\r\n"]);
    }
    head.push("\r\n");
    // Joined in its final size: a buffer that grew would leave copies of a token.
    let head = Zeroizing::new(head.concat());
    to.write_all(head.as_bytes())?;
    to.write_all(request.body)?;
    to.flush()
}
