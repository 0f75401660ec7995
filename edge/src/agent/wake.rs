//! When the agent wants to be woken: the earliest of everything that time alone brings about.

use simquota_shared::message::Kind;

use super::Agent;

impl Agent {
    pub(super) fn wake_at_ms(&self) -> Option<u64> {
        let soonest = [
            (!self.off).then_some(self.poll_ms),
            self.shutting,
            self.retiring.map(|(_, at_ms)| at_ms),
            self.asking.valid.map(|valid| valid.until_ms),
            self.sync_at_ms(),
            self.budget_wanted().then_some(self.budget.next_ms),
            self.wake_to_register(),
            self.wake_to_ask(),
            self.wake_to_report(),
            self.idle_at_ms(),
        ]
        .into_iter()
        .flatten()
        .min();
        // Never again in the same millisecond: a timer that is due was served, or waits for something else.
        soonest.map(|at_ms| at_ms.max(self.now.mono_ms.saturating_add(1)))
    }

    fn wake_to_register(&self) -> Option<u64> {
        let due = self.link.connected && !self.registration.accepted && self.retiring.is_none();
        due.then_some(self.registration.next_ms)
    }

    fn wake_to_ask(&self) -> Option<u64> {
        if !self.can_send() {
            return None;
        }
        if let Some(sent) = &self.asking.sent {
            let life_ms = self.request_life_ms();
            let first_ms = sent.first_ms.filter(|_| self.asking.wish.is_none());
            let dies_ms = first_ms.map(|first| first.saturating_add(life_ms));
            let resend = Some(sent.next_ms);
            return [resend, dies_ms, self.wake_to_cut()]
                .into_iter()
                .flatten()
                .min();
        }
        let update = self.update_reason().map(|reason| self.update_at_ms(reason));
        let renew = match self.asking.dormant || self.state.suspended {
            true => None,
            false => self
                .asking
                .valid
                .map(|valid| valid.renew_ms)
                .filter(|at_ms| *at_ms > self.now.mono_ms),
        };
        [update, renew, self.wake_to_cut()]
            .into_iter()
            .flatten()
            .min()
    }

    fn wake_to_cut(&self) -> Option<u64> {
        match self.asking.wish {
            Some((Kind::Initial | Kind::Update, _)) => Some(self.spaced_at_ms()),
            Some((Kind::Final, _)) | None => None,
        }
    }

    fn wake_to_report(&self) -> Option<u64> {
        if !self.can_send() {
            return None;
        }
        let outbox = &self.outbox;
        let paused = (outbox.sent < outbox.until).then_some(outbox.paused_ms);
        let report = self.reportable().then_some(outbox.report_ms);
        [
            report,
            self.question_at_ms(),
            outbox.retry_ms,
            paused.filter(|at_ms| *at_ms > self.now.mono_ms),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
