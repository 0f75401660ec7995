//! RFC 8949, appendix A: every example, and what a payload may have of it. Source: the RFC's table.

use std::collections::BTreeMap;

use serde_cbor::Value;
use simquota_shared::codec::{self, CodecError, PAYLOAD, check};

enum Verdict {
    /// Canonical and of a kind that our messages use: read as this value, written again the same.
    Read(Value),
    /// No message needs it.
    Float,
    Simple,
    Tag,
    /// A second way to say what has a definite length.
    Indefinite,
}

use Verdict::{Float, Indefinite, Read, Simple, Tag};

fn n(number: i128) -> Verdict {
    Read(Value::Integer(number))
}

fn int(number: i128) -> Value {
    Value::Integer(number)
}

fn t(text: &str) -> Value {
    Value::Text(text.into())
}

fn a(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Array(items.into_iter().collect())
}

fn m(pairs: impl IntoIterator<Item = (Value, Value)>) -> Value {
    Value::Map(pairs.into_iter().collect::<BTreeMap<_, _>>())
}

fn numbers() -> Vec<(&'static str, &'static str, Verdict)> {
    vec![
        ("0", "00", n(0)),
        ("1", "01", n(1)),
        ("10", "0a", n(10)),
        ("23", "17", n(23)),
        ("24", "1818", n(24)),
        ("25", "1819", n(25)),
        ("100", "1864", n(100)),
        ("1000", "1903e8", n(1000)),
        ("1000000", "1a000f4240", n(1_000_000)),
        ("1000000000000", "1b000000e8d4a51000", n(1_000_000_000_000)),
        (
            "18446744073709551615",
            "1bffffffffffffffff",
            n(u64::MAX.into()),
        ),
        ("18446744073709551616", "c249010000000000000000", Tag),
        (
            "-18446744073709551616",
            "3bffffffffffffffff",
            n(-1 - i128::from(u64::MAX)),
        ),
        ("-18446744073709551617", "c349010000000000000000", Tag),
        ("-1", "20", n(-1)),
        ("-10", "29", n(-10)),
        ("-100", "3863", n(-100)),
        ("-1000", "3903e7", n(-1000)),
        ("0.0", "f90000", Float),
        ("-0.0", "f98000", Float),
        ("1.0", "f93c00", Float),
        ("1.1", "fb3ff199999999999a", Float),
        ("1.5", "f93e00", Float),
        ("65504.0", "f97bff", Float),
        ("100000.0", "fa47c35000", Float),
        ("3.4028234663852886e+38", "fa7f7fffff", Float),
        ("1.0e+300", "fb7e37e43c8800759c", Float),
        ("5.960464477539063e-8", "f90001", Float),
        ("0.00006103515625", "f90400", Float),
        ("-4.0", "f9c400", Float),
        ("-4.1", "fbc010666666666666", Float),
        ("Infinity", "f97c00", Float),
        ("NaN", "f97e00", Float),
        ("-Infinity", "f9fc00", Float),
        ("Infinity", "fa7f800000", Float),
        ("NaN", "fa7fc00000", Float),
        ("-Infinity", "faff800000", Float),
        ("Infinity", "fb7ff0000000000000", Float),
        ("NaN", "fb7ff8000000000000", Float),
        ("-Infinity", "fbfff0000000000000", Float),
    ]
}

fn simple_and_tagged() -> Vec<(&'static str, &'static str, Verdict)> {
    vec![
        ("false", "f4", Read(Value::Bool(false))),
        ("true", "f5", Read(Value::Bool(true))),
        ("null", "f6", Read(Value::Null)),
        ("undefined", "f7", Simple),
        ("simple(16)", "f0", Simple),
        ("simple(255)", "f8ff", Simple),
        (
            "0(\"2013-03-21T20:04:00Z\")",
            "c074323031332d30332d32315432303a30343a30305a",
            Tag,
        ),
        ("1(1363896240)", "c11a514b67b0", Tag),
        ("1(1363896240.5)", "c1fb41d452d9ec200000", Tag),
        ("23(h'01020304')", "d74401020304", Tag),
        ("24(h'6449455446')", "d818456449455446", Tag),
        (
            "32(\"http://www.example.com\")",
            "d82076687474703a2f2f7777772e6578616d706c652e636f6d",
            Tag,
        ),
    ]
}

fn strings() -> Vec<(&'static str, &'static str, Verdict)> {
    vec![
        ("h''", "40", Read(Value::Bytes(vec![]))),
        (
            "h'01020304'",
            "4401020304",
            Read(Value::Bytes(vec![1, 2, 3, 4])),
        ),
        ("\"\"", "60", Read(t(""))),
        ("\"a\"", "6161", Read(t("a"))),
        ("\"IETF\"", "6449455446", Read(t("IETF"))),
        ("\"\\\"\\\\\"", "62225c", Read(t("\"\\"))),
        ("\"\\u00fc\"", "62c3bc", Read(t("\u{fc}"))),
        ("\"\\u6c34\"", "63e6b0b4", Read(t("\u{6c34}"))),
        ("\"\\ud800\\udd51\"", "64f0908591", Read(t("\u{10151}"))),
        ("(_ h'0102', h'030405')", "5f42010243030405ff", Indefinite),
        (
            "(_ \"strea\", \"ming\")",
            "7f657374726561646d696e67ff",
            Indefinite,
        ),
    ]
}

fn structures() -> Vec<(&'static str, &'static str, Verdict)> {
    let to_25 = || a((1..=25).map(int));
    let letters = ["a", "b", "c", "d", "e"];
    vec![
        ("[]", "80", Read(a([]))),
        ("[1, 2, 3]", "83010203", Read(a([int(1), int(2), int(3)]))),
        (
            "[1, [2, 3], [4, 5]]",
            "8301820203820405",
            Read(a([int(1), a([int(2), int(3)]), a([int(4), int(5)])])),
        ),
        (
            "[1, 2, ..., 25]",
            "98190102030405060708090a0b0c0d0e0f101112131415161718181819",
            Read(to_25()),
        ),
        ("{}", "a0", Read(m([]))),
        (
            "{1: 2, 3: 4}",
            "a201020304",
            Read(m([(int(1), int(2)), (int(3), int(4))])),
        ),
        (
            "{\"a\": 1, \"b\": [2, 3]}",
            "a26161016162820203",
            Read(m([(t("a"), int(1)), (t("b"), a([int(2), int(3)]))])),
        ),
        (
            "[\"a\", {\"b\": \"c\"}]",
            "826161a161626163",
            Read(a([t("a"), m([(t("b"), t("c"))])])),
        ),
        (
            "{\"a\": \"A\", ..., \"e\": \"E\"}",
            "a56161614161626142616361436164614461656145",
            Read(m(
                letters.map(|letter| (t(letter), t(&letter.to_uppercase())))
            )),
        ),
        ("[_ ]", "9fff", Indefinite),
        (
            "[_ 1, [2, 3], [_ 4, 5]]",
            "9f018202039f0405ffff",
            Indefinite,
        ),
        ("[_ 1, [2, 3], [4, 5]]", "9f01820203820405ff", Indefinite),
        ("[1, [2, 3], [_ 4, 5]]", "83018202039f0405ff", Indefinite),
        ("[1, [_ 2, 3], [4, 5]]", "83019f0203ff820405", Indefinite),
        (
            "[_ 1, 2, ..., 25]",
            "9f0102030405060708090a0b0c0d0e0f101112131415161718181819ff",
            Indefinite,
        ),
        (
            "{_ \"a\": 1, \"b\": [_ 2, 3]}",
            "bf61610161629f0203ffff",
            Indefinite,
        ),
        (
            "[\"a\", {_ \"b\": \"c\"}]",
            "826161bf61626163ff",
            Indefinite,
        ),
        (
            "{_ \"Fun\": true, \"Amt\": -2}",
            "bf6346756ef563416d7421ff",
            Indefinite,
        ),
    ]
}

#[test]
fn every_example_is_read_or_refused_for_its_reason() {
    let mut counts = (0, 0);
    let all = [numbers(), simple_and_tagged(), strings(), structures()];
    for (shown, hex, verdict) in all.into_iter().flatten() {
        let octets = hex::decode(hex).unwrap();
        // A well-formed item, whatever we make of it: the table has no slip of the pen.
        cbor_diag::parse_bytes(&octets).unwrap_or_else(|why| panic!("{shown}: {why}"));
        let why = match verdict {
            Read(value) => {
                assert_eq!(check(&octets, PAYLOAD), Ok(()), "{shown}");
                assert_eq!(codec::decode::<Value>(&octets).unwrap(), value, "{shown}");
                assert_eq!(codec::encode(&value).unwrap(), octets, "{shown}");
                counts.0 += 1;
                continue;
            }
            Float | Simple => "a float or an unknown simple value",
            Tag => "a tag",
            Indefinite => "a reserved or indefinite length",
        };
        counts.1 += 1;
        let refused = check(&octets, PAYLOAD);
        assert!(
            matches!(&refused, Err(CodecError::NotCanonical(what, _)) if *what == why),
            "{shown}: {refused:?}"
        );
        assert_eq!(
            codec::decode::<Value>(&octets).map(drop),
            refused,
            "{shown}"
        );
    }
    assert_eq!(counts, (37, 44), "read, refused");
}
