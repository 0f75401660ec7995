//! Rows: made from samples, dated, and kept in memory until a commit takes them.
//!
//! A row is committed with the next report, request, switch or end, when [`sync_octets`] are waiting, or after five
//! minutes. A flash is worn by writes, not by octets; a kill in between is covered by the kernel's counter.
//!
//! [`sync_octets`]: super::AgentConfig::sync_octets

use simquota_shared::message::usage::flag;
use simquota_shared::message::{Kind, Reason};
use simquota_shared::units::{Octets, Seq};

use super::durable::Row;
use super::effects::Notice;
use super::input::Reading;
use super::meter::{Moment, Sample};
use super::time::Stamp;
use super::{Agent, Commit};

/// Rows with octets that are not the agent's own wait no longer than this.
const SYNC_MS: u64 = 300_000;

/// No more rows than this wait.
const ROWS_WAITING_MAX: usize = 100;

impl Agent {
    /// Notes a step of the wall clock: no batch goes across it.
    pub(super) fn watch_clock(&mut self) {
        let Some(moved) = self.time.step(self.now) else {
            return;
        };
        self.notices.push(Notice::ClockStepped(moved));
        // Dated by the clock before the step, which may have been the wrong one.
        if let Some(sample) = self.meter.close(flag::CLOCK_UNSURE) {
            self.add_row(sample, sample.end);
        }
        self.apart = true;
    }

    pub(super) fn on_reading(&mut self, reading: &Reading) {
        self.read_again_later();
        if self.off {
            return; // another network's octets
        }
        let stamp = self.time.stamp(self.now);
        let moment = Moment {
            mono_ms: self.now.mono_ms,
            stamp,
            ceiling: self.state.credit.ceiling,
            interval_ms: self.sample_ms.saturating_sub(self.sample_interval_ms()),
        };
        let before = self.meter.used();
        let Some(taken) = self.meter.take(reading, moment) else {
            return self.notices.push(Notice::ReadingRefused);
        };
        self.pace.metered(self.now.mono_ms, self.meter.used());
        let beyond = self.meter.used().beyond(moment.ceiling.max(before));
        self.make_way(reading.dropped, beyond);
        if taken.reset && self.booting {
            self.declare_window();
        }
        for sample in taken.complete {
            self.add_row(sample, sample.end);
        }
        if taken.reset {
            self.notices.push(Notice::CounterReset);
            self.close_row(0); // so that the flag is durable with the position
        }
        // The position on the old counter is gone for good; the one on the new one must not be lost as well.
        self.dirty |= taken.anew;
        if taken.foreign > 0 {
            self.on_foreign_octets();
        }
        self.end_interval(stamp);
        self.notice_ceiling();
    }

    /// Octets beyond the ceiling that the gate dropped were delivered and are used, but the allowance is for what
    /// passes: its end moves with them. Else a burst that meets the gate would silence the agent.
    ///
    /// `dropped` was counted a moment before the meter was read: octets of one reading may be found dropped in the next.
    fn make_way(&mut self, dropped: u64, beyond: u64) {
        let since = match dropped.checked_sub(self.dropped_seen) {
            Some(since) => since,
            None => dropped, // another table
        };
        self.dropped_seen = dropped;
        let moved = since.min(beyond.saturating_add(self.beyond_unexplained));
        self.beyond_unexplained = beyond.saturating_sub(moved);
        self.moved_since_cut = self.moved_since_cut.saturating_add(moved);
        for stop in [&mut self.state.credit.stop, &mut self.budget.stop] {
            if *stop > Octets::ZERO {
                *stop = Octets(stop.0.saturating_add(moved));
            }
        }
    }

    fn on_foreign_octets(&mut self) {
        self.asking.traffic_ms = self.now.mono_ms;
        if self.asking.wish == Some((Kind::Final, Reason::HOLDING)) {
            self.asking.wish = None; // not idle after all
        }
        if self.config.observe {
            self.on_traffic();
        }
    }

    /// Ends the sample at the interval. One of the agent's own octets alone waits for company.
    fn end_interval(&mut self, stamp: Stamp) {
        let now_ms = self.now.mono_ms;
        if now_ms < self.sample_ms {
            return;
        }
        if self.meter.open().part.foreign() > 0
            && let Some(sample) = self.meter.close(0)
        {
            self.add_row(sample, stamp);
        }
        let interval_ms = self.sample_interval_ms();
        let over = now_ms.saturating_sub(self.sample_ms) / interval_ms;
        self.sample_ms = self
            .sample_ms
            .saturating_add(interval_ms.saturating_mul(over.saturating_add(1)));
    }

    pub(super) fn sample_interval_ms(&self) -> u64 {
        self.state.policy.sample_s.max(1).saturating_mul(1000)
    }

    fn notice_ceiling(&mut self) {
        let used = self.meter.used();
        let ceiling = self.state.credit.ceiling;
        if self.gate.open && used >= ceiling && self.gate.ceiling == ceiling {
            self.notices.push(Notice::CeilingReached { ceiling, used });
            if let Some(action) = self.state.credit.final_unit.clone() {
                self.notices.push(Notice::FinalUnit(action));
            }
        }
    }

    /// Ends the open sample here and now.
    pub(super) fn close_row(&mut self, flags: u64) {
        let stamp = self.time.stamp(self.now);
        if let Some(sample) = self.meter.close(flags) {
            self.add_row(sample, stamp);
        }
    }

    fn add_row(&mut self, sample: Sample, end: Stamp) {
        let part = sample.part;
        let state = &mut self.state;
        let seq = state.next_seq;
        // Numbers are 64 bits wide, and the used total was checked when the octets were taken.
        state.next_seq = Seq(seq.0.saturating_add(1));
        state.used = Octets(state.used.0.saturating_add(part.octets()));
        if self.rows.is_empty() {
            self.rows_since_ms = self.now.mono_ms;
        }
        self.rows.push(Row {
            seq,
            count: 1,
            end: end.end_s,
            clock: end.clock,
            apart: std::mem::take(&mut self.apart),
            boot: state.boot,
            iccid: state.iccid.clone(),
            zone: state.zone.clone(),
            up: part.up,
            down: part.down,
            own: part.own,
            flags: sample.flags,
            unsure: std::mem::take(&mut state.unsure),
            total: state.used,
        });
        if part.foreign() > 0 {
            self.outbox.worth = seq;
        }
    }

    /// Commits rows that have waited long enough.
    pub(super) fn plan_sync(&mut self) {
        if self.unsynced() >= self.config.sync_octets.0.max(1) {
            self.close_row(0);
            self.dirty = true;
        }
        let waited = self.sync_at_ms().is_some_and(|at| self.now.mono_ms >= at);
        self.dirty |= waited || self.rows.len() >= ROWS_WAITING_MAX;
    }

    pub(super) fn sync_at_ms(&self) -> Option<u64> {
        let worth = self.rows.iter().any(|row| row.foreign() > 0);
        worth.then(|| self.rows_since_ms.saturating_add(SYNC_MS))
    }

    /// State and rows, for one durable write.
    pub(super) fn commit(&mut self) -> Option<Commit> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        self.state.position = self.meter.position();
        Some(Commit {
            state: self.state.clone(),
            rows: std::mem::take(&mut self.rows),
        })
    }
}
