//! The bare limit of a durable write: so many octets behind the ones before, fdatasync, again and again.
//!
//! The file has its blocks already, as the store's own journal has: a file that grows costs a second write, of its
//! length, with each sync, and would make the limit look lower than it is.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::figures::Times;
use super::world::Dice;

/// At its end the file is written from its beginning again.
const FILE_OCTETS: usize = 64 * 1024 * 1024;

/// Writes and syncs for so long; how long each took.
pub(super) fn measure(folder: &Path, octets: usize, length: Duration) -> anyhow::Result<Times> {
    let path = folder.join("bare-append");
    let cannot = || format!("cannot write {}: free some space", path.display());
    let mut file = File::create(&path).with_context(cannot)?;
    file.write_all(&vec![0; FILE_OCTETS]).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    file.rewind().with_context(cannot)?;
    // Not zeros: no layer below may save itself the work.
    let mut dice = Dice::new(1);
    let mut row: Vec<u8> = Vec::with_capacity(octets);
    row.resize_with(octets, || dice.octet());
    let mut times = Times::default();
    let mut written = 0;
    let started = Instant::now();
    while started.elapsed() < length {
        if written + octets > FILE_OCTETS {
            file.rewind().with_context(cannot)?;
            written = 0;
        }
        let before = Instant::now();
        file.write_all(&row).with_context(cannot)?;
        file.sync_data().with_context(cannot)?;
        times.push(before.elapsed());
        written += octets;
    }
    drop(file);
    std::fs::remove_file(&path).with_context(cannot)?;
    Ok(times)
}
