//! The program `simquota-cloud`: the service, and commands to it as a client of the broker.
//!
//! Exit codes: 0 done, 1 refused (the service said no, or an audit does not hold), 2 failed.
//! stdout is data, stderr is talk.

mod access;
mod acl;
mod args;
mod ask;
mod backup;
mod bulk;
mod carrier;
mod device;
mod enrol;
mod init;
mod ledger;
mod package;
mod platform;
mod profile;
mod record;
mod report;
mod rule;
mod serve;
mod show;
mod time;
mod token;
mod top;
mod watch;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser};
use simquota_shared::ids::CommandId;
use simquota_shared::units::{Octets, parse_octets};

use args::{
    BatchCommand, Command, DeviceArgs, DeviceCommand, EnrolArgs, EnrolCommand, FleetCommand,
    SimCommand,
};
pub use ask::{DryRun, Refused};

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
    /// The configuration: where the data folder and the broker are; cloud.toml when not given
    #[arg(
        long = "config",
        global = true,
        value_name = "FILE",
        env = "SIMQUOTA_CLOUD_CONFIG",
        hide_env_values = true
    )]
    config_given: Option<PathBuf>,
    #[arg(skip)]
    config: PathBuf,
    /// Take configuration and key from this profile of the file of profiles
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "SIMQUOTA_PROFILE",
        hide_env_values = true
    )]
    profile: Option<String>,
    /// The file of profiles; ~/.config/simquota/profiles.toml when not given
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "SIMQUOTA_PROFILES",
        hide_env_values = true
    )]
    profiles: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Whose key: a name in the data folder, or a key file; the admin's when not given
    #[arg(long = "key", global = true, value_name = "KEY")]
    key_given: Option<String>,
    #[arg(skip)]
    key: String,
    /// Say what would happen, and do nothing
    #[arg(long, global = true)]
    dry_run: bool,
    /// Only if this is the version of what is commanded about, as `show` has it: nobody changed it meanwhile
    #[arg(long, global = true, value_name = "VERSION")]
    expected: Option<u64>,
    /// Do what can't be undone without asking
    #[arg(long, global = true)]
    yes: bool,
    /// Not to be carried out later than so many seconds from now
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 3600)]
    expires_s: u64,
    /// How long to wait for the service's answer; 10 when not given
    #[arg(long = "wait-s", global = true, value_name = "SECONDS")]
    wait_given_s: Option<u64>,
    #[arg(skip)]
    wait_s: u64,
    /// The command's id: the same id again gets the same answer and does nothing twice
    #[arg(long, global = true, value_name = "ID")]
    id: Option<CommandId>,
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
    let mut common = cli.common;
    let done = profile::settle(&mut common).and_then(|()| run(&common, cli.command));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<DryRun>() => {
            let said = match common.json {
                true => "{\"dry\":true}\n",
                false => "it would be done\n",
            };
            drop(print(said));
            ExitCode::SUCCESS
        }
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
            FleetCommand::List => platform::list(common, "fleet"),
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
        Command::Sim(SimCommand::List) => platform::list(common, "sim"),
        Command::Sim(SimCommand::Show { iccid }) => platform::show_sim(common, &iccid),
        Command::Enrol(EnrolArgs {
            batch,
            device,
            of,
            to,
        }) => match (batch, device, of) {
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
                BatchCommand::Revoke { batch } => {
                    confirm(common, &format!("revoking batch {batch}"))?;
                    access::revoke_batch(common, &batch)
                }
            },
            (None, Some(device), Some(batch)) => {
                enrol::print_string(common, &device, &batch, to.as_deref())
            }
            (None, _, _) => {
                anyhow::bail!("name a device and its batch: see `simquota-cloud enrol --help`")
            }
        },
        Command::Key(command) => access::key(common, command),
        Command::Package(command) => package::run(common, command),
        Command::Bulk(command) => bulk::run(common, command),
        Command::Usage(usage) => report::usage(common, &usage),
        Command::Statement(statement) => report::statement(common, &statement),
        Command::Watch(watch) => watch::run(common, &watch),
        Command::Top(top) => top::run(common, &top),
        Command::Completion { shell } => {
            let mut octets = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "simquota-cloud", &mut octets);
            Ok(print(&String::from_utf8_lossy(&octets))?)
        }
        Command::Device(command) => match command {
            DeviceCommand::Policy { which, policy } => device::policy(common, &which, &policy),
            DeviceCommand::Tag { which, tags } => device::tag(common, &which, &tags),
            DeviceCommand::AssignSim { which, iccid } => {
                let with = ("iccid", iccid.to_string());
                device::order(common, &which, "device-assign-sim", Some(with))
            }
            DeviceCommand::ReleaseSim(which) => {
                device::order(common, &which, "device-release-sim", None)
            }
            DeviceCommand::Replace { which, by } => {
                confirm(common, &format!("replacing {} by {by}", which.device))?;
                let with = ("by", by.to_string());
                device::order(common, &which, "device-replace", Some(with))
            }
            DeviceCommand::Decommission { which, why } => {
                confirm(common, &format!("decommissioning {}", which.device))?;
                device::order(common, &which, "device-decommission", Some(("why", why)))
            }
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
        Command::Carrier {
            file,
            permille,
            tell,
        } => carrier::run(common, &file, permille, tell),
        Command::Backup { name } => backup::run(common, &name),
        Command::Restore { file, replace } => backup::restore(common, &file, replace),
        Command::Acl { kind, out } => acl::run(common, kind, &out),
        Command::Explain {
            device,
            platform: _,
            fleet,
            since,
        } => ledger::explain(common, device, fleet, since),
    }
}

/// Asks before what can't be undone. Without a terminal nobody answers: then `--yes` has to be given.
fn confirm(common: &Common, what: &str) -> anyhow::Result<()> {
    if common.yes || common.dry_run {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        anyhow::bail!("{what} can't be undone: give --yes");
    }
    eprint!("{what} can't be undone. Go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was done"),
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
