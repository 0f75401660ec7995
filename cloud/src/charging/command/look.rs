//! Commands that change nothing: answered from the ledger at once, or out of the journal beside the service.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, KeyId, Text};
use simquota_shared::message::FleetCommand;
use simquota_shared::units::{EntryNumber, UnixMillis};

use super::bulk::BulkOnly;
use super::device::DeviceOnly;
use super::package::PackageOnly;
use super::{CommandError, Scope, arguments, refuse};
use crate::charging::query::{self, Address, By, Query, UsageOf};
use crate::charging::{Turn, calendar};
use crate::ledger::entry::Subject;
use crate::ledger::explain;

/// A page of a list: so many, after this one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page<Id> {
    #[serde(default = "none")]
    after: Option<Id>,
    #[serde(default)]
    most: Option<u64>,
}

fn none<Id>() -> Option<Id> {
    None
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimOnly {
    iccid: Iccid,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    #[serde(default)]
    device: Option<DeviceId>,
    #[serde(default)]
    since: Option<UnixMillis>,
}

/// Devices of one answer about what they do now.
const LIVE_MAX: u64 = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Live {
    most: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Usage {
    #[serde(default)]
    device: Option<DeviceId>,
    #[serde(default)]
    since: UnixMillis,
    by: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Balance {
    at: UnixMillis,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Since {
    #[serde(default)]
    since: Option<UnixMillis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Export {
    #[serde(default)]
    from: EntryNumber,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    name: KeyId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// What a command that only looks returns.
pub(super) enum Looked {
    Value(Value),
    Query(Query),
}

impl Turn<'_> {
    /// `None` when the command is not one that only looks.
    pub(super) fn look(
        &self,
        scope: &Scope,
        address: &Address,
        command: &FleetCommand,
    ) -> Option<Result<Looked, CommandError>> {
        if let Some(found) = self.look_access(scope, command) {
            return Some(found.map(Looked::Value));
        }
        let fleet = match scope {
            Scope::Ops if command.name.as_str() == "backup" => {
                return Some(
                    arguments(&command.args)
                        .map(|Backup { name }| Looked::Query(Query::backup(address.clone(), name))),
                );
            }
            Scope::Ops if command.name.as_str() == "usage-by-sim" => {
                return Some(
                    arguments::<Nothing>(&command.args)
                        .map(|Nothing {}| Looked::Query(Query::by_sim(address.clone()))),
                );
            }
            Scope::Ops if command.name.as_str() == "explain" => {
                return Some(arguments(&command.args).map(|Since { since }| {
                    Looked::Query(Query::trail(address.clone(), Subject::Platform, since))
                }));
            }
            Scope::Ops if command.name.as_str() == "audit" => {
                return Some(
                    arguments::<Nothing>(&command.args)
                        .map(|Nothing {}| Looked::Query(Query::audit(address.clone()))),
                );
            }
            Scope::Ops => {
                return self
                    .look_at_estate(command)
                    .map(|rows| rows.map(Looked::Value));
            }
            Scope::Fleet(fleet) => fleet,
        };
        let known = match command.name.as_str() {
            "device-list" | "package-list" | "plan-list" | "device-show" | "fleet-show"
            | "package-show" | "explain" | "balance" | "export" | "usage" | "statement"
            | "device-live" | "bulk-list" | "bulk-show" | "bulk-outcomes" => {
                self.known_fleet(fleet)
            }
            _ => return None,
        };
        Some(known.and_then(|()| self.look_at(fleet, address, command)))
    }

    fn look_at(
        &self,
        fleet: &FleetId,
        address: &Address,
        command: &FleetCommand,
    ) -> Result<Looked, CommandError> {
        let args = &command.args;
        let ledger = &*self.ledger;
        Ok(match command.name.as_str() {
            "device-list" => {
                let Page { after, most } = arguments(args)?;
                Looked::Value(query::devices(ledger, fleet, after.as_ref(), most))
            }
            "package-list" => {
                let Page { after, most } = arguments(args)?;
                Looked::Value(query::packages(ledger, fleet, after.as_ref(), most))
            }
            "package-show" => {
                let PackageOnly { package } = arguments(args)?;
                match ledger.packages.get(&package) {
                    Some(found) if found.fleet == *fleet => {
                        Looked::Value(query::package(ledger, &package))
                    }
                    _ => {
                        let words = format!("fleet {fleet} has no package {package}");
                        return refuse(Code::USER_UNKNOWN, "unknown-package", words);
                    }
                }
            }
            "plan-list" => {
                let Page { after, most } = arguments(args)?;
                Looked::Value(query::plans(ledger, fleet, after.as_ref(), most))
            }
            "fleet-show" => {
                let Nothing {} = arguments(args)?;
                Looked::Value(query::fleet(ledger, fleet))
            }
            "device-show" => {
                let DeviceOnly { device } = arguments(args)?;
                let device = self.own_device(fleet, &device)?;
                Looked::Value(query::device_with_refusal(ledger, &device, self.now))
            }
            "explain" => {
                let Explain { device, since } = arguments(args)?;
                let Some(device) = device else {
                    return Ok(Looked::Query(Query::trail(
                        address.clone(),
                        Subject::Fleet(fleet.clone()),
                        since,
                    )));
                };
                let device = self.own_device(fleet, &device)?;
                let refusal = explain::refusal(ledger, &device, self.now);
                let refusal = refusal.map(|words| (self.now, words));
                let mut devices = ledger.predecessors(&device);
                devices.insert(0, device);
                Looked::Query(Query::explain(address.clone(), devices, since, refusal))
            }
            "device-live" => {
                let Live { most } = arguments(args)?;
                let most = usize::try_from(most.min(LIVE_MAX)).unwrap_or(usize::MAX);
                Looked::Query(Query::of_live(address.clone(), fleet.clone(), most))
            }
            "usage" => {
                let Usage { device, since, by } = arguments(args)?;
                let by = match by.as_str() {
                    "hour" => By::Hour,
                    "day" => By::Day,
                    _ => return refuse(Code::RATING_FAILED, "bad-step", "'by' is hour or day"),
                };
                let members = match device {
                    Some(device) => [self.own_device(fleet, &device)?].into(),
                    None => ledger.index.members.get(fleet).cloned().unwrap_or_default(),
                };
                let of = UsageOf {
                    members,
                    since,
                    by,
                    place: self.place_of(fleet),
                };
                Looked::Query(Query::usage(address.clone(), of))
            }
            "statement" => {
                let Balance { at } = arguments(args)?;
                let Some((_, month)) = calendar::windows(&self.place_of(fleet), at) else {
                    let words = "'at' is in no month";
                    return refuse(Code::RATING_FAILED, "bad-time", words);
                };
                Looked::Query(Query::statement(address.clone(), fleet.clone(), month))
            }
            "bulk-list" => {
                let Nothing {} = arguments(args)?;
                Looked::Value(query::bulks(ledger, fleet))
            }
            "bulk-show" | "bulk-outcomes" => {
                let BulkOnly { bulk } = arguments(args)?;
                let Some(found) = ledger.estate.bulks.get(&(fleet.clone(), bulk.clone())) else {
                    let words = format!("fleet {fleet} has no bulk command {bulk}");
                    return refuse(Code::USER_UNKNOWN, "unknown-bulk", words);
                };
                if command.name.as_str() == "bulk-show" {
                    return Ok(Looked::Value(query::bulk(ledger, fleet, &bulk)));
                }
                let (address, from) = (address.clone(), found.began);
                Looked::Query(Query::outcomes(address, fleet.clone(), bulk, from))
            }
            "balance" => {
                let Balance { at } = arguments(args)?;
                Looked::Query(Query::balance(address.clone(), fleet.clone(), at))
            }
            _ => {
                let Export { from } = arguments(args)?;
                let members = ledger.index.members.get(fleet);
                Looked::Query(Query::export(
                    address.clone(),
                    fleet.clone(),
                    members.cloned().unwrap_or_default(),
                    from,
                ))
            }
        })
    }

    /// Fleets and the pool of SIMs; `None` for another command.
    fn look_at_estate(&self, command: &FleetCommand) -> Option<Result<Value, CommandError>> {
        let (ledger, args) = (&*self.ledger, &command.args);
        Some(match command.name.as_str() {
            "fleet-list" => arguments(args)
                .map(|Page { after, most }| query::fleets(ledger, after.as_ref(), most)),
            "sim-list" => arguments(args)
                .map(|Page { after, most }| query::sims(ledger, after.as_ref(), most)),
            "sim-show" => {
                arguments(args).and_then(|SimOnly { iccid }| match query::sim(ledger, &iccid) {
                    Value::Null => {
                        let words = format!("there is no SIM {iccid} in the pool");
                        refuse(Code::USER_UNKNOWN, "unknown-sim", words)
                    }
                    row => Ok(row),
                })
            }
            _ => return None,
        })
    }

    /// The place that a fleet's days and months are of.
    fn place_of(&self, fleet: &FleetId) -> String {
        let account = self.ledger.accounts.get(fleet);
        let place = account.map(|account| account.zone.to_string());
        place
            .filter(|place| !place.is_empty())
            .unwrap_or_else(|| "UTC".to_owned())
    }
}
