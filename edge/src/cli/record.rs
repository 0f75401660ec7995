//! `simquota-edge record`

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{print, start_log};
use crate::io::counter::{Direction, LinkOptions, LinkSource, Source};
use crate::io::record::{RecordOptions, Recorded, record};
use crate::run;

/// Write a trace file from an interface: lines of `seconds,up,down`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  simquota-edge record --iface wwan0 --out bus.csv                       until Ctrl-C
  simquota-edge record --iface lo --direction rx --out lo.csv --seconds 10 --interval-ms 200

An agent plays it with `kind = \"trace\"` and `file = \"bus.csv\"` in [source].")]
pub(super) struct Record {
    /// The interface.
    #[arg(long, value_name = "NAME")]
    iface: String,
    /// The file to write. One that exists is overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Milliseconds from one line to the next.
    #[arg(long, value_name = "MS", default_value_t = 1_000)]
    interval_ms: u64,
    /// How long to record; without it until Ctrl-C.
    #[arg(long, value_name = "S")]
    seconds: Option<u64>,
    /// The directions that count. On `lo` each packet is sent and received: take `rx` there.
    #[arg(long, value_enum, default_value = "both")]
    direction: Which,
    /// Octets of link-layer header in each packet, taken off. Without it 14, and 0 for `lo`.
    #[arg(long, value_name = "OCTETS")]
    l2_overhead: Option<u64>,
    /// Print what was recorded as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Both,
    Rx,
    Tx,
}

impl Record {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        start_log("info")?;
        let mut source = LinkSource::open(LinkOptions {
            interface: self.iface.clone(),
            direction: match self.direction {
                Which::Both => Direction::Both,
                Which::Rx => Direction::Rx,
                Which::Tx => Direction::Tx,
            },
            l2_overhead: self
                .l2_overhead
                .unwrap_or(if self.iface == "lo" { 0 } else { 14 }),
        })?;
        // A wrong name is told before a file is overwritten.
        source.read(0)?;
        let stop = stop_at_signal()?;
        let file = File::create(&self.out)
            .with_context(|| format!("cannot write {}: check the path", self.out.display()))?;
        let options = RecordOptions {
            interval_ms: self.interval_ms,
            seconds: self.seconds,
        };
        let mut out = BufWriter::new(file);
        let recorded = record(&mut source, &mut out, options, &stop.asked)?;
        out.flush()?;
        self.report(recorded)?;
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, recorded: Recorded) -> anyhow::Result<()> {
        let Recorded {
            lines,
            length_ms,
            up,
            down,
        } = recorded;
        let out = self.out.display().to_string();
        if self.json {
            return print(&json!({ "file": out, "lines": lines, "length_ms": length_ms, "up": up, "down": down }).to_string());
        }
        let seconds = format!("{}.{:03}", length_ms / 1000, length_ms % 1000);
        print(&format!(
            "{out}: {lines} lines, {seconds} s, {up} octets up, {down} octets down"
        ))
    }
}

/// Set by Ctrl-C and SIGTERM. The runtime listens as long as this lives.
struct Stop {
    asked: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

fn stop_at_signal() -> anyhow::Result<Stop> {
    let runtime = run::runtime()?;
    let asked = Arc::new(AtomicBool::new(false));
    let context = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signal =
            signal(kind).context("cannot listen to signals: check the system's limits")?;
        let asked = Arc::clone(&asked);
        runtime.spawn(async move {
            signal.recv().await;
            asked.store(true, Ordering::Relaxed);
        });
    }
    drop(context);
    Ok(Stop {
        asked,
        _runtime: runtime,
    })
}
