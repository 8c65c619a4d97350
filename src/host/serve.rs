//! The other side of a [conversation](super::conversation): a program that answers documents until its stdin ends.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use nix::unistd::dup2_stdout;
use zeroize::Zeroizing;

use super::frame::read_frame;
use super::sys;

/// Serves documents of at most this length on stdin and stdout until stdin ends. `answer` gets a document, and stdin to
/// read what follows it, and returns the frames of the answer. The process makes no core dumps.
pub fn serve(
    max_document: usize,
    answer: impl FnMut(&[u8], &mut File) -> io::Result<Zeroizing<Vec<u8>>>,
) -> ExitCode {
    match converse(max_document, answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn converse(
    max_document: usize,
    mut answer: impl FnMut(&[u8], &mut File) -> io::Result<Zeroizing<Vec<u8>>>,
) -> io::Result<()> {
    sys::protect_process()?;
    // Not io::stdin(): its buffer would keep a copy of a key.
    let mut requests = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut replies = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    // What a library prints must not get among the replies.
    dup2_stdout(io::stderr())?;
    while let Some(document) = read_frame(&mut requests, max_document)? {
        let answered = answer(&document, &mut requests);
        wipe_stack();
        replies.write_all(&answered?)?;
    }
    Ok(())
}

/// Overwrites what the functions that the caller has called have left on the stack: ciphers keep blocks of what they
/// encrypt there, and schedules of keys.
#[inline(never)]
#[expect(clippy::large_stack_arrays, reason = "the stack is what it is about")]
fn wipe_stack() {
    /// More than those functions need, in bytes.
    const DEPTH: usize = 256 * 1024;
    black_box(&mut [0_u8; DEPTH]);
}
