//! Our two envelopes: one spelling each, bound to key and topic, and nothing else gets through.

use allocation_counter::measure;
use ed25519_dalek::SigningKey;
use simquota_shared::codec::PAYLOAD;
use simquota_shared::envelope::{
    EnvelopeError, Key, Kid, MESSAGE_MAX, OVERHEAD_MAX, Received, open_signed, seal, sign,
};

const TOPIC: &str = "csim/v1/d/vm-17/up/usage";
const PAYLOAD_HEX: &str = "8401182a6161f6";

fn key() -> Key {
    Key::new([0x17; 32])
}

fn signing() -> SigningKey {
    SigningKey::from_bytes(&[0x18; 32])
}

fn kid() -> Kid {
    Kid::first(&"batch")
}

fn payload() -> Vec<u8> {
    hex::decode(PAYLOAD_HEX).unwrap()
}

fn sealed() -> Vec<u8> {
    seal(&key(), &kid(), TOPIC, &payload()).unwrap()
}

fn signed() -> Vec<u8> {
    sign(&signing(), &kid(), TOPIC, &payload()).unwrap()
}

fn open(message: &[u8]) -> Result<(Kid, Vec<u8>), EnvelopeError> {
    let received = Received::parse(message)?;
    let payload = received.verify(&key(), TOPIC)?.to_vec();
    Ok((received.kid, payload))
}

fn open_sign1(message: &[u8]) -> Result<(Kid, Vec<u8>), EnvelopeError> {
    open_signed(&signing().verifying_key(), TOPIC, message)
}

type Open = fn(&[u8]) -> Result<(Kid, Vec<u8>), EnvelopeError>;

fn both() -> [(Vec<u8>, Open); 2] {
    [(sealed(), open), (signed(), open_sign1)]
}

#[test]
fn what_was_sealed_is_opened() {
    for (message, open) in both() {
        assert_eq!(open(&message).unwrap(), (kid(), payload()));
    }
}

#[test]
fn envelopes_have_this_form() {
    for (name, message) in [("sealed", sealed()), ("signed", signed())] {
        insta::assert_snapshot!(name, crate::message::shown(&message));
    }
}

#[test]
fn any_flipped_bit_is_refused() {
    for (message, open) in both() {
        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&flipped).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn any_cut_and_any_addition_is_refused() {
    for (message, open) in both() {
        for end in 0..message.len() {
            assert!(open(&message[..end]).is_err(), "cut at {end}");
            let mut longer = message.clone();
            longer.insert(end, 0);
            assert!(open(&longer).is_err(), "an octet more at {end}");
        }
        assert!(open(&[message.clone(), vec![0]].concat()).is_err());
    }
}

#[test]
fn another_topic_key_or_payload_is_forged() {
    let received = Received::parse(&sealed()).unwrap();
    for topic in ["", "csim/v1/d/vm-18/up/usage", "csim/v1/d/vm-17/up/credit"] {
        assert_eq!(received.verify(&key(), topic), Err(EnvelopeError::Forged));
        let opened = open_signed(&signing().verifying_key(), topic, &signed());
        assert_eq!(opened, Err(EnvelopeError::Forged));
    }
    assert_eq!(
        received.verify(&Key::new([0x16; 32]), TOPIC),
        Err(EnvelopeError::Forged)
    );
    let other = SigningKey::from_bytes(&[0x19; 32]).verifying_key();
    assert_eq!(
        open_signed(&other, TOPIC, &signed()),
        Err(EnvelopeError::Forged)
    );
    assert_eq!(received.unverified(), payload());
}

/// The hexadecimal digits with one place spelled otherwise. The place must be there.
fn respelled(message: &[u8], from: &str, to: &str) -> Vec<u8> {
    let hex = hex::encode(message);
    assert!(hex.contains(from), "{from} is not in {hex}");
    hex::decode(hex.replacen(from, to, 1)).unwrap()
}

#[test]
fn every_other_spelling_is_refused() {
    let respellings = [
        ("d184", "84", "untagged"),
        ("d184", "d81184", "tag in two octets"),
        ("d184", "d3d184", "tagged twice"),
        ("d184", "d9d9f7d184", "tagged as CBOR"),
        ("d184", "d19804", "count in two octets"),
        ("d184", "d19f", "indefinite array"),
        ("d1844c", "d184580c", "protected length in two octets"),
        ("d1844c", "d1845f4c", "indefinite protected"),
        ("4ca20104", "4ca20105", "full HMAC 256/256"),
        ("4ca20104", "4da2011804", "alg in two octets"),
        ("4ca20104", "4eb90002 0104", "map count in three octets"),
        (
            "4ca20104044762617463682f31",
            "4ca2044762617463682f310104",
            "header keys out of order",
        ),
        (
            "4ca20104044762617463682f31",
            "4ebf0104044762617463682f31ff",
            "indefinite header",
        ),
        (
            "4ca20104044762617463682f31",
            "4fa301040447626174 63682f31054101",
            "another header",
        ),
        ("4ca20104044762617463682f31", "43a10104", "no kid"),
        (
            "4ca20104044762617463682f31",
            "4aa1044762617463682f31",
            "no alg",
        ),
        ("4ca20104044762617463682f31", "41a0", "an empty header"),
        ("4ca20104044762617463682f31", "40", "no header"),
        ("2f31a0", "2f31a10104", "an unprotected alg"),
        ("2f31a0", "2f31a10441 00", "an unprotected kid"),
        ("2f31a0", "2f31bfff", "an indefinite unprotected map"),
        (
            "478401182a6161f6",
            "58078401182a6161f6",
            "payload length in two octets",
        ),
        (
            "478401182a6161f6",
            "5f478401182a6161f6ff",
            "indefinite payload",
        ),
        ("478401182a6161f6", "f6", "no payload"),
        (
            "478401182a6161f6",
            "8401182a6161f6",
            "payload not a byte string",
        ),
        (
            "478401182a6161f648",
            "478401182a6161f6580 8",
            "tag length in two octets",
        ),
    ];
    for (from, to, what) in respellings {
        let message = respelled(&sealed(), from, &to.replace(' ', ""));
        let refused = Received::parse(&message);
        assert!(
            matches!(
                refused,
                Err(EnvelopeError::Structure("COSE_Mac0") | EnvelopeError::Kid)
            ),
            "{what}: {refused:?}"
        );
    }
}

#[test]
fn one_envelope_does_not_pass_for_the_other() {
    assert_eq!(
        open_sign1(&sealed()),
        Err(EnvelopeError::Structure("COSE_Sign1"))
    );
    assert_eq!(open(&signed()), Err(EnvelopeError::Structure("COSE_Mac0")));
    // The tag alone exchanged: what a reader that looks only at it would take.
    let relabelled = respelled(&signed(), "d284", "d184");
    assert_eq!(
        open(&relabelled),
        Err(EnvelopeError::Structure("COSE_Mac0"))
    );
    let other = [
        ("d284", "84", "untagged"),
        ("d2844c", "d284580c", "protected length in two octets"),
        ("a20127", "a20126", "alg ES256"),
        ("2f31a0", "2f31a10127", "an unprotected alg"),
        ("5840", "590040", "signature length in three octets"),
    ];
    for (from, to, what) in other {
        let message = respelled(&signed(), from, to);
        let refused = open_sign1(&message);
        assert_eq!(
            refused,
            Err(EnvelopeError::Structure("COSE_Sign1")),
            "{what}"
        );
    }
}

#[test]
fn a_tag_of_another_length_is_refused() {
    let message = sealed();
    let without = &message[..message.len() - 9];
    let tag = &message[message.len() - 8..];
    for length in [0, 1, 4, 7, 9, 16, 32] {
        let mut octets = tag.to_vec();
        octets.resize(length, 0);
        let head = if length < 24 {
            vec![0x40 + length as u8]
        } else {
            vec![0x58, length as u8]
        };
        let refused = Received::parse(&[without, &head, &octets].concat());
        assert!(refused.is_err(), "{length} octets: {refused:?}");
    }
}

#[test]
fn a_key_id_has_one_form() {
    let longest = format!("{}/4294967295", "a".repeat(64));
    let with = |kid: &str| {
        let mut message = hex::decode("d184").unwrap();
        let mut protected = vec![0xa2, 0x01, 0x04, 0x04];
        match kid.len() {
            length @ ..24 => protected.push(0x40 + length as u8),
            length => protected.extend([0x58, length as u8]),
        }
        protected.extend(kid.as_bytes());
        match protected.len() {
            length @ ..24 => message.push(0x40 + length as u8),
            length => message.extend([0x58, length as u8]),
        }
        message.extend(protected);
        message.extend([0xa0, 0x40, 0x48, 0, 0, 0, 0, 0, 0, 0, 0]);
        Received::parse(&message).map(|received| received.kid.to_string())
    };
    for good in ["a/1", "batch-7/12", &longest] {
        assert_eq!(with(good).unwrap(), good);
    }
    let too_long = format!("{}/1", "a".repeat(65));
    let bad = [
        "a",
        "a/",
        "/1",
        "a/0",
        "a/01",
        "a/+1",
        "a/-1",
        "a/1/1",
        "A/1",
        "a.b/1",
        "a/4294967296",
        "a /1",
        "ü/1",
        "a/1 ",
        "a/1\0",
        &too_long,
    ];
    for bad in bad {
        assert_eq!(with(bad), Err(EnvelopeError::Kid), "{bad:?}");
    }
    // coset names an empty kid before we do; past the longest possible header nothing is parsed at all.
    assert_eq!(with(""), Err(EnvelopeError::Structure("COSE_Mac0")));
    assert_eq!(
        with(&"a".repeat(80)),
        Err(EnvelopeError::Structure("COSE_Mac0"))
    );
}

#[test]
fn what_no_receiver_takes_is_not_sent() {
    let longest = vec![0; PAYLOAD.octets];
    let name = "k".repeat(64);
    let kid = Kid {
        name: name.clone(),
        generation: u32::MAX,
    };
    for (message, open) in [
        (seal(&key(), &kid, TOPIC, &longest).unwrap(), open as Open),
        (sign(&signing(), &kid, TOPIC, &longest).unwrap(), open_sign1),
    ] {
        assert!(message.len() <= MESSAGE_MAX);
        assert!(message.len() - longest.len() <= OVERHEAD_MAX);
        assert_eq!(open(&message).unwrap().1.len(), longest.len());
    }
    let over = vec![0; PAYLOAD.octets + 1];
    let refused = EnvelopeError::Payload(over.len());
    assert_eq!(seal(&key(), &kid, TOPIC, &over), Err(refused.clone()));
    assert_eq!(sign(&signing(), &kid, TOPIC, &over), Err(refused));
    for (name, generation) in [("", 1), ("a/b", 1), ("A", 1), ("a", 0)] {
        let kid = Kid {
            name: name.into(),
            generation,
        };
        assert_eq!(seal(&key(), &kid, TOPIC, &[]), Err(EnvelopeError::Kid));
        assert_eq!(sign(&signing(), &kid, TOPIC, &[]), Err(EnvelopeError::Kid));
    }
}

#[test]
fn an_oversized_message_is_not_looked_at() {
    for length in [MESSAGE_MAX + 1, 1 << 20] {
        let message = vec![0xd1; length];
        assert_eq!(open(&message), Err(EnvelopeError::Size(length)));
        assert_eq!(open_sign1(&message), Err(EnvelopeError::Size(length)));
    }
}

fn byte_string(octets: &[u8]) -> Vec<u8> {
    let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
    [&[0x59], length.as_slice(), octets].concat()
}

/// Counter signatures (header 7) hold a protected header, which may hold counter signatures: a parser that follows them
/// ends with its stack. This was found in coset 0.4.2, before anything was verified.
#[test]
fn nested_counter_signatures_end_nothing() {
    let mut header = vec![0xa0];
    while header.len() < 60_000 {
        let inner = byte_string(&header);
        header = [[0xa1, 0x07, 0x83].as_slice(), &inner, &[0xa0, 0x40]].concat();
    }
    for first in [0xd1, 0xd2] {
        let nested = byte_string(&header);
        let protected = [&[first, 0x84], nested.as_slice(), &[0xa0, 0x41, 0, 0x40]];
        let unprotected = [&[first, 0x84, 0x40], header.as_slice(), &[0x41, 0, 0x40]];
        for message in [protected.concat(), unprotected.concat()] {
            let cost = measure(|| {
                assert!(open(&message).is_err());
                assert!(open_sign1(&message).is_err());
            });
            assert_eq!(cost.count_total, 0);
        }
    }
}

#[test]
fn hostile_lengths_are_not_believed() {
    let inputs = [
        "",
        "d1",
        "d184",
        "d18440",
        "d18440a0",
        "d18440a040",
        "d1845bffffffffffffffff",
        "d1845affffffff",
        "d1845a0000ffff",
        "d18440bbffffffffffffffff",
        "d18440a05bffffffffffffffff",
        "d18440a05affffffff",
        "d19bffffffffffffffff",
        "d1845f",
        "d18440a0405b7fffffffffffffff",
        "d1844ca20104045affffffff6261",
        "dbffffffffffffffff84",
    ];
    for hex in inputs {
        let message = hex::decode(hex).unwrap();
        let cost = measure(|| {
            assert!(open(&message).is_err());
            assert!(open_sign1(&message).is_err());
        });
        assert_eq!(cost.count_total, 0, "{hex}");
    }
}
