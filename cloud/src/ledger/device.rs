//! A device's accounts, and the used-total axis of each of its epochs.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use simquota_shared::code::Code;
use simquota_shared::ids::{CommandId, EnrolmentId, FleetId, Iccid, PackageId, Text, ZoneId};
use simquota_shared::message::{FinalAction, Kind, Policy};
use simquota_shared::units::{
    Boot, EntryNumber, Epoch, Octets, Push, RequestNumber, Seq, UnixMillis,
};

use super::Broken;
use super::account::Slot;
use super::entry::Segment;
use super::fleet::Spent;
use super::pace::Pace;

/// The most late ranges that an epoch remembers; the oldest goes first.
pub const LATE_MAX: usize = 16;

/// A device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Its fleet.
    pub fleet: FleetId,
    /// The enrolment key that admitted it.
    pub enrolment: EnrolmentId,
    /// The generation of its key.
    pub generation: u64,
    /// Serial number.
    pub serial: Text,
    /// Model.
    pub model: Text,
    /// Firmware.
    pub firmware: Text,
    /// The SIM bound to it.
    pub iccid: Iccid,
    /// The epoch in force.
    pub epoch: Epoch,
    /// The last start of its agent that registered.
    pub boot: Boot,
    /// When it last registered.
    pub registered: UnixMillis,
    /// Every epoch that it had.
    pub epochs: BTreeMap<Epoch, Axis>,
    /// Suspended by a manager: asks are answered 4010.
    pub suspended: bool,
    /// The last command's number.
    pub commands: u64,
    /// Commands that are not settled, by number.
    pub pending: BTreeMap<u64, Pending>,
    /// A policy of its own.
    pub policy: Option<Policy>,
    /// Octets debited by usage to packages, over all epochs.
    pub debited: Octets,
    /// Octets used that no package covers, unpaid.
    pub debt: Octets,
    /// Since which entry there is debt: the oldest is paid first.
    pub debt_since: Option<EntryNumber>,
    /// Such octets, paid by purchases.
    pub paid: Octets,
    /// Such octets, forgiven.
    pub forgiven: Octets,
    /// The agent's own octets that are not charged.
    pub control: Octets,
    /// What it used, where limits count it.
    pub spent: Option<Box<Spent>>,
    /// When something that it said was last booked: a registration, a credit request, usage.
    #[serde(default)]
    pub heard: UnixMillis,
    /// How fast it used octets lately: grants are sized by it.
    #[serde(default)]
    pub pace: Pace,
}

/// A command on its way to a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Its id.
    pub id: CommandId,
    /// The message.
    pub message: Vec<u8>,
    /// Not to be sent after this.
    pub expires: UnixMillis,
}

/// What was last decided for an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// The request's number.
    pub number: RequestNumber,
    /// Its kind.
    pub kind: Kind,
    /// Truncated hash of the request.
    pub request: Vec<u8>,
    /// The used total that it named.
    pub used: Octets,
    /// What it wanted.
    pub want: Octets,
    /// Where.
    pub zone: ZoneId,
    /// The result code.
    pub code: Code,
    /// When it was decided.
    pub decided: UnixMillis,
    /// Until when the grant holds.
    pub valid_until: Option<UnixMillis>,
    /// Set on the last grant.
    pub final_unit: Option<FinalAction>,
    /// The answer, octet for octet.
    pub answer: Vec<u8>,
    /// How many pushes followed.
    pub push: Push,
    /// The latest push, octet for octet; empty without one.
    pub pushed: Vec<u8>,
}

/// Whom late octets belong to after a lapse: `(from, to]` on the axis and the package that had them reserved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    /// First position, exclusive.
    pub from: Octets,
    /// Last position, inclusive.
    pub to: Octets,
    /// Which package had them.
    pub package: PackageId,
}

/// The used-total axis of one epoch: how far it is charged, and what is reserved beyond that.
///
/// Always: the segments' octets add up to `max(0, ceiling - charged)`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// Every sample up to this number is in the ledger.
    pub mark: Seq,
    /// The used total at the mark: every octet up to here is debited.
    pub charged: Octets,
    /// The ceiling of the last answer or push.
    pub ceiling: Octets,
    /// What pays for charged..ceiling, in order.
    pub segments: VecDeque<Segment>,
    /// The device closed it with its used total: later samples are record only.
    pub closed: bool,
    /// A grant is open: an update continues it.
    pub open: bool,
    /// When the reservation of a silent device is released.
    pub lease_until: UnixMillis,
    /// What was last decided.
    pub last: Option<Last>,
    /// Where late octets belong after a lapse.
    pub late: VecDeque<Late>,
    /// Octets declared as possibly used and not metered.
    pub unsure: Octets,
}

impl Axis {
    /// Octets of all segments.
    #[must_use]
    pub fn backed(&self) -> u128 {
        self.segments
            .iter()
            .map(|segment| u128::from(segment.octets.value()))
            .sum()
    }

    /// Whether the identity of segments, ceiling and charged holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.backed() == u128::from(self.ceiling.beyond(self.charged))
    }

    /// Takes octets off the front, in order, and says who paid how much.
    #[must_use]
    pub fn pop_front(&mut self, octets: Octets) -> Vec<Segment> {
        let mut left = octets.value();
        let mut taken = Vec::new();
        while left > 0 {
            let Some(front) = self.segments.front_mut() else {
                break;
            };
            let part = front.octets.value().min(left);
            taken.push(Segment {
                package: front.package.clone(),
                octets: Octets(part),
            });
            left = left.saturating_sub(part);
            match front.octets.checked_sub(part) {
                Some(rest) if rest > Octets::ZERO => front.octets = rest,
                _ => drop(self.segments.pop_front()),
            }
        }
        taken
    }

    /// The segments that remain and those that go when only the first `kept` octets stay.
    #[must_use]
    pub fn split(&self, kept: Octets) -> (VecDeque<Segment>, Vec<Segment>) {
        let (mut front, mut rest) = (VecDeque::new(), Vec::new());
        let mut left = kept.value();
        for segment in &self.segments {
            let part = segment.octets.value().min(left);
            left = left.saturating_sub(part);
            let of = |octets| Segment {
                package: segment.package.clone(),
                octets: Octets(octets),
            };
            if part > 0 {
                front.push_back(of(part));
            }
            match segment.octets.checked_sub(part) {
                Some(beyond) if beyond > Octets::ZERO => rest.push(of(beyond.value())),
                _ => {}
            }
        }
        (front, rest)
    }

    /// Appends a segment, joined to the one before when the same package pays.
    ///
    /// # Errors
    /// [`Broken`] past `u64::MAX`.
    pub fn push_back(&mut self, segment: &Segment) -> Result<(), Broken> {
        match self.segments.back_mut() {
            Some(back) if back.package == segment.package => {
                back.octets = back
                    .octets
                    .checked_add(segment.octets.value())
                    .ok_or(Broken::Balance("a segment overflows"))?;
            }
            _ => self.segments.push_back(segment.clone()),
        }
        Ok(())
    }
}

impl Device {
    /// The axis of the epoch in force.
    #[must_use]
    pub fn axis(&self) -> Option<&Axis> {
        self.epochs.get(&self.epoch)
    }

    /// Its last answer was a refusal: it stands still.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let last = self.axis().and_then(|axis| axis.last.as_ref());
        last.is_some_and(|last| !last.code.is_success())
    }

    /// Octets charged over all epochs.
    #[must_use]
    pub fn charged(&self) -> u128 {
        self.epochs
            .values()
            .map(|axis| u128::from(axis.charged.value()))
            .sum()
    }

    /// Octets that it declared as possibly used before power cuts, over all epochs. They are not charged.
    #[must_use]
    pub fn declared(&self) -> u128 {
        self.epochs
            .values()
            .map(|axis| u128::from(axis.unsure.value()))
            .sum()
    }

    /// Whether every charged octet stands in exactly one account (DESIGN section 5).
    #[must_use]
    pub fn holds(&self) -> bool {
        let accounts = [
            self.debited,
            self.paid,
            self.debt,
            self.forgiven,
            self.control,
        ]
        .iter()
        .map(|octets| u128::from(octets.value()))
        .sum::<u128>();
        self.charged() == accounts && self.epochs.values().all(Axis::holds)
    }

    fn slot(&mut self, slot: Slot) -> Option<&mut Octets> {
        match slot {
            Slot::Overdraft | Slot::Own => None,
            Slot::Debt => Some(&mut self.debt),
            Slot::Paid => Some(&mut self.paid),
            Slot::Forgiven => Some(&mut self.forgiven),
            Slot::Control => Some(&mut self.control),
        }
    }

    /// Octets leave an account; a source has no floor.
    ///
    /// # Errors
    /// [`Broken`] when the account does not hold them.
    pub fn take(&mut self, slot: Slot, octets: Octets) -> Result<(), Broken> {
        let Some(balance) = self.slot(slot) else {
            return Ok(());
        };
        *balance = balance.checked_sub(octets.value()).ok_or(Broken::Balance(
            "a device's account can't give that many octets",
        ))?;
        Ok(())
    }

    /// Octets arrive in an account.
    ///
    /// # Errors
    /// [`Broken`] past `u64::MAX`, or when the account is a source.
    pub fn put(&mut self, slot: Slot, octets: Octets) -> Result<(), Broken> {
        let balance = self
            .slot(slot)
            .ok_or(Broken::Balance("octets can't go back into a source"))?;
        *balance = balance
            .checked_add(octets.value())
            .ok_or(Broken::Balance("a device's account overflows"))?;
        Ok(())
    }
}
