//! Accounts and movements between them: every octet that appears somewhere disappears somewhere else.
//!
//! | account | grows when |
//! |---|---|
//! | `Volume`, `Credited` | (sources) a package is bought; octets are credited to it |
//! | `Available` | octets may be granted |
//! | `Reserved` | octets are set aside for a grant |
//! | `Used` | octets are debited |
//! | `Expired`, `Refunded`, `MovedOut` | octets leave a package for good |
//! | `Overdraft` | (source) a device used octets that no package covers |
//! | `Debt`, `Paid`, `Forgiven` | where such octets stand |
//! | `Own`, `Control` | (source, target) the agent's own octets where policy does not charge them |
//! | `Deposited`, `Balance`, `Spent`, `Withdrawn` | a fleet's money, in minor units: (source), left, paid, taken out |
//!
//! Octets and money never mix: a movement stays within one of the two.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use simquota_shared::ids::{DeviceId, FleetId, PackageId};
use simquota_shared::units::Octets;

/// An account of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// An account of a package.
    Package(PackageId, Pocket),
    /// An account of a device.
    Device(DeviceId, Slot),
    /// An account of a fleet: money.
    Fleet(FleetId, Purse),
}

simquota_shared::wire_enum! {
    /// The accounts of a package.
    pub enum Pocket {
        /// Source: what was bought.
        Volume = 0,
        /// Source: what was credited later.
        Credited = 1,
        /// May be granted.
        Available = 2,
        /// Set aside for grants.
        Reserved = 3,
        /// Debited.
        Used = 4,
        /// Not used in time.
        Expired = 5,
        /// Given back to the buyer.
        Refunded = 6,
        /// Moved to another package.
        MovedOut = 7,
    }
}

simquota_shared::wire_enum! {
    /// The accounts of a device.
    pub enum Slot {
        /// Source: octets used that no package covers.
        Overdraft = 0,
        /// Such octets, unpaid.
        Debt = 1,
        /// Such octets, paid by a later purchase.
        Paid = 2,
        /// Such octets, forgiven.
        Forgiven = 3,
        /// Source: the agent's own octets that are not charged.
        Own = 4,
        /// Those octets.
        Control = 5,
    }
}

simquota_shared::wire_enum! {
    /// The accounts of a fleet, in minor units of its money.
    pub enum Purse {
        /// Source: what was paid in.
        Deposited = 0,
        /// What is left.
        Balance = 1,
        /// What was paid for packages.
        Spent = 2,
        /// What was paid out again.
        Withdrawn = 3,
    }
}

/// Octets, or minor units of money, that go from one account to another. `[from, to, octets]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where they leave.
    pub from: Account,
    /// Where they arrive.
    pub to: Account,
    /// How many; never zero.
    pub octets: Octets,
}

impl Account {
    /// True for an account out of which octets enter the ledger; it has no floor.
    #[must_use]
    pub const fn is_source(&self) -> bool {
        match self {
            Self::Package(_, pocket) => matches!(pocket, Pocket::Volume | Pocket::Credited),
            Self::Device(_, slot) => matches!(slot, Slot::Overdraft | Slot::Own),
            Self::Fleet(_, purse) => matches!(purse, Purse::Deposited),
        }
    }

    /// The account's name for people, for example `pkg-1:available`.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Package(package, pocket) => format!("{package}:{}", pocket.name()),
            Self::Device(device, slot) => format!("{device}:{}", slot.name()),
            Self::Fleet(fleet, purse) => format!("{fleet}:{}", purse.name()),
        }
    }
}

impl Pocket {
    /// The pocket's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Volume => "volume",
            Self::Credited => "credited",
            Self::Available => "available",
            Self::Reserved => "reserved",
            Self::Used => "used",
            Self::Expired => "expired",
            Self::Refunded => "refunded",
            Self::MovedOut => "moved-out",
        }
    }
}

impl Slot {
    /// The slot's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Overdraft => "overdraft",
            Self::Debt => "debt",
            Self::Paid => "debt-paid",
            Self::Forgiven => "debt-forgiven",
            Self::Own => "own",
            Self::Control => "control",
        }
    }
}

impl Purse {
    /// The purse's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deposited => "deposited",
            Self::Balance => "balance",
            Self::Spent => "spent",
            Self::Withdrawn => "withdrawn",
        }
    }
}

// On disk: ["p", package, pocket] is [0, id, n], a device's is [1, id, n], a fleet's [2, id, n].
impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Package(id, pocket) => (0u8, id, pocket).serialize(serializer),
            Self::Device(id, slot) => (1u8, id, slot).serialize(serializer),
            Self::Fleet(id, purse) => (2u8, id, purse).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (side, id, number): (u8, String, serde_cbor::Value) =
            Deserialize::deserialize(deserializer)?;
        match side {
            0 => Ok(Self::Package(
                id.parse().map_err(D::Error::custom)?,
                serde_cbor::value::from_value(number).map_err(D::Error::custom)?,
            )),
            1 => Ok(Self::Device(
                id.parse().map_err(D::Error::custom)?,
                serde_cbor::value::from_value(number).map_err(D::Error::custom)?,
            )),
            2 => Ok(Self::Fleet(
                id.parse().map_err(D::Error::custom)?,
                serde_cbor::value::from_value(number).map_err(D::Error::custom)?,
            )),
            other => Err(D::Error::custom(format_args!("account side {other}"))),
        }
    }
}

impl Serialize for Move {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.from, &self.to, self.octets).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Move {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (from, to, octets) = Deserialize::deserialize(deserializer)?;
        Ok(Self { from, to, octets })
    }
}
