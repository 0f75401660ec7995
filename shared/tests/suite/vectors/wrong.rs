//! What is to be refused: wrong envelopes, wrong encodings, wrong messages.

use coset::iana::Algorithm;
use coset::{CoseMac0Builder, HeaderBuilder, TaggedCborSerializable};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_cbor::Value;
use serde_json::{Value as Json, json};
use sha2::Sha256;
use simquota_shared::codec::{self, CodecError};
use simquota_shared::envelope::seal;
use simquota_shared::topic::{Down, Topic, Up};

use super::{DEVICE, Holder, device, enrolment, places};
use crate::samples::{self, Sample, id};

/// All of them.
pub(super) fn all() -> Vec<Json> {
    let mut fails = Fails(vec![]);
    wrong_envelopes(&mut fails);
    wrong_encodings(&mut fails);
    wrong_messages(&mut fails);
    fails.0
}

/// Where a message is refused: by the envelope, by the encoding of the payload, or by the message's shape.
fn refusal(sample: &Sample, holder: Holder, topic: &str, message: &[u8]) -> (&'static str, String) {
    match holder.opened(topic, message) {
        Err(error) => ("envelope", error.to_string()),
        Ok(payload) => match (sample.again)(&payload) {
            Ok(_) => panic!("accepted: {}", hex::encode(message)),
            Err(CodecError::Shape(why)) => ("message", why),
            Err(error) => ("encoding", error.to_string()),
        },
    }
}

struct Fails(Vec<Json>);

impl Fails {
    fn add(&mut self, name: &str, sample: &Sample, holder: Holder, topic: &str, message: &[u8]) {
        let (by, reason) = refusal(sample, holder, topic, message);
        let payload = holder.opened(topic, message).ok().map(hex::encode);
        self.0.push(json!({
            "name": name,
            "rule": sample.rule,
            "topic": topic,
            "key": holder.name(),
            "refused_by": by,
            "reason": reason,
            "payload": payload,
            "envelope": hex::encode(message),
        }));
    }
}

/// A message that is right under the device's key, but for its protected header.
fn headed(header: HeaderBuilder, topic: &str, payload: &[u8]) -> Vec<u8> {
    CoseMac0Builder::new()
        .protected(header.build())
        .payload(payload.to_vec())
        .create_tag(topic.as_bytes(), |data| {
            let mut mac = Hmac::<Sha256>::new_from_slice(device().octets()).unwrap();
            mac.update(data);
            mac.finalize().into_bytes()[..8].to_vec()
        })
        .build()
        .to_tagged_vec()
        .unwrap()
}

fn named(name: &str) -> Sample {
    samples::all()
        .into_iter()
        .find(|sample| sample.name() == name)
        .unwrap()
}

/// Wrong envelopes around a right message.
fn wrong_envelopes(fails: &mut Fails) {
    let sample = named("usage-up.one");
    let topic = Topic::Up(id(DEVICE), Up::Usage).to_string();
    let right = Holder::Device.sealed(&topic, &sample.octets);
    let hex = hex::encode(&right);
    let (tag_at, end) = (hex.len() - 18, hex.len());
    let mut turned = right.clone();
    *turned.last_mut().unwrap() ^= 1;
    let mut other_payload = right.clone();
    other_payload[24] ^= 1;
    let with = |algorithm: Algorithm, kid: &str| {
        let header = HeaderBuilder::new().algorithm(algorithm);
        headed(header.key_id(kid.into()), &topic, &sample.octets)
    };
    let with_kid = |kid: &str| with(Algorithm::HMAC_256_64, kid);
    assert_eq!(with_kid("spring/1"), right);
    let changed: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("tag of the mac turned", turned),
        ("payload turned", other_payload),
        ("no tag 17", right[1..].to_vec()),
        ("tag 16", [&[0xd0], &right[1..]].concat()),
        ("tag 17 in two octets", [&[0xd8, 17], &right[1..]].concat()),
        ("an octet behind", [&right[..], &[0]].concat()),
        ("the last octet missing", right[..right.len() - 1].to_vec()),
        ("alg 5", with(Algorithm::HMAC_256_256, "spring/1")),
        (
            "no kid",
            headed(
                HeaderBuilder::new().algorithm(Algorithm::HMAC_256_64),
                &topic,
                &sample.octets,
            ),
        ),
        (
            "a content type too",
            headed(
                HeaderBuilder::new()
                    .algorithm(Algorithm::HMAC_256_64)
                    .key_id(b"spring/1".to_vec())
                    .content_type("a/b".into()),
                &topic,
                &sample.octets,
            ),
        ),
        (
            "kid unprotected too",
            hex::decode(hex.replacen("2f31a0", "2f31a1044162", 1)).unwrap(),
        ),
        (
            "a mac of 7 octets",
            hex::decode(format!("{}47{}", &hex[..tag_at], &hex[tag_at + 2..end - 2])).unwrap(),
        ),
        (
            "no payload",
            hex::decode(format!(
                "{}f6{}",
                &hex[..hex.find("a058").unwrap() + 2],
                &hex[tag_at..]
            ))
            .unwrap(),
        ),
        ("kid without generation", with_kid("spring")),
        ("kid of generation 0", with_kid("spring/0")),
        ("kid with a leading zero", with_kid("spring/01")),
        ("kid in capitals", with_kid("Spring/1")),
        (
            "signed, not sealed",
            Holder::Node.sealed(&topic, &sample.octets),
        ),
        (
            "the key of another device",
            seal(
                &enrolment().for_device(&id("vm-18"), 1),
                &Holder::Device.kid(),
                &topic,
                &sample.octets,
            )
            .unwrap(),
        ),
        (
            "the batch's key itself",
            seal(&enrolment(), &Holder::Device.kid(), &topic, &sample.octets).unwrap(),
        ),
        (
            "the key of generation 2",
            seal(
                &enrolment().for_device(&id(DEVICE), 2),
                &Holder::Device.kid(),
                &topic,
                &sample.octets,
            )
            .unwrap(),
        ),
        (
            "from another topic",
            Holder::Device.sealed("csim/v1/d/vm-17/up/credit", &sample.octets),
        ),
    ];
    for (name, message) in changed {
        fails.add(name, &sample, Holder::Device, &topic, &message);
    }
    let signed = named("rejected.forged");
    let topic = Topic::OpsRejected.to_string();
    let mut turned = Holder::Node.sealed(&topic, &signed.octets);
    *turned.last_mut().unwrap() ^= 1;
    fails.add("signature turned", &signed, Holder::Node, &topic, &turned);
    let moved = Holder::Node.sealed("csim/v1/ops/node/cloud-1", &signed.octets);
    fails.add(
        "signed for another topic",
        &signed,
        Holder::Node,
        &topic,
        &moved,
    );
    let sealed = Holder::Device.sealed(&topic, &signed.octets);
    fails.add("sealed, not signed", &signed, Holder::Node, &topic, &sealed);
}

/// Payloads that are CBOR, but not in the one form.
fn wrong_encodings(fails: &mut Fails) {
    let sample = named("usage-down.durable");
    let topic = Topic::Down(id(DEVICE), Down::Usage).to_string();
    let hex = hex::encode(&sample.octets);
    let inner = &hex[2..];
    let command = named("fleet-command.conditional");
    let on_fleet = Topic::FleetCommand(id("acme")).to_string();
    let arguments = hex::encode(&command.octets);
    let arguments = arguments.strip_suffix("a0").unwrap();
    let changed = [
        ("version in two octets", hex.replacen("01", "1801", 1)),
        ("array of indefinite length", format!("9f{inner}ff")),
        ("array head in two octets", format!("9808{inner}")),
        ("undefined for null", hex.replacen("f61b", "f71b", 1)),
        ("a float", hex.replacen("f61b", "f93c001b", 1)),
        ("a tag", hex.replacen("f61b", "c1001b", 1)),
        ("trailing octet", format!("{hex}00")),
        ("truncated", hex[..hex.len() - 2].to_owned()),
        ("an array of 9 with 8 elements", format!("89{inner}")),
        (
            "nine arrays in each other",
            format!("89{inner}{}00", "81".repeat(8)),
        ),
        ("text that is not UTF-8", format!("89{inner}61ff")),
    ];
    for (name, hex) in changed {
        let payload = hex::decode(hex).unwrap();
        let message = Holder::Device.sealed(&topic, &payload);
        fails.add(name, &sample, Holder::Device, &topic, &message);
    }
    let maps = [
        ("keys of a map in wrong order", "a2616201616102"),
        ("a key of a map twice", "a2616101616102"),
    ];
    for (name, map) in maps {
        let payload = hex::decode(format!("{arguments}{map}")).unwrap();
        let message = Holder::Manager.sealed(&on_fleet, &payload);
        fails.add(name, &command, Holder::Manager, &on_fleet, &message);
    }
}

/// Canonical arrays that are not the message of their topic.
fn wrong_messages(fails: &mut Fails) {
    let changes: Vec<(&str, &str, usize, Option<Value>)> = vec![
        ("version 0", "register-up.bare", 0, Some(Value::from(0))),
        ("no version", "status.online", 0, Some(Value::Null)),
        ("an element missing", "register-up.bare", 8, None),
        (
            "a negative epoch",
            "credit-up.initial",
            1,
            Some(Value::from(-1)),
        ),
        ("kind 4", "credit-up.initial", 3, Some(Value::from(4))),
        ("kind 0", "credit-up.initial", 3, Some(Value::from(0))),
        (
            "a text as number",
            "credit-up.initial",
            2,
            Some(Value::Text("2".into())),
        ),
        (
            "an id in capitals",
            "credit-up.initial",
            7,
            Some(Value::Text("Home".into())),
        ),
        (
            "an empty id",
            "credit-up.initial",
            7,
            Some(Value::Text(String::new())),
        ),
        (
            "an id of 65",
            "credit-up.initial",
            7,
            Some(Value::Text("a".repeat(65))),
        ),
        (
            "an id as octets",
            "credit-up.initial",
            7,
            Some(Value::Bytes(b"home".to_vec())),
        ),
        (
            "half a grant held",
            "credit-up.initial",
            8,
            Some(Value::Array(vec![Value::from(1)])),
        ),
        (
            "a text of 129 octets",
            "register-up.bare",
            3,
            Some(Value::Text("a".repeat(129))),
        ),
        (
            "a line end in a text",
            "register-up.bare",
            3,
            Some(Value::Text("a\nb".into())),
        ),
        (
            "capabilities not a list",
            "register-up.bare",
            6,
            Some(Value::Null),
        ),
        (
            "a code above 65535",
            "credit-down.granted",
            4,
            Some(Value::from(65536)),
        ),
        (
            "an unknown final unit",
            "credit-down.granted",
            10,
            Some(Value::Array(vec![Value::from(3)])),
        ),
        (
            "restrict without hosts",
            "credit-down.granted",
            10,
            Some(Value::Array(vec![Value::from(1)])),
        ),
        (
            "an unknown command",
            "command.report",
            6,
            Some(Value::Array(vec![Value::from(7)])),
        ),
        (
            "an empty command",
            "command.report",
            6,
            Some(Value::Array(vec![])),
        ),
        ("outcome 4", "ack.applied", 4, Some(Value::from(4))),
        ("online as number", "status.online", 4, Some(Value::from(1))),
        (
            "a column as number",
            "usage-up.full",
            11,
            Some(Value::from(1)),
        ),
        (
            "a negative octet",
            "usage-up.full",
            12,
            Some(Value::Array(vec![Value::from(-1)])),
        ),
        (
            "a flag with three numbers",
            "usage-up.full",
            14,
            Some(Value::Array(vec![Value::Array(vec![Value::from(0); 3])])),
        ),
        (
            "a copy as text",
            "rejected.forged",
            5,
            Some(Value::Text("d184".into())),
        ),
        ("last as null", "fleet-reply.refused", 4, Some(Value::Null)),
    ];
    for (name, of, at, value) in changes {
        let sample = named(of);
        let mut items: Vec<Value> = serde_cbor::from_slice(&sample.octets).unwrap();
        match value {
            Some(value) => items[at] = value,
            None => drop(items.remove(at)),
        }
        let payload = codec::encode(&items).unwrap();
        let (topic, holder) = places(sample.rule).remove(0);
        let topic = topic.to_string();
        let message = holder.sealed(&topic, &payload);
        fails.add(name, &sample, holder, &topic, &message);
    }
}
