//! Reporting: rows go out in batches, and stay until the ledger has them (patent steps S32 and S5).
//!
//! The outbox itself is in the store. Here is the window on it: what was sent beyond the acknowledged mark, when to
//! go back to it, and when the two sides no longer speak of the same rows (DESIGN section 4, "Usage" and "When the
//! two sides disagree"). A mark below ours is another matter: `doubt`.

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::message::UsageAck;
use simquota_shared::units::{Octets, Seq, UnixMillis};

use super::Agent;
use super::batch::{ROWS_MAX, batch};
use super::doubt::Doubt;
use super::durable::Row;
use super::effects::{Disagreement, Load, Notice, Up};
use super::time::Backoff;

/// Batches in flight beyond the mark.
pub(super) const WINDOW: usize = 4;

/// Without an acknowledgement a batch is sent again after 10 s, doubling to 5 min; progress starts it anew.
const RESEND: Backoff = Backoff::new(10_000, 300_000);

/// The least time between two returns to the same mark, however often it arrives.
pub(super) const GO_BACK_MS: u64 = 10_000;

/// A batch on its way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    last: Seq,
    total: Octets,
}

/// The window on the outbox.
#[derive(Clone, Debug)]
pub(super) struct Outbox {
    /// The last number that was sent.
    pub(super) sent: Seq,
    flight: Vec<Flight>,
    /// Send up to here.
    pub(super) until: Seq,
    /// Rows up to here hold octets that are not the agent's own: only those call for a report.
    pub(super) worth: Seq,
    pub(super) retry_ms: Option<u64>,
    /// From where rows were asked for and have not come yet.
    loading: Option<Seq>,
    wait: Backoff,
    /// The cloud asked to wait.
    pub(super) paused_ms: u64,
    went_back: Option<(Seq, u64)>,
    /// What the cloud says at this time of its own or later, it says after all that we acted upon.
    pub(super) fresh_from: Option<UnixMillis>,
    /// Whether the cloud's mark is below ours.
    pub(super) doubt: Doubt,
    /// The batch that was called damaged, and whether it was sent again since.
    damaged: Option<(Seq, bool)>,
    /// The next report by the interval.
    pub(super) report_ms: u64,
}

impl Outbox {
    pub(super) fn new(acked: Seq, last: Seq, report_ms: u64) -> Self {
        Self {
            sent: acked,
            flight: Vec::new(),
            // A backlog from before this start goes out once the registration is through.
            until: last,
            worth: last,
            retry_ms: None,
            loading: None,
            wait: RESEND,
            paused_ms: 0,
            went_back: None,
            fresh_from: None,
            doubt: Doubt::default(),
            damaged: None,
            report_ms,
        }
    }

    /// The number to send next.
    const fn next(&self) -> Seq {
        Seq(self.sent.0.saturating_add(1))
    }

    /// Forgets what is in flight: everything beyond the mark is sent again.
    pub(super) fn rewind(&mut self, acked: Seq) {
        self.sent = acked;
        self.flight.clear();
        self.retry_ms = None;
        if let Some((_, again)) = &mut self.damaged {
            *again = true;
        }
    }
}

impl Agent {
    /// Reports all there is, in this step's commit and after it.
    pub(super) fn report(&mut self) {
        self.dirty = true;
        self.outbox.until = self.state.last_seq();
        self.outbox.report_ms = self.now.mono_ms.saturating_add(self.report_interval_ms());
    }

    pub(super) fn report_interval_ms(&self) -> u64 {
        self.state.policy.report_s.max(1).saturating_mul(1000)
    }

    /// Whether there is anything that calls for a report.
    pub(super) fn reportable(&self) -> bool {
        self.outbox.worth > self.state.acked
    }

    /// The report at the interval.
    pub(super) fn plan_report(&mut self) {
        if self.can_send() && self.now.mono_ms >= self.outbox.report_ms {
            if self.reportable() {
                self.report();
            } else {
                self.outbox.report_ms = self.now.mono_ms.saturating_add(self.report_interval_ms());
            }
        }
    }

    /// A new connection has no memory: begin again after the mark.
    pub(super) fn resume_outbox(&mut self) {
        self.outbox.rewind(self.state.acked);
        self.outbox.wait.reset();
        if self.reportable() {
            self.report();
        }
    }

    /// Asks for the rows to send next, if the window has room; goes back after the resend time.
    pub(super) fn plan_load(&mut self) -> Option<Load> {
        if !self.can_send() {
            return None;
        }
        if self
            .outbox
            .retry_ms
            .is_some_and(|at| self.now.mono_ms >= at)
        {
            self.outbox.rewind(self.state.acked);
        }
        if self.now.mono_ms < self.outbox.paused_ms {
            return None;
        }
        let room = WINDOW.saturating_sub(self.outbox.flight.len());
        let wanted = self.outbox.sent < self.outbox.until && room > 0;
        let from = self.outbox.next();
        self.outbox.loading = wanted.then_some(from);
        wanted.then(|| Load {
            from,
            rows_max: room.saturating_mul(ROWS_MAX),
        })
    }

    /// Sends the rows that were loaded.
    pub(super) fn on_rows(&mut self, rows: &[Row]) {
        let asked = self.outbox.loading.take();
        if !self.can_send() {
            return;
        }
        let skipped = rows
            .iter()
            .take_while(|row| row.last() <= self.outbox.sent)
            .count();
        let mut rest = rows.get(skipped..).unwrap_or_default();
        let whole = rest
            .first()
            .is_some_and(|row| row.seq <= self.outbox.next());
        if !whole {
            // Asked for, and not there. Unless the mark has moved since, that is final.
            if asked == Some(self.outbox.next()) {
                self.disagree(Disagreement::RowsGone);
            }
            return;
        }
        let Some(iccid) = self.state.iccid.clone() else {
            return;
        };
        let interval_s = self.state.policy.sample_s.max(1);
        while self.outbox.flight.len() < WINDOW {
            let Some((message, taken)) = batch(self.state.epoch, &iccid, interval_s, rest) else {
                break;
            };
            let Some(last) = taken
                .checked_sub(1)
                .and_then(|index| rest.get(index))
                .map(Row::last)
            else {
                break;
            };
            match codec::encode(&message) {
                Ok(payload) => self.publish(Up::Usage, payload, false),
                Err(_) => return self.notices.push(Notice::Unwritable("usage batch")),
            }
            self.outbox.flight.push(Flight {
                last,
                total: message.total,
            });
            self.outbox.sent = last;
            rest = rest.get(taken..).unwrap_or_default();
        }
        if self.outbox.retry_ms.is_none() && !self.outbox.flight.is_empty() {
            let wait_ms = self.outbox.wait.wait(self.config.jitter_permille);
            self.outbox.retry_ms = Some(self.now.mono_ms.saturating_add(wait_ms));
        }
    }

    pub(super) fn on_usage_ack(&mut self, ack: &UsageAck) {
        if ack.epoch != self.state.epoch {
            return; // R1
        }
        match ack.code {
            Code::SUCCESS => self.on_mark(ack),
            Code::TOO_BUSY => {
                self.on_mark(ack);
                let wait_ms = ack.retry_s.unwrap_or(10).max(1).saturating_mul(1000);
                self.outbox.paused_ms = self.now.mono_ms.saturating_add(wait_ms);
                self.outbox.rewind(self.state.acked);
            }
            Code::UNKNOWN_EPOCH | Code::USER_UNKNOWN
                if self.registration.accepted && self.unknown_now(ack) =>
            {
                self.register_again();
            }
            Code::EPOCH_SUPERSEDED => self.disagree(Disagreement::Superseded),
            Code::INVALID_VALUE => self.on_damaged(ack.first),
            _ => {}
        }
    }

    /// Whether the cloud does not know this epoch *now*. The status goes out before the registration, and the answer
    /// to it may come after the registration's: that the cloud did not know us then is no news.
    fn unknown_now(&self, ack: &UsageAck) -> bool {
        let to_usage = ack.first != Seq::ZERO;
        to_usage || self.outbox.fresh_from.is_none_or(|from| ack.now > from)
    }

    /// The same batch called damaged twice, with a resend between: what is stored is not what the cloud can take.
    fn on_damaged(&mut self, first: Seq) {
        match self.outbox.damaged {
            Some((before, true)) if before == first => self.disagree(Disagreement::DamagedTwice),
            Some((before, false)) if before == first => {}
            _ => self.outbox.damaged = Some((first, false)),
        }
    }

    fn on_mark(&mut self, ack: &UsageAck) {
        // Rows that wait for their commit were never sent.
        let waiting = u64::try_from(self.rows.len()).unwrap_or(u64::MAX);
        let committed = Seq(self.state.last_seq().beyond(Seq(waiting)));
        if ack.mark > committed {
            return self.disagree(Disagreement::AckAhead);
        }
        if ack.mark < self.state.acked {
            return self.on_lower_mark(ack);
        }
        let flight = self
            .outbox
            .flight
            .iter()
            .find(|flight| flight.last == ack.mark);
        if flight.is_some_and(|flight| flight.total != ack.total) {
            return self.disagree(Disagreement::TotalDiffers);
        }
        self.outbox.doubt = Doubt::default();
        if ack.mark > self.state.acked {
            self.on_progress(ack);
        }
        if ack.first.0 > ack.mark.0.saturating_add(1) {
            self.go_back(ack.mark);
        }
    }

    fn on_progress(&mut self, ack: &UsageAck) {
        self.outbox.fresh_from = ack.now.next();
        self.state.acked = ack.mark;
        self.state.acked_total = ack.total;
        let outbox = &mut self.outbox;
        outbox.flight.retain(|flight| flight.last > ack.mark);
        outbox.sent = outbox.sent.max(ack.mark);
        outbox.damaged = None;
        outbox.wait.reset();
        outbox.retry_ms = match outbox.flight.is_empty() {
            true => None,
            false => {
                let wait_ms = outbox.wait.wait(self.config.jitter_permille);
                Some(self.now.mono_ms.saturating_add(wait_ms))
            }
        };
        // One commit for a whole report: a watermark that is lost is told again, the rows are only sent twice.
        if outbox.until <= ack.mark {
            self.dirty = true;
        }
    }

    /// The cloud got a later batch without the one before it.
    fn go_back(&mut self, mark: Seq) {
        let now_ms = self.now.mono_ms;
        let lately = self.outbox.went_back.is_some_and(|(before, at_ms)| {
            before == mark && now_ms < at_ms.saturating_add(GO_BACK_MS)
        });
        if !lately {
            self.outbox.went_back = Some((mark, now_ms));
            self.outbox.rewind(self.state.acked);
            self.notices.push(Notice::WentBack(mark));
        }
    }
}
