//! Fleets' totals, kept by the broker: said when they have changed, and all of them after each connect.

use std::collections::BTreeMap;

use simquota_shared::ids::FleetId;
use simquota_shared::message::Summary;
use simquota_shared::topic::Topic;
use simquota_shared::units::{Octets, UnixMillis};

use super::operators::signed;
use super::{Lane, Pipeline};
use crate::charging::Outgoing;
use crate::io::clock;
use crate::io::mqtt::Deadline;
use crate::ledger::Ledger;

/// Fleets that are told of at a time; the others follow.
const FLEETS_MAX: usize = 100;

/// A fleet's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    devices: u64,
    available: u64,
    reserved: u64,
    used: u64,
    debt: u64,
}

/// What was said of each fleet.
#[derive(Default)]
pub(super) struct Summaries(BTreeMap<FleetId, Totals>);

impl Summaries {
    /// Another broker, or one that forgot: everything is said again.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// What is to be said. It walks over all packages and devices: once in a few seconds.
    fn news(&mut self, ledger: &Ledger, at: UnixMillis) -> Vec<Outgoing> {
        let mut news = Vec::new();
        for (fleet, totals) in totals(ledger) {
            if self.0.get(&fleet) == Some(&totals) || news.len() >= FLEETS_MAX {
                continue;
            }
            let summary = Summary {
                at,
                fleet: fleet.clone(),
                devices: totals.devices,
                available: Octets(totals.available),
                reserved: Octets(totals.reserved),
                used: Octets(totals.used),
                debt: Octets(totals.debt),
            };
            news.extend(signed(Topic::FleetSummary(fleet.clone()), &summary, true));
            self.0.insert(fleet, totals);
        }
        news
    }
}

/// A picture for people: what does not fit stands at the most that does.
fn totals(ledger: &Ledger) -> BTreeMap<FleetId, Totals> {
    let fleets = ledger.fleets.iter();
    let mut all: BTreeMap<FleetId, Totals> = fleets
        .map(|fleet| (fleet.clone(), Totals::default()))
        .collect();
    let add = |sum: &mut u64, octets: Octets| *sum = sum.saturating_add(octets.value());
    for package in ledger.packages.values() {
        if let Some(sums) = all.get_mut(&package.fleet) {
            add(&mut sums.available, package.balances.available);
            add(&mut sums.reserved, package.balances.reserved);
            add(&mut sums.used, package.balances.used);
        }
    }
    for device in ledger.devices.values() {
        if let Some(sums) = all.get_mut(&device.fleet) {
            sums.devices = sums.devices.saturating_add(1);
            add(&mut sums.debt, device.debt);
        }
    }
    all
}

impl Pipeline {
    pub(super) fn say_summaries(&mut self) {
        if !self.post.is_connected(Lane::Control) || self.read_only.is_some() {
            return;
        }
        let news = self.summaries.news(&self.ledger, clock::steady());
        self.send_all(&news, Deadline::within_ms(0));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use simquota_shared::codec;

    use super::*;
    use crate::ledger::entry::{Cause, FleetCreated, Subject};

    #[test]
    fn a_fleet_is_told_of_when_it_changed_and_after_a_connect() {
        let mut ledger = Ledger::default();
        let created = FleetCreated {
            fleet: "buses".parse().unwrap(),
        };
        let cause = Cause::FleetCreated(created);
        ledger
            .record(UnixMillis(1), Subject::Platform, cause, Vec::new())
            .unwrap();
        let mut summaries = Summaries::default();
        let first = summaries.news(&ledger, UnixMillis(2));
        assert_eq!(first.len(), 1);
        let said = first.first().unwrap();
        assert!(said.retain);
        let summary: Summary = codec::decode(&said.payload).unwrap();
        assert_eq!((summary.fleet.as_str(), summary.devices), ("buses", 0));
        assert!(summaries.news(&ledger, UnixMillis(3)).is_empty());
        summaries.forget();
        assert_eq!(summaries.news(&ledger, UnixMillis(4)).len(), 1);
    }
}
