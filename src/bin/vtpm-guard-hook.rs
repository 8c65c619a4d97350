//! The libvirt `qemu` hook's door.

use std::process::ExitCode;

fn main() -> ExitCode {
    vtpm_guard::vtpm_guard_hook(std::env::args_os().skip(1))
}
