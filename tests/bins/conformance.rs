//! `cargo conformance`: plays the cloud against any device, and says which rules of the protocol it keeps.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::conformance::main(std::env::args_os())
}
