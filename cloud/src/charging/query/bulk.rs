//! Rows of commands to many devices.

use serde_cbor::Value;
use simquota_shared::ids::{CommandId, FleetId};

use super::{map, number, optional, text};
use crate::ledger::Ledger;
use crate::ledger::entry::{BulkPart, Cause, Entry, Subject};
use crate::ledger::estate::Bulk;

/// The latest of a fleet that are listed.
const LISTED: usize = 100;

pub(in crate::charging) fn bulk(ledger: &Ledger, fleet: &FleetId, id: &CommandId) -> Value {
    match ledger.estate.bulks.get(&(fleet.clone(), id.clone())) {
        Some(bulk) => row(id, bulk),
        None => Value::Null,
    }
}

pub(in crate::charging) fn bulks(ledger: &Ledger, fleet: &FleetId) -> Value {
    let own = ledger
        .estate
        .bulks
        .iter()
        .filter(|((of, _), _)| of == fleet);
    let mut own: Vec<_> = own.collect();
    own.sort_by_key(|(_, bulk)| std::cmp::Reverse(bulk.began));
    let rows = own.into_iter().take(LISTED);
    Value::Array(rows.map(|((_, id), bulk)| row(id, bulk)).collect())
}

fn row(id: &CommandId, bulk: &Bulk) -> Value {
    map([
        ("bulk", text(id)),
        ("author", text(&bulk.author)),
        ("command", text(&bulk.name)),
        ("at", number(bulk.at.value())),
        ("of", number(bulk.of)),
        ("done", number(bulk.done)),
        ("refused", number(bulk.refused)),
        ("ended", optional(bulk.ended, |at| number(at.value()))),
    ])
}

pub(in crate::charging) fn outcome_row(part: &BulkPart) -> Value {
    map([
        ("device", text(&part.device)),
        ("code", number(u64::from(part.code.0))),
        ("why", optional(part.why.as_ref(), text)),
    ])
}

/// What became of each device, out of the journal.
pub(super) fn outcomes<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    fleet: &FleetId,
    id: &CommandId,
) -> Result<Value, String> {
    let mut rows = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        if let (Subject::Fleet(of), Cause::BulkWent(went)) = (&entry.subject, &entry.cause)
            && of == fleet
            && went.bulk == *id
        {
            rows.extend(went.parts.iter().map(outcome_row));
            if rows.len() as u64 >= went.of {
                break;
            }
        }
    }
    Ok(Value::Array(rows))
}
