//! Random lives of one device against a small model of the cloud, over a network that drops, repeats and reorders,
//! with the power going anywhere. One seed decides everything.

use simquota_shared::code::Code;
use simquota_shared::message::{Body, CreditAnswer, Kind, UsageAck};
use simquota_shared::units::{Octets, Seq};

use super::super::Notice;
use super::*;

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }

    fn once_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }
}

/// What a cloud by rules R4-R7 would do for one device, without packages and leases.
#[derive(Default)]
struct Cloud {
    mark: u64,
    charged: u64,
    highest: u64,
    ceiling: u64,
    latest: Option<CreditAnswer>,
    answer_to_highest: Option<CreditAnswer>,
}

impl Cloud {
    fn decide(
        &mut self,
        request: &CreditRequest,
        now: UnixMillis,
        dice: &mut Dice,
    ) -> CreditAnswer {
        if request.number.0 <= self.highest {
            let stored = match request.number.0 == self.highest {
                true => &self.answer_to_highest,
                false => &self.latest,
            };
            return stored.clone().unwrap();
        }
        let p = request.used.0.max(self.charged);
        let empty = dice.once_in(4);
        let granted = if empty { 0 } else { 500 + dice.roll(20_000) };
        self.ceiling = match request.kind {
            Kind::Initial => p + granted,
            Kind::Update => self.ceiling.max(p) + granted,
            Kind::Final => p,
        };
        let answer = CreditAnswer {
            code: match empty && request.kind != Kind::Final {
                true => Code::CREDIT_LIMIT_REACHED,
                false => Code::SUCCESS,
            },
            valid_until: match request.kind {
                Kind::Final => None,
                _ => now.plus_s(600),
            },
            hold_s: 200 * dice.roll(2),
            ..answer(request, self.ceiling, now)
        };
        self.highest = request.number.0;
        self.latest = Some(answer.clone());
        self.answer_to_highest = Some(answer.clone());
        answer
    }

    fn top_up(&mut self, now: UnixMillis) -> Option<CreditAnswer> {
        let latest = self.latest.as_ref()?;
        if latest.code != Code::CREDIT_LIMIT_REACHED || latest.valid_until? < now {
            return None;
        }
        self.ceiling += 3_000;
        let pushed = push(latest.number.0, latest.push.0 + 1, self.ceiling, now);
        let pushed = CreditAnswer {
            code: Code::CREDIT_LIMIT_REACHED,
            valid_until: latest.valid_until,
            ..pushed
        };
        self.latest = Some(pushed.clone());
        Some(pushed)
    }

    fn charge(&mut self, batch: &UsageBatch) -> UsageAck {
        let sums: Vec<u64> = batch
            .up
            .iter()
            .zip(&batch.down)
            .map(|(u, d)| u + d)
            .collect();
        let last = batch.first.0 + sums.len() as u64 - 1;
        if batch.first.0 <= self.mark + 1 && last > self.mark {
            let new = usize::try_from(self.mark + 1 - batch.first.0).unwrap();
            let octets: u64 = sums[new..].iter().sum();
            assert_eq!(batch.total.0, self.charged + octets, "total and sum");
            self.charged = batch.total.0;
            self.mark = last;
        }
        UsageAck {
            epoch: EPOCH,
            code: Code::SUCCESS,
            mark: Seq(self.mark),
            total: Octets(self.charged),
            first: batch.first,
            retry_s: None,
            now: UnixMillis(CLOUD_MS),
        }
    }
}

/// What was ever seen, for what must hold for ever.
#[derive(Default)]
struct Seen {
    bytes: BTreeMap<u64, Vec<u8>>,
    rows: BTreeMap<u64, Row>,
    used: u64,
    ceiling: u64,
    floor: u64,
    forwarded: usize,
    mark_said: u64,
    connected: bool,
}

struct Life {
    seed: u64,
    bench: Bench,
    cloud: Cloud,
    dice: Dice,
    seen: Seen,
    up: Vec<Outgoing>,
    down: Vec<Input>,
}

impl Life {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            bench: Bench::new(),
            cloud: Cloud::default(),
            dice: Dice(seed),
            seen: Seen::default(),
            up: Vec::new(),
            down: Vec::new(),
        }
    }

    fn act(&mut self) {
        match self.dice.roll(24) {
            0..6 => {
                let (up, down) = (self.dice.roll(900), self.dice.roll(2_500));
                self.bench.traffic(up, down);
                self.bench.own += self.dice.roll(40).min(up);
            }
            6..9 => {
                let seconds = 1 + self.dice.roll(40);
                self.bench.wait_s(seconds);
            }
            9 => {
                let seconds = self.dice.roll(900);
                self.bench.wait_s(seconds);
            }
            10 => self.connect(),
            11 => {
                self.seen.connected = false;
                self.bench.give(Input::Disconnected);
            }
            12 => self.bench.give(Input::GateBlocked),
            13 => {
                let zone = ["home", "abroad"][self.dice.roll(2) as usize];
                self.bench.give(Input::ZoneChanged(zone.parse().unwrap()));
            }
            14 => {
                let cut = [Cut::BeforeStore, Cut::AfterStore, Cut::AfterPublish];
                let cut = cut[self.dice.roll(3) as usize];
                let commit = self.bench.commits + 1 + self.dice.roll(3);
                self.bench.power = Some((commit, cut));
            }
            15 => self.command(),
            16 if self.dice.once_in(4) => self.bench.give(Input::Shutdown),
            17 if self.dice.once_in(3) => self.bench.restart(),
            18 => {
                if let Some(push) = self.cloud.top_up(self.bench.cloud_now()) {
                    self.down.push(Input::Credit(push));
                }
            }
            _ => self.network(false),
        }
        if self.bench.dead || self.bench.done {
            self.seen.connected = false;
            self.bench.restart();
        }
        self.check();
    }

    fn connect(&mut self) {
        if !self.seen.connected {
            self.seen.connected = true;
            self.bench.connect();
            // The broker kept it.
            if let Some(latest) = self.cloud.latest.clone() {
                self.bench.give(Input::Credit(latest));
            }
        }
    }

    fn command(&mut self) {
        let bodies = [
            Body::Reauthorise,
            Body::Report,
            Body::Revoke,
            Body::Suspend,
            Body::Resume,
            Body::Resume,
        ];
        let body = bodies[self.dice.roll(6) as usize].clone();
        let number = self.bench.agent.state().command_number + 1;
        let id = format!("c{}", self.dice.roll(1_000_000));
        self.bench.command(&id, number, body);
    }

    /// Moves messages, each of them perhaps lost, twice or late.
    fn network(&mut self, reliable: bool) {
        let sent = &self.bench.sent[self.seen.forwarded..];
        self.up
            .extend(sent.iter().map(|(_, message)| message.clone()));
        self.seen.forwarded = self.bench.sent.len();
        if !self.seen.connected {
            return;
        }
        for message in std::mem::take(&mut self.up) {
            match if reliable { 9 } else { self.dice.roll(10) } {
                0 => {}
                1 => self.up.push(message),
                2 => {
                    self.receive(&message);
                    self.receive(&message);
                }
                _ => self.receive(&message),
            }
        }
        let mut waiting = std::mem::take(&mut self.down);
        while !waiting.is_empty() {
            let which = if reliable {
                0
            } else {
                self.dice.roll(waiting.len() as u64)
            };
            let input = waiting.remove(which as usize);
            match if reliable { 9 } else { self.dice.roll(10) } {
                0 => {}
                1 => self.down.push(input),
                2 => {
                    self.bench.give(input.clone());
                    self.bench.give(input);
                }
                _ => self.bench.give(input),
            }
        }
    }

    fn receive(&mut self, message: &Outgoing) {
        let now = self.bench.cloud_now();
        match message.up {
            Up::Register => {
                let request: RegisterRequest = codec::decode(&message.payload).unwrap();
                let mut answer = registered(request.boot);
                answer.now = now;
                answer.mark = simquota_shared::units::Seq(self.cloud.mark);
                self.down.push(Input::Register(answer));
            }
            Up::Credit => {
                let request: CreditRequest = codec::decode(&message.payload).unwrap();
                let answer = self.cloud.decide(&request, now, &mut self.dice);
                self.down.push(Input::Credit(answer));
            }
            Up::Usage => {
                let batch: UsageBatch = codec::decode(&message.payload).unwrap();
                let ack = self.cloud.charge(&batch);
                self.seen.mark_said = self.seen.mark_said.max(ack.mark.0);
                self.down.push(Input::UsageAck(ack));
            }
            Up::Ack | Up::Status => {}
        }
    }

    fn check(&mut self) {
        let seed = self.seed;
        let state = self.bench.state();
        let metered = self.bench.up + self.bench.down - 10_000;
        for row in self.bench.rows() {
            let before = self.seen.rows.insert(row.seq.0, row.clone());
            assert!(
                before.is_none_or(|before| before == row),
                "seed {seed}: a row changed"
            );
        }
        for (_, message) in &self.bench.sent {
            if message.up == Up::Credit {
                let request: CreditRequest = codec::decode(&message.payload).unwrap();
                let number = request.number.0;
                let first = self
                    .seen
                    .bytes
                    .entry(number)
                    .or_insert(message.payload.clone());
                assert_eq!(
                    *first, message.payload,
                    "seed {seed}: {number} has other bytes"
                );
            }
        }
        self.bench.sent.clear_forwarded(&mut self.seen.forwarded);
        assert!(
            state.used.0 >= self.seen.used,
            "seed {seed}: the used total went back"
        );
        assert!(self.bench.agent.used().0 <= metered, "seed {seed}: doubled");
        assert!(
            state.acked.0 <= self.seen.mark_said,
            "seed {seed}: above the ledger"
        );
        let floor = state.credit.floor.0;
        assert!(
            state.credit.ceiling.0 >= self.seen.ceiling || floor > self.seen.floor,
            "seed {seed}: a ceiling was lowered without a cut"
        );
        let gate = self.bench.gate();
        if gate.open {
            assert!(
                gate.ceiling <= state.credit.ceiling,
                "seed {seed}: raised too early"
            );
            assert!(
                gate.ceiling.0 <= self.cloud.ceiling,
                "seed {seed}: {} is not backed, the cloud says {}",
                gate.ceiling,
                self.cloud.ceiling
            );
        }
        let odd = |n: &Notice| matches!(n, Notice::NewEpochNeeded(_) | Notice::Unwritable(_));
        assert!(
            !self.bench.noticed(odd),
            "seed {seed}: {:?}",
            self.bench.notices
        );
        self.seen.used = state.used.0;
        self.seen.ceiling = state.credit.ceiling.0;
        self.seen.floor = floor;
    }

    /// All is said and done: the ledger has everything, and nobody is stuck.
    fn settle(&mut self) {
        let seed = self.seed;
        self.bench.restart();
        self.seen.connected = false;
        self.down.clear();
        self.connect();
        let number = self.bench.agent.state().command_number + 1;
        self.bench.command("last", number, Body::Resume);
        for _ in 0..200 {
            self.network(true);
            self.bench.wait_s(30);
            self.check();
        }
        self.bench.command("report", number + 1, Body::Report);
        for _ in 0..4 {
            self.network(true);
        }
        let metered = self.bench.up + self.bench.down - 10_000;
        assert_eq!(
            self.bench.agent.used(),
            Octets(metered),
            "seed {seed}: lost"
        );
        assert_eq!(self.cloud.charged, metered, "seed {seed}: not charged");
        let sum: u64 = self.seen.rows.values().map(|row| row.up + row.down).sum();
        assert_eq!(sum, metered, "seed {seed}: the rows");
        let numbers: Vec<u64> = self.seen.rows.keys().copied().collect();
        let expected: Vec<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(numbers, expected, "seed {seed}: a gap");
        assert_eq!(self.bench.agent.state().backlog(), 0, "seed {seed}");
        let name = self.bench.agent.state_name();
        assert!(
            ["open", "idle", "exhausted"].contains(&name),
            "seed {seed}: stuck in {name}"
        );
    }
}

/// What was forwarded is not looked at again.
trait Clear {
    fn clear_forwarded(&mut self, forwarded: &mut usize);
}

impl Clear for Vec<(u64, Outgoing)> {
    fn clear_forwarded(&mut self, forwarded: &mut usize) {
        self.drain(..*forwarded);
        *forwarded = 0;
    }
}

#[test]
fn a_thousand_random_lives_keep_the_rules() {
    for seed in 0..1_000 {
        let mut life = Life::new(seed);
        for _ in 0..250 {
            life.act();
        }
        life.settle();
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let play = || {
        let mut life = Life::new(4711);
        (0..300).for_each(|_| life.act());
        (life.bench.disk.state, life.bench.disk.rows, life.seen.bytes)
    };
    assert_eq!(play(), play());
}
