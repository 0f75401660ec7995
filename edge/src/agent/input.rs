//! What the agent is told: time, readings, messages, events of the device.

use simquota_shared::ids::{ChannelId, Iccid, ZoneId};
use simquota_shared::message::{Command, CreditAnswer, RegisterAnswer, UsageAck};
use simquota_shared::units::Octets;

use super::durable::{Identity, Row};

/// The time of a step. The shell reads both clocks once and hands them in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on a clock that never jumps and that counts suspend. Its zero has no meaning.
    pub mono_ms: u64,
    /// Unix milliseconds, when the device has a clock of its own that it trusts.
    pub wall_ms: Option<u64>,
}

/// The meter, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which counter this is. Differences are only ever taken within one identity.
    pub identity: Identity,
    /// IP octets sent since the counter began.
    pub up: u64,
    /// IP octets received since the counter began.
    pub down: u64,
    /// The agent's own octets on this SIM since the process began. They are part of `up + down`.
    pub own: u64,
    /// Octets that the SIM delivered and the gate dropped, since the gate's table was made, perhaps by a process before
    /// this one. They are part of `down`: nothing could stop them.
    pub dropped: u64,
}

/// What of [`AgentConfig`](super::AgentConfig) can change while the agent runs. It is named there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in AgentConfig")]
pub struct Tuning {
    pub want: Octets,
    pub sync_octets: Octets,
    pub poll_ms: u64,
    pub shutdown_ms: u64,
}

/// Everything that can happen to the agent. The shell has decoded and verified messages before.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Time has passed: see [`Effects::wake_at_ms`](super::Effects::wake_at_ms).
    Tick,
    /// The meter as asked for by [`Effects::read`](super::Effects::read), or unasked.
    Reading(Reading),
    /// The meter can't be read: there is no such interface at the moment. Counts as an answer to `read`.
    NoReading,
    /// The broker accepted the connection, and the subscriptions are made.
    Connected(Option<ChannelId>),
    /// The connection is gone.
    Disconnected,
    /// `down/register`.
    Register(RegisterAnswer),
    /// `down/credit`, fresh or retained.
    Credit(CreditAnswer),
    /// `down/usage`.
    UsageAck(UsageAck),
    /// `down/command`.
    Command(Command),
    /// The rows that [`Effects::load`](super::Effects::load) asked for, in order.
    Rows(Vec<Row>),
    /// A packet that is not the agent's own met the shut gate.
    GateBlocked,
    /// Another SIM is in the device.
    SimChanged(Iccid),
    /// The SIM's network is in another zone.
    ZoneChanged(ZoneId),
    /// The device leaves the cloud SIM for another network (S33), which may use the same counter meanwhile.
    LeaveSim,
    /// The SIM's link is gone or down, unasked (S5), with the last that its counter showed, if the kernel said.
    /// Nothing else uses that counter: if it comes back as the same one, all that it shows is the SIM's. One input, so that
    /// the row that ends here carries the flag; the rest is as with [`Input::LeaveSim`].
    LoseSim(Option<Reading>),
    /// The device is on the cloud SIM again.
    ReturnSim,
    /// The configuration was read again.
    Tuned(Tuning),
    /// A commit was made and the gate raised after it. Without such words the armed window follows the grant alone.
    Synced {
        /// Milliseconds from the begin of the commit to the raised gate.
        took_ms: u64,
    },
    /// The agent is to end in order.
    Shutdown,
    /// A commit failed: what this agent believes is no longer what the store holds. It shuts the gate and does
    /// nothing more; the shell builds another one from the store.
    StoreFailed,
}
