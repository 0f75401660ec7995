//! `f/{fleet}/command`, `reply`, `event`, `summary`, and the same commands on `ops/command`.

use serde_cbor::Value;

use crate::code::Code;
use crate::ids::{CommandId, DeviceId, FleetId, Text};
use crate::units::{EntryNumber, Octets, UnixMillis};

crate::wire! {
    /// A manager's or admin's command. `[1, id, expires, expected / null, dry, name, {args}]`
    ///
    /// The author is the key that sealed it, never a field.
    pub struct FleetCommand[version] {
        /// Unique in the fleet for ever: the same id and body get the stored answer.
        pub id: CommandId,
        /// Not to be carried out after this, in the cloud's time.
        pub expires: UnixMillis,
        /// Carried out only if the addressed object's version is this one.
        pub expected: Option<u64>,
        /// Say what would happen, and do nothing.
        pub dry: bool,
        /// Which command, for example `package-buy`.
        pub name: Text,
        /// Its arguments: a map with text keys; an unknown key is refused.
        pub args: Value,
    }
}

crate::wire! {
    /// The answer. `[1, id, code, part, last, result, why / null]`
    pub struct FleetReply[version] {
        /// The command's id.
        pub id: CommandId,
        /// 2001 or the reason's class.
        pub code: Code,
        /// Long results come in parts: 0, 1, ….
        pub part: u64,
        /// True for the last part.
        pub last: bool,
        /// What the command returns.
        pub result: Value,
        /// In words, for a refusal.
        pub why: Option<Text>,
    }
}

crate::wire! {
    /// Something that happened in a fleet; at least once, `entry` is its id. `[1, entry, at, fleet, device / null, kind, {args}]`
    pub struct Event[version] {
        /// The journal entry that it stands in.
        pub entry: EntryNumber,
        /// When, in the cloud's time.
        pub at: UnixMillis,
        /// In which fleet.
        pub fleet: FleetId,
        /// For which device.
        pub device: Option<DeviceId>,
        /// What, for example `exhausted`.
        pub kind: Text,
        /// Figures.
        pub args: Value,
    }
}

crate::wire! {
    /// A fleet's totals; retained. `[1, at, fleet, devices, available, reserved, used, debt]`
    pub struct Summary[version] {
        /// When, in the cloud's time.
        pub at: UnixMillis,
        /// Which fleet.
        pub fleet: FleetId,
        /// How many devices it has.
        pub devices: u64,
        /// Octets that may still be granted.
        pub available: Octets,
        /// Octets set aside for grants.
        pub reserved: Octets,
        /// Octets paid by packages.
        pub used: Octets,
        /// Octets that no package covers yet.
        pub debt: Octets,
    }
}
