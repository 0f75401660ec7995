//! `cargo bench-all`: the figures, each beside the bare limit measured in the same run.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::figures::main()
}
