//! `d/{device}/up/register` and `down/register`: patent steps S11 and S12.

use super::policy::Policy;
use crate::code::Code;
use crate::ids::{Iccid, Text, ZoneId};
use crate::units::{Boot, Epoch, Octets, Seq, UnixMillis};

crate::wire! {
    /// The end of the epoch before this one, told once by a device that still knows it. `[epoch, total]`
    pub struct Closes {
        /// The epoch that ended.
        pub epoch: Epoch,
        /// Its used total at the end.
        pub total: Octets,
    }
}

crate::wire! {
    /// A device says who it is, at each start of its agent.
    /// `[1, epoch, boot, serial, model, firmware, [capabilities], iccid / null, closes / null]`
    pub struct RegisterRequest[version] {
        /// The life of the device's store.
        pub epoch: Epoch,
        /// The start of the agent within the epoch.
        pub boot: Boot,
        /// The serial number: a second one under the same device id is refused.
        pub serial: Text,
        /// The model.
        pub model: Text,
        /// The firmware's version.
        pub firmware: Text,
        /// What the agent can do, for example `gate-nft`.
        pub capabilities: Vec<Text>,
        /// The SIM that is in the device already, if any.
        pub iccid: Option<Iccid>,
        /// The epoch that this one replaces.
        pub closes: Option<Closes>,
    }
}

crate::wire! {
    /// A SIM as the device needs it. `[iccid, imsi, operator, [zones], apn]`
    pub struct SimProfile {
        /// Integrated circuit card identifier.
        pub iccid: Iccid,
        /// International mobile subscriber identity.
        pub imsi: Text,
        /// The operator's name.
        pub operator: Text,
        /// The zones that the SIM's networks belong to.
        pub zones: Vec<ZoneId>,
        /// Access point name.
        pub apn: Text,
    }
}

crate::wire! {
    /// The cloud's answer. `[1, epoch, boot, code, now, sim / null, policy / null, retry_s / null, mark, total]`
    pub struct RegisterAnswer[version] {
        /// The epoch of the request.
        pub epoch: Epoch,
        /// The boot of the request: an answer to an older start is ignored.
        pub boot: Boot,
        /// 2001; 4010 refused; 5003 a newer epoch is in force; 5030 the device may not enrol.
        pub code: Code,
        /// The cloud's time (rule R3 says when it sets a clock).
        pub now: UnixMillis,
        /// The SIM bound to the device.
        pub sim: Option<SimProfile>,
        /// The device's policy.
        pub policy: Option<Policy>,
        /// When to ask again after a refusal, in seconds.
        pub retry_s: Option<u64>,
        /// Every sample of the epoch up to this number is in the ledger: a device that was told of a higher one
        /// learns here that the cloud was restored from an older backup, one that has fewer that its flash was
        /// rolled back.
        pub mark: Seq,
        /// The used total at the mark.
        pub total: Octets,
    }
}
