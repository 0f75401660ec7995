//! The rules, one by one, on a ledger of their own. After every step the identities hold, and the journal adds up to
//! the same ledger again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod alarms;
mod answers;
mod bulk;
mod commands;
mod estate;
mod late;
mod limits;
mod money;
mod packages;
mod plans;
mod pool;
mod published;
mod refunds;
mod restored;
mod signs;
mod sizes;
mod suspicions;

use std::convert::Infallible;

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::codec;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, Iccid, Text, ZoneId};
use simquota_shared::message::{
    Command, CreditAnswer, CreditRequest, FleetCommand, FleetReply, Kind, Policy, Reason,
    RegisterRequest, UsageBatch,
};
use simquota_shared::topic::{Down, Topic};
use simquota_shared::units::{Boot, EntryNumber, Epoch, Octets, RequestNumber, Seq, UnixMillis};

use super::{DeviceRequest, Outgoing, Query, Rules, Turn, Verdict, named_entry};
use crate::ledger::Ledger;
use crate::ledger::audit::Audit;
use crate::ledger::entry::Entry;
use crate::ledger::event;

/// 2026-11-23T00:00:00Z, a Monday.
pub(super) const ZERO: u64 = 1_795_392_000_000;
pub(super) const HOUR: u64 = 3_600_000;
pub(super) const DAY: u64 = 24 * HOUR;
pub(super) const FLEET: &str = "buses";

/// A ledger, its journal, and a clock that is set by hand.
pub(super) struct World {
    pub(super) ledger: Ledger,
    pub(super) rules: Rules,
    pub(super) journal: Vec<Entry>,
    pub(super) now: u64,
    commands: u64,
    /// What was said in the last step.
    pub(super) said: Vec<Outgoing>,
}

/// A device as the cloud sees it.
pub(super) struct Device {
    pub(super) id: DeviceId,
    number: u64,
    seq: u64,
    pub(super) used: u64,
    pub(super) zone: ZoneId,
    iccid: Iccid,
}

/// An argument of a command.
pub(super) fn n(value: u64) -> Value {
    Value::Integer(i128::from(value))
}

pub(super) fn t(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

/// A field of a value.
pub(super) fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    match value {
        Value::Map(map) => map
            .get(&Value::Text(name.to_owned()))
            .unwrap_or_else(|| panic!("no {name} in {value:?}")),
        _ => panic!("{value:?} has no fields"),
    }
}

pub(super) fn amount(value: &Value, name: &str) -> u64 {
    match field(value, name) {
        Value::Integer(number) => u64::try_from(*number).unwrap(),
        other => panic!("{name} is {other:?}"),
    }
}

pub(super) fn word(value: &Value, name: &str) -> String {
    match field(value, name) {
        Value::Text(text) => text.clone(),
        other => panic!("{name} is {other:?}"),
    }
}

impl World {
    /// A fleet and SIMs. Grants are what is asked for.
    pub(super) fn new() -> Self {
        let rules = Rules {
            grant_min: Octets(1),
            grant_max: Octets(u64::MAX >> 8),
            target_s: 0,
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
            journal: Vec::new(),
            now: ZERO,
            commands: 0,
            said: Vec::new(),
        };
        world.turn(|turn| turn.bootstrap_admin(&"admin".parse().unwrap()).unwrap());
        world.ops("fleet-create", &[("fleet", t(FLEET))]);
        let sim = |index: u64| {
            Value::Array(vec![
                t(format!("8988{index:015}")),
                t(format!("90170{index:010}")),
                t("operator"),
                Value::Array(vec![t("home")]),
                t("iot"),
            ])
        };
        let sims = (0..20).map(sim).collect();
        world.ops("sim-import", &[("sims", Value::Array(sims))]);
        let enrolment = [
            ("enrolment", t("spring")),
            ("fleet", t(FLEET)),
            ("devices", n(100)),
        ];
        world.ops("enrolment-create", &enrolment);
        world
    }

    /// One step: decided, checked, and the journal read anew.
    pub(super) fn turn<T>(&mut self, step: impl FnOnce(&mut Turn<'_>) -> T) -> T {
        let mut turn = Turn::new(&mut self.ledger, &self.rules, UnixMillis(self.now));
        let result = step(&mut turn);
        let (entries, said) = (
            std::mem::take(&mut turn.entries),
            std::mem::take(&mut turn.outgoing),
        );
        for entry in &entries {
            let words = crate::ledger::explain::words(entry);
            assert!(!words.is_empty(), "{} is not explained", entry.cause.name());
        }
        self.journal.extend(entries);
        self.said = said;
        assert_eq!(self.ledger.violations(), Vec::<String>::new());
        let mut again = Ledger::default();
        for entry in &self.journal {
            let octets = codec::encode(entry).unwrap();
            let entry: Entry = serde_cbor::from_slice(&octets).unwrap();
            again.apply(&entry).unwrap();
        }
        let audit = Audit::run(self.journal.iter().cloned().map(Ok::<_, Infallible>));
        assert_eq!(audit.faults, Vec::<String>::new());
        again.index.alarms.clear();
        again.index.unsettled = self.ledger.index.unsettled.clone();
        assert_eq!(again, self.ledger, "the journal adds up to the same ledger");
        let mut indexed = self.ledger.clone();
        indexed.reindex();
        indexed.index.unsettled = self.ledger.index.unsettled.clone();
        indexed
            .index
            .waiting
            .retain(|_, devices| !devices.is_empty());
        let mut kept = self.ledger.index.clone();
        kept.waiting.retain(|_, devices| !devices.is_empty());
        kept.open.retain(|_, packages| !packages.is_empty());
        kept.leased.retain(|_, count| *count > 0);
        assert_eq!(indexed.index, kept, "look-ups are what a restart finds");
        result
    }

    pub(super) fn command(&mut self, id: &str, name: &str, args: &[(&str, Value)]) -> FleetCommand {
        FleetCommand {
            id: id.parse().unwrap(),
            expires: UnixMillis(self.now + HOUR),
            expected: None,
            dry: false,
            name: Text::clipped(name),
            args: Value::Map(
                args.iter()
                    .map(|(name, value)| (t(name), value.clone()))
                    .collect(),
            ),
        }
    }

    /// Sends a command as it is, and gives the answer.
    pub(super) fn send(&mut self, fleet: Option<&str>, command: &FleetCommand) -> FleetReply {
        let fleet: Option<FleetId> = fleet.map(|fleet| fleet.parse().unwrap());
        let named = named_entry(command).and_then(|number| self.entry(number));
        let verdict = self.turn(|turn| {
            turn.show(named);
            turn.command(fleet.as_ref(), &Kid::first(&"admin"), command)
                .unwrap()
        });
        if let Verdict::Query(query) = verdict {
            return self.ask(&query);
        }
        assert_eq!(verdict, Verdict::Done);
        codec::decode(&self.said.last().unwrap().payload).unwrap()
    }

    /// Answers a question out of the journal; the parts of a long answer as one.
    fn ask(&mut self, query: &Query) -> FleetReply {
        let from = query.from();
        let entries = self
            .journal
            .iter()
            .filter(|entry| entry.number >= from)
            .cloned()
            .map(Ok::<_, Infallible>);
        let mut whole: Option<FleetReply> = None;
        for outgoing in query.answer(entries).unwrap() {
            let reply: FleetReply = codec::decode(&outgoing.payload).unwrap();
            whole = Some(match (whole, reply) {
                (Some(mut before), reply) => {
                    if let (Value::Array(rows), Value::Array(more)) =
                        (&mut before.result, reply.result)
                    {
                        rows.extend(more);
                    }
                    before
                }
                (None, reply) => reply,
            });
        }
        whole.unwrap()
    }

    fn entry(&self, number: EntryNumber) -> Option<Entry> {
        self.journal
            .iter()
            .find(|entry| entry.number == number)
            .cloned()
    }

    fn next_id(&mut self) -> String {
        self.commands += 1;
        format!("order-{}", self.commands)
    }

    /// An admin's command that has to succeed.
    pub(super) fn ops(&mut self, name: &str, args: &[(&str, Value)]) -> Value {
        let id = self.next_id();
        let command = self.command(&id, name, args);
        let reply = self.send(None, &command);
        assert_eq!(reply.code, Code::SUCCESS, "{name}: {:?}", reply.why);
        reply.result
    }

    /// A manager's command that has to succeed.
    pub(super) fn order(&mut self, name: &str, args: &[(&str, Value)]) -> Value {
        let id = self.next_id();
        let command = self.command(&id, name, args);
        let reply = self.send(Some(FLEET), &command);
        assert_eq!(reply.code, Code::SUCCESS, "{name}: {:?}", reply.why);
        reply.result
    }

    /// A manager's command that has to be refused; why.
    pub(super) fn refused(&mut self, name: &str, args: &[(&str, Value)]) -> String {
        let id = self.next_id();
        let command = self.command(&id, name, args);
        let reply = self.send(Some(FLEET), &command);
        assert!(!reply.code.is_success(), "{name} {args:?}");
        reply.why.unwrap().to_string()
    }

    /// A package for a device, or for the pool; with more arguments.
    pub(super) fn buy(
        &mut self,
        package: &str,
        device: Option<&Device>,
        volume: u64,
        more: &[(&str, Value)],
    ) -> Value {
        let mut args = vec![("package", t(package)), ("volume", n(volume))];
        if let Some(device) = device {
            args.push(("device", t(&device.id)));
        }
        args.extend(more.iter().map(|(name, value)| (*name, value.clone())));
        self.order("package-buy", &args)
    }

    pub(super) fn device(&mut self, name: &str) -> Device {
        let id: DeviceId = name.parse().unwrap();
        let request = RegisterRequest {
            epoch: Epoch(7),
            boot: Boot(1),
            serial: Text::clipped(name),
            model: Text::clipped("m"),
            firmware: Text::clipped("1"),
            capabilities: Vec::new(),
            iccid: None,
            closes: None,
        };
        self.say(&id, DeviceRequest::Register(request));
        Device {
            iccid: self.ledger.devices[&id].iccid.clone(),
            id,
            number: 0,
            seq: 0,
            used: 0,
            zone: ZoneId::home(),
        }
    }

    fn say(&mut self, id: &DeviceId, request: DeviceRequest) {
        let verdict = self.turn(|turn| turn.device(id, &Kid::first(&"spring"), request).unwrap());
        assert_eq!(verdict, Verdict::Done);
    }

    /// A credit request, and its answer.
    pub(super) fn credit(&mut self, device: &mut Device, kind: Kind, want: u64) -> CreditAnswer {
        device.number += 1;
        let request = CreditRequest {
            epoch: Epoch(7),
            number: RequestNumber(device.number),
            kind,
            used: Octets(device.used),
            want: Octets(want),
            reason: Reason::THRESHOLD,
            zone: device.zone.clone(),
            held: None,
        };
        self.say(&device.id, DeviceRequest::Credit(request));
        self.heard(device).remove(0)
    }

    pub(super) fn initial(&mut self, device: &mut Device, want: u64) -> CreditAnswer {
        self.credit(device, Kind::Initial, want)
    }

    pub(super) fn update(&mut self, device: &mut Device, want: u64) -> CreditAnswer {
        self.credit(device, Kind::Update, want)
    }

    pub(super) fn finish(&mut self, device: &mut Device) -> CreditAnswer {
        self.credit(device, Kind::Final, 0)
    }

    /// The device uses octets and reports them, by a clock of its own that says `at`.
    pub(super) fn uses_at(&mut self, device: &mut Device, octets: u64, at: u64) {
        device.seq += 1;
        device.used += octets;
        let batch = UsageBatch {
            epoch: Epoch(7),
            boot: Boot(1),
            iccid: device.iccid.clone(),
            zone: device.zone.clone(),
            first: Seq(device.seq),
            clock: 1,
            t0: at / 1000,
            interval_s: 60,
            total: Octets(device.used),
            dt: Vec::new(),
            up: vec![0],
            down: vec![octets],
            own: Vec::new(),
            flags: Vec::new(),
            spans: Vec::new(),
            unsure: Vec::new(),
        };
        self.say(&device.id, DeviceRequest::Usage(batch));
    }

    pub(super) fn uses(&mut self, device: &mut Device, octets: u64) {
        self.uses_at(device, octets, self.now);
    }

    /// Grants and pushes that a device was sent in the last step.
    pub(super) fn heard(&self, device: &Device) -> Vec<CreditAnswer> {
        let topic = Topic::Down(device.id.clone(), Down::Credit);
        self.said
            .iter()
            .filter(|outgoing| outgoing.topic == topic)
            .map(|outgoing| codec::decode(&outgoing.payload).unwrap())
            .collect()
    }

    /// Commands that a device was sent in the last step.
    pub(super) fn told(&self, device: &Device) -> Vec<Command> {
        let topic = Topic::Down(device.id.clone(), Down::Command);
        self.said
            .iter()
            .filter(|outgoing| outgoing.topic == topic)
            .map(|outgoing| codec::decode(&outgoing.payload).unwrap())
            .collect()
    }

    /// Time passes, and what is due is done.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now += ms;
        while self.turn(|turn| turn.sweep(100).unwrap()) {}
    }

    pub(super) fn package(&self, id: &str) -> &crate::ledger::package::Package {
        &self.ledger.packages[&id.parse().unwrap()]
    }

    pub(super) fn available(&self, id: &str) -> u64 {
        self.package(id).balances.available.value()
    }

    /// Available, reserved, used.
    pub(super) fn balance(&self, id: &str) -> (u64, u64, u64) {
        let balances = &self.package(id).balances;
        (
            balances.available.value(),
            balances.reserved.value(),
            balances.used.value(),
        )
    }

    /// Events since an entry, by kind and in words.
    pub(super) fn events(&self, kind: &str) -> Vec<Value> {
        self.journal
            .iter()
            .filter_map(|entry| event::of(&self.ledger, entry))
            .filter(|event| event.kind.as_str() == kind)
            .map(|event| event.args)
            .collect()
    }

    /// The number of the last entry of a cause.
    pub(super) fn last_of(&self, cause: &str) -> u64 {
        let entry = self
            .journal
            .iter()
            .rev()
            .find(|entry| entry.cause.name() == cause);
        entry.unwrap_or_else(|| panic!("no {cause}")).number.value()
    }

    pub(super) fn count_of(&self, cause: &str) -> usize {
        self.journal
            .iter()
            .filter(|entry| entry.cause.name() == cause)
            .count()
    }
}
