//! The administrator's command's door.

use std::process::ExitCode;

fn main() -> ExitCode {
    vtpm_guard::cli::run(std::env::args_os())
}
