//! Who is believed no longer: revoked keys, closed batches, devices that were shut out. Like everything else it is what
//! the entries add up to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use simquota_shared::ids::{DeviceId, EnrolmentId, KeyId, Text};
use simquota_shared::units::UnixMillis;

use super::entry::{AccessChange, AccessChanged};
use super::{Broken, Ledger};

/// New epochs of a device that are remembered: more than any limit of them.
const EPOCHS_KEPT: usize = 64;

/// Who is believed no longer, and until when batches admit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Access {
    /// Revoked keys of people.
    pub keys: BTreeSet<KeyId>,
    /// Revoked enrolment keys: no device under them is believed.
    pub enrolments: BTreeSet<EnrolmentId>,
    /// Until when an enrolment key admits new devices; not in it: without end.
    pub until: BTreeMap<EnrolmentId, UnixMillis>,
    /// Devices that are not believed, and why.
    pub barred: BTreeMap<DeviceId, Text>,
    /// When a device began its latest epochs, but the first.
    pub epochs: BTreeMap<DeviceId, VecDeque<UnixMillis>>,
    /// What called for a look at a device, by its reason, and when last. There are a dozen reasons at most.
    #[serde(default)]
    pub suspected: BTreeMap<DeviceId, BTreeMap<Text, UnixMillis>>,
}

impl Access {
    /// How many epochs a device began since a time.
    #[must_use]
    pub fn epochs_since(&self, device: &DeviceId, since: UnixMillis) -> usize {
        self.epochs
            .get(device)
            .map_or(0, |begun| begun.iter().filter(|at| **at > since).count())
    }

    /// Whether a device was suspected of this since a time.
    #[must_use]
    pub fn suspected_since(&self, device: &DeviceId, reason: &str, since: UnixMillis) -> bool {
        self.suspected_at(device, reason)
            .is_some_and(|at| at > since)
    }

    /// When a device was last suspected of this.
    #[must_use]
    pub fn suspected_at(&self, device: &DeviceId, reason: &str) -> Option<UnixMillis> {
        let reasons = self.suspected.get(device)?;
        reasons.get(&Text::clipped(reason)).copied()
    }

    pub(super) fn suspect(&mut self, device: &DeviceId, reason: &Text, at: UnixMillis) {
        let reasons = self.suspected.entry(device.clone()).or_default();
        reasons.insert(reason.clone(), at);
    }

    /// Another epoch of a known device began.
    pub(super) fn began_epoch(&mut self, device: &DeviceId, at: UnixMillis) {
        let begun = self.epochs.entry(device.clone()).or_default();
        begun.push_back(at);
        while begun.len() > EPOCHS_KEPT {
            begun.pop_front();
        }
    }
}

impl Ledger {
    pub(super) fn change_access(&mut self, changed: &AccessChanged) -> Result<(), Broken> {
        let AccessChanged {
            change,
            name,
            until,
            why,
            generation,
        } = changed;
        let access = &mut self.access;
        match change {
            AccessChange::KeyRevoked => {
                access.keys.insert(id(name)?);
            }
            AccessChange::EnrolmentRevoked => {
                access.enrolments.insert(id(name)?);
            }
            AccessChange::EnrolmentUntil => match until {
                Some(until) => drop(access.until.insert(id(name)?, *until)),
                None => drop(access.until.remove(&id(name)?)),
            },
            AccessChange::DeviceBarred => {
                access.barred.insert(id(name)?, why.clone());
            }
            AccessChange::DeviceReadmitted => {
                let device = id(name)?;
                access.barred.remove(&device);
                // Or its next registration would be one too many again.
                access.epochs.remove(&device);
            }
            AccessChange::GenerationBegun => {
                let device = id(name)?;
                if let (Some(device), Some(generation)) =
                    (self.devices.get_mut(&device), generation)
                {
                    device.generation = *generation;
                }
            }
        }
        Ok(())
    }
}

fn id<T: std::str::FromStr>(name: &Text) -> Result<T, Broken> {
    name.as_str()
        .parse()
        .map_err(|_| Broken::Name("a name", name.to_string(), "is not an id"))
}
