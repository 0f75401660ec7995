//! The program `simquota-cloud`: the service, and commands to it as a client of the broker.
//!
//! Exit codes: 0 done, 1 refused (the service said no, or an audit does not hold), 2 failed.
//! stdout is data, stderr is talk.

mod access;
mod acl;
mod ask;
mod backup;
mod carrier;
mod device;
mod enrol;
mod init;
mod ledger;
mod package;
mod platform;
mod record;
mod rule;
mod serve;
mod show;
mod time;
mod token;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use simquota_shared::ids::{CommandId, DeviceId, EnrolmentId, FleetId, KeyId};
use simquota_shared::units::{Octets, UnixMillis, parse_octets};

pub use ask::Refused;

const REFUSED: u8 = 1;
const FAILED: u8 = 2;

const EXAMPLES: &str = "\
From nothing to a device with 10 MB:
  simquota-cloud init                                   cloud.toml, data folder, keys
  simquota-cloud serve &                                needs an MQTT 5 broker, see cloud.toml
  simquota-cloud fleet create acme                      a fleet, and the key acme-manager
  simquota-cloud sim import sims.csv                    lines: iccid,imsi,operator,zones,apn
  simquota-cloud enrol batch create spring --fleet acme a key that admits devices
  simquota-cloud enrol tracker-1 --batch spring         prints the device's enrolment string
  simquota-cloud package buy --fleet acme --volume 10MB for all of the fleet's devices
  simquota-cloud device list
  simquota-cloud explain tracker-1                      where each octet went
  simquota-cloud audit                                  every balance anew, from the journal";

/// The service of prepaid data for cloud SIMs, and the commands to it.
#[derive(Debug, Parser)]
#[command(name = "simquota-cloud", version, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct Common {
    /// The configuration: where the data folder and the broker are
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "cloud.toml",
        env = "SIMQUOTA_CLOUD_CONFIG",
        hide_env_values = true
    )]
    config: PathBuf,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Whose key: a name in the data folder, or a key file
    #[arg(long, global = true, value_name = "KEY", default_value = crate::io::keys::ADMIN)]
    key: String,
    /// How long to wait for the service's answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 10)]
    wait_s: u64,
    /// The command's id: the same id again gets the same answer and does nothing twice
    #[arg(long, global = true, value_name = "ID")]
    id: Option<CommandId>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make configuration, data folder and keys; what exists stays as it is
    #[command(after_help = "Example: simquota-cloud init --broker 127.0.0.1:1884")]
    Init {
        /// The broker to write into a new configuration
        #[arg(long, value_name = "HOST:PORT")]
        broker: Option<String>,
        /// The service's name to write into a new configuration
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
    /// Run the service until SIGTERM or Ctrl-C
    Serve,
    /// Fleets
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// The pool of SIMs
    #[command(subcommand)]
    Sim(SimCommand),
    /// Admit devices: make a batch's key, or print a device's enrolment string
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Examples:\n  simquota-cloud enrol batch create spring --fleet acme --devices 50\n  simquota-cloud enrol tracker-1 --batch spring"
    )]
    Enrol(EnrolArgs),
    /// People's keys: admins, managers, viewers
    #[command(subcommand)]
    Key(access::KeyCommand),
    /// Packages of prepaid volume
    #[command(subcommand)]
    Package(package::PackageCommand),
    /// Devices
    #[command(subcommand)]
    Device(DeviceCommand),
    /// Plans: packages that come anew each day, week or month
    #[command(subcommand)]
    Plan(rule::PlanCommand),
    /// Rules that buy a package when another one is used up
    #[command(subcommand)]
    TopUp(rule::TopUpCommand),
    /// Money of fleets, in minor units: pay in and out
    #[command(subcommand)]
    Money(rule::MoneyCommand),
    /// Give back a deduction, or a part of it, by the number of its entry (see `explain`)
    #[command(after_help = "Example: simquota-cloud refund 4711 --volume 2MB --why 'wrong zone'")]
    Refund(rule::RefundArgs),
    /// Show packages and devices of a fleet as they were at a time
    #[command(after_help = "Example: simquota-cloud balance --at 2026-11-01T00:00:00Z")]
    Balance(record::BalanceArgs),
    /// Write charging data records, from an entry on; the last line of talk says where to go on
    #[command(after_help = "Example: simquota-cloud export --from 4711 --format jsonl > cdr.jsonl")]
    Export(record::ExportArgs),
    /// Add up the whole journal anew and check every identity
    #[command(
        after_help = "Examples:\n  simquota-cloud audit --offline          (the service is stopped)\n  simquota-cloud audit --store COPY       (a copy of the folder 'ledger')"
    )]
    Audit {
        /// Read the store itself, which no service may have open
        #[arg(long)]
        offline: bool,
        /// Read this store: a copy, for example of a backup
        #[arg(long, value_name = "FOLDER")]
        store: Option<PathBuf>,
    },
    /// Print a bearer token for HTTP, made from a key; it ends by itself, and with its key
    #[command(
        after_help = "Example: simquota-cloud token --key auditor --days 30 > prometheus.token"
    )]
    Token {
        /// For how many days it is good, at most 366
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=366))]
        days: u64,
    },
    /// Print the key with which a receiver of web hooks checks signatures, as 64 hexadecimal digits
    #[command(after_help = "Example: simquota-cloud hook-key pager > pager.key")]
    HookKey {
        /// The receiver's name in cloud.toml
        name: KeyId,
    },
    /// Write a broker's access control: everybody to their own topics, passwords derived from keys
    #[command(
        after_help = "Run it again after each `enrol`, `key` and `shut-out`.\nExample: simquota-cloud acl mosquitto --out /etc/mosquitto"
    )]
    Acl {
        /// Which broker
        kind: acl::Kind,
        /// Where to
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// Lay the carrier's records beside ours: SIM by SIM, day by day
    #[command(
        after_help = "The file has lines of iccid,YYYY-MM-DD,octets. Exit code 1: some are further apart than allowed.\nExample: simquota-cloud carrier november.csv --permille 30"
    )]
    Carrier {
        /// The carrier's records
        file: PathBuf,
        /// How many thousandths apart a day may be
        #[arg(long, default_value_t = 50)]
        permille: u64,
    },
    /// Write the whole journal into a file, while the service runs
    #[command(after_help = "Example: simquota-cloud backup monday   (DATA/backups/monday.journal)")]
    Backup {
        /// What the file is called: a-z, 0-9 and '-'
        name: KeyId,
    },
    /// Make a ledger out of a backup, while no service runs
    #[command(
        after_help = "Each entry goes through every check of a running service. Of what came after the backup devices keep what they\nhad not been told to delete; the rest is debited when they begin a new epoch.\nExample: simquota-cloud restore simquota-data/backups/monday.journal --replace"
    )]
    Restore {
        /// The backup
        file: PathBuf,
        /// Where there is a ledger, move it aside
        #[arg(long)]
        replace: bool,
    },
    /// Say where each octet of a device went, with the steps of the patent
    #[command(
        after_help = "Examples:\n  simquota-cloud explain tracker-1 --since 2h\n  simquota-cloud explain --fleet acme   (its pool, and every command of its managers)"
    )]
    Explain {
        /// Which device; none: what concerns the fleet as a whole
        #[arg(required_unless_present = "fleet")]
        device: Option<DeviceId>,
        /// Its fleet; found out when there are few
        #[arg(long)]
        fleet: Option<FleetId>,
        /// From this time on: 2026-11-22T10:30:00Z, or 90s, 30m, 2h, 3d ago
        #[arg(long, value_name = "TIME", value_parser = time::parse)]
        since: Option<UnixMillis>,
    },
}

#[derive(Debug, Subcommand)]
enum FleetCommand {
    /// Create a fleet and the key of its manager, FLEET-manager
    #[command(after_help = "Example: simquota-cloud fleet create acme")]
    Create {
        /// Its name: a-z, 0-9 and '-'
        fleet: FleetId,
    },
    /// Show a fleet's totals, limits, rules and money
    Show {
        /// Which
        fleet: FleetId,
    },
    /// Set all limits of a fleet; those not given are none
    #[command(
        after_help = "Example: simquota-cloud fleet limits acme --device-day 5MB --pool-month 10GB --place Europe/Berlin"
    )]
    Limits(rule::LimitArgs),
    /// Choose the percentages at which a fleet hears of the use of its packages
    #[command(after_help = "Example: simquota-cloud fleet thresholds acme 50 80 100")]
    Thresholds {
        /// Which
        fleet: FleetId,
        /// They, rising
        percents: Vec<u64>,
    },
    /// Stop the data of all devices, durably
    Suspend {
        /// Which
        fleet: FleetId,
    },
    /// Let them ask again
    Resume {
        /// Which
        fleet: FleetId,
    },
}

#[derive(Debug, Subcommand)]
enum SimCommand {
    /// Put SIMs into the pool
    #[command(
        after_help = "The file has lines of iccid,imsi,operator,zones,apn; several zones with ';' between them:\n  8988303000000000001,901405100000001,Cloud Mobile,home;roam,internet"
    )]
    Import {
        /// The file
        file: PathBuf,
    },
}

#[derive(Debug, Args)]
struct EnrolArgs {
    #[command(subcommand)]
    batch: Option<EnrolCommand>,
    /// The device to print the enrolment string of
    #[arg(required = true)]
    device: Option<DeviceId>,
    /// The batch that admits it
    #[arg(long = "batch", value_name = "BATCH", required = true)]
    of: Option<EnrolmentId>,
}

#[derive(Debug, Subcommand)]
enum EnrolCommand {
    /// Keys that admit a batch of devices
    #[command(subcommand)]
    Batch(BatchCommand),
}

#[derive(Debug, Subcommand)]
enum BatchCommand {
    /// Make a key that admits devices to a fleet
    Create {
        /// Its name
        batch: EnrolmentId,
        /// The fleet that its devices belong to
        #[arg(long)]
        fleet: FleetId,
        /// How many devices it admits
        #[arg(long, default_value_t = 1000)]
        devices: u64,
        /// For how many days it admits devices; without end when not given
        #[arg(long)]
        days: Option<u64>,
    },
    /// List all batches
    List,
    /// Admit no more devices; those that it has go on
    Close {
        /// Which batch
        batch: EnrolmentId,
        /// Not at once, but after so many days
        #[arg(long)]
        days: Option<u64>,
    },
    /// Believe no device under its key any more: the key is known to others
    Revoke {
        /// Which batch
        batch: EnrolmentId,
    },
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// List devices
    List {
        /// Which fleet; all whose manager's key is here when not given
        #[arg(long)]
        fleet: Option<FleetId>,
    },
    /// Show all of a device
    Show(DeviceArgs),
    /// Stop its data, durably
    Suspend(DeviceArgs),
    /// Let it ask again
    Resume(DeviceArgs),
    /// Take back what it was granted
    Revoke(DeviceArgs),
    /// Ask it to report now
    Report(DeviceArgs),
    /// Have it go on under the next generation of its key, which both sides derive
    RotateKey(DeviceArgs),
    /// Believe it no longer, whatever it says: it was stolen, or its key is known
    #[command(
        after_help = "Its neighbours go on. What it was granted ends with its validity, and its reservation with the lease.\nExample: simquota-cloud device shut-out tracker-1 --why stolen"
    )]
    ShutOut {
        #[command(flatten)]
        which: DeviceArgs,
        /// Why, for the record
        #[arg(long)]
        why: Option<String>,
    },
    /// Believe it again; it stays suspended until it is resumed
    Readmit(DeviceArgs),
    /// Set its own limits; none of both: the fleet's hold
    Limits(rule::DeviceLimitArgs),
}

#[derive(Debug, Args)]
struct DeviceArgs {
    /// Which device
    device: DeviceId,
    /// Its fleet; found out when there are few
    #[arg(long)]
    fleet: Option<FleetId>,
}

fn amount(text: &str) -> Result<Octets, String> {
    parse_octets(text).map_err(|error| error.to_string())
}

/// Runs the program. The first of `args` is its name.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data, mistakes are talk; clap knows which is which.
            let code = if error.use_stderr() { FAILED } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::from(FAILED),
            };
        }
    };
    let common = cli.common;
    match run(&common, cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line: what failed, then why, as far as it goes.
            eprintln!("error: {error:#}");
            match error.downcast_ref::<Refused>() {
                Some(refused) => {
                    if common.json {
                        drop(print(&format!("{}\n", refused.to_json())));
                    }
                    ExitCode::from(REFUSED)
                }
                None => ExitCode::from(FAILED),
            }
        }
    }
}

fn run(common: &Common, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { broker, node } => init::run(common, broker.as_deref(), node.as_deref()),
        Command::Token { days } => token::token(common, days),
        Command::HookKey { name } => token::hook_key(common, &name),
        Command::Serve => serve::run(common),
        Command::Fleet(command) => match command {
            FleetCommand::Create { fleet } => platform::create_fleet(common, &fleet),
            FleetCommand::Show { fleet } => rule::show_fleet(common, &fleet, "fleet-show"),
            FleetCommand::Limits(limits) => rule::limits(common, &limits),
            FleetCommand::Thresholds { fleet, percents } => {
                rule::thresholds(common, &fleet, &percents)
            }
            FleetCommand::Suspend { fleet } => rule::show_fleet(common, &fleet, "fleet-suspend"),
            FleetCommand::Resume { fleet } => rule::show_fleet(common, &fleet, "fleet-resume"),
        },
        Command::Plan(command) => rule::plan(common, command),
        Command::TopUp(command) => rule::top_up(common, command),
        Command::Money(command) => rule::money(common, &command),
        Command::Refund(refund) => rule::refund(common, &refund),
        Command::Balance(balance) => record::balance(common, &balance),
        Command::Export(export) => record::export(common, &export),
        Command::Sim(SimCommand::Import { file }) => platform::import_sims(common, &file),
        Command::Enrol(EnrolArgs { batch, device, of }) => match (batch, device, of) {
            (Some(EnrolCommand::Batch(command)), _, _) => match command {
                BatchCommand::Create {
                    batch,
                    fleet,
                    devices,
                    days,
                } => {
                    platform::create_batch(common, &batch, &fleet, devices)?;
                    match days {
                        Some(_) => access::close_batch(common, &batch, days),
                        None => Ok(()),
                    }
                }
                BatchCommand::List => access::list_batches(common),
                BatchCommand::Close { batch, days } => access::close_batch(common, &batch, days),
                BatchCommand::Revoke { batch } => access::revoke_batch(common, &batch),
            },
            (None, Some(device), Some(batch)) => enrol::print_string(common, &device, &batch),
            (None, _, _) => {
                anyhow::bail!("name a device and its batch: see `simquota-cloud enrol --help`")
            }
        },
        Command::Key(command) => access::key(common, command),
        Command::Package(command) => package::run(common, command),
        Command::Device(command) => match command {
            DeviceCommand::List { fleet } => device::list(common, fleet.as_ref()),
            DeviceCommand::Show(which) => device::show(common, &which),
            DeviceCommand::Suspend(which) => device::tell(common, &which, "device-suspend"),
            DeviceCommand::Resume(which) => device::tell(common, &which, "device-resume"),
            DeviceCommand::Revoke(which) => device::tell(common, &which, "device-revoke"),
            DeviceCommand::Report(which) => device::tell(common, &which, "device-report"),
            DeviceCommand::RotateKey(which) => device::tell(common, &which, "device-rotate-key"),
            DeviceCommand::ShutOut { which, why } => {
                access::shut_out(common, &which, why.as_deref())
            }
            DeviceCommand::Readmit(which) => access::readmit(common, &which),
            DeviceCommand::Limits(limits) => rule::device_limits(common, &limits),
        },
        Command::Audit {
            store: Some(store), ..
        } => ledger::audit_store(common, &store),
        Command::Audit { offline: false, .. } => ledger::audit(common),
        Command::Audit { offline: true, .. } => ledger::audit_offline(common),
        Command::Carrier { file, permille } => carrier::run(common, &file, permille),
        Command::Backup { name } => backup::run(common, &name),
        Command::Restore { file, replace } => backup::restore(common, &file, replace),
        Command::Acl { kind, out } => acl::run(common, kind, &out),
        Command::Explain {
            device,
            fleet,
            since,
        } => ledger::explain(common, device, fleet, since),
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_arguments_make_sense_to_clap() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_in_the_help_parses() {
        let mut seen = 0;
        for line in EXAMPLES
            .lines()
            .filter_map(|line| line.trim().strip_prefix("simquota-cloud"))
        {
            // The explanation stands after two or more spaces, or after one behind the longest command.
            let end = line.find("  ").unwrap_or(line.len());
            let command = line.get(..end).unwrap().trim_end_matches(" &");
            let words = command.trim().split(" a key ").next().unwrap();
            let words = words.split(" for all ").next().unwrap();
            parse(&format!("simquota-cloud {words}")).expect(words);
            seen += 1;
        }
        assert_eq!(seen, 10);
    }

    #[test]
    fn enrol_is_a_batch_or_a_device() {
        assert!(parse("x enrol batch create b --fleet f").is_ok());
        assert!(parse("x enrol dev-1 --batch b").is_ok());
        assert!(parse("x enrol dev-1").is_err());
        assert!(parse("x enrol").is_err());
    }

    #[test]
    fn a_package_is_for_a_device_or_a_fleet() {
        assert!(parse("x package buy --volume 10MB").is_err());
        assert!(parse("x package buy --volume 10MB --fleet f").is_ok());
        assert!(parse("x package buy --volume 10MB --device d").is_ok());
        let error = parse("x package buy --volume 10XB --fleet f").unwrap_err();
        assert!(error.to_string().contains("for example 10MB"), "{error}");
    }

    #[test]
    fn help() {
        let help = Cli::command().render_long_help().to_string();
        insta::assert_snapshot!(help);
    }
}
