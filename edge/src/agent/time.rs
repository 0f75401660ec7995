//! Two clocks: one that never jumps and drives every timer, and one that dates rows, if there is any.

use super::input::Now;

/// The wall clock moved against the monotonic one by more than this: a step, not drift.
pub(super) const STEP_MS: i64 = 2_000;

/// The cloud's time is taken only from an answer that came within this time of the first sending (rule R3).
pub(super) const SERVER_TIME_MS: u64 = 60_000;

/// When a row ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) end_s: u64,
    pub(super) clock: bool,
}

/// What is known about the time of day.
#[derive(Clone, Copy, Debug)]
pub(super) struct Time {
    started_ms: u64,
    /// Cloud time less monotonic time.
    server: Option<i64>,
    /// The difference that the last step went by.
    last: Option<i64>,
}

impl Time {
    pub(super) const fn new(started_ms: u64) -> Self {
        Self {
            started_ms,
            server: None,
            last: None,
        }
    }

    /// Wall time less monotonic time: the device's own clock goes before the cloud's.
    fn offset(&self, now: Now) -> Option<i64> {
        let own = now.wall_ms.and_then(|wall| difference(wall, now.mono_ms));
        own.or(self.server)
    }

    pub(super) fn wall_ms(&self, now: Now) -> Option<u64> {
        self.offset(now)
            .and_then(|offset| now.mono_ms.checked_add_signed(offset))
    }

    /// The cloud's time, as far as its answers told it. What the cloud dates is judged by this alone: a device's
    /// own clock may be a day ahead, and would refuse every command as expired.
    pub(super) fn cloud_ms(&self, now: Now) -> Option<u64> {
        self.server
            .and_then(|offset| now.mono_ms.checked_add_signed(offset))
    }

    pub(super) fn stamp(&self, now: Now) -> Stamp {
        match self.wall_ms(now) {
            Some(wall) => Stamp {
                end_s: wall / 1000,
                clock: true,
            },
            None => Stamp {
                end_s: now.mono_ms.saturating_sub(self.started_ms) / 1000,
                clock: false,
            },
        }
    }

    /// By how much the wall clock stepped since the last call, if it did.
    pub(super) fn step(&mut self, now: Now) -> Option<i64> {
        let offset = self.offset(now);
        let before = std::mem::replace(&mut self.last, offset)?;
        let moved = offset?.checked_sub(before)?;
        (moved.unsigned_abs() > STEP_MS.unsigned_abs()).then_some(moved)
    }

    /// Takes over the cloud's time; returns it when that changed anything.
    ///
    /// The cloud said `server_ms` at some moment between the first sending and now. An offset that is possible under
    /// that is kept: a slow answer must not make the clock step.
    pub(super) fn take_server(&mut self, now: Now, first_ms: u64, server_ms: u64) -> Option<u64> {
        if now.mono_ms.saturating_sub(first_ms) > SERVER_TIME_MS {
            return None;
        }
        let earliest = difference(server_ms, now.mono_ms)?;
        let latest = difference(server_ms, first_ms)?;
        let possible = earliest.checked_sub(STEP_MS)?..=latest.checked_add(STEP_MS)?;
        if self.server.is_some_and(|offset| possible.contains(&offset)) {
            return None;
        }
        self.server = Some(latest);
        Some(server_ms)
    }
}

fn difference(wall_ms: u64, mono_ms: u64) -> Option<i64> {
    let wall = i64::try_from(wall_ms).ok()?;
    wall.checked_sub(i64::try_from(mono_ms).ok()?)
}

/// Waits that double.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    first_ms: u64,
    max_ms: u64,
    next_ms: u64,
}

impl Backoff {
    pub(super) const fn new(first_ms: u64, max_ms: u64) -> Self {
        Self {
            first_ms,
            max_ms,
            next_ms: first_ms,
        }
    }

    pub(super) fn reset(&mut self) {
        self.next_ms = self.first_ms;
    }

    /// The next wait, longer by the given thousandths.
    pub(super) fn wait(&mut self, jitter_permille: u64) -> u64 {
        let wait = self.next_ms;
        self.next_ms = wait.saturating_mul(2).min(self.max_ms);
        wait.saturating_add(wait.saturating_mul(jitter_permille) / 1000)
    }
}
