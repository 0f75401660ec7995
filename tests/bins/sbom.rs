//! `cargo sbom`: what the shipped programs are made of, as CycloneDX.

use std::process::ExitCode;

fn main() -> ExitCode {
    simquota_tests::sbom::main()
}
