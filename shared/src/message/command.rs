//! `d/{device}/down/command` and `up/ack`: what the cloud tells a device to do, and what came of it.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_cbor::Value;

use super::policy::Policy;
use crate::ids::{CommandId, Text};
use crate::units::{Epoch, UnixMillis};

/// What to do. `[0]` re-authorise, `[1]` revoke, `[2]` suspend, `[3]` resume, `[4]` report now, `[5, policy]`,
/// `[6, generation]` rotate the key.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Make a credit request now (RFC 8506, 5.5 Re-Auth-Request).
    Reauthorise,
    /// Give the grant back with a final request; asking again is allowed at once.
    Revoke,
    /// Give the grant back; only a resume or a decided 2001 re-opens.
    Suspend,
    /// Ask again.
    Resume,
    /// Report all usage now.
    Report,
    /// Go by this policy.
    Policy(Policy),
    /// Use the key of this generation.
    Rotate(u64),
}

impl Body {
    /// Whether it sets state, so that order among such commands decides (DESIGN section 4).
    #[must_use]
    pub const fn sets_state(&self) -> bool {
        match self {
            Self::Revoke | Self::Suspend | Self::Resume | Self::Policy(_) | Self::Rotate(_) => true,
            Self::Reauthorise | Self::Report => false,
        }
    }
}

impl Serialize for Body {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Reauthorise => (0u8,).serialize(serializer),
            Self::Revoke => (1u8,).serialize(serializer),
            Self::Suspend => (2u8,).serialize(serializer),
            Self::Resume => (3u8,).serialize(serializer),
            Self::Report => (4u8,).serialize(serializer),
            Self::Policy(policy) => (5u8, policy).serialize(serializer),
            Self::Rotate(generation) => (6u8, generation).serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts: Vec<Value> = Vec::deserialize(deserializer)?;
        let number = match parts.first() {
            Some(Value::Integer(number)) => *number,
            _ => return Err(D::Error::custom("a command body begins with its number")),
        };
        let argument = || {
            parts
                .get(1)
                .cloned()
                .ok_or_else(|| D::Error::custom("the command's argument is missing"))
        };
        match number {
            0 => Ok(Self::Reauthorise),
            1 => Ok(Self::Revoke),
            2 => Ok(Self::Suspend),
            3 => Ok(Self::Resume),
            4 => Ok(Self::Report),
            5 => serde_cbor::value::from_value(argument()?)
                .map(Self::Policy)
                .map_err(D::Error::custom),
            6 => serde_cbor::value::from_value(argument()?)
                .map(Self::Rotate)
                .map_err(D::Error::custom),
            other => Err(D::Error::custom(format_args!(
                "command {other} is not known"
            ))),
        }
    }
}

crate::wire! {
    /// `[1, epoch, id, number, expires, now, body]`
    pub struct Command[version] {
        /// The epoch that it is meant for.
        pub epoch: Epoch,
        /// The command's id: a repeat is acknowledged and not applied again.
        pub id: CommandId,
        /// Per device, +1 for each: a state-setting one below the last applied is superseded.
        pub number: u64,
        /// Not to be applied after this, by a device that has the time.
        pub expires: UnixMillis,
        /// The cloud's time.
        pub now: UnixMillis,
        /// What to do.
        pub body: Body,
    }
}

crate::wire_enum! {
    /// What came of a command.
    pub enum Outcome {
        /// Done, now or before.
        Applied = 0,
        /// A later one was applied already.
        Superseded = 1,
        /// Too late.
        Expired = 2,
        /// The device can't or won't; `why` says so.
        Refused = 3,
    }
}

crate::wire! {
    /// `[1, epoch, id, number, outcome, why / null]`
    pub struct Ack[version] {
        /// The epoch of the command.
        pub epoch: Epoch,
        /// Its id.
        pub id: CommandId,
        /// Its number.
        pub number: u64,
        /// What came of it.
        pub outcome: Outcome,
        /// In words.
        pub why: Option<Text>,
    }
}
