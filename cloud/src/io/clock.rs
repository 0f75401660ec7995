//! The only place of this crate that reads a clock. Everything else takes the time as an argument.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use governor::clock::Clock;
use governor::nanos::Nanos;
use rustix::time::{ClockId, clock_gettime};
use simquota_shared::units::UnixMillis;

/// The wall clock. A clock set before 1970 reads as 0, and the ledger's own time then stands in for it: the
/// cloud's now is never earlier than its last entry.
#[must_use]
pub fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok();
    UnixMillis(
        since
            .and_then(|since| u64::try_from(since.as_millis()).ok())
            .unwrap_or(0),
    )
}

static START: OnceLock<Start> = OnceLock::new();

/// Where the service's time began.
#[derive(Clone, Copy)]
struct Start {
    at: UnixMillis,
    monotonic_ms: u64,
}

impl Start {
    fn new(wall: UnixMillis, last: UnixMillis, monotonic_ms: u64) -> Self {
        Self {
            at: wall.max(last),
            monotonic_ms,
        }
    }

    fn time(self, monotonic_ms: u64) -> UnixMillis {
        let passed_ms = monotonic_ms.saturating_sub(self.monotonic_ms);
        UnixMillis(self.at.value().saturating_add(passed_ms))
    }
}

/// Begins the service's time, which is not earlier than its last entry's: where the wall clock is behind that, leases
/// and validities would stand still until it has caught up. Only the first call counts.
pub fn begin(last: UnixMillis) {
    START.get_or_init(|| Start::new(now(), last, monotonic_ms()));
}

/// The service's time: the wall clock at its beginning, carried on by a clock that never jumps. Leases run on it: a
/// wall clock that is set forward by half an hour would end leases whose grants still hold on the devices.
#[must_use]
pub fn steady() -> UnixMillis {
    begin(UnixMillis(0));
    let monotonic_ms = monotonic_ms();
    START
        .get()
        .map_or_else(now, |start| start.time(monotonic_ms))
}

/// Nanoseconds on a clock that never jumps and goes on while the machine is suspended (`CLOCK_BOOTTIME`): a
/// suspended machine must not look like a wall clock that was set forward.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // The kernel never reports this clock below zero; zero is the honest reading if one did.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// [`monotonic_ns`] in milliseconds.
#[must_use]
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}

/// [`monotonic_ns`] for rate limiters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(monotonic_ns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behind_the_last_entry_time_goes_on_from_there() {
        let (wall, last) = (UnixMillis(1_000), UnixMillis(90_000));
        let start = Start::new(wall, last, 70);
        assert_eq!(start.time(70), last);
        assert_eq!(start.time(1_070), UnixMillis(91_000));
        assert_eq!(Start::new(last, wall, 0).time(1), UnixMillis(90_001));
    }

    #[test]
    fn wall_time_is_after_this_was_written_and_monotonic_time_does_not_go_back() {
        assert!(now() > UnixMillis(1_700_000_000_000));
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
    }
}
