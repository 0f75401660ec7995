//! What devices do now, for people who look on: some rows at a time, between the batches, after the devices' answers.
//! However many look on, and however often, no device waits for more than one such slice.

use std::collections::VecDeque;

use serde_cbor::Value;
use simquota_shared::ids::DeviceId;
use simquota_shared::units::UnixMillis;

use super::Pipeline;
use super::presence::Presence;
use crate::charging::{Outgoing, Query};
use crate::ledger::{Broken, Ledger};

/// Rows of one slice: one part of an answer.
const ROWS: usize = 25;
/// Questions under way. Who asks one more asks again later.
const WAITING_MAX: usize = 16;

/// A question, how many parts of its answer were made, and whose rows are missing.
struct Live {
    query: Query,
    parts: u64,
    devices: VecDeque<DeviceId>,
}

/// Questions that are being answered, in turn.
#[derive(Default)]
pub(super) struct Lives(VecDeque<Live>);

impl Lives {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a question in. One that is being answered is not asked twice: askers repeat themselves.
    fn ask(&mut self, query: Query, devices: Vec<DeviceId>) {
        if self.0.iter().any(|live| live.query == query) {
            return;
        }
        if self.0.len() >= WAITING_MAX {
            tracing::warn!("question dropped, too many wait");
            return;
        }
        self.0.push_back(Live {
            query,
            parts: 0,
            devices: devices.into(),
        });
    }

    /// The next part of an answer.
    fn slice(
        &mut self,
        presence: &Presence,
        ledger: &Ledger,
        now: UnixMillis,
    ) -> Option<Result<Outgoing, Broken>> {
        let mut live = self.0.pop_front()?;
        let count = live.devices.len().min(ROWS);
        let rows = live.devices.drain(..count);
        let rows = Value::Array(rows.map(|id| presence.row(ledger, &id, now)).collect());
        let last = live.devices.is_empty();
        let part = live.query.part(rows, live.parts, last);
        live.parts = live.parts.saturating_add(1);
        if !last && part.is_ok() {
            self.0.push_back(live);
        }
        Some(part)
    }
}

impl Pipeline {
    /// Looks at questions: the answers to devices are on their way already.
    pub(super) fn ask(&mut self, queries: Vec<Query>) {
        let Some(store) = &self.store else {
            return;
        };
        for query in queries {
            match query.live() {
                Some((fleet, most)) => {
                    let devices = self.presence.latest(&self.ledger, fleet, most);
                    self.lives.ask(query, devices);
                }
                None => self.desk.ask(query, store.reader()),
            }
        }
    }

    /// Makes one part of one answer.
    pub(super) fn go_on_with_lives(&mut self, now: UnixMillis) {
        match self.lives.slice(&self.presence, &self.ledger, now) {
            // Before the parts of long answers: who looks on sees what is now.
            Some(Ok(part)) => self.answers.push_front(part),
            Some(Err(broken)) => tracing::error!(%broken, "not answered: report this"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use simquota_shared::codec;
    use simquota_shared::envelope::Kid;
    use simquota_shared::message::FleetReply;

    use super::*;
    use crate::charging::{Address, Scope};

    fn question(id: &str) -> Query {
        let address = Address {
            scope: Scope::Fleet("buses".parse().unwrap()),
            author: "anna".parse().unwrap(),
            kid: Kid::first(&"anna"),
            id: id.parse().unwrap(),
        };
        Query::of_live(address, "buses".parse().unwrap(), 100)
    }

    fn devices(count: usize) -> Vec<DeviceId> {
        let names = (0..count).map(|number| format!("d-{number}"));
        names.map(|name| name.parse().unwrap()).collect()
    }

    /// All parts, in the order in which they are made: whose, which, whether the last, how many rows.
    fn parts(lives: &mut Lives) -> Vec<(String, u64, bool, usize)> {
        let (presence, ledger) = (Presence::default(), Ledger::default());
        std::iter::from_fn(|| lives.slice(&presence, &ledger, UnixMillis(1)))
            .map(|part| {
                let reply: FleetReply = codec::decode(&part.unwrap().payload).unwrap();
                let Value::Array(rows) = reply.result else {
                    panic!("no rows");
                };
                (reply.id.to_string(), reply.part, reply.last, rows.len())
            })
            .collect()
    }

    #[test]
    fn questions_are_answered_in_turn_a_bounded_part_at_a_time() {
        let mut lives = Lives::default();
        lives.ask(question("many"), devices(ROWS + 1));
        lives.ask(question("none"), devices(0));
        // Asked again while it is being answered.
        lives.ask(question("many"), devices(ROWS + 1));
        let expected = [
            ("many", 0, false, ROWS),
            ("none", 0, true, 0),
            ("many", 1, true, 1),
        ];
        let expected = expected.map(|(id, part, last, rows)| (id.to_owned(), part, last, rows));
        assert_eq!(parts(&mut lives), expected);
        assert!(lives.is_empty());
    }

    #[test]
    fn of_too_many_questions_the_latest_are_dropped() {
        let mut lives = Lives::default();
        for number in 0..WAITING_MAX + 3 {
            lives.ask(question(&format!("c-{number}")), devices(1));
        }
        assert_eq!(parts(&mut lives).len(), WAITING_MAX);
    }
}
