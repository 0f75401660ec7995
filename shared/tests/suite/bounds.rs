//! Where a range ends, an enumeration stops or a character is refused, schema and reader say the same.
//!
//! Every place of every message, and of the arrays within, gets values on both sides of each bound. So a range, a number
//! or a character that changes in `src` and not in protocol.cddl, or the other way round, fails here.

use std::collections::{BTreeMap, BTreeSet};

use serde_cbor::Value;
use simquota_shared::codec;
use simquota_shared::ids::{ID_MAX, TEXT_MAX};
use simquota_shared::message::Policy;
use simquota_shared::message::ops::REJECTED_COPY_MAX;

use crate::samples::{self, Sample};
use crate::schema::{Schema, left_to_the_cloud};

/// A place: positions from the outermost array inward.
type Path = Vec<usize>;

fn places(value: &Value, path: &Path, found: &mut Vec<Path>) {
    if !path.is_empty() {
        found.push(path.clone());
    }
    if let Value::Array(items) = value {
        for (at, item) in items.iter().enumerate() {
            let mut inner = path.clone();
            inner.push(at);
            places(item, &inner, found);
        }
    }
}

fn with(value: &Value, path: &[usize], put: &Value) -> Value {
    let (Some((at, rest)), Value::Array(items)) = (path.split_first(), value) else {
        return put.clone();
    };
    let mut items = items.clone();
    items[*at] = with(&items[*at], rest, put);
    Value::Array(items)
}

fn at<'a>(value: &'a Value, path: &[usize]) -> &'a Value {
    match (path.split_first(), value) {
        (Some((first, rest)), Value::Array(items)) => at(&items[*first], rest),
        _ => value,
    }
}

fn array(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

/// Numbers and lengths on both sides of every bound that there is.
fn plain_probes() -> Vec<Value> {
    let numbers = (-2..=12).chain([
        255,
        256,
        65_535,
        65_536,
        i128::from(u32::MAX),
        i128::from(i64::MAX),
        i128::from(i64::MAX) + 1,
        i128::from(u64::MAX),
        i128::from(i64::MIN),
        i128::from(i64::MIN) - 1,
    ]);
    let texts = [
        "".to_owned(),
        "a".repeat(ID_MAX - 1),
        "a".repeat(ID_MAX),
        "a".repeat(ID_MAX + 1),
        "é".repeat(TEXT_MAX / 2),
        "a".repeat(TEXT_MAX),
        "a".repeat(TEXT_MAX + 1),
        "a\n".into(),
        "é".repeat(TEXT_MAX / 2 + 1),
    ];
    let octets = [0, REJECTED_COPY_MAX, REJECTED_COPY_MAX + 1];
    numbers
        .map(Value::Integer)
        .chain(texts.map(Value::Text))
        .chain(octets.map(|length| Value::Bytes(vec![7; length])))
        .chain([Value::Null, Value::Bool(true), Value::Map([].into())])
        .collect()
}

/// Choices and lists, of which there may be others than those that are known.
fn array_probes() -> Vec<Value> {
    let policy: Value = serde_cbor::value::to_value(Policy::DEFAULT).unwrap();
    let arguments = [
        None,
        Some(array([])),
        Some(Value::from(0)),
        Some(array([Value::Text("a".into())])),
        Some(policy),
    ];
    // A choice is an array that begins with its number.
    let choices = (0..=10).flat_map(|number| {
        arguments
            .clone()
            .map(|argument| array([Value::from(number)].into_iter().chain(argument)))
    });
    let lists = (0..=4).map(|length| array((0..length).map(|_| Value::from(1))));
    choices.chain(lists).collect()
}

/// Whether both take it; they shall agree.
fn agreed(sample: &Sample, schema: &Schema, path: &[usize], put: &Value) -> bool {
    let whole: Value = serde_cbor::from_slice(&sample.octets).unwrap();
    let octets = codec::encode(&with(&whole, path, put)).unwrap();
    let (read, valid) = ((sample.again)(&octets), schema.valid(&octets));
    let left = read.is_ok() && left_to_the_cloud(sample.rule, path[0]);
    assert!(
        read.is_ok() == valid.is_ok() || left,
        "{} {path:?} {put:?}: {read:?}, {valid:?}",
        sample.name()
    );
    valid.is_ok()
}

#[test]
fn both_sides_of_every_bound() {
    let (mut seen, mut schemas) = (BTreeSet::new(), BTreeMap::new());
    let (mut taken, mut refused) = (0, 0);
    let (plain, arrays) = (plain_probes(), array_probes());
    for sample in samples::all() {
        let schema = schemas
            .entry(sample.rule)
            .or_insert_with(|| Schema::of(sample.rule));
        let whole: Value = serde_cbor::from_slice(&sample.octets).unwrap();
        let mut found = vec![];
        places(&whole, &vec![], &mut found);
        for path in found {
            // Entries of a list are of one kind.
            if path.len() > 2 && path[2] > 3 || !seen.insert((sample.rule, path.clone())) {
                continue;
            }
            let more = match at(&whole, &path) {
                Value::Array(_) => arrays.as_slice(),
                _ => &[],
            };
            for put in plain.iter().chain(more) {
                *(if agreed(&sample, schema, &path, put) {
                    &mut taken
                } else {
                    &mut refused
                }) += 1;
            }
        }
    }
    println!("bounds: {taken} taken, {refused} refused, by both");
    assert!(taken > 1_000 && refused > 5_000, "{taken}, {refused}");
}

#[test]
fn every_character_of_ids_and_texts() {
    for (name, at, allowed) in [
        ("credit-up.initial", 7, 37),
        ("register-up.bare", 3, 256 - 65),
    ] {
        let sample = samples::all()
            .into_iter()
            .find(|sample| sample.name() == name)
            .unwrap();
        let schema = Schema::of(sample.rule);
        let characters = (0..=0xff).filter_map(char::from_u32);
        let taken = characters
            .filter(|c| agreed(&sample, &schema, &[at], &Value::Text(format!("a{c}b"))))
            .count();
        assert_eq!(taken, allowed, "{name}");
        for c in ['\u{100}', '\u{2028}', '\u{e000}', '\u{fffd}', '\u{10ffff}'] {
            agreed(&sample, &schema, &[at], &Value::Text(format!("a{c}b")));
        }
    }
}
