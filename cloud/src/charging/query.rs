//! Looking: rows for lists, a device, a package; and what is answered out of the journal.

use std::collections::BTreeSet;

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{CommandId, DeviceId, FleetId, KeyId, PackageId};
use simquota_shared::units::{EntryNumber, Octets, UnixMillis};

use super::command::{Scope, reply_of};
use super::{Outgoing, Seal, encoded};
use crate::ledger::audit::Audit;
use crate::ledger::cdr;
use crate::ledger::entry::{Entry, Subject};
use crate::ledger::explain;
use crate::ledger::fleet::Fleet;
use crate::ledger::package::Package;
use crate::ledger::{Broken, Ledger, Owner};

/// The most rows of one part of a reply: far below the payload's limit with the longest names.
const ROWS_A_PART: usize = 50;
/// The most rows of a list without paging.
const LIST_MAX: u64 = 1000;

/// To whom an answer goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// On which topic the question came.
    pub scope: Scope,
    /// Who asked.
    pub author: KeyId,
    /// Under which key.
    pub kid: Kid,
    /// The command's id.
    pub id: CommandId,
}

/// A question that is answered out of the journal, beside the running service.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    address: Address,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    Audit,
    /// What concerns a device, and why it is refused now.
    Explain {
        device: DeviceId,
        since: Option<UnixMillis>,
        refusal: Option<(UnixMillis, String)>,
    },
    /// What concerns a fleet and no device, its managers' commands among it.
    Trail {
        fleet: FleetId,
        since: Option<UnixMillis>,
    },
    /// A fleet's packages and devices as they were.
    Balance {
        fleet: FleetId,
        at: UnixMillis,
    },
    /// Charging data records.
    Export {
        fleet: FleetId,
        members: BTreeSet<DeviceId>,
        from: EntryNumber,
    },
}

impl Query {
    pub(super) fn audit(address: Address) -> Self {
        Self {
            address,
            what: What::Audit,
        }
    }

    pub(super) fn explain(
        address: Address,
        device: DeviceId,
        since: Option<UnixMillis>,
        refusal: Option<(UnixMillis, String)>,
    ) -> Self {
        let what = What::Explain {
            device,
            since,
            refusal,
        };
        Self { address, what }
    }

    pub(super) fn trail(address: Address, fleet: FleetId, since: Option<UnixMillis>) -> Self {
        let what = What::Trail { fleet, since };
        Self { address, what }
    }

    pub(super) fn balance(address: Address, fleet: FleetId, at: UnixMillis) -> Self {
        let what = What::Balance { fleet, at };
        Self { address, what }
    }

    pub(super) fn export(
        address: Address,
        fleet: FleetId,
        members: BTreeSet<DeviceId>,
        from: EntryNumber,
    ) -> Self {
        let what = What::Export {
            fleet,
            members,
            from,
        };
        Self { address, what }
    }

    /// The first entry that the answer needs.
    #[must_use]
    pub fn from(&self) -> EntryNumber {
        match &self.what {
            What::Export { from, .. } => *from,
            What::Audit | What::Explain { .. } | What::Trail { .. } | What::Balance { .. } => {
                EntryNumber::ZERO
            }
        }
    }

    /// Answers from the journal's entries, from [`Query::from`] on.
    ///
    /// # Errors
    /// [`Broken`] when an answer can't be written.
    pub fn answer<E: std::fmt::Display>(
        &self,
        entries: impl Iterator<Item = Result<Entry, E>>,
    ) -> Result<Vec<Outgoing>, Broken> {
        let value = match &self.what {
            What::Audit => Audit::run(entries).to_value(),
            What::Explain {
                device,
                since,
                refusal,
            } => {
                let about = Subject::Device(device.clone());
                explained(entries, &about, *since, refusal.as_ref())
            }
            What::Trail { fleet, since } => {
                explained(entries, &Subject::Fleet(fleet.clone()), *since, None)
            }
            What::Balance { fleet, at } => match balance(entries, fleet, *at) {
                Ok(value) => value,
                Err(why) => return failed(&self.address, &why),
            },
            What::Export { fleet, members, .. } => match exported(entries, fleet, members) {
                Ok(value) => value,
                Err(why) => return failed(&self.address, &why),
            },
        };
        parts(&self.address, value)
    }
}

fn explained<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    about: &Subject,
    since: Option<UnixMillis>,
    refusal: Option<&(UnixMillis, String)>,
) -> Value {
    let mut rows = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                if entry.subject == *about && since.is_none_or(|since| entry.at >= since) {
                    rows.push(explain::row(&entry));
                }
            }
            Err(error) => {
                rows.push(map([("error", Value::Text(error.to_string()))]));
                break;
            }
        }
    }
    if let Some((at, words)) = refusal {
        rows.push(map([
            ("entry", Value::Null),
            ("at", number(at.value())),
            ("steps", Value::Text(String::new())),
            ("cause", Value::Text("Refusal".to_owned())),
            ("words", Value::Text(format!("refused now: {words}"))),
            ("moves", Value::Array(Vec::new())),
        ]));
    }
    Value::Array(rows)
}

/// A fleet's packages, devices and money as they were at a time: the journal up to there, added up anew.
fn balance<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    fleet_id: &FleetId,
    at: UnixMillis,
) -> Result<Value, String> {
    let mut ledger = Ledger::default();
    for entry in entries {
        let entry = entry.map_err(|error| error.to_string())?;
        if entry.at > at {
            break;
        }
        ledger
            .apply(&entry)
            .map_err(|broken| format!("entry {}: {broken}", entry.number))?;
    }
    Ok(map([
        ("entry", number(ledger.last.value())),
        ("at", number(ledger.now.value())),
        ("fleet", fleet(&ledger, fleet_id)),
        ("packages", packages(&ledger, fleet_id)),
        ("devices", devices(&ledger, fleet_id, None, None)),
    ]))
}

/// Records of one answer, and entries that are looked at for it: the asker goes on where it ends.
const EXPORT_ROWS: usize = 2000;
const EXPORT_ENTRIES: u64 = 200_000;

fn exported<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    fleet: &FleetId,
    members: &BTreeSet<DeviceId>,
) -> Result<Value, String> {
    let fleet_of = |id: &DeviceId| members.contains(id).then(|| fleet.clone());
    let mut rows: Vec<Value> = Vec::new();
    let mut next = None;
    for (seen, entry) in (1_u64..).zip(entries) {
        let entry = entry.map_err(|error| error.to_string())?;
        let own = match &entry.subject {
            Subject::Device(id) => members.contains(id),
            Subject::Fleet(id) => id == fleet,
            Subject::Platform => false,
        };
        if own {
            rows.extend(cdr::rows(&entry, fleet_of));
        }
        if rows.len() >= EXPORT_ROWS || seen >= EXPORT_ENTRIES {
            next = entry.number.next();
            break;
        }
    }
    // Last, and not a record: where the next answer begins; none when nothing follows.
    rows.push(map([("next", optional(next, |next| number(next.value())))]));
    Ok(Value::Array(rows))
}

fn failed(address: &Address, why: &str) -> Result<Vec<Outgoing>, Broken> {
    let reply = reply_of(
        address,
        Code::INVALID_VALUE,
        0,
        true,
        Value::Null,
        Some(&format!("damaged-journal: {why}")),
    );
    Ok(vec![Outgoing {
        topic: address.topic(),
        payload: encoded(&reply)?,
        retain: false,
        seal: Seal::Mac(address.kid.clone()),
    }])
}

/// Splits a list over as many parts as it needs.
pub(super) fn parts(address: &Address, value: Value) -> Result<Vec<Outgoing>, Broken> {
    let chunks: Vec<Value> = match value {
        Value::Array(rows) if rows.len() > ROWS_A_PART => rows
            .chunks(ROWS_A_PART)
            .map(|chunk| Value::Array(chunk.to_vec()))
            .collect(),
        other => vec![other],
    };
    let count = chunks.len();
    chunks
        .into_iter()
        .enumerate()
        .map(|(part, chunk)| {
            let last = part + 1 == count;
            let reply = reply_of(address, Code::SUCCESS, part as u64, last, chunk, None);
            Ok(Outgoing {
                topic: address.topic(),
                payload: encoded(&reply)?,
                retain: false,
                seal: Seal::Mac(address.kid.clone()),
            })
        })
        .collect()
}

/// A map with text keys.
pub(crate) fn map<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Map(
        pairs
            .into_iter()
            .map(|(key, value)| (Value::Text(key.to_owned()), value))
            .collect(),
    )
}

pub(crate) fn text(value: &impl std::fmt::Display) -> Value {
    Value::Text(value.to_string())
}

pub(crate) fn number(value: u64) -> Value {
    Value::Integer(i128::from(value))
}

fn wide(value: u128) -> Value {
    // A sum of many packages may pass 64 bits; what is shown then is "at least this".
    Value::Integer(i128::from(u64::try_from(value).unwrap_or(u64::MAX)))
}

pub(crate) fn optional<T>(value: Option<T>, show: impl Fn(T) -> Value) -> Value {
    value.map_or(Value::Null, show)
}

pub(super) fn devices(
    ledger: &Ledger,
    fleet: &FleetId,
    after: Option<&DeviceId>,
    most: Option<u64>,
) -> Value {
    let most = usize::try_from(most.unwrap_or(LIST_MAX).min(LIST_MAX)).unwrap_or(usize::MAX);
    let rows = ledger
        .index
        .members
        .get(fleet)
        .into_iter()
        .flatten()
        .filter(|id| after.is_none_or(|after| *id > after))
        .take(most)
        .map(|id| device(ledger, id, ledger.now))
        .collect();
    Value::Array(rows)
}

pub(super) fn device(ledger: &Ledger, id: &DeviceId, now: UnixMillis) -> Value {
    let Some(found) = ledger.devices.get(id) else {
        return Value::Null;
    };
    let axis = found.axis();
    let last = axis.and_then(|axis| axis.last.as_ref());
    let account = ledger.accounts.get(&found.fleet);
    let suspended = found.suspended || account.is_some_and(|fleet| fleet.suspended);
    let limits = match (account, &found.spent) {
        (Some(fleet), Some(spent)) => fleet
            .limits_of_device(spent)
            .map(|l| limit_row(&l))
            .collect(),
        _ => Vec::new(),
    };
    let state = match (suspended, axis, last) {
        (true, _, _) => "suspended",
        (false, Some(axis), Some(_)) if axis.open && now < axis.lease_until => "granted",
        (false, _, Some(_)) if found.waits() => "exhausted",
        (false, _, Some(_)) => "closed",
        (false, _, None) => "registered",
    };
    let own = ledger.available(&Owner::Device(id.clone()));
    let pool = ledger.available(&Owner::Pool(found.fleet.clone()));
    map([
        ("device", text(id)),
        ("fleet", text(&found.fleet)),
        ("serial", text(&found.serial)),
        ("model", text(&found.model)),
        ("firmware", text(&found.firmware)),
        ("iccid", text(&found.iccid)),
        ("state", Value::Text(state.to_owned())),
        ("epoch", number(found.epoch.value())),
        ("epochs", number(found.epochs.len() as u64)),
        ("boot", number(found.boot.value())),
        ("mark", number(axis.map_or(0, |axis| axis.mark.value()))),
        ("charged", wide(found.charged())),
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
    ])
}

/// A device, and why it is refused now. Finding that out looks at every device of its fleet: not for lists.
pub(super) fn device_with_refusal(ledger: &Ledger, id: &DeviceId, now: UnixMillis) -> Value {
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
pub(super) fn fleet(ledger: &Ledger, id: &FleetId) -> Value {
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
    ])
}

pub(super) fn plans(ledger: &Ledger, fleet: &FleetId) -> Value {
    let rows = ledger
        .plans
        .iter()
        .filter(|(_, plan)| plan.terms.fleet == *fleet)
        .take(usize::try_from(LIST_MAX).unwrap_or(usize::MAX))
        .map(|(id, _)| plan(ledger, id))
        .collect();
    Value::Array(rows)
}

pub(super) fn plan(ledger: &Ledger, id: &PackageId) -> Value {
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
    ])
}

pub(super) fn packages(ledger: &Ledger, fleet: &FleetId) -> Value {
    let rows = ledger
        .packages
        .iter()
        .filter(|(_, package)| package.fleet == *fleet)
        .take(usize::try_from(LIST_MAX).unwrap_or(usize::MAX))
        .map(|(id, package)| package_row(id, package))
        .collect();
    Value::Array(rows)
}

pub(super) fn package(ledger: &Ledger, id: &PackageId) -> Value {
    ledger
        .packages
        .get(id)
        .map_or(Value::Null, |package| package_row(id, package))
}

fn package_row(id: &PackageId, package: &Package) -> Value {
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
    ])
}
