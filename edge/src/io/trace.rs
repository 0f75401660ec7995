//! A recorded trace that stands for a modem.
//!
//! It makes the traffic and counts it. Like a kernel's counter, its counter goes on where it was after
//! the agent was killed: it lives in a small file, written **before** a reading is returned. Unlike a
//! network it can wait: at its limit trace time stops until the limit is raised, so that the octets
//! delivered in total are the trace's sum exactly, however often it was stopped on the way.

mod csv;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use super::counter::{Identity, Reading, Source, SourceError};
pub(crate) use csv::HEADER;
use csv::{Line, Trace};
use state::{Position, StateFile};

/// Two readings further apart than this count as this far: what a modem would deliver in weeks of
/// suspend is not made up in one reading.
const STEP_MS_MAX: u64 = 3_600_000;
/// Highest speed-up factor.
const SPEED_MAX: u32 = 100_000;
/// A repeated trace must last this long, which bounds the rounds in one reading.
const ROUND_US_MIN: u64 = 1_000_000;

/// What to play.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceOptions {
    /// The trace: lines of `seconds,up,down`, octets since the line before.
    pub trace: PathBuf,
    /// The file that keeps the counter; created if missing. Put it beside the agent's store.
    pub state: PathBuf,
    /// Trace seconds in a second, 1 to 100,000.
    pub speed: u32,
    /// Begin again after the last line.
    pub repeat: bool,
}

/// Octets that a trace has delivered in all, up and down: what its counter in this file says.
///
/// # Errors
/// [`TraceError::Open`] when it can't be read, [`TraceError::Damaged`] when it holds no counter.
pub fn delivered(state: &Path) -> Result<u64, TraceError> {
    let position = state::read(state)?;
    Ok(position.up.saturating_add(position.down))
}

/// What is wrong with a trace or its state file.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A file can't be opened or read.
    #[error("cannot open {} ({source}): check the path", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The counter could not be kept, so nothing is handed out.
    #[error("cannot write {} ({source}): free some space or check its permissions", path.display())]
    Write {
        /// The state file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// A line of the trace can't be used.
    #[error("{}:{line}: {reason}: correct this line", path.display())]
    Line {
        /// The trace.
        path: PathBuf,
        /// The line's number, from 1.
        line: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The trace is not UTF-8 text.
    #[error("{} is not a text file: give a trace with lines of seconds,up,down", path.display())]
    NotText {
        /// The trace.
        path: PathBuf,
    },
    /// The trace has no lines.
    #[error("trace {} has no lines: record one, or give another", path.display())]
    Empty {
        /// The trace.
        path: PathBuf,
    },
    /// The trace is larger than is loaded into memory.
    #[error("trace {} is too large (256 MiB, 8,000,000 lines): split it", path.display())]
    TooLarge {
        /// The trace.
        path: PathBuf,
    },
    /// The speed is out of bounds.
    #[error("speed {speed} is not within 1 to 100000: choose another")]
    Speed {
        /// The speed asked for.
        speed: u32,
    },
    /// Repeating the trace would never let time pass.
    #[error("trace {} is shorter than a second: play it without repeat", path.display())]
    TooShort {
        /// The trace.
        path: PathBuf,
    },
    /// The state file is in use.
    #[error("{} is in use by another process: stop that agent, or give this one a store of its own", path.display())]
    Locked {
        /// The state file.
        path: PathBuf,
    },
    /// The state file is of another trace.
    #[error("{} belongs to another trace: remove it to begin this one, or give the trace it was made for", path.display())]
    OtherTrace {
        /// The state file.
        path: PathBuf,
    },
    /// The state file holds no whole record.
    #[error("{} is damaged: remove it to begin the trace again as a new counter", path.display())]
    Damaged {
        /// The state file.
        path: PathBuf,
    },
    /// No identity could be drawn.
    #[error("the system gives no random numbers ({source}): check the device's entropy source")]
    Random {
        /// What went wrong.
        source: getrandom::Error,
    },
}

/// Plays a trace. See the module's text for what it promises.
pub struct TraceSource {
    trace: Trace,
    speed: u32,
    repeat: bool,
    state: StateFile,
    identity: Identity,
    limit: Option<u64>,
    /// The time of the last reading in this process: trace time only moves while it runs.
    last_ms: Option<u64>,
    closed: bool,
}

impl TraceSource {
    /// Loads the trace and takes up its counter where it was. There is no limit at first: set it before
    /// the first reading.
    ///
    /// # Errors
    /// When the trace or the state file can't be used; the text says what to do.
    pub fn open(options: &TraceOptions) -> Result<TraceSource, TraceError> {
        let TraceOptions {
            trace: path,
            state,
            speed,
            repeat,
        } = options;
        if !(1..=SPEED_MAX).contains(speed) {
            return Err(TraceError::Speed { speed: *speed });
        }
        let trace = Trace::load(path)?;
        if *repeat && trace.length_us < ROUND_US_MIN {
            return Err(TraceError::TooShort { path: path.clone() });
        }
        let state = StateFile::open(state, trace.fingerprint, random_id)?;
        let identity = Identity {
            boot_id: format!("trace:{:032x}", state.id()),
            namespace: 0,
            index: 0,
            name: "trace".to_owned(),
        };
        Ok(TraceSource {
            trace,
            speed: *speed,
            repeat: *repeat,
            state,
            identity,
            limit: None,
            last_ms: None,
            closed: false,
        })
    }

    /// The sum of the trace's octets in one round: what a trace that is not repeated delivers in all.
    #[must_use]
    pub fn round_octets(&self) -> u64 {
        // Loading has checked that the sum fits.
        self.trace
            .lines
            .iter()
            .fold(0, |sum, line| sum + line.up + line.down)
    }

    fn next_line(&self, position: &mut Position) -> Option<Line> {
        if self.line(position.line).is_none() && self.repeat {
            position.line = 0;
            // The last line is due at the round's length, so time has reached it.
            position.at_us -= self.trace.length_us;
        }
        self.line(position.line)
    }

    fn line(&self, number: u64) -> Option<Line> {
        let number = usize::try_from(number).ok()?;
        self.trace.lines.get(number).copied()
    }

    /// Where the trace stands when another `budget_us` of trace time may pass.
    fn advance(&self, mut position: Position, mut budget_us: u64) -> Position {
        while let Some(line) = self.next_line(&mut position) {
            let wait_us = line.at_us.saturating_sub(position.at_us);
            if wait_us > budget_us {
                position.at_us += budget_us;
                break;
            }
            position.at_us += wait_us;
            budget_us -= wait_us;
            if !self.deliver(&mut position, line) {
                // At the limit: the rest of the budget is not kept, trace time waits here.
                break;
            }
        }
        position
    }

    /// Delivers of the line what the limit lets through; says whether that was all of it.
    fn deliver(&self, position: &mut Position, line: Line) -> bool {
        let delivered = position.up + position.down;
        // Without a limit the counter itself ends at 64 bits: what lies beyond waits for ever.
        let room = self.limit.unwrap_or(u64::MAX).saturating_sub(delivered);
        let left_up = line.up - position.line_up;
        let left_down = line.down - position.line_down;
        let left = left_up + left_down;
        let take = left.min(room);
        // Up gets its share rounded down and down gets the rest. Nobody gains by it: what one delivery
        // leaves, the next brings, and a whole line is exact.
        let take_up = if take == left {
            left_up
        } else {
            share(take, left_up, left)
        };
        let take_down = take - take_up;
        position.up += take_up;
        position.down += take_down;
        if take < left {
            position.line_up += take_up;
            position.line_down += take_down;
            return false;
        }
        position.line += 1;
        position.line_up = 0;
        position.line_down = 0;
        true
    }

    fn reading(&self) -> Reading {
        let position = self.state.position();
        Reading {
            identity: self.identity.clone(),
            up: position.up,
            down: position.down,
            packets_up: 0,
            packets_down: 0,
        }
    }
}

/// `take * part / whole`, rounded down; `part <= whole`, so it fits.
fn share(take: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(take) * u128::from(part);
    u64::try_from(product / u128::from(whole)).unwrap_or(part)
}

fn random_id() -> Result<u128, TraceError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|source| TraceError::Random { source })?;
    Ok(u128::from_le_bytes(id))
}

impl Source for TraceSource {
    fn read(&mut self, now_ms: u64) -> Result<Reading, SourceError> {
        if self.closed {
            return Ok(self.reading());
        }
        let passed_ms = now_ms
            .saturating_sub(self.last_ms.unwrap_or(now_ms))
            .min(STEP_MS_MAX);
        // At most 3.6e6 * 1e3 * 1e5 = 3.6e14.
        let budget_us = passed_ms * 1000 * u64::from(self.speed);
        let before = self.state.position();
        let after = self.advance(before, budget_us);
        if after != before {
            // Kept before it is handed out: after a kill the counter may be ahead of what anyone heard,
            // never behind.
            self.state.write(after)?;
        }
        self.last_ms = Some(now_ms);
        Ok(self.reading())
    }

    fn limit(&mut self, position: Option<u64>) {
        self.limit = position;
    }

    fn blocked(&self) -> bool {
        let position = self.state.position();
        // Lines without octets pass any limit, so a line that is due and still next has some.
        let due = self
            .line(position.line)
            .is_some_and(|line| line.at_us <= position.at_us);
        let full = self
            .limit
            .is_some_and(|limit| position.up + position.down >= limit);
        due && full && !self.closed
    }

    fn finished(&self) -> bool {
        self.closed || (!self.repeat && self.line(self.state.position().line).is_none())
    }

    fn close(&mut self) {
        self.closed = true;
    }
}
