//! The command line.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use clap::{Parser, ValueEnum};

/// The whole system on this machine: a broker, the cloud, and trackers and vending machines that are the real agent,
/// one of them on the real interface `lo`. The broker loses its memory and an agent is killed; at the end every octet
/// is accounted for.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cargo demo --",
    after_help = "Examples:
  cargo demo                                       twelve devices, twenty seconds
  cargo demo -- --devices 20 --seconds 60          more of both
  cargo demo -- --trace bus.csv                    every device plays this trace (seconds,up,down)
  cargo demo -- --keep --port 1883                 goes on until Ctrl-C; says how to watch and steer it
  cargo demo -- --gate nft                         as root: a real download that the kernel stops at its grant
  cargo demo -- --json | tail -1 | jq .lost        the proof for a program

Exit code: 0 nothing lost, nothing doubled and every identity holds; 1 not so, or the demo failed; 2 wrong arguments.

It needs no rights, no network and nothing installed (--gate nft: root, iproute2, nftables). Everything that it writes is in a folder for temporary files,
which is removed after a success and kept after a failure and with --keep. With `edge` or `cloud` as its first
argument the demo's program is the agent or the service."
)]
pub(super) struct Options {
    /// How many devices; the last one meters `lo`.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = RangedU64ValueParser::<usize>::new().range(4..=100))]
    pub(super) devices: usize,
    /// How long the story takes, from the first grants to the closing time.
    #[arg(long, value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub(super) seconds: u64,
    /// A trace for every device instead of generated ones: lines of seconds,up,down.
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Trace seconds in a second; 60 for generated traces, 1 for --trace when not given.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) speed: Option<u32>,
    /// The broker's port on 127.0.0.1 for MQTT 5; the next one is for MQTT 3.1.1. Two free ones when not given.
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..65_535))]
    pub(super) port: Option<u16>,
    /// Other traces and other traffic; the same seed makes the same.
    #[arg(long, value_name = "K", default_value_t = 1)]
    pub(super) seed: u64,
    /// One device more: its SIM is an interface in a network namespace of its own, and the kernel stops its download. Needs
    /// root, and the programs ip, nft and nsenter.
    #[arg(long, value_name = "KIND")]
    pub(super) gate: Option<GateInKernel>,
    /// Print the proof as one JSON object in the last line.
    #[arg(long)]
    pub(super) json: bool,
    /// Go on until Ctrl-C, and say how to watch and steer it from another terminal.
    #[arg(long)]
    pub(super) keep: bool,
}

/// The gates that the demo can put into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum GateInKernel {
    /// A table of nftables.
    Nft,
}

impl Options {
    /// Trace seconds in a second.
    pub(super) fn speed(&self) -> u32 {
        let usual = if self.trace.is_some() { 1 } else { 60 };
        self.speed.unwrap_or(usual)
    }
}
