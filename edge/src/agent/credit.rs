//! Asking for quota: when, what for, and the cut (rules R2 and R3, patent steps S21-S31 and S43).

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::message::usage::flag;
use simquota_shared::message::{CreditRequest, Held, Kind, Reason};
use simquota_shared::units::{Octets, RequestNumber};

use super::Agent;
use super::effects::{Notice, Up};
use super::time::Backoff;

/// The least time between two requests.
const SPACING_MS: u64 = 1_000;

/// An unanswered request is sent again after 10 s, doubling to a minute.
const RESEND: Backoff = Backoff::new(10_000, 60_000);

/// The volatile half of the credit state: all of it is made anew by a start.
#[derive(Clone, Debug, Default)]
pub(super) struct Asking {
    /// How far the outstanding request got.
    pub(super) sent: Option<Sent>,
    /// Until when the grant may be used.
    pub(super) valid: Option<Validity>,
    /// A cut to be made. While it waits the gate is shut.
    pub(super) wish: Option<(Kind, Reason)>,
    /// The cloud asked for a request.
    pub(super) forced: bool,
    /// Connected without usable quota.
    pub(super) on_connect: bool,
    /// The ceiling at which a request was made because little was left, and the one because nothing was.
    pub(super) asked_low: Option<Octets>,
    pub(super) asked_empty: Option<Octets>,
    /// When the last request was made.
    pub(super) made_ms: Option<u64>,
    /// Not before this while answers grant nothing, and how long that wait is.
    pub(super) not_before_ms: u64,
    pub(super) gap_ms: u64,
    /// Everything was given back, and only traffic (or the cloud) ends that.
    pub(super) dormant: bool,
    /// When octets that are not the agent's own were last seen.
    pub(super) traffic_ms: u64,
}

/// The outstanding request on its way.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Resent as it is: the same number never has other bytes.
    pub(super) payload: Vec<u8>,
    /// Rule R3 counts from here. Not durable, and need not be: a boot cuts.
    pub(super) first_ms: Option<u64>,
    pub(super) next_ms: u64,
    pub(super) wait: Backoff,
}

/// A grant's time on the monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) until_ms: u64,
    /// 80 % of it: renewed by *update* from here, so that only a truly expired grant stalls.
    pub(super) renew_ms: u64,
}

impl Validity {
    pub(super) const fn new(first_ms: u64, span_ms: u64) -> Self {
        Self {
            until_ms: first_ms.saturating_add(span_ms),
            renew_ms: first_ms.saturating_add(span_ms / 5 * 4),
        }
    }
}

impl Agent {
    /// Lets time pass over the grant and the outstanding request; wishes for a cut where one is due.
    pub(super) fn plan_cut(&mut self) {
        self.expire();
        if self.asking.wish.is_none() && self.can_send() {
            if let Some(kind) = self.abandon() {
                self.asking.wish = Some((kind, Reason::ABANDONED));
            } else if self.idle() {
                self.asking.wish = Some((Kind::Final, Reason::HOLDING));
            }
        }
    }

    /// At the end of validity traffic stops; then everything is given back with the next *initial*.
    fn expire(&mut self) {
        let now_ms = self.now.mono_ms;
        if self
            .asking
            .valid
            .is_none_or(|valid| now_ms < valid.until_ms)
        {
            return;
        }
        self.asking.valid = None;
        self.notices.push(Notice::GrantExpired);
        self.wish_initial(Reason::VALIDITY);
    }

    /// Wishes for an *initial*, unless something stronger forbids or replaces it.
    pub(super) fn wish_initial(&mut self, reason: Reason) {
        let forbidden = self.state.suspended
            || self.off
            || self.shutting.is_some()
            || self.retiring.is_some()
            || self.asking.dormant;
        if self.asking.wish.is_none() && !forbidden {
            self.asking.wish = Some((Kind::Initial, reason));
        }
    }

    /// The kind that replaces the outstanding request, when that is older than its validity (rule R3).
    fn abandon(&mut self) -> Option<Kind> {
        let outstanding = self.state.credit.outstanding.as_ref()?;
        let first_ms = self.asking.sent.as_ref()?.first_ms?;
        if self.now.mono_ms < first_ms.saturating_add(self.request_life_ms()) {
            return None;
        }
        self.notices.push(Notice::Abandoned(outstanding.number));
        Some(match outstanding.kind {
            Kind::Final => Kind::Final,
            Kind::Initial | Kind::Update => Kind::Initial,
        })
    }

    /// How long an unanswered request lives.
    pub(super) fn request_life_ms(&self) -> u64 {
        self.state.policy.validity_s.max(1).saturating_mul(1000)
    }

    /// When the holding time ends, if it runs (3GPP TS 32.299, Quota-Holding-Time).
    pub(super) fn idle_at_ms(&self) -> Option<u64> {
        let credit = &self.state.credit;
        let runs = credit.hold_s > 0
            && credit.outstanding.is_none()
            && self.asking.valid.is_some()
            && self.remaining() > 0
            && self.can_send()
            && !self.off
            && self.shutting.is_none();
        let hold_ms = credit.hold_s.saturating_mul(1000);
        runs.then(|| self.asking.traffic_ms.saturating_add(hold_ms))
    }

    fn idle(&self) -> bool {
        self.idle_at_ms().is_some_and(|at| self.now.mono_ms >= at)
    }

    /// Whether the wished cut can be made now. A *final* that the device itself decided on is made at once, also
    /// without a connection; what is asked for needs one, and then a fresh used total.
    pub(super) fn cut_ready(&self) -> bool {
        match self.asking.wish {
            None => false,
            Some((Kind::Final, Reason::HOLDING | Reason::ABANDONED)) => self.can_send(),
            Some((Kind::Final, _)) => true,
            Some((Kind::Initial | Kind::Update, _)) => self.can_send() && self.spaced(),
        }
    }

    /// Octets left of the grant.
    pub(super) fn remaining(&self) -> u64 {
        self.state.credit.ceiling.beyond(self.meter.used())
    }

    fn spaced(&self) -> bool {
        self.spaced_at_ms() <= self.now.mono_ms
    }

    pub(super) fn spaced_at_ms(&self) -> u64 {
        self.asking
            .made_ms
            .map_or(0, |made| made.saturating_add(SPACING_MS))
    }

    /// Whether a grant was accepted since the last cut.
    fn granted(&self) -> bool {
        let credit = &self.state.credit;
        credit
            .answered
            .as_ref()
            .is_some_and(|key| key.number >= credit.floor)
    }

    /// Gives up the ceiling: from here on it is the used total (rule R2). Returns the octets that were unused.
    ///
    /// The caller has shut the gate and read the meter, and commits before it publishes.
    pub(super) fn give_up(&mut self) -> u64 {
        let granted = self.granted();
        let used = self.meter.used();
        // Nothing more passes: what is armed ends here too.
        self.state.armed = used;
        let credit = &mut self.state.credit;
        let returned = if granted {
            credit.ceiling.beyond(used)
        } else {
            0
        };
        // An uncleared one is kept: its return was never confirmed.
        if returned > 0
            && credit.held.is_none()
            && let Some(key) = &credit.answered
        {
            credit.held = Some(Held {
                number: key.number,
                push: key.push,
                ceiling: credit.ceiling,
            });
        }
        credit.ceiling = used;
        credit.renew_below = Octets::ZERO;
        credit.final_unit = None;
        credit.outstanding = None;
        credit.floor = after(credit.number);
        self.asking.sent = None;
        self.asking.valid = None;
        self.asking.asked_low = None;
        self.asking.asked_empty = None;
        self.dirty = true;
        returned
    }

    /// The cut of a start: nothing is asked for before the registration, but what was held is given up now.
    pub(super) fn cut_at_boot(&mut self) {
        self.close_row(0);
        self.give_up();
        if !self.state.credit.bootstrapped {
            // Before the first answer of an epoch so many octets may be used in all, however often it boots.
            self.state.credit.bootstrapped = true;
            self.state.credit.stop = Octets(
                self.meter
                    .used()
                    .0
                    .saturating_add(self.state.policy.bootstrap.0),
            );
        }
        if self.asking.wish.is_none() {
            self.asking.wish = Some((Kind::Initial, Reason::BOOT));
        }
        self.booting = false;
        self.dirty = true;
    }

    /// Makes the wished *initial* or *final* (rule R2).
    pub(super) fn cut(&mut self, kind: Kind, reason: Reason) {
        self.asking.wish = None;
        let lost = std::mem::take(&mut self.lost);
        self.close_row(match reason {
            Reason::SHUTDOWN => flag::SHUTDOWN,
            Reason::SWITCH if lost => flag::SWITCH | flag::UNCLEAN,
            Reason::SWITCH => flag::SWITCH,
            _ => 0,
        });
        let returned = self.give_up();
        self.moved_since_cut = 0;
        self.request(kind, reason, returned);
        match kind {
            Kind::Final => {
                self.asking.dormant = match reason {
                    Reason::HOLDING => true,
                    // A revoked device may ask at once, and does so with its next packet; a suspended one may not.
                    Reason::FORCED => !self.state.suspended,
                    Reason::ABANDONED => self.asking.dormant,
                    _ => false,
                };
                self.report();
            }
            Kind::Initial | Kind::Update => {
                self.asking.dormant = false;
                if self.reportable() {
                    self.report();
                }
            }
        }
        if reason == Reason::SWITCH {
            self.off = true;
            if !lost {
                self.meter.leave();
            }
        }
    }

    /// Makes an *update* where one is due. The ceiling stays, and traffic goes on.
    pub(super) fn plan_update(&mut self) {
        let Some(reason) = self.update_reason() else {
            return;
        };
        if self.now.mono_ms < self.update_at_ms(reason) {
            return;
        }
        // The row ends here: a durable used total below the one of the request would read as a rolled-back flash.
        self.close_row(0);
        let ceiling = self.state.credit.ceiling;
        if self.remaining() == 0 {
            self.asking.asked_empty = Some(ceiling);
        }
        self.asking.asked_low = Some(ceiling);
        self.request(Kind::Update, reason, 0);
        if matches!(reason, Reason::THRESHOLD | Reason::EXHAUSTED) {
            self.report();
        }
    }

    /// Why an *update* is wanted, if one is and nothing is in its way but the spacing.
    pub(super) fn update_reason(&self) -> Option<Reason> {
        let valid = self.asking.valid?;
        let credit = &self.state.credit;
        let free = self.can_send()
            && credit.outstanding.is_none()
            && self.asking.wish.is_none()
            && !self.off
            && !self.asking.dormant
            && !self.state.suspended
            && self.shutting.is_none();
        if !free {
            return None;
        }
        let remaining = self.remaining();
        let last = credit.final_unit.is_some() || credit.code != Some(Code::SUCCESS);
        let low = remaining <= credit.renew_below.0 && !last;
        if self.asking.forced {
            Some(Reason::FORCED)
        } else if self.now.mono_ms >= valid.renew_ms {
            Some(Reason::VALIDITY)
        } else if remaining == 0 && self.asking.on_connect {
            Some(Reason::CONNECT)
        } else if remaining == 0 && self.asking.asked_empty != Some(credit.ceiling) {
            Some(Reason::EXHAUSTED)
        } else if remaining > 0 && low && self.asking.asked_low != Some(credit.ceiling) {
            Some(Reason::THRESHOLD)
        } else {
            None
        }
    }

    /// When an *update* for this reason may be made. Denials space out what the device asks by itself.
    pub(super) fn update_at_ms(&self, reason: Reason) -> u64 {
        match reason {
            Reason::FORCED | Reason::VALIDITY => self.spaced_at_ms(),
            _ => self.spaced_at_ms().max(self.asking.not_before_ms),
        }
    }

    /// Makes a request. It is durable before it is sent, whole, because the step commits before it publishes.
    fn request(&mut self, kind: Kind, reason: Reason, returned: u64) {
        let used = self.meter.used();
        let remaining = self.remaining();
        let credit = &mut self.state.credit;
        let number = after(credit.number);
        let cut = !matches!(kind, Kind::Update);
        let request = CreditRequest {
            epoch: self.state.epoch,
            number,
            kind,
            used,
            want: match kind {
                Kind::Final => Octets::ZERO,
                Kind::Initial => self.config.want,
                // What lies beyond the present ceiling: a renewal of validity hoards nothing. A grant of more than was
                // wanted, by the device's rate, is renewed as any other: 0 would only report.
                Kind::Update => Octets(
                    self.config
                        .want
                        .beyond(Octets(remaining))
                        .max(u64::from(reason == Reason::THRESHOLD)),
                ),
            },
            reason,
            zone: self.state.zone.clone(),
            held: credit.held.clone().filter(|_| cut),
        };
        credit.number = number;
        match codec::encode(&request) {
            Ok(payload) => {
                self.asking.sent = Some(Sent {
                    payload,
                    first_ms: None,
                    next_ms: 0,
                    wait: RESEND,
                });
            }
            Err(_) => self.notices.push(Notice::Unwritable("credit request")),
        }
        credit.outstanding = Some(request);
        self.asking.made_ms = Some(self.now.mono_ms);
        self.asking.forced = false;
        self.asking.on_connect = false;
        self.dirty = true;
        self.notices.push(Notice::Requested {
            number,
            kind,
            reason,
            used,
            returned,
        });
    }

    /// Sends the outstanding request, or sends it again.
    pub(super) fn send_credit(&mut self) {
        if !self.can_send() {
            return;
        }
        let now_ms = self.now.mono_ms;
        let jitter = self.config.jitter_permille;
        let Some(sent) = &mut self.asking.sent else {
            return;
        };
        if now_ms < sent.next_ms {
            return;
        }
        sent.first_ms.get_or_insert(now_ms);
        sent.next_ms = now_ms.saturating_add(sent.wait.wait(jitter));
        let payload = sent.payload.clone();
        self.publish(Up::Credit, payload, false);
    }
}

/// The number after this one. Numbers are 64 bits wide: they do not end.
pub(super) const fn after(number: RequestNumber) -> RequestNumber {
    RequestNumber(number.0.saturating_add(1))
}
