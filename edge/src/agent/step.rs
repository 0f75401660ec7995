//! The order within a step: lower, read, cut, ask, report, commit, raise, publish, load.

use simquota_shared::ids::{ChannelId, Iccid};
use simquota_shared::message::usage::flag;
use simquota_shared::message::{Kind, Reason};
use simquota_shared::units::Octets;

use super::effects::{Disagreement, Effects, Notice, Outgoing, Up};
use super::gate::GateState;
use super::{Agent, Change, Tuning};

/// One connect budget per step of this timer, and what it is (DESIGN section 4, "Allowance").
pub(super) const BUDGET_MS: u64 = 15 * 60 * 1000;
/// A full packet on most networks.
const PACKET_OCTETS: u64 = 1_500;
const BUDGET_OCTETS: u64 = 8 * 1024;

impl Agent {
    /// Carries out what the input and the time called for.
    ///
    /// `cuttable`: the meter was just read behind a gate that was shut before. `fresh`: it was just read.
    pub(super) fn settle(&mut self, cuttable: bool, fresh: bool, effects: &mut Effects) {
        if self.stopped {
            effects.lower = Some(GateState::shut(self.gate.ceiling, self.gate.stop));
            return;
        }
        if (self.needs_shut_reading() && !cuttable) || (self.needs_reading() && !fresh) {
            effects.lower = self.tighten();
            effects.read = true;
            effects.wake_at_ms = Some(self.now.mono_ms.saturating_add(1));
            return;
        }
        self.at_boundary(effects);
        if !self.stopped {
            self.plan_update();
            self.send_register();
            self.send_credit();
            self.plan_question();
            self.plan_report();
            self.plan_budget();
        }
        self.plan_sync();
        self.plan_window();
        effects.lower = self.tighten();
        effects.store = self.commit();
        effects.raise = self.widen();
        effects.publish = std::mem::take(&mut self.outbound);
        effects.publish.sort_by_key(|message| message.up);
        if !self.stopped {
            effects.load = self.plan_load();
            effects.wake_at_ms = self.wake_at_ms();
        }
        effects.notices = std::mem::take(&mut self.notices);
    }

    /// What has to be decided behind a shut gate, on the octets that really passed.
    fn needs_shut_reading(&self) -> bool {
        self.booting
            || self.change.is_some()
            || self.cut_ready()
            || self.retire_ready()
            || self.finish_ready()
    }

    fn needs_reading(&self) -> bool {
        self.report_asked || (!self.off && self.now.mono_ms >= self.poll_ms)
    }

    pub(super) fn read_again_later(&mut self) {
        self.poll_ms = self.now.mono_ms.saturating_add(self.config.poll_ms.max(1));
    }

    /// Everything that ends a row.
    fn at_boundary(&mut self, effects: &mut Effects) {
        if self.booting {
            self.cut_at_boot();
        }
        if let Some(change) = self.change.take() {
            self.apply_change(change);
        }
        if self.retire_ready() {
            self.close_row(0);
            self.dirty = true;
            self.stopped = true;
            effects.new_epoch = true;
            return;
        }
        if self.cut_ready()
            && let Some((kind, reason)) = self.asking.wish
        {
            self.cut(kind, reason);
        }
        if std::mem::take(&mut self.report_asked) {
            self.close_row(0);
            self.report();
        }
        if self.finish_ready() {
            self.close_row(flag::SHUTDOWN);
            self.state.clean = true;
            self.dirty = true;
            if self.link.connected {
                self.publish_status(false);
            }
            self.stopped = true;
            effects.done = true;
        }
    }

    fn apply_change(&mut self, change: Change) {
        self.close_row(0);
        self.dirty = true;
        match change {
            Change::Zone(zone) => {
                self.state.zone = zone;
                self.asking.valid = None;
                self.wish_initial(Reason::CONDITION);
            }
            Change::Sim(iccid) => {
                self.take_iccid(iccid);
                self.register_again();
            }
        }
    }

    pub(super) fn on_sim_changed(&mut self, iccid: Iccid) {
        if self.state.iccid.as_ref() != Some(&iccid) {
            self.change = Some(Change::Sim(iccid));
        }
    }

    pub(super) fn on_connected(&mut self, channel: Option<ChannelId>) {
        self.link.connected = true;
        self.link.channel = channel;
        self.link.connection = self.link.connection.saturating_add(1);
        self.publish_status(true);
        if !self.registration.accepted {
            self.registration.next_ms = self.now.mono_ms;
        }
        match &mut self.asking.sent {
            Some(sent) => sent.next_ms = self.now.mono_ms,
            None if self.asking.valid.is_none() => self.wish_initial(Reason::CONNECT),
            None => self.asking.on_connect = self.remaining() == 0,
        }
        self.resume_outbox();
    }

    pub(super) fn on_disconnected(&mut self) {
        self.link.connected = false;
        // What needs an answer is decided anew when there is someone to give one. The grant goes on meanwhile.
        if let Some((_, Reason::HOLDING | Reason::ABANDONED)) = self.asking.wish {
            self.asking.wish = None;
        }
        self.outbox.retry_ms = None;
    }

    pub(super) fn on_tuned(&mut self, tuning: Tuning) {
        let Tuning {
            want,
            sync_octets,
            poll_ms,
            shutdown_ms,
        } = tuning;
        let config = &mut self.config;
        config.want = want;
        config.sync_octets = sync_octets;
        config.poll_ms = poll_ms;
        config.shutdown_ms = shutdown_ms;
        // What was planned may lie far beyond the new interval.
        let soonest_ms = self.now.mono_ms.saturating_add(poll_ms.max(1));
        self.poll_ms = self.poll_ms.min(soonest_ms);
    }

    pub(super) fn on_leave(&mut self, lost: bool) {
        if self.off && !lost {
            // It was lost, and now another network has it.
            self.meter.leave();
            self.dirty = true;
        }
        if !self.off && self.shutting.is_none() {
            self.lost = lost;
            self.asking.wish = Some((Kind::Final, Reason::SWITCH));
        }
    }

    pub(super) fn on_return(&mut self) {
        if self.off && self.shutting.is_none() {
            self.off = false;
            self.asking.dormant = false;
            self.poll_ms = self.now.mono_ms;
            self.wish_initial(Reason::CONDITION);
        }
    }

    pub(super) fn on_shutdown(&mut self) {
        if self.shutting.is_some() {
            return;
        }
        self.shutting = Some(self.now.mono_ms.saturating_add(self.config.shutdown_ms));
        let nothing_open = self.off || self.retiring.is_some();
        self.asking.wish = match nothing_open {
            true => None,
            false => Some((Kind::Final, Reason::SHUTDOWN)),
        };
    }

    /// The end has come: everything is answered, or the time is over.
    fn finish_ready(&self) -> bool {
        let Some(deadline_ms) = self.shutting else {
            return false;
        };
        let settled =
            self.state.credit.outstanding.is_none() && self.state.acked >= self.outbox.until;
        let over = self.now.mono_ms >= deadline_ms || self.retiring.is_some();
        !self.booting && self.asking.wish.is_none() && (settled || over)
    }

    /// The two sides can't go on under this epoch. The gate stays shut until the next one begins.
    pub(super) fn disagree(&mut self, why: Disagreement) {
        if self.retiring.is_some() {
            return;
        }
        let least_ms = self.started_ms.saturating_add(self.config.new_epoch_ms);
        self.retiring = Some((why, self.now.mono_ms.max(least_ms)));
        self.asking.valid = None;
        self.asking.wish = None;
        self.notices.push(Notice::NewEpochNeeded(why));
    }

    fn retire_ready(&self) -> bool {
        let due = self
            .retiring
            .is_some_and(|(_, at_ms)| self.now.mono_ms >= at_ms);
        due && self.shutting.is_none() && !self.booting
    }

    /// At the second stop: one budget to connect and ask, each time the timer comes round.
    fn plan_budget(&mut self) {
        let used = self.meter.used();
        if self.budget_wanted() && self.now.mono_ms >= self.budget.next_ms {
            self.budget.stop = Octets(used.0.saturating_add(BUDGET_OCTETS));
            self.budget.next_ms = self.now.mono_ms.saturating_add(BUDGET_MS);
            self.notices.push(Notice::ConnectBudget(self.budget.stop));
        }
    }

    pub(super) fn budget_wanted(&self) -> bool {
        !self.off && self.meter.used() >= self.state.credit.stop.max(self.budget.stop)
    }

    pub(super) fn publish(&mut self, up: Up, payload: Vec<u8>, retain: bool) {
        self.outbound.push(Outgoing {
            up,
            payload,
            retain,
        });
    }

    /// How the gate is to be.
    pub(super) fn gate_wanted(&self) -> GateState {
        let credit = &self.state.credit;
        let valid = self
            .asking
            .valid
            .is_some_and(|valid| self.now.mono_ms < valid.until_ms);
        let usable = valid
            && !self.booting
            && !self.off
            && !self.stopped
            && !self.state.suspended
            && self.asking.wish.is_none()
            && self.change.is_none()
            && self.retiring.is_none()
            && self.shutting.is_none();
        let left = self.remaining() > 0;
        // The connect budget is the agent's alone: what is allowed or slow beyond the ceiling ends at the stop.
        let spent = self.meter.used() >= credit.stop;
        GateState {
            open: usable && left,
            ceiling: credit.ceiling,
            stop: match spent {
                true => credit.stop.max(self.budget.stop),
                false => credit.stop,
            },
            armed: self.armed(),
            ended: self.state.suspended || (usable && self.nothing_more()),
            // With what ends flows, not after it: a flow that is slowed must not be ended before.
            final_unit: match usable && (!left || self.nothing_more()) && !spent {
                true => credit.final_unit.clone(),
                false => None,
            },
        }
    }

    /// Whether the grant is used up and nothing is under way that could bring more. An end that no packet fits into is
    /// used up as well, if it is the last one.
    fn nothing_more(&self) -> bool {
        let credit = &self.state.credit;
        let least = if credit.final_unit.is_some() {
            PACKET_OCTETS
        } else {
            1
        };
        self.remaining() < least && credit.outstanding.is_none()
    }

    /// The lowering half of a change of the gate, done before the commit.
    fn tighten(&mut self) -> Option<GateState> {
        let tighter = self.gate.tighter(&self.gate_wanted());
        if tighter == self.gate {
            return None;
        }
        self.gate = tighter.clone();
        Some(tighter)
    }

    /// The raising half, done after it.
    fn widen(&mut self) -> Option<GateState> {
        let wanted = self.gate_wanted();
        if wanted == self.gate {
            return None;
        }
        self.gate = wanted.clone();
        Some(wanted)
    }
}
