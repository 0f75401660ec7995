//! What the agent shows of itself: `simquota-edge status --json`, and the retained status on the broker.

use serde::Serialize;

use simquota_shared::codec;
use simquota_shared::message::{Kind, Status};

use super::Agent;
use super::effects::{Notice, Up};

/// Everything that `status --json` shows. Octets are plain numbers, times are seconds from now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusView {
    /// The device.
    pub device: String,
    /// The state's name; see the table in [the module's page](super).
    pub state: &'static str,
    /// The life of the store.
    pub epoch: u64,
    /// The start of the agent.
    pub boot: u64,
    /// Whether the broker is reached.
    pub connected: bool,
    /// Over which channel.
    pub channel: Option<String>,
    /// Whether the cloud accepted this start.
    pub registered: bool,
    /// The SIM.
    pub iccid: Option<String>,
    /// The zone.
    pub zone: String,
    /// Octets used in this epoch.
    pub used: u64,
    /// Up to where traffic may go.
    pub ceiling: u64,
    /// Up to where control traffic may go.
    pub stop: u64,
    /// Octets left of the grant.
    pub remaining: u64,
    /// For how long it is valid.
    pub valid_for_s: Option<u64>,
    /// Up to where it may go without another commit; none where the gate holds nothing.
    pub armed: Option<u64>,
    /// How much is armed at a time; none where the gate holds nothing.
    pub window: Option<u64>,
    /// Whether traffic may pass now.
    pub gate_open: bool,
    /// Whether the grant is the last one.
    pub final_unit: bool,
    /// Number of the last request.
    pub request: u64,
    /// Whether it waits for its answer.
    pub request_open: bool,
    /// Code of the last accepted answer.
    pub answer_code: Option<u16>,
    /// What is left in the packages, as last told.
    pub balance: u64,
    /// The grant whose return is not confirmed: number, push, ceiling.
    pub held: Option<(u64, u64, u64)>,
    /// Number of the last row.
    pub last_row: u64,
    /// Every row up to this one is in the ledger.
    pub acked: u64,
    /// Rows that are not.
    pub backlog: u64,
    /// Octets metered that are not durable yet.
    pub unsynced: u64,
    /// Suspended by command.
    pub suspended: bool,
    /// Version of the policy.
    pub policy: u64,
    /// Generation of the key.
    pub key_generation: u64,
}

impl Agent {
    /// What `status` shows.
    #[must_use]
    pub fn status_view(&self) -> StatusView {
        let state = &self.state;
        let credit = &state.credit;
        StatusView {
            device: self.config.device.to_string(),
            state: self.state_name(),
            epoch: state.epoch.0,
            boot: state.boot.0,
            connected: self.link.connected,
            channel: self.link.channel.as_ref().map(ToString::to_string),
            registered: self.registration.accepted,
            iccid: state.iccid.as_ref().map(ToString::to_string),
            zone: state.zone.to_string(),
            used: self.meter.used().0,
            ceiling: credit.ceiling.0,
            stop: credit.stop.0,
            remaining: self.remaining(),
            valid_for_s: self
                .asking
                .valid
                .map(|valid| valid.until_ms.saturating_sub(self.now.mono_ms) / 1000),
            armed: self.config.armed.then_some(state.armed.0),
            window: self.config.armed.then(|| self.window()),
            gate_open: self.gate.open,
            final_unit: credit.final_unit.is_some(),
            request: credit.number.0,
            request_open: credit.outstanding.is_some(),
            answer_code: credit.code.map(|code| code.0),
            balance: credit.balance.0,
            held: credit
                .held
                .as_ref()
                .map(|held| (held.number.0, held.push.0, held.ceiling.0)),
            last_row: state.last_seq().0,
            acked: state.acked.0,
            backlog: state.backlog(),
            unsynced: self.unsynced(),
            suspended: state.suspended,
            policy: state.policy.version,
            key_generation: state.key_generation,
        }
    }

    /// The state's name, most pressing first.
    pub(super) fn state_name(&self) -> &'static str {
        let outstanding = self
            .state
            .credit
            .outstanding
            .as_ref()
            .map(|request| request.kind);
        if self.stopped {
            "stopped"
        } else if self.retiring.is_some() {
            "new-epoch"
        } else if self.shutting.is_some() {
            "shutting-down"
        } else if self.booting {
            "starting"
        } else if self.off {
            "off-sim"
        } else if !self.registration.accepted {
            "registering"
        } else if self.state.suspended {
            "suspended"
        } else if self.asking.dormant {
            "idle"
        } else if self.gate.open {
            "open"
        } else if outstanding == Some(Kind::Initial) || self.asking.wish.is_some() {
            "asking"
        } else if self.asking.valid.is_some() {
            "exhausted"
        } else {
            "shut"
        }
    }

    /// The number that the next connection will have; its will is made with it before it connects.
    #[must_use]
    pub const fn next_connection(&self) -> u64 {
        self.link.connection.saturating_add(1)
    }

    /// The last will of a connection: the status that the broker publishes, retained, when it breaks.
    ///
    /// It carries boot and connection, so that a late one is told from the status of a newer connection.
    #[must_use]
    pub fn will(&self, connection: u64) -> Vec<u8> {
        codec::encode(&self.status(connection, false)).unwrap_or_default()
    }

    fn status(&self, connection: u64, online: bool) -> Status {
        Status {
            epoch: self.state.epoch,
            boot: self.state.boot,
            connection,
            online,
            channel: self.link.channel.clone(),
            agent: self.config.agent.clone(),
            backlog: self.state.backlog(),
        }
    }

    pub(super) fn publish_status(&mut self, online: bool) {
        match codec::encode(&self.status(self.link.connection, online)) {
            Ok(payload) => self.publish(Up::Status, payload, true),
            Err(_) => self.notices.push(Notice::Unwritable("status")),
        }
    }
}
