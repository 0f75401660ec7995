//! The upkeep of devices: tags, who replaced whom, who serves no more, and commands to many devices at once. Like
//! everything else it is what the entries add up to.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use simquota_shared::ids::{CommandId, DeviceId, FleetId, Iccid, KeyId, Text};
use simquota_shared::units::{EntryNumber, UnixMillis};

use super::entry::{BulkBegan, BulkWent, Cause, Entry, Replaced, Subject};
use super::version::{Object, Version};
use super::{Broken, Ledger, Owner};

/// Tags, replacements, bulk commands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estate {
    /// Words to select devices by; devices without any are not in it.
    pub tags: BTreeMap<DeviceId, BTreeSet<Text>>,
    /// Devices that serve no more, and why.
    pub retired: BTreeMap<DeviceId, Text>,
    /// Whom a device replaced.
    pub replaces: BTreeMap<DeviceId, DeviceId>,
    /// Commands to many devices, finished ones too.
    pub bulks: BTreeMap<(FleetId, CommandId), Bulk>,
    /// The last change of what was changed since it began.
    #[serde(default)]
    pub versions: BTreeMap<Object, Version>,
}

/// A command to many devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bulk {
    /// Who sealed it.
    pub author: KeyId,
    /// What is commanded to each.
    pub name: Text,
    /// The arguments besides the device: a CBOR map.
    pub args: Vec<u8>,
    /// To whom; empty when it is finished.
    pub devices: Vec<DeviceId>,
    /// How many there are.
    pub of: u64,
    /// How many are done.
    pub done: u64,
    /// For how many of these it was refused.
    pub refused: u64,
    /// The entry that it began with.
    pub began: EntryNumber,
    /// When it began.
    pub at: UnixMillis,
    /// When it was finished.
    pub ended: Option<UnixMillis>,
}

impl Bulk {
    /// The devices that come next, at most `most`.
    #[must_use]
    pub fn next(&self, most: usize) -> Vec<DeviceId> {
        let done = usize::try_from(self.done).unwrap_or(usize::MAX);
        self.devices.iter().skip(done).take(most).cloned().collect()
    }
}

impl Ledger {
    /// Whom a device replaced, and whom that one had, the nearest first.
    #[must_use]
    pub fn predecessors(&self, id: &DeviceId) -> Vec<DeviceId> {
        let mut found: Vec<DeviceId> = Vec::new();
        let mut next = self.estate.replaces.get(id);
        // A device that serves no more replaces nobody again: there is no circle.
        while let Some(before) = next.filter(|before| !found.contains(before)) {
            found.push(before.clone());
            next = self.estate.replaces.get(before);
        }
        found
    }

    /// The SIM that is bound to a device.
    #[must_use]
    pub fn sim_of(&self, id: &DeviceId) -> Option<&Iccid> {
        let iccid = &self.devices.get(id)?.iccid;
        let bound = self.sims.get(iccid)?.device.as_ref() == Some(id);
        bound.then_some(iccid)
    }

    pub(super) fn apply_estate(&mut self, entry: &Entry) -> Result<(), Broken> {
        match &entry.cause {
            Cause::BulkBegan(began) => self.begin_bulk(entry, began),
            Cause::BulkWent(went) => self.go_on_with_bulk(entry, went),
            Cause::TagsSet(set) => {
                let id = device_of(entry)?.clone();
                if set.tags.is_empty() {
                    self.estate.tags.remove(&id);
                } else {
                    let tags = set.tags.iter().cloned().collect();
                    self.estate.tags.insert(id, tags);
                }
                Ok(())
            }
            Cause::SimReleased(released) => self.release_sim(device_of(entry)?, &released.iccid),
            Cause::SimAssigned(assigned) => self.bind_sim(device_of(entry)?, &assigned.iccid),
            Cause::Replaced(replaced) => self.replace(entry, replaced),
            Cause::Replaces(replaces) => {
                let id = device_of(entry)?.clone();
                self.estate.replaces.insert(id, replaces.device.clone());
                Ok(())
            }
            Cause::Decommissioned(gone) => self.retire(device_of(entry)?, gone.why.clone()),
            _ => Ok(()),
        }
    }

    fn begin_bulk(&mut self, entry: &Entry, began: &BulkBegan) -> Result<(), Broken> {
        let Subject::Fleet(fleet) = &entry.subject else {
            return Err(Broken::Balance("a bulk command names no fleet"));
        };
        let key = (fleet.clone(), began.bulk.clone());
        let bulk = Bulk {
            author: began.author.clone(),
            name: began.name.clone(),
            args: began.args.0.clone(),
            devices: began.devices.clone(),
            of: began.devices.len() as u64,
            done: 0,
            refused: 0,
            began: entry.number,
            at: entry.at,
            ended: began.devices.is_empty().then_some(entry.at),
        };
        if bulk.ended.is_none() {
            self.index.bulks.insert(key.clone());
        }
        match self.estate.bulks.insert(key, bulk) {
            Some(_) => Err(Broken::Name(
                "bulk command",
                began.bulk.to_string(),
                "exists already",
            )),
            None => Ok(()),
        }
    }

    fn go_on_with_bulk(&mut self, entry: &Entry, went: &BulkWent) -> Result<(), Broken> {
        let Subject::Fleet(fleet) = &entry.subject else {
            return Err(Broken::Balance("a bulk command names no fleet"));
        };
        let key = (fleet.clone(), went.bulk.clone());
        let unknown = || Broken::Name("bulk command", went.bulk.to_string(), "does not exist");
        let bulk = self.estate.bulks.get_mut(&key).ok_or_else(unknown)?;
        let next = bulk.next(went.parts.len());
        let follows = went.before == bulk.done
            && !went.parts.is_empty()
            && next.len() == went.parts.len()
            && next
                .iter()
                .zip(&went.parts)
                .all(|(id, part)| *id == part.device);
        if !follows {
            return Err(Broken::Balance(
                "a bulk command leaves out a device or does one twice",
            ));
        }
        let refused = went.parts.iter().filter(|part| !part.code.is_success());
        bulk.refused = bulk.refused.saturating_add(refused.count() as u64);
        bulk.done = bulk.done.saturating_add(next.len() as u64);
        if bulk.done == bulk.of {
            bulk.ended = Some(entry.at);
            bulk.devices = Vec::new();
            self.index.bulks.remove(&key);
        }
        Ok(())
    }

    fn release_sim(&mut self, id: &DeviceId, iccid: &Iccid) -> Result<(), Broken> {
        let unknown = || Broken::Name("SIM", iccid.to_string(), "does not exist");
        let sim = self.sims.get_mut(iccid).ok_or_else(unknown)?;
        if sim.device.as_ref() != Some(id) {
            let name = iccid.to_string();
            return Err(Broken::Name("SIM", name, "is bound to another device"));
        }
        sim.device = None;
        self.index.free_sims.insert(iccid.clone());
        Ok(())
    }

    fn bind_sim(&mut self, id: &DeviceId, iccid: &Iccid) -> Result<(), Broken> {
        if let Some(before) = self.sim_of(id).cloned() {
            self.release_sim(id, &before)?;
        }
        let unknown = || Broken::Name("SIM", iccid.to_string(), "does not exist");
        let sim = self.sims.get_mut(iccid).ok_or_else(unknown)?;
        if sim.device.is_some() {
            let name = iccid.to_string();
            return Err(Broken::Name("SIM", name, "is bound to another device"));
        }
        sim.device = Some(id.clone());
        self.index.free_sims.remove(iccid);
        let unknown = || Broken::Name("device", id.to_string(), "does not exist");
        self.devices.get_mut(id).ok_or_else(unknown)?.iccid = iccid.clone();
        Ok(())
    }

    fn replace(&mut self, entry: &Entry, replaced: &Replaced) -> Result<(), Broken> {
        let id = device_of(entry)?.clone();
        let Replaced {
            by,
            iccid,
            packages,
        } = replaced;
        if let Some(iccid) = iccid {
            self.release_sim(&id, iccid)?;
            self.bind_sim(by, iccid)?;
        }
        for package in packages {
            let unknown = || Broken::Name("package", package.to_string(), "does not exist");
            let found = self.packages.get_mut(package).ok_or_else(unknown)?;
            if found.device.as_ref() != Some(&id) {
                let name = package.to_string();
                return Err(Broken::Name("package", name, "is of another device"));
            }
            found.device = Some(by.clone());
            if !found.ended {
                let open = &mut self.index.open;
                if let Some(own) = open.get_mut(&Owner::Device(id.clone())) {
                    own.remove(package);
                }
                let owner = Owner::Device(by.clone());
                open.entry(owner).or_default().insert(package.clone());
            }
        }
        if let Some(tags) = self.estate.tags.remove(&id) {
            self.estate.tags.entry(by.clone()).or_default().extend(tags);
        }
        self.take_over_rules(&id, by);
        self.retire(&id, Text::clipped(&format!("replaced by {by}")))
    }

    /// Plans, rules that buy, policy and caps hold for the new device.
    fn take_over_rules(&mut self, id: &DeviceId, by: &DeviceId) {
        for plan in self.plans.values_mut() {
            if plan.terms.device.as_ref() == Some(id) {
                plan.terms.device = Some(by.clone());
            }
        }
        for account in self.accounts.values_mut() {
            for rule in account.rules.values_mut() {
                if rule.top_up.device.as_ref() == Some(id) {
                    rule.top_up.device = Some(by.clone());
                }
            }
        }
        let Some(old) = self.devices.get(id) else {
            return;
        };
        let policy = old.policy.clone();
        let caps = old.spent.as_ref().and_then(|spent| spent.caps.clone());
        if let Some(new) = self.devices.get_mut(by) {
            new.policy = policy.or(new.policy.take());
            if caps.is_some() {
                new.spent.get_or_insert_default().caps = caps;
            }
        }
    }

    fn retire(&mut self, id: &DeviceId, why: Text) -> Result<(), Broken> {
        let unknown = || Broken::Name("device", id.to_string(), "does not exist");
        self.devices.get_mut(id).ok_or_else(unknown)?.suspended = true;
        self.estate.retired.insert(id.clone(), why);
        Ok(())
    }
}

fn device_of(entry: &Entry) -> Result<&DeviceId, Broken> {
    match &entry.subject {
        Subject::Device(id) => Ok(id),
        Subject::Fleet(_) | Subject::Platform => {
            Err(Broken::Balance("an entry about a device names none"))
        }
    }
}
