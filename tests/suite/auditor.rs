//! An auditor that shares nothing with the ledger: plain integers, fed with what went in (commands, requests, samples)
//! and with what came out (answers, movements of the journal). Random fleets live random weeks; after every step it
//! must arrive at the ledger's figures.
//!
//! What it holds against the ledger, in its own words:
//! - a package is what was bought and credited, and its pockets add up to that; none is ever below zero;
//! - a device is charged exactly what it reported, in order and once; what it is charged, packages, debt or nobody else
//!   paid;
//! - what a device may use beyond its position is set aside for it while its lease runs;
//! - a repeat is answered, moves nothing and leaves no entry;
//! - what came late is said to be late, to the octet, and after what.
//!
//! Ten thousand cases; more with `PROPTEST_CASES=1000000 cargo test --release -p simquota-tests auditor`. A failure is
//! shrunk to a short story.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_cbor::Value;
use simquota_cloud::charging::{DeviceRequest, Outgoing, Rules, Turn, Verdict};
use simquota_cloud::ledger::Ledger;
use simquota_cloud::ledger::account::{Account, Pocket, Slot};
use simquota_cloud::ledger::entry::{Entry, Subject};
use simquota_shared::codec::decode;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, Text};
use simquota_shared::message::{
    Closes, CreditAnswer, CreditRequest, FleetCommand, FleetReply, Kind, Policy, Reason,
    RegisterAnswer, RegisterRequest, UsageAck, UsageBatch,
};
use simquota_shared::topic::{Down, Topic};
use simquota_shared::units::{Boot, Epoch, Octets, RequestNumber, Seq, UnixMillis};
use simquota_tests::late::Lateness;

const DEVICES: usize = 3;
const ZONES: [&str; 2] = ["home", "roam"];
const BEGIN_MS: u64 = 1_795_392_000_000;

/// What happens next.
#[derive(Clone, Debug)]
enum Step {
    /// A package: for a device or the pool, of so many kilo-octets, that ends after so many hours (0: never).
    Buy(Option<usize>, u64, u64, Option<usize>),
    /// The n-th package is cancelled, or credited.
    Cancel(usize),
    Credit(usize, u64),
    /// The last command comes again.
    Again,
    /// Traffic that the device meters, and whether it is reported at once.
    Use(usize, u64, bool),
    /// A report: all that waits, or the batch that is so far behind (a repeat or one out of order).
    Report(usize, usize),
    /// A credit request of this kind, for so many octets, in this zone.
    Ask(usize, Kind, u64, usize),
    /// The device's last request comes again.
    AskAgain(usize),
    /// Minutes pass.
    Pass(u64),
    /// The store was lost; with or without a memory of it.
    Reset(usize, bool),
    /// The fleet's manager says stop, or go on.
    Suspend(usize, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = 0..DEVICES;
    let kind = prop_oneof![
        2 => Just(Kind::Initial),
        5 => Just(Kind::Update),
        1 => Just(Kind::Final)
    ];
    let step = prop_oneof![
        3 => (
            proptest::option::of(device.clone()),
            1_u64..5_000,
            prop_oneof![Just(0_u64), 1_u64..72],
            proptest::option::weighted(0.3, 0..ZONES.len()),
        )
            .prop_map(|(device, kilo, hours, zone)| Step::Buy(device, kilo, hours, zone)),
        1 => (0_usize..8).prop_map(Step::Cancel),
        1 => (0_usize..8, 1_u64..100_000).prop_map(|(n, octets)| Step::Credit(n, octets)),
        1 => Just(Step::Again),
        8 => (device.clone(), 1_u64..400_000, any::<bool>())
            .prop_map(|(device, octets, now)| Step::Use(device, octets, now)),
        4 => (device.clone(), 0_usize..4).prop_map(|(device, back)| Step::Report(device, back)),
        8 => (device.clone(), kind, 0_u64..1_000_000, 0..ZONES.len())
            .prop_map(|(device, kind, want, zone)| Step::Ask(device, kind, want, zone)),
        2 => device.clone().prop_map(Step::AskAgain),
        4 => (1_u64..600).prop_map(Step::Pass),
        1 => (device.clone(), any::<bool>()).prop_map(|(device, known)| Step::Reset(device, known)),
        1 => (device, any::<bool>()).prop_map(|(device, stop)| Step::Suspend(device, stop)),
    ];
    proptest::collection::vec(step, 1..40)
}

/// A device, as it knows itself, and what the auditor knows of its account.
#[derive(Default)]
struct Device {
    epoch: u64,
    number: u64,
    used: u64,
    /// Batches since the epoch began: (sequence number, octets, total after it).
    batches: Vec<(u64, u64, u64)>,
    /// How many of them were reported at least once.
    reported: usize,
    last_request: Option<CreditRequest>,
    last_answer: Option<Vec<u8>>,
    /// The highest ceiling and position that a decided answer named, until the next cut.
    ceiling: u64,
    valid_until: u64,
    /// What the ledger ought to have: the mark and what is charged, of the epoch in force.
    mark: u64,
    charged: u64,
    /// Charged in epochs that are over.
    before: u64,
}

/// What the journal's movements add up to.
#[derive(Default)]
struct Sums {
    /// By package and pocket; sources count down.
    pockets: BTreeMap<(String, String), i128>,
    /// By device and account.
    slots: BTreeMap<(String, String), i128>,
    /// What packages paid for a device, through entries of its own or of purchases that settled its debt.
    paid: BTreeMap<String, i128>,
}

struct World {
    ledger: Ledger,
    rules: Rules,
    journal: usize,
    now: u64,
    commands: u64,
    last_command: Option<(FleetCommand, Vec<u8>)>,
    bought: BTreeMap<String, (u64, u64)>,
    sums: Sums,
    lateness: Lateness,
    devices: Vec<Device>,
    said: Vec<Outgoing>,
}

fn id(n: usize) -> DeviceId {
    format!("device-{n}").parse().unwrap()
}

fn fleet() -> FleetId {
    "buses".parse().unwrap()
}

fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

fn number(value: u64) -> Value {
    Value::Integer(i128::from(value))
}

impl World {
    fn new() -> Self {
        let rules = Rules {
            grant_min: Octets(1000),
            grant_max: Octets(500_000),
            validity_min_s: 600,
            policy: Policy {
                version: 1,
                validity_s: 3600,
                ..Policy::DEFAULT
            },
            ..Rules::default()
        };
        let mut world = Self {
            ledger: Ledger::default(),
            rules,
            journal: 0,
            now: BEGIN_MS,
            commands: 0,
            last_command: None,
            bought: BTreeMap::new(),
            sums: Sums::default(),
            lateness: Lateness::default(),
            devices: Vec::new(),
            said: Vec::new(),
        };
        world.turn(|turn| turn.bootstrap_admin(&"admin".parse().unwrap()).unwrap());
        world.order(None, "fleet-create", &[("fleet", text("buses"))]);
        let sim = |n: usize| {
            let names = [
                format!("8988{n:015}"),
                format!("90170{n:010}"),
                "operator".to_owned(),
            ];
            let zones = ZONES.map(text).to_vec();
            let mut row: Vec<Value> = names.into_iter().map(text).collect();
            row.extend([Value::Array(zones), text("iot")]);
            Value::Array(row)
        };
        let sims = Value::Array((0..DEVICES).map(sim).collect());
        world.order(None, "sim-import", &[("sims", sims)]);
        let enrolment = [
            ("enrolment", text("spring")),
            ("fleet", text("buses")),
            ("devices", number(10)),
        ];
        world.order(None, "enrolment-create", &enrolment);
        for n in 0..DEVICES {
            world.devices.push(Device::default());
            world.begin(n, None);
        }
        world
    }

    /// One decision, and its entries added up.
    fn turn<T>(&mut self, act: impl FnOnce(&mut Turn<'_>) -> T) -> (T, usize) {
        let mut turn = Turn::new(&mut self.ledger, &self.rules, UnixMillis(self.now));
        let result = act(&mut turn);
        let entries = std::mem::take(&mut turn.entries);
        self.said = std::mem::take(&mut turn.outgoing);
        for entry in &entries {
            self.sums.add(entry);
            assert_eq!(self.lateness.follow(entry), None);
        }
        self.journal += entries.len();
        (result, entries.len())
    }

    fn order(&mut self, fleet: Option<&FleetId>, name: &str, args: &[(&str, Value)]) -> FleetReply {
        self.commands += 1;
        let args = args.iter().map(|(name, value)| (text(name), value.clone()));
        let command = FleetCommand {
            id: format!("order-{}", self.commands).parse().unwrap(),
            expires: UnixMillis(u64::MAX),
            expected: None,
            dry: false,
            name: Text::clipped(name),
            args: Value::Map(args.collect()),
        };
        let payload = self.send(fleet, &command);
        if fleet.is_some() {
            self.last_command = Some((command, payload.clone()));
        }
        decode(&payload).unwrap()
    }

    fn send(&mut self, fleet: Option<&FleetId>, command: &FleetCommand) -> Vec<u8> {
        let kid = Kid::first(&"admin");
        let (verdict, _) = self.turn(|turn| turn.command(fleet, &kid, command).unwrap());
        assert_eq!(verdict, Verdict::Done);
        let reply =
            |said: &&Outgoing| matches!(said.topic, Topic::FleetReply(..) | Topic::OpsReply(_));
        self.said.iter().rfind(reply).unwrap().payload.clone()
    }

    /// What a device hears; with the number of entries that it made.
    fn say(&mut self, n: usize, request: DeviceRequest, down: Down) -> (Option<Vec<u8>>, usize) {
        let kid = Kid::first(&"spring");
        let (verdict, entries) = self.turn(|turn| turn.device(&id(n), &kid, request).unwrap());
        assert_eq!(verdict, Verdict::Done);
        let topic = Topic::Down(id(n), down);
        let heard = self.said.iter().find(|said| said.topic == topic);
        (heard.map(|said| said.payload.clone()), entries)
    }

    /// A new epoch: the first, or one after a lost store.
    fn begin(&mut self, n: usize, closes: Option<(u64, u64)>) {
        let before = self.devices[n].before + self.devices[n].charged;
        let epoch = self.devices[n].epoch + 1;
        self.devices[n] = Device {
            epoch,
            before,
            ..Device::default()
        };
        let request = RegisterRequest {
            epoch: Epoch(epoch),
            boot: Boot(1),
            serial: Text::clipped("serial"),
            model: Text::clipped("m"),
            firmware: Text::clipped("1"),
            capabilities: Vec::new(),
            iccid: None,
            closes: closes.map(|(epoch, used)| Closes {
                epoch: Epoch(epoch),
                total: Octets(used),
            }),
        };
        let (heard, _) = self.say(n, DeviceRequest::Register(request), Down::Register);
        let answer: RegisterAnswer = decode(&heard.unwrap()).unwrap();
        assert!(answer.code.is_success(), "{answer:?}");
    }

    fn report(&mut self, n: usize, index: usize) {
        let device = &self.devices[n];
        let Some(&(seq, octets, total)) = device.batches.get(index) else {
            return;
        };
        let in_order = seq == device.mark + 1;
        let repeat = seq <= device.mark;
        let batch = UsageBatch {
            epoch: Epoch(device.epoch),
            boot: Boot(1),
            iccid: format!("8988{:015}", 0).parse().unwrap(),
            zone: ZONES[0].parse().unwrap(),
            first: Seq(seq),
            clock: 1,
            t0: self.now / 1000,
            interval_s: 60,
            total: Octets(total),
            dt: Vec::new(),
            up: vec![octets / 3],
            down: vec![octets - octets / 3],
            own: Vec::new(),
            flags: Vec::new(),
            spans: Vec::new(),
            unsure: Vec::new(),
        };
        let batch = UsageBatch {
            iccid: self.ledger.devices[&id(n)].iccid.clone(),
            ..batch
        };
        let (heard, entries) = self.say(n, DeviceRequest::Usage(batch), Down::Usage);
        let device = &mut self.devices[n];
        if in_order {
            device.mark = seq;
            device.charged = total;
        }
        device.reported = device.reported.max(index + 1);
        let ack: UsageAck = decode(&heard.unwrap()).unwrap();
        assert_eq!(
            (ack.mark.0, ack.total.0),
            (device.mark, device.charged),
            "{ack:?}"
        );
        if repeat {
            assert_eq!(entries, 0, "a repeat leaves no entry");
        } else if !in_order {
            // That octets are missing is told, once a day, and moves nothing: the books are compared after each step.
            assert!(entries <= 1, "a gap left {entries} entries");
        }
    }

    fn ask(&mut self, n: usize, request: CreditRequest) {
        let again = self.devices[n].last_request.as_ref() == Some(&request);
        let (heard, entries) = self.say(n, DeviceRequest::Credit(request.clone()), Down::Credit);
        let payload = heard.unwrap();
        let device = &mut self.devices[n];
        if again {
            assert_eq!(entries, 0, "a repeat leaves no entry");
            assert_eq!(
                Some(&payload),
                device.last_answer.as_ref(),
                "the same octets"
            );
            return;
        }
        let answer: CreditAnswer = decode(&payload).unwrap();
        assert!(answer.code.is_decision(), "{answer:?}");
        // Past its validity a grant may have lapsed, and then there is nothing to hold on to.
        if request.kind == Kind::Update && self.now < device.valid_until {
            assert!(
                answer.ceiling.0 >= device.ceiling,
                "an update never lowers: {answer:?}"
            );
        }
        device.ceiling = answer.ceiling.0;
        device.valid_until = answer.valid_until.map_or(0, |until| until.0);
        device.last_request = Some(request);
        device.last_answer = Some(payload);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Buy(owner, kilo, hours, zone) => {
                let name = format!("package-{}", self.commands);
                let mut args = vec![("package", text(&name)), ("volume", number(kilo * 1000))];
                args.extend(owner.map(|n| ("device", text(id(n)))));
                if *hours > 0 {
                    args.push(("until", number(self.now + hours * 3_600_000)));
                }
                args.extend(zone.map(|n| ("zones", Value::Array(vec![text(ZONES[n])]))));
                let reply = self.order(Some(&fleet()), "package-buy", &args);
                assert!(reply.code.is_success(), "{reply:?}");
                self.bought.insert(name, (kilo * 1000, 0));
            }
            Step::Cancel(n) | Step::Credit(n, _) => {
                let Some(name) = self.bought.keys().nth(*n).cloned() else {
                    return;
                };
                let mut args = vec![("package", text(&name))];
                if let Step::Credit(_, octets) = step {
                    args.extend([("octets", number(*octets)), ("why", text("goodwill"))]);
                    let reply = self.order(Some(&fleet()), "package-credit", &args);
                    if reply.code.is_success() {
                        self.bought.get_mut(&name).unwrap().1 += octets;
                    }
                } else {
                    self.order(Some(&fleet()), "package-cancel", &args);
                }
            }
            Step::Again => {
                if let Some((command, reply)) = self.last_command.clone() {
                    let entries = self.journal;
                    assert_eq!(
                        self.send(Some(&fleet()), &command),
                        reply,
                        "the same answer"
                    );
                    assert_eq!(self.journal, entries, "and no entry");
                }
            }
            Step::Use(n, octets, now) => {
                let device = &mut self.devices[*n];
                device.used += octets;
                let seq = device.batches.len() as u64 + 1;
                device.batches.push((seq, *octets, device.used));
                if *now {
                    self.report_rest(*n);
                }
            }
            Step::Report(n, 0) => self.report_rest(*n),
            Step::Report(n, back) => {
                if let Some(index) = self.devices[*n].batches.len().checked_sub(*back) {
                    self.report(*n, index);
                }
            }
            Step::Ask(n, kind, want, zone) => {
                let device = &mut self.devices[*n];
                device.number += 1;
                let request = CreditRequest {
                    epoch: Epoch(device.epoch),
                    number: RequestNumber(device.number),
                    kind: *kind,
                    used: Octets(device.used),
                    want: Octets(*want),
                    reason: Reason::THRESHOLD,
                    zone: ZONES[*zone].parse().unwrap(),
                    held: None,
                };
                // A device reports what it used before it says that it used it, or the line rate would not allow it.
                self.report_rest(*n);
                self.ask(*n, request);
            }
            Step::AskAgain(n) => {
                if let Some(request) = self.devices[*n].last_request.clone() {
                    self.ask(*n, request);
                }
            }
            Step::Pass(minutes) => {
                self.now += minutes * 60_000;
                while self.turn(|turn| turn.sweep(100).unwrap()).0 {}
            }
            Step::Reset(n, known) => {
                let device = &mut self.devices[*n];
                let closes = known.then_some((device.epoch, device.used));
                if *known {
                    // What was metered and not reported is charged as one gap.
                    device.charged = device.charged.max(device.used);
                }
                self.begin(*n, closes);
            }
            Step::Suspend(n, stop) => {
                let name = if *stop {
                    "device-suspend"
                } else {
                    "device-resume"
                };
                self.order(Some(&fleet()), name, &[("device", text(id(*n)))]);
            }
        }
    }

    fn report_rest(&mut self, n: usize) {
        for index in 0..self.devices[n].batches.len() {
            if self.devices[n].batches[index].0 > self.devices[n].mark {
                self.report(n, index);
            }
        }
    }

    /// Pushes move ceilings, too; what is heard last counts.
    fn hear_pushes(&mut self) {
        for n in 0..DEVICES {
            let topic = Topic::Down(id(n), Down::Credit);
            for said in self.said.iter().filter(|said| said.topic == topic) {
                let answer: CreditAnswer = decode(&said.payload).unwrap();
                let device = &mut self.devices[n];
                if answer.epoch.0 == device.epoch && answer.number.0 == device.number {
                    device.ceiling = device.ceiling.max(answer.ceiling.0);
                }
            }
        }
    }

    fn audit(&self) {
        for (name, (volume, credited)) in &self.bought {
            let pocket = |pocket: &str| {
                let key = (name.clone(), pocket.to_owned());
                self.sums.pockets.get(&key).copied().unwrap_or(0)
            };
            assert_eq!(-pocket("Volume"), i128::from(*volume), "{name}: bought");
            assert_eq!(
                -pocket("Credited"),
                i128::from(*credited),
                "{name}: credited"
            );
            let parts = [
                "Available",
                "Reserved",
                "Used",
                "Expired",
                "Refunded",
                "MovedOut",
            ];
            for part in parts {
                assert!(pocket(part) >= 0, "{name}: {part} is {}", pocket(part));
            }
            let sum: i128 = parts.map(pocket).iter().sum();
            assert_eq!(sum, i128::from(volume + credited), "{name}: its pockets");
            let books = &self.ledger.packages[&name.parse().unwrap()].balances;
            for (part, octets) in [
                ("Available", books.available),
                ("Reserved", books.reserved),
                ("Used", books.used),
                ("Expired", books.expired),
                ("Refunded", books.refunded),
            ] {
                assert_eq!(
                    pocket(part),
                    i128::from(octets.0),
                    "{name}: {part} in the books"
                );
            }
        }
        for (n, device) in self.devices.iter().enumerate() {
            let name = id(n).to_string();
            let slot = |slot: &str| {
                let key = (name.clone(), slot.to_owned());
                self.sums.slots.get(&key).copied().unwrap_or(0)
            };
            let charged = i128::from(device.before + device.charged);
            let paid = self.sums.paid.get(&name).copied().unwrap_or(0);
            assert_eq!(
                paid + slot("Debt") + slot("Paid"),
                charged,
                "{name}: who paid what"
            );
            assert!(slot("Debt") >= 0, "{name}: debt");
            let books = &self.ledger.devices[&id(n)];
            let axis = &books.epochs[&Epoch(device.epoch)];
            assert_eq!(
                axis.charged.0, device.charged,
                "{name}: charged in the books"
            );
            if self.now < device.valid_until {
                let backed: u64 = axis.segments.iter().map(|segment| segment.octets.0).sum();
                assert!(
                    device.charged + backed >= device.ceiling,
                    "{name}: may use up to {}, {} are charged and {backed} are set aside",
                    device.ceiling,
                    device.charged
                );
            }
        }
    }
}

impl Sums {
    fn add(&mut self, entry: &Entry) {
        for movement in &entry.moves {
            let octets = i128::from(movement.octets.0);
            *self.of(&movement.from) -= octets;
            *self.of(&movement.to) += octets;
            let settles_debt = matches!(&movement.from, Account::Device(_, Slot::Debt))
                || matches!(&movement.to, Account::Device(_, Slot::Paid));
            if let (Subject::Device(device), Account::Package(_, Pocket::Used), false) =
                (&entry.subject, &movement.to, settles_debt)
                && matches!(movement.from, Account::Package(..))
                && !pays_debt(entry)
            {
                *self.paid.entry(device.to_string()).or_default() += octets;
            }
        }
    }

    fn of(&mut self, account: &Account) -> &mut i128 {
        match account {
            Account::Package(id, pocket) => self
                .pockets
                .entry((id.to_string(), format!("{pocket:?}")))
                .or_default(),
            Account::Device(id, slot) => self
                .slots
                .entry((id.to_string(), format!("{slot:?}")))
                .or_default(),
            Account::Fleet(..) => panic!("there is no money in these worlds"),
        }
    }
}

/// Whether an entry settles a debt: its octets were charged before.
fn pays_debt(entry: &Entry) -> bool {
    entry
        .moves
        .iter()
        .any(|movement| matches!(&movement.to, Account::Device(_, Slot::Paid)))
}

fn live(steps: &[Step]) {
    let mut world = World::new();
    for step in steps {
        world.step(step);
        world.hear_pushes();
        world.audit();
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn an_auditor_of_its_own_arrives_at_the_same_books(steps in steps()) {
        live(&steps);
    }
}
