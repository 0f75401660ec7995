//! What the agent is told once, at its start.

use simquota_shared::ids::{DeviceId, Iccid, Text, ZoneId};
use simquota_shared::units::Octets;

/// The agent's configuration. The cloud's [`Policy`](simquota_shared::message::Policy) is not in here.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// The device's id.
    pub device: DeviceId,
    /// The serial number.
    pub serial: Text,
    /// The model.
    pub model: Text,
    /// The firmware's version.
    pub firmware: Text,
    /// What the agent can do, for example `gate-nft`.
    pub capabilities: Vec<Text>,
    /// The agent's name and version, for the status.
    pub agent: Text,
    /// The SIM that is in the device already, if it is known.
    pub iccid: Option<Iccid>,
    /// The zone until one is known.
    pub zone: ZoneId,
    /// Octets to ask for beyond the present ceiling.
    pub want: Octets,
    /// So many octets may be metered and not yet durable: a power cut loses them.
    pub sync_octets: Octets,
    /// Milliseconds from one reading of the meter to the next.
    pub poll_ms: u64,
    /// Traffic at the shut gate is seen by metering it, because nothing stops it (gate `observe`).
    pub observe: bool,
    /// Traffic waits for a durable window (see [`Durable::armed`](super::Durable::armed)): the gate can hold it, and
    /// the counter is lost with the power.
    pub armed: bool,
    /// How long an orderly end may take.
    pub shutdown_ms: u64,
    /// The least time from the agent's start to the end of its epoch.
    pub new_epoch_ms: u64,
    /// Every resend waits longer by so many thousandths: the shell draws it at start, so that a fleet spreads out.
    pub jitter_permille: u64,
}

impl AgentConfig {
    /// The defaults, for a device that says nothing more about itself than its id.
    #[must_use]
    pub fn new(device: DeviceId, zone: ZoneId) -> Self {
        let blank = Text::clipped("");
        Self {
            serial: Text::clipped(device.as_str()),
            device,
            model: blank.clone(),
            firmware: blank,
            capabilities: Vec::new(),
            agent: Text::clipped(concat!("simquota-edge/", env!("CARGO_PKG_VERSION"))),
            iccid: None,
            zone,
            want: Octets(1_000_000),
            sync_octets: Octets(64 * 1024),
            poll_ms: 1_000,
            observe: true,
            armed: false,
            shutdown_ms: 5_000,
            new_epoch_ms: 60_000,
            jitter_permille: 0,
        }
    }
}
