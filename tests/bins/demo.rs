//! `cargo demo`: the whole system on this machine, with a proof at its end.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::demo::main(std::env::args_os())
}
