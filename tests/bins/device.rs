//! `cargo device`: builds the agent's program for devices, and says how large it is.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::device::main()
}
