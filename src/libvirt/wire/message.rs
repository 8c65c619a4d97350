//! The messages of libvirt's RPC (`src/rpc/virnetprotocol.x`, `src/remote/remote_protocol.x`): numbers that
//! libvirt never changes.

use zeroize::Zeroizing;

use super::xdr::{Field, Reader};
use crate::libvirt::call_error::CallError;

/// The length of a message's length, which counts itself.
pub(super) const LENGTH_LEN: usize = 4;

/// The longest reply that is read, in bytes. A secret's value has 64 KiB at most, its definition some
/// hundred bytes and a description, which may have megabytes: then the helper is asked.
pub(super) const MAX_REPLY: usize = 256 << 10;

/// `virNetMessageHeader`: six numbers.
const HEADER_LEN: usize = 24;

/// `REMOTE_PROGRAM`, `REMOTE_PROTOCOL_VERSION`.
const PROGRAM: u32 = 0x2000_8086;
const VERSION: u32 = 1;

/// `virNetMessageType`
const CALL: u32 = 0;
const REPLY: u32 = 1;
const MESSAGE: u32 = 2;

/// `virNetMessageStatus`
const OK: u32 = 0;
const ERROR: u32 = 1;

/// `remote_procedure`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Procedure {
    ConnectOpen = 1,
    ConnectClose = 2,
    AuthList = 66,
    SecretLookupByUuid = 141,
    SecretDefineXml = 142,
    SecretGetXmlDesc = 143,
    SecretSetValue = 144,
    SecretGetValue = 145,
    SecretUndefine = 146,
    SecretLookupByUsage = 147,
}

/// Returns a call, in a buffer that is wiped and never grew. `None`: it is too long.
pub(super) fn call(
    procedure: Procedure,
    serial: u32,
    arguments: &[Field<'_>],
) -> Option<Zeroizing<Vec<u8>>> {
    let arguments_len: usize = arguments.iter().map(Field::len).sum();
    let length = LENGTH_LEN + HEADER_LEN + arguments_len;
    let mut message = Zeroizing::new(Vec::with_capacity(length));
    let announced = u32::try_from(length).ok()?;
    for number in [
        announced,
        PROGRAM,
        VERSION,
        procedure as u32,
        CALL,
        serial,
        OK,
    ] {
        Field::Number(number).write(&mut message)?;
    }
    for argument in arguments {
        argument.write(&mut message)?;
    }
    Some(message)
}

/// Returns how many bytes follow a message's length; `None` if none that could be read.
pub(super) fn rest_of(length: [u8; LENGTH_LEN]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    let rest = length.checked_sub(LENGTH_LEN)?;
    (HEADER_LEN..=MAX_REPLY).contains(&rest).then_some(rest)
}

/// A message from the daemon.
pub(super) enum Received<'a> {
    /// The reply to a call: its results, or why it was refused.
    Reply(Result<Reader<'a>, CallError>),
    /// An event, or a sign that the daemon lives: nobody has asked for it.
    Unasked,
}

/// Reads what follows a message's length. `None`: it is not a message, or the reply to another call.
pub(super) fn received(message: &[u8], procedure: Procedure, serial: u32) -> Option<Received<'_>> {
    let mut reader = Reader::new(message);
    let mut header = [0; 6];
    for number in &mut header {
        *number = reader.number()?;
    }
    let [program, version, its_procedure, kind, its_serial, status] = header;
    if (kind, its_serial, status) == (MESSAGE, 0, OK) {
        return Some(Received::Unasked);
    }
    let expected = (PROGRAM, VERSION, procedure as u32, REPLY, serial);
    if (program, version, its_procedure, kind, its_serial) != expected {
        return None;
    }
    match status {
        OK => Some(Received::Reply(Ok(reader))),
        ERROR => Some(Received::Reply(Err(error(reader)?))),
        _ => None,
    }
}

/// `virNetMessageError`. What follows the message is not for people.
fn error(mut reader: Reader<'_>) -> Option<CallError> {
    Some(CallError {
        code: reader.number()?,
        domain: reader.number()?,
        message: reader.text_or("Unknown error")?.to_owned(),
    })
}
