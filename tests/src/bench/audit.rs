//! `simquota-cloud audit --store` over a long journal, as a process of its own: its time and its peak memory.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::child::{CLOUD, itself};
use super::figures::{grouped, number, ratio};
use super::{ledger, machine, say};

/// How often the child is asked for its peak memory. The peak only grows, and it is the last that counts.
const LOOK: Duration = Duration::from_millis(20);

/// What one audit took.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    entries: u64,
    store_octets: u64,
    seconds: f64,
    entries_per_s: f64,
    peak_mib: f64,
    load: Vec<serde_json::Value>,
}

pub(super) fn measure(entries: u64, folder: &Path) -> anyhow::Result<Figures> {
    let store = folder.join("ledger");
    say(&format!("audit: making a journal of {entries} entries …"));
    let made = Instant::now();
    let entries = ledger::fill(&store, entries)?;
    let store_octets = octets(&store)?;
    say(&format!(
        "audit: {entries} entries, {} MiB, made in {:.0} s (load {})",
        store_octets / (1024 * 1024),
        made.elapsed().as_secs_f64(),
        machine::load()
    ));
    let mut command = itself(CLOUD)?;
    command.arg("audit").arg("--store").arg(&store);
    let began = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the audit")?;
    let status = format!("/proc/{}/status", child.id());
    let mut peak_kib = 0;
    let ended = loop {
        peak_kib = peak(&status).unwrap_or(peak_kib);
        match child.try_wait()? {
            Some(ended) => break ended,
            None => thread::sleep(LOOK),
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    if !ended.success() {
        bail!("the audit ended with {ended}; report this");
    }
    Ok(Figures {
        entries,
        store_octets,
        seconds,
        entries_per_s: ratio(number(entries), seconds),
        peak_mib: number(peak_kib) / 1024.0,
        load: machine::load().values(),
    })
}

fn peak(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn octets(folder: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let mut sum = 0;
    for row in fs::read_dir(folder)? {
        let row = row?;
        let meta = row.metadata()?;
        sum += match meta.is_dir() {
            true => octets(&row.path())?,
            // What it takes on the disk: log files are larger than what is in them.
            false => meta.blocks() * 512,
        };
    }
    Ok(sum)
}

pub(super) fn table(figures: &Figures) -> String {
    format!(
        "\nAUDIT  `simquota-cloud audit --store`, a process of its own: every octet of every file, every link of the chains, every balance\n\
         {:>12}   {:>10}   {:>7}   {:>10}   {:>18}\n{:>12}   {:>10.0}   {:>7.1}   {:>10}   {:>18.0}",
        "entries",
        "store MiB",
        "seconds",
        "entries/s",
        "peak memory MiB",
        grouped(number(figures.entries)),
        number(figures.store_octets) / (1024.0 * 1024.0),
        figures.seconds,
        grouped(figures.entries_per_s),
        figures.peak_mib,
    )
}
