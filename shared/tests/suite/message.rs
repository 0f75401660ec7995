//! Each message as a second reader of CBOR shows it, and what a reader does with what it does not know.

use serde_cbor::Value;
use simquota_shared::codec::{self, CodecError, PAYLOAD};
use simquota_shared::message::usage::UsageBatch;
use simquota_shared::units::{Octets, Seq};

use crate::samples::{self, Sample};
use crate::source;

/// Diagnostic notation (RFC 8949, 8), by a library that is not ours, without its indicators of how wide a number is
/// written (`60_0`): ours are always the shortest, and the octets show it.
pub(crate) fn plain_diag(octets: &[u8], lines: bool) -> String {
    let item = cbor_diag::parse_bytes(octets).unwrap();
    let shown = if lines {
        item.to_diag_pretty()
    } else {
        item.to_diag()
    };
    let mut plain = String::new();
    let (mut quoted, mut escaped) = (false, false);
    let mut rest = shown.chars().peekable();
    while let Some(c) = rest.next() {
        if !quoted && c == '_' && plain.ends_with(|before: char| before.is_ascii_digit()) {
            rest.next_if(char::is_ascii_digit);
            continue;
        }
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        plain.push(c);
        // The compact form has no space behind commas.
        if !lines && !quoted && matches!(c, ',' | ':') {
            plain.push(' ');
        }
    }
    plain
}

/// [`plain_diag`] and the octets.
pub(crate) fn shown(octets: &[u8]) -> String {
    let pretty = plain_diag(octets, true);
    let hex = hex::encode(octets);
    let lines: Vec<&str> = (0..hex.len())
        .step_by(96)
        .map(|at| &hex[at..hex.len().min(at + 96)])
        .collect();
    format!("{pretty}\n{}\n{} octets", lines.join("\n"), octets.len())
}

#[test]
fn each_message_has_this_form() {
    for sample in samples::all() {
        insta::assert_snapshot!(sample.name(), shown(&sample.octets));
    }
}

#[test]
fn doc_comments_name_the_elements_in_order() {
    for sample in samples::all() {
        let declared = source::declared(sample.message);
        let documented = source::documented(sample.message);
        assert_eq!(documented[0], "1", "{}", sample.message);
        assert_eq!(documented[1..], declared, "{}", sample.message);
        assert_eq!(array(&sample).len(), documented.len(), "{}", sample.message);
    }
}

fn array(sample: &Sample) -> Vec<Value> {
    match serde_cbor::from_slice(&sample.octets).unwrap() {
        Value::Array(items) => items,
        other => panic!("{}: not an array: {other:?}", sample.name()),
    }
}

#[test]
fn unknown_trailing_elements_are_ignored() {
    let news = [
        Value::Null,
        Value::from(7i64),
        Value::Array(vec![Value::Map([(Value::from(1i64), Value::Null)].into())]),
    ];
    for sample in samples::all() {
        let mut longer = array(&sample);
        longer.extend(news.clone());
        let octets = codec::encode(&longer).unwrap();
        assert_eq!(
            (sample.again)(&octets).unwrap(),
            sample.octets,
            "{}",
            sample.name()
        );
    }
}

#[test]
fn a_higher_version_is_read_and_version_0_is_refused() {
    for sample in samples::all() {
        let version = |version: u64| {
            let mut items = array(&sample);
            items[0] = Value::from(version);
            (sample.again)(&codec::encode(&items).unwrap())
        };
        assert_eq!(version(2).unwrap(), sample.octets, "{}", sample.name());
        assert_eq!(
            version(u64::MAX).unwrap(),
            sample.octets,
            "{}",
            sample.name()
        );
        let refused = version(0).unwrap_err().to_string();
        assert!(refused.contains("version 0 does not exist"), "{refused}");
    }
}

#[test]
fn a_missing_last_element_is_named() {
    for sample in samples::all() {
        let mut items = array(&sample);
        items.pop();
        let refused = (sample.again)(&codec::encode(&items).unwrap()).unwrap_err();
        let last = source::declared(sample.message).pop().unwrap();
        assert!(
            refused.to_string().ends_with(&format!("{last} is missing")),
            "{}: {refused}",
            sample.name()
        );
    }
}

#[test]
fn a_byte_string_does_not_pass_for_a_text() {
    let sample = samples::all()
        .into_iter()
        .find(|s| s.rule == "ack")
        .unwrap();
    let mut items = array(&sample);
    items[2] = Value::Bytes(b"c-17".to_vec());
    let refused = (sample.again)(&codec::encode(&items).unwrap()).unwrap_err();
    assert!(matches!(refused, CodecError::Shape(_)), "{refused}");
}

#[test]
fn a_refusal_does_not_repeat_what_it_found() {
    let sample = samples::all()
        .into_iter()
        .find(|s| s.rule == "ack")
        .unwrap();
    let mut items = array(&sample);
    items[1] = Value::Text("\n\u{1b}".repeat(20_000));
    let refused = (sample.again)(&codec::encode(&items).unwrap())
        .unwrap_err()
        .to_string();
    assert!(refused.len() < 1_500, "{} octets", refused.len());
    assert!(!refused.contains(char::is_control), "{refused}");
}

#[test]
fn what_has_no_canonical_form_is_not_written() {
    let refused = [
        Value::Float(1.5),
        Value::Integer(i128::from(u64::MAX) + 1),
        (0..9).fold(Value::Null, |inner, _| Value::Array(vec![inner])),
    ];
    for value in refused {
        let written = codec::encode(&value);
        assert!(
            matches!(written, Err(CodecError::Encode(_))),
            "{value:?}: {written:?}"
        );
    }
    // A derived struct is a map in the order of its fields: not the order of RFC 8949.
    #[derive(serde::Serialize)]
    struct Derived {
        zone: u8,
        apn: u8,
    }
    let written = codec::encode(&Derived { zone: 1, apn: 2 });
    assert!(matches!(written, Err(CodecError::Encode(_))), "{written:?}");
}

#[test]
fn rows_of_a_store_may_be_longer_than_a_payload() {
    let row = vec![1u64 << 40; 10_000];
    let octets = codec::encode(&row).unwrap();
    assert_eq!(
        codec::decode::<Vec<u64>>(&octets),
        Err(CodecError::Size(octets.len(), PAYLOAD.octets))
    );
    let limits = codec::Limits {
        octets: octets.len(),
        ..PAYLOAD
    };
    assert_eq!(codec::decode_within::<Vec<u64>>(&octets, limits), Ok(row));
}

/// A year of a tracker in a line: a heartbeat of some hundred octets a minute, and a burst now and then.
fn batch(rows: u64) -> UsageBatch {
    let sample = samples::all()
        .into_iter()
        .find(|s| s.name() == "usage-up.one")
        .unwrap();
    let one: UsageBatch = codec::decode(&sample.octets).unwrap();
    // A linear congruential generator (Knuth's MMIX constants): the same octets wherever the test runs.
    let mut state = 17u64;
    let mut draw = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut up = vec![];
    let mut down = vec![];
    let mut dt = vec![];
    for row in 0..rows {
        let burst = if draw(100) < 15 { 100 } else { 1 };
        up.push(burst * (90 + draw(500)));
        down.push(burst * (60 + draw(500)));
        if row > 0 {
            dt.push(i64::try_from(draw(3)).unwrap() - 1);
        }
    }
    let total = up.iter().chain(&down).sum();
    UsageBatch {
        first: Seq(1),
        clock: 1,
        t0: 1_764_000_000,
        total: Octets(total),
        dt,
        up,
        down,
        ..one
    }
}

#[test]
fn a_batch_costs_seven_octets_a_sample() {
    let mut lines = vec![];
    for rows in [1, 10, 100, 1000] {
        let octets = codec::encode(&batch(rows)).unwrap().len();
        let hundredths = octets as u64 * 100 / rows;
        lines.push(format!(
            "{rows:>4} samples: {octets:>5} octets, {}.{:02} a sample",
            hundredths / 100,
            hundredths % 100
        ));
        assert!(octets <= PAYLOAD.octets);
    }
    insta::assert_snapshot!("batch-size", lines.join("\n"));
}
