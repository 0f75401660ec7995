//! protocol.cddl against what is written and what is read, by a validator that is not ours.
//!
//! The validator sees the data, not how it was written: another encoding of the same data, and `undefined` that it takes
//! for `null`, are refused by our reader only, and [`crate::hostile`] shows it.

use cddl::ast::CDDL;
use cddl::validator::Validator as _;
use cddl::validator::cbor::CBORValidator;
use cddl::validator::cbor_value::decode_cbor;
use ed25519_dalek::SigningKey;
use serde_cbor::Value;
use simquota_shared::codec;
use simquota_shared::envelope::{Key, Kid, seal, sign};

use crate::samples::{self, Sample};

const TEXT: &str = include_str!("../../protocol.cddl");

/// protocol.cddl with one of its rules as the root, which in CDDL is the first.
pub(crate) struct Schema(CDDL<'static>);

impl Schema {
    pub(crate) fn of(rule: &str) -> Self {
        // The syntax tree borrows the text and the validator borrows the tree: some tens of KB live until the end.
        // The validator only searches for a .regexp; a .pcre it anchors, as RFC 8610, 3.8.3 means a .regexp.
        let text = TEXT.replace(" .regexp ", " .pcre ");
        let text: &'static str = format!("root = {rule}\n{text}").leak();
        Self(cddl::cddl_from_str(text, true).unwrap())
    }

    pub(crate) fn valid(&self, octets: &[u8]) -> Result<(), String> {
        let value = decode_cbor(octets).map_err(|why| why.to_string())?;
        let mut validator = CBORValidator::new(&self.0, value, None);
        validator.validate().map_err(|why| why.to_string())
    }
}

fn array(sample: &Sample) -> Vec<Value> {
    serde_cbor::from_slice(&sample.octets).unwrap()
}

#[test]
fn what_we_write_is_valid() {
    for sample in samples::all() {
        let schema = Schema::of(sample.rule);
        schema
            .valid(&sample.octets)
            .unwrap_or_else(|why| panic!("{}: {why}", sample.name()));
        let mut longer = array(&sample);
        longer.extend([Value::Null, Value::Array(vec![])]);
        let longer = codec::encode(&longer).unwrap();
        schema
            .valid(&longer)
            .unwrap_or_else(|why| panic!("longer {}: {why}", sample.name()));
    }
}

/// Some do pass for another: a grant begins with numbers where a usage acknowledgement has them. What keeps them apart
/// is the topic, which the envelope binds; schema and reader must only see the same.
#[test]
fn schema_and_reader_take_the_same_for_another_message() {
    let samples = samples::all();
    let mut passes = vec![];
    for sample in &samples {
        let schema = Schema::of(sample.rule);
        for other in samples.iter().filter(|other| other.rule != sample.rule) {
            let (read, valid) = ((sample.again)(&other.octets), schema.valid(&other.octets));
            assert_eq!(
                read.is_ok(),
                valid.is_ok(),
                "{}, {}",
                other.name(),
                sample.name()
            );
            if valid.is_ok() {
                passes.push(format!("{} for {}", other.rule, sample.rule));
            }
        }
    }
    passes.dedup();
    assert_eq!(passes, ["credit-down for usage-down"]);
}

/// Where our reader takes what the schema does not: what the ledger and the charging answer with a reason
/// (5004, or a refused command) must get as far as them.
pub(crate) fn left_to_the_cloud(rule: &str, at: usize) -> bool {
    let columns = rule == "usage-up" && (11..=12).contains(&at);
    let arguments = matches!(rule, "fleet-command" | "fleet-event") && at == 6;
    // Who reads what was refused takes as much of it as is shown.
    let copy = rule == "rejected" && at == 5;
    columns || arguments || copy
}

#[test]
fn schema_and_reader_refuse_the_same() {
    let wrong = [
        Value::Null,
        Value::Bool(true),
        Value::from(-1i64),
        Value::from(u64::MAX),
        Value::Bytes(vec![0x61]),
        Value::Text("Ü".into()),
        Value::Text("a".repeat(129)),
        Value::Text("a b".into()),
        Value::Text("a\u{85}b".into()),
        Value::Text("a\n".into()),
        Value::Array(vec![]),
        Value::Array(vec![Value::Null]),
        Value::Map([].into()),
    ];
    let mut refused = 0;
    for sample in samples::all() {
        let schema = Schema::of(sample.rule);
        let mut check = |at: usize, what: &str, items: &[Value]| {
            let octets = codec::encode(&items).unwrap();
            let read = (sample.again)(&octets);
            let valid = schema.valid(&octets);
            let agree = read.is_ok() == valid.is_ok();
            let known = read.is_ok() && left_to_the_cloud(sample.rule, at);
            refused += u32::from(valid.is_err());
            assert!(
                agree || known,
                "{} {at} {what}: {read:?}, {valid:?}",
                sample.name()
            );
        };
        let items = array(&sample);
        for at in 0..items.len() {
            let mut without = items.clone();
            without.remove(at);
            check(at, "missing", &without);
            for value in &wrong {
                let mut with = items.clone();
                with[at] = value.clone();
                check(at, &format!("{value:?}"), &with);
            }
        }
    }
    assert!(refused > 1000, "only {refused} of them were wrong");
}

fn mac0(payload: &[u8]) -> Vec<u8> {
    seal(&Key::new([1; 32]), &Kid::first(&"batch"), "t", payload).unwrap()
}

fn sign1(payload: &[u8]) -> Vec<u8> {
    let key = SigningKey::from_bytes(&[1; 32]);
    sign(&key, &Kid::first(&"cloud"), "t", payload).unwrap()
}

/// Message, rule of its topic, signed.
const TOPICS: [(&str, &str, bool); 18] = [
    ("register-up", "on-up-register", false),
    ("usage-up", "on-up-usage", false),
    ("credit-up", "on-up-credit", false),
    ("ack", "on-up-ack", false),
    ("status", "on-status", false),
    ("register-down", "on-down-register", false),
    ("usage-down", "on-down-usage", false),
    ("credit-down", "on-down-credit", false),
    ("command", "on-down-command", false),
    ("fleet-command", "on-fleet-command", false),
    ("fleet-reply", "on-fleet-reply", false),
    ("fleet-event", "on-fleet-event", true),
    ("fleet-summary", "on-fleet-summary", true),
    ("fleet-command", "on-ops-command", false),
    ("fleet-reply", "on-ops-reply", false),
    ("node-status", "on-ops-node", true),
    ("statistics", "on-ops-statistics", true),
    ("rejected", "on-ops-rejected", true),
];

#[test]
fn envelopes_are_valid_and_each_topic_has_its_own() {
    for (rule, topic, signed) in TOPICS {
        let (schema, bare) = (Schema::of(topic), Schema::of(rule));
        for sample in samples::all() {
            let right_payload = bare.valid(&sample.octets).is_ok();
            let (right, wrong) = if signed {
                (sign1(&sample.octets), mac0(&sample.octets))
            } else {
                (mac0(&sample.octets), sign1(&sample.octets))
            };
            let valid = schema.valid(&right);
            assert_eq!(
                valid.is_ok(),
                right_payload,
                "{topic} {}: {valid:?}",
                sample.name()
            );
            assert!(schema.valid(&wrong).is_err(), "{topic} {}", sample.name());
        }
    }
    let wire = Schema::of("wire");
    for sample in samples::all() {
        wire.valid(&mac0(&sample.octets))
            .or_else(|_| wire.valid(&sign1(&sample.octets)))
            .unwrap();
        assert!(
            TOPICS.iter().any(|(rule, _, _)| *rule == sample.rule),
            "{}",
            sample.rule
        );
    }
}

#[test]
fn another_envelope_is_not_valid() {
    let sample = samples::all()
        .into_iter()
        .find(|s| s.name() == "usage-up.one")
        .unwrap();
    let schema = Schema::of("on-up-usage");
    let hex = hex::encode(mac0(&sample.octets));
    let changed = [
        ("untagged", hex.replacen("d1", "", 1)),
        ("tag 16", hex.replacen("d1", "d0", 1)),
        ("alg 5", hex.replacen("a20104", "a20105", 1)),
        (
            "an unprotected header",
            hex.replacen("2f31a0", "2f31a10405", 1),
        ),
        ("no tag", format!("d183{}", &hex[4..hex.len() - 18])),
        (
            "a short tag",
            format!("{}47{}", &hex[..hex.len() - 18], &hex[hex.len() - 14..]),
        ),
        ("another element", format!("d185{}00", &hex[4..])),
    ];
    for (what, hex) in changed {
        let octets = hex::decode(&hex).unwrap();
        assert!(schema.valid(&octets).is_err(), "{what}");
    }
}
