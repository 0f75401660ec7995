//! The publisher of events: a durable cursor over the journal.
//!
//! An event is an entry, its number is its id. It counts as published when the broker gave it back to us, over our own
//! subscription: until then it is sent again. The cursor stands before the first event that has not come back; it
//! is kept with the store, so that nothing is left out over a crash. So each event is published at least once.

use std::collections::BTreeMap;

use simquota_shared::codec;
use simquota_shared::topic::Topic;
use simquota_shared::units::EntryNumber;

use crate::charging::{Outgoing, Seal};
use crate::io::store::{Reader, StoreError};
use crate::ledger::Ledger;
use crate::ledger::entry::Entry;
use crate::ledger::event;

/// Events under way at most. What is beyond them is read from the journal when there is room.
const UNDER_WAY_MAX: usize = 1000;
/// Entries that are read at a time to find events.
const LOOK_MAX: usize = 10_000;
/// When an event is sent again that did not come back; twice as long each time.
const AGAIN_MS: u64 = 5_000;
const AGAIN_MS_MAX: u64 = 300_000;

/// An event on its way.
struct UnderWay {
    outgoing: Outgoing,
    /// When it is sent, or sent again.
    due_ms: u64,
    wait_ms: u64,
}

/// What is under way, and how far the journal was looked at.
pub(super) struct Publisher {
    under_way: BTreeMap<EntryNumber, UnderWay>,
    looked: EntryNumber,
    kept: EntryNumber,
}

impl Publisher {
    /// Goes on after a cursor.
    pub(super) fn new(cursor: EntryNumber) -> Self {
        Self {
            under_way: BTreeMap::new(),
            looked: cursor,
            kept: cursor,
        }
    }

    /// Looks at entries that have just become durable. After a gap the journal is read instead.
    pub(super) fn look(&mut self, ledger: &Ledger, entries: &[Entry]) {
        let follows = entries
            .first()
            .is_some_and(|first| Some(first.number) == self.looked.next());
        if follows && self.under_way.len() < UNDER_WAY_MAX {
            for entry in entries {
                self.take(ledger, entry);
            }
        }
    }

    /// Looks at what it has not seen yet: after a start, or when too much was under way.
    pub(super) fn catch_up(&mut self, ledger: &Ledger, reader: &Reader) -> Result<(), StoreError> {
        if self.looked >= ledger.last || self.under_way.len() >= UNDER_WAY_MAX {
            return Ok(());
        }
        let Some(next) = self.looked.next() else {
            return Ok(());
        };
        for entry in reader.entries(next).take(LOOK_MAX) {
            self.take(ledger, &entry?);
        }
        Ok(())
    }

    fn take(&mut self, ledger: &Ledger, entry: &Entry) {
        self.looked = entry.number;
        let Some(event) = event::of(ledger, entry) else {
            return;
        };
        match codec::encode(&event) {
            Ok(payload) => {
                let outgoing = Outgoing {
                    topic: Topic::FleetEvent(event.fleet),
                    payload,
                    retain: false,
                    seal: Seal::Signed,
                };
                let under_way = UnderWay {
                    outgoing,
                    due_ms: 0,
                    wait_ms: AGAIN_MS,
                };
                self.under_way.insert(entry.number, under_way);
            }
            Err(error) => {
                tracing::error!(entry = entry.number.value(), %error, "event not written: report this");
            }
        }
    }

    /// The events to be sent now.
    pub(super) fn due(&mut self, now_ms: u64, most: usize) -> Vec<Outgoing> {
        let due = self
            .under_way
            .values_mut()
            .filter(|event| event.due_ms <= now_ms)
            .take(most);
        due.map(|event| {
            event.due_ms = now_ms.saturating_add(event.wait_ms);
            event.wait_ms = event.wait_ms.saturating_mul(2).min(AGAIN_MS_MAX);
            event.outgoing.clone()
        })
        .collect()
    }

    /// The broker gave an event back: it is published.
    pub(super) fn came_back(&mut self, entry: EntryNumber) {
        self.under_way.remove(&entry);
    }

    /// How many events have not come back.
    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The cursor, when it has moved since it was last asked for.
    pub(super) fn moved(&mut self) -> Option<EntryNumber> {
        let cursor = match self.under_way.keys().next() {
            Some(first) => EntryNumber(first.value().saturating_sub(1)),
            None => self.looked,
        };
        if cursor <= self.kept {
            return None;
        }
        self.kept = cursor;
        Some(cursor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use simquota_shared::units::UnixMillis;

    use super::*;
    use crate::ledger::entry::{Cause, FleetCreated, FleetSuspension, Subject};

    fn entries(ledger: &mut Ledger, count: usize) -> Vec<Entry> {
        let fleet = || Subject::Fleet("f".parse().unwrap());
        (0..count)
            .map(|_| {
                let cause = Cause::FleetSuspension(FleetSuspension { suspended: true });
                ledger
                    .record(UnixMillis(1), fleet(), cause, Vec::new())
                    .unwrap()
            })
            .collect()
    }

    #[test]
    fn the_cursor_stands_before_the_first_event_that_did_not_come_back() {
        let mut ledger = Ledger::default();
        let created = Cause::FleetCreated(FleetCreated {
            fleet: "f".parse().unwrap(),
        });
        let first = ledger
            .record(UnixMillis(1), Subject::Platform, created, Vec::new())
            .unwrap();
        let mut publisher = Publisher::new(EntryNumber::ZERO);
        publisher.look(&ledger, &[first]);
        assert_eq!(
            publisher.moved(),
            Some(EntryNumber(1)),
            "no event, nothing to wait for"
        );
        publisher.look(&ledger, &entries(&mut ledger.clone(), 3));
        assert_eq!(publisher.due(0, 10).len(), 3);
        publisher.came_back(EntryNumber(3));
        assert_eq!(publisher.moved(), None, "entry 2 did not come back");
        publisher.came_back(EntryNumber(2));
        assert_eq!(publisher.moved(), Some(EntryNumber(3)));
        publisher.came_back(EntryNumber(4));
        assert_eq!(publisher.moved(), Some(EntryNumber(4)));
    }

    #[test]
    fn what_does_not_come_back_is_sent_again_more_and_more_seldom() {
        let mut ledger = Ledger::default();
        let made = entries(&mut ledger, 1);
        let mut publisher = Publisher::new(EntryNumber::ZERO);
        publisher.look(&ledger, &made);
        let mut sent = Vec::new();
        for now_ms in (0..60_000).step_by(1000) {
            if !publisher.due(now_ms, 10).is_empty() {
                sent.push(now_ms);
            }
        }
        assert_eq!(sent, [0, 5_000, 15_000, 35_000]);
    }

    #[test]
    fn at_the_bound_events_are_left_for_the_journal() {
        let mut ledger = Ledger::default();
        let made = entries(&mut ledger, UNDER_WAY_MAX + 2);
        let mut publisher = Publisher::new(EntryNumber::ZERO);
        for one in &made {
            publisher.look(&ledger, std::slice::from_ref(one));
        }
        assert_eq!(publisher.due(0, usize::MAX).len(), UNDER_WAY_MAX);
        // There is room again, and a gap: what was left out is read, not forgotten.
        for number in 1..=UNDER_WAY_MAX as u64 {
            publisher.came_back(EntryNumber(number));
        }
        let last = made.last().unwrap();
        publisher.look(&ledger, std::slice::from_ref(last));
        assert!(publisher.due(0, usize::MAX).is_empty());
        assert_eq!(publisher.moved(), Some(EntryNumber(UNDER_WAY_MAX as u64)));
    }

    #[test]
    fn a_gap_is_left_for_the_journal() {
        let mut ledger = Ledger::default();
        let made = entries(&mut ledger, 2);
        let mut publisher = Publisher::new(EntryNumber::ZERO);
        publisher.look(&ledger, made.get(1..).unwrap());
        assert!(publisher.due(0, 10).is_empty());
        assert_eq!(publisher.moved(), None);
    }
}
