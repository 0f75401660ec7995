//! The topic tree. Everything begins with `csim/v1/`; DESIGN section 4 lists what is said where.
//!
//! A device may publish only `d/{itself}/up/#` and its status, and subscribe only to `d/{itself}/down/#`.

use std::fmt;
use std::str::FromStr;

use crate::ids::{DeviceId, FleetId, IdError, KeyId, NodeId};

/// What every topic of this protocol begins with.
pub const PREFIX: &str = "csim/v1/";
/// The longest topic that is looked at: prefix, two ids and the fixed parts.
pub const TOPIC_MAX: usize = 192;

/// What a device says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Up {
    /// Registration.
    Register,
    /// A batch of usage samples.
    Usage,
    /// A credit request.
    Credit,
    /// The outcome of a command.
    Ack,
}

/// What the cloud says to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Down {
    /// SIM profile, policy, server time.
    Register,
    /// Cumulative acknowledgement of usage.
    Usage,
    /// The latest grant; retained.
    Credit,
    /// A command.
    Command,
}

/// Any topic of the protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `d/{device}/up/…`
    Up(DeviceId, Up),
    /// `d/{device}/status`, retained, with a last will.
    Status(DeviceId),
    /// `d/{device}/down/…`
    Down(DeviceId, Down),
    /// `f/{fleet}/command`
    FleetCommand(FleetId),
    /// `f/{fleet}/reply/{key}`
    FleetReply(FleetId, KeyId),
    /// `f/{fleet}/event`
    FleetEvent(FleetId),
    /// `f/{fleet}/summary`, retained.
    FleetSummary(FleetId),
    /// `ops/command`
    OpsCommand,
    /// `ops/reply/{key}`
    OpsReply(KeyId),
    /// `ops/node/{node}`, retained, with a last will.
    OpsNode(NodeId),
    /// `ops/statistics/{node}`
    OpsStatistics(NodeId),
    /// `ops/rejected`
    OpsRejected,
}

/// Why a text is not a topic of this protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than [`TOPIC_MAX`].
    #[error("the topic has {0} octets, more than {TOPIC_MAX}")]
    Length(usize),
    /// Not one of ours.
    #[error("the topic is not one of this protocol")]
    Unknown,
    /// An id in it is not one.
    #[error("an id in the topic is wrong: {0}")]
    Id(#[from] IdError),
}

impl Up {
    const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Usage => "usage",
            Self::Credit => "credit",
            Self::Ack => "ack",
        }
    }
}

impl Down {
    const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Usage => "usage",
            Self::Credit => "credit",
            Self::Command => "command",
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(device, up) => write!(f, "{PREFIX}d/{device}/up/{}", up.name()),
            Self::Status(device) => write!(f, "{PREFIX}d/{device}/status"),
            Self::Down(device, down) => write!(f, "{PREFIX}d/{device}/down/{}", down.name()),
            Self::FleetCommand(fleet) => write!(f, "{PREFIX}f/{fleet}/command"),
            Self::FleetReply(fleet, key) => write!(f, "{PREFIX}f/{fleet}/reply/{key}"),
            Self::FleetEvent(fleet) => write!(f, "{PREFIX}f/{fleet}/event"),
            Self::FleetSummary(fleet) => write!(f, "{PREFIX}f/{fleet}/summary"),
            Self::OpsCommand => write!(f, "{PREFIX}ops/command"),
            Self::OpsReply(key) => write!(f, "{PREFIX}ops/reply/{key}"),
            Self::OpsNode(node) => write!(f, "{PREFIX}ops/node/{node}"),
            Self::OpsStatistics(node) => write!(f, "{PREFIX}ops/statistics/{node}"),
            Self::OpsRejected => write!(f, "{PREFIX}ops/rejected"),
        }
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        if text.len() > TOPIC_MAX {
            return Err(TopicError::Length(text.len()));
        }
        let rest = text.strip_prefix(PREFIX).ok_or(TopicError::Unknown)?;
        let mut parts = rest.split('/');
        let levels = (parts.next(), parts.next(), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(TopicError::Unknown);
        }
        Ok(match levels {
            (Some("d"), Some(device), Some("up"), Some(up)) => {
                Self::Up(device.parse()?, parse_up(up)?)
            }
            (Some("d"), Some(device), Some("status"), None) => Self::Status(device.parse()?),
            (Some("d"), Some(device), Some("down"), Some(down)) => {
                Self::Down(device.parse()?, parse_down(down)?)
            }
            (Some("f"), Some(fleet), Some("command"), None) => Self::FleetCommand(fleet.parse()?),
            (Some("f"), Some(fleet), Some("reply"), Some(key)) => {
                Self::FleetReply(fleet.parse()?, key.parse()?)
            }
            (Some("f"), Some(fleet), Some("event"), None) => Self::FleetEvent(fleet.parse()?),
            (Some("f"), Some(fleet), Some("summary"), None) => Self::FleetSummary(fleet.parse()?),
            (Some("ops"), Some("command"), None, None) => Self::OpsCommand,
            (Some("ops"), Some("reply"), Some(key), None) => Self::OpsReply(key.parse()?),
            (Some("ops"), Some("node"), Some(node), None) => Self::OpsNode(node.parse()?),
            (Some("ops"), Some("statistics"), Some(node), None) => {
                Self::OpsStatistics(node.parse()?)
            }
            (Some("ops"), Some("rejected"), None, None) => Self::OpsRejected,
            _ => return Err(TopicError::Unknown),
        })
    }
}

fn parse_up(name: &str) -> Result<Up, TopicError> {
    [Up::Register, Up::Usage, Up::Credit, Up::Ack]
        .into_iter()
        .find(|up| up.name() == name)
        .ok_or(TopicError::Unknown)
}

fn parse_down(name: &str) -> Result<Down, TopicError> {
    [Down::Register, Down::Usage, Down::Credit, Down::Command]
        .into_iter()
        .find(|down| down.name() == name)
        .ok_or(TopicError::Unknown)
}

/// Subscription filters. Each is a whole string so that one place knows every wildcard in use.
pub mod filter {
    use super::PREFIX;
    use crate::ids::{DeviceId, FleetId, KeyId};

    /// Everything that the cloud says to one device.
    #[must_use]
    pub fn device_down(device: &DeviceId) -> String {
        format!("{PREFIX}d/{device}/down/+")
    }

    /// Usage of all devices: a lane of its own in the cloud.
    #[must_use]
    pub fn usage() -> String {
        format!("{PREFIX}d/+/up/usage")
    }

    /// All that the cloud listens to besides usage.
    #[must_use]
    pub fn control() -> Vec<String> {
        [
            "d/+/up/register",
            "d/+/up/credit",
            "d/+/up/ack",
            "d/+/status",
            "f/+/command",
            "ops/command",
        ]
        .iter()
        .map(|filter| format!("{PREFIX}{filter}"))
        .collect()
    }

    /// Events of all fleets: the cloud hears its own, and so knows that they are published.
    #[must_use]
    pub fn events() -> String {
        format!("{PREFIX}f/+/event")
    }

    /// Replies to one manager of one fleet.
    #[must_use]
    pub fn fleet_reply(fleet: &FleetId, key: &KeyId) -> String {
        format!("{PREFIX}f/{fleet}/reply/{key}")
    }
}
