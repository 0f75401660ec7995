//! From readings of a counter to samples: differences within one identity, split at the ceiling in force.
//!
//! The position that is stored is always that of the last row: the live one less what is in the open sample. So a
//! kill loses nothing, the kernel's counter still has it.

use simquota_shared::message::usage::flag;
use simquota_shared::units::Octets;

use super::durable::Position;
use super::input::Reading;
use super::time::Stamp;

/// Own octets are counted where they are sent, the link counts a moment later. So many may be carried over.
const OWN_CARRY_MAX: u64 = 16 * 1024;

/// Octets of one stretch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) up: u64,
    pub(super) down: u64,
    /// Of `up + down`.
    pub(super) own: u64,
}

impl Part {
    /// `up + down`; parts with a sum past `u64::MAX` are refused before they are made.
    pub(super) const fn octets(self) -> u64 {
        self.up.saturating_add(self.down)
    }

    pub(super) const fn foreign(self) -> u64 {
        self.octets().saturating_sub(self.own)
    }

    /// The first `octets` of it and the rest. Sent octets are taken to be the earlier ones, and the agent's own
    /// too; the sums are what matters, and they are kept.
    const fn split(self, octets: u64) -> (Self, Self) {
        let up = if self.up < octets { self.up } else { octets };
        let down = octets.saturating_sub(up);
        let own = if self.own < octets { self.own } else { octets };
        let first = Self { up, down, own };
        let rest = Self {
            up: self.up.saturating_sub(up),
            down: self.down.saturating_sub(down),
            own: self.own.saturating_sub(own),
        };
        (first, rest)
    }
}

/// A sample that still grows, or one that is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) part: Part,
    pub(super) flags: u64,
    /// When its first octets came, monotonic.
    pub(super) since_ms: u64,
    /// When its last octets came.
    pub(super) end: Stamp,
}

/// The surroundings of a reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) mono_ms: u64,
    pub(super) stamp: Stamp,
    /// The ceiling in force.
    pub(super) ceiling: Octets,
    /// When the running sample interval began.
    pub(super) interval_ms: u64,
}

/// What a reading brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Samples that are complete with it.
    pub(super) complete: Vec<Sample>,
    /// Octets not the agent's own.
    pub(super) foreign: u64,
    /// The counter or the interface began anew: the new position must be durable soon, it can't be found again.
    pub(super) anew: bool,
    /// It was a counter reset, not the first reading ever.
    pub(super) reset: bool,
}

/// The meter.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    live: Option<Position>,
    own_seen: Option<u64>,
    own_carried: u64,
    used: Octets,
    open: Sample,
    /// Flags for the next sample that has octets.
    waiting: u64,
}

impl Meter {
    pub(super) fn new(position: Option<Position>, used: Octets, waiting: u64) -> Self {
        Self {
            live: position,
            own_seen: None,
            own_carried: 0,
            used,
            open: Sample::default(),
            waiting,
        }
    }

    /// The used total, the open sample included.
    pub(super) const fn used(&self) -> Octets {
        self.used
    }

    pub(super) const fn open(&self) -> &Sample {
        &self.open
    }

    /// The position to store beside the last row.
    pub(super) fn position(&self) -> Option<Position> {
        self.live.as_ref().map(|live| Position {
            // The open sample lies within the live identity: a new identity closes it first.
            up: live.up.saturating_sub(self.open.part.up),
            down: live.down.saturating_sub(self.open.part.down),
            ..live.clone()
        })
    }

    /// What the counter shows next, if it is the same counter, is another network's.
    pub(super) fn leave(&mut self) {
        if let Some(live) = &mut self.live {
            live.left = true;
        }
    }

    /// Ends the open sample, if it has octets.
    pub(super) fn close(&mut self, flags: u64) -> Option<Sample> {
        if self.open.part.octets() == 0 {
            return None;
        }
        let mut sample = std::mem::take(&mut self.open);
        sample.flags |= flags;
        Some(sample)
    }

    /// Takes a reading; `None` when it can't be true, and then nothing has changed.
    pub(super) fn take(&mut self, reading: &Reading, moment: Moment) -> Option<Taken> {
        let base = Base::of(self.live.as_ref(), reading);
        let (up, down) = (
            reading.up.checked_sub(base.up)?,
            reading.down.checked_sub(base.down)?,
        );
        let octets = up.checked_add(down)?;
        self.used.checked_add(octets)?;

        let mut taken = Taken {
            anew: base.anew,
            reset: base.reset,
            ..Taken::default()
        };
        if base.anew {
            taken.complete.extend(self.close(0));
        }
        if base.reset {
            self.waiting |= flag::RESET;
        }
        self.live = Some(Position {
            identity: reading.identity.clone(),
            up: reading.up,
            down: reading.down,
            left: false,
        });
        let own = self.own_of(reading.own, octets);
        let part = Part { up, down, own };
        taken.foreign = part.foreign();
        self.grow(part, moment, &mut taken.complete);
        Some(taken)
    }

    /// How many of the reading's octets were the agent's own.
    fn own_of(&mut self, counted: u64, octets: u64) -> u64 {
        // The first reading of an agent is the base: nothing was sent before it.
        let before = self.own_seen.replace(counted).unwrap_or(counted);
        let since = match counted.checked_sub(before) {
            Some(since) => since,
            None => counted,
        };
        let all = since.saturating_add(self.own_carried);
        let own = all.min(octets);
        self.own_carried = all.saturating_sub(own).min(OWN_CARRY_MAX);
        own
    }

    /// Adds octets, in pieces none of which lies on both sides of the ceiling (DESIGN section 11, number 23).
    fn grow(&mut self, part: Part, moment: Moment, complete: &mut Vec<Sample>) {
        let mut rest = part;
        while rest.octets() > 0 {
            let room = moment.ceiling.beyond(self.used);
            let (piece, beyond) = match room {
                0 => (rest, Part::default()),
                room => rest.split(room.min(rest.octets())),
            };
            let overrun = if room == 0 { flag::OVERRUN } else { 0 };
            if self.stays_apart(overrun, piece, moment) {
                complete.extend(self.close(0));
            }
            self.add(piece, overrun, moment);
            rest = beyond;
        }
    }

    /// Whether the open sample must end before this piece: it lies on the other side of the ceiling, or it has only
    /// the agent's own octets, of an earlier interval (those wait for company, see the allowance in DESIGN section 4).
    fn stays_apart(&self, overrun: u64, piece: Part, moment: Moment) -> bool {
        let open = &self.open;
        let other_side = open.flags & flag::OVERRUN != overrun;
        let waited =
            open.part.foreign() == 0 && piece.foreign() > 0 && open.since_ms < moment.interval_ms;
        other_side || waited
    }

    fn add(&mut self, piece: Part, overrun: u64, moment: Moment) {
        if self.open.part.octets() == 0 {
            self.open = Sample {
                flags: std::mem::take(&mut self.waiting) | overrun,
                since_ms: moment.mono_ms,
                ..Sample::default()
            };
        }
        // The sums were checked against the used total, which is larger.
        self.open.part.up = self.open.part.up.saturating_add(piece.up);
        self.open.part.down = self.open.part.down.saturating_add(piece.down);
        self.open.part.own = self.open.part.own.saturating_add(piece.own);
        self.open.end = moment.stamp;
        self.used = Octets(self.used.0.saturating_add(piece.octets()));
    }
}

/// From where a reading counts.
struct Base {
    up: u64,
    down: u64,
    anew: bool,
    reset: bool,
}

impl Base {
    fn of(live: Option<&Position>, reading: &Reading) -> Self {
        let start_here = Self {
            up: reading.up,
            down: reading.down,
            anew: true,
            reset: false,
        };
        let zero = Self {
            up: 0,
            down: 0,
            anew: true,
            reset: true,
        };
        match live {
            // An epoch begins here: what was before is not its.
            None => start_here,
            Some(live) if live.identity != reading.identity => zero,
            // Another network used this interface since the SIM was left.
            Some(live) if live.left => start_here,
            // Detected by identity, never guessed as a wrap: what it shows is what there was since.
            Some(live) if reading.up < live.up || reading.down < live.down => zero,
            Some(live) => Self {
                up: live.up,
                down: live.down,
                anew: false,
                reset: false,
            },
        }
    }
}
