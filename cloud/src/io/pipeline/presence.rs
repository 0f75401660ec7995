//! When a device was last heard, and what its status said: for people who look, never for a decision. It is lost with
//! the process, and comes back with the next word of each device.

use std::collections::BTreeMap;

use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::UnixMillis;

use crate::charging::{DeviceRequest, live_device, number, optional};
use crate::ledger::Ledger;

/// What is known of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    at: UnixMillis,
    /// As its last status says, or its will.
    online: Option<bool>,
    backlog: Option<u64>,
}

/// What a message says of its device's presence.
#[derive(Clone, Copy)]
pub(super) struct Heard {
    online: bool,
    backlog: Option<u64>,
}

impl Heard {
    pub(super) fn of(request: &DeviceRequest) -> Self {
        match request {
            DeviceRequest::Status(status) => Self {
                online: status.online,
                backlog: Some(status.backlog),
            },
            DeviceRequest::Register(_)
            | DeviceRequest::Usage(_)
            | DeviceRequest::Credit(_)
            | DeviceRequest::Ack(_) => Self {
                online: true,
                backlog: None,
            },
        }
    }
}

/// All devices that were heard since the service started. Only registered ones are noted: that bounds it.
#[derive(Default)]
pub(super) struct Presence(BTreeMap<DeviceId, Seen>);

impl Presence {
    pub(super) fn heard(&mut self, id: &DeviceId, heard: Heard, at: UnixMillis) {
        let seen = self.0.entry(id.clone()).or_default();
        seen.online = Some(heard.online);
        seen.backlog = heard.backlog.or(seen.backlog);
        // A will is the broker's word, not the device's.
        if heard.online {
            seen.at = at;
        }
    }

    /// When a device was last heard; zero if it was not since the start.
    pub(super) fn last(&self, id: &DeviceId) -> UnixMillis {
        self.0.get(id).map_or(UnixMillis::ZERO, |seen| seen.at)
    }

    /// What a fleet's devices do now; where there are more than `most`, those that were heard last.
    pub(super) fn rows(
        &self,
        ledger: &Ledger,
        fleet: &FleetId,
        most: usize,
        now: UnixMillis,
    ) -> Value {
        let members = ledger.index.members.get(fleet).into_iter().flatten();
        let mut members: Vec<&DeviceId> = members.collect();
        members.sort_by_key(|id| std::cmp::Reverse(self.0.get(*id).map(|seen| seen.at)));
        let rows = members.into_iter().take(most).map(|id| {
            let mut row = live_device(ledger, id, now);
            self.add_to(id, &mut row);
            row
        });
        Value::Array(rows.collect())
    }

    fn add_to(&self, id: &DeviceId, row: &mut Value) {
        let Value::Map(fields) = row else {
            return;
        };
        let seen = self.0.get(id);
        let at = seen.map(|seen| seen.at).filter(|at| *at > UnixMillis::ZERO);
        let mut add = |name: &str, value| fields.insert(Value::Text(name.to_owned()), value);
        add("seen", optional(at, |at| number(at.value())));
        add(
            "online",
            optional(seen.and_then(|seen| seen.online), Value::Bool),
        );
        add(
            "backlog",
            optional(seen.and_then(|seen| seen.backlog), number),
        );
    }
}
