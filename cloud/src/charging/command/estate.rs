//! What managers command about the upkeep of devices: tags, SIMs, replacement, the end of service.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, PackageId, Text};
use simquota_shared::message::{Body, FleetCommand};
use simquota_shared::units::Octets;

use super::device::DeviceOnly;
use super::{Change, CommandError, arguments, refuse};
use crate::charging::{Turn, query};
use crate::ledger::Broken;
use crate::ledger::device::{Axis, Device};
use crate::ledger::entry::{
    Cause, Decommissioned, Replaced, Replaces, SimAssigned, SimReleased, Subject, TagsSet,
};
use crate::ledger::explain::utc;

/// Tags of one device.
const TAGS_MAX: usize = 16;
/// Octets of a tag.
const TAG_MAX: usize = 32;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tags {
    device: DeviceId,
    tags: Vec<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Assign {
    device: DeviceId,
    iccid: Iccid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replace {
    device: DeviceId,
    by: DeviceId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decommission {
    device: DeviceId,
    why: Text,
}

/// A change of a device's upkeep, checked.
pub(super) struct EstateChange {
    device: DeviceId,
    what: What,
}

enum What {
    Tags(Vec<Text>),
    Release(Iccid),
    Assign(Iccid),
    Replace {
        by: DeviceId,
        iccid: Option<Iccid>,
        packages: Vec<PackageId>,
    },
    Decommission {
        iccid: Option<Iccid>,
        why: Text,
    },
}

impl Turn<'_> {
    /// `None` when it is another command.
    pub(super) fn prepare_estate(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Option<Result<Change, CommandError>> {
        let args = &command.args;
        let change = match command.name.as_str() {
            "device-tag" => arguments(args).and_then(|tags| self.tags(fleet, tags)),
            "device-release-sim" => arguments(args).and_then(|only| self.release(fleet, only)),
            "device-assign-sim" => arguments(args).and_then(|assign| self.assign(fleet, assign)),
            "device-replace" => arguments(args).and_then(|replace| self.replace(fleet, replace)),
            "device-decommission" => arguments(args).and_then(|gone| self.end(fleet, gone)),
            _ => return None,
        };
        Some(change.map(|(device, what)| Change::Estate(EstateChange { device, what })))
    }

    fn tags(
        &self,
        fleet: &FleetId,
        Tags { device, tags }: Tags,
    ) -> Result<(DeviceId, What), CommandError> {
        let device = self.live_device(fleet, &device)?;
        let usual = |tag: &Text| {
            let tag = tag.as_str();
            let usual = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-');
            (1..=TAG_MAX).contains(&tag.len()) && tag.chars().all(usual)
        };
        if tags.len() > TAGS_MAX || !tags.iter().all(usual) {
            return refuse(
                Code::RATING_FAILED,
                "bad-tags",
                format!(
                    "a device has at most {TAGS_MAX} tags of 1 to {TAG_MAX} of a-z, 0-9 and '-'"
                ),
            );
        }
        let once: std::collections::BTreeSet<Text> = tags.into_iter().collect();
        Ok((device, What::Tags(once.into_iter().collect())))
    }

    fn release(
        &self,
        fleet: &FleetId,
        DeviceOnly { device }: DeviceOnly,
    ) -> Result<(DeviceId, What), CommandError> {
        let device = self.live_device(fleet, &device)?;
        self.at_rest(&device)?;
        match self.ledger.sim_of(&device) {
            Some(iccid) => Ok((device, What::Release(iccid.clone()))),
            None => refuse(
                Code::RATING_FAILED,
                "no-sim",
                format!("device {device} has no SIM: it gets one when it registers"),
            ),
        }
    }

    fn assign(
        &self,
        fleet: &FleetId,
        Assign { device, iccid }: Assign,
    ) -> Result<(DeviceId, What), CommandError> {
        let device = self.live_device(fleet, &device)?;
        self.at_rest(&device)?;
        // Whose it is, is nobody else's business.
        if !self.ledger.index.free_sims.contains(&iccid) {
            return refuse(
                Code::USER_UNKNOWN,
                "no-free-sim",
                format!("SIM {iccid} is not free in the pool"),
            );
        }
        Ok((device, What::Assign(iccid)))
    }

    fn replace(
        &self,
        fleet: &FleetId,
        Replace { device, by }: Replace,
    ) -> Result<(DeviceId, What), CommandError> {
        let device = self.live_device(fleet, &device)?;
        let by = self.live_device(fleet, &by)?;
        if device == by {
            let words = "a device does not replace itself";
            return refuse(Code::RATING_FAILED, "bad-target", words);
        }
        if self.ledger.estate.replaces.contains_key(&by) {
            return refuse(
                Code::RATING_FAILED,
                "bad-target",
                format!("device {by} has replaced another one already"),
            );
        }
        self.at_rest(&device)?;
        self.at_rest(&by)?;
        let debt = self
            .ledger
            .devices
            .get(&device)
            .map_or(Octets::ZERO, |device| device.debt);
        if debt > Octets::ZERO {
            return refuse(
                Code::RATING_FAILED,
                "debt-open",
                format!("device {device} owes {debt} octets: buy a package for it first"),
            );
        }
        let owned = |owner: &Option<DeviceId>| owner.as_ref() == Some(&device);
        let packages = self.ledger.packages.iter();
        let packages = packages.filter(|(_, package)| owned(&package.device));
        let packages = packages.map(|(id, _)| id.clone()).collect();
        let iccid = self.ledger.sim_of(&device).cloned();
        let what = What::Replace {
            by,
            iccid,
            packages,
        };
        Ok((device, what))
    }

    fn end(
        &self,
        fleet: &FleetId,
        Decommission { device, why }: Decommission,
    ) -> Result<(DeviceId, What), CommandError> {
        let device = self.live_device(fleet, &device)?;
        self.at_rest(&device)?;
        let iccid = self.ledger.sim_of(&device).cloned();
        Ok((device, What::Decommission { iccid, why }))
    }

    /// A device of the fleet that was neither replaced nor decommissioned.
    pub(super) fn live_device(
        &self,
        fleet: &FleetId,
        device: &DeviceId,
    ) -> Result<DeviceId, CommandError> {
        let device = self.own_device(fleet, device)?;
        match self.ledger.estate.retired.get(&device) {
            Some(why) => refuse(
                Code::RATING_FAILED,
                "decommissioned",
                format!("device {device} serves no more: {why}"),
            ),
            None => Ok(device),
        }
    }

    /// Nothing is reserved for it: what it was granted it may use to the end, on the SIM that it has.
    fn at_rest(&self, device: &DeviceId) -> Result<(), CommandError> {
        let lease = self
            .ledger
            .devices
            .get(device)
            .into_iter()
            .flat_map(|found: &Device| found.epochs.values())
            .filter(|axis| Axis::has_lease(axis))
            .map(|axis| axis.lease_until)
            .max();
        match lease {
            None => Ok(()),
            Some(until) => refuse(
                Code::RATING_FAILED,
                "grant-open",
                format!(
                    "device {device} holds a grant until {} at the latest: suspend it, and wait for its last report",
                    utc(until)
                ),
            ),
        }
    }

    pub(super) fn perform_estate(&mut self, change: EstateChange) -> Result<Value, Broken> {
        let EstateChange { device, what } = change;
        let subject = || Subject::Device(device.clone());
        match what {
            What::Tags(tags) => {
                self.record(subject(), Cause::TagsSet(TagsSet { tags }), Vec::new())?;
            }
            What::Release(iccid) => {
                let cause = Cause::SimReleased(SimReleased { iccid });
                self.record(subject(), cause, Vec::new())?;
            }
            What::Assign(iccid) => {
                let cause = Cause::SimAssigned(SimAssigned { iccid });
                self.record(subject(), cause, Vec::new())?;
            }
            What::Replace {
                by,
                iccid,
                packages,
            } => {
                self.tell(&device, &Body::Suspend)?;
                let cause = Cause::Replaced(Replaced {
                    by: by.clone(),
                    iccid,
                    packages: packages.clone(),
                });
                self.record(subject(), cause, Vec::new())?;
                let cause = Cause::Replaces(Replaces {
                    device: device.clone(),
                });
                self.record(Subject::Device(by.clone()), cause, Vec::new())?;
                for package in &packages {
                    self.gained_by(package)?;
                }
                return Ok(query::device(self.ledger, &by, self.now));
            }
            What::Decommission { iccid, why } => {
                self.tell(&device, &Body::Suspend)?;
                if let Some(iccid) = iccid {
                    let cause = Cause::SimReleased(SimReleased { iccid });
                    self.record(subject(), cause, Vec::new())?;
                }
                let cause = Cause::Decommissioned(Decommissioned { why });
                self.record(subject(), cause, Vec::new())?;
            }
        }
        Ok(query::device(self.ledger, &device, self.now))
    }
}
