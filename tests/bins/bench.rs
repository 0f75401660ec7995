//! `cargo bench-all`: what the ledger, the service and the brokers do a second, beside the bare limits.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::bench::main(std::env::args_os())
}
