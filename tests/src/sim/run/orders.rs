//! What fleet managers do, and how the world comes to rest.

use simquota_edge::agent::Input;

use super::{Event, Simulation};
use crate::sim::cloud::{self, number, text};
use crate::sim::plan::{DAY, HOUR};

impl Simulation {
    pub(super) fn fleet_command(&mut self, n: usize) {
        let device = [("device", text(&self.names[n]))];
        let fleet = cloud::fleet();
        let name = match self.dice.below(6) {
            0 => "device-suspend",
            1 | 2 => "device-resume",
            3 => "device-revoke",
            4 => "device-report",
            _ => "device-reauthorise",
        };
        self.order(&fleet, name, &device);
    }

    pub(super) fn top_up(&mut self, n: usize) {
        let fleet = cloud::fleet();
        let volume = number(self.plan.top_up_octets);
        match self.dice.below(8) {
            0..=2 => self.order(&fleet, "package-buy", &[("volume", volume)]),
            3 | 4 => {
                let device = text(&self.names[n]);
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", volume), ("device", device)],
                );
            }
            5 => {
                let until =
                    number(self.cloud.clock(self.now).value() + HOUR + self.dice.below(DAY));
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", volume), ("until", until)],
                );
            }
            6 => {
                let zones = serde_cbor::Value::Array(vec![text("roam")]);
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", volume), ("zones", zones)],
                );
            }
            _ => {
                let open: Vec<String> = self
                    .cloud
                    .ledger
                    .packages
                    .iter()
                    .filter(|(_, package)| !package.ended)
                    .map(|(id, _)| id.to_string())
                    .collect();
                let pick = self.dice.below(open.len() as u64) as usize;
                if let Some(package) = open.get(pick) {
                    if self.dice.permille(500) {
                        self.order(&fleet, "package-cancel", &[("package", text(package))]);
                    } else {
                        let pairs = [
                            ("package", text(package)),
                            ("octets", volume),
                            ("why", text("goodwill")),
                        ];
                        self.order(&fleet, "package-credit", &pairs);
                    }
                }
            }
        }
    }

    pub(in crate::sim) fn order(
        &mut self,
        fleet: &simquota_shared::ids::FleetId,
        name: &str,
        pairs: &[(&str, serde_cbor::Value)],
    ) {
        self.order_at(Some(fleet), name, pairs);
    }

    /// An admin's order.
    pub(in crate::sim) fn order_ops(&mut self, name: &str, pairs: &[(&str, serde_cbor::Value)]) {
        self.order_at(None, name, pairs);
    }

    fn order_at(
        &mut self,
        fleet: Option<&simquota_shared::ids::FleetId>,
        name: &str,
        pairs: &[(&str, serde_cbor::Value)],
    ) {
        if self.cloud.down_until.is_some() {
            return;
        }
        let before = self.cloud.journal.len();
        match self.cloud.order(fleet, name, pairs, self.now) {
            Ok(outgoing) => {
                self.tell_entries(before);
                self.check_entries(before);
                self.say(outgoing);
            }
            Err(broken) => self.fail(format!("the ledger broke at {name}: {broken}")),
        }
    }

    /// The world gets better: no faults, no traffic, everyone connected, everyone resumed.
    pub(super) fn rest(&mut self) {
        self.resting = true;
        self.tell(|| "world".to_owned(), || "comes to rest".to_owned());
        self.queue.retain(|_, event| {
            !matches!(event, Event::Burst(_) | Event::Fault(_) | Event::Vanish(_))
        });
        let fleet = cloud::fleet();
        self.cloud.down_until = None;
        self.schedule_turn();
        self.lift_limits();
        for n in 0..self.devices.len() {
            // A backup may be older than a suspension: then only the device knows of it, and somebody must resume it.
            let told = self.devices[n]
                .body
                .disk
                .state
                .as_ref()
                .is_some_and(|state| state.suspended);
            let suspended = self
                .cloud
                .ledger
                .devices
                .get(&self.names[n])
                .is_some_and(|device| device.suspended);
            if suspended || told {
                let pairs = [("device", text(&self.names[n]))];
                self.order(&fleet, "device-resume", &pairs);
            }
            if self.devices[n].off_sim {
                self.devices[n].off_sim = false;
                self.step(n, Input::ReturnSim);
            }
            self.devices[n].reachable = true;
            self.disconnect(n);
            self.at(self.now + 1000, Event::Connect(n));
        }
    }
}
