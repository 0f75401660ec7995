//! The armed window: what may be lost with the power, bounded in octets (DESIGN section 6).
//!
//! Before traffic may flow, a position is durably written up to which it may; the gate stops there. When half of the
//! window is used, what was metered is synced and the next window armed, so traffic does not notice as long as its rate
//! is below half a window in the time of a sync.
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

/// The window for a grant of so many octets.
const fn window(grant: u64) -> u64 {
    let part = grant / OF_GRANT;
    if part < LEAST {
        LEAST
    } else if part > MOST {
        MOST
    } else {
        part
    }
}

impl Agent {
    /// An answer moved the ceiling: the window follows the size of the grant.
    pub(super) fn size_window(&mut self) {
        self.window = window(self.remaining());
    }

    /// Arms the next window where less than half of the present one is left, for the step's commit.
    pub(super) fn plan_window(&mut self) {
        if !self.config.armed || !self.gate_wanted().open {
            return;
        }
        let used = self.meter.used().0;
        let ceiling = self.state.credit.ceiling;
        // A little early: the kernel's event at the half comes of another count than the meter's.
        let half = self.window / 2 + self.window / 8;
        let least = ceiling.min(Octets(used.saturating_add(half)));
        if self.state.armed >= least {
            return;
        }
        // So that the window begins at the durable used total.
        self.close_row(0);
        self.state.armed = ceiling.min(Octets(used.saturating_add(self.window)));
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
    use super::window;

    #[test]
    fn a_window_is_a_twentieth_within_its_bounds() {
        assert_eq!(window(0), 16 * 1024);
        assert_eq!(window(1_000_000), 50_000);
        assert_eq!(window(u64::MAX), 1024 * 1024);
    }
}
