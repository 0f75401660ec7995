//! Looking: rows for lists, a device, a package; and what is answered out of the journal.

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{CommandId, DeviceId, FleetId, KeyId, PackageId};
use simquota_shared::units::UnixMillis;

use super::command::{Scope, reply_of};
use super::{Outgoing, Seal, encoded};
use crate::ledger::audit::Audit;
use crate::ledger::carrier::BySim;
use crate::ledger::entry::{Entry, Subject};
use crate::ledger::explain;
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
    /// What each SIM used on each day.
    BySim,
    /// The journal is to be written to a file of this name.
    Backup(KeyId),
    Explain {
        device: DeviceId,
        since: Option<UnixMillis>,
    },
}

impl Query {
    pub(super) fn audit(address: Address) -> Self {
        Self {
            address,
            what: What::Audit,
        }
    }

    pub(super) fn explain(address: Address, device: DeviceId, since: Option<UnixMillis>) -> Self {
        Self {
            address,
            what: What::Explain { device, since },
        }
    }

    pub(super) fn by_sim(address: Address) -> Self {
        Self {
            address,
            what: What::BySim,
        }
    }

    pub(super) fn backup(address: Address, name: KeyId) -> Self {
        Self {
            address,
            what: What::Backup(name),
        }
    }

    /// The name of the file that is asked for, if the question is for a backup: that is the shell's to answer.
    #[must_use]
    pub fn backup_name(&self) -> Option<&KeyId> {
        match &self.what {
            What::Backup(name) => Some(name),
            What::Audit | What::BySim | What::Explain { .. } => None,
        }
    }

    /// An answer that the shell found.
    ///
    /// # Errors
    /// [`Broken`] when it can't be written.
    pub fn reply(&self, value: Value) -> Result<Vec<Outgoing>, Broken> {
        parts(&self.address, value)
    }

    /// Answers from the journal's entries, from the first on.
    ///
    /// # Errors
    /// [`Broken`] when an answer can't be written.
    pub fn answer<E: std::fmt::Display>(
        &self,
        entries: impl Iterator<Item = Result<Entry, E>>,
    ) -> Result<Vec<Outgoing>, Broken> {
        let value = match &self.what {
            What::Audit => Audit::run(entries).to_value(),
            What::BySim => by_sim(entries),
            What::Backup(_) => Value::Null,
            What::Explain { device, since } => explained(entries, device, *since),
        };
        parts(&self.address, value)
    }
}

fn explained<E: std::fmt::Display>(
    entries: impl Iterator<Item = Result<Entry, E>>,
    device: &DeviceId,
    since: Option<UnixMillis>,
) -> Value {
    let mut rows = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                let concerns = entry.subject == Subject::Device(device.clone());
                if concerns && since.is_none_or(|since| entry.at >= since) {
                    rows.push(explain::row(&entry));
                }
            }
            Err(error) => {
                rows.push(map([("error", Value::Text(error.to_string()))]));
                break;
            }
        }
    }
    Value::Array(rows)
}

fn by_sim<E: std::fmt::Display>(entries: impl Iterator<Item = Result<Entry, E>>) -> Value {
    let mut sums = BySim::default();
    for entry in entries.map_while(Result::ok) {
        sums.take(&entry);
    }
    let rows = sums.octets.iter().map(|((iccid, day), octets)| {
        map([
            ("iccid", text(iccid)),
            ("day", number(*day)),
            ("octets", wide(*octets)),
        ])
    });
    Value::Array(rows.collect())
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

fn optional<T>(value: Option<T>, show: impl Fn(T) -> Value) -> Value {
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
    let state = match (found.suspended, axis, last) {
        _ if ledger.access.barred.contains_key(id) => "shut-out",
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
        ("enrolment", text(&found.enrolment)),
        ("generation", number(found.generation)),
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
    ])
}
