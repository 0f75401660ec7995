//! Plans, limits, thresholds, rules that buy, money, refunds.

use clap::{Args, Subcommand, ValueEnum};
use serde_cbor::Value;
use simquota_shared::ids::{DeviceId, FleetId, PackageId, ZoneId};
use simquota_shared::units::Octets;

use super::ask::Asker;
use super::device::find_fleet;
use super::package::{count, with};
use super::{Common, amount, print, show};
use crate::charging::value_map;

#[derive(Debug, Subcommand)]
pub(super) enum PlanCommand {
    /// Begin a plan: its first package is there at once, the next one at each turn
    #[command(
        after_help = "Example: simquota-cloud plan begin --fleet acme --volume 1GB --every month --on 1 --place Europe/Berlin --rollover-max 200MB"
    )]
    Begin(Box<PlanArgs>),
    /// List a fleet's plans
    List {
        /// Which fleet
        #[arg(long)]
        fleet: FleetId,
    },
    /// End a plan; its last package stays
    End {
        /// Which
        plan: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Every {
    Day,
    Week,
    Month,
}

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Whose
    #[arg(long)]
    fleet: FleetId,
    /// Its packages are for this device; for the pool when not given
    #[arg(long)]
    device: Option<DeviceId>,
    /// How much each time, for example 10MB
    #[arg(long, value_parser = amount)]
    volume: Octets,
    /// How often
    #[arg(long, value_enum)]
    every: Every,
    /// On which day: 1 (Monday) to 7 of a week, 1 to 31 of a month
    #[arg(long)]
    on: Option<u64>,
    /// So many minutes after midnight
    #[arg(long)]
    minute: Option<u64>,
    /// In the time of this place, for example Europe/Berlin; UTC when not given
    #[arg(long)]
    place: Option<String>,
    /// Of what is left at the turn at most so much goes over
    #[arg(long, value_parser = amount)]
    rollover_max: Option<Octets>,
    /// At least so much goes over, even if less is left
    #[arg(long, value_parser = amount)]
    rollover_min: Option<Octets>,
    /// Octets that may be used beyond the volume of each period
    #[arg(long, value_parser = amount)]
    overage: Option<Octets>,
    /// What each period costs, in minor units
    #[arg(long, value_name = "AMOUNT")]
    price: Option<u64>,
    /// Where its packages are valid, may be given several times
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<ZoneId>,
    /// The lower, the earlier they are used
    #[arg(long)]
    priority: Option<u64>,
    /// The plan's name; after the command's id when not given
    #[arg(long)]
    plan: Option<PackageId>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TopUpCommand {
    /// Set a rule: when a package is used to a percentage, buy another
    #[command(
        after_help = "Example: simquota-cloud top-up set refill --fleet acme --percent 80 --volume 1GB --days 30 --most 3"
    )]
    Set(TopUpArgs),
    /// Take a rule back
    Remove {
        /// Which
        rule: PackageId,
        /// Its fleet
        #[arg(long)]
        fleet: FleetId,
    },
}

#[derive(Debug, Args)]
pub(super) struct TopUpArgs {
    /// Its name
    rule: PackageId,
    /// Whose
    #[arg(long)]
    fleet: FleetId,
    /// For packages of this device; for those of the pool when not given
    #[arg(long)]
    device: Option<DeviceId>,
    /// When a package is used beyond this
    #[arg(long)]
    percent: u64,
    /// How much is bought, for example 10MB
    #[arg(long, value_parser = amount)]
    volume: Octets,
    /// For so many days; without end when not given
    #[arg(long)]
    days: Option<u64>,
    /// For how much, in minor units
    #[arg(long, value_name = "AMOUNT")]
    price: Option<u64>,
    /// At most so often in a month
    #[arg(long)]
    most: u64,
}

#[derive(Debug, Subcommand)]
pub(super) enum MoneyCommand {
    /// Pay in
    #[command(after_help = "Example: simquota-cloud money deposit acme 50000 --why 'invoice 7'")]
    Deposit(MoneyArgs),
    /// Pay out of the balance
    Withdraw(MoneyArgs),
}

#[derive(Debug, Args)]
pub(super) struct MoneyArgs {
    /// Whose
    fleet: FleetId,
    /// How much, in minor units
    amount: u64,
    /// Why, for the record
    #[arg(long)]
    why: String,
}

#[derive(Debug, Args)]
pub(super) struct LimitArgs {
    /// Which fleet
    fleet: FleetId,
    /// Octets of each device in a day
    #[arg(long, value_parser = amount)]
    device_day: Option<Octets>,
    /// Octets of each device in a month
    #[arg(long, value_parser = amount)]
    device_month: Option<Octets>,
    /// Octets out of the pool in a day
    #[arg(long, value_parser = amount)]
    pool_day: Option<Octets>,
    /// Octets out of the pool in a month
    #[arg(long, value_parser = amount)]
    pool_month: Option<Octets>,
    /// Octets that each device may use out of the pool in a month
    #[arg(long, value_parser = amount)]
    share: Option<Octets>,
    /// Its days and months are those of this place, for example Europe/Berlin
    #[arg(long)]
    place: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct DeviceLimitArgs {
    /// Which device
    device: DeviceId,
    /// Its fleet; found out when there are few
    #[arg(long)]
    fleet: Option<FleetId>,
    /// Octets in a day
    #[arg(long, value_parser = amount)]
    day: Option<Octets>,
    /// Octets in a month
    #[arg(long, value_parser = amount)]
    month: Option<Octets>,
}

#[derive(Debug, Args)]
pub(super) struct RefundArgs {
    /// The entry of the deduction
    entry: u64,
    /// Its fleet
    #[arg(long)]
    fleet: FleetId,
    /// How much; all that is left of it when not given
    #[arg(long, value_parser = amount)]
    volume: Option<Octets>,
    /// Into this package; into the one that paid when not given
    #[arg(long)]
    package: Option<PackageId>,
    /// Why, for the record
    #[arg(long)]
    why: String,
}

fn text(value: &impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn octets(octets: Option<Octets>) -> Option<Value> {
    octets.map(|octets| count(octets.value()))
}

/// Asks, and shows the answer: as JSON, or its plain fields below each other.
fn ask(common: &Common, fleet: Option<&FleetId>, name: &str, args: Value) -> anyhow::Result<()> {
    let row = Asker::open(common)?.ask(fleet, name, args)?;
    if common.json {
        return Ok(print(&show::json_line(&row))?);
    }
    let rows = match &row {
        Value::Array(rows) => rows.as_slice(),
        row => std::slice::from_ref(row),
    };
    for row in rows {
        print(&show::fields(row))?;
    }
    Ok(())
}

pub(super) fn plan(common: &Common, command: PlanCommand) -> anyhow::Result<()> {
    match command {
        PlanCommand::List { fleet } => ask(common, Some(&fleet), "plan-list", value_map([])),
        PlanCommand::End { plan, fleet } => {
            let args = value_map([("plan", text(&plan))]);
            ask(common, Some(&fleet), "plan-end", args)
        }
        PlanCommand::Begin(begin) => {
            let every = match begin.every {
                Every::Day => "day",
                Every::Week => "week",
                Every::Month => "month",
            };
            let args = value_map([
                ("volume", count(begin.volume.value())),
                ("every", text(&every)),
            ]);
            let zones = begin.zones.iter().map(text).collect();
            let optional = [
                ("plan", begin.plan.as_ref().map(text)),
                ("device", begin.device.as_ref().map(text)),
                ("on", begin.on.map(count)),
                ("minute", begin.minute.map(count)),
                ("place", begin.place.as_ref().map(text)),
                ("rollover_max", octets(begin.rollover_max)),
                ("rollover_min", octets(begin.rollover_min)),
                ("overage", octets(begin.overage)),
                ("price", begin.price.map(count)),
                ("priority", begin.priority.map(count)),
                (
                    "zones",
                    (!begin.zones.is_empty()).then_some(Value::Array(zones)),
                ),
            ];
            ask(
                common,
                Some(&begin.fleet),
                "plan-begin",
                with(args, optional),
            )
        }
    }
}

pub(super) fn top_up(common: &Common, command: TopUpCommand) -> anyhow::Result<()> {
    match command {
        TopUpCommand::Remove { rule, fleet } => {
            let args = value_map([("rule", text(&rule))]);
            ask(common, Some(&fleet), "top-up-remove", args)
        }
        TopUpCommand::Set(set) => {
            let args = value_map([
                ("rule", text(&set.rule)),
                ("percent", count(set.percent)),
                ("volume", count(set.volume.value())),
                ("most", count(set.most)),
            ]);
            let optional = [
                ("device", set.device.as_ref().map(text)),
                ("days", set.days.map(count)),
                ("price", set.price.map(count)),
            ];
            ask(common, Some(&set.fleet), "top-up-set", with(args, optional))
        }
    }
}

pub(super) fn money(common: &Common, command: &MoneyCommand) -> anyhow::Result<()> {
    let (name, money) = match command {
        MoneyCommand::Deposit(money) => ("money-deposit", money),
        MoneyCommand::Withdraw(money) => ("money-withdraw", money),
    };
    let args = value_map([
        ("fleet", text(&money.fleet)),
        ("amount", count(money.amount)),
        ("why", text(&money.why)),
    ]);
    ask(common, None, name, args)
}

pub(super) fn limits(common: &Common, limits: &LimitArgs) -> anyhow::Result<()> {
    let optional = [
        ("device_day", octets(limits.device_day)),
        ("device_month", octets(limits.device_month)),
        ("pool_day", octets(limits.pool_day)),
        ("pool_month", octets(limits.pool_month)),
        ("share", octets(limits.share)),
        ("place", limits.place.as_ref().map(text)),
    ];
    let args = with(value_map([]), optional);
    ask(common, Some(&limits.fleet), "fleet-limits", args)
}

pub(super) fn device_limits(common: &Common, limits: &DeviceLimitArgs) -> anyhow::Result<()> {
    let fleet = match &limits.fleet {
        Some(fleet) => fleet.clone(),
        None => find_fleet(&mut Asker::open(common)?, &limits.device)?,
    };
    let args = value_map([("device", text(&limits.device))]);
    let optional = [("day", octets(limits.day)), ("month", octets(limits.month))];
    ask(common, Some(&fleet), "device-limits", with(args, optional))
}

pub(super) fn thresholds(common: &Common, fleet: &FleetId, percents: &[u64]) -> anyhow::Result<()> {
    let percents = percents.iter().copied().map(count).collect();
    let args = value_map([("percents", Value::Array(percents))]);
    ask(common, Some(fleet), "fleet-thresholds", args)
}

/// A command about a whole fleet without arguments.
pub(super) fn show_fleet(common: &Common, fleet: &FleetId, name: &str) -> anyhow::Result<()> {
    ask(common, Some(fleet), name, value_map([]))
}

pub(super) fn refund(common: &Common, refund: &RefundArgs) -> anyhow::Result<()> {
    let args = value_map([("entry", count(refund.entry)), ("why", text(&refund.why))]);
    let optional = [
        ("octets", octets(refund.volume)),
        ("package", refund.package.as_ref().map(text)),
    ];
    ask(common, Some(&refund.fleet), "refund", with(args, optional))
}
