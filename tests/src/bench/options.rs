//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Ledger operations, usage reports end to end and grant latency, each beside the bare limit of this machine in
/// the same run.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo bench-all --",
    after_help = "Examples:
  cargo bench-all                              everything, within three minutes
  cargo bench-all -- --quick                   one short round of everything: the order of magnitude
  cargo bench-all -- --only ledger             one part
  cargo bench-all -- --json | tail -1 | jq '.reports[] | {broker, ratio}'

What the parts are:
  ledger   10,000 devices, 4 usage reports of 10 samples to 1 grant; decided in memory, written as one journal row,
           fdatasync. Beside it: an append of as many octets, fdatasync. 1, 100 and 1,000 operations for each sync.
  accounts the same with 500,000 devices, a million accounts, used after Zipf's law: the first twice as often as the
           second. Beside it SQLite, which books and writes as much and decides nothing. Takes minutes and 4 GB of
           memory, so it runs only by name: --only accounts.
  audit    `simquota-cloud audit --store` over a journal of --entries entries, a process of its own: time and peak memory.
           Takes minutes and some GB of disk, so it runs only by name: --only audit.
  reports  8 publishers are 2,000 devices, each sends its next report when the one before is acknowledged. Broker
           and service are processes of their own. Beside it: a consumer with the same client library that neither
           verifies nor writes, and answers with as many octets.
  latency  one request for quota at a time over mosquitto. Beside it: an echo with as many octets, and fdatasync.
  operate  a top-up by the command line until the blocked agent's gate is open again. Then half of the reports that the
           service can take, and one request for quota at a time beside them: alone, and while `top` and `watch` look on.

How to read them: limit and subject take turns, and ratios are medians of the rounds' ratios. Ratios can be compared
between machines and days, other figures only within a run. Every acknowledgement at the end of a run is verified: a
service that loses a report ends the benchmark with exit code 1. Everything listens on loopback only."
)]
pub(super) struct Options {
    /// One short round of each: within half a minute.
    #[arg(long)]
    quick: bool,
    /// This part alone.
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
    /// How long the journal is that `audit` is measured with.
    #[arg(long, value_name = "N", default_value_t = 10_000_000)]
    pub(super) entries: u64,
    /// How many rounds; 3, or 1 with --quick.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// On whose disk the ledger is; the build folder's when not given.
    #[arg(long, value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
    /// Print one JSON object as the last line.
    #[arg(long)]
    pub(super) json: bool,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Ledger operations a second.
    Ledger,
    /// The same with a million accounts, beside SQLite; only when it is asked for.
    Accounts,
    /// The audit of a long journal; only when it is asked for.
    Audit,
    /// Usage reports a second, end to end.
    Reports,
    /// From a request for quota to its answer.
    Latency,
    /// What people do: top up, and look on.
    Operate,
}

impl Options {
    pub(super) fn runs(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }

    /// A part that takes too long to be one of all.
    pub(super) fn runs_alone(&self, part: Part) -> bool {
        self.only == Some(part)
    }

    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 })
    }

    /// How long one thing is measured at a time.
    pub(super) fn slice(&self) -> Duration {
        Duration::from_millis(if self.quick { 700 } else { 2000 })
    }

    /// How long a service runs under load before it is measured.
    pub(super) fn warm_up(&self) -> Duration {
        self.slice() / 2
    }
}
