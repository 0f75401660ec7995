//! The program `nft`, which compiles rules.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use super::GateError;
use super::watch::Ours;

const NFT: &str = "nft";

/// Gives rules to the `nft` program, which takes all of them or none.
pub(super) fn nft(rules: &str, ours: &Ours) -> Result<(), GateError> {
    let mut child = Command::new(NFT)
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_nft)?;
    // It binds its socket to the port of its process id.
    ours.add(child.id());
    if let Some(mut stdin) = child.stdin.take() {
        let written = stdin.write_all(rules.as_bytes());
        // If it ended early, what it said is worth more than the broken pipe.
        drop(written);
    }
    let output = child.wait_with_output().map_err(no_nft)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| !line.trim().is_empty());
    Err(GateError::Refused {
        program: NFT.to_owned(),
        said: said.unwrap_or("it said nothing").trim().to_owned(),
    })
}

fn no_nft(source: io::Error) -> GateError {
    GateError::NoProgram {
        program: NFT.to_owned(),
        source,
    }
}
