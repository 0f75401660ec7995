//! CBOR's diagnostic notation.

use serde_cbor::Value;

/// A value in diagnostic notation. Source: RFC 8949, section 8.
pub(super) fn of(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(truth) => truth.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Bytes(octets) => format!("h'{}'", hex::encode(octets)),
        Value::Text(text) => serde_json::Value::from(text.as_str()).to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(of).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(map) => {
            let pairs = map.iter();
            let pairs: Vec<String> = pairs
                .map(|(key, value)| format!("{}: {}", of(key), of(value)))
                .collect();
            format!("{{{}}}", pairs.join(", "))
        }
        _ => "undefined".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_are_written_as_the_standard_does() {
        // RFC 8949, appendix A.
        for (hex, expected) in [
            ("00", "0"),
            ("3863", "-100"),
            ("f4", "false"),
            ("f6", "null"),
            ("fb3ff199999999999a", "1.1"),
            ("4401020304", "h'01020304'"),
            ("62225c", r#""\"\\""#),
            ("8301820203820405", "[1, [2, 3], [4, 5]]"),
            ("a26161016162820203", r#"{"a": 1, "b": [2, 3]}"#),
        ] {
            let value: Value = serde_cbor::from_slice(&hex::decode(hex).unwrap()).unwrap();
            assert_eq!(of(&value), expected);
        }
    }
}
