//! `usage` and `statement`: what was used when, and a fleet's month.

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::{Octets, UnixMillis, human};

use super::ask::Asker;
use super::device::find_fleet;
use super::package::{count, with};
use super::{Common, print, show, time};
use crate::charging::value_map;
use crate::io::clock;

#[derive(Debug, Args)]
pub(super) struct UsageArgs {
    /// Of which fleet
    #[arg(long, required_unless_present = "device")]
    fleet: Option<FleetId>,
    /// Of which device; of all when not given
    #[arg(long)]
    device: Option<DeviceId>,
    /// In hours of UTC, or in days of the fleet's place
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// From this time on: 2026-11-22T10:30:00Z, or 90s, 30m, 2h, 3d ago; from the begin when not given
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<UnixMillis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Hour,
    Day,
}

#[derive(Debug, Args)]
pub(super) struct StatementArgs {
    /// Of which fleet
    #[arg(long)]
    fleet: FleetId,
    /// Of which month, for example 2026-11; of this one when not given
    #[arg(long, value_parser = month)]
    month: Option<UnixMillis>,
}

/// The middle of a month: in that month wherever the fleet is.
fn month(text: &str) -> Result<UnixMillis, String> {
    time::parse(&format!("{text}-15T12:00:00Z"))
        .map_err(|_| format!("'{text}' is no month: write 2026-11"))
}

pub(super) fn usage(common: &Common, usage: &UsageArgs) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let fleet = match (&usage.fleet, &usage.device) {
        (Some(fleet), _) => fleet.clone(),
        (None, Some(device)) => find_fleet(&mut asker, device)?,
        (None, None) => bail!("name a fleet or a device: see `simquota-cloud usage --help`"),
    };
    let by = match usage.by {
        By::Hour => "hour",
        By::Day => "day",
    };
    let args = with(
        value_map([("by", Value::Text(by.to_owned()))]),
        [
            (
                "device",
                usage.device.as_ref().map(|id| Value::Text(id.to_string())),
            ),
            ("since", usage.since.map(|since| count(since.value()))),
        ],
    );
    let found = asker.ask(Some(&fleet), "usage", args)?;
    if common.json {
        return Ok(print(&show::json_line(&found))?);
    }
    let Value::Array(rows) = found else {
        bail!("the service's answer is no list: report this");
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                show::time(row, "from"),
                show::text(row, "device"),
                show::octets(row, "up"),
                show::octets(row, "down"),
                show::octets(row, "paid"),
                show::octets(row, "debt"),
            ]
        })
        .collect();
    let head = ["FROM", "DEVICE", ">UP", ">DOWN", ">PAID", ">DEBT"];
    Ok(print(&show::table(&head, &cells))?)
}

pub(super) fn statement(common: &Common, statement: &StatementArgs) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let at = statement.month.unwrap_or_else(clock::now);
    let args = value_map([("at", count(at.value()))]);
    let row = asker.ask(Some(&statement.fleet), "statement", args)?;
    if common.json {
        return Ok(print(&show::json_line(&row))?);
    }
    let octets = |name| (name, show::octets(&row, name));
    let plain = |name| (name, show::text(&row, name));
    let mut text = format!(
        "statement of fleet {}\n{} to {}, after entry {}\n\n",
        show::text(&row, "fleet"),
        show::time(&row, "from"),
        show::time(&row, "to"),
        show::text(&row, "entry"),
    );
    text.push_str(&show::list(&[
        octets("before"),
        octets("bought"),
        octets("credited"),
        octets("used"),
        ("expired", signed(&row, "expired")),
        octets("refunded"),
        octets("moved"),
        octets("after"),
    ]));
    text.push_str("\nmoney, in minor units\n");
    text.push_str(&show::list(&[
        plain("deposited"),
        plain("spent"),
        plain("withdrawn"),
        plain("balance"),
    ]));
    if let Value::Array(devices) = show::field(&row, "devices") {
        let cells: Vec<Vec<String>> = devices
            .iter()
            .map(|row| {
                vec![
                    show::text(row, "device"),
                    show::octets(row, "used"),
                    show::octets(row, "debt"),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&show::table(&["DEVICE", ">USED", ">DEBT"], &cells));
    }
    Ok(print(&text)?)
}

/// Late octets can take back what had expired.
fn signed(row: &Value, name: &str) -> String {
    match show::field(row, name) {
        Value::Integer(octets) if *octets < 0 => {
            let back = u64::try_from(octets.unsigned_abs()).unwrap_or(u64::MAX);
            format!("-{}", human(Octets(back)))
        }
        _ => show::octets(row, name),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_month_is_a_year_and_its_number() {
        assert_eq!(month("2026-11").unwrap(), UnixMillis(1_794_744_000_000));
        assert!(month("2026-13").unwrap_err().contains("write 2026-11"));
        assert!(month("november").is_err());
    }
}
