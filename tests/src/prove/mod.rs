//! `cargo prove`: the long forms of the proofs, for as many minutes as one has.
//!
//! ```text
//! variants    each deliberately broken variant is found in its seed, and the seed without it is sound
//! simulator   seeds that nobody has run before
//! kills       edge, cloud and broker killed at random moments, real processes
//! cuts        power cuts of either side's disk, real file system (as root)
//! hostile     a hostile client beside other devices, over mosquitto; once, and its figures
//! ```
//!
//! The parts take turns until the time is over; what did not hold is named with the seed that shows it again, and
//! one line of JSON at the end has the figures.

mod cuts;
mod dice;
mod kills;

use std::ffi::OsString;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use serde_json::json;

pub use self::cuts::{Cuts, WINDOW, cloud_campaign, edge_campaign};
pub use self::kills::{Kills, campaign};
use crate::bench::hostile;
use crate::disk::LoopDisk;
use crate::sim::{Figures, Mutant, Size, Story, many, run};

/// Exit code when something did not hold.
const FAILED: u8 = 1;
/// Rounds of a campaign of kills, cuts of a campaign of cuts: then everything is settled and compared.
const ROUNDS: u64 = 20;
/// The parts are this long at a time, in the simulator.
const SLICE: Duration = Duration::from_secs(45);
/// Seeds that the suite and the documentation do not use.
const FRESH_SEEDS: u64 = 1_000_000;

/// The long forms of the proofs: the simulator over fresh seeds, real processes killed at random moments, real power
/// cuts of the cloud's disk and of a device's. Everything that passed must be charged exactly once.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo prove",
    after_help = "Examples:
  cargo prove                              ten minutes of everything
  cargo prove --minutes 30 --seed 7        half an hour, from other seeds
  cargo prove --only hostile               an attacker for two minutes, and what other devices notice
  cargo prove --only cuts --minutes 5      one part (power cuts need root, e2fsprogs and xfsprogs)
  cargo prove | jq .cuts                   the figures; progress is on standard error

Exit code: 0 everything held, 1 something did not (the last lines say what, and with which seed), 2 wrong arguments.
A part that can't run here is named, and null in the figures."
)]
struct Options {
    /// For how long; what has begun is brought to its end.
    #[arg(long, value_name = "M", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// From which seed on; the time of day when not given.
    #[arg(long, value_name = "K")]
    seed: Option<u64>,
    /// This part alone.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// How long each of the two attacks of the hostile client takes.
    #[arg(long, value_name = "S", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    attack_s: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Deliberately broken variants.
    Variants,
    /// Fresh seeds of the simulator.
    Simulator,
    /// Real processes killed.
    Kills,
    /// Real power cuts.
    Cuts,
    /// A hostile client.
    Hostile,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    variants: u64,
    seeds: u64,
    device_days: u64,
    simulating: Duration,
    figures: Figures,
    kills: Kills,
    cuts: Cuts,
    hostile: Option<hostile::Figures>,
}

/// Proves, or is the service or an agent: with `cloud` or `edge` as the first of `args`, after the program's name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    match args.get(1).and_then(|first| first.to_str()) {
        Some("cloud" | "edge") => return crate::demo::main(args),
        // `cargo prove -- --minutes 1` is as good as `cargo prove --minutes 1`.
        Some("--") => drop(args.remove(1)),
        _ => {}
    }
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(talk) => {
            // Help is no mistake, and a closed pipe is nobody's.
            let _ = talk.print();
            return ExitCode::from(u8::try_from(talk.exit_code()).unwrap_or(FAILED));
        }
    };
    let began = Instant::now();
    let seed = options.seed.unwrap_or_else(|| {
        let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        day.map_or(1, |since| since.as_secs())
    });
    let cuttable = missing_for_cuts(&options);
    let mut found = Found::default();
    let outcome = prove(&options, seed, began, cuttable, &mut found);
    if let Err(what) = &outcome {
        say(&format!("FAILED: {what}"));
    }
    let line = figures(
        &found,
        seed,
        began.elapsed(),
        cuttable,
        outcome.as_ref().err(),
    );
    let _ = writeln!(std::io::stdout(), "{line}");
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Whether power can be cut here; says so when not.
fn missing_for_cuts(options: &Options) -> bool {
    let wanted = options.only.is_none_or(|only| only == Part::Cuts);
    match LoopDisk::missing() {
        Some(part) if wanted => {
            say(&format!("NOT RUN: power cuts, missing here: {part}"));
            false
        }
        missing => missing.is_none(),
    }
}

fn prove(
    options: &Options,
    seed: u64,
    began: Instant,
    cuttable: bool,
    found: &mut Found,
) -> Result<(), String> {
    let end = began + Duration::from_secs(options.minutes * 60);
    let runs = |part: Part| options.only.is_none_or(|only| only == part);
    if runs(Part::Variants) {
        variants(found)?;
    }
    if runs(Part::Hostile) {
        attack(options, found)?;
    }
    for turn in 0.. {
        let campaign_seed = seed.wrapping_add(turn);
        if runs(Part::Simulator) && Instant::now() < end {
            simulator(seed, end, found)?;
        }
        if runs(Part::Kills) && Instant::now() < end {
            let kills = guarded("kills", campaign_seed, |say| {
                campaign(ROUNDS, campaign_seed, say)
            })?;
            found.kills.add(&kills);
        }
        if runs(Part::Cuts) && cuttable && Instant::now() < end {
            let on_cloud = guarded("cuts", campaign_seed, |say| {
                cloud_campaign(ROUNDS, campaign_seed, say)
            })?;
            found.cuts.add(&on_cloud);
            let on_edge = guarded("cuts", campaign_seed, |say| {
                edge_campaign(ROUNDS, campaign_seed, say)
            })?;
            found.cuts.add(&on_edge);
        }
        match options.only {
            Some(Part::Cuts) if !cuttable => {
                return Err("nothing could be run: see above what is missing".to_owned());
            }
            // They do not depend on time.
            Some(Part::Variants | Part::Hostile) => break,
            _ if Instant::now() >= end => break,
            _ => {}
        }
    }
    Ok(())
}

fn attack(options: &Options, found: &mut Found) -> Result<(), String> {
    let attack = Duration::from_secs(options.attack_s);
    let lengths = hostile::Lengths {
        calm: (attack / 3).max(Duration::from_secs(2)),
        attack,
    };
    let figures = hostile::run(lengths, &mut say).map_err(|error| format!("hostile: {error:#}"))?;
    match &figures {
        Some(figures) => say(&hostile::table(figures)),
        None if options.only == Some(Part::Hostile) => {
            return Err("nothing could be run: see above what is missing".to_owned());
        }
        None => {}
    }
    found.hostile = figures;
    Ok(())
}

fn variants(found: &mut Found) -> Result<(), String> {
    let size = Size {
        devices: 3,
        days: 2,
        sample_s: 600,
    };
    for mutant in Mutant::ALL {
        let (name, seed) = (mutant.name(), mutant.seed());
        let play = |mutant| run(seed, size, mutant, Story::default(), false).failure;
        if play(Some(*mutant)).is_none() {
            return Err(format!("the variant {name} was not found in seed {seed}"));
        }
        if let Some(failure) = play(None) {
            return Err(format!("seed {seed} without a defect: {}", failure.what));
        }
        found.variants += 1;
    }
    say(&format!("variants: all {} found", found.variants));
    Ok(())
}

fn simulator(seed: u64, end: Instant, found: &mut Found) -> Result<(), String> {
    let size = Size {
        devices: 4,
        days: 3,
        sample_s: 600,
    };
    let from = FRESH_SEEDS
        .wrapping_add((seed % FRESH_SEEDS).wrapping_mul(FRESH_SEEDS))
        .wrapping_add(found.seeds);
    let until = end.min(Instant::now() + SLICE);
    let done = AtomicU64::new(0);
    let ran = many(from..u64::MAX, size, None, Some(until), &done);
    found.seeds += ran.seeds;
    found.device_days += ran.device_days;
    found.simulating += ran.took;
    found.figures.add(&ran.figures);
    if let Some((seed, outcome)) = ran.failed {
        let what = outcome.failure.map_or_else(String::new, |found| found.what);
        return Err(format!(
            "seed {seed}: {what}; see it: cargo simulate -- --seed {seed} --events 400"
        ));
    }
    say(&format!(
        "simulator: {} seeds, {} device-days, {:.0} a second",
        found.seeds,
        found.device_days,
        ran.rate()
    ));
    Ok(())
}

/// Runs a campaign; its panic becomes a sentence with the seed.
fn guarded<T>(
    part: &str,
    seed: u64,
    campaign: impl FnOnce(&mut dyn FnMut(&str)) -> T,
) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(|| campaign(&mut say))).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        format!(
            "{part}: {}; see it: cargo prove --only {part} --seed {seed}",
            text.unwrap_or("a panic without words")
        )
    })
}

fn figures(
    found: &Found,
    seed: u64,
    took: Duration,
    cuttable: bool,
    failed: Option<&String>,
) -> serde_json::Value {
    let rate = found
        .device_days
        .checked_div(found.simulating.as_secs().max(1));
    json!({
        "seed": seed,
        "seconds": took.as_secs(),
        "variants": { "all": Mutant::ALL.len(), "found": found.variants },
        "simulator": {
            "seeds": found.seeds, "device_days": found.device_days, "device_days_per_s": rate,
            "deaths": found.figures.deaths, "cloud_crashes": found.figures.cloud_crashes,
            "messages_lost": found.figures.dropped, "new_epochs": found.figures.new_epochs,
        },
        "kills": found.kills,
        "cuts": cuttable.then_some(found.cuts),
        "hostile": found.hostile,
        "window": WINDOW,
        "lost": (found.kills.passed + found.cuts.passed)
            .saturating_sub(found.kills.charged + found.cuts.charged + found.cuts.unaccounted),
        "doubled": (found.kills.charged + found.cuts.charged + found.cuts.unaccounted)
            .saturating_sub(found.kills.passed + found.cuts.passed),
        "failed": failed,
    })
}

fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
