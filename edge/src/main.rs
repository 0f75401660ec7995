//! The agent's program. Everything is in the library, so that tests can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_edge::cli::main(std::env::args_os())
}
