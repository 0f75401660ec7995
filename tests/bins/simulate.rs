//! `cargo simulate`: runs seeds of the simulator, on every core, and says what it found.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use simquota_tests::sim::{Figures, Mutant, Outcome, Size, Story, run};

/// Many devices, a cloud and a bad network in virtual time. One seed decides everything.
#[derive(Debug, Parser)]
#[command(
    name = "cargo simulate --",
    after_help = "Examples:\n  cargo simulate -- --seeds 10000               ten thousand worlds, 4 devices, 3 days each\n  cargo simulate -- --seed 42                   one world, its last events\n  cargo simulate -- --seed 42 --plot run.svg    the same, drawn\n  cargo simulate -- --seeds 200 --mutant no-cut a deliberately broken variant: it must be found\n\nExit code: 0 all rules held, 1 a rule did not hold, 2 wrong arguments."
)]
struct Arguments {
    /// Run this seed alone and print its last events.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Run so many seeds, from --from on.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Devices in each world.
    #[arg(long, default_value_t = 4)]
    devices: usize,
    /// Virtual days before the world comes to rest.
    #[arg(long, default_value_t = 3)]
    days: u64,
    /// Seconds from one usage sample to the next.
    #[arg(long, default_value_t = 600)]
    sample_s: u64,
    /// Break the code in this way; the simulator must find it.
    #[arg(long)]
    mutant: Option<String>,
    /// Draw device 0 of --seed as SVG.
    #[arg(long, requires = "seed")]
    plot: Option<PathBuf>,
    /// How many of the last events to print.
    #[arg(long, default_value_t = 60)]
    events: usize,
    /// Print one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mutant = match &arguments.mutant {
        None => None,
        Some(name) => match Mutant::ALL.iter().find(|mutant| mutant.name() == name) {
            Some(mutant) => Some(*mutant),
            None => {
                let names: Vec<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
                eprintln!(
                    "error: '{name}' is not a broken variant: use one of {}",
                    names.join(", ")
                );
                return ExitCode::from(2);
            }
        },
    };
    let size = Size {
        devices: arguments.devices,
        days: arguments.days,
        sample_s: arguments.sample_s,
    };
    match arguments.seed {
        Some(seed) => one(seed, size, mutant, &arguments),
        None => many(size, mutant, &arguments),
    }
}

fn one(seed: u64, size: Size, mutant: Option<Mutant>, arguments: &Arguments) -> ExitCode {
    let outcome = run(
        seed,
        size,
        mutant,
        Story::last(arguments.events),
        arguments.plot.is_some(),
    );
    for line in outcome.story.lines() {
        println!("{line}");
    }
    if let (Some(path), Some(trace)) = (&arguments.plot, &outcome.trace) {
        if let Err(error) = std::fs::write(path, trace.svg(0, seed, size.days)) {
            eprintln!(
                "error: {} can't be written ({error}): choose another path",
                path.display()
            );
            return ExitCode::from(2);
        }
        eprintln!("drawn: {}", path.display());
    }
    let Figures {
        events,
        entries,
        really,
        charged,
        lost,
        deaths,
        cloud_crashes,
        dropped,
        new_epochs,
        digest,
        ..
    } = &outcome.figures;
    println!(
        "seed {seed}: {events} events, {entries} entries, {really} octets passed, {charged} charged, {lost} lost with power or store, {deaths} deaths, {cloud_crashes} crashes of the cloud, {dropped} messages lost, {new_epochs} new epochs, digest {digest:016x}"
    );
    if !outcome.figures.refused.is_empty() {
        println!("refused: {:?}", outcome.figures.refused);
    }
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some(failure) => {
            println!("FAILED at {} ms: {}", failure.at, failure.what);
            ExitCode::from(1)
        }
    }
}

fn many(size: Size, mutant: Option<Mutant>, arguments: &Arguments) -> ExitCode {
    let next = AtomicU64::new(arguments.from);
    let end = arguments.from.saturating_add(arguments.seeds);
    let done = AtomicU64::new(0);
    let failed: Mutex<Option<(u64, Outcome)>> = Mutex::new(None);
    let sums: Mutex<Figures> = Mutex::new(Figures::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end
                        || failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .is_some()
                    {
                        break;
                    }
                    let outcome = run(seed, size, mutant, Story::default(), false);
                    add(
                        &mut sums.lock().unwrap_or_else(PoisonError::into_inner),
                        &outcome.figures,
                    );
                    if outcome.failure.is_some() {
                        let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                        if failed.as_ref().is_none_or(|(first, _)| seed < *first) {
                            *failed = Some((seed, outcome));
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| progress(&done, arguments.seeds, size, began, &failed));
    });
    let seconds = began.elapsed().as_secs_f64();
    let seeds = done.load(Ordering::Relaxed);
    let device_days = seeds * size.devices as u64 * size.days;
    let sums = sums.into_inner().unwrap_or_else(PoisonError::into_inner);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    let rate = device_days as f64 / seconds;
    println!(
        "{seeds} seeds, {device_days} device-days in {seconds:.1} s: {rate:.0} device-days/s; {} events, {} entries, {} deaths, {} crashes of the cloud, {} messages lost, {} new epochs",
        sums.events, sums.entries, sums.deaths, sums.cloud_crashes, sums.dropped, sums.new_epochs
    );
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({
                "seeds": seeds, "device_days": device_days, "seconds": seconds, "device_days_per_s": rate,
                "events": sums.events, "entries": sums.entries, "deaths": sums.deaths,
                "cloud_crashes": sums.cloud_crashes, "dropped": sums.dropped, "new_epochs": sums.new_epochs,
                "failed_seed": failed.as_ref().map(|(seed, _)| seed),
            })
        );
    }
    match failed {
        None => ExitCode::SUCCESS,
        Some((seed, outcome)) => report(seed, size, mutant, outcome, arguments),
    }
}

/// Tells a failing seed: shrunk to fewer days and devices where it still fails, and how to see it again.
fn report(
    seed: u64,
    size: Size,
    mutant: Option<Mutant>,
    outcome: Outcome,
    arguments: &Arguments,
) -> ExitCode {
    let fails = |size: Size| {
        run(seed, size, mutant, Story::default(), false)
            .failure
            .is_some()
    };
    let mut small = size;
    while small.days > 1
        && fails(Size {
            days: small.days - 1,
            ..small
        })
    {
        small.days -= 1;
    }
    while small.devices > 1
        && fails(Size {
            devices: small.devices - 1,
            ..small
        })
    {
        small.devices -= 1;
    }
    let told = run(seed, small, mutant, Story::last(arguments.events), false);
    for line in told.story.lines() {
        println!("{line}");
    }
    if let Some(failure) = told.failure.or(outcome.failure) {
        println!("FAILED seed {seed} at {} ms: {}", failure.at, failure.what);
    }
    let mutant = mutant.map_or_else(String::new, |mutant| format!(" --mutant {}", mutant.name()));
    println!(
        "again: cargo simulate -- --seed {seed} --devices {} --days {} --sample-s {}{mutant} --events 400",
        small.devices, small.days, small.sample_s
    );
    ExitCode::from(1)
}

fn progress(
    done: &AtomicU64,
    seeds: u64,
    size: Size,
    began: Instant,
    failed: &Mutex<Option<(u64, Outcome)>>,
) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let so_far = done.load(Ordering::Relaxed);
        let rate =
            (so_far * size.devices as u64 * size.days) as f64 / began.elapsed().as_secs_f64();
        eprint!("\r{so_far}/{seeds} seeds, {rate:.0} device-days/s ");
        let _ = std::io::stderr().flush();
        if so_far >= seeds
            || failed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_some()
        {
            eprintln!();
            return;
        }
    }
}

fn add(sums: &mut Figures, figures: &Figures) {
    sums.events += figures.events;
    sums.entries += figures.entries;
    sums.deaths += figures.deaths;
    sums.cloud_crashes += figures.cloud_crashes;
    sums.dropped += figures.dropped;
    sums.new_epochs += figures.new_epochs;
}
