//! How long to wait before the next connection.

/// Bounds of the wait, in milliseconds.
pub(super) const WAIT_MS_MIN: u64 = 200;
pub(super) const WAIT_MS_MAX: u64 = 30_000;
/// A connection that lasted this long was a good one. A shorter one does not reset the wait: a broker that
/// accepts and drops at once (two clients of one id) would be met every 200 ms for ever.
const GOOD_AFTER_MS: u64 = 10_000;

/// Doubling waits, each drawn from the upper half of its step, so that a fleet that lost its broker at
/// one moment does not return at one moment.
pub(super) struct Backoff {
    failures: u32,
    random: Box<dyn FnMut() -> u64 + Send>,
}

impl Backoff {
    pub(super) fn new(random: Box<dyn FnMut() -> u64 + Send>) -> Backoff {
        Backoff {
            failures: 0,
            random,
        }
    }

    /// The wait after a connection whose end was not in the broker's being away.
    pub(super) fn shortest_ms(&mut self) -> u64 {
        self.wait_ms(GOOD_AFTER_MS)
    }

    /// The wait after a connection that lasted `lasted_ms`, 0 for one that never came about.
    pub(super) fn wait_ms(&mut self, lasted_ms: u64) -> u64 {
        if lasted_ms >= GOOD_AFTER_MS {
            self.failures = 0;
        }
        let step_ms = 2_u64
            .saturating_pow(self.failures)
            .saturating_mul(WAIT_MS_MIN)
            .min(WAIT_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        let half_ms = step_ms / 2;
        half_ms + (self.random)() % (half_ms + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(random: u64, lasted: &[u64]) -> Vec<u64> {
        let mut backoff = Backoff::new(Box::new(move || random));
        lasted.iter().map(|ms| backoff.wait_ms(*ms)).collect()
    }

    #[test]
    fn waits_double_to_their_bound_within_the_upper_half() {
        assert_eq!(
            waits(0, &[0; 10]),
            [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]
        );
        let mut backoff = Backoff::new(Box::new(|| u64::MAX));
        for _ in 0..100 {
            let wait_ms = backoff.wait_ms(0);
            assert!((WAIT_MS_MIN / 2..=WAIT_MS_MAX).contains(&wait_ms));
        }
    }

    #[test]
    fn only_a_connection_that_lasted_resets_the_wait() {
        assert_eq!(
            waits(0, &[0, 0, 9999, 10_000, 0]),
            [100, 200, 400, 100, 200]
        );
    }
}
