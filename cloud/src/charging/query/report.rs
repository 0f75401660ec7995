//! Reports out of the journal: usage by hour or day, and a fleet's statement of a month.

use std::collections::{BTreeMap, BTreeSet};

use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::UnixMillis;

use super::{map, number, text, wide};
use crate::charging::calendar;
use crate::ledger::Ledger;
use crate::ledger::account::{Account, Pocket, Slot};
use crate::ledger::entry::{Cause, Entry, Subject, Window};
use crate::ledger::fleet::Money;

const HOUR_MS: u64 = 3_600_000;
/// Rows of one report; what is older is left out, and the last row says so.
const ROWS_MAX: usize = 20_000;

/// Over how much time usage is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::charging) enum By {
    /// Hours of UTC.
    Hour,
    /// Days of the fleet's place.
    Day,
}

/// Whose usage, from when on, in steps of what.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::charging) struct UsageOf {
    pub(in crate::charging) members: BTreeSet<DeviceId>,
    pub(in crate::charging) since: UnixMillis,
    pub(in crate::charging) by: By,
    /// The place that the days are of.
    pub(in crate::charging) place: String,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    up: u128,
    down: u128,
    paid: u128,
    debt: u128,
}

/// What each device used in each hour or day, by the time at which it was used.
pub(super) fn usage<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    of: &UsageOf,
) -> Result<Value, String> {
    let mut sums: BTreeMap<(UnixMillis, DeviceId), Sums> = BTreeMap::new();
    let mut day: Option<Window> = None;
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        let (Subject::Device(id), Cause::Usage(usage)) = (&entry.subject, &entry.cause) else {
            continue;
        };
        let ended = usage
            .ended_s
            .and_then(|seconds| UnixMillis::ZERO.plus_s(seconds));
        let at = ended.unwrap_or(entry.at);
        if at < of.since || !of.members.contains(id) {
            continue;
        }
        let begin = match of.by {
            By::Hour => UnixMillis(at.value() - at.value() % HOUR_MS),
            By::Day => {
                let within = |day: &&Window| day.from <= at && at < day.to;
                if day.as_ref().filter(within).is_none() {
                    day = calendar::windows(&of.place, at).map(|(day, _)| day);
                }
                day.as_ref().map_or(at, |day| day.from)
            }
        };
        let sum = sums.entry((begin, id.clone())).or_default();
        sum.up += u128::from(usage.up.value());
        sum.down += u128::from(usage.down.value());
        for movement in &entry.moves {
            match &movement.to {
                Account::Package(_, Pocket::Used) => {
                    sum.paid += u128::from(movement.octets.value())
                }
                Account::Device(_, Slot::Debt) => sum.debt += u128::from(movement.octets.value()),
                _ => {}
            }
        }
        if sums.len() > ROWS_MAX {
            sums.pop_first();
        }
    }
    let rows = sums.into_iter().map(|((begin, device), sum)| {
        map([
            ("from", number(begin.value())),
            ("device", text(&device)),
            ("up", wide(sum.up)),
            ("down", wide(sum.down)),
            ("paid", wide(sum.paid)),
            ("debt", wide(sum.debt)),
        ])
    });
    Ok(Value::Array(rows.collect()))
}

/// A fleet's accounts at one moment.
#[derive(Default)]
struct Snapshot {
    bought: u128,
    credited: u128,
    in_hand: u128,
    used: u128,
    expired: u128,
    refunded: u128,
    moved: u128,
    money: Money,
    /// Charged, and unpaid.
    devices: BTreeMap<DeviceId, (u128, u64)>,
}

impl Snapshot {
    fn of(ledger: &Ledger, fleet: &FleetId) -> Self {
        let mut snapshot = Self::default();
        let own = ledger.packages.values();
        for package in own.filter(|package| package.fleet == *fleet) {
            let of = |pocket| u128::from(package.balances.of(pocket).value());
            snapshot.bought += of(Pocket::Volume);
            snapshot.credited += of(Pocket::Credited);
            snapshot.in_hand += of(Pocket::Available) + of(Pocket::Reserved);
            snapshot.used += of(Pocket::Used);
            snapshot.expired += of(Pocket::Expired);
            snapshot.refunded += of(Pocket::Refunded);
            snapshot.moved += of(Pocket::MovedOut);
        }
        if let Some(account) = ledger.accounts.get(fleet) {
            snapshot.money = account.purse;
        }
        for id in ledger.index.members.get(fleet).into_iter().flatten() {
            if let Some(device) = ledger.devices.get(id) {
                let figures = (device.charged(), device.debt.value());
                snapshot.devices.insert(id.clone(), figures);
            }
        }
        snapshot
    }
}

/// What a fleet had, bought, used and has, over a month: the journal up to its end, added up anew.
pub(super) fn statement<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    fleet: &FleetId,
    month: &Window,
) -> Result<Value, String> {
    let mut ledger = Ledger::default();
    let mut before: Option<Snapshot> = None;
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        if entry.at >= month.to {
            break;
        }
        if entry.at >= month.from && before.is_none() {
            before = Some(Snapshot::of(&ledger, fleet));
        }
        ledger
            .apply(&entry)
            .map_err(|broken| format!("entry {}: {broken}", entry.number))?;
    }
    let after = Snapshot::of(&ledger, fleet);
    let before = before.unwrap_or_else(|| Snapshot::of(&ledger, fleet));
    let grown = |of: fn(&Snapshot) -> u128| of(&after).saturating_sub(of(&before));
    let spent = |of: fn(&Money) -> u64| of(&after.money).saturating_sub(of(&before.money));
    // Late octets can lower what had expired: what came in and what went out is the same either way.
    let signed = |octets: u128| i128::try_from(octets).unwrap_or(i128::MAX);
    let expired = signed(after.expired).saturating_sub(signed(before.expired));
    let devices = after.devices.iter().map(|(id, (charged, debt))| {
        let had = before.devices.get(id).map_or(0, |(charged, _)| *charged);
        map([
            ("device", text(id)),
            ("used", wide(charged.saturating_sub(had))),
            ("debt", number(*debt)),
        ])
    });
    Ok(map([
        ("fleet", text(fleet)),
        ("from", number(month.from.value())),
        ("to", number(month.to.value())),
        ("entry", number(ledger.last.value())),
        ("before", wide(before.in_hand)),
        ("bought", wide(grown(|at| at.bought))),
        ("credited", wide(grown(|at| at.credited))),
        ("used", wide(grown(|at| at.used))),
        ("expired", Value::Integer(expired)),
        ("refunded", wide(grown(|at| at.refunded))),
        ("moved", wide(grown(|at| at.moved))),
        ("after", wide(after.in_hand)),
        ("deposited", number(spent(|money| money.deposited))),
        (
            "spent",
            Value::Integer(
                i128::from(after.money.spent).saturating_sub(i128::from(before.money.spent)),
            ),
        ),
        ("withdrawn", number(spent(|money| money.withdrawn))),
        ("balance", number(after.money.balance)),
        ("devices", Value::Array(devices.collect())),
    ]))
}
