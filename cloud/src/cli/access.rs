//! Who is let in: people's keys, batches that admit devices, devices that were shut out.

use anyhow::Context as _;
use clap::Subcommand;
use serde_cbor::Value;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{EnrolmentId, FleetId, KeyId, Text};

use super::ask::{Asker, Refused};
use super::device::fleet_of;
use super::{Common, DeviceArgs, print, show};
use crate::charging::value_map;
use crate::io::clock;
use crate::io::roster::{self, Line, role_name};
use crate::ledger::entry::Role;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key for a person: its file is in the data folder, keys/person
    #[command(after_help = "Example: simquota-cloud key create auditor --role viewer --fleet acme")]
    Create {
        /// Its name: a-z, 0-9 and '-'
        name: KeyId,
        /// What its holder may do
        #[arg(long)]
        role: RoleName,
        /// In which fleet; an admin has none
        #[arg(long, required_if_eq_any([("role", "manager"), ("role", "viewer")]))]
        fleet: Option<FleetId>,
    },
    /// List all keys
    List,
    /// Believe a key no longer, from now on
    Revoke {
        /// Which
        name: KeyId,
    },
}

/// A role on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RoleName {
    /// Everything, on the whole platform
    Admin,
    /// Everything in one fleet
    Manager,
    /// Look, in one fleet
    Viewer,
}

fn word(value: &impl ToString) -> Value {
    Value::Text(value.to_string())
}

/// Asks on `ops`, and says what was done.
fn done(
    common: &Common,
    asker: &mut Asker,
    name: &str,
    args: Value,
    said: &str,
) -> anyhow::Result<()> {
    let answer = asker.ask(None, name, args)?;
    tell(common, &answer, said)
}

fn tell(common: &Common, answer: &Value, said: &str) -> anyhow::Result<()> {
    match common.json {
        true => print(&show::json_line(answer))?,
        false => print(&format!("{said}\n"))?,
    }
    Ok(())
}

pub(super) fn key(common: &Common, command: KeyCommand) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    match command {
        KeyCommand::Create {
            name: key,
            role,
            fleet,
        } => {
            let role = match role {
                RoleName::Admin => Role::Admin,
                RoleName::Manager => Role::Manager,
                RoleName::Viewer => Role::Viewer,
            };
            // The file first: an admitted key that nobody has would be of no use.
            if !common.dry_run {
                asker.keys()?.make_person(&key)?;
                let line = Line::Person(key.clone(), role, fleet.clone());
                roster::note(&asker.config.data, &line)?;
            }
            let args = value_map([
                ("key", word(&key)),
                ("role", word(&role_name(role))),
                ("fleet", fleet.as_ref().map_or(Value::Null, word)),
            ]);
            let said = format!("key {key} admitted; its file is keys/person/{key}.1.key");
            done(common, &mut asker, "key-create", args, &said)
        }
        KeyCommand::List => {
            let answer = asker.ask(None, "key-list", value_map([]))?;
            list(common, &answer, ["key", "role", "fleet", "revoked"])
        }
        KeyCommand::Revoke { name: key } => {
            super::confirm(common, &format!("revoking key {key}"))?;
            let args = value_map([("key", word(&key))]);
            let said = format!("key {key} is believed no longer");
            done(common, &mut asker, "key-revoke", args, &said)?;
            gone(&asker, &key)
        }
    }
}

fn gone(asker: &Asker, name: &impl ToString) -> anyhow::Result<()> {
    Ok(roster::note(
        &asker.config.data,
        &Line::Gone(name.to_string()),
    )?)
}

fn list<const N: usize>(common: &Common, answer: &Value, names: [&str; N]) -> anyhow::Result<()> {
    if common.json {
        return Ok(print(&show::json_line(answer))?);
    }
    let Value::Array(rows) = answer else {
        return Ok(());
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| names.iter().map(|name| show::text(row, name)).collect())
        .collect();
    let head = names.map(str::to_uppercase);
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    Ok(print(&show::table(&head, &cells))?)
}

pub(super) fn list_batches(common: &Common) -> anyhow::Result<()> {
    let answer = Asker::open(common)?.ask(None, "enrolment-list", value_map([]))?;
    let names = [
        "enrolment",
        "fleet",
        "devices",
        "devices_max",
        "until",
        "revoked",
    ];
    list(common, &answer, names)
}

/// Until when a batch admits devices; without days: it admits none any more.
pub(super) fn close_batch(
    common: &Common,
    batch: &EnrolmentId,
    days: Option<u64>,
) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let until = match days {
        None => Value::Null,
        Some(days) => {
            let until = days
                .checked_mul(86_400)
                .and_then(|seconds| clock::now().plus_s(seconds))
                .context("so many days are past the end of time: give fewer")?;
            Value::Integer(i128::from(until.value()))
        }
    };
    let args = value_map([("enrolment", word(batch)), ("until", until)]);
    let said = match days {
        None => format!("batch {batch} admits no more devices; those that it has go on"),
        Some(days) => format!("batch {batch} admits devices for {days} days"),
    };
    done(common, &mut asker, "enrolment-close", args, &said)
}

pub(super) fn revoke_batch(common: &Common, batch: &EnrolmentId) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let args = value_map([("enrolment", word(batch))]);
    let said = format!("batch {batch} is revoked: no device under its key is believed any more");
    done(common, &mut asker, "enrolment-revoke", args, &said)?;
    let roster = roster::read(&asker.config.data)?;
    for (device, _) in roster
        .devices
        .iter()
        .filter(|(_, kid)| kid.name == batch.as_str())
    {
        gone(&asker, device)?;
    }
    Ok(())
}

pub(super) fn shut_out(
    common: &Common,
    which: &DeviceArgs,
    why: Option<&str>,
) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let device = &which.device;
    // Nobody may reach the broker with it, even if it never registered.
    gone(&asker, device)?;
    let fleet = fleet_of(&mut asker, which)?;
    let why = why.map_or(Value::Null, |why| {
        Value::Text(Text::clipped(why).to_string())
    });
    let args = value_map([("device", word(device)), ("why", why)]);
    let answer = asker.ask(Some(&fleet), "device-shut-out", args)?;
    let said = format!(
        "device {device} is believed no longer; where `acl` guards the broker, run that again too"
    );
    tell(common, &answer, &said)
}

pub(super) fn readmit(common: &Common, which: &DeviceArgs) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let device = &which.device;
    let fleet = fleet_of(&mut asker, which)?;
    let args = value_map([("device", word(device))]);
    let answer = asker.ask(Some(&fleet), "device-readmit", args)?;
    let row = asker.ask(Some(&fleet), "device-show", super::device::named(device))?;
    let batch: EnrolmentId = show::text(&row, "enrolment").parse().map_err(|_| Refused {
        code: simquota_shared::code::Code::USER_UNKNOWN,
        why: format!("unknown-device: {device} names no batch"),
    })?;
    let line = Line::Device(device.clone(), Kid::first(&batch));
    roster::note(&asker.config.data, &line)?;
    let said =
        format!("device {device} is believed again; next: `simquota-cloud device resume {device}`");
    tell(common, &answer, &said)
}
