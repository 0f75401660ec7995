//! What is true of the service now, for those who ask over HTTP: written by the pipeline, read by anybody.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use simquota_shared::ids::KeyId;

use crate::io::metrics::Metrics;
use crate::io::pipeline::Lane;
use crate::ledger::Ledger;
use crate::ledger::entry::{Cause, Entry, Role};

/// Whether it should be sent work, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// True when promises are made.
    pub ready: bool,
    /// What stands in the way, in words; empty when it is ready.
    pub reasons: Vec<String>,
}

#[derive(Debug, Default)]
struct Facts {
    recovered: bool,
    stopping: bool,
    read_only: Option<String>,
    connected: [bool; 2],
    silent: [bool; 2],
    /// Keys that are believed, and what they allow.
    people: BTreeMap<KeyId, Role>,
}

/// The facts and the figures.
pub struct Observed {
    /// The figures.
    pub metrics: Metrics,
    facts: Mutex<Facts>,
}

impl Observed {
    /// Before anything is known: not ready.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            facts: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        // A panic while it was held can't have left it half changed.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger was read: whose keys are believed is known.
    pub(crate) fn recovered(&self, ledger: &Ledger) {
        self.metrics.look(ledger);
        let people = people(ledger);
        let mut facts = self.lock();
        facts.recovered = true;
        facts.people = people;
    }

    /// Entries became durable. A revoked key is refused from here on.
    pub(crate) fn durable(&self, ledger: &Ledger, entries: &[Entry]) {
        self.metrics.durable(entries);
        let keys = entries
            .iter()
            .any(|entry| matches!(entry.cause, Cause::KeyCreated(_) | Cause::AccessChanged(_)));
        if keys {
            self.lock().people = people(ledger);
        }
    }

    pub(crate) fn connected(&self, lane: Lane, stands: bool) {
        *of(&mut self.lock().connected, lane) = stands;
        let gauge = self.metrics.connected.with_label_values(&[lane.name()]);
        gauge.set(i64::from(stands));
    }

    pub(crate) fn silent(&self, lane: Lane, silent: bool) {
        *of(&mut self.lock().silent, lane) = silent;
        let gauge = self.metrics.silent.with_label_values(&[lane.name()]);
        gauge.set(i64::from(silent));
    }

    pub(crate) fn read_only(&self, why: Option<String>) {
        self.metrics.read_only.set(i64::from(why.is_some()));
        self.lock().read_only = why;
    }

    pub(crate) fn stopping(&self) {
        self.lock().stopping = true;
    }

    /// What a key allows, if it is believed.
    pub(super) fn role(&self, key: &KeyId) -> Option<Role> {
        self.lock().people.get(key).copied()
    }

    /// Whether promises are made.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let facts = self.lock();
        let mut reasons = Vec::new();
        if !facts.recovered {
            reasons.push("the ledger is being read".to_owned());
        }
        if facts.stopping {
            reasons.push("the service stops".to_owned());
        }
        if let Some(why) = &facts.read_only {
            reasons.push(format!("read-only: {why}"));
        }
        for lane in Lane::BOTH {
            if !*of_ref(&facts.connected, lane) {
                reasons.push(format!("no connection to the broker for {lane}"));
            } else if *of_ref(&facts.silent, lane) {
                reasons.push(format!("the subscriptions of {lane} do not deliver"));
            }
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
        }
    }
}

fn of(pair: &mut [bool; 2], lane: Lane) -> &mut bool {
    let [control, usage] = pair;
    match lane {
        Lane::Control => control,
        Lane::Usage => usage,
    }
}

fn of_ref(pair: &[bool; 2], lane: Lane) -> &bool {
    let [control, usage] = pair;
    match lane {
        Lane::Control => control,
        Lane::Usage => usage,
    }
}

fn people(ledger: &Ledger) -> BTreeMap<KeyId, Role> {
    let believed = ledger
        .keys
        .iter()
        .filter(|(id, _)| !ledger.access.keys.contains(*id));
    believed.map(|(id, key)| (id.clone(), key.role)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_ready_when_nothing_stands_in_the_way() {
        let observed = Observed::new(Metrics::new().unwrap());
        assert_eq!(observed.readiness().reasons.len(), 3);
        observed.recovered(&Ledger::default());
        for lane in Lane::BOTH {
            assert!(!observed.readiness().ready);
            observed.connected(lane, true);
        }
        assert!(observed.readiness().ready);
        observed.read_only(Some("the disk is full".to_owned()));
        assert_eq!(
            observed.readiness().reasons,
            ["read-only: the disk is full"]
        );
        observed.read_only(None);
        observed.silent(Lane::Usage, true);
        assert_eq!(
            observed.readiness().reasons,
            ["the subscriptions of usage do not deliver"]
        );
        observed.silent(Lane::Usage, false);
        observed.stopping();
        assert!(!observed.readiness().ready);
    }
}
