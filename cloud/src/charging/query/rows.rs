//! Rows: what is shown of fleets, devices, packages and plans.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, PackageId};
use simquota_shared::units::{Octets, UnixMillis};

use super::{map, number, optional, text, wide};
use crate::ledger::explain;
use crate::ledger::fleet::Fleet;
use crate::ledger::package::Package;
use crate::ledger::version::Object;
use crate::ledger::{Ledger, Owner, Sim};

/// The most rows of a page.
const LIST_MAX: u64 = 1000;

pub(in crate::charging) fn devices(
    ledger: &Ledger,
    fleet: &FleetId,
    after: Option<&DeviceId>,
    most: Option<u64>,
) -> Value {
    let members = ledger.index.members.get(fleet).into_iter();
    let members = members.flat_map(|members| members.range::<DeviceId, _>(behind(after)));
    let rows = members.map(|id| device(ledger, id, ledger.now));
    Value::Array(rows.take(rows_of(most)).collect())
}

/// How many rows a page has.
fn rows_of(most: Option<u64>) -> usize {
    usize::try_from(most.unwrap_or(LIST_MAX).min(LIST_MAX)).unwrap_or(usize::MAX)
}

/// What a page begins behind.
fn behind<Id>(after: Option<&Id>) -> (Bound<&Id>, Bound<&Id>) {
    (
        after.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    )
}

/// All fleets, a page at a time.
pub(in crate::charging) fn fleets(
    ledger: &Ledger,
    after: Option<&FleetId>,
    most: Option<u64>,
) -> Value {
    let rows = ledger.fleets.range::<FleetId, _>(behind(after)).map(|id| {
        let account = ledger.accounts.get(id);
        let devices = ledger.index.members.get(id).map_or(0, BTreeSet::len);
        map([
            ("fleet", text(id)),
            ("devices", number(devices as u64)),
            (
                "suspended",
                Value::Bool(account.is_some_and(|account| account.suspended)),
            ),
            ("version", version(ledger, Object::Fleet(id.clone()))),
        ])
    });
    Value::Array(rows.take(rows_of(most)).collect())
}

/// The pool of SIMs, bound ones too, a page at a time.
pub(in crate::charging) fn sims(
    ledger: &Ledger,
    after: Option<&Iccid>,
    most: Option<u64>,
) -> Value {
    let rows = ledger.sims.range::<Iccid, _>(behind(after));
    let rows = rows.map(|(iccid, found)| sim_row(iccid, found));
    Value::Array(rows.take(rows_of(most)).collect())
}

pub(in crate::charging) fn sim(ledger: &Ledger, iccid: &Iccid) -> Value {
    let found = ledger.sims.get(iccid);
    found.map_or(Value::Null, |found| sim_row(iccid, found))
}

fn sim_row(iccid: &Iccid, sim: &Sim) -> Value {
    map([
        ("iccid", text(iccid)),
        ("imsi", text(&sim.profile.imsi)),
        ("operator", text(&sim.profile.operator)),
        (
            "zones",
            Value::Array(sim.profile.zones.iter().map(text).collect()),
        ),
        ("apn", text(&sim.profile.apn)),
        ("device", optional(sim.device.as_ref(), text)),
    ])
}

/// What a device is doing, in a word.
pub(in crate::charging) fn device_state(
    ledger: &Ledger,
    id: &DeviceId,
    now: UnixMillis,
) -> Option<&'static str> {
    let found = ledger.devices.get(id)?;
    let axis = found.axis();
    let last = axis.and_then(|axis| axis.last.as_ref());
    let account = ledger.accounts.get(&found.fleet);
    let suspended = found.suspended || account.is_some_and(|fleet| fleet.suspended);
    Some(match (suspended, axis, last) {
        _ if ledger.access.barred.contains_key(id) => "shut-out",
        _ if ledger.estate.retired.contains_key(id) => "decommissioned",
        (true, _, _) => "suspended",
        (false, Some(axis), Some(_)) if axis.open && now < axis.lease_until => "granted",
        (false, _, Some(_)) if found.waits() => "exhausted",
        (false, _, Some(_)) => "closed",
        (false, _, None) => "registered",
    })
}

pub(in crate::charging) fn device(ledger: &Ledger, id: &DeviceId, now: UnixMillis) -> Value {
    let Some(found) = ledger.devices.get(id) else {
        return Value::Null;
    };
    let axis = found.axis();
    let last = axis.and_then(|axis| axis.last.as_ref());
    let account = ledger.accounts.get(&found.fleet);
    let limits = match (account, &found.spent) {
        (Some(fleet), Some(spent)) => fleet
            .limits_of_device(spent)
            .map(|l| limit_row(&l))
            .collect(),
        _ => Vec::new(),
    };
    let state = device_state(ledger, id, now).unwrap_or_default();
    let own = ledger.available(&Owner::Device(id.clone()));
    let pool = ledger.available(&Owner::Pool(found.fleet.clone()));
    map([
        ("device", text(id)),
        ("fleet", text(&found.fleet)),
        ("enrolment", text(&found.enrolment)),
        ("generation", number(found.generation)),
        ("serial", text(&found.serial)),
        ("model", text(&found.model)),
        ("firmware", text(&found.firmware)),
        ("iccid", optional(ledger.sim_of(id), text)),
        (
            "tags",
            Value::Array(
                ledger
                    .estate
                    .tags
                    .get(id)
                    .into_iter()
                    .flatten()
                    .map(text)
                    .collect(),
            ),
        ),
        ("zone", optional(last.map(|last| &last.zone), text)),
        ("replaces", optional(ledger.estate.replaces.get(id), text)),
        ("state", Value::Text(state.to_owned())),
        ("epoch", number(found.epoch.value())),
        ("epochs", number(found.epochs.len() as u64)),
        ("boot", number(found.boot.value())),
        ("mark", number(axis.map_or(0, |axis| axis.mark.value()))),
        ("charged", wide(found.charged())),
        ("declared", wide(found.declared())),
        (
            "charged_epoch",
            number(axis.map_or(0, |axis| axis.charged.value())),
        ),
        (
            "ceiling",
            number(axis.map_or(0, |axis| axis.ceiling.value())),
        ),
        (
            "reserved",
            wide(
                found
                    .epochs
                    .values()
                    .map(crate::ledger::device::Axis::backed)
                    .sum(),
            ),
        ),
        ("debited", number(found.debited.value())),
        ("debt", number(found.debt.value())),
        ("paid", number(found.paid.value())),
        ("available", wide(own)),
        ("pool", wide(pool)),
        (
            "requests",
            number(last.map_or(0, |last| last.number.value())),
        ),
        (
            "code",
            optional(last, |last| number(u64::from(last.code.0))),
        ),
        (
            "valid_until",
            optional(last.and_then(|last| last.valid_until), |at| {
                number(at.value())
            }),
        ),
        (
            "lease_until",
            optional(axis.filter(|axis| axis.has_lease()), |axis| {
                number(axis.lease_until.value())
            }),
        ),
        ("registered", number(found.registered.value())),
        ("limits", Value::Array(limits)),
        (
            "policy",
            optional(found.policy.as_ref(), |policy| number(policy.version)),
        ),
        ("suspicions", suspicions(ledger, id)),
        ("version", version(ledger, Object::Device(id.clone()))),
    ])
}

/// What a command's `expected` is compared with.
fn version(ledger: &Ledger, object: Object) -> Value {
    number(ledger.version(&object).value())
}

/// What called for a look, and when last; the words are in the device's `explain`.
fn suspicions(ledger: &Ledger, id: &DeviceId) -> Value {
    let found = ledger.access.suspected.get(id).into_iter().flatten();
    let rows =
        found.map(|(reason, at)| map([("reason", text(reason)), ("at", number(at.value()))]));
    Value::Array(rows.collect())
}

/// What a device does now, in figures that change.
#[must_use]
pub fn live_device(ledger: &Ledger, id: &DeviceId, now: UnixMillis) -> Value {
    let Some(found) = ledger.devices.get(id) else {
        return Value::Null;
    };
    map([
        ("device", text(id)),
        ("fleet", text(&found.fleet)),
        (
            "state",
            optional(device_state(ledger, id, now), |state| {
                Value::Text(state.to_owned())
            }),
        ),
        ("charged", wide(found.charged())),
        ("remaining", wide(remaining(ledger, id))),
    ])
}

/// Octets reserved for a device, and available in its own packages; the pool is everybody's.
pub(in crate::charging) fn remaining(ledger: &Ledger, id: &DeviceId) -> u128 {
    let axes = ledger.devices.get(id).into_iter();
    let axes = axes.flat_map(|device| device.epochs.values());
    let reserved: u128 = axes.map(crate::ledger::device::Axis::backed).sum();
    let own = ledger.available(&Owner::Device(id.clone()));
    own.saturating_add(reserved)
}

/// A device, and why it is refused now. Finding that out looks at every device of its fleet: not for lists.
pub(in crate::charging) fn device_with_refusal(
    ledger: &Ledger,
    id: &DeviceId,
    now: UnixMillis,
) -> Value {
    let mut row = device(ledger, id, now);
    if let Value::Map(fields) = &mut row {
        let refusal = optional(explain::refusal(ledger, id, now), Value::Text);
        fields.insert(Value::Text("refusal".to_owned()), refusal);
    }
    row
}

fn limit_row(reached: &crate::ledger::fleet::Reached) -> Value {
    map([
        (
            "limit",
            Value::Text(crate::ledger::event::limit(reached.limit).to_owned()),
        ),
        ("used", number(reached.used.value())),
        ("of", number(reached.of.value())),
        ("until", number(reached.until.value())),
    ])
}

/// A fleet's limits, rules and money, and what its packages add up to.
pub(in crate::charging) fn fleet(ledger: &Ledger, id: &FleetId) -> Value {
    let none = Fleet::default();
    let account = ledger.accounts.get(id).unwrap_or(&none);
    let sum = |of: fn(&Package) -> Octets| {
        let own = ledger
            .packages
            .values()
            .filter(|package| package.fleet == *id);
        wide(own.map(|package| u128::from(of(package).value())).sum())
    };
    let debt = ledger
        .index
        .debtors
        .iter()
        .filter(|(fleet, _, _)| fleet == id)
        .filter_map(|(_, _, device)| ledger.devices.get(device))
        .map(|device| u128::from(device.debt.value()))
        .sum();
    let rules = account.rules.iter().map(|(name, rule)| {
        map([
            ("rule", text(name)),
            ("device", optional(rule.top_up.device.as_ref(), text)),
            ("percent", number(rule.top_up.percent)),
            ("volume", number(rule.top_up.volume.value())),
            ("days", optional(rule.top_up.days, number)),
            ("price", number(rule.top_up.price)),
            ("most", number(rule.top_up.most)),
            (
                "times",
                number(if rule.month == account.month.from {
                    rule.times
                } else {
                    0
                }),
            ),
        ])
    });
    let cap = |octets: Option<Octets>| optional(octets, |octets| number(octets.value()));
    let percents = account
        .percents
        .clone()
        .unwrap_or_else(|| crate::ledger::fleet::PERCENTS.to_vec());
    map([
        ("fleet", text(id)),
        ("suspended", Value::Bool(account.suspended)),
        (
            "devices",
            number(ledger.index.members.get(id).map_or(0, BTreeSet::len) as u64),
        ),
        ("available", sum(|package| package.balances.available)),
        ("reserved", sum(|package| package.balances.reserved)),
        ("used", sum(|package| package.balances.used)),
        ("debt", wide(debt)),
        ("place", text(&account.zone)),
        ("device_day", cap(account.device.day)),
        ("device_month", cap(account.device.month)),
        ("pool_day", cap(account.pool.day)),
        ("pool_month", cap(account.pool.month)),
        ("share", cap(account.share)),
        (
            "limits",
            Value::Array(account.limits_of_pool().map(|l| limit_row(&l)).collect()),
        ),
        (
            "percents",
            Value::Array(percents.into_iter().map(number).collect()),
        ),
        ("rules", Value::Array(rules.collect())),
        ("deposited", number(account.purse.deposited)),
        ("balance", number(account.purse.balance)),
        ("spent", number(account.purse.spent)),
        ("withdrawn", number(account.purse.withdrawn)),
        ("version", version(ledger, Object::Fleet(id.clone()))),
    ])
}

pub(in crate::charging) fn plans(
    ledger: &Ledger,
    fleet: &FleetId,
    after: Option<&PackageId>,
    most: Option<u64>,
) -> Value {
    let rows = ledger
        .plans
        .range::<PackageId, _>(behind(after))
        .filter(|(_, plan)| plan.terms.fleet == *fleet)
        .take(rows_of(most))
        .map(|(id, _)| plan(ledger, id))
        .collect();
    Value::Array(rows)
}

pub(in crate::charging) fn plan(ledger: &Ledger, id: &PackageId) -> Value {
    let Some(plan) = ledger.plans.get(id) else {
        return Value::Null;
    };
    let rollover = plan.terms.rollover.as_ref();
    map([
        ("plan", text(id)),
        ("fleet", text(&plan.terms.fleet)),
        ("device", optional(plan.terms.device.as_ref(), text)),
        ("volume", number(plan.terms.volume.value())),
        ("price", number(plan.terms.price)),
        ("period", number(plan.periods)),
        ("package", optional(plan.current.as_ref(), text)),
        ("next", optional(plan.next, |next| number(next.value()))),
        ("place", text(&plan.terms.cadence.zone)),
        (
            "rollover_min",
            optional(rollover, |rollover| number(rollover.min.value())),
        ),
        (
            "rollover_max",
            optional(rollover, |rollover| number(rollover.max.value())),
        ),
        ("version", version(ledger, Object::Plan(id.clone()))),
    ])
}

pub(in crate::charging) fn packages(
    ledger: &Ledger,
    fleet: &FleetId,
    after: Option<&PackageId>,
    most: Option<u64>,
) -> Value {
    let rows = ledger
        .packages
        .range::<PackageId, _>(behind(after))
        .filter(|(_, package)| package.fleet == *fleet)
        .take(rows_of(most))
        .map(|(id, package)| package_row(ledger, id, package))
        .collect();
    Value::Array(rows)
}

pub(in crate::charging) fn package(ledger: &Ledger, id: &PackageId) -> Value {
    ledger
        .packages
        .get(id)
        .map_or(Value::Null, |package| package_row(ledger, id, package))
}

fn package_row(ledger: &Ledger, id: &PackageId, package: &Package) -> Value {
    let state = match (package.ended, package.cancelled) {
        (false, _) => "open",
        (true, false) => "ended",
        (true, true) => "cancelled",
    };
    let balances = &package.balances;
    let terms = package.terms.as_ref();
    map([
        ("package", text(id)),
        ("fleet", text(&package.fleet)),
        ("device", optional(package.device.as_ref(), text)),
        ("state", Value::Text(state.to_owned())),
        (
            "until",
            optional(package.until, |until| number(until.value())),
        ),
        (
            "zones",
            Value::Array(package.zones.iter().map(text).collect()),
        ),
        ("priority", number(package.priority)),
        ("volume", number(balances.volume.value())),
        ("credited", number(balances.credited.value())),
        ("available", number(balances.available.value())),
        ("reserved", number(balances.reserved.value())),
        ("used", number(balances.used.value())),
        ("expired", number(balances.expired.value())),
        ("refunded", number(balances.refunded.value())),
        ("moved_out", number(balances.moved_out.value())),
        ("overage", number(package.overage().value())),
        ("price", number(terms.map_or(0, |terms| terms.price))),
        (
            "from",
            optional(terms.and_then(|terms| terms.from), |from| {
                number(from.value())
            }),
        ),
        (
            "first_use_s",
            optional(terms.and_then(|terms| terms.lasts_s), number),
        ),
        (
            "plan",
            optional(terms.and_then(|terms| terms.plan.as_ref()), text),
        ),
        ("version", version(ledger, Object::Package(id.clone()))),
    ])
}
