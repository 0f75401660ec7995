//! At least one value of each message, with every optional field both there and not.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::codec::{self, CodecError};
use simquota_shared::message::credit::{
    CreditAnswer, CreditRequest, FinalAction, Held, Kind, Reason,
};
use simquota_shared::message::fleet::{Event, FleetCommand, FleetReply, Summary};
use simquota_shared::message::ops::{Blob, NodeStatus, Rejected, Statistics};
use simquota_shared::message::register::{Closes, RegisterAnswer, RegisterRequest, SimProfile};
use simquota_shared::message::usage::{UsageAck, UsageBatch, flag};
use simquota_shared::message::{Ack, Body, Command, Outcome, Policy, Status};
use simquota_shared::units::{
    Boot, EntryNumber, Epoch, Octets, Push, RequestNumber, Seq, UnixMillis,
};

pub(crate) const EPOCH: Epoch = Epoch(0x9f3c_51d2_7a04_be68);
pub(crate) const NOW: UnixMillis = UnixMillis(1_764_000_000_000);

pub(crate) type Again = fn(&[u8]) -> Result<Vec<u8>, CodecError>;

/// One message as octets, and what is known of it without its type.
pub(crate) struct Sample {
    /// The rule of protocol.cddl, which also names the golden file.
    pub(crate) rule: &'static str,
    /// Which of several of one rule.
    pub(crate) variant: &'static str,
    /// The Rust type.
    pub(crate) message: &'static str,
    pub(crate) octets: Vec<u8>,
    /// Reads octets as this type and writes them again.
    pub(crate) again: Again,
}

impl Sample {
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.rule, self.variant)
    }
}

fn sample<T>(rule: &'static str, variant: &'static str, message: &T) -> Sample
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let octets = codec::encode(message).unwrap();
    assert_eq!(&codec::decode::<T>(&octets).unwrap(), message);
    let path = std::any::type_name::<T>();
    Sample {
        rule,
        variant,
        message: path.rsplit("::").next().unwrap(),
        octets,
        again: |octets| codec::encode(&codec::decode::<T>(octets)?),
    }
}

pub(crate) fn id<T: std::str::FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

pub(crate) fn all() -> Vec<Sample> {
    [
        registers(),
        usages(),
        credits(),
        commands(),
        fleets(),
        operators(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn registers() -> Vec<Sample> {
    let bare = RegisterRequest {
        epoch: EPOCH,
        boot: Boot(1),
        serial: id("VM-000017"),
        model: id("vend-2"),
        firmware: id("4.2.0"),
        capabilities: vec![],
        iccid: None,
        closes: None,
    };
    let full = RegisterRequest {
        capabilities: vec![id("gate-nft"), id("clock")],
        iccid: Some(id("8986012345678901234")),
        closes: Some(Closes {
            epoch: Epoch(7),
            total: Octets(5_000_000_000),
        }),
        ..bare.clone()
    };
    let refused = RegisterAnswer {
        epoch: EPOCH,
        boot: Boot(1),
        code: Code::SERVICE_DENIED,
        now: NOW,
        sim: None,
        policy: None,
        retry_s: Some(3600),
        mark: Seq::ZERO,
        total: Octets::ZERO,
    };
    let accepted = RegisterAnswer {
        code: Code::SUCCESS,
        sim: Some(SimProfile {
            iccid: id("8986012345678901234"),
            imsi: id("460001234567890"),
            operator: id("Example Mobile"),
            zones: vec![id("home"), id("eu")],
            apn: id("iot.example"),
        }),
        policy: Some(Policy::DEFAULT),
        retry_s: None,
        ..refused.clone()
    };
    vec![
        sample("register-up", "bare", &bare),
        sample("register-up", "full", &full),
        sample("register-down", "accepted", &accepted),
        sample("register-down", "refused", &refused),
    ]
}

fn usages() -> Vec<Sample> {
    let one = UsageBatch {
        epoch: EPOCH,
        boot: Boot(1),
        iccid: id("8986012345678901234"),
        zone: id("home"),
        first: Seq(1),
        clock: 0,
        t0: 60,
        interval_s: 60,
        total: Octets(3584),
        dt: vec![],
        up: vec![2048],
        down: vec![1536],
        own: vec![],
        flags: vec![],
        spans: vec![],
        unsure: vec![],
    };
    let full = UsageBatch {
        boot: Boot(3),
        first: Seq(1000),
        clock: 1,
        t0: 1_764_000_000,
        total: Octets(9_000_000),
        dt: vec![0, -1, 3600],
        up: vec![100, 200, 300, 0],
        down: vec![70_000, 0, 1, 65_536],
        own: vec![90, 0, 0, 0],
        flags: vec![(0, flag::UNCLEAN), (3, flag::SWITCH | flag::OVERRUN)],
        spans: vec![(2, 60)],
        unsure: vec![(0, 16_384)],
        ..one.clone()
    };
    let durable = UsageAck {
        epoch: EPOCH,
        code: Code::SUCCESS,
        mark: Seq(1062),
        total: Octets(9_000_000),
        first: Seq(1000),
        retry_s: None,
        now: NOW,
    };
    let busy = UsageAck {
        code: Code::TOO_BUSY,
        mark: Seq::ZERO,
        total: Octets::ZERO,
        retry_s: Some(30),
        ..durable.clone()
    };
    vec![
        sample("usage-up", "one", &one),
        sample("usage-up", "full", &full),
        sample("usage-down", "durable", &durable),
        sample("usage-down", "busy", &busy),
    ]
}

fn credits() -> Vec<Sample> {
    let initial = CreditRequest {
        epoch: EPOCH,
        number: RequestNumber(2),
        kind: Kind::Initial,
        used: Octets(3584),
        want: Octets(1_000_000),
        reason: Reason::BOOT,
        zone: id("home"),
        held: Some(Held {
            number: RequestNumber(1),
            push: Push(2),
            ceiling: Octets(1_000_000),
        }),
    };
    let update = CreditRequest {
        number: RequestNumber(3),
        kind: Kind::Update,
        used: Octets(810_000),
        reason: Reason::THRESHOLD,
        held: None,
        ..initial.clone()
    };
    let granted = CreditAnswer {
        epoch: EPOCH,
        number: RequestNumber(2),
        push: Push(0),
        code: Code::SUCCESS,
        ceiling: Octets(1_003_584),
        stop: Octets(1_003_584),
        decided: NOW,
        valid_until: NOW.plus_s(3600),
        renew_below: Octets(200_000),
        final_unit: None,
        silence_s: 0,
        hold_s: 600,
        balance: Octets(9_000_000),
        retry_s: None,
    };
    let busy = CreditAnswer {
        code: Code::TOO_BUSY,
        valid_until: None,
        retry_s: Some(5),
        ..granted.clone()
    };
    let last = |action| CreditAnswer {
        final_unit: Some(action),
        balance: Octets::ZERO,
        ..granted.clone()
    };
    let hosts = vec![id("192.0.2.1"), id("shop.example:443")];
    vec![
        sample("credit-up", "initial", &initial),
        sample("credit-up", "update", &update),
        sample("credit-down", "granted", &granted),
        sample("credit-down", "busy", &busy),
        sample("credit-down", "terminate", &last(FinalAction::Terminate)),
        sample(
            "credit-down",
            "restrict",
            &last(FinalAction::Restrict(hosts)),
        ),
        sample(
            "credit-down",
            "throttle",
            &last(FinalAction::Throttle(64_000)),
        ),
    ]
}

fn commands() -> Vec<Sample> {
    let bodies = [
        ("reauthorise", Body::Reauthorise),
        ("revoke", Body::Revoke),
        ("suspend", Body::Suspend),
        ("resume", Body::Resume),
        ("report", Body::Report),
        ("policy", Body::Policy(Policy::DEFAULT)),
        ("rotate", Body::Rotate(2)),
    ];
    let ack = |outcome, why| Ack {
        epoch: EPOCH,
        id: id("c-17"),
        number: 4,
        outcome,
        why,
    };
    let online = Status {
        epoch: EPOCH,
        boot: Boot(3),
        connection: 2,
        online: true,
        channel: Some(id("sim")),
        agent: id("simquota-edge 0.1.0"),
        backlog: 12,
    };
    let will = Status {
        online: false,
        channel: None,
        backlog: 0,
        ..online.clone()
    };
    let mut samples = vec![
        sample("ack", "applied", &ack(Outcome::Applied, None)),
        sample("ack", "superseded", &ack(Outcome::Superseded, None)),
        sample("ack", "expired", &ack(Outcome::Expired, None)),
        sample(
            "ack",
            "refused",
            &ack(Outcome::Refused, Some(id("the gate is shut by hand"))),
        ),
        sample("status", "online", &online),
        sample("status", "will", &will),
    ];
    samples.extend(bodies.into_iter().map(|(variant, body)| {
        let command = Command {
            epoch: EPOCH,
            id: id("c-17"),
            number: 4,
            expires: UnixMillis(NOW.value() + 86_400_000),
            now: NOW,
            body,
        };
        sample("command", variant, &command)
    }));
    samples
}

/// Keys of many lengths and an order that is neither the alphabet's nor the one they were put in.
fn figures() -> Value {
    let keys = [
        "volume",
        "zones",
        "id",
        "a-name-of-more-than-23-octets",
        "b",
        "aa",
        "Z",
        "",
        "ü",
    ];
    let map: BTreeMap<Value, Value> = keys
        .iter()
        .zip(0i64..)
        .map(|(key, at)| (Value::Text((*key).into()), Value::from(at * 1_000_000 - 1)))
        .collect();
    Value::Map(map)
}

fn fleets() -> Vec<Sample> {
    let buy = FleetCommand {
        id: id("buy-2026-001"),
        expires: NOW,
        expected: None,
        dry: false,
        name: id("package-buy"),
        args: figures(),
    };
    let conditional = FleetCommand {
        expected: Some(3),
        dry: true,
        args: Value::Map(BTreeMap::new()),
        ..buy.clone()
    };
    let done = FleetReply {
        id: id("buy-2026-001"),
        code: Code::SUCCESS,
        part: 0,
        last: true,
        result: Value::Array(vec![
            figures(),
            Value::Bytes(vec![1, 2]),
            Value::Bool(true),
            Value::Null,
        ]),
        why: None,
    };
    let refused = FleetReply {
        code: Code::USER_UNKNOWN,
        result: Value::Null,
        why: Some(id("no device 'vm-18' in this fleet: see 'device list'")),
        ..done.clone()
    };
    let event = Event {
        entry: EntryNumber(4711),
        at: NOW,
        fleet: id("acme"),
        device: Some(id("vm-17")),
        kind: id("exhausted"),
        args: figures(),
    };
    let fleet_wide = Event {
        device: None,
        kind: id("threshold"),
        ..event.clone()
    };
    let totals = Summary {
        at: NOW,
        fleet: id("acme"),
        devices: 20,
        available: Octets(9_000_000),
        reserved: Octets(1_000_000),
        used: Octets(24),
        debt: Octets(0),
    };
    vec![
        sample("fleet-command", "buy", &buy),
        sample("fleet-command", "conditional", &conditional),
        sample("fleet-reply", "done", &done),
        sample("fleet-reply", "refused", &refused),
        sample("fleet-event", "device", &event),
        sample("fleet-event", "fleet", &fleet_wide),
        sample("fleet-summary", "totals", &totals),
    ]
}

fn operators() -> Vec<Sample> {
    let node = NodeStatus {
        node: id("cloud-1"),
        online: true,
        at: NOW,
        agent: id("simquota-cloud 0.1.0"),
        state: id("serving"),
    };
    let figures = Statistics {
        node: id("cloud-1"),
        at: NOW,
        entries: EntryNumber(4711),
        received: 100_000,
        rejected: 3,
        decided: 812,
        devices: 20,
    };
    let rejected = Rejected {
        at: NOW,
        topic: id("csim/v1/d/vm-17/up/usage"),
        reason: id("forged"),
        detail: id("the tag does not fit this key, topic and payload"),
        copy: Blob(vec![0xd1, 0x84, 0x00]),
        count: 3,
    };
    vec![
        sample("node-status", "serving", &node),
        sample("statistics", "figures", &figures),
        sample("rejected", "forged", &rejected),
    ]
}
