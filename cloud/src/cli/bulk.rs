//! One command to many devices: begun, watched to its end, and its outcomes.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{CommandId, DeviceId, FleetId, ZoneId};
use simquota_shared::units::Octets;

use super::ask::{Asker, Refused};
use super::device::PolicyArgs;
use super::package::{count, with};
use super::{Common, amount, confirm, print, show};
use crate::charging::value_map;

/// How often the service is asked how far it is.
const POLL: Duration = Duration::from_millis(300);
/// Outcomes that a table shows; `--json` has all.
const SHOWN: usize = 20;

const RUN: &str = "\
Examples:
  simquota-cloud bulk suspend --fleet acme --tag night
  simquota-cloud bulk buy --fleet acme --below 1MB --volume 10MB --days 30
  simquota-cloud bulk tag --fleet acme --device tracker-1 --device tracker-2 --set berlin
  simquota-cloud bulk report --fleet acme --all --dry-run       which devices these are, and what would be refused";

#[derive(Debug, Subcommand)]
#[command(after_help = RUN)]
pub(super) enum BulkCommand {
    /// Stop their data, durably
    Suspend(Which),
    /// Let them ask again
    Resume(Which),
    /// Take back what they were granted
    Revoke(Which),
    /// Ask them to report now
    Report(Which),
    /// Have them ask for quota now
    Reauthorise(Which),
    /// Have them go on under the next generation of their keys
    RotateKey(Which),
    /// Put their SIMs back into the pool
    ReleaseSim(Which),
    /// Set all tags of each
    Tag {
        #[command(flatten)]
        which: Which,
        /// A tag, may be given several times; none: they have none
        #[arg(long = "set", value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Set their own limits; none of both: the fleet's hold
    Limits {
        #[command(flatten)]
        which: Which,
        /// Octets in a day
        #[arg(long, value_parser = amount)]
        day: Option<Octets>,
        /// Octets in a month
        #[arg(long, value_parser = amount)]
        month: Option<Octets>,
    },
    /// Change what their agents go by; what is not given stays
    Policy {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// Buy a package for each
    Buy {
        #[command(flatten)]
        which: Which,
        /// How much for each, for example 10MB
        #[arg(long, value_parser = amount)]
        volume: Octets,
        /// Valid for so many days; without end when not given
        #[arg(long)]
        days: Option<u64>,
        /// What each costs, in minor units of the fleet's money
        #[arg(long, value_name = "AMOUNT")]
        price: Option<u64>,
    },
    /// Believe them no longer
    ShutOut {
        #[command(flatten)]
        which: Which,
        /// Why, for the record
        #[arg(long)]
        why: String,
    },
    /// End their service
    Decommission {
        #[command(flatten)]
        which: Which,
        /// Why, for the record
        #[arg(long)]
        why: String,
    },
    /// List the latest bulk commands
    List {
        /// Of which fleet
        #[arg(long)]
        fleet: FleetId,
    },
    /// Show how far one is; with what was refused, once it is finished
    Show {
        /// Which
        bulk: CommandId,
        /// Of which fleet
        #[arg(long)]
        fleet: FleetId,
    },
    /// Print what became of each device
    Outcomes {
        /// Of which
        bulk: CommandId,
        /// Of which fleet
        #[arg(long)]
        fleet: FleetId,
    },
}

/// Which devices: a list, or those for which all that is given is true.
#[derive(Debug, Args)]
pub(super) struct Which {
    /// Of which fleet
    #[arg(long)]
    fleet: FleetId,
    /// A device, may be given several times
    #[arg(long = "device", value_name = "DEVICE", conflicts_with_all = ["all", "tag", "zone", "model", "state", "below"])]
    devices: Vec<DeviceId>,
    /// All of the fleet
    #[arg(long, conflicts_with_all = ["tag", "zone", "model", "state", "below"])]
    all: bool,
    /// That have this tag
    #[arg(long)]
    tag: Option<String>,
    /// That asked in this zone last
    #[arg(long)]
    zone: Option<ZoneId>,
    /// Of this model
    #[arg(long)]
    model: Option<String>,
    /// In this state: granted, exhausted, closed, registered, suspended, shut-out
    #[arg(long)]
    state: Option<String>,
    /// That have less than this, granted or in packages of their own
    #[arg(long, value_parser = amount)]
    below: Option<Octets>,
    /// Say that it has begun, and don't wait for its end
    #[arg(long)]
    no_wait: bool,
}

fn word(value: &impl ToString) -> Value {
    Value::Text(value.to_string())
}

pub(super) fn run(common: &Common, command: BulkCommand) -> anyhow::Result<()> {
    let none = || value_map([]);
    match command {
        BulkCommand::Suspend(which) => begin(common, &which, "device-suspend", none()),
        BulkCommand::Resume(which) => begin(common, &which, "device-resume", none()),
        BulkCommand::Revoke(which) => begin(common, &which, "device-revoke", none()),
        BulkCommand::Report(which) => begin(common, &which, "device-report", none()),
        BulkCommand::Reauthorise(which) => begin(common, &which, "device-reauthorise", none()),
        BulkCommand::RotateKey(which) => begin(common, &which, "device-rotate-key", none()),
        BulkCommand::ReleaseSim(which) => begin(common, &which, "device-release-sim", none()),
        BulkCommand::Tag { which, tags } => {
            let tags = tags.into_iter().map(Value::Text).collect();
            let args = value_map([("tags", Value::Array(tags))]);
            begin(common, &which, "device-tag", args)
        }
        BulkCommand::Limits { which, day, month } => {
            let octets = |octets: Option<Octets>| octets.map(|octets| count(octets.value()));
            let args = with(none(), [("day", octets(day)), ("month", octets(month))]);
            begin(common, &which, "device-limits", args)
        }
        BulkCommand::Policy { which, policy } => {
            begin(common, &which, "device-policy", policy.with(none()))
        }
        BulkCommand::Buy {
            which,
            volume,
            days,
            price,
        } => {
            let args = value_map([("volume", count(volume.value()))]);
            let args = with(
                args,
                [("days", days.map(count)), ("price", price.map(count))],
            );
            begin(common, &which, "package-buy", args)
        }
        BulkCommand::ShutOut { which, why } => {
            let args = value_map([("why", word(&why))]);
            begin(common, &which, "device-shut-out", args)
        }
        BulkCommand::Decommission { which, why } => {
            confirm(common, "decommissioning devices")?;
            let args = value_map([("why", word(&why))]);
            begin(common, &which, "device-decommission", args)
        }
        BulkCommand::List { fleet } => list(common, &fleet),
        BulkCommand::Show { bulk, fleet } => {
            let row = Asker::open(common)?.ask(Some(&fleet), "bulk-show", named(&bulk))?;
            shown(common, &row)
        }
        BulkCommand::Outcomes { bulk, fleet } => {
            let rows = Asker::open(common)?.ask(Some(&fleet), "bulk-outcomes", named(&bulk))?;
            outcomes(common, &rows, usize::MAX)
        }
    }
}

fn named(bulk: &impl ToString) -> Value {
    value_map([("bulk", word(bulk))])
}

fn begin(common: &Common, which: &Which, name: &str, args: Value) -> anyhow::Result<()> {
    let Which {
        fleet,
        devices,
        all,
        tag,
        zone,
        model,
        state,
        below,
        no_wait,
    } = which;
    let mut whole = value_map([("command", word(&name)), ("args", args)]);
    let to = if devices.is_empty() {
        let select = with(
            value_map([]),
            [
                ("all", all.then_some(Value::Bool(true))),
                ("tag", tag.as_ref().map(word)),
                ("zone", zone.as_ref().map(word)),
                ("model", model.as_ref().map(word)),
                ("state", state.as_ref().map(word)),
                ("below", below.map(|octets| count(octets.value()))),
            ],
        );
        ("select", Some(select))
    } else {
        let devices = devices.iter().map(word).collect();
        ("devices", Some(Value::Array(devices)))
    };
    whole = with(whole, [to]);
    let mut asker = Asker::open(common)?;
    let mut row = asker.ask(Some(fleet), "bulk", whole)?;
    if common.dry_run {
        return outcomes(common, &row, usize::MAX);
    }
    let bulk = show::text(&row, "bulk");
    let talks = std::io::stderr().is_terminal() && !common.json;
    while !*no_wait && show::field(&row, "ended") == &Value::Null {
        if talks {
            let (done, of) = (show::text(&row, "done"), show::text(&row, "of"));
            let refused = show::text(&row, "refused");
            eprint!("\r{bulk}: {done} of {of} devices, {refused} refused ");
            drop(std::io::stderr().flush());
        }
        std::thread::sleep(POLL);
        let next = asker.ask(Some(fleet), "bulk-show", named(&bulk));
        row = next.map_err(|error| {
            error.context(format!(
                "{bulk} goes on when the service does: see `simquota-cloud bulk show {bulk} --fleet {fleet}`"
            ))
        })?;
    }
    if talks {
        eprintln!();
    }
    shown(common, &row)?;
    let refused = show::number(show::field(&row, "refused")).unwrap_or(0);
    if refused == 0 {
        return Ok(());
    }
    let rows = asker.ask(Some(fleet), "bulk-outcomes", named(&bulk))?;
    if !common.json {
        outcomes(common, &refusals(&rows), SHOWN)?;
    }
    Err(Refused {
        code: Code::RATING_FAILED,
        why: format!(
            "refused for {refused} devices: see `simquota-cloud bulk outcomes {bulk} --fleet {fleet}`"
        ),
    }
    .into())
}

fn refusals(rows: &Value) -> Value {
    match rows {
        Value::Array(rows) => {
            let refused = |row: &&Value| show::field(row, "why") != &Value::Null;
            Value::Array(rows.iter().filter(refused).cloned().collect())
        }
        other => other.clone(),
    }
}

fn shown(common: &Common, row: &Value) -> anyhow::Result<()> {
    if common.json {
        return Ok(print(&show::json_line(row))?);
    }
    let text = |name| (name, show::text(row, name));
    Ok(print(&show::list(&[
        text("bulk"),
        text("command"),
        text("author"),
        text("of"),
        text("done"),
        text("refused"),
        ("ended", show::time(row, "ended")),
    ]))?)
}

fn outcomes(common: &Common, rows: &Value, most: usize) -> anyhow::Result<()> {
    if common.json {
        return Ok(print(&show::json_line(rows))?);
    }
    let Value::Array(rows) = rows else {
        anyhow::bail!("the service's answer is no list: report this");
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .take(most)
        .map(|row| {
            ["device", "code", "why"]
                .map(|name| show::text(row, name))
                .to_vec()
        })
        .collect();
    let more = rows.len().saturating_sub(most);
    let end = match more {
        0 => String::new(),
        more => format!("and {more} more\n"),
    };
    let table = show::table(&["DEVICE", ">CODE", "WHY"], &cells);
    Ok(print(&format!("{table}{end}"))?)
}

fn list(common: &Common, fleet: &FleetId) -> anyhow::Result<()> {
    let rows = Asker::open(common)?.ask(Some(fleet), "bulk-list", value_map([]))?;
    if common.json {
        return Ok(print(&show::json_line(&rows))?);
    }
    let Value::Array(rows) = rows else {
        anyhow::bail!("the service's answer is no list: report this");
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let text = |name| show::text(row, name);
            let time = |name| show::time(row, name);
            vec![
                text("bulk"),
                text("command"),
                text("author"),
                text("of"),
                text("done"),
                text("refused"),
                time("at"),
                time("ended"),
            ]
        })
        .collect();
    let head = [
        "BULK", "COMMAND", "AUTHOR", ">OF", ">DONE", ">REFUSED", "BEGAN", "ENDED",
    ];
    Ok(print(&show::table(&head, &cells))?)
}
