//! The commands and their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use simquota_shared::ids::{DeviceId, EnrolmentId, FleetId, Iccid, KeyId};
use simquota_shared::units::UnixMillis;

use super::{access, acl, bulk, device, package, record, report, rule, time, top, watch};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
    /// One command to many devices: a list, or a selection
    #[command(subcommand)]
    Bulk(bulk::BulkCommand),
    /// Show what was used in each hour or day
    #[command(after_help = "Example: simquota-cloud usage --device tracker-1 --by hour --since 2d")]
    Usage(report::UsageArgs),
    /// Show what a fleet had, bought, used and has, over a month
    #[command(after_help = "Example: simquota-cloud statement --fleet acme --month 2026-11")]
    Statement(report::StatementArgs),
    /// Show what goes over the broker, verified and decoded, until Ctrl-C
    #[command(after_help = watch::EXAMPLES)]
    Watch(watch::WatchArgs),
    /// Show devices, rates and alerts, live
    #[command(after_help = top::EXAMPLES)]
    Top(top::TopArgs),
    /// Print a script that completes this program's commands in a shell
    #[command(
        after_help = "Example: simquota-cloud completion bash > /etc/bash_completion.d/simquota-cloud"
    )]
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
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
        /// Make an event of each SIM that is further apart, once a day: its fleet hears of it
        #[arg(long)]
        tell: bool,
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
        after_help = "Examples:\n  simquota-cloud explain tracker-1 --since 2h\n  simquota-cloud explain --fleet acme   (its pool, and every command of its managers)\n  simquota-cloud explain --platform     (fleets, keys, SIMs, money, and every command of the admins)"
    )]
    Explain {
        /// Which device; none: what concerns the fleet as a whole
        #[arg(required_unless_present_any = ["fleet", "platform"])]
        device: Option<DeviceId>,
        /// What concerns no fleet
        #[arg(long, conflicts_with_all = ["device", "fleet"])]
        platform: bool,
        /// Its fleet; found out when there are few
        #[arg(long)]
        fleet: Option<FleetId>,
        /// From this time on: 2026-11-22T10:30:00Z, or 90s, 30m, 2h, 3d ago
        #[arg(long, value_name = "TIME", value_parser = time::parse)]
        since: Option<UnixMillis>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum FleetCommand {
    /// Create a fleet and the key of its manager, FLEET-manager
    #[command(after_help = "Example: simquota-cloud fleet create acme")]
    Create {
        /// Its name: a-z, 0-9 and '-'
        fleet: FleetId,
    },
    /// List all fleets
    List,
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
pub(super) enum SimCommand {
    /// Put SIMs into the pool
    #[command(
        after_help = "The file has lines of iccid,imsi,operator,zones,apn; several zones with ';' between them:\n  8988303000000000001,901405100000001,Cloud Mobile,home;roam,internet"
    )]
    Import {
        /// The file
        file: PathBuf,
    },
    /// List the SIMs of the pool, and who has them
    List,
    /// Show a SIM
    Show {
        /// Which
        iccid: Iccid,
    },
}

#[derive(Debug, Args)]
pub(super) struct EnrolArgs {
    #[command(subcommand)]
    pub(super) batch: Option<EnrolCommand>,
    /// The device to print the enrolment string of
    #[arg(required = true)]
    pub(super) device: Option<DeviceId>,
    /// The batch that admits it
    #[arg(long = "batch", value_name = "BATCH", required = true)]
    pub(super) of: Option<EnrolmentId>,
    /// The broker as the device reaches it, for `simquota-edge provision`: mqtts://HOST:PORT, or mqtt:// without TLS
    #[arg(long, value_name = "URL")]
    pub(super) to: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum EnrolCommand {
    /// Keys that admit a batch of devices
    #[command(subcommand)]
    Batch(BatchCommand),
}

#[derive(Debug, Subcommand)]
pub(super) enum BatchCommand {
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
pub(super) enum DeviceCommand {
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
    /// Change what its agent goes by; what is not given stays
    #[command(
        after_help = "Example: simquota-cloud device policy tracker-1 --report-s 3600 --expected 2"
    )]
    Policy {
        #[command(flatten)]
        which: DeviceArgs,
        #[command(flatten)]
        policy: device::PolicyArgs,
    },
    /// Set all of its tags, to select it by; none: it has none
    #[command(after_help = "Example: simquota-cloud device tag tracker-1 berlin night")]
    Tag {
        #[command(flatten)]
        which: DeviceArgs,
        /// They: a-z, 0-9 and '-'
        tags: Vec<String>,
    },
    /// Bind a free SIM of the pool to it; the one that it has goes back
    AssignSim {
        #[command(flatten)]
        which: DeviceArgs,
        /// The SIM
        iccid: Iccid,
    },
    /// Put its SIM back into the pool; it gets one when it registers again
    ReleaseSim(DeviceArgs),
    /// Give its SIM, packages and rules to another device; it serves no more
    #[command(
        after_help = "Both must be at rest: suspend the old one, and wait for its last report. The new one is registered already.\nExample: simquota-cloud device replace tracker-1 --by tracker-9 --yes"
    )]
    Replace {
        #[command(flatten)]
        which: DeviceArgs,
        /// The device that takes its place
        #[arg(long, value_name = "DEVICE")]
        by: DeviceId,
    },
    /// End its service: its SIM goes back, it is granted nothing more
    #[command(
        after_help = "It must be at rest: suspend it, and wait for its last report.\nExample: simquota-cloud device decommission tracker-1 --why scrapped --yes"
    )]
    Decommission {
        #[command(flatten)]
        which: DeviceArgs,
        /// Why, for the record
        #[arg(long)]
        why: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct DeviceArgs {
    /// Which device
    pub(super) device: DeviceId,
    /// Its fleet; found out when there are few
    #[arg(long)]
    pub(super) fleet: Option<FleetId>,
}
