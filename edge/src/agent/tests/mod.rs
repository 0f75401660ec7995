//! The agent in a bench: a shell that keeps the contract's order, a disk, a counter, and a clock to turn.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod answers;
mod batches;
mod commands;
mod cut;
mod life;
mod metering;
mod power;
mod random;
mod reports;
mod start;

use std::collections::BTreeMap;

use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::ids::Text;
use simquota_shared::message::{
    Ack, Body, Command, CreditAnswer, CreditRequest, Policy, RegisterAnswer, RegisterRequest,
    SimProfile, Status, UsageAck, UsageBatch,
};
use simquota_shared::units::{Boot, Epoch, Octets, Push, RequestNumber, Seq, UnixMillis};

use super::{
    Agent, AgentConfig, Durable, Effects, GateState, Identity, Input, Notice, Now, Outgoing,
    Reading, Row, Up,
};

/// The epoch of every bench.
const EPOCH: Epoch = Epoch(77);
/// The cloud's time when the bench's monotonic clock shows 0.
const CLOUD_MS: u64 = 1_800_000_000_000;

/// What is on flash: octets, as they were synced.
#[derive(Clone, Default)]
struct Disk {
    state: Option<Vec<u8>>,
    rows: BTreeMap<u64, Vec<u8>>,
}

/// Where the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    BeforeStore,
    AfterStore,
    AfterPublish,
}

struct Bench {
    config: AgentConfig,
    agent: Agent,
    disk: Disk,
    identity: Identity,
    up: u64,
    down: u64,
    own: u64,
    dropped: u64,
    /// Whether there is an interface.
    link: bool,
    now: Now,
    gate: Option<GateState>,
    sent: Vec<(u64, Outgoing)>,
    notices: Vec<Notice>,
    last: Effects,
    commits: u64,
    /// Cut the power at the commit of this number.
    power: Option<(u64, Cut)>,
    dead: bool,
    done: bool,
    new_epoch: bool,
}

fn identity(boot: &str, index: u64) -> Identity {
    Identity {
        boot_id: boot.parse().unwrap(),
        netns: 1,
        index,
        name: "wwan0".parse().unwrap(),
    }
}

fn config() -> AgentConfig {
    AgentConfig {
        iccid: Some("8931-1".parse().unwrap()),
        poll_ms: 10_000,
        ..AgentConfig::new("tracker-1".parse().unwrap(), "home".parse().unwrap())
    }
}

impl Bench {
    /// An agent that was just started on an empty store.
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: AgentConfig) -> Self {
        let now = Now {
            mono_ms: 1_000_000,
            wall_ms: None,
        };
        let (agent, effects) = Agent::start(config.clone(), None, EPOCH, now);
        let mut bench = Self {
            config,
            agent,
            disk: Disk::default(),
            identity: identity("kernel-1", 3),
            up: 5_000,
            down: 5_000,
            own: 0,
            dropped: 0,
            link: true,
            now,
            gate: None,
            sent: Vec::new(),
            notices: Vec::new(),
            last: Effects::default(),
            commits: 0,
            power: None,
            dead: false,
            done: false,
            new_epoch: false,
        };
        bench.carry_out(effects);
        bench
    }

    /// Connected, registered, and granted so many octets, renewed at 20 % left.
    fn open(grant: u64) -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench.register();
        bench.grant(grant);
        assert!(bench.gate().open);
        bench.wait_s(2); // requests keep a distance
        bench
    }

    fn reading(&self) -> Input {
        match self.link {
            true => Input::Reading(Reading {
                identity: self.identity.clone(),
                up: self.up,
                down: self.down,
                own: self.own,
                dropped: self.dropped,
            }),
            false => Input::NoReading,
        }
    }

    fn give(&mut self, input: Input) {
        if self.dead || self.done {
            return;
        }
        let effects = self.agent.step(input, self.now);
        self.carry_out(effects);
    }

    /// The contract of the module's page, with the power going where it was told to.
    fn carry_out(&mut self, effects: Effects) {
        self.last = effects.clone();
        if let Some(gate) = effects.lower {
            self.gate = Some(gate);
        }
        if effects.read {
            let only_lower = effects.store.is_none()
                && effects.raise.is_none()
                && effects.publish.is_empty()
                && effects.load.is_none()
                && effects.notices.is_empty()
                && !effects.done
                && !effects.new_epoch;
            assert!(only_lower, "a step that reads does nothing else");
            let reading = self.reading();
            return self.give(reading);
        }
        if let Some(commit) = effects.store {
            self.commits += 1;
            if self.power == Some((self.commits, Cut::BeforeStore)) {
                self.dead = true;
                return;
            }
            for row in &commit.rows {
                let before = self.disk.rows.insert(row.seq.0, row.encode().unwrap());
                assert!(before.is_none(), "a number is never used twice");
            }
            self.disk.state = Some(commit.state.encode().unwrap());
            self.disk.rows.retain(|seq, _| *seq > commit.state.acked.0);
            if self.power == Some((self.commits, Cut::AfterStore)) {
                self.dead = true;
                return;
            }
        }
        if let Some(gate) = effects.raise {
            self.gate = Some(gate);
        }
        for message in effects.publish {
            self.check_durable(&message);
            self.sent.push((self.now.mono_ms, message));
        }
        if self.power == Some((self.commits, Cut::AfterPublish)) {
            self.dead = true;
            return;
        }
        self.notices.extend(effects.notices);
        self.done |= effects.done;
        self.new_epoch |= effects.new_epoch;
        if let Some(load) = effects.load {
            let rows: Vec<Row> = self
                .rows()
                .into_iter()
                .filter(|row| row.last() >= load.from)
                .take(load.rows_max)
                .collect();
            self.give(Input::Rows(rows));
        }
    }

    /// Nothing is said that the disk does not hold.
    fn check_durable(&self, message: &Outgoing) {
        let state = self.state();
        match message.up {
            Up::Credit => {
                let request: CreditRequest = codec::decode(&message.payload).unwrap();
                assert_eq!(state.credit.outstanding.as_ref(), Some(&request));
                assert!(state.used >= request.used, "the total must not go back");
            }
            Up::Usage => {
                let batch: UsageBatch = codec::decode(&message.payload).unwrap();
                let spans: u64 = batch.spans.iter().map(|(_, count)| count - 1).sum();
                let last = batch.first.0 + batch.up.len() as u64 - 1 + spans;
                assert!(last < state.next_seq.0);
                assert!(batch.total <= state.used);
            }
            Up::Register => {
                let request: RegisterRequest = codec::decode(&message.payload).unwrap();
                assert_eq!(state.boot, request.boot);
            }
            Up::Ack => {
                let ack: Ack = codec::decode(&message.payload).unwrap();
                assert!(state.outcomes.contains(&(ack.id, ack.outcome)));
            }
            Up::Status => {}
        }
    }

    fn state(&self) -> Durable {
        Durable::decode(self.disk.state.as_ref().expect("nothing was committed")).unwrap()
    }

    fn rows(&self) -> Vec<Row> {
        let rows = self.disk.rows.values();
        rows.map(|row| Row::decode(row).unwrap()).collect()
    }

    fn gate(&self) -> &GateState {
        self.gate.as_ref().unwrap()
    }

    /// The process dies and is started again on what the disk holds. The kernel's counter lives on.
    fn restart(&mut self) {
        let durable = self
            .disk
            .state
            .as_ref()
            .map(|state| Durable::decode(state).unwrap());
        self.power = None;
        self.dead = false;
        self.done = false;
        self.own = 0;
        let (agent, effects) = Agent::start(self.config.clone(), durable, EPOCH, self.now);
        self.agent = agent;
        self.carry_out(effects);
    }

    /// Octets pass; the agent has not looked yet.
    fn traffic(&mut self, up: u64, down: u64) {
        self.up += up;
        self.down += down;
    }

    /// Lets time pass to the second, waking the agent whenever it wants to be.
    fn wait_s(&mut self, seconds: u64) {
        let until = self.now.mono_ms + seconds * 1000;
        let mut woken = 0;
        while let Some(at) = self.last.wake_at_ms.filter(|at| *at <= until) {
            if self.dead || self.done || self.new_epoch {
                break;
            }
            woken += 1;
            assert!(woken < 20_000, "the agent spins: {:?}", self.last);
            self.turn(at.max(self.now.mono_ms));
            self.give(Input::Tick);
        }
        self.turn(until);
    }

    fn turn(&mut self, mono_ms: u64) {
        let passed = mono_ms - self.now.mono_ms;
        self.now.mono_ms = mono_ms;
        self.now.wall_ms = self.now.wall_ms.map(|wall| wall + passed);
    }

    /// Traffic, metered at once.
    fn use_octets(&mut self, up: u64, down: u64) {
        self.traffic(up, down);
        let reading = self.reading();
        self.give(reading);
    }

    fn connect(&mut self) {
        self.give(Input::Connected(Some("sim".parse().unwrap())));
    }

    fn register(&mut self) {
        let mut answer = registered(self.state().boot);
        answer.mark = self.state().acked;
        self.give(Input::Register(answer));
    }

    fn cloud_now(&self) -> UnixMillis {
        UnixMillis(CLOUD_MS + self.now.mono_ms)
    }

    /// Answers the last request with so many octets beyond its used total or the present ceiling.
    fn grant(&mut self, octets: u64) {
        let request = self.last_request();
        let base = request.used.max(self.state().credit.ceiling);
        let answer = answer(&request, base.0 + octets, self.cloud_now());
        self.give(Input::Credit(answer));
    }

    fn all(&self, up: Up) -> Vec<Vec<u8>> {
        let sent = self.sent.iter().filter(|(_, message)| message.up == up);
        sent.map(|(_, message)| message.payload.clone()).collect()
    }

    fn requests(&self) -> Vec<CreditRequest> {
        let all = self.all(Up::Credit);
        all.iter().map(|one| codec::decode(one).unwrap()).collect()
    }

    fn last_request(&self) -> CreditRequest {
        self.requests().pop().expect("no request was sent")
    }

    fn batches(&self) -> Vec<UsageBatch> {
        let all = self.all(Up::Usage);
        all.iter().map(|one| codec::decode(one).unwrap()).collect()
    }

    fn acks(&self) -> Vec<Ack> {
        let all = self.all(Up::Ack);
        all.iter().map(|one| codec::decode(one).unwrap()).collect()
    }

    fn statuses(&self) -> Vec<Status> {
        let all = self.all(Up::Status);
        all.iter().map(|one| codec::decode(one).unwrap()).collect()
    }

    /// Acknowledges everything that is on the disk.
    fn acknowledge(&mut self) {
        let state = self.state();
        let ack = ack(&state, state.last_seq(), state.acked.0 + 1);
        self.give(Input::UsageAck(ack));
    }

    fn command(&mut self, id: &str, number: u64, body: Body) {
        let command = Command {
            epoch: EPOCH,
            id: id.parse().unwrap(),
            number,
            expires: UnixMillis(u64::MAX),
            now: self.cloud_now(),
            body,
        };
        self.give(Input::Command(command));
    }

    fn noticed(&self, wanted: impl Fn(&Notice) -> bool) -> bool {
        self.notices.iter().any(wanted)
    }
}

fn policy() -> Policy {
    Policy {
        version: 1,
        ..Policy::DEFAULT
    }
}

fn registered(boot: Boot) -> RegisterAnswer {
    RegisterAnswer {
        epoch: EPOCH,
        boot,
        code: Code::SUCCESS,
        now: UnixMillis(CLOUD_MS),
        sim: Some(SimProfile {
            iccid: "8931-1".parse().unwrap(),
            imsi: Text::clipped("262010000000001"),
            operator: Text::clipped("Op"),
            zones: vec!["home".parse().unwrap()],
            apn: Text::clipped("iot"),
        }),
        policy: Some(policy()),
        retry_s: None,
        mark: simquota_shared::units::Seq::ZERO,
        total: simquota_shared::units::Octets::ZERO,
    }
}

/// A grant up to `ceiling`, valid for an hour, with 20 % of what is granted as threshold.
fn answer(request: &CreditRequest, ceiling: u64, now: UnixMillis) -> CreditAnswer {
    CreditAnswer {
        epoch: request.epoch,
        number: request.number,
        push: Push::ZERO,
        code: Code::SUCCESS,
        ceiling: Octets(ceiling),
        stop: Octets(ceiling + 20_000),
        decided: now,
        valid_until: now.plus_s(3600),
        renew_below: Octets(ceiling.saturating_sub(request.used.0) / 5),
        final_unit: None,
        silence_s: 0,
        hold_s: 0,
        balance: Octets(1_000_000),
        retry_s: None,
    }
}

fn push(number: u64, push: u64, ceiling: u64, now: UnixMillis) -> CreditAnswer {
    CreditAnswer {
        epoch: EPOCH,
        number: RequestNumber(number),
        push: Push(push),
        code: Code::SUCCESS,
        ceiling: Octets(ceiling),
        stop: Octets(ceiling + 20_000),
        decided: now,
        valid_until: now.plus_s(36_000),
        renew_below: Octets(2_000),
        final_unit: None,
        silence_s: 0,
        hold_s: 0,
        balance: Octets(1_000_000),
        retry_s: None,
    }
}

/// An acknowledgement up to `mark`, with the total that the device's rows say.
fn ack(state: &Durable, mark: Seq, first: u64) -> UsageAck {
    UsageAck {
        epoch: state.epoch,
        code: Code::SUCCESS,
        mark,
        total: state.used,
        first: Seq(first),
        retry_s: None,
        now: UnixMillis(CLOUD_MS),
    }
}
