//! Credit requests: rules R1-R7 of DESIGN section 4. Credit requests only reserve and release; they never debit.
//!
//! The cloud works at `p = max(U, charged)` (R6). First every octet from charged to p gets a segment: what is
//! there stays, what is missing is reserved anew, and where no package has volume an uncovered segment fills the
//! place. Then new octets are appended: from `max(ceiling, p)` for an update, from `p` for an initial.

use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::DeviceId;
use simquota_shared::message::{CreditAnswer, CreditRequest, FinalAction, Kind, Policy};
use simquota_shared::topic::Down;
use simquota_shared::units::{Octets, Push, UnixMillis};

use super::shelf::Shelf;
use super::size::Wish;
use super::usage::{Sums, pocket};
use super::{Turn, Verdict, encoded};
use crate::ledger::account::{Move, Pocket};
use crate::ledger::chain::digest;
use crate::ledger::device::{Axis, Device, Last};
use crate::ledger::entry::{By, Cause, Credit, Pushed, Segment, Size, Subject};
use crate::ledger::{Broken, total};

/// A decision on a request, before it is written down.
struct Plan {
    code: Code,
    kept: Octets,
    appended: Vec<Segment>,
    moves: Vec<Move>,
    ceiling: Octets,
    renew_below: Octets,
    final_unit: Option<FinalAction>,
    valid_until: Option<UnixMillis>,
    lease_until: UnixMillis,
    balance: Octets,
    released: bool,
    size: Option<Size>,
}

/// What a request is, seen from the last decision (rule R5).
enum Standing {
    /// To be decided.
    New,
    /// Decided before: the answer stands.
    Repeat,
    /// The same number with another body, or a used total that went back.
    Reused(&'static str),
    /// A used total that no link can have reached.
    Implausible,
}

impl Turn<'_> {
    pub(super) fn credit(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &CreditRequest,
    ) -> Result<Verdict, Broken> {
        let Some(device) = self.ledger.devices.get(id) else {
            self.undecided(id, kid, request, Code::UNKNOWN_EPOCH)?;
            return Ok(Verdict::refused(
                "unknown-device",
                format!("device {id} has not registered"),
            ));
        };
        let Some(axis) = device
            .epochs
            .get(&request.epoch)
            .filter(|_| device.epoch == request.epoch)
        else {
            let axis = device.epochs.get(&request.epoch);
            let superseded = axis.is_some();
            // A request that was seen before is a copy; another one comes from a store that lives on.
            let decided = axis
                .and_then(|axis| axis.last.as_ref())
                .map(|last| last.number);
            let lives_on = superseded && decided.is_none_or(|decided| request.number > decided);
            let detail = format!(
                "device {id} is in epoch {}, not {}",
                device.epoch, request.epoch
            );
            let code = if superseded {
                Code::EPOCH_SUPERSEDED
            } else {
                Code::UNKNOWN_EPOCH
            };
            self.undecided(id, kid, request, code)?;
            if lives_on {
                self.suspect(id, "superseded-epoch", &detail)?;
            }
            return Ok(Verdict::refused(
                if superseded {
                    "superseded-epoch"
                } else {
                    "unknown-epoch"
                },
                detail,
            ));
        };
        let body = encoded(request)?;
        match self.standing(axis, device, request, &digest(&body).0) {
            Standing::New => {}
            Standing::Repeat => {
                let (answer, pushed) = axis
                    .last
                    .as_ref()
                    .map(|last| (last.answer.clone(), last.pushed.clone()))
                    .unwrap_or_default();
                self.say(id, kid, Down::Credit, answer, true);
                if !pushed.is_empty() {
                    self.say(id, kid, Down::Credit, pushed, true);
                }
                return Ok(Verdict::Done);
            }
            Standing::Reused(detail) => {
                self.undecided(id, kid, request, Code::NUMBER_REUSED)?;
                return Ok(Verdict::refused(
                    "number-reused",
                    format!("device {id}, request {}: {detail}", request.number),
                ));
            }
            Standing::Implausible => {
                self.undecided(id, kid, request, Code::INVALID_VALUE)?;
                return Ok(Verdict::refused(
                    "implausible-used",
                    format!(
                        "device {id} says it used {}, which its link can't have carried",
                        request.used
                    ),
                ));
            }
        }
        let plan = self.plan(id, device, axis, request)?;
        self.decide(id, kid, request, plan, digest(&body))
    }

    fn standing(
        &self,
        axis: &Axis,
        device: &Device,
        request: &CreditRequest,
        body: &[u8],
    ) -> Standing {
        if let Some(last) = &axis.last {
            if request.number < last.number {
                return Standing::Repeat;
            }
            if request.number == last.number {
                return if last.request == body {
                    Standing::Repeat
                } else {
                    Standing::Reused("the number was used with another body")
                };
            }
            if request.used < last.used {
                return Standing::Reused("the used total went back");
            }
        }
        let since = axis
            .last
            .as_ref()
            .map_or(device.registered, |last| last.decided);
        let elapsed_ms = self.now.beyond(since);
        // One second more than the clock says: a burst just after a decision is not a lie.
        let carried = u128::from(self.rules.line_rate) * (u128::from(elapsed_ms) + 1000) / 1000;
        let reach = u128::from(axis.ceiling.max(axis.charged).value())
            + u128::from(self.rules.allowance.value())
            + u128::from(self.rules.policy.bootstrap.value())
            + carried;
        if u128::from(request.used.value()) > reach {
            return Standing::Implausible;
        }
        Standing::New
    }

    fn plan(
        &self,
        id: &DeviceId,
        device: &Device,
        axis: &Axis,
        request: &CreditRequest,
    ) -> Result<Plan, Broken> {
        let position = request.used.max(axis.charged);
        let continues = request.kind == Kind::Update && axis.open;
        // What stays: up to p, or for an update all that there is.
        let kept = if continues {
            Octets(axis.ceiling.beyond(axis.charged))
        } else {
            Octets(position.min(axis.ceiling).beyond(axis.charged))
        };
        let (_, released) = axis.split(kept);
        let mut moves = Sums::default();
        let mut shelf = Shelf::of(self.ledger, id, &device.fleet, &request.zone, self.now);
        for segment in &released {
            if let Some(package) = &segment.package {
                let back = self.returns_to(package);
                moves.add(
                    pocket(package, Pocket::Reserved),
                    pocket(package, back),
                    segment.octets.value(),
                );
                if back == Pocket::Available {
                    shelf.put_back(package, segment.octets.value());
                }
            }
        }
        let mut appended = self.fill(id, device, axis, request, position, &mut shelf);
        let base = if continues {
            axis.ceiling.max(position)
        } else {
            position
        };
        let suspended = self.is_suspended(device);
        let denied = suspended || request.kind == Kind::Final;
        let room = self.room(device, axis, kept, &released, &appended);
        let in_hand = if continues {
            axis.ceiling.beyond(position)
        } else {
            0
        };
        let (granted, why) = if denied {
            (Vec::new(), None)
        } else {
            let pace = if device.is_refused() {
                device.pace.resumed(self.now)
            } else {
                device.pace
            };
            let used = Octets(position.beyond(axis.charged));
            let wish = Wish {
                want: request.want,
                in_hand,
                renews: continues,
                pace: pace.after(used, self.now),
            };
            let (bounds, why) = self.bounds(device, &wish, &room, &shelf);
            let (granted, less) = shelf.grant(bounds);
            let why = Size {
                by: less.unwrap_or(why.by),
                ..why
            };
            (granted, Some(why))
        };
        let size = total(&granted)?;
        appended.extend(granted);
        for segment in &appended {
            if let Some(package) = &segment.package {
                moves.add(
                    pocket(package, Pocket::Available),
                    pocket(package, Pocket::Reserved),
                    segment.octets.value(),
                );
            }
        }
        let ceiling = base
            .checked_add(size.value())
            .ok_or(Broken::Balance("a ceiling overflows"))?;
        let code = match (request.kind, suspended) {
            (Kind::Final, _) => Code::SUCCESS,
            (Kind::Initial | Kind::Update, true) => Code::SERVICE_DENIED,
            (Kind::Initial | Kind::Update, false)
                if size == Octets::ZERO && request.want > Octets::ZERO =>
            {
                Code::CREDIT_LIMIT_REACHED
            }
            (Kind::Initial | Kind::Update, false) => Code::SUCCESS,
        };
        let last_unit =
            request.kind != Kind::Final && code != Code::SERVICE_DENIED && shelf.is_empty();
        let (valid_until, lease_until) = self.validity(
            device,
            axis,
            (request.kind, continues),
            kept,
            &appended,
            (code, room.until),
        )?;
        Ok(Plan {
            code,
            kept,
            appended,
            moves: moves.moves(),
            ceiling,
            renew_below: if last_unit || denied {
                Octets::ZERO
            } else {
                renew_below(ceiling.beyond(position), in_hand, request.want)
            },
            final_unit: last_unit.then(|| self.rules.final_action.clone()),
            valid_until,
            lease_until,
            balance: Octets(shelf.left()),
            released: !released.is_empty(),
            size: why.filter(|_| size > Octets::ZERO),
        })
    }

    /// Gives every octet from the segments' end to p a segment: in the zone of the previous request, and
    /// uncovered where no package there has volume.
    fn fill(
        &self,
        id: &DeviceId,
        device: &Device,
        axis: &Axis,
        request: &CreditRequest,
        position: Octets,
        shelf: &mut Shelf,
    ) -> Vec<Segment> {
        let missing = position.beyond(axis.ceiling.max(axis.charged));
        if missing == 0 {
            return Vec::new();
        }
        let zone = axis.last.as_ref().map_or(&request.zone, |last| &last.zone);
        let mut filled = if *zone == request.zone {
            shelf.take_any(missing)
        } else {
            let mut before = Shelf::of(self.ledger, id, &device.fleet, zone, self.now);
            let filled = before.take_any(missing);
            for segment in &filled {
                if let Some(package) = &segment.package {
                    shelf.take_from(package, segment.octets.value());
                }
            }
            filled
        };
        let covered: u64 = filled.iter().map(|segment| segment.octets.value()).sum();
        if covered < missing {
            filled.push(Segment {
                package: None,
                octets: Octets(missing - covered),
            });
        }
        filled
    }

    /// R4: a decision sets validity and lease together. The lease is twice the validity (RFC 8506, 13).
    fn validity(
        &self,
        device: &Device,
        axis: &Axis,
        (kind, continues): (Kind, bool),
        kept: Octets,
        appended: &[Segment],
        (code, room_until): (Code, Option<UnixMillis>),
    ) -> Result<(Option<UnixMillis>, UnixMillis), Broken> {
        let policy = self.policy_of(device);
        let (kept, _) = axis.split(kept);
        let first_end = kept
            .iter()
            .chain(appended)
            .filter_map(|segment| segment.package.as_ref())
            .filter_map(|package| self.ledger.packages.get(package))
            .filter_map(|package| package.end_if_used(self.now))
            .chain(room_until)
            .min();
        let floor = self.rules.validity_min_s.min(policy.validity_s) * 1000;
        let mut valid_ms = policy.validity_s * 1000;
        if let Some(end) = first_end {
            valid_ms = valid_ms.min(end.beyond(self.now).max(floor));
        }
        if code == Code::CREDIT_LIMIT_REACHED {
            valid_ms = valid_ms.min(floor);
        }
        if kind == Kind::Final {
            valid_ms = policy.validity_s * 1000;
        }
        let overflow = Broken::Balance("a validity overflows");
        let mut lease_until = valid_ms
            .checked_mul(2)
            .and_then(|lease| self.now.checked_add(lease))
            .ok_or(overflow.clone())?;
        // Without a cut the device may never hear this answer and go on under the one before: a shorter lease
        // would release octets that it still may use.
        if continues {
            lease_until = lease_until.max(axis.lease_until);
        }
        let valid_until = self.now.checked_add(valid_ms).ok_or(overflow)?;
        Ok(((kind != Kind::Final).then_some(valid_until), lease_until))
    }

    fn decide(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &CreditRequest,
        plan: Plan,
        body: simquota_shared::message::ops::Blob,
    ) -> Result<Verdict, Broken> {
        let answer = CreditAnswer {
            epoch: request.epoch,
            number: request.number,
            push: Push::ZERO,
            code: plan.code,
            ceiling: plan.ceiling,
            stop: self.stop(plan.ceiling)?,
            decided: self.now,
            valid_until: plan.valid_until,
            renew_below: plan.renew_below,
            final_unit: plan.final_unit.clone(),
            silence_s: self.rules.silence_s,
            hold_s: self.rules.hold_s,
            balance: plan.balance,
            retry_s: None,
        };
        let payload = encoded(&answer)?;
        let cause = Cause::Credit(Credit {
            epoch: request.epoch,
            number: request.number,
            kind: request.kind,
            reason: request.reason,
            zone: request.zone.clone(),
            used: request.used,
            want: request.want,
            request: body,
            code: plan.code,
            kept: plan.kept,
            appended: plan.appended,
            ceiling: plan.ceiling,
            valid_until: plan.valid_until,
            lease_until: plan.lease_until,
            final_unit: plan.final_unit,
            answer: simquota_shared::message::ops::Blob(payload.clone()),
            size: plan.size,
        });
        self.record(Subject::Device(id.clone()), cause, plan.moves)?;
        self.say(id, kid, Down::Credit, payload, true);
        if plan.released {
            self.pool_gained(id)?;
        }
        Ok(Verdict::Done)
    }

    /// An answer that is not a decision: not stored, not retained, and it moves nothing (rule R5).
    fn undecided(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &CreditRequest,
        code: Code,
    ) -> Result<(), Broken> {
        let ceiling = self
            .ledger
            .devices
            .get(id)
            .and_then(|device| device.epochs.get(&request.epoch))
            .map_or(Octets::ZERO, |axis| axis.ceiling);
        let answer = CreditAnswer {
            epoch: request.epoch,
            number: request.number,
            push: Push::ZERO,
            code,
            ceiling,
            stop: ceiling,
            decided: self.now,
            valid_until: None,
            renew_below: Octets::ZERO,
            final_unit: None,
            silence_s: 0,
            hold_s: 0,
            balance: Octets::ZERO,
            retry_s: None,
        };
        self.say(id, kid, Down::Credit, encoded(&answer)?, false);
        Ok(())
    }

    /// R7: moves a device's ceiling right unasked, after its packages gained volume. It never touches validity.
    pub(super) fn push(&mut self, id: &DeviceId, most: Option<u64>) -> Result<bool, Broken> {
        let Some(device) = self
            .ledger
            .devices
            .get(id)
            .filter(|device| !self.is_suspended(device))
        else {
            return Ok(false);
        };
        let Some((axis, last)) = device
            .axis()
            .and_then(|axis| axis.last.as_ref().map(|last| (axis, last)))
        else {
            return Ok(false);
        };
        if !pushable(last, axis, self.now) {
            return Ok(false);
        }
        let mut shelf = Shelf::of(self.ledger, id, &device.fleet, &last.zone, self.now);
        // A device whose last request only reported may still be shown its new volume.
        let kept = Octets(axis.ceiling.beyond(axis.charged));
        let room = self.room(device, axis, kept, &[], &[]);
        let position = axis.charged.max(last.used);
        let wish = Wish {
            want: last.want.max(self.rules.grant_min),
            in_hand: axis.ceiling.beyond(position),
            renews: false,
            // It stood still, or was about to: how fast it went before that is what counts.
            pace: device.pace.resumed(self.now),
        };
        let (mut bounds, mut why) = self.bounds(device, &wish, &room, &shelf);
        if let Some(most) = most
            && most < bounds.octets
        {
            bounds.octets = most;
            why.by = By::Push;
        }
        let (granted, less) = shelf.grant(bounds);
        why.by = less.unwrap_or(why.by);
        let size = total(&granted)?;
        if size == Octets::ZERO {
            return Ok(false);
        }
        let base = axis.ceiling.max(position);
        let mut appended = Vec::new();
        let missing = base.beyond(axis.ceiling.max(axis.charged));
        if missing > 0 {
            appended.push(Segment {
                package: None,
                octets: Octets(missing),
            });
        }
        appended.extend(granted);
        let ceiling = base
            .checked_add(size.value())
            .ok_or(Broken::Balance("a ceiling overflows"))?;
        let last_unit = shelf.is_empty();
        let push = last.push.next().ok_or(Broken::Balance("no more pushes"))?;
        let answer = CreditAnswer {
            epoch: device.epoch,
            number: last.number,
            push,
            code: Code::SUCCESS,
            ceiling,
            stop: self.stop(ceiling)?,
            decided: last.decided,
            valid_until: last.valid_until,
            renew_below: if last_unit {
                Octets::ZERO
            } else {
                renew_below(ceiling.beyond(position), wish.in_hand, wish.want)
            },
            final_unit: last_unit.then(|| self.rules.final_action.clone()),
            silence_s: self.rules.silence_s,
            hold_s: self.rules.hold_s,
            balance: Octets(shelf.left()),
            retry_s: None,
        };
        let (epoch, number, kid) = (device.epoch, last.number, device_kid(device));
        let moves = reserve(&appended);
        let payload = encoded(&answer)?;
        let cause = Cause::Pushed(Pushed {
            epoch,
            number,
            push,
            appended,
            ceiling,
            final_unit: answer.final_unit.clone(),
            answer: simquota_shared::message::ops::Blob(payload.clone()),
            size: Some(why),
        });
        self.record(Subject::Device(id.clone()), cause, moves)?;
        self.say(id, &kid, Down::Credit, payload, true);
        Ok(true)
    }

    fn stop(&self, ceiling: Octets) -> Result<Octets, Broken> {
        ceiling
            .checked_add(self.rules.allowance.value())
            .ok_or(Broken::Balance("a stop overflows"))
    }

    pub(super) fn policy_of<'a>(&'a self, device: &'a Device) -> &'a Policy {
        device.policy.as_ref().unwrap_or(&self.rules.policy)
    }

    pub(super) fn releases(&self, released: &[Segment]) -> Result<Vec<Move>, Broken> {
        let mut moves = Sums::default();
        for segment in released {
            if let Some(package) = &segment.package {
                moves.add(
                    pocket(package, Pocket::Reserved),
                    pocket(package, self.returns_to(package)),
                    segment.octets.value(),
                );
            }
        }
        Ok(moves.moves())
    }
}

/// A fifth of what is in hand. A grant may be more than was asked for, and then a fifth of what the device wants to have
/// in hand: one that asks for the rest of that would ask for nothing sooner.
fn renew_below(in_hand: u64, before: u64, want: Octets) -> Octets {
    let wanted = match want {
        Octets::ZERO => in_hand,
        Octets(want) => before.saturating_add(want),
    };
    Octets(in_hand.min(wanted) / 5)
}

/// A push follows only an answer that was a final unit or 4012, not one to a final, while its validity and its
/// lease run (rule R7).
fn pushable(last: &Last, axis: &Axis, now: UnixMillis) -> bool {
    last.kind != Kind::Final
        && (last.final_unit.is_some() || last.code == Code::CREDIT_LIMIT_REACHED)
        && last.valid_until.is_some_and(|until| now < until)
        && now < axis.lease_until
}

/// The key under which a device reads what is said to it unasked.
pub(super) fn device_kid(device: &Device) -> Kid {
    Kid {
        name: device.enrolment.to_string(),
        generation: u32::try_from(device.generation).unwrap_or(1),
    }
}

pub(super) fn reserve(segments: &[Segment]) -> Vec<Move> {
    let mut moves = Sums::default();
    for segment in segments {
        if let Some(package) = &segment.package {
            moves.add(
                pocket(package, Pocket::Available),
                pocket(package, Pocket::Reserved),
                segment.octets.value(),
            );
        }
    }
    moves.moves()
}
