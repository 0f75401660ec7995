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

/// The service's time: the wall clock at its first reading, carried on by a clock that never jumps. Leases run on
/// it: a wall clock that is set forward by half an hour would end leases whose grants still hold on the devices.
#[must_use]
pub fn steady() -> UnixMillis {
    static START: OnceLock<(u64, u64)> = OnceLock::new();
    let (wall_ms, started_ms) = *START.get_or_init(|| (now().value(), monotonic_ms()));
    UnixMillis(wall_ms.saturating_add(monotonic_ms().saturating_sub(started_ms)))
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
    fn wall_time_is_after_this_was_written_and_monotonic_time_does_not_go_back() {
        assert!(now() > UnixMillis(1_700_000_000_000));
        let before = monotonic_ns();
        assert!(monotonic_ns() >= before);
    }
}
