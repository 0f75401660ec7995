//! Benchmarks: ratios in one run, not promises. What is measured stands beside what the machine could do at most.
//!
//! | part | measured | beside |
//! |---|---|---|
//! | `ledger` | the real decisions and the real journal, with 1, 100 and 1,000 operations an fsync | a bare append of as many octets |
//! | `line` | usage reports from device to acknowledgement; the latency of a grant | a consumer that only answers; an echo |

mod ledger;
mod line;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value, json};

use crate::broker::{EmbeddedBroker, Mosquitto};

/// Measures the ledger, usage reports and the latency of a grant.
#[derive(Debug, Parser)]
#[command(
    name = "cargo bench-all --",
    after_help = "Examples:\n  cargo bench-all\n  cargo bench-all -- --quick\n  cargo bench-all -- --only ledger --json\n\nTraffic stays on this machine. Figures of a busy machine are worth little: mind the load average."
)]
struct Arguments {
    /// Shorter rounds.
    #[arg(long)]
    quick: bool,
    /// One part only.
    #[arg(long)]
    only: Option<Part>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Ledger,
    Reports,
    Latency,
}

/// Rounds of everything, interleaved; the median counts.
const ROUNDS: usize = 3;

/// Runs the benchmarks, or (with the hidden first argument `cloud`) the real service.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|role| role == "cloud") {
        return simquota_cloud::cli::main(arguments.into_iter().skip(1));
    }
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(figures) => {
            if arguments.json {
                println!("{}", Value::Object(figures));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Map<String, Value>> {
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut figures = Map::new();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average before: {}", load.trim());
    if wanted(Part::Ledger) {
        let round = Duration::from_millis(if arguments.quick { 300 } else { 2_000 });
        figures.insert("ledger".to_owned(), ledger::measure(round)?);
    }
    let mosquitto = Mosquitto::find();
    if mosquitto.is_none() && (wanted(Part::Reports) || wanted(Part::Latency)) {
        eprintln!("NOT MEASURED over mosquitto: it is not installed (apt-get install mosquitto)");
    }
    if wanted(Part::Reports) {
        let batches = if arguments.quick { 200 } else { 2_000 };
        let embedded = EmbeddedBroker::start()?;
        figures.insert(
            "reports_rumqttd".to_owned(),
            line::reports(&embedded, batches)?,
        );
        if let Some(path) = &mosquitto {
            let broker = Mosquitto::start(path)?;
            figures.insert(
                "reports_mosquitto".to_owned(),
                line::reports(&broker, batches)?,
            );
        }
    }
    if wanted(Part::Latency)
        && let Some(path) = &mosquitto
    {
        let broker = Mosquitto::start(path)?;
        let asked = if arguments.quick { 100 } else { 1_000 };
        figures.insert(
            "latency_mosquitto".to_owned(),
            line::latency(&broker, asked)?,
        );
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load average after: {}", load.trim());
    figures.insert("rounds".to_owned(), json!(ROUNDS));
    Ok(figures)
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// The value below which so many thousandths lie.
fn quantile(values: &mut [f64], permille: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = values.len().saturating_sub(1) * permille / 1000;
    values.get(at).copied().unwrap_or_default()
}

/// A folder on a real disk: what lies in memory would flatter.
fn folder() -> anyhow::Result<tempfile::TempDir> {
    let near = std::env::current_exe()?;
    let near = near.parent().unwrap_or(std::path::Path::new("."));
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(near)?)
}
