//! The program; everything is in the library, so that another binary can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_cloud::cli::main(std::env::args_os())
}
