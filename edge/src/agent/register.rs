//! Each start registers, and nothing is asked or reported before the cloud has accepted it (patent step S11,
//! DESIGN section 11, number 27).

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::ids::Iccid;
use simquota_shared::message::{Kind, Policy, Reason, RegisterAnswer, RegisterRequest};

use super::Agent;
use super::effects::{Disagreement, Notice, Up};
use super::time::Backoff;

/// An unanswered registration is sent again after 5 s, doubling to 5 min.
const RESEND: Backoff = Backoff::new(5_000, 300_000);

/// A refusal that names no time is tried again after this.
const REFUSED_S: u64 = 300;

/// How far the registration of this start got.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) accepted: bool,
    payload: Option<Vec<u8>>,
    first_ms: Option<u64>,
    last_ms: Option<u64>,
    pub(super) next_ms: u64,
    wait: Backoff,
}

impl Registration {
    pub(super) const fn new() -> Self {
        Self {
            accepted: false,
            payload: None,
            first_ms: None,
            last_ms: None,
            next_ms: 0,
            wait: RESEND,
        }
    }
}

impl Agent {
    /// Registers, or registers again.
    pub(super) fn send_register(&mut self) {
        let now_ms = self.now.mono_ms;
        let due = self.link.connected
            && !self.registration.accepted
            && self.retiring.is_none()
            && now_ms >= self.registration.next_ms;
        if !due {
            return;
        }
        let payload = match self.registration.payload.clone() {
            Some(payload) => payload,
            None => match codec::encode(&self.registration_request()) {
                Ok(payload) => payload,
                Err(_) => return self.notices.push(Notice::Unwritable("registration")),
            },
        };
        let jitter = self.config.jitter_permille;
        let registration = &mut self.registration;
        registration.payload = Some(payload.clone());
        registration.first_ms.get_or_insert(now_ms);
        registration.last_ms = Some(now_ms);
        registration.next_ms = now_ms.saturating_add(registration.wait.wait(jitter));
        self.publish(Up::Register, payload, false);
    }

    fn registration_request(&self) -> RegisterRequest {
        let config = &self.config;
        RegisterRequest {
            epoch: self.state.epoch,
            boot: self.state.boot,
            serial: config.serial.clone(),
            model: config.model.clone(),
            firmware: config.firmware.clone(),
            capabilities: config.capabilities.clone(),
            iccid: self.state.iccid.clone(),
            closes: self.state.closes.clone(),
        }
    }

    pub(super) fn on_register(&mut self, answer: &RegisterAnswer) {
        if answer.epoch != self.state.epoch || answer.boot != self.state.boot {
            return; // R1, and an answer to an older start
        }
        match answer.code {
            Code::EPOCH_SUPERSEDED => self.disagree(Disagreement::Superseded),
            code if code.is_success() => self.on_accepted(answer),
            _ => self.on_refused(answer),
        }
    }

    fn on_accepted(&mut self, answer: &RegisterAnswer) {
        let iccid = match &answer.sim {
            Some(sim) => Some(&sim.iccid),
            None => self.state.iccid.as_ref(),
        };
        let Some(iccid) = iccid.cloned() else {
            // Without a SIM there is nothing to meter and nothing to report under.
            return self.on_refused(answer);
        };
        if let Some(policy) = &answer.policy {
            self.take_policy(policy);
        }
        if self.registration.accepted {
            return;
        }
        self.registration.accepted = true;
        self.registration.wait.reset();
        self.on_registered_mark(answer);
        if let Some(first_ms) = self.registration.first_ms {
            self.take_server_time(first_ms, answer.now.0);
        }
        if let Some(sim) = &answer.sim {
            self.notices.push(Notice::SimBound(sim.clone()));
        }
        self.notices.push(Notice::Registered);
        self.take_iccid(iccid);
    }

    /// From here on rows are of this SIM; one that has begun ends.
    pub(super) fn take_iccid(&mut self, iccid: Iccid) {
        if self.state.iccid.as_ref() == Some(&iccid) {
            return;
        }
        if self.state.iccid.is_some() {
            self.close_row(0);
        }
        self.state.iccid = Some(iccid);
        self.dirty = true;
    }

    fn on_refused(&mut self, answer: &RegisterAnswer) {
        if self.registration.accepted {
            return;
        }
        let retry_s = answer.retry_s.unwrap_or(REFUSED_S).max(1);
        self.registration.next_ms = self
            .now
            .mono_ms
            .saturating_add(retry_s.saturating_mul(1000));
        self.notices.push(Notice::RegistrationRefused {
            code: answer.code,
            retry_s,
        });
    }

    /// The cloud does not know us (any more), or the SIM is another one. What it granted is not to be relied on.
    pub(super) fn register_again(&mut self) {
        let spaced_ms = self
            .registration
            .last_ms
            .map_or(0, |last| last.saturating_add(5_000));
        self.registration = Registration {
            last_ms: self.registration.last_ms,
            next_ms: spaced_ms,
            ..Registration::new()
        };
        self.asking.valid = None;
        self.wish_initial(Reason::CONDITION);
        let ending = self.off || self.shutting.is_some() || self.retiring.is_some();
        if self.state.suspended && self.asking.wish.is_none() && !ending {
            // Who does not know us does not know of the suspension either; and who does answers 4010.
            self.asking.wish = Some((Kind::Initial, Reason::CONDITION));
        }
    }

    /// Applies a policy unless it is older than the one in force.
    pub(super) fn take_policy(&mut self, policy: &Policy) -> bool {
        if policy.version < self.state.policy.version {
            return false;
        }
        if *policy != self.state.policy {
            self.state.policy = policy.clone();
            self.dirty = true;
            // What was planned by the policy before may lie far beyond this one's intervals.
            let now_ms = self.now.mono_ms;
            let report_ms = now_ms.saturating_add(self.report_interval_ms());
            self.outbox.report_ms = self.outbox.report_ms.min(report_ms);
            let sample_ms = now_ms.saturating_add(self.sample_interval_ms());
            self.sample_ms = self.sample_ms.min(sample_ms);
            self.notices.push(Notice::PolicySet(policy.version));
        }
        true
    }
}
