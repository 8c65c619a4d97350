//! The administrator's command's door.

use std::process::ExitCode;

fn main() -> ExitCode {
    vtpm_guard::vtpm_guard(std::env::args_os())
}
