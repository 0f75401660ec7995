//! The event loop: one queue, one clock, one seed.

mod devices;
mod faults;
mod network;
mod orders;

use std::collections::{BTreeMap, BTreeSet};

use simquota_edge::agent::{AgentConfig, Input};
use simquota_shared::ids::{DeviceId, ZoneId};
use simquota_shared::topic::Down;
use simquota_shared::units::Octets;

use self::faults::{FAULTS, Fault};
use super::check::Positions;
use super::cloud::{Cloud, Inbound, id};
use super::device::{Body, Device, Disk, identity};
use super::dice::Dice;
use super::mutant::Mutant;
use super::plan::{DAY, HOUR, MINUTE, Plan, Size};
use super::plot::Trace;
use super::story::Story;
use crate::late::Lateness;

/// How long the world may take to come to rest: longer than the slowest timer.
const REST: u64 = 2 * DAY;
/// How long it may take once each device has tried one octet more.
const REST_AGAIN: u64 = 6 * HOUR;

/// What a run amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Events carried out.
    pub events: u64,
    /// Journal entries.
    pub entries: u64,
    /// Octets that really passed.
    pub really: u64,
    /// Octets charged.
    pub charged: u64,
    /// Octets that power cuts and lost stores took.
    pub lost: u64,
    /// Processes killed and machines cut.
    pub deaths: u64,
    /// Crashes of the cloud.
    pub cloud_crashes: u64,
    /// Messages lost on the way.
    pub dropped: u64,
    /// Epochs begun beyond the first of each device.
    pub new_epochs: u64,
    /// Messages that the cloud refused, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// A hash over every event's effect: two runs of a seed have the same.
    pub digest: u64,
}

impl Figures {
    /// Adds another world's, but for the digest.
    pub fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.entries += other.entries;
        self.really += other.really;
        self.charged += other.charged;
        self.lost += other.lost;
        self.deaths += other.deaths;
        self.cloud_crashes += other.cloud_crashes;
        self.dropped += other.dropped;
        self.new_epochs += other.new_epochs;
        for (reason, count) in &other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
    }
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When, in milliseconds of virtual time.
    pub at: u64,
    /// What is wrong.
    pub what: String,
}

/// The end of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it amounts to.
    pub figures: Figures,
    /// What was wrong, if anything.
    pub failure: Option<Failure>,
    /// The last events, if they were asked for.
    pub story: Story,
    /// One device's course, if it was asked for.
    pub trace: Option<Trace>,
}

#[derive(Clone, Debug)]
enum Event {
    Wake(usize, u64),
    Burst(usize),
    Arrive(Inbound),
    Deliver(usize, u64, Down, Vec<u8>),
    Connect(usize),
    Start(usize),
    CloudTurn,
    CloudBack,
    Sweep,
    Vanish(usize),
    Fault(Fault),
}

pub(super) struct Simulation {
    pub(super) now: u64,
    pub(super) dice: Dice,
    /// What managers order beyond packages: a stream of its own.
    pub(super) rules: Dice,
    pub(super) plan: Plan,
    pub(super) size: Size,
    pub(super) mutant: Option<Mutant>,
    pub(super) devices: Vec<Device>,
    pub(super) names: Vec<DeviceId>,
    pub(super) cloud: Cloud,
    queue: BTreeMap<(u64, u64), Event>,
    events: u64,
    retained: BTreeMap<usize, Vec<u8>>,
    pub(super) figures: Figures,
    pub(super) failure: Option<Failure>,
    story: Story,
    trace: Option<Trace>,
    pub(super) resting: bool,
    /// The latest acknowledgement to each device: a broker may repeat it after the device began anew.
    last_ack: BTreeMap<usize, Vec<u8>>,
    /// Old states of stores, for rollbacks.
    snapshots: BTreeMap<usize, Disk>,
    /// The journal's length at the last backup.
    backup: usize,
    /// Devices that the cloud forgot something about, until they have heard from it.
    pub(super) unsettled: BTreeSet<usize>,
    pub(super) restored: bool,
    pub(super) positions: Positions,
    pub(super) late: Lateness,
}

/// Runs one seed to its end.
#[must_use]
pub fn run(seed: u64, size: Size, mutant: Option<Mutant>, story: Story, plot: bool) -> Outcome {
    let mut dice = Dice::new(seed);
    let plan = Plan::draw(seed, &mut dice);
    let cloud = match Cloud::new(&plan, size.sample_s, size.devices, mutant) {
        Ok(cloud) => cloud,
        Err(broken) => {
            return Outcome {
                figures: Figures::default(),
                failure: Some(Failure {
                    at: 0,
                    what: format!("the cloud could not be furnished: {broken}"),
                }),
                story,
                trace: None,
            };
        }
    };
    let mut simulation = Simulation {
        now: 0,
        plan,
        size,
        mutant,
        devices: Vec::new(),
        names: Vec::new(),
        backup: cloud.journal.len(),
        cloud,
        queue: BTreeMap::new(),
        events: 0,
        retained: BTreeMap::new(),
        figures: Figures::default(),
        failure: None,
        story,
        trace: plot.then(Trace::default),
        resting: false,
        last_ack: BTreeMap::new(),
        snapshots: BTreeMap::new(),
        unsettled: BTreeSet::new(),
        restored: false,
        positions: Positions::default(),
        late: Lateness::default(),
        dice,
        rules: Dice::new(seed.wrapping_add(0x0072_756c_6573)),
    };
    simulation.begin();
    simulation.live();
    simulation.end()
}

impl Simulation {
    fn begin(&mut self) {
        for n in 0..self.size.devices {
            let name: DeviceId = id(&format!("device-{n}"));
            let mut dice = self.dice.fork();
            let config = AgentConfig {
                want: Octets(self.plan.want),
                poll_ms: self.size.sample_s * 1000,
                observe: !self.plan.enforced,
                armed: self.plan.enforced,
                sync_octets: Octets(64 * 1024),
                jitter_permille: dice.below(200),
                ..AgentConfig::new(name.clone(), ZoneId::home())
            };
            let has_clock = dice.permille(700);
            let body = Body {
                id: name.clone(),
                disk: Disk::default(),
                mutant: self.mutant,
                now: 0,
                booted: 0,
                ppm: dice.below(200),
                wall_ahead: has_clock.then_some(0),
                enforced: self.plan.enforced,
                up: 0,
                down: 0,
                machine: 1,
                identity: identity(1, 2),
                read_at: 0,
                limit: 0,
                limit_position: 0,
                beyond: 0,
                slow: false,
                open: false,
                fuse: None,
                disk_full_permille: 0,
                sent: Vec::new(),
                notices: Vec::new(),
                fault: None,
                really: 0,
                lost: 0,
                past: BTreeMap::new(),
                first_reading: true,
                baseline: 0,
                rolled: false,
                rolled_ever: false,
                dice,
            };
            self.devices.push(Device {
                body,
                agent: None,
                config,
                life: 0,
                wake_at: None,
                connected: false,
                reachable: true,
                off_sim: false,
            });
            self.names.push(name);
            let start = self.dice.below(10 * MINUTE);
            self.at(start, Event::Start(n));
            let burst = self.dice.below(self.plan.burst_every);
            self.at(burst, Event::Burst(n));
        }
        self.at(MINUTE, Event::Sweep);
        for fault in FAULTS {
            self.plan_fault(fault);
        }
    }

    fn live(&mut self) {
        let busy = self.size.days * DAY;
        // Leases run out before anything can be at rest.
        let mut look = busy + 2 * self.plan.validity_s * 1000 + HOUR;
        let mut prodded: Option<u64> = None;
        while self.failure.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else {
                break;
            };
            if at >= busy && !self.resting {
                self.now = busy;
                self.rest();
                if matches!(event, Event::Burst(_) | Event::Fault(_) | Event::Vanish(_)) {
                    continue;
                }
            }
            if self.resting && at >= look {
                look = at + HOUR;
                let patience = prodded.map_or(busy + REST, |since| since + REST_AGAIN);
                match (self.is_at_rest() || at >= patience, prodded) {
                    (false, _) => {}
                    (true, None) => {
                        // Whoever has no quota now while balance exists is stuck: each tries one octet more.
                        prodded = Some(at);
                        self.prod();
                    }
                    (true, Some(_)) => break,
                }
            }
            self.now = self.now.max(at);
            self.figures.events += 1;
            self.carry_out(event);
        }
    }

    fn end(mut self) -> Outcome {
        if self.failure.is_none() {
            self.check_rest();
        }
        self.figures.entries = self.cloud.journal.len() as u64;
        self.figures.refused = std::mem::take(&mut self.cloud.refused);
        for device in &self.devices {
            self.figures.really += device.body.really;
            self.figures.lost += device.body.lost;
        }
        self.figures.charged = self
            .cloud
            .ledger
            .devices
            .values()
            .map(|device| device.charged() as u64)
            .sum();
        Outcome {
            figures: self.figures,
            failure: self.failure,
            story: self.story,
            trace: self.trace,
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        if self.failure.is_none() {
            if self.story.kept() {
                self.story.tell(self.now, "FAIL", &what);
            }
            self.failure = Some(Failure { at: self.now, what });
        }
    }

    fn tell(&mut self, who: impl FnOnce() -> String, what: impl FnOnce() -> String) {
        if self.story.kept() {
            self.story.tell(self.now, &who(), &what());
        }
    }

    fn at(&mut self, at: u64, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }

    fn digest(&mut self, value: u64) {
        self.figures.digest = (self.figures.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn carry_out(&mut self, event: Event) {
        match event {
            Event::Wake(n, life) => {
                if self.devices[n].life == life
                    && self.devices[n].wake_at.is_some_and(|at| at <= self.now)
                {
                    self.devices[n].wake_at = None;
                    self.step(n, Input::Tick);
                }
            }
            Event::Burst(n) => self.burst(n),
            Event::Arrive(message) => self.arrive(message),
            Event::Deliver(n, life, down, payload) => self.deliver(n, life, down, &payload),
            Event::Connect(n) => self.connect(n),
            Event::Start(n) => self.start(n),
            Event::CloudTurn => self.cloud_turn(),
            Event::CloudBack => {
                self.cloud.down_until = None;
                self.schedule_turn();
            }
            Event::Sweep => self.sweep(),
            Event::Vanish(n) => self.go_offline(n),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    pub(super) fn draw(&mut self, n: usize) {
        let Some(trace) = &mut self.trace else { return };
        let device = &self.devices[n];
        let Some(state) = device
            .agent
            .as_ref()
            .map(|agent| (agent.used(), agent.state().clone()))
        else {
            return;
        };
        let charged = self
            .cloud
            .ledger
            .devices
            .get(&device.body.id)
            .and_then(|found| found.epochs.get(&state.1.epoch))
            .map_or(0, |axis| axis.charged.value());
        trace.points.push(super::plot::Point {
            at: self.now,
            device: n,
            epoch: state.1.epoch.value(),
            metered: state.0.value(),
            ceiling: state.1.credit.ceiling.value(),
            charged,
        });
    }
}
