//! asyncapi.yaml: the protocol for tools that read AsyncAPI 3. Topics, names and types come out of protocol.cddl and
//! PROTOCOL.md, the examples are the samples; nothing in it is written by hand.
//!
//! To write the file anew, run the tests with `SIMQUOTA_PAGE=write`.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_cbor::Value;
use serde_json::{Map, Value as Json, json};

use crate::document::{TUPLES, TYPES, of_schema, table, topics_of_schema};
use crate::samples;

const ABOUT: &str = "Prepaid data for cloud SIMs, as a device, a fleet manager and an operator see it. Every payload is \
    a COSE_Mac0 or COSE_Sign1 whose external data is the topic; the schemas show the CBOR array within. PROTOCOL.md \
    says what a message means and when it is sent.";

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A type of the schema, as JSON Schema.
fn kind(text: &str) -> Json {
    if let Some(inner) = text.strip_suffix(" / null") {
        return json!({ "oneOf": [kind(inner), { "type": "null" }] });
    }
    for (head, least) in [("[* ", 0), ("[+ ", 1)] {
        if let Some(inner) = text.strip_prefix(head) {
            let inner = inner.trim_end_matches(']');
            return json!({ "type": "array", "items": kind(inner), "minItems": least });
        }
    }
    match text {
        "uint" => json!({ "type": "integer", "minimum": 0 }),
        "int64" => json!({ "type": "integer" }),
        "bool" => json!({ "type": "boolean" }),
        "plain" => json!({}),
        "figures" => json!({ "type": "object" }),
        "bstr .size (0..256)" => {
            json!({ "type": "string", "contentEncoding": "base16", "maxLength": 512 })
        }
        other => reference(other),
    }
}

fn array(items: Vec<Json>, grows: bool) -> Json {
    json!({
        "type": "array",
        "minItems": items.len(),
        "items": items,
        "additionalItems": grows,
    })
}

/// An array of the schema, its elements as the page describes them.
fn fields(rule: &str) -> Json {
    let (fields, grows) = of_schema(rule);
    let items = fields
        .iter()
        .zip(table(&format!("#### {rule}"), 0))
        .map(|((name, text), row)| {
            let mut item = json!({ "title": name, "allOf": [kind(text)] });
            if let Some(meaning) = row.get(3).filter(|meaning| !meaning.is_empty()) {
                item["description"] = json!(meaning);
            }
            item
        });
    array(items.collect(), grows)
}

fn schemas() -> Map<String, Json> {
    let number = |least: u64| json!({ "type": "integer", "minimum": least });
    let constant = |number: u64| json!({ "const": number });
    let mut schemas = Map::new();
    let mut add = |name: &str, schema: Json| drop(schemas.insert(name.to_owned(), schema));
    for row in table("## 5. Types", 0) {
        let mut schema = match row[0].as_str() {
            "version" => number(1),
            "id" => json!({ "type": "string", "pattern": "^[a-z0-9-]{1,64}$" }),
            "free-text" => json!({ "type": "string", "maxLength": 128 }),
            "code" => json!({ "type": "integer", "minimum": 0, "maximum": 65535 }),
            "figures" => json!({ "type": "object" }),
            _ => number(0),
        };
        schema["description"] = json!(row[2]);
        add(&row[0], schema);
    }
    add("kind", json!({ "enum": [1, 2, 3] }));
    add("outcome", json!({ "enum": [0, 1, 2, 3] }));
    let bodies: Vec<Json> = table("#### command", 1)
        .into_iter()
        .map(|row| {
            let parts = row[0].trim_matches(['[', ']']).split(", ");
            let items = parts.map(|part| part.parse().map_or_else(|_| kind(part), constant));
            let mut body = array(items.collect(), true);
            body["title"] = json!(row[1]);
            body
        })
        .collect();
    add("body", json!({ "oneOf": bodies }));
    let actions = [
        ("terminate", vec![constant(0)]),
        ("restrict", vec![constant(1), kind("[* free-text]")]),
        ("throttle", vec![constant(2), kind("uint")]),
    ]
    .map(|(title, items)| {
        let mut action = array(items, true);
        action["title"] = json!(title);
        action
    });
    add("action", json!({ "oneOf": actions }));
    for rule in TYPES.iter().map(|(rule, _)| *rule).chain(TUPLES) {
        add(rule, fields(rule));
    }
    schemas
}

/// CBOR as JSON: octets in hexadecimal digits.
fn shown(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(bool) => json!(bool),
        Value::Integer(number) => u64::try_from(*number).map_or_else(
            |_| json!(i64::try_from(*number).unwrap()),
            |number| json!(number),
        ),
        Value::Bytes(octets) => json!(hex::encode(octets)),
        Value::Text(text) => json!(text),
        Value::Array(items) => items.iter().map(shown).collect(),
        Value::Map(pairs) => pairs
            .iter()
            .map(|(key, value)| match key {
                Value::Text(key) => (key.clone(), shown(value)),
                other => panic!("a key that is not text: {other:?}"),
            })
            .collect::<Map<_, _>>()
            .into(),
        other => panic!("not of a payload: {other:?}"),
    }
}

fn messages() -> Map<String, Json> {
    let mut messages = Map::new();
    for (_, rule, envelope, _) in topics_of_schema() {
        let examples: Vec<Json> = samples::all()
            .iter()
            .filter(|sample| sample.rule == rule)
            .map(|sample| {
                let value = serde_cbor::from_slice(&sample.octets).unwrap();
                json!({ "name": sample.variant, "payload": shown(&value) })
            })
            .collect();
        let kind = if envelope == "Mac0" {
            "cose-mac0"
        } else {
            "cose-sign1"
        };
        let message = json!({
            "name": rule,
            "contentType": format!("application/cose; cose-type=\"{kind}\""),
            "payload": reference(&rule),
            "examples": examples,
        });
        messages.insert(rule, message);
    }
    messages
}

/// `csim/v1/d/{device}/up/usage` as `d-up-usage`, unique without its ids.
fn name(topic: &str) -> String {
    let parts: Vec<&str> = topic
        .split('/')
        .skip(2)
        .filter(|part| !part.starts_with('{'))
        .collect();
    parts.join("-")
}

fn document() -> Json {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    let senders = table("## 2. Transport", 0);
    for (topic, rule, _, retained) in topics_of_schema() {
        let name = name(&topic);
        let ids: Map<String, Json> = topic
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|id| {
                (
                    id.to_owned(),
                    json!({ "description": "1 to 64 of a-z, 0-9 and -" }),
                )
            })
            .collect();
        let mut messages = Map::new();
        let message = json!({ "$ref": format!("#/components/messages/{rule}") });
        messages.insert(rule.clone(), message);
        channels.insert(
            name.clone(),
            json!({ "address": topic, "messages": messages, "parameters": ids }),
        );
        let from = &senders.iter().find(|row| row[0] == topic).unwrap()[4];
        let action = if from == "cloud" { "receive" } else { "send" };
        let mut operation = json!({
            "action": action,
            "channel": { "$ref": format!("#/channels/{name}") },
            "messages": [{ "$ref": format!("#/channels/{name}/messages/{rule}") }],
            "bindings": { "mqtt": { "qos": 1, "retain": retained, "bindingVersion": "0.2.0" } },
        });
        let answer = match name.as_str() {
            "d-up-ack" => None,
            other if other.contains("-up-") => Some(other.replace("-up-", "-down-")),
            "f-command" | "ops-command" => Some(name.replace("command", "reply")),
            "d-status" => Some("d-down-usage".to_owned()),
            _ => None,
        };
        if let Some(answer) = answer {
            operation["reply"] = json!({ "channel": { "$ref": format!("#/channels/{answer}") } });
        }
        operations.insert(format!("{action}-{name}"), operation);
    }
    json!({
        "asyncapi": "3.0.0",
        "info": { "title": "csim/v1", "version": "1.0.0", "description": ABOUT },
        "defaultContentType": "application/cose",
        "channels": channels,
        "operations": operations,
        "components": { "messages": messages(), "schemas": schemas() },
    })
}

/// YAML, of which JSON is a part: maps in lines, the rest as JSON.
fn yaml(value: &Json, depth: usize, text: &mut String) {
    let Json::Object(map) = value else {
        return writeln!(text, " {value}").unwrap();
    };
    text.push('\n');
    for (key, value) in map {
        write!(text, "{}{}:", "  ".repeat(depth), json!(key)).unwrap();
        match value {
            Json::Object(inner) if !inner.is_empty() => yaml(value, depth + 1, text),
            Json::Array(items) if items.iter().any(Json::is_object) => {
                text.push('\n');
                for item in items {
                    writeln!(text, "{}- {item}", "  ".repeat(depth + 1)).unwrap();
                }
            }
            other => writeln!(text, " {other}").unwrap(),
        }
    }
}

#[test]
fn the_document_says_what_schema_page_and_code_say() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("asyncapi.yaml");
    let mut expected = "# Written by a test out of protocol.cddl and PROTOCOL.md: SIMQUOTA_PAGE=write cargo test -p \
                        simquota-shared asyncapi"
        .to_owned();
    yaml(&document(), 0, &mut expected);
    if std::env::var("SIMQUOTA_PAGE").as_deref() == Ok("write") {
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
        "asyncapi.yaml differs at line {line:?}: run with SIMQUOTA_PAGE=write, and read what changed"
    );
}
