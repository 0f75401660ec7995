//! `d/{device}/up/credit` and `down/credit`: a request for pre-authorised quota and the absolute ceiling that
//! answers it. Rules R1-R7 of DESIGN section 4; RFC 8506, 5.2-5.4; patent steps S21-S31.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_cbor::Value;

use crate::code::Code;
use crate::ids::{Text, ZoneId};
use crate::units::{Epoch, Octets, Push, RequestNumber, UnixMillis};

crate::wire_enum! {
    /// RFC 8506, 8.3 CC-Request-Type: the numbers are its own.
    pub enum Kind {
        /// At boot, registration, a SIM or zone change, after an expired grant: cuts, releases, grants.
        Initial = 1,
        /// Moves the ceiling right.
        Update = 2,
        /// Cuts and releases all that is unused.
        Final = 3,
    }
}

/// Why a request is made. Up to 8 the values of 3GPP TS 32.299, 7.2.175 Reporting-Reason; ours from 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reason(pub u64);

impl Reason {
    /// The remainder fell to `renew_below`.
    pub const THRESHOLD: Self = Self(0);
    /// No traffic for the holding time.
    pub const HOLDING: Self = Self(1);
    /// The service ends on the device.
    pub const FINAL: Self = Self(2);
    /// Nothing is left of the grant.
    pub const EXHAUSTED: Self = Self(3);
    /// The grant's validity has run out, or soon will.
    pub const VALIDITY: Self = Self(4);
    /// SIM or zone changed.
    pub const CONDITION: Self = Self(6);
    /// The cloud asked for it.
    pub const FORCED: Self = Self(7);
    /// The agent started.
    pub const BOOT: Self = Self(64);
    /// A packet met the shut gate.
    pub const TRAFFIC: Self = Self(65);
    /// The SIM was left for another network.
    pub const SWITCH: Self = Self(66);
    /// The agent shuts down.
    pub const SHUTDOWN: Self = Self(67);
    /// Connected without usable quota.
    pub const CONNECT: Self = Self(68);
    /// An older request was abandoned unanswered.
    pub const ABANDONED: Self = Self(69);

    /// The name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::THRESHOLD => "threshold",
            Self::HOLDING => "holding time",
            Self::FINAL => "final",
            Self::EXHAUSTED => "exhausted",
            Self::VALIDITY => "validity",
            Self::CONDITION => "condition change",
            Self::FORCED => "forced",
            Self::BOOT => "boot",
            Self::TRAFFIC => "traffic",
            Self::SWITCH => "switch",
            Self::SHUTDOWN => "shutdown",
            Self::CONNECT => "connect",
            Self::ABANDONED => "abandoned",
            _ => "unnamed",
        }
    }
}

crate::wire! {
    /// The grant that the device held when it cut: for the record, the cloud only compares it.
    /// `[number, push, ceiling]`
    pub struct Held {
        /// Number of the answer that gave it.
        pub number: RequestNumber,
        /// Its push.
        pub push: Push,
        /// The ceiling before the cut.
        pub ceiling: Octets,
    }
}

crate::wire! {
    /// A device asks. `[1, epoch, number, kind, used, want, reason, zone, held / null]`
    pub struct CreditRequest[version] {
        /// The life of the device's store.
        pub epoch: Epoch,
        /// +1 for each; the same number is resent with identical octets.
        pub number: RequestNumber,
        /// Initial, update or final.
        pub kind: Kind,
        /// The used total `U` at this moment.
        pub used: Octets,
        /// Octets wanted beyond the present ceiling; 0 only reports.
        pub want: Octets,
        /// Why it asks.
        pub reason: Reason,
        /// Where it is.
        pub zone: ZoneId,
        /// The remainder's grant, for initial and final after a cut.
        pub held: Option<Held>,
    }
}

/// What the device does when the last grant is used up (RFC 8506, 8.35 Final-Unit-Action).
/// `[0]` / `[1, [hosts]]` / `[2, bit_per_s]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinalAction {
    /// Nothing but the agent's own traffic passes.
    Terminate,
    /// Only these hosts are reachable.
    Restrict(Vec<Text>),
    /// Traffic is slowed to this rate.
    Throttle(u64),
}

impl Serialize for FinalAction {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Terminate => (0u8,).serialize(serializer),
            Self::Restrict(hosts) => (1u8, hosts).serialize(serializer),
            Self::Throttle(bit_per_s) => (2u8, bit_per_s).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for FinalAction {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts: Vec<Value> = Vec::deserialize(deserializer)?;
        let argument = parts.get(1).cloned();
        match (parts.first(), argument) {
            (Some(Value::Integer(0)), _) => Ok(Self::Terminate),
            (Some(Value::Integer(1)), Some(hosts)) => serde_cbor::value::from_value(hosts)
                .map(Self::Restrict)
                .map_err(D::Error::custom),
            (Some(Value::Integer(2)), Some(rate)) => serde_cbor::value::from_value(rate)
                .map(Self::Throttle)
                .map_err(D::Error::custom),
            _ => Err(D::Error::custom("not a final-unit action")),
        }
    }
}

crate::wire! {
    /// The cloud answers, or pushes. Retained. `[1, epoch, number, push, code, ceiling, stop, decided,
    /// valid_until / null, renew_below, final_unit / null, silence_s, hold_s, balance, retry_s / null]`
    pub struct CreditAnswer[version] {
        /// The epoch of the request.
        pub epoch: Epoch,
        /// The number that is answered, or the last answered one for a push.
        pub number: RequestNumber,
        /// 0 for the answer, 1, 2, … for pushes after it; order is by (number, push).
        pub push: Push,
        /// 2001, 4010 or 4012; others are not decisions (DESIGN section 11, number 19).
        pub code: Code,
        /// The position up to which the device may use octets.
        pub ceiling: Octets,
        /// The second absolute stop, for control traffic and allow-list beyond the ceiling.
        pub stop: Octets,
        /// When the cloud decided, in its time.
        pub decided: UnixMillis,
        /// Until when the grant holds, in the cloud's time; the device uses only the difference to `decided`.
        pub valid_until: Option<UnixMillis>,
        /// Ask again when this much or less remains.
        pub renew_below: Octets,
        /// What happens at the ceiling if this is the last grant (RFC 8506, 8.34 Final-Unit-Indication).
        pub final_unit: Option<FinalAction>,
        /// How long traffic may go on when no answer comes; 0: not at all.
        pub silence_s: u64,
        /// Give the remainder back after this long without traffic; 0: never (3GPP TS 32.299, Quota-Holding-Time).
        pub hold_s: u64,
        /// What is left in the device's packages, unreserved.
        pub balance: Octets,
        /// When to send the same octets again, for codes that are not decisions.
        pub retry_s: Option<u64>,
    }
}
