//! Many seeds, on every core.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Figures, Mutant, Outcome, Size, Story, run};

/// What many seeds came to.
#[derive(Clone, Debug)]
pub struct Many {
    /// Seeds that were run to their end.
    pub seeds: u64,
    /// Virtual days of all devices.
    pub device_days: u64,
    /// How long it took.
    pub took: Duration,
    /// Their sums.
    pub figures: Figures,
    /// The lowest seed that failed, of those that were run.
    pub failed: Option<(u64, Outcome)>,
}

impl Many {
    /// Device-days a second.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "a rate to look at")]
    pub fn rate(&self) -> f64 {
        self.device_days as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Runs the seeds until one fails or the time is over. `done` counts them meanwhile.
#[must_use]
pub fn many(
    seeds: Range<u64>,
    size: Size,
    mutant: Option<Mutant>,
    until: Option<Instant>,
    done: &AtomicU64,
) -> Many {
    let began = Instant::now();
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<(u64, Outcome)>> = Mutex::new(None);
    let sums: Mutex<Figures> = Mutex::new(Figures::default());
    let work = || {
        while !stop.load(Ordering::Relaxed) && until.is_none_or(|until| Instant::now() < until) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = run(seed, size, mutant, Story::default(), false);
            sums.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(&outcome.figures);
            if outcome.failure.is_some() {
                stop.store(true, Ordering::Relaxed);
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| seed < *first) {
                    *failed = Some((seed, outcome));
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let seeds = done.load(Ordering::Relaxed);
    Many {
        seeds,
        device_days: seeds
            .saturating_mul(size.devices as u64)
            .saturating_mul(size.days),
        took: began.elapsed(),
        figures: sums.into_inner().unwrap_or_else(PoisonError::into_inner),
        failed: failed.into_inner().unwrap_or_else(PoisonError::into_inner),
    }
}
