//! The benchmarks: the real ledger, service and brokers, each beside a bare limit measured in the same run.
//!
//! ```text
//! ledger    Turn + journal store, SyncData            beside an append of as many octets and fdatasync
//! accounts  the same with a million accounts, used after Zipf's law; SQLite beside it
//! audit     the audit of a journal of ten million entries, as a process: time and peak memory
//! reports   publishers ── broker ── service           beside a consumer that only acknowledges and answers
//! operate   a top-up until a blocked device's traffic flows; grants at half the limit with `top` and `watch`, beside those without
//! latency   one device ── mosquitto ── service        beside an echo, and a bare fdatasync
//! ```
//!
//! On a machine that does other work as well absolute figures differ by a factor of ten from one hour to the next;
//! ratios within one round do not. So limit and subject take turns, and what is said is the median of the rounds.
//!
//! The children are this same program: with `cloud`, `edge`, `rumqttd` or `echo` as its first argument it is the service, an agent,
//! a broker, or the bare responder. With `flood` it measures nothing: devices with a report under way each have to
//! be answered to the last one.

mod append;
mod audit;
mod child;
mod echo;
mod figures;
pub(crate) mod hostile;
mod latency;
mod ledger;
mod load;
mod machine;
mod operate;
mod options;
mod publisher;
mod reports;
mod sqlite;
mod stand;
mod world;
mod zipf;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use serde_json::json;

use self::ledger::World;
use self::options::{Options, Part};
use self::stand::Folder;

/// Exit code of a benchmark that could not be run, or whose answers were wrong.
const FAILED: u8 = 1;

/// Runs the benchmarks, or one of the programs that they consist of. `args` begin with the program's name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let rest = || args.iter().take(1).chain(args.iter().skip(2)).cloned();
    let ended = match args.get(1).and_then(|first| first.to_str()) {
        Some(child::CLOUD) => {
            child::die_with_parent();
            return simquota_cloud::cli::main(rest());
        }
        Some(child::EDGE) => {
            child::die_with_parent();
            return simquota_edge::cli::main(rest());
        }
        Some(child::RUMQTTD) => child::rumqttd(),
        Some(child::ECHO) => echo::run(rest()),
        Some(child::FLOOD) => reports::flood(rest()),
        _ => match Options::try_parse_from(&args) {
            Ok(options) => bench(&options),
            Err(talk) => {
                // Help is no mistake, and a closed pipe is nobody's.
                let _ = talk.print();
                return ExitCode::from(u8::try_from(talk.exit_code()).unwrap_or(FAILED));
            }
        },
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn bench(options: &Options) -> anyhow::Result<()> {
    let folder = Folder::make(options.folder.as_deref())?;
    let (cores, disk, load_before) = (machine::cores(), folder.disk(), machine::load());
    let build = if cfg!(debug_assertions) {
        say("this is not a release build: use `cargo bench-all` for figures that mean something");
        "dev"
    } else {
        "release"
    };
    if disk.is_memory() {
        say(&format!(
            "{} is memory, where a sync costs nothing: name a folder on a disk with --folder",
            disk.what
        ));
    }
    print(&format!(
        "{cores} cores, load average {load_before}; {} on {}; {build} build; medians of {} rounds of {} s",
        folder.path().display(),
        disk.what,
        options.rounds(),
        options.slice().as_secs_f64(),
    ))?;
    let mut ledger = None;
    let mut accounts = None;
    let mut reports = None;
    let mut latency = None;
    if options.runs(Part::Ledger) {
        let figures = ledger::measure(options, folder.path(), World::Even)?;
        print(&ledger::table(&figures, World::Even))?;
        ledger = Some(figures);
    }
    if options.runs_alone(Part::Accounts) {
        let figures = ledger::measure(options, folder.path(), World::Many)?;
        print(&ledger::table(&figures, World::Many))?;
        accounts = Some(figures);
    }
    let mut audited = None;
    if options.runs_alone(Part::Audit) {
        let figures = audit::measure(options.entries, folder.path())?;
        print(&audit::table(&figures))?;
        audited = Some(figures);
    }
    if options.runs(Part::Reports) {
        let figures = reports::measure(options, folder.path())?;
        print(&reports::table(&figures))?;
        reports = Some(figures);
    }
    if options.runs(Part::Latency) {
        let figures = latency::measure(options, folder.path())?;
        print(&latency::table(&figures))?;
        latency = Some(figures);
    }
    let mut operate = None;
    if options.runs(Part::Operate) {
        let figures = operate::measure(options, folder.path())?;
        print(&operate::table(&figures))?;
        operate = Some(figures);
    }
    let load_after = machine::load();
    print(&format!("\nload average at the end {load_after}"))?;
    if options.json {
        let machine = json!({
            "cores": cores, "disk": disk.what, "build": build, "load_before": load_before.values(),
            "load_after": load_after.values(), "rounds": options.rounds(), "slice_s": options.slice().as_secs_f64(),
        });
        let all = json!({
            "machine": machine, "ledger": ledger, "accounts": accounts, "audit": audited, "reports": reports,
            "latency": latency, "operate": operate,
        });
        print(&all.to_string())?;
    }
    Ok(())
}

/// What is for reading now; the figures themselves are on stdout.
fn say(text: &str) {
    // Talk that nobody can hear is lost, and the figures are not.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
