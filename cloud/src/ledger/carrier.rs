//! What the ledger charged for each SIM on each day, to lay beside the carrier's own records.
//!
//! A meter in the owner's hands can report too little; the carrier's counter is in nobody's hands that gains by it. Days
//! are those of UTC, of a sample's end as the device dated it, or of its arrival where it had no clock: what was used
//! around midnight may stand a day apart.

use std::collections::BTreeMap;

use simquota_shared::ids::{DeviceId, Iccid};

use super::entry::{Cause, Entry, Subject};

const DAY_S: u64 = 86_400;

/// Octets by SIM and day; a day is counted from 1970-01-01.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BySim {
    sims: BTreeMap<DeviceId, Iccid>,
    /// What was reported and charged.
    pub octets: BTreeMap<(Iccid, u64), u128>,
}

impl BySim {
    /// Takes the next entry of the journal.
    pub fn take(&mut self, entry: &Entry) {
        let Subject::Device(device) = &entry.subject else {
            return;
        };
        match &entry.cause {
            Cause::Registered(registered) => {
                self.sims.insert(device.clone(), registered.iccid.clone());
            }
            Cause::Usage(usage) => {
                let Some(iccid) = self.sims.get(device) else {
                    return;
                };
                let seconds = usage.ended_s.unwrap_or(entry.at.value() / 1000);
                let octets = u128::from(usage.up.value()) + u128::from(usage.down.value());
                *self
                    .octets
                    .entry((iccid.clone(), seconds / DAY_S))
                    .or_default() += octets;
            }
            _ => {}
        }
    }
}
