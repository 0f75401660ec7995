//! Who takes part: devices, their fleets, and the parts that some of them play.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::options::Options;
use super::trace::{Random, Trace};
use crate::netns::SIM;

/// The device that leaves its SIM, is killed and returns its remainder.
pub(super) const HERO: &str = "tracker-1";
/// The device that meters `lo`.
pub(super) const METER: &str = "meter-lo";
/// The device whose traffic the kernel stops, and its fleet.
pub(super) const MODEM: &str = "modem-1";
pub(super) const MODEMS: &str = "modems";
/// What is bought for that fleet's pool at first, and what later.
pub(super) const MODEM_POOL: u64 = 5_000_000;
pub(super) const MODEM_TOP_UP: u64 = 50_000_000;
const MODEM_WANT: u64 = 2_000_000;
/// The fleet whose pool runs dry.
pub(super) const DRY: &str = "kiosk";

/// The kinds of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Tracker,
    Vending,
    Meter,
    Modem,
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Tracker => "tracker",
            Kind::Vending => "vending",
            Kind::Meter => "interface lo",
            Kind::Modem => "nft gate",
        }
    }

    const fn model(self) -> &'static str {
        match self {
            Kind::Tracker => "GT-06",
            Kind::Vending => "Snacko 300",
            Kind::Meter => "this machine",
            Kind::Modem => "a namespace",
        }
    }
}

/// A device.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) id: String,
    pub(super) kind: Kind,
    pub(super) fleet: &'static str,
    /// Octets that it asks for at a time.
    pub(super) want: u64,
    /// What it plays; none for those on a real interface.
    pub(super) trace: Option<PathBuf>,
    /// Octets of its trace until the pool of [`DRY`] is to be empty.
    until_dry: u64,
    /// Octets of its trace until the end of the story, roughly.
    in_all: u64,
}

impl Planned {
    /// Whether every event of it is told.
    pub(super) fn is_told(&self) -> bool {
        self.id == HERO || self.id == "vending-1" || self.id == MODEM
    }

    /// Where everything of it is.
    pub(super) fn folder(&self, stage: &Path) -> PathBuf {
        stage.join(&self.id)
    }

    pub(super) fn config(&self, broker: SocketAddr, speed: u32) -> String {
        let source = match &self.trace {
            None if self.kind == Kind::Modem => format!(
                "kind = \"interface\"\ninterface = \"{SIM}\"\npoll_ms = 200\n\n[gate]\nkind = \"nft\"\n"
            ),
            Some(trace) => format!(
                "kind = \"trace\"\nfile = {:?}\nspeed = {speed}\nrepeat = true\npoll_ms = 200\n",
                trace.display().to_string()
            ),
            None => "kind = \"interface\"\ninterface = \"lo\"\n\
                     # On lo each packet is sent and received, without a link-layer header.\n\
                     direction = \"rx\"\nl2_overhead = 0\npoll_ms = 200\n\n[gate]\nkind = \"observe\"\n"
                .to_owned(),
        };
        format!(
            "# What differs from the shipped edge.toml.\nkey_file = \"edge.key\"\ndata = \"data\"\n\n\
             [broker]\nhost = \"{}\"\nport = {}\nkeep_alive_s = 5\n\n\
             [source]\n{source}\n[quota]\nwant = \"{}\"\n\n\
             [device_info]\nmodel = \"{}\"\nfirmware = \"1.0\"\n\n\
             # The demo accounts for every octet, so nothing may pass after the last report.\n\
             [end]\nshutdown_s = 30\nclose_meter = true\n",
            broker.ip(),
            broker.port(),
            self.want,
            self.kind.model(),
        )
    }
}

/// A fleet and what is bought for its pool.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) name: &'static str,
    pub(super) pool: u64,
}

/// Everyone.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) devices: Vec<Planned>,
    pub(super) fleets: Vec<Fleet>,
    /// What is bought for the dry pool later.
    pub(super) top_up: u64,
}

/// Moments of the story, in thousandths of its length.
pub(super) const LEAVE_PERMILLE: u64 = 150;
/// From its leaving its SIM to its return.
pub(super) const AWAY_PERMILLE: u64 = 130;
pub(super) const DRY_PERMILLE: u64 = 380;
pub(super) const AMNESIA_PERMILLE: u64 = 500;
pub(super) const KILL_PERMILLE: u64 = 620;
pub(super) const TOP_UP_PERMILLE: u64 = 720;

/// Between the first start of an agent and the beginning of the story pass some seconds.
const LEAD_MS: u64 = 2_000;
const POOL_LEAST: u64 = 1_000_000_000;
/// The one on `lo` shares it with everything else that this machine does there.
const LO_POOL: u64 = 100_000_000_000;
const LO_WANT: u64 = 2_000_000;

impl Plan {
    /// Writes the traces into `folder` and sizes quotas and packages after them.
    pub(super) fn make(options: &Options, folder: &Path) -> anyhow::Result<Plan> {
        let given = match &options.trace {
            Some(path) => {
                let path = path.canonicalize().with_context(|| {
                    format!("cannot open {}: give --trace a trace file", path.display())
                })?;
                Some((Trace::read(&path, folder)?, path))
            }
            None => None,
        };
        let mut random = Random::new(options.seed);
        let mut devices = Vec::new();
        for (id, kind, fleet) in cast(options.devices, options.gate.is_some()) {
            let (trace, path) = match (&given, kind) {
                (_, Kind::Meter | Kind::Modem) => {
                    devices.push(Planned {
                        id,
                        kind,
                        fleet,
                        want: if kind == Kind::Modem {
                            MODEM_WANT
                        } else {
                            LO_WANT
                        },
                        trace: None,
                        until_dry: 0,
                        in_all: 0,
                    });
                    continue;
                }
                (Some((trace, path)), _) => (trace.clone(), path.clone()),
                (None, Kind::Tracker) => (
                    Trace::of_tracker(&mut random),
                    folder.join(format!("{id}.csv")),
                ),
                (None, Kind::Vending) => (
                    Trace::of_vending(&mut random),
                    folder.join(format!("{id}.csv")),
                ),
            };
            if given.is_none() {
                std::fs::write(&path, trace.csv())
                    .with_context(|| format!("cannot write {}", path.display()))?;
            }
            devices.push(planned(id, kind, fleet, options, &trace, path));
        }
        let of = |fleet: &str, size: fn(&Planned) -> u64| -> u64 {
            devices
                .iter()
                .filter(|device| device.fleet == fleet)
                .map(size)
                .sum()
        };
        let fleets = ["buses", "snacks", DRY, "lab", MODEMS]
            .into_iter()
            .filter(|name| devices.iter().any(|device| device.fleet == *name))
            .map(|name| Fleet {
                name,
                pool: match name {
                    "lab" => LO_POOL,
                    MODEMS => MODEM_POOL,
                    DRY => of(name, |device| device.until_dry).max(20_000),
                    _ => of(name, |device| device.in_all * 20).max(POOL_LEAST),
                },
            })
            .collect();
        let top_up = of(DRY, |device| device.in_all * 20).max(POOL_LEAST);
        Ok(Plan {
            devices,
            fleets,
            top_up,
        })
    }
}

fn planned(
    id: String,
    kind: Kind,
    fleet: &'static str,
    options: &Options,
    trace: &Trace,
    path: PathBuf,
) -> Planned {
    let story_ms = options.seconds * 1000;
    let speed = u64::from(options.speed());
    let in_all = trace.octets_in((LEAD_MS + story_ms) * speed);
    Planned {
        id,
        kind,
        fleet,
        // Some grants in a story.
        want: (in_all / 6).max(6_000),
        trace: Some(path),
        until_dry: trace.octets_in((LEAD_MS + story_ms * DRY_PERMILLE / 1000) * speed),
        in_all,
    }
}

/// Names, kinds and fleets of so many devices, and of one more behind a gate in the kernel.
fn cast(devices: usize, gated: bool) -> Vec<(String, Kind, &'static str)> {
    let dry = if devices < 8 { 1 } else { 2 };
    let rest = devices - 1 - dry;
    let trackers = rest.div_ceil(5) * 3;
    let trackers = trackers.min(rest);
    let vending = devices - 1 - trackers;
    let mut cast: Vec<_> = (1..=trackers)
        .map(|number| (format!("tracker-{number}"), Kind::Tracker, "buses"))
        .collect();
    cast.extend((1..=vending).map(|number| {
        let fleet = if number <= dry { DRY } else { "snacks" };
        (format!("vending-{number}"), Kind::Vending, fleet)
    }));
    cast.push((METER.to_owned(), Kind::Meter, "lab"));
    if gated {
        cast.push((MODEM.to_owned(), Kind::Modem, MODEMS));
    }
    cast
}
