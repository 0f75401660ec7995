//! The ledger: what the journal adds up to. Pure: no I/O, no clock, no randomness.
//!
//! [`Ledger::apply`] is the only way to change it, at run time, at a restart and in an audit alike.
//! [`crate::charging`] decides what entries to make; the shell makes them durable before anyone hears of them.
//!
//! **Identities** (DESIGN section 5), checked on whatever an entry touched, after every entry:
//! - a package: `volume + credited = available + reserved + used + expired + refunded + moved_out`;
//! - an epoch: its segments, uncovered ones included, add up to `max(0, ceiling - charged)`;
//! - a device: `charged over all epochs = debited + paid + debt + forgiven + control`;
//! - a fleet's money: `deposited = balance + spent + withdrawn`.
//!
//! Over the whole ledger ([`Ledger::violations`], used by audits): a package's `reserved` is what the segments
//! of all devices name it for.

pub mod access;
pub mod account;
mod apply;
pub mod audit;
pub mod carrier;
pub mod cdr;
pub mod chain;
pub mod device;
pub mod entry;
pub mod estate;
pub mod event;
pub mod explain;
pub mod fleet;
pub mod pace;
pub mod package;
pub mod plan;
pub mod version;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use simquota_shared::code::Code;
use simquota_shared::ids::{CommandId, DeviceId, EnrolmentId, FleetId, Iccid, KeyId, PackageId};
use simquota_shared::message::{Kind, SimProfile};
use simquota_shared::units::{EntryNumber, Epoch, Octets, UnixMillis};

use access::Access;
use account::Pocket;
use chain::Link;
use device::Device;
use entry::{Role, Subject};
use estate::Estate;
use fleet::Fleet;
use package::Package;
use plan::Plan;

/// An entry that does not fit the ledger. It is a defect or a damaged journal, never a peer's doing: the service
/// stops deciding, and reloads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The number does not follow.
    #[error("entry {found} does not follow {last}: the journal has a gap or a repeat there")]
    Number {
        /// The last entry applied.
        last: EntryNumber,
        /// The one that came.
        found: EntryNumber,
    },
    /// The time goes back.
    #[error("entry {0} is dated before the one before it: the journal was altered there")]
    Time(EntryNumber),
    /// The hash does not fit.
    #[error(
        "entry {0} does not fit the hash chain of {1}: it, or the one before it there, was altered"
    )]
    Chain(EntryNumber, String),
    /// An account can't do what the entry says.
    #[error("{0}")]
    Balance(&'static str),
    /// The entry names something that does not exist, or exists already.
    #[error("the entry names {0} '{1}', which {2}")]
    Name(&'static str, String, &'static str),
    /// An identity does not hold after the entry.
    #[error("after entry {0} an identity of {1} does not hold: the ledger stops here")]
    Identity(EntryNumber, String),
    /// The entry can't be written.
    #[error("entry {0} can't be written: {1}")]
    Encode(EntryNumber, String),
}

/// Who owns packages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Owner {
    /// A device.
    Device(DeviceId),
    /// A fleet's pool.
    Pool(FleetId),
}

/// An enrolment key, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Whose devices it admits.
    pub fleet: FleetId,
    /// How many at most.
    pub devices_max: u64,
    /// How many so far.
    pub devices: u64,
}

/// A key of a person, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonKey {
    /// What it allows.
    pub role: Role,
    /// In which fleet; none: in all.
    pub fleet: Option<FleetId>,
}

/// A SIM of the pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sim {
    /// What the device needs to know of it.
    pub profile: SimProfile,
    /// The device it is bound to.
    pub device: Option<DeviceId>,
}

/// The stored answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Truncated hash of the command's body.
    pub body: Vec<u8>,
    /// The command's name.
    pub name: String,
    /// The result code.
    pub code: Code,
    /// The reply, octet for octet.
    pub reply: Vec<u8>,
    /// The entry it stands in.
    pub entry: EntryNumber,
}

/// The whole state. It can be written as a checkpoint and read back.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The last entry applied.
    pub last: EntryNumber,
    /// Its time: the cloud's now is never earlier.
    pub now: UnixMillis,
    /// All fleets.
    pub fleets: BTreeSet<FleetId>,
    /// All keys of people.
    pub keys: BTreeMap<KeyId, PersonKey>,
    /// All enrolment keys.
    pub enrolments: BTreeMap<EnrolmentId, Enrolment>,
    /// All SIMs.
    pub sims: BTreeMap<Iccid, Sim>,
    /// All devices.
    pub devices: BTreeMap<DeviceId, Device>,
    /// All packages.
    pub packages: BTreeMap<PackageId, Package>,
    /// Answers to commands, by the fleet's topic (none: ops) and id.
    pub done: BTreeMap<(Option<FleetId>, CommandId), Done>,
    /// What fleets have besides devices and packages. Most have nothing.
    pub accounts: BTreeMap<FleetId, Fleet>,
    /// Packages that come anew each day, week or month.
    pub plans: BTreeMap<PackageId, Plan>,
    /// Octets that were given back of a deduction, by its entry.
    pub refunds: BTreeMap<EntryNumber, Octets>,
    /// The last link of every chain.
    pub chains: BTreeMap<Subject, Link>,
    /// Who is believed no longer.
    #[serde(default)]
    pub access: Access,
    /// Tags, replacements, commands to many devices.
    #[serde(default)]
    pub estate: Estate,
    /// What can be found out from the rest, kept for speed.
    #[serde(skip)]
    pub index: Index,
}

/// What is due at a time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// A fleet's day or month ends.
    Windows(FleetId),
    /// A plan turns.
    Plan(PackageId),
    /// A package's first day comes.
    Begin(PackageId),
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// A package was used beyond a threshold.
    Package(PackageId),
    /// A device reached a limit.
    Device(DeviceId),
    /// A pool reached a limit.
    Pool(FleetId),
}

/// Look-ups derived from the state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    /// Packages that have not ended, by owner.
    pub open: BTreeMap<Owner, BTreeSet<PackageId>>,
    /// Devices by fleet.
    pub members: BTreeMap<FleetId, BTreeSet<DeviceId>>,
    /// SIMs that are bound to no device.
    pub free_sims: BTreeSet<Iccid>,
    /// When leases run out.
    pub leases: BTreeSet<(UnixMillis, DeviceId, Epoch)>,
    /// Epochs with a lease, by fleet: who of it holds a grant.
    pub leased: BTreeMap<FleetId, u64>,
    /// When packages end.
    pub ends: BTreeSet<(UnixMillis, PackageId)>,
    /// Devices in debt by fleet, oldest debt first.
    pub debtors: BTreeSet<(FleetId, EntryNumber, DeviceId)>,
    /// Devices with commands that are not settled.
    pub commanded: BTreeSet<DeviceId>,
    /// Devices whose last answer was 4012, by fleet: they wait for volume.
    pub waiting: BTreeMap<FleetId, BTreeSet<DeviceId>>,
    /// What happens at a time, besides leases and ends.
    pub dues: BTreeSet<(UnixMillis, Due)>,
    /// Packages about which something is to be booked before they are used.
    pub special: BTreeSet<PackageId>,
    /// Cancelled packages of which octets, and so money, may still come back.
    pub unsettled: BTreeSet<PackageId>,
    /// Fleets whose devices are being told that they are suspended or resumed.
    pub telling: BTreeSet<FleetId>,
    /// Commands to many devices that are not finished.
    pub bulks: BTreeSet<(FleetId, CommandId)>,
    /// What is to be told in the commit that found it.
    pub alarms: BTreeSet<Alarm>,
}

impl Ledger {
    /// Builds the look-ups anew, after a checkpoint was read.
    pub fn reindex(&mut self) {
        let mut index = Index::default();
        for (id, package) in self.packages.iter().filter(|(_, package)| !package.ended) {
            index
                .open
                .entry(package.owner())
                .or_default()
                .insert(id.clone());
            if let Some(until) = package.until {
                index.ends.insert((until, id.clone()));
            }
        }
        for (id, package) in &self.packages {
            if package.is_special() {
                index.special.insert(id.clone());
            }
            if package.is_unsettled() {
                index.unsettled.insert(id.clone());
            }
            if let Some(from) = package.terms.as_ref().and_then(|terms| terms.from)
                && !package.ended
            {
                index.dues.insert((from, Due::Begin(id.clone())));
            }
        }
        for (id, plan) in &self.plans {
            if let Some(next) = plan.next {
                index.dues.insert((next, Due::Plan(id.clone())));
            }
        }
        for (id, fleet) in &self.accounts {
            if fleet.has_windows() {
                let due = Due::Windows(id.clone());
                index.dues.insert((fleet.day.to, due));
            }
            if fleet.telling.is_some() {
                index.telling.insert(id.clone());
            }
        }
        for (key, bulk) in &self.estate.bulks {
            if bulk.ended.is_none() {
                index.bulks.insert(key.clone());
            }
        }
        for (iccid, sim) in &self.sims {
            if sim.device.is_none() {
                index.free_sims.insert(iccid.clone());
            }
        }
        for (id, device) in &self.devices {
            index
                .members
                .entry(device.fleet.clone())
                .or_default()
                .insert(id.clone());
            if let Some(since) = device.debt_since {
                index
                    .debtors
                    .insert((device.fleet.clone(), since, id.clone()));
            }
            if !device.pending.is_empty() {
                index.commanded.insert(id.clone());
            }
            if device.waits() {
                index
                    .waiting
                    .entry(device.fleet.clone())
                    .or_default()
                    .insert(id.clone());
            }
            for (epoch, axis) in &device.epochs {
                if axis.has_lease() {
                    index.leases.insert((axis.lease_until, id.clone(), *epoch));
                    *index.leased.entry(device.fleet.clone()).or_default() += 1;
                }
            }
        }
        self.index = index;
    }

    /// Every identity that does not hold, over the whole ledger. Empty is what it must be.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut reserved: BTreeMap<&PackageId, u128> = BTreeMap::new();
        for (id, device) in &self.devices {
            if !device.holds() {
                found.push(format!(
                    "device {id}: charged is not debited + paid + debt + forgiven + control, or segments are not ceiling - charged"
                ));
            }
            for segment in device.epochs.values().flat_map(|axis| &axis.segments) {
                if let Some(package) = &segment.package {
                    *reserved.entry(package).or_default() += u128::from(segment.octets.value());
                }
            }
        }
        for (id, package) in &self.packages {
            if !package.balances.hold() {
                found.push(format!(
                    "package {id}: its accounts do not add up to volume + credited"
                ));
            }
            let segments = reserved.remove(id).unwrap_or_default();
            if segments != u128::from(package.balances.of(Pocket::Reserved).value()) {
                found.push(format!(
                    "package {id}: reserved is not what segments name it for"
                ));
            }
        }
        for (id, fleet) in &self.accounts {
            if !fleet.purse.holds() {
                found.push(format!(
                    "fleet {id}: deposited is not balance + spent + withdrawn"
                ));
            }
        }
        found.extend(
            reserved
                .keys()
                .map(|id| format!("package {id}: named by a segment and does not exist")),
        );
        found
    }

    /// The percentages at which something happens to a fleet's packages, rising.
    #[must_use]
    pub fn levels(&self, fleet: &FleetId) -> Vec<u64> {
        match self.accounts.get(fleet) {
            Some(fleet) => fleet.levels(),
            None => fleet::PERCENTS.to_vec(),
        }
    }

    /// Octets that may still be granted out of all packages of an owner.
    #[must_use]
    pub fn available(&self, owner: &Owner) -> u128 {
        self.index
            .open
            .get(owner)
            .into_iter()
            .flatten()
            .filter_map(|id| self.packages.get(id))
            .map(|package| u128::from(package.balances.available.value()))
            .sum()
    }
}

impl Package {
    /// Who owns it.
    #[must_use]
    pub fn owner(&self) -> Owner {
        match &self.device {
            Some(device) => Owner::Device(device.clone()),
            None => Owner::Pool(self.fleet.clone()),
        }
    }

    /// Whose hash chain its entries belong to.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match &self.device {
            Some(device) => Subject::Device(device.clone()),
            None => Subject::Fleet(self.fleet.clone()),
        }
    }

    /// It was paid for and cancelled, and octets of it are still reserved: more money may come back.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.cancelled
            && self.terms.as_ref().is_some_and(|terms| terms.price > 0)
            && (self.balances.reserved > Octets::ZERO || self.repayable() > 0)
    }
}

impl Device {
    /// Its last answer was that nothing is left: it waits for volume.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.axis()
            .and_then(|axis| axis.last.as_ref())
            .is_some_and(|last| last.code == Code::CREDIT_LIMIT_REACHED && last.kind != Kind::Final)
    }
}

impl device::Axis {
    /// Something is reserved that a lease holds.
    #[must_use]
    pub fn has_lease(&self) -> bool {
        self.ceiling > self.charged || self.open
    }
}

/// The sum of segments, or what breaks.
pub(crate) fn total(segments: &[entry::Segment]) -> Result<Octets, Broken> {
    segments.iter().try_fold(Octets::ZERO, |sum, segment| {
        sum.checked_add(segment.octets.value())
            .ok_or(Broken::Balance("a sum of segments overflows"))
    })
}
