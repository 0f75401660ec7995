//! The event loop: one queue, one clock, one seed.

use std::collections::{BTreeMap, BTreeSet};

use simquota_cloud::charging::Outgoing;
use simquota_edge::agent::{Agent, AgentConfig, Durable, Input, Up};
use simquota_edge::shell::{self, After, World};
use simquota_shared::codec::decode;
use simquota_shared::ids::{DeviceId, ZoneId};
use simquota_shared::message::{Command, CreditAnswer, RegisterAnswer, UsageAck};
use simquota_shared::topic::{Down, Topic};
use simquota_shared::units::{Epoch, Octets};

use super::check::Positions;
use super::cloud::{self, Cloud, Cut, Inbound, id, number, text};
use super::device::{Body, Device, Disk, Past, Stop};
use super::dice::Dice;
use super::mutant::Mutant;
use super::plan::{DAY, HOUR, MINUTE, Plan, Size};
use super::plot::{Mark, Trace};
use super::story::Story;

/// How long the world may take to come to rest: longer than the longest lease and the slowest timer.
const REST: u64 = 2 * DAY;

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Offline,
    Kill,
    PowerCut,
    BrokerForgets,
    ClockStep,
    CloudClockStep,
    CounterReset,
    SimSwitch,
    ZoneChange,
    StoreReset,
    Rollback,
    BackupRestore,
    Command,
    TopUp,
}

const FAULTS: [Fault; 14] = [
    Fault::Offline,
    Fault::Kill,
    Fault::PowerCut,
    Fault::BrokerForgets,
    Fault::ClockStep,
    Fault::CloudClockStep,
    Fault::CounterReset,
    Fault::SimSwitch,
    Fault::ZoneChange,
    Fault::StoreReset,
    Fault::Rollback,
    Fault::BackupRestore,
    Fault::Command,
    Fault::TopUp,
];

pub(super) struct Simulation {
    pub(super) now: u64,
    pub(super) dice: Dice,
    pub(super) plan: Plan,
    pub(super) size: Size,
    pub(super) mutant: Option<Mutant>,
    pub(super) devices: Vec<Device>,
    names: Vec<DeviceId>,
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
}

/// Runs one seed to its end.
#[must_use]
pub fn run(seed: u64, size: Size, mutant: Option<Mutant>, story: Story, plot: bool) -> Outcome {
    let mut dice = Dice::new(seed);
    let plan = Plan::draw(&mut dice);
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
        dice,
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
                index: 2,
                read_at: 0,
                limit: 0,
                limit_position: 0,
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
        let mut prodded = false;
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
            if self.resting && !prodded && at >= busy + REST {
                // Whoever has no quota now while balance exists is stuck: each tries one octet more.
                prodded = true;
                self.prod();
            }
            if at >= busy + REST + 6 * HOUR {
                break;
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

    // ---- devices

    fn start(&mut self, n: usize) {
        let now = self.now;
        let device = &mut self.devices[n];
        if device.agent.is_some() {
            return;
        }
        device.body.now = now;
        device.body.first_reading = true;
        device.life += 1;
        let stored = device.body.stored();
        let fresh = Epoch(self.dice.next() >> 1);
        let clocks = device.body.clocks();
        let (agent, effects) = Agent::start(device.config.clone(), stored, fresh, clocks);
        device.agent = Some(agent);
        device.off_sim = false;
        self.tell(|| format!("dev{n}"), || "starts".to_owned());
        self.within(n, |agent, body| shell::carry_out(agent, effects, body));
        if self.devices[n].agent.is_some() && self.devices[n].reachable {
            let delay = self.delay();
            self.at(self.now + delay, Event::Connect(n));
        }
    }

    pub(super) fn step(&mut self, n: usize, input: Input) {
        let mutant = self.mutant;
        if self.story.kept() && !matches!(input, Input::Tick | Input::Reading(_)) {
            let shown = format!("<- {input:?}");
            self.tell(|| format!("dev{n}"), || shown.chars().take(220).collect());
        }
        self.within(n, |agent, body| match mutant {
            Some(Mutant::PublishBeforeCommit | Mutant::RaiseBeforeCommit) => hasty(
                agent,
                input,
                body,
                mutant == Some(Mutant::PublishBeforeCommit),
            ),
            _ => shell::step(agent, input, body),
        });
    }

    /// Runs the agent of a device, then takes care of what it sent, of its wake-up and of its death.
    fn within(&mut self, n: usize, act: impl FnOnce(&mut Agent, &mut Body) -> Result<After, Stop>) {
        let step_crash = if self.resting {
            0
        } else {
            self.plan.step_crash_permille
        };
        let fuse = (step_crash > 0 && self.dice.permille(step_crash)).then(|| {
            let stop = if self.dice.permille(500) {
                Stop::Killed
            } else {
                Stop::PowerCut
            };
            (self.dice.below(6) as u32, stop)
        });
        let now = self.now;
        let device = &mut self.devices[n];
        let Some(agent) = device.agent.as_mut() else {
            return;
        };
        device.body.now = now;
        device.body.fuse = fuse;
        device.body.disk_full_permille = if self.resting {
            0
        } else {
            self.plan.disk_full_permille
        };
        let result = act(agent, &mut device.body);
        device.body.fuse = None;
        let sent = std::mem::take(&mut device.body.sent);
        let notices = std::mem::take(&mut device.body.notices);
        if let Some(fault) = device.body.fault.take() {
            self.fail(format!("device {n}: {fault}"));
        }
        if self.story.kept() {
            for notice in notices {
                let shown = format!("{notice:?}");
                self.tell(|| format!("dev{n}"), || shown.chars().take(220).collect());
            }
        }
        for message in sent {
            self.digest(message.payload.len() as u64 + n as u64);
            self.send(n, message.up, message.payload);
        }
        match result {
            Ok(after) => self.after(n, after),
            Err(Stop::DiskFull) => {
                self.tell(
                    || format!("dev{n}"),
                    || "disk full: starts anew from the store".to_owned(),
                );
                self.die(n, Stop::Killed);
            }
            Err(stop) => self.die(n, stop),
        }
        self.check_device(n);
    }

    fn after(&mut self, n: usize, after: After) {
        if after.new_epoch {
            self.new_epoch(n);
            return;
        }
        if let Some(wake_at_ms) = after.wake_at_ms {
            let device = &mut self.devices[n];
            let at = device.body.world_time_of(wake_at_ms).max(self.now + 1);
            if device
                .wake_at
                .is_none_or(|planned| at < planned || planned <= self.now)
            {
                device.wake_at = Some(at);
                let life = device.life;
                self.at(at, Event::Wake(n, life));
            }
        }
        if after.done {
            self.die(n, Stop::Killed);
        }
    }

    fn new_epoch(&mut self, n: usize) {
        let epoch = Epoch(self.dice.next() >> 1);
        let device = &mut self.devices[n];
        let Some(agent) = device.agent.take() else {
            return;
        };
        // Without a lost store, a rolled-back flash or a restored cloud the two sides never disagree for good.
        if self.plan.store_reset + self.plan.rollback + self.plan.backup_restore == 0 {
            let view = agent.status_view();
            self.fail(format!(
                "device {n}: begins a new epoch for no reason that there is; used {}",
                view.used
            ));
        }
        let device = &mut self.devices[n];
        let before = agent.state().epoch;
        let state: Durable = agent.successor(epoch);
        let used = agent.used().value();
        device.body.past.insert(before, Past { used, closed: true });
        device.body.rolled = false;
        device.body.disk = Disk {
            state: Some(state),
            rows: BTreeMap::new(),
        };
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        self.figures.new_epochs += 1;
        self.repeat_late(n);
        self.tell(
            || format!("dev{n}"),
            || format!("begins epoch {epoch}, closes {before} at {used}"),
        );
        let at = self.now + 1000;
        self.at(at, Event::Start(n));
    }

    /// The process or the machine dies; it starts again some time later.
    fn die(&mut self, n: usize, stop: Stop) {
        let now = self.now;
        self.tell(|| format!("dev{n}"), || format!("dies: {stop:?}"));
        self.figures.deaths += 1;
        let device = &mut self.devices[n];
        device.agent = None;
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        if stop == Stop::PowerCut {
            self.machine_dies(n);
        }
        let pause = if self.resting {
            1000
        } else {
            1000 + self.dice.below(20 * MINUTE)
        };
        self.at(now + pause, Event::Start(n));
    }

    /// The kernel's counter is gone: what was metered by it and not durable is lost.
    fn machine_dies(&mut self, n: usize) {
        let now = self.now;
        let body = &mut self.devices[n].body;
        let unaccounted = body.unaccounted();
        body.lost += unaccounted;
        // The armed window is the bound, and the next start declares it. A flash that was rolled back knows an old one.
        if let Some(state) = &body.disk.state
            && body.enforced
            && !body.rolled
            && state.position.is_some()
        {
            let window = state.armed.value().saturating_sub(state.used.value());
            if unaccounted > window {
                body.fault = Some(format!(
                    "a power cut took {unaccounted} octets, and only {window} were armed"
                ));
            }
        }
        body.baseline = 0;
        body.up = 0;
        body.down = 0;
        body.read_at = 0;
        body.machine += 1;
        body.booted = now;
        body.limit = 0;
        body.limit_position = 0;
        body.open = false;
        self.tell(
            || format!("dev{n}"),
            || format!("the machine lost {unaccounted} octets of its counter"),
        );
    }

    fn burst(&mut self, n: usize) {
        if !self.resting {
            let next = self.now + self.dice.spread(self.plan.burst_every).max(1000);
            self.at(next, Event::Burst(n));
        }
        let up = self.dice.spread(self.plan.burst_octets / 4);
        let down = self.dice.spread(self.plan.burst_octets);
        self.pass(n, up, down);
    }

    fn pass(&mut self, n: usize, up: u64, down: u64) {
        let now = self.now;
        let device = &mut self.devices[n];
        device.body.now = now;
        if device.off_sim {
            return;
        }
        // A dead agent: in `observe` nothing stops traffic, an enforced gate stands where it stood.
        let (mut up, mut down) = (up, down);
        loop {
            let body = &mut self.devices[n].body;
            let before = body.up;
            let passed = body.traffic(up, down);
            let passed_up = body.up - before;
            let blocked = passed < up + down;
            self.digest(passed);
            if !blocked || self.devices[n].agent.is_none() {
                break;
            }
            // Depletion is an event, not a poll.
            let reading = self.devices[n].body.reading();
            self.step(n, Input::Reading(reading));
            self.step(n, Input::GateBlocked);
            // The next window was armed: what was held up goes on.
            up -= passed_up;
            down -= passed - passed_up;
            if passed == 0 {
                break;
            }
        }
        self.check_device(n);
    }

    fn prod(&mut self) {
        for n in 0..self.devices.len() {
            self.pass(n, 0, 1);
        }
    }

    // ---- the network

    fn delay(&mut self) -> u64 {
        if self.resting {
            1 + self.dice.below(200)
        } else {
            1 + self.dice.spread(self.plan.delay_ms)
        }
    }

    /// What was said to the epoch before comes again in the next one.
    fn repeat_late(&mut self, n: usize) {
        if let Some(payload) = self.last_ack.get(&n).cloned() {
            for _ in 0..3 {
                let (at, life) = (self.now + self.dice.below(24 * HOUR), self.devices[n].life);
                self.at(at, Event::Deliver(n, life, Down::Usage, payload.clone()));
            }
        }
    }

    /// A broker may keep a copy for hours, and deliver it to whoever is there then.
    fn held(&mut self, copy: u64) -> u64 {
        if copy > 0 && self.dice.permille(300) {
            self.dice.spread(3 * HOUR)
        } else {
            0
        }
    }

    /// How often a message arrives.
    fn copies(&mut self) -> u64 {
        if self.resting {
            return 1;
        }
        if self.dice.permille(self.plan.drop_permille) {
            self.figures.dropped += 1;
            return 0;
        }
        1 + u64::from(self.dice.permille(self.plan.repeat_permille))
    }

    fn send(&mut self, n: usize, up: Up, payload: Vec<u8>) {
        if !self.devices[n].connected {
            return;
        }
        if self.mutant == Some(Mutant::DeleteOnPuback) && up == Up::Usage {
            self.delete_on_puback(n, &payload);
        }
        if up == Up::Credit && !self.resting && self.dice.permille(self.plan.fickle_permille) {
            // The link goes in the middle of an exchange, and stays away.
            let at = self.now + 1;
            self.at(at, Event::Vanish(n));
        }
        for copy in 0..self.copies() {
            let at = self.now + self.delay() + self.held(copy);
            self.at(
                at,
                Event::Arrive(Inbound {
                    device: n,
                    up,
                    payload: payload.clone(),
                }),
            );
        }
    }

    fn delete_on_puback(&mut self, n: usize, payload: &[u8]) {
        if let Ok(batch) = decode::<simquota_shared::message::UsageBatch>(payload) {
            let device = &mut self.devices[n];
            let last = batch.first.value() + batch.up.len() as u64;
            device.body.disk.rows = device.body.disk.rows.split_off(&last);
        }
    }

    fn connect(&mut self, n: usize) {
        let device = &mut self.devices[n];
        if device.agent.is_none() || device.connected || !device.reachable {
            return;
        }
        device.connected = true;
        self.step(n, Input::Connected(None));
        if let Some(payload) = self.retained.get(&n).cloned() {
            let (at, life) = (self.now + self.delay(), self.devices[n].life);
            self.at(at, Event::Deliver(n, life, Down::Credit, payload));
        }
    }

    fn disconnect(&mut self, n: usize) {
        if self.devices[n].connected {
            self.devices[n].connected = false;
            self.step(n, Input::Disconnected);
        }
    }

    fn arrive(&mut self, message: Inbound) {
        self.cloud.inbox.push(message);
        self.schedule_turn();
    }

    fn schedule_turn(&mut self) {
        if self.cloud.turn_at.is_none()
            && self.cloud.down_until.is_none()
            && !self.cloud.inbox.is_empty()
        {
            let at = self.now + 1 + self.dice.below(20);
            self.cloud.turn_at = Some(at);
            self.at(at, Event::CloudTurn);
        }
    }

    fn cloud_turn(&mut self) {
        self.cloud.turn_at = None;
        if self.cloud.down_until.is_some() {
            return;
        }
        let crash = if self.resting {
            0
        } else {
            self.plan.cloud_crash_permille
        };
        let cut = (crash > 0 && self.dice.permille(crash)).then(|| {
            [Cut::BeforeCommit, Cut::AfterCommit, Cut::AmidAnswers][self.dice.below(3) as usize % 3]
        });
        if self.story.kept() {
            let waiting: Vec<String> = self
                .cloud
                .inbox
                .iter()
                .map(|message| format!("dev{} {:?} {}", message.device, message.up, shown(message)))
                .collect();
            for line in waiting {
                self.tell(|| "cloud".to_owned(), || line.chars().take(220).collect());
            }
        }
        let mut dice = self.dice.fork();
        let before = self.cloud.journal.len();
        let touched: BTreeSet<usize> = self
            .cloud
            .inbox
            .iter()
            .map(|message| message.device)
            .collect();
        match self.cloud.turn(self.now, &self.names, cut, &mut dice) {
            Ok((outgoing, again)) => {
                self.tell_entries(before);
                self.check_entries(before);
                if cut.is_some() {
                    self.figures.cloud_crashes += 1;
                    self.tell(|| "cloud".to_owned(), || format!("crashes: {cut:?}"));
                    let back = self.now + 1000 + self.dice.below(10 * MINUTE);
                    self.cloud.down_until = Some(back);
                    self.at(back, Event::CloudBack);
                    // What was not acknowledged to the broker comes again, or the broker lost it.
                    for message in again {
                        if self.dice.permille(700) {
                            self.cloud.inbox.push(message);
                        }
                    }
                }
                self.say(outgoing);
                for n in touched {
                    self.check_device(n);
                }
            }
            Err(what) => self.fail(what),
        }
    }

    fn tell_entries(&mut self, before: usize) {
        if !self.story.kept() {
            return;
        }
        let lines: Vec<String> = self
            .cloud
            .journal
            .get(before..)
            .unwrap_or_default()
            .iter()
            .map(|entry| {
                let subject = match &entry.subject {
                    simquota_cloud::ledger::entry::Subject::Device(device) => device.to_string(),
                    _ => "fleet".to_owned(),
                };
                format!(
                    "#{} {subject}: {}",
                    entry.number,
                    simquota_cloud::ledger::explain::words(entry)
                )
            })
            .collect();
        for line in lines {
            self.tell(|| "ledger".to_owned(), || line);
        }
    }

    /// What the cloud says goes out.
    fn say(&mut self, outgoing: Vec<Outgoing>) {
        for message in outgoing {
            self.digest(message.payload.len() as u64);
            let Topic::Down(device, down) = &message.topic else {
                continue;
            };
            let Some(n) = self.names.iter().position(|name| name == device) else {
                continue;
            };
            self.check_answer(device, *down, &message.payload);
            if *down == Down::Usage {
                self.last_ack.insert(n, message.payload.clone());
            }
            if message.retain {
                self.retained.insert(n, message.payload.clone());
            }
            for copy in 0..self.copies() {
                let (at, life) = (
                    self.now + self.delay() + self.held(copy),
                    self.devices[n].life,
                );
                self.at(at, Event::Deliver(n, life, *down, message.payload.clone()));
            }
        }
    }

    fn deliver(&mut self, n: usize, _life: u64, down: Down, payload: &[u8]) {
        // A session may outlive the process: what was meant for the one before reaches the next.
        if !self.devices[n].connected {
            return;
        }
        let input = match down {
            Down::Register => decode::<RegisterAnswer>(payload).map(Input::Register),
            Down::Usage => decode::<UsageAck>(payload).map(Input::UsageAck),
            Down::Credit => decode::<CreditAnswer>(payload).map(Input::Credit),
            Down::Command => decode::<Command>(payload).map(Input::Command),
        };
        match input {
            Ok(input) => {
                let input = self.tamper_input(n, input);
                if matches!(input, Input::Credit(_) | Input::Register(_)) {
                    self.unsettled_hears(n, &input, payload);
                }
                self.step(n, input);
            }
            Err(error) => self.fail(format!("what the cloud said can't be read: {error}")),
        }
    }

    fn tamper_input(&mut self, n: usize, mut input: Input) -> Input {
        let Some(agent) = &self.devices[n].agent else {
            return input;
        };
        let state = agent.state();
        match (self.mutant, &mut input) {
            (Some(Mutant::AnyEpoch), Input::Credit(answer)) => answer.epoch = state.epoch,
            (Some(Mutant::AckAnyEpoch), Input::UsageAck(ack)) => ack.epoch = state.epoch,
            (Some(Mutant::StaleAnswer), Input::Credit(answer))
                if answer.number < state.credit.number =>
            {
                answer.number = state.credit.number;
            }
            (Some(Mutant::ValidityFromReceipt), Input::Credit(answer)) => {
                // An hour more stands for "as if it had been asked for just now".
                if let Some(until) = &mut answer.valid_until {
                    until.0 += 3 * (until.0 - answer.decided.0);
                }
            }
            _ => {}
        }
        input
    }

    fn sweep(&mut self) {
        let next = self.now + if self.resting { 5 * MINUTE } else { 2 * MINUTE };
        self.at(next, Event::Sweep);
        if self.cloud.down_until.is_some() {
            return;
        }
        let before = self.cloud.journal.len();
        match self.cloud.sweep(self.now) {
            Ok(outgoing) => {
                self.tell_entries(before);
                self.check_entries(before);
                self.say(outgoing);
                if self.cloud.journal.len() > before {
                    for n in 0..self.devices.len() {
                        self.check_device(n);
                    }
                }
            }
            Err(broken) => self.fail(format!("the ledger broke: {broken}")),
        }
    }

    // ---- faults

    fn mean(&self, fault: Fault) -> u64 {
        match fault {
            Fault::Offline => self.plan.offline,
            Fault::Kill => self.plan.kill,
            Fault::PowerCut => self.plan.power_cut,
            Fault::BrokerForgets => self.plan.broker_forgets,
            Fault::ClockStep => self.plan.clock_step,
            Fault::CloudClockStep => self.plan.cloud_clock_step,
            Fault::CounterReset => self.plan.counter_reset,
            Fault::SimSwitch => self.plan.sim_switch,
            Fault::ZoneChange => self.plan.zone_change,
            Fault::StoreReset => self.plan.store_reset,
            Fault::Rollback => self.plan.rollback,
            Fault::BackupRestore => self.plan.backup_restore,
            Fault::Command => self.plan.command,
            Fault::TopUp => self.plan.top_up,
        }
    }

    fn plan_fault(&mut self, fault: Fault) {
        let mean = self.mean(fault);
        if mean > 0 && !self.resting {
            let at = self.now + self.dice.spread(mean).max(1000);
            self.at(at, Event::Fault(fault));
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.resting {
            return;
        }
        self.plan_fault(fault);
        let n = self.dice.below(self.devices.len() as u64) as usize;
        self.mark(n, fault);
        match fault {
            Fault::Offline => self.go_offline(n),
            Fault::Kill | Fault::PowerCut => {
                if self.devices[n].agent.is_some() {
                    self.die(
                        n,
                        if fault == Fault::Kill {
                            Stop::Killed
                        } else {
                            Stop::PowerCut
                        },
                    );
                }
            }
            Fault::BrokerForgets => {
                self.tell(|| "broker".to_owned(), || "forgets everything".to_owned());
                self.retained.clear();
                self.queue
                    .retain(|_, event| !matches!(event, Event::Arrive(_) | Event::Deliver(..)));
                for n in 0..self.devices.len() {
                    self.disconnect(n);
                    let back = self.now + 1000 + self.dice.below(MINUTE);
                    self.at(back, Event::Connect(n));
                }
            }
            Fault::ClockStep => {
                let step = self.dice.between(0, 48 * HOUR) as i64 - (24 * HOUR) as i64;
                let body = &mut self.devices[n].body;
                if let Some(ahead) = &mut body.wall_ahead {
                    *ahead += step;
                }
            }
            Fault::CloudClockStep => {
                // Only back: forward the service follows a clock that never jumps, so that no lease ends early.
                let step = self.dice.below(3 * HOUR) as i64;
                self.cloud.ahead = (self.cloud.ahead - step).max(-((6 * HOUR) as i64));
            }
            Fault::CounterReset => self.counter_reset(n),
            Fault::SimSwitch => self.sim_switch(n),
            Fault::ZoneChange => {
                let zone = if self.dice.permille(500) {
                    ZoneId::home()
                } else {
                    id("roam")
                };
                self.step(n, Input::ZoneChanged(zone));
            }
            Fault::StoreReset => self.store_reset(n),
            Fault::Rollback => self.rollback(n),
            Fault::BackupRestore => self.restore_backup(),
            Fault::Command => self.fleet_command(n),
            Fault::TopUp => self.top_up(n),
        }
    }

    fn mark(&mut self, n: usize, fault: Fault) {
        if let Some(trace) = &mut self.trace {
            trace.marks.push(Mark {
                at: self.now,
                device: n,
                name: format!("{fault:?}"),
            });
        }
    }

    fn go_offline(&mut self, n: usize) {
        self.devices[n].reachable = false;
        self.disconnect(n);
        // Messages under way are lost or not.
        let back = self.now + self.dice.spread(self.plan.offline_for).max(1000);
        self.devices[n].reachable = true;
        self.at(back, Event::Connect(n));
    }

    fn counter_reset(&mut self, n: usize) {
        // The driver re-creates the interface: another index, counters from 0. What was not read before is lost with
        // the old counter, unless its removal is heard: here it is, as the last reading.
        if self.devices[n].agent.is_some() {
            self.devices[n].body.now = self.now;
            let last = self.devices[n].body.reading();
            self.step(n, Input::Reading(last));
        }
        let body = &mut self.devices[n].body;
        let unread = body.total() - body.read_at;
        if self.devices[n].agent.is_none() {
            let lost = self.devices[n].body.unaccounted();
            self.devices[n].body.lost += lost;
        } else {
            self.devices[n].body.lost += unread;
        }
        let body = &mut self.devices[n].body;
        body.index += 1;
        body.baseline = 0;
        // The limit moves with the counter.
        body.limit = body.limit.saturating_sub(body.total());
        body.up = 0;
        body.down = 0;
        body.read_at = 0;
        if self.devices[n].agent.is_some() {
            let first = self.devices[n].body.reading();
            self.step(n, Input::Reading(first));
        }
    }

    fn sim_switch(&mut self, n: usize) {
        if self.devices[n].agent.is_none() {
            return;
        }
        if self.devices[n].off_sim {
            self.devices[n].off_sim = false;
            self.step(n, Input::ReturnSim);
        } else {
            // The traffic goes elsewhere from now on, also when the process dies in the step.
            self.devices[n].off_sim = true;
            self.step(n, Input::LeaveSim);
        }
    }

    fn store_reset(&mut self, n: usize) {
        let with_mirror = self.dice.permille(500);
        let now = self.now;
        let device = &mut self.devices[n];
        device.body.now = now;
        let Some(state) = device.body.disk.state.clone() else {
            return;
        };
        device.agent = None;
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        // What the counter has beyond the store is lost with the store: the next epoch begins at the counter.
        device.body.lost += device.body.unaccounted();
        device.body.past.insert(
            state.epoch,
            Past {
                used: state.used.value(),
                closed: with_mirror,
            },
        );
        device.body.rolled = false;
        device.body.disk = Disk::default();
        device.body.baseline = 0;
        // A factory reset boots the machine.
        device.body.up = 0;
        device.body.down = 0;
        device.body.read_at = 0;
        device.body.limit = 0;
        device.body.limit_position = 0;
        device.body.open = false;
        device.body.machine += 1;
        device.body.booted = now;
        self.snapshots.remove(&n);
        if with_mirror {
            let epoch = Epoch(self.dice.next() >> 1);
            let closes = simquota_shared::message::Closes {
                epoch: state.epoch,
                total: state.used,
            };
            self.devices[n].body.disk.state =
                Some(Durable::fresh(epoch, Some(closes), ZoneId::home()));
        }
        self.figures.new_epochs += 1;
        self.repeat_late(n);
        self.tell(
            || format!("dev{n}"),
            || format!("loses its store, mirror kept: {with_mirror}"),
        );
        self.at(now + 1000, Event::Start(n));
    }

    /// The flash goes back to an older state, as after a bad update; the machine boots.
    fn rollback(&mut self, n: usize) {
        let now = self.now;
        let current = self.devices[n].body.disk.clone();
        let Some(old) = self.snapshots.insert(n, current.clone()) else {
            return;
        };
        let (Some(new_state), Some(old_state)) = (&current.state, &old.state) else {
            return;
        };
        if new_state.epoch != old_state.epoch {
            return;
        }
        let device = &mut self.devices[n];
        device.body.now = now;
        device.agent = None;
        device.connected = false;
        device.life += 1;
        device.wake_at = None;
        self.tell(
            || format!("dev{n}"),
            || "its flash is rolled back".to_owned(),
        );
        self.machine_dies(n);
        let body = &mut self.devices[n].body;
        // What the newer state held and the cloud has not charged is gone with it; check_rest finds out how much.
        body.rolled = true;
        body.rolled_ever = true;
        body.disk = old;
        self.at(now + 1000, Event::Start(n));
    }

    fn restore_backup(&mut self) {
        let keep = self.backup;
        self.backup = self.cloud.journal.len();
        if keep >= self.cloud.journal.len() {
            return;
        }
        self.tell(
            || "cloud".to_owned(),
            || format!("is restored from a backup at entry {keep}"),
        );
        self.cloud.journal.truncate(keep);
        self.backup = keep;
        self.cloud.forgotten = std::mem::take(&mut self.cloud.answers);
        self.restored = true;
        self.retained.clear();
        if let Err(what) = self.cloud.reload() {
            self.fail(what);
        }
        for n in 0..self.devices.len() {
            self.unsettled.insert(n);
        }
        self.forget_positions();
    }

    fn fleet_command(&mut self, n: usize) {
        let device = [("device", text(&self.names[n]))];
        let fleet = cloud::fleet();
        let name = match self.dice.below(6) {
            0 => "device-suspend",
            1 | 2 => "device-resume",
            3 => "device-revoke",
            4 => "device-report",
            _ => "device-reauthorise",
        };
        self.order(&fleet, name, &device);
    }

    fn top_up(&mut self, n: usize) {
        let fleet = cloud::fleet();
        let volume = number(self.plan.top_up_octets);
        match self.dice.below(8) {
            0..=2 => self.order(&fleet, "package-buy", &[("volume", volume)]),
            3 | 4 => {
                let device = text(&self.names[n]);
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", volume), ("device", device)],
                );
            }
            5 => {
                let until =
                    number(self.cloud.clock(self.now).value() + HOUR + self.dice.below(DAY));
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", volume), ("until", until)],
                );
            }
            6 => {
                let zones = serde_cbor::Value::Array(vec![text("roam")]);
                self.order(
                    &fleet,
                    "package-buy",
                    &[("volume", volume), ("zones", zones)],
                );
            }
            _ => {
                let open: Vec<String> = self
                    .cloud
                    .ledger
                    .packages
                    .iter()
                    .filter(|(_, package)| !package.ended)
                    .map(|(id, _)| id.to_string())
                    .collect();
                let pick = self.dice.below(open.len() as u64) as usize;
                if let Some(package) = open.get(pick) {
                    if self.dice.permille(500) {
                        self.order(&fleet, "package-cancel", &[("package", text(package))]);
                    } else {
                        let pairs = [
                            ("package", text(package)),
                            ("octets", volume),
                            ("why", text("goodwill")),
                        ];
                        self.order(&fleet, "package-credit", &pairs);
                    }
                }
            }
        }
    }

    fn order(
        &mut self,
        fleet: &simquota_shared::ids::FleetId,
        name: &str,
        pairs: &[(&str, serde_cbor::Value)],
    ) {
        if self.cloud.down_until.is_some() {
            return;
        }
        let before = self.cloud.journal.len();
        match self.cloud.order(Some(fleet), name, pairs, self.now) {
            Ok(outgoing) => {
                self.tell_entries(before);
                self.check_entries(before);
                self.say(outgoing);
            }
            Err(broken) => self.fail(format!("the ledger broke at {name}: {broken}")),
        }
    }

    /// The world gets better: no faults, no traffic, everyone connected, everyone resumed.
    fn rest(&mut self) {
        self.resting = true;
        self.tell(|| "world".to_owned(), || "comes to rest".to_owned());
        self.queue.retain(|_, event| {
            !matches!(event, Event::Burst(_) | Event::Fault(_) | Event::Vanish(_))
        });
        let fleet = cloud::fleet();
        self.cloud.down_until = None;
        self.schedule_turn();
        for n in 0..self.devices.len() {
            // A backup may be older than a suspension: then only the device knows of it, and somebody must resume it.
            let told = self.devices[n]
                .body
                .disk
                .state
                .as_ref()
                .is_some_and(|state| state.suspended);
            let suspended = self
                .cloud
                .ledger
                .devices
                .get(&self.names[n])
                .is_some_and(|device| device.suspended);
            if suspended || told {
                let pairs = [("device", text(&self.names[n]))];
                self.order(&fleet, "device-resume", &pairs);
            }
            if self.devices[n].off_sim {
                self.devices[n].off_sim = false;
                self.step(n, Input::ReturnSim);
            }
            self.devices[n].reachable = true;
            self.disconnect(n);
            self.at(self.now + 1000, Event::Connect(n));
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

/// The wrong order: says or opens first, and commits then.
fn hasty(agent: &mut Agent, input: Input, body: &mut Body, publish: bool) -> Result<After, Stop> {
    let mut after = After::default();
    let now = body.now();
    let mut next = Some(agent.step(input, now));
    while let Some(effects) = next.take() {
        after.wake_at_ms = effects.wake_at_ms.or(after.wake_at_ms);
        after.new_epoch |= effects.new_epoch;
        after.done |= effects.done;
        if let Some(gate) = effects.lower {
            body.lower(&gate, agent.used())?;
        }
        if effects.read {
            let reading = body.read()?;
            next = Some(agent.step(reading, body.now()));
            continue;
        }
        if publish {
            for message in effects.publish.clone() {
                body.publish(message)?;
            }
        }
        if let (false, Some(gate)) = (publish, &effects.raise) {
            body.raise(gate, agent.used())?;
        }
        if let Some(commit) = effects.store {
            body.commit(commit)?;
        }
        if let (true, Some(gate)) = (publish, &effects.raise) {
            body.raise(gate, agent.used())?;
        }
        if !publish {
            for message in effects.publish {
                body.publish(message)?;
            }
        }
        if let Some(load) = effects.load {
            let rows = body.load(load)?;
            next = Some(agent.step(Input::Rows(rows), body.now()));
        }
    }
    Ok(after)
}

fn shown(message: &Inbound) -> String {
    use simquota_shared::message::{Ack, CreditRequest, RegisterRequest, Status, UsageBatch};
    match message.up {
        Up::Register => format!("{:?}", decode::<RegisterRequest>(&message.payload)),
        Up::Credit => format!("{:?}", decode::<CreditRequest>(&message.payload)),
        Up::Ack => format!("{:?}", decode::<Ack>(&message.payload)),
        Up::Status => format!("{:?}", decode::<Status>(&message.payload)),
        Up::Usage => match decode::<UsageBatch>(&message.payload) {
            Ok(batch) => format!(
                "epoch {} first {} rows {} total {} up {:?} down {:?}",
                batch.epoch,
                batch.first,
                batch.up.len(),
                batch.total,
                batch.up,
                batch.down
            ),
            Err(error) => error.to_string(),
        },
    }
}
