//! vectors.json: messages for those who write another implementation, to be accepted and to be refused.
//!
//! To write the file anew, run the tests with `SIMQUOTA_GOLDEN=write`. What it has as `pass` follows from the samples,
//! whose octets are golden; a new `fail` is added here, and its reason is the one that this crate gives.

mod wrong;

use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use serde_json::{Value as Json, json};
use simquota_shared::envelope::{EnvelopeError, Key, Kid, Received, open_signed, seal, sign};
use simquota_shared::topic::{Down, Topic, Up};

use crate::message::plain_diag;
use crate::samples::{self, id};

const DEVICE: &str = "vm-17";
const ENROLMENT: &str = "spring";
const MANAGER: &str = "acme-manager";
const ADMIN: &str = "admin";
const NODE: &str = "cloud-1";

/// Octets from `first` on, each one more.
fn counting(first: u8) -> [u8; 32] {
    std::array::from_fn(|at| first + u8::try_from(at).unwrap())
}

fn enrolment() -> Key {
    Key::new(counting(0))
}

fn device() -> Key {
    enrolment().for_device(&id(DEVICE), 1)
}

fn node() -> SigningKey {
    SigningKey::from_bytes(&counting(0x40))
}

/// Who seals on a topic.
#[derive(Clone, Copy, PartialEq)]
enum Holder {
    Device,
    Manager,
    Admin,
    Node,
}

impl Holder {
    const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Manager => "manager",
            Self::Admin => "admin",
            Self::Node => "node",
        }
    }

    fn kid(self) -> Kid {
        Kid::first(&match self {
            Self::Device => ENROLMENT,
            Self::Manager => MANAGER,
            Self::Admin => ADMIN,
            Self::Node => NODE,
        })
    }

    fn key(self) -> Key {
        match self {
            Self::Device => device(),
            Self::Manager => Key::new(counting(0x20)),
            Self::Admin => Key::new(counting(0x60)),
            Self::Node => Key::new(counting(0x40)),
        }
    }

    fn sealed(self, topic: &str, payload: &[u8]) -> Vec<u8> {
        match self {
            Self::Node => sign(&node(), &self.kid(), topic, payload).unwrap(),
            _ => seal(&self.key(), &self.kid(), topic, payload).unwrap(),
        }
    }

    fn opened(self, topic: &str, message: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
        match self {
            Self::Node => {
                open_signed(&node().verifying_key(), topic, message).map(|(_, payload)| payload)
            }
            _ => Received::parse(message)?
                .verify(&self.key(), topic)
                .map(<[u8]>::to_vec),
        }
    }
}

/// Every topic on which a message goes, and who seals it there.
fn places(rule: &str) -> Vec<(Topic, Holder)> {
    let up = |up| vec![(Topic::Up(id(DEVICE), up), Holder::Device)];
    let down = |down| vec![(Topic::Down(id(DEVICE), down), Holder::Device)];
    match rule {
        "register-up" => up(Up::Register),
        "usage-up" => up(Up::Usage),
        "credit-up" => up(Up::Credit),
        "ack" => up(Up::Ack),
        "status" => vec![(Topic::Status(id(DEVICE)), Holder::Device)],
        "register-down" => down(Down::Register),
        "usage-down" => down(Down::Usage),
        "credit-down" => down(Down::Credit),
        "command" => down(Down::Command),
        "fleet-command" => vec![
            (Topic::FleetCommand(id("acme")), Holder::Manager),
            (Topic::OpsCommand, Holder::Admin),
        ],
        "fleet-reply" => vec![
            (Topic::FleetReply(id("acme"), id(MANAGER)), Holder::Manager),
            (Topic::OpsReply(id(ADMIN)), Holder::Admin),
        ],
        "fleet-event" => vec![(Topic::FleetEvent(id("acme")), Holder::Node)],
        "fleet-summary" => vec![(Topic::FleetSummary(id("acme")), Holder::Node)],
        "node-status" => vec![(Topic::OpsNode(id(NODE)), Holder::Node)],
        "statistics" => vec![(Topic::OpsStatistics(id(NODE)), Holder::Node)],
        "rejected" => vec![(Topic::OpsRejected, Holder::Node)],
        other => panic!("no topic for {other}"),
    }
}

fn passes() -> Vec<Json> {
    let mut passes = vec![];
    for sample in samples::all() {
        for (topic, holder) in places(sample.rule) {
            let topic = topic.to_string();
            let envelope = holder.sealed(&topic, &sample.octets);
            assert_eq!(holder.opened(&topic, &envelope).unwrap(), sample.octets);
            passes.push(json!({
                "name": sample.name(),
                "rule": sample.rule,
                "topic": topic,
                "key": holder.name(),
                "kid": holder.kid().to_string(),
                "message": plain_diag(&sample.octets, false),
                "payload": hex::encode(&sample.octets),
                "envelope": hex::encode(&envelope),
            }));
        }
    }
    passes
}

fn written() -> String {
    let derived: Vec<Json> = [("vm-17", 1), ("vm-17", 2), ("a", 1), ("0", u32::MAX)]
        .into_iter()
        .map(|(device, generation)| {
            let key = enrolment().for_device(&id(device), generation);
            json!({
                "device": device,
                "generation": generation,
                "key": key.to_hex().as_str(),
                "password": key.mqtt_password().as_str(),
            })
        })
        .collect();
    let all = json!({
        "protocol": "csim/v1",
        "enrolment_key": enrolment().to_hex().as_str(),
        "derived": derived,
        "keys": {
            "device": Holder::Device.key().to_hex().as_str(),
            "manager": Holder::Manager.key().to_hex().as_str(),
            "admin": Holder::Admin.key().to_hex().as_str(),
            "node": hex::encode(node().verifying_key().as_bytes()),
            "node_seed": Holder::Node.key().to_hex().as_str(),
        },
        "pass": passes(),
        "fail": wrong::all(),
    });
    serde_json::to_string_pretty(&all).unwrap() + "\n"
}

#[test]
fn the_vectors_are_what_the_code_does() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors.json");
    let expected = written();
    if std::env::var("SIMQUOTA_GOLDEN").as_deref() == Ok("write") {
        std::fs::write(&path, &expected).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap();
    let line = there
        .lines()
        .zip(expected.lines())
        .position(|(is, should)| is != should);
    assert!(
        there == expected,
        "vectors.json differs at line {line:?}: run with SIMQUOTA_GOLDEN=write, and read what changed"
    );
}

/// What fails by its shape, the schema refuses too, all of it. What fails by how it is written, it refuses where that
/// shows in the data; CDDL does not see octets (RFC 8610, 1). The C codecs refuse these too.
#[test]
fn the_schema_refuses_the_messages_that_fail() {
    let all: Json = serde_json::from_str(&written()).unwrap();
    let mut otherwise_written = vec![];
    for fail in all["fail"].as_array().unwrap() {
        if fail["refused_by"] == "envelope" {
            continue;
        }
        let payload = hex::decode(fail["payload"].as_str().unwrap()).unwrap();
        let valid = crate::schema::Schema::of(fail["rule"].as_str().unwrap()).valid(&payload);
        let name = fail["name"].as_str().unwrap();
        if fail["refused_by"] == "encoding" && valid.is_ok() {
            otherwise_written.push(name);
        } else {
            assert!(valid.is_err(), "{name}");
        }
    }
    assert_eq!(
        otherwise_written,
        [
            "version in two octets",
            "array of indefinite length",
            "array head in two octets",
            "undefined for null",
            "trailing octet",
            "nine arrays in each other",
            "keys of a map in wrong order",
            "a key of a map twice",
        ]
    );
}
