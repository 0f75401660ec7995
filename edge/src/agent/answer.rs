//! What the cloud answers and pushes: accepted by rules R1, R2, R3, R5 and R7, or without effect.

use simquota_shared::code::Code;
use simquota_shared::message::{CreditAnswer, Kind, Reason};
use simquota_shared::units::{Octets, Push};

use super::Agent;
use super::credit::Validity;
use super::durable::AnswerKey;
use super::effects::{Disagreement, Notice};

/// Codes that neither decide nor say when to try again are tried again after this.
const UNDECIDED_MS: u64 = 60_000;

/// What is to be done with an answer.
enum Verdict {
    /// Not for us, or not any more.
    Ignored,
    /// It speaks of a request that this store never made or never sent.
    Impossible,
    /// It answers the outstanding request, first sent at this time.
    Answer { kind: Kind, first_ms: u64 },
    /// It raises the ceiling of the last answer.
    Push,
}

impl Agent {
    pub(super) fn on_credit(&mut self, answer: &CreditAnswer) {
        if answer.epoch != self.state.epoch {
            return; // R1
        }
        if !answer.code.is_decision() {
            return self.on_undecided(answer);
        }
        match self.judge(answer) {
            Verdict::Ignored => {}
            Verdict::Impossible => self.disagree(Disagreement::NumberReused),
            Verdict::Answer { kind, first_ms } => self.accept_answer(answer, kind, first_ms),
            Verdict::Push => self.accept(answer),
        }
    }

    fn judge(&self, answer: &CreditAnswer) -> Verdict {
        let credit = &self.state.credit;
        if answer.number > credit.number {
            // The request is durable before it is sent, so this store is older than what the cloud knows.
            return Verdict::Impossible;
        }
        let key = key_of(answer);
        if answer.number < credit.floor || credit.answered.as_ref().is_some_and(|last| key <= *last)
        {
            return Verdict::Ignored; // R2: given up; R7: order is by (number, push)
        }
        if answer.push > Push::ZERO {
            let last = credit.answered.as_ref().map(|last| last.number);
            return match last == Some(answer.number) {
                true => Verdict::Push,
                // The answer itself comes first: the resend brings it.
                false => Verdict::Ignored,
            };
        }
        let Some(request) = credit
            .outstanding
            .as_ref()
            .filter(|request| request.number == answer.number)
        else {
            return Verdict::Ignored;
        };
        match self.asking.sent.as_ref().and_then(|sent| sent.first_ms) {
            Some(first_ms) => Verdict::Answer {
                kind: request.kind,
                first_ms,
            },
            None => Verdict::Impossible,
        }
    }

    fn accept_answer(&mut self, answer: &CreditAnswer, kind: Kind, first_ms: u64) {
        self.take_server_time(first_ms, answer.decided.0);
        self.state.credit.outstanding = None;
        self.asking.sent = None;
        let before = self.remaining();
        if !matches!(kind, Kind::Update) {
            // The cut has made room for any value: the answer's stop holds as it is. It was reckoned from the cut, and what
            // was delivered and dropped since is no reason for the agent to fall silent.
            let moved = self.moved_since_cut;
            self.state.credit.stop = Octets(answer.stop.0.saturating_add(moved));
        }
        self.asking.valid = match kind {
            // Everything was given back, there is nothing that could be valid.
            Kind::Final => None,
            Kind::Initial | Kind::Update => {
                Some(Validity::new(first_ms, self.validity_ms(answer))) // R3: from the first sending
            }
        };
        self.accept(answer);
        if kind == Kind::Initial {
            self.asking.traffic_ms = self.now.mono_ms;
        }
        let live = self
            .asking
            .valid
            .is_some_and(|valid| self.now.mono_ms < valid.until_ms);
        if live && self.asking.wish == Some((Kind::Initial, Reason::VALIDITY)) {
            self.asking.wish = None; // it came late, but in time
        }
        if kind != Kind::Final {
            self.space_out(self.remaining() > before);
        }
    }

    /// What an answer and a push have in common.
    fn accept(&mut self, answer: &CreditAnswer) {
        let credit = &mut self.state.credit;
        // R2 and R6: only a cut lowers a ceiling, and it has done so. So the larger one holds, for every kind.
        credit.ceiling = credit.ceiling.max(answer.ceiling);
        credit.stop = credit.stop.max(answer.stop).max(credit.ceiling);
        credit.answered = Some(key_of(answer));
        credit.held = None;
        credit.renew_below = answer.renew_below;
        credit.final_unit = answer.final_unit.clone();
        credit.hold_s = answer.hold_s;
        credit.silence_s = answer.silence_s;
        credit.balance = answer.balance;
        credit.code = Some(answer.code);
        if answer.code == Code::SUCCESS && self.asking.valid.is_some() {
            self.state.suspended = false; // DESIGN section 11, number 26
        }
        self.asking.on_connect = false;
        self.dirty = true;
        self.size_window();
        self.notices.push(Notice::Answered {
            number: answer.number,
            push: answer.push,
            code: answer.code,
            ceiling: self.state.credit.ceiling,
            balance: answer.balance,
        });
    }

    /// How long the answer holds. Both times are the cloud's, only their difference counts (section 11, number 18).
    fn validity_ms(&self, answer: &CreditAnswer) -> u64 {
        match answer.valid_until {
            Some(until) => until.beyond(answer.decided),
            None => self.request_life_ms(),
        }
    }

    /// Answers that grant nothing double the wait before the device asks again by itself, up to the validity.
    fn space_out(&mut self, granted: bool) {
        let gap_ms = match granted {
            true => 0,
            false => self
                .asking
                .gap_ms
                .saturating_mul(2)
                .clamp(1_000, self.request_life_ms()),
        };
        self.asking.gap_ms = gap_ms;
        self.asking.not_before_ms = self.now.mono_ms.saturating_add(gap_ms);
    }

    /// An answer that decides nothing (section 11, number 19): the request stays as it is.
    fn on_undecided(&mut self, answer: &CreditAnswer) {
        if answer.code == Code::EPOCH_SUPERSEDED {
            return self.disagree(Disagreement::Superseded);
        }
        let outstanding = self.state.credit.outstanding.as_ref();
        if outstanding.is_none_or(|request| request.number != answer.number) {
            return;
        }
        self.notices.push(Notice::NotDecided {
            number: answer.number,
            code: answer.code,
        });
        let retry_ms = answer.retry_s.map(|retry_s| retry_s.saturating_mul(1000));
        let now_ms = self.now.mono_ms;
        match answer.code {
            Code::NUMBER_REUSED => self.disagree(Disagreement::NumberReused),
            Code::UNKNOWN_EPOCH | Code::USER_UNKNOWN => self.register_again(),
            code => {
                if let Some(sent) = &mut self.asking.sent {
                    let next_ms = match (retry_ms, code) {
                        (Some(retry_ms), _) => now_ms.saturating_add(retry_ms.max(1_000)),
                        (None, Code::TOO_BUSY) => sent.next_ms,
                        (None, _) => now_ms.saturating_add(UNDECIDED_MS),
                    };
                    sent.next_ms = next_ms;
                }
            }
        }
    }

    /// A packet met the shut gate, or was metered where nothing stops it: traffic ends dormancy.
    pub(super) fn on_traffic(&mut self) {
        if self.asking.dormant {
            self.asking.dormant = false;
            self.wish_initial(Reason::TRAFFIC);
        }
    }

    /// Rule R3: the cloud's time, if the answer came soon enough.
    pub(super) fn take_server_time(&mut self, first_ms: u64, server_ms: u64) {
        if let Some(set) = self.time.take_server(self.now, first_ms, server_ms) {
            self.notices.push(Notice::ClockSet(set));
        }
    }
}

const fn key_of(answer: &CreditAnswer) -> AnswerKey {
    AnswerKey {
        number: answer.number,
        push: answer.push,
    }
}
