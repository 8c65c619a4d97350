//! The helper's side: one connection, as many requests as come, then goodbye.

mod definition;
mod failure;
mod guests;
mod secrets;

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

use self::secrets::Secrets;
use super::protocol::{MAX_REQUEST, Request, Response, read_frame, value_frame};
use crate::host::sys;
use crate::libvirt::secret::SecretError;

/// How long the helper may go on once nobody is left to ask it, to close its connection.
const GOODBYE: Duration = Duration::from_millis(500);

/// Serves requests on stdin, answers on stdout, until stdin ends. The one argument is the
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
    // libvirt prints every error on stderr unless it is told not to.
    virt::error::clear_error_callback();
    end_with_the_caller()?;

    // Not io::stdin(), whose buffer would keep a copy of a key.
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
        responses.write_all(&response.to_frame()?)?;
        if let Some(value) = value {
            responses.write_all(&value_frame(&value)?)?;
        }
    }
    Ok(())
}

/// Answers one request; `value` is what follows the answer, if anything does.
fn answer(
    connection: &Connect,
    request: &Request<'_>,
    value: &mut Option<Zeroizing<Vec<u8>>>,
) -> Result<Response, SecretError> {
    let secrets = Secrets { connection };
    match *request {
        Request::Provide {
            secret,
            domain,
            key,
            over,
        } => secrets.provide(secret, domain, key, over),
        Request::Drop { secret, domain } => secrets.drop_own(secret, domain),
        Request::DropStaged { secret, domain } => secrets.drop_staged(secret, domain),
        Request::Reveal(secret) => secrets.reveal(secret, value),
        Request::Undefine(secret) => secrets.undefine(secret),
        Request::EncryptVtpm { domain, secret } => {
            definition::encrypt_vtpm(connection, domain, secret)
        }
        Request::SavedRuns(domain) => guests::saved_runs(connection, domain),
        Request::Guests => guests::all(connection),
        Request::Guest(name_or_uuid) => guests::find(connection, name_or_uuid),
    }
}

/// Ends this process soon after the caller has closed its end of stdin, or died: a call into
/// libvirt has no time limit, and must not keep the helper alive for ever.
fn end_with_the_caller() -> io::Result<()> {
    std::thread::Builder::new().spawn(|| {
        let stdin = io::stdin();
        // No event is asked for: poll then reports a hang-up alone.
        let mut watched = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
        while poll(&mut watched, PollTimeout::NONE) == Err(Errno::EINTR) {}
        std::thread::sleep(GOODBYE);
        // Not exit(), which runs the exit handlers of fifty libraries.
        let _ = raise(Signal::SIGKILL);
    })?;
    Ok(())
}
