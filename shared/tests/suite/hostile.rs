//! What an attacker writes where a payload should be: refused by name, quickly, without believing a length.

use allocation_counter::measure;
use serde_cbor::Value;
use simquota_shared::codec::{self, CodecError, Limits, PAYLOAD, check};
use simquota_shared::message::{
    Ack, Command, CreditAnswer, CreditRequest, FleetCommand, RegisterRequest, Rejected, UsageBatch,
};

const LENGTH: &str = "a reserved or indefinite length";
const LONG: &str = "a number longer than it needs to be";
const KEYS: &str = "map keys out of order or twice";
const SIMPLE: &str = "a float or an unknown simple value";
const UTF8: &str = "text that is not UTF-8";

fn not_canonical(what: &'static str, at: usize) -> CodecError {
    CodecError::NotCanonical(what, at)
}

fn octets(hex: &str) -> Vec<u8> {
    hex::decode(hex.replace(' ', "")).unwrap()
}

/// Each with the first thing that is wrong with it.
fn inputs() -> Vec<(&'static str, Vec<u8>, CodecError)> {
    let nested = |head: &str, levels: usize| octets(&head.repeat(levels));
    let deep = CodecError::Depth(PAYLOAD.depth);
    vec![
        ("nothing", vec![], CodecError::Truncated),
        (
            "an array of 2^64 - 1",
            octets("9b ffffffffffffffff"),
            CodecError::Truncated,
        ),
        (
            "an array of 2^32 - 1",
            octets("9a ffffffff"),
            CodecError::Truncated,
        ),
        (
            "a map of 2^64 - 1",
            octets("bb ffffffffffffffff"),
            CodecError::Truncated,
        ),
        (
            "a map of 2^32 - 1",
            octets("ba ffffffff"),
            CodecError::Truncated,
        ),
        (
            "2^64 - 1 octets",
            octets("5b ffffffffffffffff"),
            CodecError::Truncated,
        ),
        (
            "2^63 octets",
            octets("5b 8000000000000000 00"),
            CodecError::Truncated,
        ),
        (
            "4 GiB of octets",
            octets("5b 0000000100000000 00"),
            CodecError::Truncated,
        ),
        (
            "2^64 - 1 of text",
            octets("7b ffffffffffffffff"),
            CodecError::Truncated,
        ),
        (
            "4 GiB of text",
            octets("7a ffffffff 61"),
            CodecError::Truncated,
        ),
        (
            "a number cut short",
            octets("1b 00000000"),
            CodecError::Truncated,
        ),
        (
            "an array cut short",
            octets("83 01 02"),
            CodecError::Truncated,
        ),
        ("a map cut short", octets("a1 01"), CodecError::Truncated),
        ("a head alone", octets("18"), CodecError::Truncated),
        ("arrays within arrays", nested("81", 60_000), deep.clone()),
        ("maps within maps", nested("a1 00", 30_000), deep.clone()),
        ("maps as keys of maps", nested("a1", 60_000), deep.clone()),
        ("nine levels", octets("81 81 81 81 81 81 81 81 80"), deep),
        (
            "indefinite arrays",
            nested("9f", 60_000),
            not_canonical(LENGTH, 0),
        ),
        (
            "indefinite maps",
            nested("bf", 60_000),
            not_canonical(LENGTH, 0),
        ),
        (
            "tags within tags",
            nested("c1", 60_000),
            not_canonical("a tag", 0),
        ),
        (
            "an indefinite text",
            octets("7f 61 61 ff"),
            not_canonical(LENGTH, 0),
        ),
        (
            "one without end",
            octets("7f 61 61"),
            not_canonical(LENGTH, 0),
        ),
        (
            "one within another",
            octets("7f 7f 61 61 ff ff"),
            not_canonical(LENGTH, 0),
        ),
        (
            "indefinite octets",
            octets("5f 41 00 ff"),
            not_canonical(LENGTH, 0),
        ),
        ("a break alone", octets("ff"), not_canonical(SIMPLE, 0)),
        ("reserved 28", octets("1c"), not_canonical(LENGTH, 0)),
        ("reserved 29", octets("81 3d"), not_canonical(LENGTH, 1)),
        ("reserved 30", octets("82 00 5e"), not_canonical(LENGTH, 2)),
        ("1 in two octets", octets("18 01"), not_canonical(LONG, 0)),
        ("23 in two octets", octets("18 17"), not_canonical(LONG, 0)),
        (
            "255 in three octets",
            octets("19 00ff"),
            not_canonical(LONG, 0),
        ),
        (
            "65535 in five octets",
            octets("1a 0000ffff"),
            not_canonical(LONG, 0),
        ),
        (
            "2^32 - 1 in nine",
            octets("1b 00000000ffffffff"),
            not_canonical(LONG, 0),
        ),
        ("-1 in two octets", octets("38 00"), not_canonical(LONG, 0)),
        (
            "a length in two octets",
            octets("81 78 01 61"),
            not_canonical(LONG, 1),
        ),
        (
            "a count in two octets",
            octets("98 01 00"),
            not_canonical(LONG, 0),
        ),
        (
            "a key twice",
            octets("a2 01 02 01 03"),
            not_canonical(KEYS, 3),
        ),
        (
            "keys out of order",
            octets("a2 02 00 01 00"),
            not_canonical(KEYS, 3),
        ),
        (
            "the longer key first",
            octets("a2 62 6161 00 61 62 00"),
            not_canonical(KEYS, 5),
        ),
        (
            "text before number",
            octets("a2 61 61 00 01 00"),
            not_canonical(KEYS, 4),
        ),
        (
            "-1 before 1",
            octets("a2 20 00 01 00"),
            not_canonical(KEYS, 3),
        ),
        ("bad UTF-8", octets("62 c328"), not_canonical(UTF8, 0)),
        (
            "half a surrogate",
            octets("63 eda080"),
            not_canonical(UTF8, 0),
        ),
        (
            "an overlong slash",
            octets("62 c0af"),
            not_canonical(UTF8, 0),
        ),
        ("a half float", octets("f9 3c00"), not_canonical(SIMPLE, 0)),
        (
            "not a number",
            octets("81 fb 7ff8000000000000"),
            not_canonical(SIMPLE, 1),
        ),
        ("undefined", octets("f7"), not_canonical(SIMPLE, 0)),
        (
            "false in two octets",
            octets("f8 14"),
            not_canonical(SIMPLE, 0),
        ),
        (
            "a bignum",
            octets("c2 49 010000000000000000"),
            not_canonical("a tag", 0),
        ),
        ("one more item", octets("80 00"), CodecError::Trailing(1)),
        ("a null behind", octets("01 f6 f6"), CodecError::Trailing(2)),
        (
            "too long",
            vec![0x00; 65_537],
            CodecError::Size(65_537, 65_536),
        ),
    ]
}

#[test]
fn hostile_octets_are_refused_by_name() {
    for (what, octets, why) in inputs() {
        assert_eq!(check(&octets, PAYLOAD), Err(why.clone()), "{what}");
        assert_eq!(codec::decode::<Value>(&octets), Err(why.clone()), "{what}");
        assert_eq!(
            codec::decode::<Vec<u64>>(&octets),
            Err(why.clone()),
            "{what}"
        );
        assert_eq!(codec::decode::<UsageBatch>(&octets), Err(why), "{what}");
    }
}

#[test]
fn nothing_is_allocated_before_a_refusal() {
    for (what, octets, _) in inputs() {
        let walked = measure(|| assert!(check(&octets, PAYLOAD).is_err()));
        assert_eq!(walked.count_total, 0, "{what}");
        let read = measure(|| assert!(codec::decode::<Value>(&octets).is_err()));
        assert_eq!(read.count_total, 0, "{what}");
    }
}

/// The costliest payloads that are canonical: most items, most texts, widest map.
#[test]
fn what_a_canonical_payload_may_cost_is_bounded() {
    let numbers = codec::encode(&vec![0u8; 65_533]).unwrap();
    let texts = codec::encode(&vec!["a"; 32_766]).unwrap();
    let pairs: std::collections::BTreeMap<Value, Value> = (0..12_000u64)
        .map(|key| (Value::from(key), Value::Null))
        .collect();
    let map = codec::encode(&Value::Map(pairs)).unwrap();
    for octets in [numbers, texts, map] {
        let read = measure(|| assert!(codec::decode::<Value>(&octets).is_ok()));
        assert!(read.bytes_max < 8 << 20, "{} octets", read.bytes_max);
        let refused = measure(|| {
            assert!(codec::decode::<UsageBatch>(&octets).is_err());
            assert!(codec::decode::<CreditAnswer>(&octets).is_err());
            assert!(codec::decode::<Command>(&octets).is_err());
        });
        assert!(refused.bytes_max < 8 << 20, "{} octets", refused.bytes_max);
    }
}

#[test]
fn eight_levels_and_full_length_are_accepted() {
    check(&octets("81 81 81 81 81 81 81 80"), PAYLOAD).unwrap();
    let mut longest = octets("59 fffd");
    longest.resize(PAYLOAD.octets, 7);
    check(&longest, PAYLOAD).unwrap();
    let few = Limits {
        items: 3,
        ..PAYLOAD
    };
    check(&octets("82 00 00"), few).unwrap();
    assert_eq!(
        check(&octets("83 00 00 00"), few),
        Err(CodecError::Items(3))
    );
    assert_eq!(
        check(&octets("a2 00 00 01 00"), few),
        Err(CodecError::Items(3))
    );
}

/// Whatever is accepted is written again the same: there is one spelling of everything.
#[test]
fn what_is_read_is_written_the_same() {
    let mut state = 1u64;
    let mut draw = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let samples: Vec<Vec<u8>> = crate::samples::all()
        .into_iter()
        .map(|s| s.octets)
        .collect();
    let mut accepted = 0;
    for _ in 0..200_000 {
        let mut octets = samples[draw(samples.len())].clone();
        for _ in 0..=draw(3) {
            let at = draw(octets.len());
            match draw(3) {
                0 => octets[at] ^= 1 << draw(8),
                1 => octets[at] = u8::try_from(draw(256)).unwrap(),
                _ => {
                    let end = (at + 1 + draw(4)).min(octets.len());
                    if end - at < octets.len() {
                        octets.drain(at..end);
                    }
                }
            }
        }
        if let Ok(value) = codec::decode::<Value>(&octets) {
            assert_eq!(codec::encode(&value).unwrap(), octets);
            accepted += 1;
        }
        // No reader may panic, whatever it is given.
        let _ = codec::decode::<RegisterRequest>(&octets);
        let _ = codec::decode::<UsageBatch>(&octets);
        let _ = codec::decode::<CreditRequest>(&octets);
        let _ = codec::decode::<CreditAnswer>(&octets);
        let _ = codec::decode::<Command>(&octets);
        let _ = codec::decode::<Ack>(&octets);
        let _ = codec::decode::<FleetCommand>(&octets);
        let _ = codec::decode::<Rejected>(&octets);
    }
    assert!(accepted > 10_000, "only {accepted} of them were canonical");
}
