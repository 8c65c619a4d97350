//! The helper that is linked with libvirt; `vtpm-guard-hook` and `vtpm-guard` start it when
//! they need an answer of libvirt's.

use std::process::ExitCode;

fn main() -> ExitCode {
    vtpm_guard::vtpm_guard_libvirt(std::env::args_os().skip(1))
}
