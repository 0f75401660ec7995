//! The armed window: what may be lost with the power, bounded in octets (DESIGN section 6).
//!
//! Before traffic may flow, a position is durably written up to which it may; the gate stops there. When three eighths of
//! the window are used, what was metered is synced and the next window armed, so traffic does not notice as long as half a
//! window lasts as long as that takes.
//!
//! So the window is a twentieth of the grant, and more where the present rate and the present time of a sync ask for it:
//! twice what passes while one is made. It is 16 KiB at least and 1 MiB at most, whatever they are: that is what a power
//! cut may cost.
//!
//! A kill loses nothing: the kernel's counter still has what the store lacks. A power cut takes the counter along, and
//! then what lies between the durable used total and the armed position is **declared** with the next row, as octets
//! that may have been used. They are in no sum and are not charged.

use simquota_shared::units::Octets;

use super::Agent;

/// One part in so many of the grant, within these bounds.
const OF_GRANT: u64 = 20;
const LEAST: u64 = 16 * 1024;
const MOST: u64 = 1024 * 1024;

/// A rate is taken over so many milliseconds at least: a burst of two packets is none.
const SPAN_MS: u64 = 20;

/// How fast traffic is, and how slow a sync.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    octets_per_s: u64,
    sync_ms: u64,
    /// When the running span began, and the used total then.
    since: Option<(u64, Octets)>,
}

impl Pace {
    /// Takes note of a reading.
    pub(super) fn metered(&mut self, now_ms: u64, used: Octets) {
        let Some((since_ms, from)) = self.since else {
            self.since = Some((now_ms, used));
            return;
        };
        let span_ms = now_ms.saturating_sub(since_ms);
        if span_ms < SPAN_MS {
            return;
        }
        let rate = used.beyond(from).saturating_mul(1000) / span_ms;
        self.octets_per_s = rate.max(fading(self.octets_per_s));
        self.since = Some((now_ms, used));
    }

    /// Takes note of a sync.
    pub(super) fn synced(&mut self, took_ms: u64) {
        self.sync_ms = took_ms.max(fading(self.sync_ms));
    }

    /// Twice what passes while a sync is made.
    const fn asks_for(&self) -> u64 {
        self.octets_per_s.saturating_mul(self.sync_ms) / 500
    }
}

/// What was higher once counts for a while: too large a window is none too large, too small a one holds traffic up.
const fn fading(value: u64) -> u64 {
    value.saturating_sub(value.div_ceil(4))
}

/// The window for a grant of so many octets.
fn window(grant: u64, pace: &Pace) -> u64 {
    (grant / OF_GRANT).max(pace.asks_for()).clamp(LEAST, MOST)
}

impl Agent {
    /// An answer moved the ceiling: the window follows the size of the grant.
    pub(super) fn size_window(&mut self) {
        self.granted = self.remaining();
    }

    /// Octets that are armed at a time.
    pub(super) fn window(&self) -> u64 {
        window(self.granted, &self.pace)
    }

    /// Arms the next window where less than half of the present one is left, for the step's commit.
    pub(super) fn plan_window(&mut self) {
        if !self.config.armed || !self.gate_wanted().open {
            return;
        }
        let used = self.meter.used().0;
        let ceiling = self.state.credit.ceiling;
        // A little early: the kernel's event at the half comes of another count than the meter's.
        let window = self.window();
        let half = window / 2 + window / 8;
        let least = ceiling.min(Octets(used.saturating_add(half)));
        if self.state.armed >= least {
            return;
        }
        // So that the window begins at the durable used total.
        self.close_row(0);
        self.state.armed = ceiling.min(Octets(used.saturating_add(window)));
        self.dirty = true;
    }

    /// The counter that the last start left behind is gone: what it may have counted is declared with the next row.
    pub(super) fn declare_window(&mut self) {
        let lost = self.state.armed.beyond(self.state.used);
        self.state.unsure = self.state.unsure.saturating_add(lost);
        self.state.armed = self.state.used;
        self.dirty = true;
    }

    /// Where traffic stops for want of a durable window.
    pub(super) const fn armed(&self) -> Octets {
        match self.config.armed {
            true => self.state.armed,
            false => Octets(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_twentieth_within_its_bounds() {
        let still = Pace::default();
        assert_eq!(window(0, &still), 16 * 1024);
        assert_eq!(window(1_000_000, &still), 50_000);
        assert_eq!(window(u64::MAX, &still), 1024 * 1024);
    }

    #[test]
    fn a_window_is_as_large_as_rate_and_sync_ask_for() {
        let mut pace = Pace::default();
        pace.metered(0, Octets(0));
        pace.metered(10, Octets(9_000_000));
        assert_eq!(window(1_000_000, &pace), 50_000, "no span yet");
        // 10 MB a second, of which 100 kB pass in 10 ms.
        pace.metered(1_000, Octets(10_000_000));
        pace.synced(10);
        assert_eq!(window(1_000_000, &pace), 200_000);
        pace.synced(300);
        assert_eq!(window(1_000_000, &pace), 1024 * 1024, "never more");
        // What was fast once is slow in the end, and the grant decides again.
        for second in 2..40 {
            pace.metered(second * 1_000, Octets(10_000_000));
        }
        assert_eq!(window(1_000_000, &pace), 50_000);
    }
}
