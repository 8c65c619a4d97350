//! The helper's side: it serves requests over one libvirt connection until its stdin ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, raise};
use virt::connect::Connect;
use zeroize::Zeroizing;

use super::{definition, failure, guests, metadata};
use crate::host::frame::read_frame;
use crate::host::sys;
use crate::libvirt::protocol::{MAX_REQUEST, Request, Response, value_frame};
use crate::libvirt::secret::SecretError;
use crate::libvirt::secrets;

/// How long the helper may take to close its connection once its stdin has ended.
const CLOSE_TIME: Duration = Duration::from_millis(500);

/// Reads requests from stdin and writes answers to stdout until stdin ends. The only argument is the
/// libvirt URI to connect to.
pub fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(Ok(uri)), None) = (args.next().map(OsString::into_string), args.next()) else {
        let _ = writeln!(io::stderr(), "usage: vtpm-guard-libvirt URI");
        return ExitCode::from(2);
    };
    match serve(&uri) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(uri: &str) -> io::Result<()> {
    sys::protect_process()?;
    // By default libvirt prints every error on stderr.
    virt::error::clear_error_callback();
    end_with_the_caller()?;

    // Not io::stdin(): its buffer would keep a copy of a key.
    let mut requests = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut responses = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let connection = Connect::open(Some(uri)).map_err(failure::to_connect);
    while let Some(frame) = read_frame(&mut requests, MAX_REQUEST)? {
        let request = Request::parse(&frame).ok_or(ErrorKind::InvalidData)?;
        let mut value = None;
        let response = match &connection {
            Ok(connection) => {
                answer(connection, &request, &mut value).unwrap_or_else(Response::from)
            }
            Err(error) => error.clone().into(),
        };
        for part in response.into_parts() {
            responses.write_all(&part.to_frame()?)?;
        }
        if let Some(value) = value {
            responses.write_all(&value_frame(&value)?)?;
        }
    }
    Ok(())
}

/// Answers one request. `value` gets the value that follows the answer.
fn answer(
    connection: &Connect,
    request: &Request<'_>,
    value: &mut Option<Zeroizing<Vec<u8>>>,
) -> Result<Response, SecretError> {
    match *request {
        Request::Secret(ref request) => secrets::answer(connection, request, value),
        Request::EncryptVtpm { domain, secret } => {
            definition::encrypt_vtpm(connection, domain, secret)
        }
        Request::PersistVtpmState(domain) => definition::persist_vtpm_state(connection, domain),
        Request::Metadata(domain) => metadata::get(connection, domain),
        Request::SetMetadata { domain, element } => metadata::set(connection, domain, element),
        Request::SavedRuns(domain) => guests::saved_runs(connection, domain),
        Request::Guests => guests::all(connection),
        Request::Guest(name_or_uuid) => guests::find(connection, name_or_uuid),
    }
}

/// Ends this process soon after the caller has closed its end of stdin or has ended. A call into
/// libvirt has no time limit, and must not keep the helper alive forever.
fn end_with_the_caller() -> io::Result<()> {
    std::thread::Builder::new().spawn(|| {
        let stdin = io::stdin();
        // Without requested events, poll reports only a hang-up.
        let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
        while poll(&mut watched, PollTimeout::NONE) == Err(Errno::EINTR) {}
        std::thread::sleep(CLOSE_TIME);
        // Not exit(), which runs the exit handlers of fifty libraries.
        let _ = raise(Signal::SIGKILL);
    })?;
    Ok(())
}
