//! What the cloud tells the device to do. Nothing is acknowledged that was not applied, and what was applied is
//! durable before the acknowledgement leaves (DESIGN section 4, "Commands", section 11, number 26).

use simquota_shared::codec;
use simquota_shared::ids::Text;
use simquota_shared::message::{Ack, Body, Command, Kind, Outcome, Reason};

use super::Agent;
use super::durable::OUTCOMES_MAX;
use super::effects::{Notice, Up};

impl Agent {
    pub(super) fn on_command(&mut self, command: &Command) {
        if command.epoch != self.state.epoch {
            return; // R1
        }
        let known = self
            .state
            .outcomes
            .iter()
            .find(|(id, _)| *id == command.id)
            .map(|(_, outcome)| *outcome);
        let outcome = match known {
            Some(outcome) => outcome,
            None => self.decide(command),
        };
        self.acknowledge(command, outcome);
    }

    fn decide(&mut self, command: &Command) -> Outcome {
        let outcome = match self.refusal(command) {
            Some(outcome) => outcome,
            None => self.apply(&command.body),
        };
        if outcome == Outcome::Applied && command.body.sets_state() {
            self.state.command_number = command.number;
        }
        self.state.outcomes.push((command.id.clone(), outcome));
        let surplus = self.state.outcomes.len().saturating_sub(OUTCOMES_MAX);
        self.state.outcomes.drain(..surplus);
        self.dirty = true;
        self.notices.push(Notice::CommandSettled {
            id: command.id.clone(),
            outcome,
        });
        outcome
    }

    fn refusal(&self, command: &Command) -> Option<Outcome> {
        if command.body.sets_state() && command.number <= self.state.command_number {
            return Some(Outcome::Superseded); // else a late suspend would undo a resume
        }
        let late = self
            .time
            .cloud_ms(self.now)
            .is_some_and(|cloud| cloud > command.expires.0);
        late.then_some(Outcome::Expired)
    }

    fn apply(&mut self, body: &Body) -> Outcome {
        match body {
            Body::Reauthorise => self.reauthorise(),
            Body::Revoke => self.wish_final(),
            Body::Suspend => {
                self.state.suspended = true;
                self.wish_final();
            }
            Body::Resume => {
                self.state.suspended = false;
                self.asking.dormant = false;
                self.reauthorise();
            }
            Body::Report => self.report_asked = true,
            Body::Policy(policy) => {
                if !self.take_policy(policy) {
                    return Outcome::Superseded;
                }
            }
            Body::Rotate(generation) => {
                if *generation > self.state.key_generation {
                    self.state.key_generation = *generation;
                    self.notices.push(Notice::KeyGeneration(*generation));
                }
            }
        }
        Outcome::Applied
    }

    /// Asks now. A request that is on its way already is that; only a *final* is replaced.
    fn reauthorise(&mut self) {
        let asked = self
            .state
            .credit
            .outstanding
            .as_ref()
            .is_some_and(|request| request.kind != Kind::Final);
        if asked
            || self
                .asking
                .wish
                .is_some_and(|(kind, _)| kind != Kind::Final)
        {
            return;
        }
        if self.asking.valid.is_some() && self.asking.wish.is_none() {
            self.asking.forced = true;
        } else if !self.off && self.shutting.is_none() && self.retiring.is_none() {
            self.asking.dormant = false;
            self.asking.wish = Some((Kind::Initial, Reason::FORCED));
        }
    }

    /// Gives everything back. Off the SIM or at the agent's end that is done or under way already.
    fn wish_final(&mut self) {
        if !self.off && self.shutting.is_none() && self.retiring.is_none() {
            self.asking.wish = Some((Kind::Final, Reason::FORCED));
        }
    }

    fn acknowledge(&mut self, command: &Command, outcome: Outcome) {
        let why = match outcome {
            Outcome::Applied => None,
            Outcome::Superseded => Some("a later one was applied before"),
            Outcome::Expired => Some("it came after its expiry"),
            Outcome::Refused => Some("this agent can't do that"),
        };
        let ack = Ack {
            epoch: self.state.epoch,
            id: command.id.clone(),
            number: command.number,
            outcome,
            why: why.map(Text::clipped),
        };
        match codec::encode(&ack) {
            Ok(payload) => self.publish(Up::Ack, payload, false),
            Err(_) => self.notices.push(Notice::Unwritable("acknowledgement")),
        }
    }
}
