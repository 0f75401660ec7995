//! Packages: bought, credited, cancelled. A purchase first pays debt, then covers uncovered stretches in the
//! order of their position, then becomes available; devices that wait for it are told (rule R7).

use std::collections::VecDeque;

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{CommandId, DeviceId, FleetId, PackageId};
use simquota_shared::message::{Ack, Body, Command, Kind, Outcome};
use simquota_shared::topic::Down;
use simquota_shared::units::{Epoch, Octets};

use super::credit::device_kid;
use super::usage::{device_account, pocket};
use super::{Turn, Verdict, encoded};
use crate::ledger::Broken;
use crate::ledger::account::{Account, Move, Pocket, Purse, Slot};
use crate::ledger::entry::{
    Cause, CommandSettled, Commanded, Covered, DebtPaid, PackageBought, PackageEnded, Segment,
    Subject, TermsSet,
};

/// What is bought, and on what terms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Purchase {
    pub(super) bought: PackageBought,
    pub(super) terms: TermsSet,
}

impl Purchase {
    /// A package without terms of its own.
    pub(super) fn usual(bought: PackageBought) -> Self {
        let terms = Self::usual_terms(&bought.package);
        Self { bought, terms }
    }

    fn usual_terms(package: &PackageId) -> TermsSet {
        TermsSet {
            package: package.clone(),
            from: None,
            lasts_s: None,
            overage: Octets::ZERO,
            price: 0,
            plan: None,
        }
    }
}

/// How far a command's number jumps when the device turns out to know higher ones than we do.
const NUMBERS_BEHIND: u64 = 1000;

impl Turn<'_> {
    /// Books a purchase and everything that follows from it.
    pub(super) fn buy(&mut self, purchase: Purchase) -> Result<(), Broken> {
        let bought = &purchase.bought;
        let (package, fleet, device) = (
            bought.package.clone(),
            bought.fleet.clone(),
            bought.device.clone(),
        );
        self.book(purchase)?;
        self.gained(&package, &fleet, device.as_ref())
    }

    /// Books a purchase, its terms and its price.
    pub(super) fn book(&mut self, purchase: Purchase) -> Result<(), Broken> {
        let Purchase { bought, terms } = purchase;
        let (package, fleet) = (bought.package.clone(), bought.fleet.clone());
        let subject = match &bought.device {
            Some(device) => Subject::Device(device.clone()),
            None => Subject::Fleet(fleet.clone()),
        };
        let mut moves = Vec::new();
        if bought.volume > Octets::ZERO {
            moves.push(Move {
                from: pocket(&package, Pocket::Volume),
                to: pocket(&package, Pocket::Available),
                octets: bought.volume,
            });
        }
        self.record(subject.clone(), Cause::PackageBought(bought), moves)?;
        if terms == Purchase::usual_terms(&package) {
            return Ok(());
        }
        let mut paid = Vec::new();
        if terms.price > 0 {
            paid.push(Move {
                from: Account::Fleet(fleet.clone(), Purse::Balance),
                to: Account::Fleet(fleet, Purse::Spent),
                octets: Octets(terms.price),
            });
        }
        self.record(subject, Cause::TermsSet(terms), paid)
    }

    /// A package gained available octets: debt first, then uncovered stretches, then whoever waits.
    pub(super) fn gained(
        &mut self,
        package: &PackageId,
        fleet: &FleetId,
        device: Option<&DeviceId>,
    ) -> Result<(), Broken> {
        for debtor in self.debtors(fleet, device) {
            self.pay_debt(&debtor, package)?;
        }
        let owners: Vec<DeviceId> = match device {
            Some(device) => vec![device.clone()],
            None => self
                .ledger
                .index
                .members
                .get(fleet)
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        };
        for owner in &owners {
            self.cover(owner, package)?;
        }
        match device {
            Some(device) => {
                if !self.push(device, None)? {
                    self.wake(device)?;
                }
                Ok(())
            }
            None => self.pool_pushes(fleet),
        }
    }

    /// After a device's reservation was released: if that was a pool's, others may be waiting for it.
    pub(super) fn pool_gained(&mut self, released_by: &DeviceId) -> Result<(), Broken> {
        match self
            .ledger
            .devices
            .get(released_by)
            .map(|device| device.fleet.clone())
        {
            Some(fleet) => self.pool_pushes(&fleet),
            None => Ok(()),
        }
    }

    fn debtors(&self, fleet: &FleetId, device: Option<&DeviceId>) -> Vec<DeviceId> {
        self.ledger
            .index
            .debtors
            .iter()
            .filter(|(of, _, debtor)| of == fleet && device.is_none_or(|device| device == debtor))
            .map(|(_, _, debtor)| debtor.clone())
            .collect()
    }

    fn pay_debt(&mut self, debtor: &DeviceId, package: &PackageId) -> Result<(), Broken> {
        let debt = self
            .ledger
            .devices
            .get(debtor)
            .map_or(Octets::ZERO, |device| device.debt);
        let paid = Octets(debt.value().min(self.left(package)));
        if paid == Octets::ZERO {
            return Ok(());
        }
        let moves = vec![
            Move {
                from: pocket(package, Pocket::Available),
                to: pocket(package, Pocket::Used),
                octets: paid,
            },
            Move {
                from: device_account(debtor, Slot::Debt),
                to: device_account(debtor, Slot::Paid),
                octets: paid,
            },
        ];
        let cause = Cause::DebtPaid(DebtPaid {
            package: package.clone(),
        });
        self.record(Subject::Device(debtor.clone()), cause, moves)
    }

    fn left(&self, package: &PackageId) -> u64 {
        self.ledger
            .packages
            .get(package)
            .filter(|package| !package.ended && package.has_begun(self.now))
            .map_or(0, |package| package.balances.available.value())
    }

    /// Gives uncovered stretches of a device to a package, in the order of their position.
    fn cover(&mut self, owner: &DeviceId, package: &PackageId) -> Result<(), Broken> {
        let epochs: Vec<Epoch> = self
            .ledger
            .devices
            .get(owner)
            .map(|device| {
                device
                    .epochs
                    .iter()
                    .filter(|(_, axis)| {
                        axis.segments
                            .iter()
                            .any(|segment| segment.package.is_none())
                    })
                    .map(|(epoch, _)| *epoch)
                    .collect()
            })
            .unwrap_or_default();
        for epoch in epochs {
            let segments = self
                .ledger
                .devices
                .get(owner)
                .and_then(|device| device.epochs.get(&epoch))
                .map(|axis| axis.segments.clone())
                .unwrap_or_default();
            let (segments, covered) = covering(&segments, package, self.left(package));
            if covered > 0 {
                let moves = vec![Move {
                    from: pocket(package, Pocket::Available),
                    to: pocket(package, Pocket::Reserved),
                    octets: Octets(covered),
                }];
                let cause = Cause::Covered(Covered { epoch, segments });
                self.record(Subject::Device(owner.clone()), cause, moves)?;
            }
        }
        Ok(())
    }

    /// Pushes to the devices of a pool whose last answer was 4012, each its share (rule R7).
    fn pool_pushes(&mut self, fleet: &FleetId) -> Result<(), Broken> {
        let waiting: Vec<DeviceId> = self
            .ledger
            .index
            .waiting
            .get(fleet)
            .into_iter()
            .flatten()
            .take(self.rules.pushes_max)
            .cloned()
            .collect();
        let available = self
            .ledger
            .available(&crate::ledger::Owner::Pool(fleet.clone()));
        let each = match waiting.len() {
            0 => return Ok(()),
            devices => u64::try_from(available.div_ceil(devices as u128)).unwrap_or(u64::MAX),
        };
        if each == 0 {
            return Ok(());
        }
        for device in waiting {
            if !self.push(&device, Some(each))? {
                self.wake(&device)?;
            }
        }
        Ok(())
    }

    /// Limits of a fleet were lifted or began anew: whoever waits gets what there is, or is told to ask.
    pub(super) fn nudge(&mut self, fleet: &FleetId) -> Result<(), Broken> {
        let waiting: Vec<DeviceId> = self
            .ledger
            .index
            .waiting
            .get(fleet)
            .into_iter()
            .flatten()
            .take(self.rules.pushes_max)
            .cloned()
            .collect();
        for device in waiting {
            if !self.push(&device, None)? {
                self.wake(&device)?;
            }
        }
        Ok(())
    }

    /// Tells a device that was refused and whose refusal is no longer valid to ask again.
    fn wake(&mut self, id: &DeviceId) -> Result<(), Broken> {
        let stuck = self.ledger.devices.get(id).is_some_and(|device| {
            // One wake-up at a time: the one before is still on its way.
            !self.is_suspended(device)
                && device.pending.is_empty()
                && device.axis().is_some_and(|axis| {
                    axis.last.as_ref().is_some_and(|last| {
                        last.kind != Kind::Final
                            && last.code == Code::CREDIT_LIMIT_REACHED
                            && last.valid_until.is_none_or(|until| until <= self.now)
                    })
                })
        });
        if stuck {
            self.tell(id, &Body::Reauthorise)
        } else {
            Ok(())
        }
    }

    /// Issues a command to a device: durable, sent, and sent again until it is acknowledged or too late.
    pub(super) fn tell(&mut self, id: &DeviceId, body: &Body) -> Result<(), Broken> {
        self.tell_beyond(id, body, 1)
    }

    /// Issues a command whose number is `step` beyond the last one.
    fn tell_beyond(&mut self, id: &DeviceId, body: &Body, step: u64) -> Result<(), Broken> {
        match self.ledger.devices.get(id).map(device_kid) {
            Some(kid) => self.tell_under(id, &kid, body, step),
            None => Ok(()),
        }
    }

    /// Tells a device under an older generation of its key that it is to go on to this one.
    pub(super) fn tell_rotation(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        generation: u64,
    ) -> Result<(), Broken> {
        let body = Body::Rotate(generation);
        let told = self.ledger.devices.get(id).is_some_and(|device| {
            let mut live = device
                .pending
                .values()
                .filter(|pending| self.now < pending.expires);
            live.any(|pending| {
                codec::decode::<Command>(&pending.message).is_ok_and(|command| command.body == body)
            })
        });
        // In their order: one that sets state is superseded by the next.
        self.resend_commands(id, kid);
        match told {
            true => Ok(()),
            false => self.tell_under(id, kid, &body, 1),
        }
    }

    fn tell_under(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        body: &Body,
        step: u64,
    ) -> Result<(), Broken> {
        let Some(device) = self.ledger.devices.get(id) else {
            return Ok(());
        };
        let number = device
            .commands
            .checked_add(step)
            .ok_or(Broken::Balance("no more commands"))?;
        let expires = self
            .now
            .plus_s(self.rules.command_s)
            .ok_or(Broken::Balance("a command's end overflows"))?;
        // A restored cloud counts the same numbers again. An id that the device remembers would be acknowledged as that
        // earlier command and not done, so the id has the time as well.
        let command_id: CommandId = format!("c-{number}-{:x}", self.now.value())
            .parse()
            .map_err(|_| Broken::Balance("a command's id is not one"))?;
        let command = Command {
            epoch: device.epoch,
            id: command_id.clone(),
            number,
            expires,
            now: self.now,
            body: body.clone(),
        };
        let payload = encoded(&command)?;
        let cause = Cause::Commanded(Commanded {
            number,
            id: command_id,
            message: simquota_shared::message::ops::Blob(payload.clone()),
            expires,
        });
        self.record(Subject::Device(id.clone()), cause, Vec::new())?;
        self.say(id, kid, Down::Command, payload, false);
        Ok(())
    }

    /// Sends again what a device has not acknowledged and what is not too late.
    pub(super) fn resend_commands(&mut self, id: &DeviceId, kid: &Kid) {
        let due: Vec<Vec<u8>> = self
            .ledger
            .devices
            .get(id)
            .map(|device| {
                device
                    .pending
                    .values()
                    .filter(|pending| self.now < pending.expires)
                    .map(|pending| pending.message.clone())
                    .collect()
            })
            .unwrap_or_default();
        for payload in due {
            self.say(id, kid, Down::Command, payload, false);
        }
    }

    /// The outcome of a command: settles it once.
    pub(super) fn command_ack(&mut self, id: &DeviceId, ack: &Ack) -> Result<Verdict, Broken> {
        let Some(device) = self.ledger.devices.get(id) else {
            return Ok(Verdict::Done);
        };
        let Some(pending) = device
            .pending
            .get(&ack.number)
            .filter(|pending| pending.id == ack.id)
        else {
            return Ok(Verdict::Done);
        };
        let newest = device.commands == ack.number;
        let command = codec::decode::<Command>(&pending.message).ok();
        let cause = Cause::CommandSettled(CommandSettled {
            number: ack.number,
            outcome: ack.outcome as u64,
        });
        self.record(Subject::Device(id.clone()), cause, Vec::new())?;
        // The newest command superseded by one that we know nothing of: a backup was restored, and our numbers are
        // behind the device's. Further on we meet none that it has seen.
        if let Some(command) = command
            && newest
            && ack.outcome == Outcome::Superseded
        {
            self.tell_beyond(id, &command.body, NUMBERS_BEHIND)?;
        }
        Ok(Verdict::Done)
    }

    /// Ends a package: what is available expires, or is refunded when it was cancelled.
    pub(super) fn end_package(&mut self, id: &PackageId, refunded: bool) -> Result<Octets, Broken> {
        let Some(package) = self.ledger.packages.get(id) else {
            return Ok(Octets::ZERO);
        };
        let rest = package.balances.available;
        let subject = match &package.device {
            Some(device) => Subject::Device(device.clone()),
            None => Subject::Fleet(package.fleet.clone()),
        };
        let to = if refunded {
            Pocket::Refunded
        } else {
            Pocket::Expired
        };
        let mut moves = Vec::new();
        if rest > Octets::ZERO {
            moves.push(Move {
                from: pocket(id, Pocket::Available),
                to: pocket(id, to),
                octets: rest,
            });
        }
        let cause = Cause::PackageEnded(PackageEnded {
            package: id.clone(),
            refunded,
        });
        self.record(subject, cause, moves)?;
        Ok(rest)
    }
}

/// The segments with uncovered ones given to `package` as far as it reaches, and how much that took.
fn covering(
    segments: &VecDeque<Segment>,
    package: &PackageId,
    mut left: u64,
) -> (Vec<Segment>, u64) {
    let before = left;
    let mut after: Vec<Segment> = Vec::new();
    for segment in segments {
        if segment.package.is_some() || left == 0 {
            after.push(segment.clone());
            continue;
        }
        let part = segment.octets.value().min(left);
        left -= part;
        after.push(Segment {
            package: Some(package.clone()),
            octets: Octets(part),
        });
        if part < segment.octets.value() {
            after.push(Segment {
                package: None,
                octets: Octets(segment.octets.value() - part),
            });
        }
    }
    (after, before - left)
}
