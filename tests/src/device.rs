//! The agent's program as it goes on devices: built small, and weighed.
//!
//! A panic ends the program there: there is no unwinding, and no table for it. What that means for a damaged store is
//! in `simquota_edge::io` (`attempt`).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

/// It has to fit beside others into the flash of a small router.
pub const OCTETS_MAX: u64 = 7 * 1024 * 1024 / 2;
/// Tables for unwinding are of no use where nothing unwinds, and those of the libraries are left out too; relocations are
/// packed (glibc 2.36, musl 1.2.4 or later); functions with the same code are one.
const RUSTFLAGS: &str = concat!(
    "-Cforce-unwind-tables=no -Clink-arg=-Wl,--no-eh-frame-hdr -Clink-arg=-Wl,-T,",
    env!("CARGO_MANIFEST_DIR"),
    "/src/device.ld -Clink-arg=-Wl,-z,pack-relative-relocs -Clink-arg=-Wl,--icf=all"
);
/// So many sections are named.
const HEAVIEST: usize = 6;

/// Builds and weighs it. Exit code 1 when it can't be built, or is too large.
#[must_use]
pub fn main() -> ExitCode {
    match weigh() {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn weigh() -> anyhow::Result<String> {
    let program = build()?;
    let octets = fs::metadata(&program)
        .with_context(|| program.display().to_string())?
        .len();
    let version = Command::new(&program).arg("--version").output()?;
    if !version.status.success() {
        bail!("{} does not start", program.display());
    }
    let mib = |octets: u64| {
        let hundredths = octets * 100 / (1024 * 1024);
        format!("{}.{:02} MiB", hundredths / 100, hundredths % 100)
    };
    let line = format!(
        "{}: {octets} octets, {} of {} at most{}",
        program.display(),
        mib(octets),
        mib(OCTETS_MAX),
        sections(&program)
    );
    if octets > OCTETS_MAX {
        bail!("{line}: too large");
    }
    Ok(line)
}

fn build() -> anyhow::Result<PathBuf> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(root).join("target"), PathBuf::from);
    let status = Command::new(cargo)
        .current_dir(root)
        .args([
            "build",
            "--profile",
            "device",
            "--package",
            "simquota-edge",
            "--locked",
        ])
        .env("RUSTFLAGS", RUSTFLAGS)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the program can't be built: see above");
    }
    Ok(target.join("device/simquota-edge"))
}

/// The heaviest sections, where `size` of binutils is installed.
fn sections(program: &std::path::Path) -> String {
    let Ok(output) = Command::new("size").arg("-A").arg(program).output() else {
        return String::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rows: Vec<(u64, &str)> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next().filter(|name| name.starts_with('.'))?;
            Some((words.next()?.parse().ok()?, name))
        })
        .collect();
    rows.sort_unstable_by(|a, b| b.cmp(a));
    rows.iter()
        .take(HEAVIEST)
        .map(|(octets, name)| format!("\n  {octets:>9}  {name}"))
        .collect()
}
