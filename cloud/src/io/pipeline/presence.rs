//! When a device was last heard, and what its status said: for people who look, never for a decision. It is lost with
//! the process, and comes back with the next word of each device.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::UnixMillis;

use crate::charging::{DeviceRequest, live_device, number, optional};
use crate::ledger::Ledger;

/// A device that speaks more often keeps its place in the order: finding a place costs more than noting a time.
const PLACE_MS: u64 = 1000;

/// What is known of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    at: UnixMillis,
    /// Its place among its fleet's devices.
    place: Option<UnixMillis>,
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
pub(super) struct Presence {
    seen: BTreeMap<DeviceId, Seen>,
    /// Each fleet's devices, those that were heard last first.
    latest: BTreeMap<FleetId, BTreeSet<(Reverse<UnixMillis>, DeviceId)>>,
}

impl Presence {
    pub(super) fn heard(&mut self, id: &DeviceId, fleet: &FleetId, heard: Heard, at: UnixMillis) {
        let seen = match self.seen.get_mut(id) {
            Some(seen) => seen,
            None => self.seen.entry(id.clone()).or_default(),
        };
        seen.online = Some(heard.online);
        seen.backlog = heard.backlog.or(seen.backlog);
        // A will is the broker's word, not the device's.
        if heard.online {
            seen.at = at;
        }
        let placed = seen.place;
        if placed.is_some_and(|placed| seen.at.beyond(placed) < PLACE_MS) {
            return;
        }
        seen.place = Some(seen.at);
        let latest = match self.latest.get_mut(fleet) {
            Some(latest) => latest,
            None => self.latest.entry(fleet.clone()).or_default(),
        };
        if let Some(placed) = placed {
            latest.remove(&(Reverse(placed), id.clone()));
        }
        latest.insert((Reverse(seen.at), id.clone()));
    }

    /// When a device was last heard; zero if it was not since the start.
    pub(super) fn last(&self, id: &DeviceId) -> UnixMillis {
        self.seen.get(id).map_or(UnixMillis::ZERO, |seen| seen.at)
    }

    /// So many of a fleet's devices, those that were heard last; then those that were not heard.
    pub(super) fn latest(&self, ledger: &Ledger, fleet: &FleetId, most: usize) -> Vec<DeviceId> {
        let Some(members) = ledger.index.members.get(fleet) else {
            return Vec::new();
        };
        // One that another fleet has now is still in the order of its old one.
        let heard = self.latest.get(fleet).into_iter().flatten();
        let heard = heard.map(|(_, id)| id).filter(|id| members.contains(*id));
        let unheard = members.iter().filter(|id| !self.seen.contains_key(*id));
        heard.chain(unheard).take(most).cloned().collect()
    }

    /// What a device does now.
    pub(super) fn row(&self, ledger: &Ledger, id: &DeviceId, now: UnixMillis) -> Value {
        let mut row = live_device(ledger, id, now);
        self.add_to(id, &mut row);
        row
    }

    fn add_to(&self, id: &DeviceId, row: &mut Value) {
        let Value::Map(fields) = row else {
            return;
        };
        let seen = self.seen.get(id);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn device(name: &str) -> DeviceId {
        name.parse().unwrap()
    }

    #[test]
    fn those_heard_last_come_first_and_then_those_that_were_not_heard() {
        let fleet: FleetId = "buses".parse().unwrap();
        let mut ledger = Ledger::default();
        let members = ["a", "b", "c", "d"].map(device).into();
        ledger.index.members.insert(fleet.clone(), members);
        let mut presence = Presence::default();
        let online = Heard {
            online: true,
            backlog: None,
        };
        let mut hear =
            |name: &str, at| presence.heard(&device(name), &fleet, online, UnixMillis(at));
        hear("c", 1_000);
        hear("b", 2_000);
        // Not in this fleet any more.
        hear("x", 9_000);
        let order = |presence: &Presence, most| {
            let latest = presence.latest(&ledger, &fleet, most);
            latest.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(order(&presence, 9), ["b", "c", "a", "d"]);
        presence.heard(&device("c"), &fleet, online, UnixMillis(2_500));
        assert_eq!(order(&presence, 3), ["c", "b", "a"]);
        assert_eq!(order(&presence, 1), ["c"]);
        // Within a second a device keeps its place, and its time is exact all the same.
        presence.heard(&device("b"), &fleet, online, UnixMillis(2_999));
        assert_eq!(order(&presence, 1), ["c"]);
        assert_eq!(presence.last(&device("b")), UnixMillis(2_999));
        let gone = Heard {
            online: false,
            backlog: None,
        };
        presence.heard(&device("b"), &fleet, gone, UnixMillis(9_000));
        assert_eq!(
            order(&presence, 1),
            ["c"],
            "a will is no word of the device's"
        );
        assert_eq!(order(&presence, 0), [""; 0]);
    }
}
