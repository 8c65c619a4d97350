//! The daemon's end of the protocol, for tests: its messages, and a fake libvirt that listens on libvirtd's socket.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::shutdown;
use zeroize::Zeroizing;

use super::message::Procedure;
use super::xdr::{Field, Reader};
use crate::ids::SecretUuid;
use crate::libvirt::fake::FakeLibvirt;
use crate::libvirt::secret::{Purpose, SecretDefinition, SecretError};
use crate::libvirt::secret_driver::{USAGE_NONE, USAGE_VTPM};

/// `VIR_FROM_SECRET`, and the errors of libvirt's `src/secret/secret_driver.c`.
const FROM_SECRET: u32 = 30;
const INTERNAL_ERROR: u32 = 1;
const INVALID_SECRET: u32 = 65;
const NO_SECRET: u32 = 66;

/// `VIR_SECRET_USAGE_TYPE_CEPH`: any that is not one for vTPMs.
const USAGE_OTHER: u32 = 2;

/// A call that a daemon got: its procedure, its serial number, its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) procedure: u32,
    pub(super) serial: u32,
    pub(super) arguments: Vec<u8>,
}

/// Reads a call; `None` where the client is gone, also within one.
pub(super) fn receive(client: &mut UnixStream) -> Option<Call> {
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    let mut message = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap() - 4];
    client.read_exact(&mut message).ok()?;
    let number = |index: usize| u32::from_be_bytes(message[index * 4..][..4].try_into().unwrap());
    assert_eq!((number(0), number(1)), (0x2000_8086, 1));
    assert_eq!((number(3), number(5)), (0, 0), "a call");
    Some(Call {
        procedure: number(2),
        serial: number(4),
        arguments: message[24..].to_vec(),
    })
}

/// A message with these six numbers as its header.
pub(super) fn message(header: [u32; 6], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(28 + payload.len()).unwrap();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(header.iter().flat_map(|number| number.to_be_bytes()));
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn reply(call: &Call, payload: &[u8]) -> Vec<u8> {
    message([0x2000_8086, 1, call.procedure, 1, call.serial, 0], payload)
}

pub(super) fn refusal(call: &Call, code: u32, domain: u32, words: &str) -> Vec<u8> {
    let mut payload = [code, domain, 1].map(u32::to_be_bytes).concat();
    payload.extend(string(words));
    payload.extend([2_u32, 0, 0, 0, 0, 0, 0, 0].map(u32::to_be_bytes).concat());
    message(
        [0x2000_8086, 1, call.procedure, 1, call.serial, 1],
        &payload,
    )
}

pub(super) fn string(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// How long what clients have begun may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A fake libvirt that answers on libvirtd's socket until this is dropped, each client on a thread of its own.
pub(crate) struct FakeDaemon {
    socket: PathBuf,
    listener: UnixListener,
    shared: Arc<Shared>,
    accepts: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    calls: AtomicUsize,
    clients: Mutex<usize>,
    a_client_is_gone: Condvar,
    /// A client has called what no hook calls.
    has_panicked: AtomicBool,
}

impl FakeLibvirt {
    /// Listens on the socket of its libvirtd.
    pub(crate) fn listen(&self) -> FakeDaemon {
        let socket = self.dirs().socket("libvirt");
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let shared = Arc::<Shared>::default();
        let (libvirt, its) = (self.clone(), Arc::clone(&shared));
        let accepting = listener.try_clone().unwrap();
        let accepts = thread::spawn(move || {
            for client in accepting.incoming() {
                if its.is_over.load(Ordering::SeqCst) {
                    return;
                }
                *its.clients.lock().unwrap() += 1;
                let (libvirt, client) =
                    (libvirt.clone(), Client(client.unwrap(), Arc::clone(&its)));
                thread::spawn(move || client.serve(&libvirt));
            }
        });
        FakeDaemon {
            socket,
            listener,
            shared,
            accepts: Some(accepts),
        }
    }
}

impl FakeDaemon {
    /// How many calls about secrets it has answered.
    pub(crate) fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::SeqCst)
    }

    /// Waits until all is done that clients have sent, also of those that were killed. Returns whether each call was
    /// one that a daemon has.
    pub(crate) fn settle(&self) -> bool {
        // Connections are accepted in their order: whoever came before is a client by now.
        let mut last = UnixStream::connect(&self.socket).unwrap();
        last.shutdown(Shutdown::Write).unwrap();
        last.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(last.read(&mut [0]).unwrap(), 0);
        let clients = self.shared.clients.lock().unwrap();
        let is_busy = |clients: &mut usize| *clients > 0;
        let gone = &self.shared.a_client_is_gone;
        let (_clients, waited) = gone.wait_timeout_while(clients, PATIENCE, is_busy).unwrap();
        assert!(!waited.timed_out(), "a client does not end");
        !self.shared.has_panicked.load(Ordering::SeqCst)
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // What waits for a client is woken, also where the socket has no name any more.
        let _ = shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        let _ = self.accepts.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.socket);
    }
}

/// A client, counted as long as it is served.
struct Client(UnixStream, Arc<Shared>);

impl Client {
    fn serve(mut self, libvirt: &FakeLibvirt) {
        while let Some(call) = receive(&mut self.0) {
            let answer = answer(libvirt, &call);
            if call.procedure >= Procedure::SecretLookupByUuid as u32 {
                self.1.calls.fetch_add(1, Ordering::SeqCst);
            }
            if self.0.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if thread::panicking() {
            self.1.has_panicked.store(true, Ordering::SeqCst);
        }
        *self.1.clients.lock().unwrap() -= 1;
        self.1.a_client_is_gone.notify_all();
    }
}

fn answer(libvirt: &FakeLibvirt, call: &Call) -> Vec<u8> {
    match results(libvirt, call.procedure, Reader::new(&call.arguments)) {
        Ok(results) => reply(call, &results),
        Err((code, words)) => refusal(call, code, FROM_SECRET, &words),
    }
}

type Results = Result<Zeroizing<Vec<u8>>, (u32, String)>;

/// What libvirt answers, by the rules of its secret driver.
fn results(libvirt: &FakeLibvirt, procedure: u32, mut arguments: Reader<'_>) -> Results {
    const AUTH_LIST: u32 = Procedure::AuthList as u32;
    const OPEN: u32 = Procedure::ConnectOpen as u32;
    const CLOSE: u32 = Procedure::ConnectClose as u32;
    const LOOK_UP: u32 = Procedure::SecretLookupByUuid as u32;
    const HOLDER: u32 = Procedure::SecretLookupByUsage as u32;
    const DEFINE: u32 = Procedure::SecretDefineXml as u32;
    const XML: u32 = Procedure::SecretGetXmlDesc as u32;
    const SET: u32 = Procedure::SecretSetValue as u32;
    const VALUE: u32 = Procedure::SecretGetValue as u32;
    const UNDEFINE: u32 = Procedure::SecretUndefine as u32;
    let secrets = &libvirt.secrets;
    match procedure {
        // One way to authenticate: none.
        AUTH_LIST => Ok(written(&[Field::Number(1), Field::Number(0)])),
        OPEN | CLOSE => Ok(written(&[])),
        LOOK_UP => {
            let uuid = SecretUuid::from_bytes(arguments.uuid().unwrap());
            Ok(named(uuid, &defined(libvirt, uuid)?))
        }
        HOLDER => {
            let (kind, id) = (arguments.number().unwrap(), arguments.text().unwrap());
            let has_it = |uuid: &SecretUuid| {
                let found = secrets.definition(*uuid);
                found.is_some_and(|it| (kind_of(it.purpose), &*it.usage) == (kind, id))
            };
            let found = secrets.all().into_iter().find(has_it);
            let uuid = found.ok_or_else(|| absent("no secret with matching usage"))?;
            Ok(named(uuid, &defined(libvirt, uuid)?))
        }
        DEFINE => {
            let uuid = secrets
                .define(arguments.text().unwrap())
                .map_err(|error| refused(&error))?;
            Ok(named(uuid, &defined(libvirt, uuid)?))
        }
        XML => {
            let uuid = secret(&mut arguments);
            defined(libvirt, uuid)?;
            Ok(written(&[Field::Bytes(
                secrets.xml(uuid).unwrap().as_bytes(),
            )]))
        }
        SET => {
            let uuid = secret(&mut arguments);
            defined(libvirt, uuid)?;
            secrets
                .set_value(uuid, arguments.bytes().unwrap())
                .map_err(|error| refused(&error))?;
            Ok(written(&[]))
        }
        VALUE => {
            let uuid = secret(&mut arguments);
            if defined(libvirt, uuid)?.is_private {
                return Err((INVALID_SECRET, "secret is private".to_owned()));
            }
            let value = secrets
                .value(uuid)
                .ok_or_else(|| absent("it does not have a value"))?;
            Ok(written(&[Field::Bytes(&value)]))
        }
        UNDEFINE => {
            let uuid = secret(&mut arguments);
            defined(libvirt, uuid)?;
            secrets.undefine(uuid);
            Ok(written(&[]))
        }
        other => panic!("procedure {other}"),
    }
}

fn written(fields: &[Field<'_>]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::new());
    for field in fields {
        field.write(&mut bytes).unwrap();
    }
    bytes
}

/// `remote_nonnull_secret`
fn secret(arguments: &mut Reader<'_>) -> SecretUuid {
    let uuid = SecretUuid::from_bytes(arguments.uuid().unwrap());
    arguments.number().zip(arguments.text()).unwrap();
    uuid
}

fn named(uuid: SecretUuid, definition: &SecretDefinition) -> Zeroizing<Vec<u8>> {
    let kind = Field::Number(kind_of(definition.purpose));
    let usage = Field::Bytes(definition.usage.as_bytes());
    written(&[Field::Uuid(uuid.as_bytes()), kind, usage])
}

fn kind_of(purpose: Purpose) -> u32 {
    match purpose {
        Purpose::Vtpm => USAGE_VTPM,
        Purpose::Anything => USAGE_NONE,
        Purpose::Other => USAGE_OTHER,
    }
}

fn defined(libvirt: &FakeLibvirt, uuid: SecretUuid) -> Result<SecretDefinition, (u32, String)> {
    let found = libvirt.secrets.definition(uuid);
    found.ok_or_else(|| absent("no secret with matching uuid"))
}

fn absent(words: &str) -> (u32, String) {
    (NO_SECRET, words.to_owned())
}

fn refused(error: &SecretError) -> (u32, String) {
    (INTERNAL_ERROR, error.to_string())
}
