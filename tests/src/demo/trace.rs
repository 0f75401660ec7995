//! Traces: what a tracker and a vending machine send and receive in an hour, drawn from a seed.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use simquota_edge::io::counter::Source as _;
use simquota_edge::io::trace::{TraceOptions, TraceSource};

const HOUR_S: u64 = 3600;

/// splitmix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `least` to `most`, both included.
    pub(super) const fn within(&mut self, least: u64, most: u64) -> u64 {
        least + self.draw() % (most - least + 1)
    }
}

/// A trace in memory: milliseconds, up, down.
#[derive(Clone, Debug, Default)]
pub(super) struct Trace {
    lines: Vec<(u64, u64, u64)>,
}

/// Something that a machine does again and again: every so many seconds so many octets.
struct Habit {
    every_s: (u64, u64),
    up: (u64, u64),
    down: (u64, u64),
}

/// A position every half minute, the day's log and a piece of map now and then.
const TRACKER: [Habit; 3] = [
    Habit {
        every_s: (15, 45),
        up: (240, 640),
        down: (60, 120),
    },
    Habit {
        every_s: (200, 400),
        up: (2_000, 9_000),
        down: (200, 400),
    },
    Habit {
        every_s: (100, 300),
        up: (500, 900),
        down: (4_000, 14_000),
    },
];

/// A card payment every few minutes, telemetry, and prices and pictures now and then.
const VENDING: [Habit; 3] = [
    Habit {
        every_s: (40, 200),
        up: (1_200, 2_600),
        down: (1_500, 4_200),
    },
    Habit {
        every_s: (60, 120),
        up: (700, 1_400),
        down: (100, 200),
    },
    Habit {
        every_s: (150, 400),
        up: (900, 2_000),
        down: (10_000, 40_000),
    },
];

impl Trace {
    pub(super) fn of_tracker(random: &mut Random) -> Trace {
        Trace::of(&TRACKER, random)
    }

    pub(super) fn of_vending(random: &mut Random) -> Trace {
        Trace::of(&VENDING, random)
    }

    fn of(habits: &[Habit], random: &mut Random) -> Trace {
        let mut lines = Vec::new();
        for Habit { every_s, up, down } in habits {
            // Machines are switched on at different times.
            let mut at_ms = random.within(0, every_s.1 * 1000);
            while at_ms < HOUR_S * 1000 {
                lines.push((
                    at_ms,
                    random.within(up.0, up.1),
                    random.within(down.0, down.1),
                ));
                at_ms += random.within(every_s.0 * 1000, every_s.1 * 1000);
            }
        }
        lines.push((HOUR_S * 1000, 0, 0));
        lines.sort_unstable();
        Trace { lines }
    }

    /// Reads a file. The agent's own reader looks at it first, because it says best what is wrong.
    pub(super) fn read(path: &Path, scratch: &Path) -> anyhow::Result<Trace> {
        let options = TraceOptions {
            trace: path.to_owned(),
            state: scratch.join("trace-probe"),
            speed: 1,
            repeat: true,
        };
        TraceSource::open(&options)?;
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        let lines: Vec<(u64, u64, u64)> = text.lines().filter_map(line).collect();
        let trace = Trace { lines };
        if trace.round() == 0 {
            bail!("trace {} has no octets: give one with some", path.display());
        }
        Ok(trace)
    }

    /// As a file.
    pub(super) fn csv(&self) -> String {
        let mut text = String::from("seconds,up,down\n");
        for (at_ms, up, down) in &self.lines {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}.{:03},{up},{down}", at_ms / 1000, at_ms % 1000);
        }
        text
    }

    fn length_ms(&self) -> u64 {
        self.lines.last().map_or(1, |line| line.0).max(1)
    }

    fn round(&self) -> u64 {
        self.lines.iter().map(|(_, up, down)| up + down).sum()
    }

    /// Octets in the first so many milliseconds of the trace, repeated as often as needed.
    pub(super) fn octets_in(&self, ms: u64) -> u64 {
        let rounds = ms / self.length_ms();
        let rest_ms = ms % self.length_ms();
        let begun = self.lines.iter().filter(|line| line.0 <= rest_ms);
        rounds * self.round() + begun.map(|(_, up, down)| up + down).sum::<u64>()
    }
}

/// A line that the agent's reader has accepted; heads and remarks have no number.
fn line(text: &str) -> Option<(u64, u64, u64)> {
    let mut fields = text.trim().split(',').map(str::trim);
    let seconds: f64 = fields.next()?.parse().ok()?;
    let (up, down) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it only sizes packages: the nearest millisecond will do"
    )]
    let at_ms = (seconds * 1000.0) as u64;
    Some((at_ms, up, down))
}

/// What a trace has really delivered, from the counter that its agent left behind.
pub(super) fn delivered(trace: &Path, state: &Path, speed: u32) -> anyhow::Result<u64> {
    let options = TraceOptions {
        trace: trace.to_owned(),
        state: state.to_owned(),
        speed,
        repeat: true,
    };
    let mut source = TraceSource::open(&options)?;
    // The first reading lets no time pass, but it would deliver what had waited for the gate.
    source.limit(Some(0));
    let reading = source.read(0)?;
    Ok(reading.up + reading.down)
}
