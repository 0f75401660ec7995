//! Ledger operations a second: the real decisions on the real ledger, and the real journal store on a real disk.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde::Serialize;
use simquota_cloud::charging::{DeviceRequest, Rules, Turn, Verdict};
use simquota_cloud::config::Config;
use simquota_cloud::io::clock;
use simquota_cloud::io::store::Store;
use simquota_cloud::ledger::Ledger;

use super::figures::{Spread, Times, grouped, median, number, ratio};
use super::options::Options;
use super::world::{Device, Dice, Maker, row_octets};
use super::zipf::Zipf;
use super::{append, machine, say, sqlite};

/// Operations for each sync.
const GROUPS: [usize; 3] = [1, 100, 1000];
/// Devices that are used one as often as the other.
const EVEN: usize = 10_000;
/// A million accounts, two for each device: what is set aside for it, and what it used.
const MANY: usize = 500_000;
/// One operation of so many is a grant, the others are reports.
const GRANT_EVERY: u64 = 5;
/// Of so many commits one is measured for its size, which costs more time than it takes.
const SIZED_EVERY: u64 = 16;

/// One group size, over all rounds.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    per_fsync: usize,
    ops_per_s: f64,
    bare_ops_per_s: f64,
    ratio: f64,
    /// The same number of operations as rows of a SQLite database; only measured beside many accounts.
    sqlite_ops_per_s: Option<f64>,
    octets_per_op: f64,
    decide_us_per_op: f64,
    commit_us_per_op: f64,
    commit: Spread,
    bare: Spread,
    rounds: Vec<Round>,
}

/// One group size in one round.
#[derive(Clone, Debug, Serialize)]
struct Round {
    ops_per_s: f64,
    bare_ops_per_s: f64,
    sqlite_ops_per_s: Option<f64>,
    octets_per_op: f64,
    decide_us_per_op: f64,
    commit_us_per_op: f64,
    commit: Spread,
    bare: Spread,
    load: Vec<serde_json::Value>,
}

/// Ledger, store and devices.
struct Bench {
    ledger: Ledger,
    store: Store,
    rules: Rules,
    devices: Vec<Device>,
    dice: Dice,
    /// How much more often the first devices are used than the last; none when all are used alike.
    skew: Option<Zipf>,
    ops: u64,
}

/// What one slice of time came to.
struct Slice {
    ops: u64,
    decided: Duration,
    committed: Duration,
    commits: Times,
    octets_per_op: f64,
}

/// Which devices there are, and how they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum World {
    /// Ten thousand, one as often as the other.
    Even,
    /// A million accounts, used after Zipf's law, with SQLite beside them.
    Many,
}

impl World {
    const fn devices(self) -> usize {
        match self {
            Self::Even => EVEN,
            Self::Many => MANY,
        }
    }
}

pub(super) fn measure(
    options: &Options,
    folder: &Path,
    world: World,
) -> anyhow::Result<Vec<Group>> {
    say(&format!("ledger: making {} devices …", world.devices()));
    let mut bench = Bench::new(&folder.join("ledger"), world)?;
    let mut rounds: [Vec<Round>; GROUPS.len()] = Default::default();
    for round in 1..=options.rounds() {
        for (group, found) in GROUPS.into_iter().zip(&mut rounds) {
            say(&format!(
                "ledger: round {round} of {}, {group} per fsync (load {}) …",
                options.rounds(),
                machine::load()
            ));
            found.push(bench.round(group, options.slice(), folder)?);
        }
    }
    let violations = bench.ledger.violations();
    if let Some(first) = violations.first() {
        bail!("the ledger does not hold after the benchmark: {first}; report this");
    }
    Ok(GROUPS
        .into_iter()
        .zip(rounds)
        .map(|(group, rounds)| summed(group, rounds))
        .collect())
}

/// A store of at least so many entries, a thousand in each row; how many there are.
pub(super) fn fill(folder: &Path, entries: u64) -> anyhow::Result<u64> {
    let mut bench = Bench::new(folder, World::Even)?;
    while bench.ledger.last.value() < entries {
        bench.slice(1000, Duration::from_millis(100))?;
    }
    Ok(bench.ledger.last.value())
}

impl Bench {
    fn new(folder: &Path, world: World) -> anyhow::Result<Bench> {
        let rules = Config::parse("", folder)?.rules;
        let mut store = Store::open(folder)?;
        let mut ledger = Ledger::default();
        let devices = Maker::new(&mut ledger, &rules, |entries| Ok(store.commit(entries)?))
            .make(world.devices())?;
        Ok(Bench {
            ledger,
            store,
            rules,
            devices,
            dice: Dice::new(0),
            skew: (world == World::Many).then(|| Zipf::new(MANY)),
            ops: 0,
        })
    }

    fn round(&mut self, group: usize, length: Duration, folder: &Path) -> anyhow::Result<Round> {
        let mut slice = self.slice(group, length)?;
        let octets = slice.octets_per_op * number(group as u64);
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a row's size"
        )]
        let mut bare = append::measure(folder, octets as usize, length / 2)?;
        let bare_ops = number((bare.len() * group) as u64);
        let ops = number(slice.ops);
        let sqlite_ops_per_s = match &self.skew {
            Some(skew) => Some(sqlite::measure(
                folder,
                skew,
                group,
                slice.octets_per_op,
                length,
            )?),
            None => None,
        };
        Ok(Round {
            sqlite_ops_per_s,
            ops_per_s: ratio(ops, (slice.decided + slice.committed).as_secs_f64()),
            bare_ops_per_s: ratio(bare_ops, bare.total().as_secs_f64()),
            octets_per_op: slice.octets_per_op,
            decide_us_per_op: ratio(slice.decided.as_secs_f64() * 1e6, ops),
            commit_us_per_op: ratio(slice.committed.as_secs_f64() * 1e6, ops),
            commit: slice.commits.spread(),
            bare: bare.spread(),
            load: machine::load().values(),
        })
    }

    /// Batches of `group` operations until they have taken so long. Making up the requests is not counted.
    fn slice(&mut self, group: usize, length: Duration) -> anyhow::Result<Slice> {
        let mut slice = Slice {
            ops: 0,
            decided: Duration::ZERO,
            committed: Duration::ZERO,
            commits: Times::default(),
            octets_per_op: 0.0,
        };
        let (mut sized_octets, mut sized_ops, mut batches) = (0, 0, 0_u64);
        while slice.decided + slice.committed < length {
            let requests = self.requests(group);
            let began = Instant::now();
            let mut turn = Turn::new(&mut self.ledger, &self.rules, clock::steady());
            for (index, request) in requests {
                let Some(device) = self.devices.get(index) else {
                    continue;
                };
                let verdict = turn.device(&device.id, &device.kid, request)?;
                if verdict != Verdict::Done {
                    bail!("device {} was refused: {verdict:?}; report this", device.id);
                }
            }
            let Turn { entries, .. } = turn;
            let decided = began.elapsed();
            self.store.commit(&entries)?;
            let committed = began.elapsed() - decided;
            if entries.len() != group {
                bail!(
                    "{group} operations made {} entries; report this",
                    entries.len()
                );
            }
            slice.ops += group as u64;
            slice.decided += decided;
            slice.committed += committed;
            slice.commits.push(committed);
            if batches.is_multiple_of(SIZED_EVERY) {
                sized_octets += row_octets(&entries)?;
                sized_ops += group;
            }
            batches += 1;
        }
        slice.octets_per_op = ratio(number(sized_octets as u64), number(sized_ops as u64));
        Ok(slice)
    }

    fn requests(&mut self, group: usize) -> Vec<(usize, DeviceRequest)> {
        let mut requests = Vec::with_capacity(group);
        while requests.len() < group {
            let index = match &self.skew {
                Some(skew) => skew.draw(&mut self.dice),
                None => usize::try_from(self.dice.below(self.devices.len() as u64)).unwrap_or(0),
            };
            let Some(device) = self.devices.get_mut(index) else {
                break;
            };
            self.ops += 1;
            let request = if self.ops.is_multiple_of(GRANT_EVERY) {
                DeviceRequest::Credit(device.update())
            } else {
                DeviceRequest::Usage(device.report())
            };
            requests.push((index, request));
        }
        requests
    }
}

fn summed(group: usize, rounds: Vec<Round>) -> Group {
    let of = |value: fn(&Round) -> f64| median(rounds.iter().map(value));
    let spread =
        |value: fn(&Round) -> Spread| Spread::median(&rounds.iter().map(value).collect::<Vec<_>>());
    Group {
        per_fsync: group,
        ops_per_s: of(|round| round.ops_per_s),
        bare_ops_per_s: of(|round| round.bare_ops_per_s),
        ratio: of(|round| ratio(round.ops_per_s, round.bare_ops_per_s)),
        sqlite_ops_per_s: rounds
            .iter()
            .all(|round| round.sqlite_ops_per_s.is_some())
            .then(|| of(|round| round.sqlite_ops_per_s.unwrap_or_default())),
        octets_per_op: of(|round| round.octets_per_op),
        decide_us_per_op: of(|round| round.decide_us_per_op),
        commit_us_per_op: of(|round| round.commit_us_per_op),
        commit: spread(|round| round.commit),
        bare: spread(|round| round.bare),
        rounds,
    }
}

pub(super) fn table(groups: &[Group], world: World) -> String {
    let mut text = format!(
        "\nLEDGER  {} devices{}, {} usage reports of {} samples to 1 grant; decided, written as one journal row, fdatasync\n\
         per fsync   ledger ops/s   bare append ops/s   ratio   octets/op   decide us/op   commit us/op   commit p50/p99/max ms   SQLite ops/s\n",
        grouped(number(world.devices() as u64)),
        match world {
            World::Even => "",
            World::Many => " (two accounts each) used after Zipf's law",
        },
        GRANT_EVERY - 1,
        super::world::SAMPLES
    );
    for group in groups {
        let Spread {
            p50_ms,
            p99_ms,
            max_ms,
        } = group.commit;
        let sqlite = group.sqlite_ops_per_s.map_or_else(String::new, grouped);
        let _ = writeln!(
            text,
            "{:>9}   {:>12}   {:>17}   {:>5.3}   {:>9.0}   {:>12.2}   {:>12.2}   {p50_ms:.2} / {p99_ms:.2} / {max_ms:.1}   {sqlite:>12}",
            grouped(number(group.per_fsync as u64)),
            grouped(group.ops_per_s),
            grouped(group.bare_ops_per_s),
            group.ratio,
            group.octets_per_op,
            group.decide_us_per_op,
            group.commit_us_per_op,
        );
    }
    text.trim_end().to_owned()
}
