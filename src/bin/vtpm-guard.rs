//! The administrator's command's door.

use std::process::ExitCode;

fn main() -> ExitCode {
    vtpm_guard::admin::run(std::env::args_os())
}
