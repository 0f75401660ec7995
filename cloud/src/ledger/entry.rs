//! Entries of the journal: what happened, what moved, for whom, when. Written once, never changed.
//!
//! Balances and all other state are what the entries add up to: [`super::Ledger::apply`] is the only way to
//! change a ledger, at run time, at a restart and in an audit alike. On disk an entry is
//! `[1, number, at, subject, [cause number, cause], [moves], chain]`; fields are only appended.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use simquota_shared::code::Code;
use simquota_shared::ids::{
    CommandId, DeviceId, EnrolmentId, FleetId, Iccid, KeyId, PackageId, Text, ZoneId,
};
use simquota_shared::message::ops::Blob;
use simquota_shared::message::{FinalAction, Kind, Policy, Reason, SimProfile};
use simquota_shared::units::{
    Boot, EntryNumber, Epoch, Octets, Push, RequestNumber, Seq, UnixMillis,
};
use simquota_shared::{wire, wire_enum};

use super::account::Move;

mod estate;
mod late;
mod rule;
mod size;

pub use late::{Late, after};
pub use size::{By, Size};

pub use estate::{
    BulkBegan, BulkPart, BulkWent, Decommissioned, Replaced, Replaces, SimAssigned, SimReleased,
    TagsSet,
};
pub use rule::{
    Cadence, Caps, Crossed, Debited, DeviceCapsSet, Every, FleetSuspension, FleetTold, Limit,
    LimitReached, LimitsSet, MoneyMoved, MoneyRefunded, Moved, Overdrawn, PackageBegan, PlanBegan,
    PlanEnded, PlanTurned, Refunded, Rollover, TermsSet, ThresholdsSet, TopUp, TopUpSet, ToppedUp,
    Window, WindowsTurned,
};

/// Whose hash chain an entry belongs to (DESIGN section 11, number 29).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// One device.
    Device(DeviceId),
    /// A fleet, for entries that name no device.
    Fleet(FleetId),
    /// The platform itself: fleets, SIMs, keys.
    Platform,
}

wire! {
    /// An entry of the journal.
    pub struct Entry[version] {
        /// Its number: +1 for each, without a gap.
        pub number: EntryNumber,
        /// The cloud's time of the decision; never earlier than the entry before.
        pub at: UnixMillis,
        /// Whose it is.
        pub subject: Subject,
        /// What happened.
        pub cause: Cause,
        /// What moved.
        pub moves: Vec<Move>,
        /// Truncated SHA-256 over the chain's entry before and this one.
        pub chain: Blob,
    }
}

wire! {
    /// A stretch of the used-total axis and the package that pays for it; none: uncovered. `[package / null, octets]`
    pub struct Segment {
        /// Who pays.
        pub package: Option<PackageId>,
        /// How many octets.
        pub octets: Octets,
    }
}

wire! {
    /// A fleet was created.
    pub struct FleetCreated {
        /// Its id.
        pub fleet: FleetId,
    }
}

wire_enum! {
    /// What a key's holder may do.
    pub enum Role {
        /// Everything, on the whole platform.
        Admin = 0,
        /// Everything in one fleet.
        Manager = 1,
        /// Look, in one fleet.
        Viewer = 2,
    }
}

wire! {
    /// A key was admitted. The secret stays in the key folder.
    pub struct KeyCreated {
        /// Its id.
        pub key: KeyId,
        /// What its holder may do.
        pub role: Role,
        /// In which fleet; none: in all.
        pub fleet: Option<FleetId>,
    }
}

wire! {
    /// An enrolment key was admitted for a fleet.
    pub struct EnrolmentCreated {
        /// Its id.
        pub enrolment: EnrolmentId,
        /// Which fleet its devices belong to.
        pub fleet: FleetId,
        /// How many devices it admits.
        pub devices_max: u64,
    }
}

wire! {
    /// SIMs entered the pool.
    pub struct SimsImported {
        /// Which.
        pub sims: Vec<SimProfile>,
    }
}

wire! {
    /// A device registered: S11 and S12.
    pub struct Registered {
        /// Its fleet.
        pub fleet: FleetId,
        /// The enrolment key that admitted it.
        pub enrolment: EnrolmentId,
        /// The generation of its key.
        pub generation: u64,
        /// The life of its store.
        pub epoch: Epoch,
        /// The start of its agent.
        pub boot: Boot,
        /// Serial number.
        pub serial: Text,
        /// Model.
        pub model: Text,
        /// Firmware.
        pub firmware: Text,
        /// The SIM bound to it.
        pub iccid: Iccid,
    }
}

wire! {
    /// A package was bought: S13 reads these.
    pub struct PackageBought {
        /// Its id.
        pub package: PackageId,
        /// Its fleet.
        pub fleet: FleetId,
        /// The device that owns it; none: the fleet's pool.
        pub device: Option<DeviceId>,
        /// Octets bought.
        pub volume: Octets,
        /// Valid until; none: without end.
        pub until: Option<UnixMillis>,
        /// Where it is valid; empty: everywhere.
        pub zones: Vec<ZoneId>,
        /// The lower, the earlier it is used.
        pub priority: u64,
    }
}

wire! {
    /// Uncovered stretches of a device got a package.
    pub struct Covered {
        /// Of which epoch.
        pub epoch: Epoch,
        /// All segments from charged to ceiling, as they stand now.
        pub segments: Vec<Segment>,
    }
}

wire! {
    /// Debt was paid out of a package.
    pub struct DebtPaid {
        /// The package that pays.
        pub package: PackageId,
    }
}

wire! {
    /// A credit request was decided: release (S21-S23), reservation (S31, S43).
    pub struct Credit {
        /// The device's epoch.
        pub epoch: Epoch,
        /// The request's number.
        pub number: RequestNumber,
        /// Its kind.
        pub kind: Kind,
        /// Why the device asked.
        pub reason: Reason,
        /// Where it was.
        pub zone: ZoneId,
        /// The used total that it named.
        pub used: Octets,
        /// What it wanted.
        pub want: Octets,
        /// Truncated SHA-256 of the request's payload: the same number with another body is refused.
        pub request: Blob,
        /// The result code.
        pub code: Code,
        /// Octets of the segments kept, from charged on; the rest is released.
        pub kept: Octets,
        /// Segments appended.
        pub appended: Vec<Segment>,
        /// The new ceiling.
        pub ceiling: Octets,
        /// Until when the grant holds; none after a final.
        pub valid_until: Option<UnixMillis>,
        /// Until when the reservation is kept for a silent device.
        pub lease_until: UnixMillis,
        /// What happens at the ceiling if this is the last grant.
        pub final_unit: Option<FinalAction>,
        /// The answer, octet for octet.
        pub answer: Blob,
        ;
        /// Why the grant has its size; none: nothing was granted, or it is from before this was written down.
        pub size: Size,
    }
}

wire! {
    /// The ceiling was moved right unasked, after a top-up (rule R7).
    pub struct Pushed {
        /// The device's epoch.
        pub epoch: Epoch,
        /// Number of the answer before.
        pub number: RequestNumber,
        /// 1, 2, ….
        pub push: Push,
        /// Segments appended.
        pub appended: Vec<Segment>,
        /// The new ceiling.
        pub ceiling: Octets,
        /// What happens at the ceiling if this is the last grant.
        pub final_unit: Option<FinalAction>,
        /// The message, octet for octet.
        pub answer: Blob,
        ;
        /// Why it moved so far; none: it is from before this was written down.
        pub size: Size,
    }
}

wire! {
    /// Usage was debited (S32, S33, S5).
    pub struct Usage {
        /// The device's epoch.
        pub epoch: Epoch,
        /// The agent's start.
        pub boot: Boot,
        /// The first sample that is new.
        pub first: Seq,
        /// The last: the new mark.
        pub last: Seq,
        /// The used total after it: the new charged position.
        pub total: Octets,
        /// Octets sent, in the new rows.
        pub up: Octets,
        /// Octets received, in the new rows.
        pub down: Octets,
        /// All flags of the new rows.
        pub flags: u64,
        /// Where.
        pub zone: ZoneId,
        /// Unix seconds of the last row; none without a clock.
        pub ended_s: Option<u64>,
        /// Octets that left segments; the rest of the debit is overrun, late or debt.
        pub from_segments: Octets,
        /// Octets declared as possibly used and not metered.
        pub unsure: Octets,
        ;
        /// What of the debit came late; none: nothing.
        pub late: Late,
    }
}

wire! {
    /// An epoch was closed by the one after it, which knew its used total.
    pub struct Closed {
        /// The epoch that ended.
        pub epoch: Epoch,
        /// Its used total.
        pub total: Octets,
        /// Octets that left segments.
        pub from_segments: Octets,
    }
}

wire! {
    /// The lease of a silent device ran out: its reservation is released.
    pub struct Lapsed {
        /// The device's epoch.
        pub epoch: Epoch,
    }
}

wire! {
    /// A package ended: what was available is no longer.
    pub struct PackageEnded {
        /// Which.
        pub package: PackageId,
        /// True when it was cancelled and the rest refunded.
        pub refunded: bool,
    }
}

wire! {
    /// Octets were credited to a package.
    pub struct Credited {
        /// Which.
        pub package: PackageId,
        /// Why, in words.
        pub why: Text,
    }
}

wire! {
    /// A device was suspended or resumed.
    pub struct Suspension {
        /// The state after it.
        pub suspended: bool,
    }
}

wire! {
    /// A command to a device was issued.
    pub struct Commanded {
        /// Per device, +1 for each.
        pub number: u64,
        /// Its id.
        pub id: CommandId,
        /// The message, octet for octet; sent again until it is acknowledged or expires.
        pub message: Blob,
        /// Not to be sent after this.
        pub expires: UnixMillis,
    }
}

wire! {
    /// A command to a device was settled.
    pub struct CommandSettled {
        /// Its number.
        pub number: u64,
        /// Its outcome as the device said, 4: expired unsent.
        pub outcome: u64,
    }
}

wire! {
    /// The policy of a device was set.
    pub struct PolicySet {
        /// It.
        pub policy: Policy,
    }
}

wire! {
    /// A manager's or admin's command was carried out or refused; the answer is kept for ever.
    pub struct CommandDone {
        /// Its id.
        pub id: CommandId,
        /// The fleet's topic that it came on; none: ops.
        pub fleet: Option<FleetId>,
        /// Who sealed it.
        pub author: KeyId,
        /// The command's name.
        pub name: Text,
        /// Truncated SHA-256 of its body.
        pub body: Blob,
        /// The result code.
        pub code: Code,
        /// The reply, octet for octet.
        pub reply: Blob,
    }
}

wire_enum! {
    /// What changed about who is believed.
    pub enum AccessChange {
        /// A person's key is believed no longer.
        KeyRevoked = 0,
        /// Nothing under an enrolment key is believed any more.
        EnrolmentRevoked = 1,
        /// An enrolment key admits new devices until then; without a time: without end.
        EnrolmentUntil = 2,
        /// A device is believed no longer.
        DeviceBarred = 3,
        /// It is believed again.
        DeviceReadmitted = 4,
        /// A device spoke under the next generation of its key: those before are over.
        GenerationBegun = 5,
    }
}

wire! {
    /// Somebody is believed no longer, or again.
    pub struct AccessChanged {
        /// What changed.
        pub change: AccessChange,
        /// About whom: a key's, an enrolment key's or a device's id.
        pub name: Text,
        /// Until when, where that is what changed.
        pub until: Option<UnixMillis>,
        /// Why, in words.
        pub why: Text,
        /// Which generation of its key, where that is what changed.
        pub generation: Option<u64>,
    }
}

wire! {
    /// Something about a device calls for a look. Nothing moves, and nothing is proved by it.
    pub struct Suspected {
        /// A short name, as on `ops/rejected`.
        pub reason: Text,
        /// In words.
        pub words: Text,
    }
}

/// What calls for a look and is no refusal.
pub mod reason {
    /// Nothing of it was booked for longer than the operator's rule allows.
    pub const SILENT: &str = "silent";
    /// It dates samples by a clock that it does not trust.
    pub const CLOCK_UNSURE: &str = "clock-unsure";
    /// It began a new life of its store.
    pub const STORE_RESET: &str = "store-reset";
    /// Samples are missing before those that it sent; it was told to go back.
    pub const GAP: &str = "gap";
    /// After a power cut octets may have been used that are not charged.
    pub const UNSURE_OCTETS: &str = "unsure-octets";
    /// The carrier's figures of its SIM are others than the ledger's.
    pub const DRIFT: &str = "drift";
}

macro_rules! causes {
    ($($(#[$meta:meta])* $number:literal $name:ident,)+) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Cause {
            $($(#[$meta])* $name($name),)+
        }

        impl Cause {
            /// The cause's name, for people and for exports.
            #[must_use]
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)+ }
            }
        }

        impl Serialize for Cause {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $(Self::$name(body) => ($number as u64, body).serialize(serializer),)+ }
            }
        }

        impl<'de> Deserialize<'de> for Cause {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Pair;
                impl<'de> serde::de::Visitor<'de> for Pair {
                    type Value = Cause;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str("a cause's number and body")
                    }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut array: A) -> Result<Cause, A::Error> {
                        let missing = || A::Error::custom("the cause is missing");
                        let number: u64 = array.next_element()?.ok_or_else(missing)?;
                        match number {
                            $($number => array.next_element()?.ok_or_else(missing).map(Cause::$name),)+
                            other => Err(A::Error::custom(format_args!("cause {other} is not known"))),
                        }
                    }
                }
                deserializer.deserialize_seq(Pair)
            }
        }
    };
}

causes! {
    /// See [`FleetCreated`].
    1 FleetCreated,
    /// See [`KeyCreated`].
    2 KeyCreated,
    /// See [`EnrolmentCreated`].
    3 EnrolmentCreated,
    /// See [`SimsImported`].
    4 SimsImported,
    /// See [`Registered`].
    5 Registered,
    /// See [`PackageBought`].
    6 PackageBought,
    /// See [`Covered`].
    7 Covered,
    /// See [`DebtPaid`].
    8 DebtPaid,
    /// See [`Credit`].
    9 Credit,
    /// See [`Pushed`].
    10 Pushed,
    /// See [`Usage`].
    11 Usage,
    /// See [`Closed`].
    12 Closed,
    /// See [`Lapsed`].
    13 Lapsed,
    /// See [`PackageEnded`].
    14 PackageEnded,
    /// See [`Credited`].
    15 Credited,
    /// See [`Suspension`].
    16 Suspension,
    /// See [`Commanded`].
    17 Commanded,
    /// See [`CommandSettled`].
    18 CommandSettled,
    /// See [`PolicySet`].
    19 PolicySet,
    /// See [`CommandDone`].
    20 CommandDone,
    /// See [`AccessChanged`].
    60 AccessChanged,
    /// See [`Suspected`].
    61 Suspected,
    /// See [`TermsSet`].
    21 TermsSet,
    /// See [`PackageBegan`].
    22 PackageBegan,
    /// See [`PlanBegan`].
    23 PlanBegan,
    /// See [`PlanTurned`].
    24 PlanTurned,
    /// See [`PlanEnded`].
    25 PlanEnded,
    /// See [`Overdrawn`].
    26 Overdrawn,
    /// See [`Moved`].
    27 Moved,
    /// See [`Debited`].
    28 Debited,
    /// See [`Refunded`].
    29 Refunded,
    /// See [`Crossed`].
    30 Crossed,
    /// See [`LimitsSet`].
    31 LimitsSet,
    /// See [`WindowsTurned`].
    32 WindowsTurned,
    /// See [`DeviceCapsSet`].
    33 DeviceCapsSet,
    /// See [`LimitReached`].
    34 LimitReached,
    /// See [`ThresholdsSet`].
    35 ThresholdsSet,
    /// See [`TopUpSet`].
    36 TopUpSet,
    /// See [`ToppedUp`].
    37 ToppedUp,
    /// See [`FleetSuspension`].
    38 FleetSuspension,
    /// See [`FleetTold`].
    39 FleetTold,
    /// See [`MoneyMoved`].
    40 MoneyMoved,
    /// See [`MoneyRefunded`].
    41 MoneyRefunded,
    /// See [`BulkBegan`].
    70 BulkBegan,
    /// See [`BulkWent`].
    71 BulkWent,
    /// See [`TagsSet`].
    72 TagsSet,
    /// See [`SimReleased`].
    73 SimReleased,
    /// See [`SimAssigned`].
    74 SimAssigned,
    /// See [`Replaced`].
    75 Replaced,
    /// See [`Replaces`].
    76 Replaces,
    /// See [`Decommissioned`].
    77 Decommissioned,
}

impl Serialize for Subject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Device(device) => (0u8, device).serialize(serializer),
            Self::Fleet(fleet) => (1u8, fleet).serialize(serializer),
            Self::Platform => (2u8, "").serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Subject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (side, id): (u8, String) = Deserialize::deserialize(deserializer)?;
        match side {
            0 => id.parse().map(Self::Device).map_err(D::Error::custom),
            1 => id.parse().map(Self::Fleet).map_err(D::Error::custom),
            2 => Ok(Self::Platform),
            other => Err(D::Error::custom(format_args!("subject {other}"))),
        }
    }
}
