//! Packages.

use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId, PackageId};
use simquota_shared::units::Octets;

use super::ask::Asker;
use super::device::find_fleet;
use super::{BuyArgs, Common, print, show};
use crate::charging::value_map;

pub(super) fn count(number: u64) -> Value {
    Value::Integer(i128::from(number))
}

/// Arguments, and those of the optional ones that were given.
pub(super) fn with<const N: usize>(mut args: Value, optional: [(&str, Option<Value>); N]) -> Value {
    if let Value::Map(map) = &mut args {
        for (name, value) in optional {
            if let Some(value) = value {
                map.insert(Value::Text(name.to_owned()), value);
            }
        }
    }
    args
}

pub(super) fn buy(common: &Common, buy: BuyArgs) -> anyhow::Result<()> {
    let BuyArgs {
        device,
        fleet,
        volume,
        days,
        first_use_days,
        from,
        until,
        overage,
        price,
        zones,
        priority,
        package,
    } = buy;
    let mut asker = Asker::open(common)?;
    let fleet = match (fleet, &device) {
        (Some(fleet), _) => fleet,
        (None, Some(device)) => find_fleet(&mut asker, device)?,
        (None, None) => {
            anyhow::bail!("name a device or a fleet: see `simquota-cloud package buy --help`")
        }
    };
    let optional = [
        (
            "device",
            device.map(|device| Value::Text(device.to_string())),
        ),
        ("days", days.map(count)),
        ("first_use_days", first_use_days.map(count)),
        ("from", from.map(|from| count(from.value()))),
        ("until", until.map(|until| count(until.value()))),
        ("overage", overage.map(|octets| count(octets.value()))),
        ("price", price.map(count)),
        ("priority", priority.map(count)),
        (
            "package",
            package.map(|package| Value::Text(package.to_string())),
        ),
        (
            "zones",
            (!zones.is_empty()).then(|| {
                Value::Array(
                    zones
                        .iter()
                        .map(|zone| Value::Text(zone.to_string()))
                        .collect(),
                )
            }),
        ),
    ];
    let args = with(value_map([("volume", count(volume.value()))]), optional);
    let row = asker.ask(Some(&fleet), "package-buy", args)?;
    shown(common, &Value::Array(vec![row.clone()]), &row)
}

pub(super) fn list(common: &Common, fleet: Option<&FleetId>) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleets = fleet.map_or_else(|| asker.fleets(), |fleet| vec![fleet.clone()]);
    let mut rows = Vec::new();
    for fleet in fleets {
        if let Value::Array(more) = asker.ask(Some(&fleet), "package-list", value_map([]))? {
            rows.extend(more);
        }
    }
    let rows = Value::Array(rows);
    shown(common, &rows, &rows)
}

pub(super) fn cancel(common: &Common, package: &PackageId, fleet: &FleetId) -> anyhow::Result<()> {
    let args = value_map([("package", Value::Text(package.to_string()))]);
    let row = Asker::open(common)?.ask(Some(fleet), "package-cancel", args)?;
    if common.json {
        print(&show::json_line(&row))?;
    } else {
        let refunded = show::octets(&row, "refunded");
        print(&format!(
            "package {package} cancelled, {refunded} refunded\n"
        ))?;
    }
    Ok(())
}

/// Credits or debits octets.
pub(super) fn amend(
    common: &Common,
    name: &str,
    package: &PackageId,
    fleet: &FleetId,
    volume: Octets,
    why: &str,
) -> anyhow::Result<()> {
    let args = value_map([
        ("package", Value::Text(package.to_string())),
        ("octets", count(volume.value())),
        ("why", Value::Text(why.to_owned())),
    ]);
    let row = Asker::open(common)?.ask(Some(fleet), name, args)?;
    shown(common, &Value::Array(vec![row.clone()]), &row)
}

pub(super) fn move_octets(
    common: &Common,
    (from, to, device): (&PackageId, Option<&PackageId>, Option<&DeviceId>),
    fleet: &FleetId,
    volume: Octets,
    why: &str,
) -> anyhow::Result<()> {
    let text = |id: &dyn ToString| Value::Text(id.to_string());
    let args = value_map([
        ("from", text(from)),
        ("octets", count(volume.value())),
        ("why", text(&why)),
    ]);
    let optional = [
        ("to", to.map(|to| text(to))),
        ("device", device.map(|device| text(device))),
    ];
    let rows = Asker::open(common)?.ask(Some(fleet), "package-move", with(args, optional))?;
    shown(common, &rows, &rows)
}

pub(super) fn shown(common: &Common, rows: &Value, json: &Value) -> anyhow::Result<()> {
    if common.json {
        return Ok(print(&show::json_line(json))?);
    }
    let Value::Array(rows) = rows else {
        return Ok(());
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let owner = match show::text(row, "device") {
                pool if pool == "-" => format!("pool of {}", show::text(row, "fleet")),
                device => device,
            };
            vec![
                show::text(row, "package"),
                owner,
                show::text(row, "state"),
                show::octets(row, "volume"),
                show::octets(row, "credited"),
                show::octets(row, "available"),
                show::octets(row, "reserved"),
                show::octets(row, "used"),
                show::time(row, "until"),
                show::text(row, "zones"),
            ]
        })
        .collect();
    let head = [
        "PACKAGE",
        "OWNER",
        "STATE",
        ">VOLUME",
        ">CREDITED",
        ">AVAILABLE",
        ">RESERVED",
        ">USED",
        "UNTIL",
        "ZONES",
    ];
    Ok(print(&show::table(&head, &cells))?)
}
