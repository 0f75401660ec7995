//! `cargo prove`: the long forms of the proofs.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::prove::main(std::env::args_os())
}
