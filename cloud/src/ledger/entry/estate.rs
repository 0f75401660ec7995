//! What entries say about the upkeep of devices: tags, SIMs, replacements, and commands to many at once.

use simquota_shared::code::Code;
use simquota_shared::ids::{CommandId, DeviceId, Iccid, KeyId, PackageId, Text};
use simquota_shared::message::ops::Blob;
use simquota_shared::wire;

wire! {
    /// A command to many devices was taken. What it does to each comes after it, [`BulkWent`] by [`BulkWent`].
    pub struct BulkBegan {
        /// Its id.
        pub bulk: CommandId,
        /// Who sealed it.
        pub author: KeyId,
        /// What is commanded to each.
        pub name: Text,
        /// The arguments besides the device: a CBOR map.
        pub args: Blob,
        /// To whom, as the selection was when the command came.
        pub devices: Vec<DeviceId>,
    }
}

wire! {
    /// What a command to many devices came to for one. `[device, code, why / null]`
    pub struct BulkPart {
        /// For whom.
        pub device: DeviceId,
        /// The result code.
        pub code: Code,
        /// Why not, in words.
        pub why: Option<Text>,
    }
}

wire! {
    /// A command to many devices went on, in the commit that holds what it did.
    pub struct BulkWent {
        /// Which.
        pub bulk: CommandId,
        /// How many devices were done before these.
        pub before: u64,
        /// How many there are.
        pub of: u64,
        /// What became of the next ones.
        pub parts: Vec<BulkPart>,
    }
}

wire! {
    /// A device's tags were set: words to select it by.
    pub struct TagsSet {
        /// All of them, in order.
        pub tags: Vec<Text>,
    }
}

wire! {
    /// A device's SIM went back to the pool.
    pub struct SimReleased {
        /// Which.
        pub iccid: Iccid,
    }
}

wire! {
    /// A SIM of the pool was bound to a device by command; the one that it had went back.
    pub struct SimAssigned {
        /// Which.
        pub iccid: Iccid,
    }
}

wire! {
    /// A device's SIM and packages went to another one, and it serves no more.
    pub struct Replaced {
        /// To whom.
        pub by: DeviceId,
        /// The SIM that went there; none: it had none.
        pub iccid: Option<Iccid>,
        /// The packages that went there, open and ended ones.
        pub packages: Vec<PackageId>,
    }
}

wire! {
    /// A device took the place of another: what happened there is its history too.
    pub struct Replaces {
        /// Whose.
        pub device: DeviceId,
    }
}

wire! {
    /// A device serves no more. Usage that it still reports is charged; it is granted nothing.
    pub struct Decommissioned {
        /// Why, in words.
        pub why: Text,
    }
}
