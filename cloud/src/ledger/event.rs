//! What of the journal a fleet's managers want to hear of. An event is an entry: the entry's number is its id.

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, Text};
use simquota_shared::message::Event;
use simquota_shared::message::usage::flag;
use simquota_shared::units::Octets;

use super::Ledger;
use super::account::{Account, Move, Pocket, Slot};
use super::entry::{AccessChange, Cause, Entry, Limit, Subject, Usage, reason};

/// The event that an entry is; none for most.
///
/// It is made of nothing but the entry and whose device it is about, so that it is the same whenever it is made.
#[must_use]
pub fn of(ledger: &Ledger, entry: &Entry) -> Option<Event> {
    let (kind, args) = what(entry)?;
    let (fleet, device): (FleetId, Option<DeviceId>) = match &entry.subject {
        Subject::Device(id) => (ledger.devices.get(id)?.fleet.clone(), Some(id.clone())),
        Subject::Fleet(id) => (id.clone(), None),
        Subject::Platform => return None,
    };
    Some(Event {
        entry: entry.number,
        at: entry.at,
        fleet,
        device,
        kind: Text::clipped(kind),
        args,
    })
}

fn what(entry: &Entry) -> Option<(&'static str, Value)> {
    use crate::charging::{number, optional, text, value_map};
    Some(match &entry.cause {
        Cause::Crossed(crossed) if crossed.told => (
            "threshold",
            value_map([
                ("package", text(&crossed.package)),
                ("percent", number(crossed.percent)),
                ("crossing", number(crossed.crossing)),
            ]),
        ),
        Cause::LimitReached(reached) => (
            "limit",
            value_map([
                ("limit", Value::Text(limit(reached.limit).to_owned())),
                ("used", number(reached.used.value())),
                ("of", number(reached.of.value())),
                ("until", number(reached.until.value())),
            ]),
        ),
        Cause::ToppedUp(topped) => (
            if topped.bought.is_some() {
                "topped-up"
            } else {
                "top-up-refused"
            },
            value_map([
                ("rule", text(&topped.rule)),
                ("package", text(&topped.package)),
                ("bought", optional(topped.bought.as_ref(), text)),
                ("why", text(&topped.why)),
            ]),
        ),
        Cause::PackageEnded(ended) => (
            if ended.refunded {
                "package-cancelled"
            } else {
                "package-ended"
            },
            value_map([
                ("package", text(&ended.package)),
                ("octets", number(left_over(&entry.moves).value())),
            ]),
        ),
        Cause::PackageBegan(began) => (
            "package-began",
            value_map([
                ("package", text(&began.package)),
                (
                    "until",
                    optional(began.until, |until| number(until.value())),
                ),
            ]),
        ),
        Cause::PlanTurned(turned) => (
            if turned.package.is_some() {
                "plan-turned"
            } else {
                "plan-unpaid"
            },
            value_map([
                ("plan", text(&turned.plan)),
                ("period", number(turned.period)),
                ("package", optional(turned.package.as_ref(), text)),
                ("next", number(turned.next.value())),
            ]),
        ),
        Cause::Suspension(suspension) => (
            if suspension.suspended {
                "suspended"
            } else {
                "resumed"
            },
            value_map([]),
        ),
        Cause::FleetSuspension(suspension) => (
            if suspension.suspended {
                "fleet-suspended"
            } else {
                "fleet-resumed"
            },
            value_map([]),
        ),
        Cause::BulkWent(went) => {
            let refused = went.parts.iter().filter(|part| !part.code.is_success());
            let refused = refused.count() as u64;
            (
                "bulk",
                value_map([
                    ("bulk", text(&went.bulk)),
                    (
                        "done",
                        number(went.before.saturating_add(went.parts.len() as u64)),
                    ),
                    ("of", number(went.of)),
                    ("refused", number(refused)),
                ]),
            )
        }
        Cause::Replaced(replaced) => ("replaced", value_map([("by", text(&replaced.by))])),
        Cause::Decommissioned(gone) => ("decommissioned", value_map([("why", text(&gone.why))])),
        Cause::Credit(credit) if credit.code == Code::CREDIT_LIMIT_REACHED => (
            "exhausted",
            value_map([
                ("epoch", number(credit.epoch.value())),
                ("number", number(credit.number.value())),
                ("ceiling", number(credit.ceiling.value())),
                ("used", number(credit.used.value())),
            ]),
        ),
        Cause::Usage(usage) if owed(&entry.moves) > Octets::ZERO => (
            "debt",
            value_map([
                ("epoch", number(usage.epoch.value())),
                ("last", number(usage.last.value())),
                ("octets", number(owed(&entry.moves).value())),
                ("late", number(late_octets(usage))),
            ]),
        ),
        Cause::Usage(usage) if usage.flags & flag::OVERRUN != 0 => (
            "overrun",
            value_map([
                ("epoch", number(usage.epoch.value())),
                ("last", number(usage.last.value())),
                ("total", number(usage.total.value())),
                ("late", number(late_octets(usage))),
            ]),
        ),
        Cause::Usage(Usage {
            epoch,
            last,
            late: Some(late),
            ..
        }) => (
            "late",
            value_map([
                ("epoch", number(epoch.value())),
                ("last", number(last.value())),
                ("octets", number(late.octets.value())),
                ("after", Value::Text(late.names())),
            ]),
        ),
        Cause::Lapsed(lapsed) => (
            "lease-lapsed",
            value_map([("epoch", number(lapsed.epoch.value()))]),
        ),
        Cause::Closed(closed) => (
            "epoch-closed",
            value_map([
                ("epoch", number(closed.epoch.value())),
                ("total", number(closed.total.value())),
                ("octets", number(charged(&entry.moves).value())),
            ]),
        ),
        Cause::Suspected(suspected) => (
            suspicion(suspected.reason.as_str()),
            value_map([
                ("reason", text(&suspected.reason)),
                ("words", text(&suspected.words)),
            ]),
        ),
        Cause::AccessChanged(changed) => match changed.change {
            AccessChange::DeviceBarred => ("shut-out", value_map([("why", text(&changed.why))])),
            AccessChange::DeviceReadmitted => ("readmitted", value_map([])),
            AccessChange::KeyRevoked
            | AccessChange::EnrolmentRevoked
            | AccessChange::EnrolmentUntil
            | AccessChange::GenerationBegun => return None,
        },
        _ => return None,
    })
}

/// What a suspicion is called where managers choose what they hear of.
fn suspicion(reason: &str) -> &'static str {
    match reason {
        reason::SILENT => "silent",
        reason::CLOCK_UNSURE => "clock-unsure",
        reason::STORE_RESET => "store-reset",
        reason::GAP => "gap",
        reason::UNSURE_OCTETS => "unsure-octets",
        reason::DRIFT => "drift",
        "second-sim" => "sim-conflict",
        "second-serial" | "second-store" | "superseded-epoch" | "too-many-epochs" => "two-devices",
        _ => "suspicious",
    }
}

/// Octets that came late.
fn late_octets(usage: &Usage) -> u64 {
    usage.late.as_ref().map_or(0, |late| late.octets.value())
}

/// Octets that no package covered.
fn owed(moves: &[Move]) -> Octets {
    let owed = moves
        .iter()
        .filter(|movement| matches!(movement.to, Account::Device(_, Slot::Debt)));
    Octets(owed.map(|movement| movement.octets.value()).sum())
}

/// Octets that became used, or debt.
fn charged(moves: &[Move]) -> Octets {
    let charged = moves.iter().filter(|movement| {
        matches!(
            movement.to,
            Account::Package(_, Pocket::Used) | Account::Device(_, Slot::Debt)
        )
    });
    Octets(charged.map(|movement| movement.octets.value()).sum())
}

/// A limit's name on the wire.
#[must_use]
pub const fn limit(limit: Limit) -> &'static str {
    match limit {
        Limit::DeviceDay => "device-day",
        Limit::DeviceMonth => "device-month",
        Limit::Share => "share",
        Limit::PoolDay => "pool-day",
        Limit::PoolMonth => "pool-month",
    }
}

fn left_over(moves: &[Move]) -> Octets {
    let gone = moves.iter().filter(|movement| {
        matches!(
            movement.to,
            Account::Package(_, Pocket::Expired | Pocket::Refunded)
        )
    });
    Octets(gone.map(|movement| movement.octets.value()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_page_lists_what_a_suspicion_is_called() {
        let page = include_str!("../../OPERATIONS.md");
        for reason in [
            reason::SILENT,
            reason::CLOCK_UNSURE,
            reason::STORE_RESET,
            reason::GAP,
            reason::UNSURE_OCTETS,
            reason::DRIFT,
            "second-sim",
            "second-store",
            "damaged-usage",
        ] {
            let row = format!("| `{}` |", suspicion(reason));
            assert!(page.contains(&row), "{row}");
        }
    }
}
