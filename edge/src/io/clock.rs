//! The only place of this crate that reads a clock.
//!
//! Everything else takes the time as an argument, so that a test or a replay can drive it by hand.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Milliseconds on a clock that never jumps and that goes on while the device is suspended.
///
/// `CLOCK_BOOTTIME` rather than `CLOCK_MONOTONIC` (which is what `std::time::Instant` reads): a
/// grant's validity has to run out in a device that sleeps. It starts near zero at boot, so values
/// of two boots must never be compared.
#[must_use]
pub fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    // The kernel never reports this clock below zero; zero is the honest reading if one did.
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let millis = u64::try_from(now.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(millis)
}

/// Milliseconds since 1970-01-01 UTC by the device's own clock, which may be wrong or step.
///
/// A clock set before 1970 reads as 0, which every user of this value takes for "not set".
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_is_boottime_and_does_not_go_back() {
        // The first field of /proc/uptime is CLOCK_BOOTTIME in seconds, so it must lie between two readings.
        let before = monotonic_ms();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
        let after = monotonic_ms();
        assert!(after >= before);
        let seconds: f64 = uptime
            .split(' ')
            .next()
            .and_then(|s| s.parse().ok())
            .unwrap_or(-1.0);
        // Two decimals, cut off: allow one of them on the low side.
        let uptime_ms = seconds * 1000.0;
        assert!(
            uptime_ms + 10.0 >= before as f64 && uptime_ms <= after as f64,
            "{before} {uptime_ms} {after}"
        );
    }

    #[test]
    fn wall_time_is_after_this_was_written() {
        assert!(wall_ms() > 1_700_000_000_000);
    }
}
