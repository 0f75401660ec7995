//! One command to many devices: a list, or all that a selection finds when the command comes.
//!
//! The command and how far it is are in the ledger. Each commit holds what was done to the next devices and the new
//! position, so that after a crash it goes on where it was, and no device is left out or done twice. What is done for
//! the n-th device has the id `{id}-{n}`.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{CommandId, DeviceId, FleetId, ID_MAX, Text};
use simquota_shared::message::FleetCommand;
use simquota_shared::message::ops::Blob;
use simquota_shared::units::Octets;

use super::{Change, CommandError, Scope, arguments, refuse};
use crate::charging::{Turn, encoded, query};
use crate::ledger::Broken;
use crate::ledger::entry::{BulkBegan, BulkPart, BulkWent, Cause, Subject};
use crate::ledger::estate::Bulk;

/// Devices of one bulk command: its first entry names them all.
const DEVICES_MAX: usize = 20_000;
/// Devices of one commit: what they cause stays far below a batch of messages, which waits meanwhile.
const STEP: usize = 100;
/// What is left of a command's id for the number of a device.
const NUMBER_MAX: usize = 7;
/// What can be commanded to many.
const NAMES: [&str; 13] = [
    "device-suspend",
    "device-resume",
    "device-revoke",
    "device-report",
    "device-reauthorise",
    "device-rotate-key",
    "device-limits",
    "device-policy",
    "device-tag",
    "device-shut-out",
    "device-release-sim",
    "device-decommission",
    "package-buy",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    command: Text,
    #[serde(default)]
    args: Option<Value>,
    #[serde(default)]
    devices: Vec<DeviceId>,
    #[serde(default)]
    select: Option<Selection>,
}

/// Which devices: those for which all that is given is true. Devices that serve no more are never among them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    #[serde(default)]
    all: bool,
    #[serde(default)]
    tag: Option<Text>,
    #[serde(default)]
    zone: Option<Text>,
    #[serde(default)]
    model: Option<Text>,
    #[serde(default)]
    state: Option<Text>,
    /// Reserved for it, and available in its own packages; the pool is everybody's.
    #[serde(default)]
    below: Option<Octets>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BulkOnly {
    pub(super) bulk: CommandId,
}

impl Turn<'_> {
    pub(super) fn prepare_bulk(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let Arguments {
            command: name,
            args,
            devices,
            select,
        } = arguments(&command.args)?;
        if !NAMES.contains(&name.as_str()) {
            return refuse(
                Code::RATING_FAILED,
                "not-for-many",
                format!("'{name}' is not for many devices: {}", NAMES.join(", ")),
            );
        }
        if command.id.as_str().len() > ID_MAX - NUMBER_MAX {
            let most = ID_MAX - NUMBER_MAX;
            let words = format!("the id of a bulk command has at most {most} characters");
            return refuse(Code::RATING_FAILED, "long-id", words);
        }
        let args = args.unwrap_or_else(|| query::map([]));
        let Value::Map(given) = &args else {
            return refuse(Code::RATING_FAILED, "bad-arguments", "'args' is a map");
        };
        for taken in ["device", "package"] {
            if given.contains_key(&Value::Text(taken.to_owned())) {
                let words = format!("'{taken}' can't be the same for all");
                return refuse(Code::RATING_FAILED, "bad-arguments", words);
            }
        }
        let devices = match (select, devices.is_empty()) {
            (Some(select), true) => self.selected(fleet, &select)?,
            (None, false) => {
                let once: std::collections::BTreeSet<DeviceId> = devices.into_iter().collect();
                once.into_iter().collect()
            }
            _ => {
                let words = "give 'devices' or 'select', one of them";
                return refuse(Code::RATING_FAILED, "bad-arguments", words);
            }
        };
        if devices.len() > DEVICES_MAX {
            return refuse(
                Code::RATING_FAILED,
                "too-many-devices",
                format!(
                    "{} devices, one command is for at most {DEVICES_MAX}: select fewer",
                    devices.len()
                ),
            );
        }
        // What is wrong for every device is said at once.
        if let Some(first) = devices.first() {
            let part = part_of(&command.id, 1, (&name, &args), first, self)?;
            if let Err(error) = self.prepare(&Scope::Fleet(fleet.clone()), &part)
                && error.name == "bad-arguments"
            {
                return Err(error);
            }
        }
        let Ok(args) = encoded(&args) else {
            return refuse(Code::RATING_FAILED, "bad-arguments", "they have no form");
        };
        Ok(Change::Bulk(fleet.clone(), name, args, devices))
    }

    fn selected(&self, fleet: &FleetId, select: &Selection) -> Result<Vec<DeviceId>, CommandError> {
        let Selection {
            all,
            tag,
            zone,
            model,
            state,
            below,
        } = select;
        let narrowed = tag.is_some()
            || zone.is_some()
            || model.is_some()
            || state.is_some()
            || below.is_some();
        if *all == narrowed {
            return refuse(
                Code::RATING_FAILED,
                "bad-selection",
                "give tag, zone, model, state or below, or nothing but all = true",
            );
        }
        let ledger = &*self.ledger;
        let fits = |id: &&DeviceId| {
            let Some(device) = ledger.devices.get(*id) else {
                return false;
            };
            let tags = ledger.estate.tags.get(*id);
            let last = device.axis().and_then(|axis| axis.last.as_ref());
            !ledger.estate.retired.contains_key(*id)
                && tag
                    .as_ref()
                    .is_none_or(|tag| tags.is_some_and(|tags| tags.contains(tag)))
                && zone
                    .as_ref()
                    .is_none_or(|zone| last.is_some_and(|last| last.zone.as_str() == zone.as_str()))
                && model.as_ref().is_none_or(|model| device.model == *model)
                && state.as_ref().is_none_or(|state| {
                    query::device_state(ledger, id, self.now) == Some(state.as_str())
                })
                && below
                    .is_none_or(|below| query::remaining(ledger, id) < u128::from(below.value()))
        };
        let members = ledger.index.members.get(fleet).into_iter().flatten();
        Ok(members.filter(fits).cloned().collect())
    }

    /// What a bulk command would come to for each device: nothing is done.
    pub(super) fn dry_bulk(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
        name: &Text,
        args: &[u8],
        devices: &[DeviceId],
    ) -> Value {
        let args = serde_cbor::from_slice(args).unwrap_or(Value::Null);
        let rows = (1_u64..).zip(devices).map(|(n, device)| {
            let outcome = part_of(&command.id, n, (name, &args), device, self)
                .and_then(|part| self.prepare(&Scope::Fleet(fleet.clone()), &part))
                .map(|_| ());
            query::outcome_row(&outcome_of(device, outcome))
        });
        Value::Array(rows.collect())
    }

    pub(super) fn perform_bulk(
        &mut self,
        fleet: &FleetId,
        (id, author): (CommandId, simquota_shared::ids::KeyId),
        name: Text,
        args: Vec<u8>,
        devices: Vec<DeviceId>,
    ) -> Result<Value, Broken> {
        let cause = Cause::BulkBegan(BulkBegan {
            bulk: id.clone(),
            author,
            name,
            args: Blob(args),
            devices,
        });
        self.record(Subject::Fleet(fleet.clone()), cause, Vec::new())?;
        Ok(query::bulk(self.ledger, fleet, &id))
    }

    /// Goes on with one bulk command. True when more is to be done.
    pub(in crate::charging) fn go_on_with_bulks(&mut self) -> Result<bool, Broken> {
        let Some((fleet, id)) = self.ledger.index.bulks.first().cloned() else {
            return Ok(false);
        };
        let Some(bulk) = self.ledger.estate.bulks.get(&(fleet.clone(), id.clone())) else {
            return Ok(false);
        };
        let Bulk {
            author,
            name,
            args,
            done,
            of,
            ..
        } = bulk.clone();
        let next = bulk.next(STEP);
        let args: Value = serde_cbor::from_slice(&args).unwrap_or(Value::Null);
        let mut parts = Vec::with_capacity(next.len());
        for (device, before) in next.iter().zip(done..) {
            // A key that was revoked meanwhile does nothing more.
            let outcome = if self.ledger.access.keys.contains(&author) {
                refuse(
                    Code::SERVICE_DENIED,
                    "revoked-key",
                    format!("key {author} was revoked"),
                )
            } else {
                part_of(&id, before.saturating_add(1), (&name, &args), device, self)
                    .and_then(|part| self.prepare(&Scope::Fleet(fleet.clone()), &part))
            };
            let outcome = match outcome {
                Ok(change) => {
                    self.perform(change)?;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            parts.push(outcome_of(device, outcome));
        }
        let cause = Cause::BulkWent(BulkWent {
            bulk: id,
            before: done,
            of,
            parts,
        });
        self.record(Subject::Fleet(fleet), cause, Vec::new())?;
        Ok(!self.ledger.index.bulks.is_empty())
    }
}

fn outcome_of(device: &DeviceId, outcome: Result<(), CommandError>) -> BulkPart {
    BulkPart {
        device: device.clone(),
        code: outcome.as_ref().err().map_or(Code::SUCCESS, |e| e.code),
        why: outcome.err().map(|error| Text::clipped(&error.to_string())),
    }
}

/// The command for one device.
fn part_of(
    bulk: &CommandId,
    number: u64,
    (name, args): (&Text, &Value),
    device: &DeviceId,
    turn: &Turn<'_>,
) -> Result<FleetCommand, CommandError> {
    let Ok(id) = format!("{bulk}-{number}").parse() else {
        return refuse(
            Code::RATING_FAILED,
            "long-id",
            "the command's id is too long",
        );
    };
    let mut args = args.clone();
    if let Value::Map(map) = &mut args {
        map.insert(Value::Text("device".to_owned()), query::text(device));
    }
    Ok(FleetCommand {
        id,
        expires: turn.now,
        expected: None,
        dry: false,
        name: name.clone(),
        args,
    })
}
