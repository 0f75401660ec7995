//! Charging data records: what the journal moved, one row for each movement that is not a mere reservation.
//!
//! Rows are in the journal's order and say which entry they come from, so that an export goes on where the last one
//! ended. Source: 3GPP TS 32.298 (CDR parameters): served device, sequence range, volume up and down, zone, cause.

use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::EntryNumber;

use super::account::{Account, Move, Pocket};
use super::entry::{Cause, Entry, Subject};
use crate::charging::{number, optional, text, value_map};

/// The columns of a row, in the order of a table. `up`, `down`, `flags`, `late` and `late_after` are of the whole entry:
/// how much was used, and how much of it came late and after what (`lease`, `end`, `final`).
pub const COLUMNS: [&str; 20] = [
    "entry",
    "row",
    "at",
    "cause",
    "fleet",
    "device",
    "epoch",
    "first",
    "last",
    "up",
    "down",
    "zone",
    "ended_s",
    "flags",
    "unit",
    "from",
    "to",
    "amount",
    "late",
    "late_after",
];

/// The rows of an entry; none where octets were only set aside or came back unused. `fleet_of` says whose a device
/// is, which not every entry does.
#[must_use]
pub fn rows(entry: &Entry, fleet_of: impl Fn(&DeviceId) -> Option<FleetId>) -> Vec<Value> {
    let fleet = match &entry.subject {
        Subject::Device(id) => fleet_of(id),
        Subject::Fleet(id) => Some(id.clone()),
        Subject::Platform => None,
    };
    entry
        .moves
        .iter()
        .filter(|movement| is_charge(movement))
        .enumerate()
        .map(|(row, movement)| one(entry, fleet.as_ref(), row as u64, movement))
        .collect()
}

fn is_charge(movement: &Move) -> bool {
    let back_and_forth = |account: &Account| {
        matches!(
            account,
            Account::Package(_, Pocket::Available | Pocket::Reserved)
        )
    };
    !(back_and_forth(&movement.from) && back_and_forth(&movement.to))
}

fn one(entry: &Entry, fleet: Option<&FleetId>, row: u64, movement: &Move) -> Value {
    let device = match &entry.subject {
        Subject::Device(id) => Some(id),
        Subject::Fleet(_) | Subject::Platform => None,
    };
    let usage = match &entry.cause {
        Cause::Usage(usage) => Some(usage),
        _ => None,
    };
    let late = usage.and_then(|usage| usage.late.as_ref());
    let epoch = match &entry.cause {
        Cause::Usage(usage) => Some(usage.epoch),
        Cause::Closed(closed) => Some(closed.epoch),
        _ => None,
    };
    let unit = if matches!(movement.from, Account::Fleet(_, _)) {
        "money"
    } else {
        "octets"
    };
    value_map([
        ("entry", number(entry.number.value())),
        ("row", number(row)),
        ("at", number(entry.at.value())),
        ("cause", Value::Text(entry.cause.name().to_owned())),
        ("fleet", optional(fleet, text)),
        ("device", optional(device, text)),
        ("epoch", optional(epoch, |epoch| number(epoch.value()))),
        (
            "first",
            optional(usage, |usage| number(usage.first.value())),
        ),
        ("last", optional(usage, |usage| number(usage.last.value()))),
        ("up", optional(usage, |usage| number(usage.up.value()))),
        ("down", optional(usage, |usage| number(usage.down.value()))),
        ("zone", optional(usage, |usage| text(&usage.zone))),
        (
            "ended_s",
            optional(usage.and_then(|usage| usage.ended_s), number),
        ),
        ("flags", optional(usage, |usage| number(usage.flags))),
        ("unit", Value::Text(unit.to_owned())),
        ("from", Value::Text(movement.from.name())),
        ("to", Value::Text(movement.to.name())),
        ("amount", number(movement.octets.value())),
        ("late", optional(late, |late| number(late.octets.value()))),
        (
            "late_after",
            optional(late, |late| Value::Text(late.names())),
        ),
    ])
}

/// A page of an export.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Its rows.
    pub rows: Vec<Value>,
    /// Where the next page begins.
    pub next: EntryNumber,
    /// Nothing follows, for now.
    pub last: bool,
}
