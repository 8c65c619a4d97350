//! The API of Vault and OpenBao: JSON over HTTP, with a token.

use serde::Serialize;
use vtpm_guard::plugin::{Deadline, PluginError, Trouble, Zeroizing};

use crate::answer::{self, Success, errors};
use crate::http::{Request, Server};
use crate::login::Login;
use crate::reply::Answer;

/// The longest request, in bytes.
const MAX_REQUEST: usize = 128 << 10;

/// The API, and how to log in to it.
pub(crate) struct Api {
    pub(crate) server: Server,
    namespace: Option<String>,
    login: Login,
}

impl Api {
    pub(crate) fn new(server: Server, namespace: Option<String>, login: Login) -> Self {
        Self {
            server,
            namespace,
            login,
        }
    }

    /// Its version, and until when the token holds, if it answers and takes the credentials.
    pub(crate) fn status(&self, deadline: Deadline) -> Result<String, PluginError> {
        // Of the server, so without the namespace.
        let health = Request {
            method: "GET",
            path: "sys/health?standbyok=true&perfstandbyok=true&sealedcode=200&uninitcode=200",
            fields: &[],
            body: b"",
        };
        let answer = self.server.ask(&health, deadline)?;
        let health = answer::health(&answer, &self.server.address)?;
        if health.sealed {
            return Err(self.error(Trouble::Unreachable, "it is sealed"));
        }
        let answer = self.get("auth/token/lookup-self", deadline)?;
        let until = answer.expire_time()?;
        let until = until.map_or("without an end".to_owned(), |time| format!("until {time}"));
        Ok(format!("version {}, token {until}", health.version))
    }

    pub(crate) fn get(&self, path: &str, deadline: Deadline) -> Result<Success, PluginError> {
        self.with_token("GET", path, b"", deadline)
    }

    pub(crate) fn post(
        &self,
        path: &str,
        request: &impl Serialize,
        deadline: Deadline,
    ) -> Result<Success, PluginError> {
        self.with_token("POST", path, &to_json(request)?, deadline)
    }

    /// Asks without a token: a login.
    pub(crate) fn log_in(
        &self,
        path: &str,
        request: &impl Serialize,
        deadline: Deadline,
    ) -> Result<Zeroizing<String>, PluginError> {
        let answer = self.ask("POST", path, None, &to_json(request)?, deadline)?;
        let of_certificate = |answer: &Answer| errors(&answer.body).contains("certificate");
        match answer.status {
            200 => self.success(answer).token(),
            // Whatever a login does not like, it is the credentials. A certificate that cannot be verified is
            // an error of the server to OpenBao.
            400 | 403 => Err(self.refused(Trouble::Credentials, &answer, path)),
            500 if of_certificate(&answer) => {
                Err(self.refused(Trouble::Credentials, &answer, path))
            }
            _ => Err(self.failed(&answer, path)),
        }
    }

    fn with_token(
        &self,
        method: &str,
        path: &str,
        body: &[u8],
        deadline: Deadline,
    ) -> Result<Success, PluginError> {
        let token = self.login.token(self, deadline)?;
        let answer = self.ask(method, path, Some(&token), body, deadline)?;
        match answer.status {
            200 | 204 => Ok(self.success(answer)),
            403 => {
                let trouble = self.why_denied(&token, deadline)?;
                Err(self.refused(trouble, &answer, path))
            }
            _ => Err(self.failed(&answer, path)),
        }
    }

    /// The same status says that a token holds no more, and that a policy does not let it do this.
    fn why_denied(&self, token: &str, deadline: Deadline) -> Result<Trouble, PluginError> {
        let answer = self.ask("GET", "auth/token/lookup-self", Some(token), b"", deadline)?;
        Ok(match answer.status {
            200 => Trouble::Denied,
            _ => Trouble::Credentials,
        })
    }

    fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
        deadline: Deadline,
    ) -> Result<Answer, PluginError> {
        let mut fields = vec![("X-Vault-Request", "true")];
        fields.extend(
            self.namespace
                .as_deref()
                .map(|name| ("X-Vault-Namespace", name)),
        );
        fields.extend(token.map(|token| ("X-Vault-Token", token)));
        let request = Request {
            method,
            path,
            fields: &fields,
            body,
        };
        self.server.ask(&request, deadline)
    }

    fn success(&self, answer: Answer) -> Success {
        Success::new(answer, &self.server.address)
    }

    fn failed(&self, answer: &Answer, path: &str) -> PluginError {
        self.refused(answer::trouble(answer), answer, path)
    }

    fn refused(&self, trouble: Trouble, answer: &Answer, path: &str) -> PluginError {
        let said = errors(&answer.body);
        let said = if said.is_empty() {
            format!("status {}", answer.status)
        } else {
            said
        };
        self.error(trouble, &format!("{path}: {said}"))
    }

    fn error(&self, trouble: Trouble, reason: &str) -> PluginError {
        PluginError::new(trouble, format!("{}: {reason}", self.server.address))
    }
}

/// In a buffer that does not grow, so that no copy of a key is left.
fn to_json(request: &impl Serialize) -> Result<Zeroizing<Vec<u8>>, PluginError> {
    let mut json = Zeroizing::new(vec![0; MAX_REQUEST]);
    let mut rest = &mut json[..];
    serde_json::to_writer(&mut rest, request)
        .map_err(|error| PluginError::new(Trouble::Failed, error.to_string()))?;
    let left = rest.len();
    json.truncate(MAX_REQUEST - left);
    Ok(json)
}
