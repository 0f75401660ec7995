//! How fast a device used octets lately, in integers, from charged samples by cloud time (DESIGN section 11, number 6).
//!
//! Kept are the octets of the last ten minutes, as if each had come evenly since the sample before it. A sample that
//! is further from the one before is spread over that time, so a device that reports once an hour has the pace of its
//! hour. Nothing is rounded up: whoever is between two octets is taken for slower.

use serde::{Deserialize, Serialize};
use simquota_shared::units::{Octets, UnixMillis};

/// How far it looks back.
const WINDOW_MS: u64 = 600_000;
/// What was seen for less says nothing yet.
const KNOWN_MS: u64 = 60_000;

/// Octets, over how long, until when.
///
/// ```
/// use simquota_cloud::ledger::pace::Pace;
/// use simquota_shared::units::{Octets, UnixMillis};
///
/// let pace = Pace::from(UnixMillis(1000)).after(Octets(6000), UnixMillis(61_000));
/// assert_eq!(pace.octets_in(1_800_000), Some(180_000)); // 100 a second, half an hour
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    octets: u64,
    over_ms: u64,
    at: UnixMillis,
}

impl Pace {
    /// Nothing is known yet; it is looked at from now on.
    #[must_use]
    pub const fn from(at: UnixMillis) -> Self {
        Self {
            octets: 0,
            over_ms: 0,
            at,
        }
    }

    /// The pace after octets that were used since the last ones.
    #[must_use]
    pub fn after(self, octets: Octets, at: UnixMillis) -> Self {
        // A device from before paces were kept: what it used until now is of no known time.
        if self.at == UnixMillis::ZERO {
            return Self::from(at);
        }
        let elapsed = at.beyond(self.at);
        if elapsed >= WINDOW_MS {
            return Self {
                octets: scaled(octets.value(), WINDOW_MS, elapsed),
                over_ms: WINDOW_MS,
                at,
            };
        }
        let keeps_ms = self.over_ms.min(WINDOW_MS - elapsed);
        let kept = if keeps_ms == self.over_ms {
            self.octets
        } else {
            scaled(self.octets, keeps_ms, self.over_ms)
        };
        Self {
            // It sizes grants and is no balance: at the end of the numbers a pace may stay where it is.
            octets: kept.saturating_add(octets.value()),
            over_ms: keeps_ms + elapsed,
            at,
        }
    }

    /// The same pace, looked at from now on: the time between does not count. While a device is refused it stands still,
    /// which says nothing about how fast it goes.
    #[must_use]
    pub fn resumed(self, at: UnixMillis) -> Self {
        Self {
            at: if self.at == UnixMillis::ZERO {
                self.at
            } else {
                at
            },
            ..self
        }
    }

    /// Octets that it uses in so many milliseconds; none while too little was seen to say.
    #[must_use]
    pub fn octets_in(self, ms: u64) -> Option<u64> {
        (self.over_ms >= KNOWN_MS).then(|| scaled(self.octets, ms, self.over_ms))
    }
}

/// `octets * ms / of_ms`, rounded down.
fn scaled(octets: u64, ms: u64, of_ms: u64) -> u64 {
    let product = u128::from(octets) * u128::from(ms);
    let scaled = product.checked_div(u128::from(of_ms)).unwrap_or_default();
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const BEGIN: UnixMillis = UnixMillis(1_795_392_000_000);
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    fn at(ms: u64) -> UnixMillis {
        UnixMillis(BEGIN.value() + ms)
    }

    #[test]
    fn a_steady_device_has_its_pace_however_often_it_reports() {
        for every in [MINUTE, 5 * MINUTE, 10 * MINUTE, HOUR] {
            let mut pace = Pace::from(BEGIN);
            let mut now = 0;
            while now < 6 * HOUR {
                now += every;
                pace = pace.after(Octets(every / 1000 * 250), at(now));
            }
            let hour = pace.octets_in(HOUR).unwrap();
            assert!((899_900..=900_000).contains(&hour), "{every}: {hour}");
        }
    }

    #[test]
    fn it_is_not_known_before_a_minute() {
        let pace = Pace::from(BEGIN).after(Octets(1_000_000), at(59_999));
        assert_eq!(pace.octets_in(HOUR), None);
        assert_eq!(
            pace.after(Octets(0), at(MINUTE)).octets_in(HOUR),
            Some(60_000_000)
        );
        assert_eq!(Pace::default().after(Octets(5), at(0)).octets_in(1), None);
    }

    #[test]
    fn it_forgets_within_ten_minutes() {
        let fast = Pace::from(BEGIN).after(Octets(6_000_000), at(10 * MINUTE));
        assert_eq!(fast.octets_in(10 * MINUTE), Some(6_000_000));
        let half = fast.after(Octets(0), at(15 * MINUTE));
        assert_eq!(half.octets_in(10 * MINUTE), Some(3_000_000));
        let none = fast.after(Octets(0), at(20 * MINUTE));
        assert_eq!(none.octets_in(10 * MINUTE), Some(0));
        // Refused for a day, it is as fast as before.
        let waited = fast.resumed(at(24 * HOUR));
        assert_eq!(waited.octets_in(10 * MINUTE), Some(6_000_000));
    }

    #[test]
    fn the_largest_numbers_do_not_break_it() {
        let pace = Pace::from(BEGIN)
            .after(Octets(u64::MAX), at(MINUTE))
            .after(Octets(u64::MAX), at(2 * MINUTE));
        assert_eq!(pace.octets_in(u64::MAX), Some(u64::MAX));
        let back = pace.after(Octets(1), BEGIN);
        assert!(back.octets_in(MINUTE).is_some(), "a clock that went back");
    }
}
