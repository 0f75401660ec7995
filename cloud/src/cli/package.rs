//! Packages.

use clap::{Args, Subcommand};
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId, PackageId, ZoneId};
use simquota_shared::units::{Octets, UnixMillis};

use super::ask::Asker;
use super::device::{find_fleet, pages};
use super::{Common, amount, print, show, time};
use crate::charging::value_map;

#[derive(Debug, Subcommand)]
pub(super) enum PackageCommand {
    /// Buy a package for a device, or for a fleet's pool
    #[command(
        after_help = "Examples:\n  simquota-cloud package buy --fleet acme --volume 1GB --days 30\n  simquota-cloud package buy --device tracker-1 --volume 10MB --zone home"
    )]
    Buy(BuyArgs),
    /// List a fleet's packages
    List {
        /// Which fleet; all whose manager's key is here when not given
        #[arg(long)]
        fleet: Option<FleetId>,
    },
    /// Show a package's accounts, terms and version
    Show {
        /// Which package
        package: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
    },
    /// End a package and refund what is left of it
    Cancel {
        /// Which package
        package: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
    },
    /// Deduct octets from what a package has available
    Debit {
        /// Which package
        package: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
        /// How much, for example 5MB
        #[arg(long, value_parser = amount)]
        volume: Octets,
        /// Why, for the record
        #[arg(long)]
        why: String,
    },
    /// Move available octets to another package, or to a new one for a device or the pool
    #[command(
        after_help = "Example: simquota-cloud package move pool-1 --fleet acme --device tracker-1 --volume 5MB --why 'long trip'"
    )]
    Move {
        /// Out of this package
        package: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
        /// Into this one; a new one when not given
        #[arg(long, conflicts_with = "device")]
        to: Option<PackageId>,
        /// The new one is for this device; for the pool when not given
        #[arg(long)]
        device: Option<DeviceId>,
        /// How much, for example 5MB
        #[arg(long, value_parser = amount)]
        volume: Octets,
        /// Why, for the record
        #[arg(long)]
        why: String,
    },
    /// Credit octets to a package
    Credit {
        /// Which package
        package: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
        /// How much, for example 5MB
        #[arg(long, value_parser = amount)]
        volume: Octets,
        /// Why, for the record
        #[arg(long)]
        why: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct BuyArgs {
    /// For this device
    #[arg(long, required_unless_present = "fleet")]
    device: Option<DeviceId>,
    /// For this fleet's pool; with --device: the device's fleet
    #[arg(long)]
    fleet: Option<FleetId>,
    /// How much, for example 10MB
    #[arg(long, value_parser = amount)]
    volume: Octets,
    /// Valid for so many days; without end when not given
    #[arg(long)]
    days: Option<u64>,
    /// Valid for so many days from its first use on
    #[arg(long, value_name = "DAYS", conflicts_with = "days")]
    first_use_days: Option<u64>,
    /// Not to be used before this: 2026-11-22T10:30:00Z
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    from: Option<UnixMillis>,
    /// Valid until then, used or not
    #[arg(long, value_name = "TIME", value_parser = time::parse, conflicts_with = "days")]
    until: Option<UnixMillis>,
    /// Octets that may be used beyond the volume, instead of a cut
    #[arg(long, value_parser = amount)]
    overage: Option<Octets>,
    /// What it costs, in minor units of the fleet's money
    #[arg(long, value_name = "AMOUNT")]
    price: Option<u64>,
    /// Where it is valid, may be given several times; everywhere when not given
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<ZoneId>,
    /// The lower, the earlier it is used
    #[arg(long)]
    priority: Option<u64>,
    /// The package's name; after the command's id when not given
    #[arg(long)]
    package: Option<PackageId>,
}

pub(super) fn run(common: &Common, command: PackageCommand) -> anyhow::Result<()> {
    match command {
        PackageCommand::Buy(args) => buy(common, args),
        PackageCommand::List { fleet } => list(common, fleet.as_ref()),
        PackageCommand::Show { package, fleet } => {
            let args = value_map([("package", Value::Text(package.to_string()))]);
            let row = Asker::open(common)?.ask(Some(&fleet), "package-show", args)?;
            Ok(print(&match common.json {
                true => show::json_line(&row),
                false => show::fields(&row),
            })?)
        }
        PackageCommand::Cancel { package, fleet } => {
            super::confirm(common, &format!("cancelling package {package}"))?;
            cancel(common, &package, &fleet)
        }
        PackageCommand::Credit {
            package,
            fleet,
            volume,
            why,
        } => amend(common, "package-credit", &package, &fleet, volume, &why),
        PackageCommand::Debit {
            package,
            fleet,
            volume,
            why,
        } => amend(common, "package-debit", &package, &fleet, volume, &why),
        PackageCommand::Move {
            package,
            fleet,
            to,
            device,
            volume,
            why,
        } => move_octets(
            common,
            (&package, to.as_ref(), device.as_ref()),
            &fleet,
            volume,
            &why,
        ),
    }
}

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

fn buy(common: &Common, buy: BuyArgs) -> anyhow::Result<()> {
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

fn list(common: &Common, fleet: Option<&FleetId>) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleets = fleet.map_or_else(|| asker.fleets(), |fleet| vec![fleet.clone()]);
    let mut rows = Vec::new();
    for fleet in fleets {
        rows.extend(pages(&mut asker, Some(&fleet), "package")?);
    }
    let rows = Value::Array(rows);
    shown(common, &rows, &rows)
}

fn cancel(common: &Common, package: &PackageId, fleet: &FleetId) -> anyhow::Result<()> {
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
fn amend(
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

fn move_octets(
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
