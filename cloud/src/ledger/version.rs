//! Versions: which entry last changed what people keep of an object, for whoever changes it only as they saw it.
//!
//! Terms, settings, volume bought or taken back count; registrations, grants, usage and the end of a package's time do
//! not: they go on by themselves, and nobody could ever name the version.

use serde::{Deserialize, Serialize};
use simquota_shared::ids::{DeviceId, FleetId, PackageId};
use simquota_shared::units::{EntryNumber, UnixMillis};

use super::Ledger;
use super::account::{Account, Purse};
use super::entry::{AccessChange, Cause, Entry, Subject};

/// What can be commanded about, and has a version. A SIM's is that of its device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Object {
    /// A device: its settings, its SIM, what it owns.
    Device(DeviceId),
    /// A fleet: its settings, its rules, its pool, its money.
    Fleet(FleetId),
    /// A package.
    Package(PackageId),
    /// A plan.
    Plan(PackageId),
}

/// The last change of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// In which entry; 0: it is as it began.
    pub entry: EntryNumber,
    /// When.
    pub at: UnixMillis,
    /// What happened: the cause's name.
    pub cause: String,
}

impl Ledger {
    /// An object's version: the number of the entry that last changed it, 0 for one that nobody changed.
    #[must_use]
    pub fn version(&self, object: &Object) -> EntryNumber {
        match (self.estate.versions.get(object), object) {
            (Some(version), _) => version.entry,
            (None, Object::Package(id)) => {
                let package = self.packages.get(id);
                package.map_or(EntryNumber::ZERO, |package| package.bought)
            }
            (None, _) => EntryNumber::ZERO,
        }
    }

    pub(super) fn note_versions(&mut self, entry: &Entry) {
        for object in changed(entry) {
            let version = Version {
                entry: entry.number,
                at: entry.at,
                cause: entry.cause.name().to_owned(),
            };
            self.estate.versions.insert(object, version);
        }
    }
}

/// What an entry changes about which objects.
fn changed(entry: &Entry) -> Vec<Object> {
    let owner = |device: &Option<DeviceId>, fleet: &FleetId| match device {
        Some(device) => Object::Device(device.clone()),
        None => Object::Fleet(fleet.clone()),
    };
    match &entry.cause {
        // A package begins at the entry that bought it.
        Cause::PackageBought(bought) => vec![owner(&bought.device, &bought.fleet)],
        Cause::PlanBegan(began) => vec![
            Object::Plan(began.plan.clone()),
            owner(&began.device, &began.fleet),
        ],
        Cause::PlanEnded(ended) => vec![Object::Plan(ended.plan.clone())],
        Cause::PackageEnded(ended) if ended.refunded => {
            vec![Object::Package(ended.package.clone())]
        }
        Cause::Credited(_) | Cause::Debited(_) | Cause::Moved(_) => packages(entry),
        Cause::Refunded(_) => {
            let mut objects = packages(entry);
            objects.extend(subject(entry));
            objects
        }
        Cause::Replaced(replaced) => {
            let moved = replaced.packages.iter().cloned().map(Object::Package);
            let mut objects: Vec<Object> = moved.collect();
            objects.extend(subject(entry));
            objects
        }
        Cause::AccessChanged(change) => match change.change {
            AccessChange::DeviceBarred | AccessChange::DeviceReadmitted => {
                let device = change.name.as_str().parse().ok();
                device.map(Object::Device).into_iter().collect()
            }
            AccessChange::KeyRevoked
            | AccessChange::EnrolmentRevoked
            | AccessChange::EnrolmentUntil
            | AccessChange::GenerationBegun => Vec::new(),
        },
        // Deposits and withdrawals: their subject is the platform.
        Cause::MoneyMoved(_) => fleets(entry),
        Cause::Suspension(_)
        | Cause::PolicySet(_)
        | Cause::DeviceCapsSet(_)
        | Cause::TagsSet(_)
        | Cause::SimReleased(_)
        | Cause::SimAssigned(_)
        | Cause::Replaces(_)
        | Cause::Decommissioned(_)
        | Cause::LimitsSet(_)
        | Cause::ThresholdsSet(_)
        | Cause::TopUpSet(_)
        | Cause::FleetSuspension(_) => subject(entry).into_iter().collect(),
        Cause::FleetCreated(_)
        | Cause::KeyCreated(_)
        | Cause::EnrolmentCreated(_)
        | Cause::SimsImported(_)
        | Cause::Registered(_)
        | Cause::Covered(_)
        | Cause::DebtPaid(_)
        | Cause::Credit(_)
        | Cause::Pushed(_)
        | Cause::Usage(_)
        | Cause::Closed(_)
        | Cause::Lapsed(_)
        | Cause::PackageEnded(_)
        | Cause::Commanded(_)
        | Cause::CommandSettled(_)
        | Cause::CommandDone(_)
        | Cause::Suspected(_)
        | Cause::TermsSet(_)
        | Cause::PackageBegan(_)
        | Cause::PlanTurned(_)
        | Cause::Overdrawn(_)
        | Cause::Crossed(_)
        | Cause::WindowsTurned(_)
        | Cause::LimitReached(_)
        | Cause::ToppedUp(_)
        | Cause::FleetTold(_)
        | Cause::MoneyRefunded(_)
        | Cause::BulkBegan(_)
        | Cause::BulkWent(_) => Vec::new(),
    }
}

fn subject(entry: &Entry) -> Option<Object> {
    match &entry.subject {
        Subject::Device(device) => Some(Object::Device(device.clone())),
        Subject::Fleet(fleet) => Some(Object::Fleet(fleet.clone())),
        Subject::Platform => None,
    }
}

/// The packages whose octets an entry moves.
fn packages(entry: &Entry) -> Vec<Object> {
    let accounts = entry.moves.iter().flat_map(|m| [&m.from, &m.to]);
    let ids = accounts.filter_map(|account| match account {
        Account::Package(id, _) => Some(Object::Package(id.clone())),
        Account::Device(..) | Account::Fleet(..) => None,
    });
    ids.collect()
}

fn fleets(entry: &Entry) -> Vec<Object> {
    let accounts = entry.moves.iter().flat_map(|m| [&m.from, &m.to]);
    let ids = accounts.filter_map(|account| match account {
        Account::Fleet(id, Purse::Balance) => Some(Object::Fleet(id.clone())),
        Account::Package(..) | Account::Device(..) | Account::Fleet(..) => None,
    });
    ids.collect()
}
