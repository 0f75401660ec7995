//! Devices.

use anyhow::bail;
use clap::Args;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::Octets;

use super::ask::{Asker, Refused};
use super::package::{count, with};
use super::{Common, DeviceArgs, amount, print, show};
use crate::charging::value_map;

/// Rows of one question; the service has the same bound.
const ROWS: usize = 1000;

pub(super) fn named(device: &DeviceId) -> Value {
    value_map([("device", Value::Text(device.to_string()))])
}

/// The fleet of a device, of those whose manager's key is here.
pub(super) fn find_fleet(asker: &mut Asker, device: &DeviceId) -> anyhow::Result<FleetId> {
    let fleets = asker.fleets();
    if let [only] = fleets.as_slice() {
        return Ok(only.clone());
    }
    for fleet in &fleets {
        match asker.ask(Some(fleet), "device-show", named(device)) {
            Ok(_) => return Ok(fleet.clone()),
            Err(error) => match error.downcast_ref::<Refused>() {
                Some(refused) if refused.code == Code::USER_UNKNOWN => {}
                _ => return Err(error),
            },
        }
    }
    let names: Vec<&str> = fleets.iter().map(FleetId::as_str).collect();
    if names.is_empty() {
        bail!("no fleet's key is in the data folder: name the fleet of {device} with --fleet");
    }
    Err(Refused {
        code: Code::USER_UNKNOWN,
        why: format!(
            "unknown-device: no device {device} in {}: name its fleet with --fleet",
            names.join(", ")
        ),
    }
    .into())
}

pub(super) fn fleet_of(asker: &mut Asker, which: &DeviceArgs) -> anyhow::Result<FleetId> {
    match &which.fleet {
        Some(fleet) => Ok(fleet.clone()),
        None => find_fleet(asker, &which.device),
    }
}

pub(super) fn list(common: &Common, fleet: Option<&FleetId>) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleets = fleet.map_or_else(|| asker.fleets(), |fleet| vec![fleet.clone()]);
    let mut rows = Vec::new();
    for fleet in &fleets {
        rows.extend(pages(&mut asker, Some(fleet), "device")?);
    }
    if common.json {
        return Ok(print(&show::json_line(&Value::Array(rows)))?);
    }
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                show::text(row, "device"),
                show::text(row, "fleet"),
                show::text(row, "state"),
                show::text(row, "iccid"),
                show::octets(row, "charged"),
                show::octets(row, "reserved"),
                show::octets(row, "available"),
                show::octets(row, "pool"),
                show::octets(row, "debt"),
            ]
        })
        .collect();
    let head = [
        "DEVICE",
        "FLEET",
        "STATE",
        "SIM",
        ">CHARGED",
        ">RESERVED",
        ">OWN",
        ">POOL",
        ">DEBT",
    ];
    Ok(print(&show::table(&head, &cells))?)
}

/// All rows of a list, page by page. `of` is what is listed: its name is in each row.
pub(super) fn pages(
    asker: &mut Asker,
    fleet: Option<&FleetId>,
    of: &str,
) -> anyhow::Result<Vec<Value>> {
    let mut rows: Vec<Value> = Vec::new();
    let (list, key) = match of {
        "sim" => ("sim-list".to_owned(), "iccid"),
        other => (format!("{other}-list"), other),
    };
    loop {
        let mut args = value_map([("most", Value::Integer(ROWS as i128))]);
        if let (Value::Map(map), Some(last)) = (&mut args, rows.last()) {
            let after = show::field(last, key).clone();
            map.insert(Value::Text("after".to_owned()), after);
        }
        let Value::Array(more) = asker.ask(fleet, &list, args)? else {
            return Ok(rows);
        };
        let full = more.len() >= ROWS;
        rows.extend(more);
        if !full {
            return Ok(rows);
        }
    }
}

pub(super) fn show(common: &Common, which: &DeviceArgs) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleet = fleet_of(&mut asker, which)?;
    let row = asker.ask(Some(&fleet), "device-show", named(&which.device))?;
    if common.json {
        return Ok(print(&show::json_line(&row))?);
    }
    let text = |name| (name, show::text(&row, name));
    let amount = |name| (name, show::octets(&row, name));
    let time = |name| (name, show::time(&row, name));
    let suspicions: Vec<String> = match show::field(&row, "suspicions") {
        Value::Array(rows) => rows
            .iter()
            .map(|row| format!("{} {}", show::time(row, "at"), show::text(row, "reason")))
            .collect(),
        _ => Vec::new(),
    };
    Ok(print(&show::list(&[
        text("device"),
        text("fleet"),
        text("state"),
        text("serial"),
        text("model"),
        text("firmware"),
        text("iccid"),
        text("tags"),
        text("zone"),
        text("replaces"),
        text("epoch"),
        text("epochs"),
        text("boot"),
        time("registered"),
        text("mark"),
        amount("charged"),
        amount("declared"),
        amount("charged_epoch"),
        amount("ceiling"),
        amount("reserved"),
        amount("debited"),
        amount("debt"),
        amount("paid"),
        amount("available"),
        amount("pool"),
        text("requests"),
        text("code"),
        time("valid_until"),
        time("lease_until"),
        text("policy"),
        text("version"),
        ("suspicions", suspicions.join(", ")),
    ]))?)
}

/// What an agent goes by; what is not given stays.
#[derive(Debug, Args)]
pub(super) struct PolicyArgs {
    /// Seconds from one usage sample to the next
    #[arg(long, value_name = "SECONDS")]
    sample_s: Option<u64>,
    /// Seconds from one report to the next
    #[arg(long, value_name = "SECONDS")]
    report_s: Option<u64>,
    /// Whether the agent's own octets are charged to packages
    #[arg(long, value_name = "BOOL")]
    own_charged: Option<bool>,
    /// What it may use before its first answer, in all
    #[arg(long, value_parser = amount)]
    bootstrap: Option<Octets>,
    /// How long a grant is valid
    #[arg(long, value_name = "SECONDS")]
    validity_s: Option<u64>,
    /// The share of the metered octets that reports may cost, in thousandths
    #[arg(long, value_name = "PERMILLE")]
    overhead_permille: Option<u64>,
}

impl PolicyArgs {
    /// As arguments of a command.
    pub(super) fn with(&self, args: Value) -> Value {
        let octets = self.bootstrap.map(|octets| count(octets.value()));
        with(
            args,
            [
                ("sample_s", self.sample_s.map(count)),
                ("report_s", self.report_s.map(count)),
                ("own_charged", self.own_charged.map(Value::Bool)),
                ("bootstrap", octets),
                ("validity_s", self.validity_s.map(count)),
                ("overhead_permille", self.overhead_permille.map(count)),
            ],
        )
    }
}

pub(super) fn policy(
    common: &Common,
    which: &DeviceArgs,
    policy: &PolicyArgs,
) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleet = fleet_of(&mut asker, which)?;
    let args = policy.with(named(&which.device));
    let row = asker.ask(Some(&fleet), "device-policy", args)?;
    on_its_way(common, which, &row)
}

pub(super) fn tell(common: &Common, which: &DeviceArgs, name: &str) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleet = fleet_of(&mut asker, which)?;
    let row = asker.ask(Some(&fleet), name, named(&which.device))?;
    on_its_way(common, which, &row)
}

fn on_its_way(common: &Common, which: &DeviceArgs, row: &Value) -> anyhow::Result<()> {
    if common.json {
        return Ok(print(&show::json_line(row))?);
    }
    let number = show::text(row, "number");
    let device = &which.device;
    Ok(print(&format!(
        "command {number} to {device} is on its way; it is sent again until the device acknowledges it\n"
    ))?)
}

/// A command about one device, with one more argument perhaps; the row that it answers with.
pub(super) fn order(
    common: &Common,
    which: &DeviceArgs,
    name: &str,
    with: Option<(&str, String)>,
) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleet = fleet_of(&mut asker, which)?;
    let mut args = named(&which.device);
    if let (Value::Map(map), Some((key, value))) = (&mut args, with) {
        map.insert(Value::Text(key.to_owned()), Value::Text(value));
    }
    let row = asker.ask(Some(&fleet), name, args)?;
    short(common, &row)
}

pub(super) fn tag(common: &Common, which: &DeviceArgs, tags: &[String]) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleet = fleet_of(&mut asker, which)?;
    let mut args = named(&which.device);
    if let Value::Map(map) = &mut args {
        let tags = tags.iter().cloned().map(Value::Text).collect();
        map.insert(Value::Text("tags".to_owned()), Value::Array(tags));
    }
    let row = asker.ask(Some(&fleet), "device-tag", args)?;
    short(common, &row)
}

/// What managers keep about a device.
fn short(common: &Common, row: &Value) -> anyhow::Result<()> {
    if common.json {
        return Ok(print(&show::json_line(row))?);
    }
    let text = |name| (name, show::text(row, name));
    Ok(print(&show::list(&[
        text("device"),
        text("state"),
        text("iccid"),
        text("tags"),
        text("replaces"),
        ("available", show::octets(row, "available")),
    ]))?)
}
