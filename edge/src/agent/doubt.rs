//! A mark below ours: a repeat that came late, or a cloud that was restored from an older backup.
//!
//! A repeat must move nothing, and a restored cloud must be believed, also by a device that has nothing more to send:
//! what the cloud has forgotten is charged only if the device says it again. So whoever hears a lower mark asks, and
//! goes on asking until an answer settles it.

use simquota_shared::message::{RegisterAnswer, UsageAck};
use simquota_shared::units::{Octets, Seq, UnixMillis};

use super::Agent;
use super::effects::{Disagreement, Notice};
use super::outbox::GO_BACK_MS;
use super::time::Backoff;

/// While a lower mark is unsettled the status asks for it again after 10 s, doubling to 15 min. Once is not enough:
/// the answer may be lost, and the clock of a cloud that was restored may stand behind what it said before.
const ASK: Backoff = Backoff::new(10_000, 900_000);

/// So many answers with a mark below ours, each for something sent since the one before, and the cloud means it.
/// One alone is a repeat that the broker kept.
const ANSWERS: u32 = 3;

/// What is known of a mark below ours.
#[derive(Clone, Debug)]
pub(super) struct Doubt {
    /// Answers to usage that had one.
    answers: u32,
    answered_ms: u64,
    /// When the cloud first said it, by its own clock and later than all that we acted upon.
    said: Option<UnixMillis>,
    /// When the status goes out for it next; none: no lower mark was heard.
    ask_ms: Option<u64>,
    wait: Backoff,
}

impl Default for Doubt {
    fn default() -> Self {
        Self {
            answers: 0,
            answered_ms: 0,
            said: None,
            ask_ms: None,
            wait: ASK,
        }
    }
}

impl Agent {
    /// A lower mark is meant when the cloud says it twice, later by its own clock than all that we acted upon, the
    /// second time in answer to a status; or, should that clock have gone back, three times in answer to usage. Then
    /// the outbox goes back: the rows may still be in the store. If they are not, the epoch ends, and its used total
    /// tells the cloud what it has forgotten.
    pub(super) fn on_lower_mark(&mut self, ack: &UsageAck) {
        if self.said_twice(ack.now) || self.answered_often(ack) {
            self.outbox.fresh_from = ack.now.next();
            self.mark_fell(ack.mark, ack.total);
        }
    }

    /// The registration answer says where the ledger stands with this epoch.
    pub(super) fn on_registered_mark(&mut self, answer: &RegisterAnswer) {
        self.outbox.fresh_from = self.outbox.fresh_from.max(Some(answer.now));
        let waiting = u64::try_from(self.rows.len()).unwrap_or(u64::MAX);
        if answer.mark > Seq(self.state.last_seq().beyond(Seq(waiting))) {
            self.disagree(Disagreement::AckAhead);
        } else if answer.mark < self.state.acked && self.said_twice(answer.now) {
            self.mark_fell(answer.mark, answer.total);
        }
    }

    /// Takes note that the cloud's mark is lower; true when that is the second time, and later.
    fn said_twice(&mut self, said: UnixMillis) -> bool {
        let fresh = self.outbox.fresh_from.is_none_or(|from| said >= from);
        let doubt = &mut self.outbox.doubt;
        match doubt.said {
            Some(before) if fresh => return said > before,
            None if fresh => {
                doubt.said = Some(said);
                doubt.ask_ms = Some(self.now.mono_ms);
            }
            // As good as surely a repeat, so there is no hurry: progress may settle it before it is time to ask.
            Some(_) | None => {
                if doubt.ask_ms.is_none() {
                    let wait_ms = doubt.wait.wait(self.config.jitter_permille);
                    doubt.ask_ms = Some(self.now.mono_ms.saturating_add(wait_ms));
                }
            }
        }
        false
    }

    fn answered_often(&mut self, ack: &UsageAck) -> bool {
        let now_ms = self.now.mono_ms;
        let doubt = &mut self.outbox.doubt;
        let spaced = doubt.answers == 0 || now_ms >= doubt.answered_ms.saturating_add(GO_BACK_MS);
        if ack.first <= self.state.acked || !spaced {
            return false;
        }
        doubt.answers = doubt.answers.saturating_add(1);
        doubt.answered_ms = now_ms;
        doubt.answers >= ANSWERS
    }

    /// Asks for the mark, each answer to a status has it.
    pub(super) fn plan_question(&mut self) {
        let due = self
            .question_at_ms()
            .is_some_and(|at_ms| self.now.mono_ms >= at_ms);
        if due && self.can_send() {
            let doubt = &mut self.outbox.doubt;
            let wait_ms = doubt.wait.wait(self.config.jitter_permille);
            doubt.ask_ms = Some(self.now.mono_ms.saturating_add(wait_ms));
            self.publish_status(true);
        }
    }

    pub(super) const fn question_at_ms(&self) -> Option<u64> {
        self.outbox.doubt.ask_ms
    }

    fn mark_fell(&mut self, mark: Seq, total: Octets) {
        self.outbox.doubt = Doubt::default();
        self.notices.push(Notice::MarkFell {
            to: mark,
            from: self.state.acked,
        });
        self.state.acked = mark;
        self.state.acked_total = total;
        self.dirty = true;
        self.outbox.worth = self.state.last_seq();
        self.outbox.rewind(mark);
        self.report();
    }
}
