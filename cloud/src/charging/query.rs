//! Looking: rows for lists, a device, a package; and what is answered out of the journal.

use std::collections::BTreeSet;

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{CommandId, DeviceId, FleetId, KeyId};
use simquota_shared::units::{EntryNumber, UnixMillis};

use super::command::{Scope, reply_of};
use super::{Outgoing, Seal, encoded};
use crate::ledger::audit::Audit;
use crate::ledger::carrier::BySim;
use crate::ledger::cdr;
use crate::ledger::entry::{Entry, Subject, Window};
use crate::ledger::explain;
use crate::ledger::{Broken, Ledger};

mod bulk;
mod report;
mod rows;

pub(super) use bulk::{bulk, bulks, outcome_row};
pub(super) use report::{By, UsageOf};
pub use rows::live_device;
pub(super) use rows::remaining;
pub(super) use rows::{
    device, device_state, device_with_refusal, devices, fleet, fleets, package, packages, plan,
    plans, sim, sims,
};

/// The most rows of one part of a reply: far below the payload's limit with the longest names.
const ROWS_A_PART: usize = 50;

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
    /// What concerns a device, and why it is refused now.
    Explain {
        /// It, and those that it replaced.
        devices: Vec<DeviceId>,
        since: Option<UnixMillis>,
        refusal: Option<(UnixMillis, String)>,
    },
    /// What concerns a fleet and no device, its managers' commands among it; or the platform, and the admins'.
    Trail {
        of: Subject,
        since: Option<UnixMillis>,
    },
    /// A fleet's packages and devices as they were.
    Balance {
        fleet: FleetId,
        at: UnixMillis,
    },
    /// What a command to many devices came to for each.
    Outcomes {
        fleet: FleetId,
        bulk: CommandId,
        from: EntryNumber,
    },
    /// What devices used by hour or day.
    Usage(UsageOf),
    /// A fleet's accounts over a month.
    Statement {
        fleet: FleetId,
        month: Window,
    },
    /// What a fleet's devices do now: the shell knows when it heard of each.
    Live {
        fleet: FleetId,
        most: usize,
    },
    /// Charging data records.
    Export {
        fleet: FleetId,
        members: BTreeSet<DeviceId>,
        from: EntryNumber,
    },
}

impl Query {
    pub(crate) fn audit(address: Address) -> Self {
        Self {
            address,
            what: What::Audit,
        }
    }

    pub(super) fn explain(
        address: Address,
        devices: Vec<DeviceId>,
        since: Option<UnixMillis>,
        refusal: Option<(UnixMillis, String)>,
    ) -> Self {
        let what = What::Explain {
            devices,
            since,
            refusal,
        };
        Self { address, what }
    }

    pub(super) fn outcomes(
        address: Address,
        fleet: FleetId,
        bulk: CommandId,
        from: EntryNumber,
    ) -> Self {
        let what = What::Outcomes { fleet, bulk, from };
        Self { address, what }
    }

    pub(super) fn usage(address: Address, of: UsageOf) -> Self {
        let what = What::Usage(of);
        Self { address, what }
    }

    pub(super) fn statement(address: Address, fleet: FleetId, month: Window) -> Self {
        let what = What::Statement { fleet, month };
        Self { address, what }
    }

    pub(super) fn trail(address: Address, of: Subject, since: Option<UnixMillis>) -> Self {
        let what = What::Trail { of, since };
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
            What::Export { from, .. } | What::Outcomes { from, .. } => *from,
            What::Audit
            | What::Backup(_)
            | What::BySim
            | What::Explain { .. }
            | What::Trail { .. }
            | What::Usage(_)
            | What::Live { .. }
            | What::Statement { .. }
            | What::Balance { .. } => EntryNumber::ZERO,
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
            _ => None,
        }
    }

    /// Whose devices are asked for, and how many at most, if the question is for what they do now: that is the shell's
    /// to answer too.
    #[must_use]
    pub fn live(&self) -> Option<(&FleetId, usize)> {
        match &self.what {
            What::Live { fleet, most } => Some((fleet, *most)),
            _ => None,
        }
    }

    pub(crate) fn of_live(address: Address, fleet: FleetId, most: usize) -> Self {
        let what = What::Live { fleet, most };
        Self { address, what }
    }

    /// An answer that the shell found.
    ///
    /// # Errors
    /// [`Broken`] when it can't be written.
    pub fn reply(&self, value: Value) -> Result<Vec<Outgoing>, Broken> {
        parts(&self.address, value)
    }

    /// One part of an answer that the shell makes part by part.
    ///
    /// # Errors
    /// [`Broken`] when it can't be written.
    pub fn part(&self, rows: Value, part: u64, last: bool) -> Result<Outgoing, Broken> {
        part_of(&self.address, rows, part, last)
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
            What::BySim => by_sim(entries),
            What::Backup(_) | What::Live { .. } => Value::Null,
            What::Explain {
                devices,
                since,
                refusal,
            } => {
                let about: Vec<Subject> = devices.iter().cloned().map(Subject::Device).collect();
                explained(entries, &about, *since, refusal.as_ref())
            }
            What::Trail { of, since } => explained(entries, std::slice::from_ref(of), *since, None),
            What::Usage(of) => match report::usage(entries, of) {
                Ok(value) => value,
                Err(why) => return failed(&self.address, &why),
            },
            What::Statement { fleet, month } => match report::statement(entries, fleet, month) {
                Ok(value) => value,
                Err(why) => return failed(&self.address, &why),
            },
            What::Outcomes { fleet, bulk, .. } => match bulk::outcomes(entries, fleet, bulk) {
                Ok(value) => value,
                Err(why) => return failed(&self.address, &why),
            },
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
    about: &[Subject],
    since: Option<UnixMillis>,
    refusal: Option<&(UnixMillis, String)>,
) -> Value {
    let mut rows = Vec::new();
    for entry in entries {
        match entry {
            Ok(entry) => {
                if about.contains(&entry.subject) && since.is_none_or(|since| entry.at >= since) {
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
            ("trace", Value::Null),
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
        ("packages", packages(&ledger, fleet_id, None, None)),
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
            part_of(address, chunk, part as u64, last)
        })
        .collect()
}

fn part_of(address: &Address, rows: Value, part: u64, last: bool) -> Result<Outgoing, Broken> {
    let reply = reply_of(address, Code::SUCCESS, part, last, rows, None);
    Ok(Outgoing {
        topic: address.topic(),
        payload: encoded(&reply)?,
        retain: false,
        seal: Seal::Mac(address.kid.clone()),
    })
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
