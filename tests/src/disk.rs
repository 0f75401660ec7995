//! Disks of their own, on loop devices: one whose power can be cut, one that fills up and fails. They need root.

mod frail;
mod power;

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

pub use self::frail::Disk;
pub use self::power::LoopDisk;

/// The search path, with the places of an administrator's programs.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin:/sbin");
    path
}

fn run(program: &str, args: &[&str], files: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(args)
        .args(files)
        .env("PATH", path())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {args:?} {files:?}: {}", said.trim());
    }
    Ok(())
}
