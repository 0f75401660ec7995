//! `cargo simulate`: runs seeds of the simulator, on every core, and says what it found.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use simquota_tests::sim::{self, Figures, Mutant, Outcome, Size, Story, run};

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
    /// Draw a device of --seed as SVG.
    #[arg(long, requires = "seed")]
    plot: Option<PathBuf>,
    /// Which one to draw; the busiest when not given.
    #[arg(long, requires = "plot")]
    device: Option<usize>,
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
        let device = arguments.device.unwrap_or_else(|| trace.busiest());
        if let Err(error) = std::fs::write(path, trace.svg(device, seed, size.days)) {
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
    let seeds = arguments.from..arguments.from.saturating_add(arguments.seeds);
    let done = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let many = std::thread::scope(|scope| {
        scope.spawn(|| progress(&done, arguments.seeds, size, &over));
        let many = sim::many(seeds, size, mutant, None, &done);
        over.store(true, Ordering::Relaxed);
        many
    });
    let (sums, seconds) = (&many.figures, many.took.as_secs_f64());
    println!(
        "{} seeds, {} device-days in {seconds:.1} s: {:.0} device-days/s; {} events, {} entries, {} deaths, {} crashes of the cloud, {} messages lost, {} new epochs",
        many.seeds,
        many.device_days,
        many.rate(),
        sums.events,
        sums.entries,
        sums.deaths,
        sums.cloud_crashes,
        sums.dropped,
        sums.new_epochs
    );
    if arguments.json {
        println!(
            "{}",
            serde_json::json!({
                "seeds": many.seeds, "device_days": many.device_days, "seconds": seconds,
                "device_days_per_s": many.rate(), "events": sums.events, "entries": sums.entries,
                "deaths": sums.deaths, "cloud_crashes": sums.cloud_crashes, "dropped": sums.dropped,
                "new_epochs": sums.new_epochs, "failed_seed": many.failed.as_ref().map(|(seed, _)| seed),
            })
        );
    }
    match many.failed {
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

fn progress(done: &AtomicU64, seeds: u64, size: Size, over: &AtomicBool) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    let began = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
        let so_far = done.load(Ordering::Relaxed);
        let rate =
            (so_far * size.devices as u64 * size.days) as f64 / began.elapsed().as_secs_f64();
        eprint!("\r{so_far}/{seeds} seeds, {rate:.0} device-days/s ");
        let _ = std::io::stderr().flush();
    }
    eprintln!();
}
