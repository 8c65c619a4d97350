//! The calls of libvirt's secret driver, as messages.

use std::cell::RefCell;

use zeroize::Zeroizing;

use super::connection::{Connection, Reply, Trouble};
use super::message::Procedure;
use super::xdr::{Field, Reader};
use crate::clock::Deadline;
use crate::ids::SecretUuid;
use crate::key::dek::Dek;
use crate::libvirt::call_error::{CallError, found};
use crate::libvirt::secret_driver::{SecretDriver, Usage};

/// The flags of a call.
const NONE: Field<'_> = Field::Number(0);

/// The secret driver at the other end of a connection. After the first trouble it is asked nothing more:
/// every call fails.
pub(super) struct WireDriver<'a> {
    connection: RefCell<&'a mut Connection>,
    deadline: Deadline,
    trouble: RefCell<Option<Trouble>>,
}

/// `remote_nonnull_secret`
pub(super) struct WireSecret {
    uuid: SecretUuid,
    usage: Usage,
}

impl<'a> WireDriver<'a> {
    pub(super) fn new(connection: &'a mut Connection, deadline: Deadline) -> Self {
        Self {
            connection: RefCell::new(connection),
            deadline,
            trouble: RefCell::default(),
        }
    }

    /// Returns what went wrong. Then the errors of the calls mean nothing.
    pub(super) fn into_trouble(self) -> Option<Trouble> {
        self.trouble.into_inner()
    }

    /// Calls a procedure, and reads all of its results.
    fn call<T>(
        &self,
        procedure: Procedure,
        arguments: &[Field<'_>],
        read: impl FnOnce(&mut Reader<'_>) -> Option<T>,
    ) -> Result<T, CallError> {
        if self.trouble.borrow().is_some() {
            return Err(CallError::not_connected());
        }
        let mut connection = self.connection.borrow_mut();
        let trouble = match connection.call(procedure, arguments, self.deadline) {
            Ok(Reply::Results(results)) => {
                let mut reader = results.reader();
                match read(&mut reader).zip(reader.end()) {
                    Some((results, ())) => return Ok(results),
                    None => Trouble::NotUnderstood("the results are not those of the call"),
                }
            }
            // Not of the secret driver.
            Ok(Reply::Refusal(error)) if error.is_of_connection() => Trouble::Told(error.words()),
            Ok(Reply::Refusal(error)) => return Err(error),
            Err(trouble) => trouble,
        };
        connection.leave();
        self.trouble.replace(Some(trouble));
        Err(CallError::not_connected())
    }
}

impl SecretDriver for WireDriver<'_> {
    type Secret = WireSecret;

    fn look_up(&self, uuid: SecretUuid) -> Result<WireSecret, CallError> {
        let arguments = [Field::Uuid(uuid.as_bytes())];
        self.call(Procedure::SecretLookupByUuid, &arguments, |results| {
            secret(results).filter(|found| found.uuid == uuid)
        })
    }

    fn usage(&self, secret: &WireSecret) -> Result<Usage, CallError> {
        Ok(secret.usage.clone())
    }

    fn holder(&self, usage: &Usage) -> Result<SecretUuid, CallError> {
        let arguments = [Field::Number(usage.kind), Field::Bytes(usage.id.as_bytes())];
        self.call(Procedure::SecretLookupByUsage, &arguments, |results| {
            secret(results).map(|found| found.uuid)
        })
    }

    fn define(&self, uuid: SecretUuid, xml: &str) -> Result<WireSecret, CallError> {
        let arguments = [Field::Bytes(xml.as_bytes()), NONE];
        self.call(Procedure::SecretDefineXml, &arguments, |results| {
            secret(results).filter(|defined| defined.uuid == uuid)
        })
    }

    fn set_value(&self, secret: &WireSecret, value: &[u8]) -> Result<(), CallError> {
        let [uuid, kind, id] = fields(secret);
        let arguments = [uuid, kind, id, Field::Bytes(value), NONE];
        self.call(Procedure::SecretSetValue, &arguments, nothing)
    }

    fn undefine(&self, secret: &WireSecret) -> Result<(), CallError> {
        self.call(Procedure::SecretUndefine, &fields(secret), nothing)
    }

    fn definition(&self, secret: &WireSecret) -> Result<String, CallError> {
        let [uuid, kind, id] = fields(secret);
        let arguments = [uuid, kind, id, NONE];
        self.call(Procedure::SecretGetXmlDesc, &arguments, definition)
    }

    fn value(&self, secret: &WireSecret) -> Result<Option<Zeroizing<Vec<u8>>>, CallError> {
        let [uuid, kind, id] = fields(secret);
        let arguments = [uuid, kind, id, NONE];
        found(self.call(Procedure::SecretGetValue, &arguments, value))
    }
}

fn fields(secret: &WireSecret) -> [Field<'_>; 3] {
    [
        Field::Uuid(secret.uuid.as_bytes()),
        Field::Number(secret.usage.kind),
        Field::Bytes(secret.usage.id.as_bytes()),
    ]
}

fn secret(results: &mut Reader<'_>) -> Option<WireSecret> {
    Some(WireSecret {
        uuid: SecretUuid::from_bytes(results.uuid()?),
        usage: Usage {
            kind: results.number()?,
            id: results.text()?.to_owned(),
        },
    })
}

fn definition(results: &mut Reader<'_>) -> Option<String> {
    results.text().map(str::to_owned)
}

fn value(results: &mut Reader<'_>) -> Option<Zeroizing<Vec<u8>>> {
    let value = results.bytes()?;
    (value.len() <= Dek::MAX_LEN).then(|| Zeroizing::new(value.to_vec()))
}

#[allow(clippy::unnecessary_wraps, reason = "as the others of its kind")]
fn nothing(_results: &mut Reader<'_>) -> Option<()> {
    Some(())
}
