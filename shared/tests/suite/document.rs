//! PROTOCOL.md, protocol.cddl and the types say the same: a change of one without the others fails here.
//!
//! Every field table of the page is compared with the schema's rule of that name, name for name and type for type, and
//! the rule with the Rust type that is declared for it. Tables of numbers are compared with the constants.
//!
//! What fails when one thing changes and the others do not; each was seen by making that change once, with the samples
//! and the sources that use it changed along, so that it compiles.
//!
//! | change in the code alone | fails, besides others |
//! |---|---|
//! | a field renamed, two of one type swapped, another type, optional or not | `document::every_field…`, `message::doc_comments…` |
//! | a field appended or removed, a version lost | the same, `golden`, `vectors`, `smallest`, `asyncapi` |
//! | a result code or reason more, another number or name, another decision | `document::result_codes…`, `document::reasons…` |
//! | a number more in an enumeration, another number | `document::enumerations…`, `bounds` |
//! | a choice more of an action or a command | `bounds` |
//! | another length of ids or texts, also when the page says it | `bounds`, `vectors` |
//! | another character in ids or texts | `bounds`, `names` |
//! | a default, a limit | `document::limits…` |
//! | a topic | `document::topics…`, `names`, `vectors` |
//! | the algorithm of an envelope | `envelope`, `keys`, `vectors`, `smallest` |
//!
//! | change in one document alone | fails |
//! |---|---|
//! | protocol.cddl: a field, a type | `document::every_field…`, `asyncapi` |
//! | protocol.cddl: a range, a length, a number or choice more | `bounds`, some `vectors` |
//! | PROTOCOL.md: a field, a type, a number, a name, a row | `document` |
//! | asyncapi.yaml, vectors.json, SMALLEST_DEVICE.md: anything | the test of that name |
//! | a golden file changed or removed | `golden` |
//!
//! What no test sees: a number that gets another unit or meaning under its old name, in every place at once.

use std::collections::BTreeMap;

use simquota_shared::code::Code;
use simquota_shared::codec::{self, PAYLOAD};
use simquota_shared::envelope::MESSAGE_MAX;
use simquota_shared::ids::{ID_MAX, TEXT_MAX};
use simquota_shared::message::ops::REJECTED_COPY_MAX;
use simquota_shared::message::usage::{ROWS_MAX, flag};
use simquota_shared::message::{Body, Policy};
use simquota_shared::topic::{TOPIC_MAX, Topic};

const PAGE: &str = include_str!("../../PROTOCOL.md");
const SCHEMA: &str = include_str!("../../protocol.cddl");
const CODE: &str = include_str!("../../src/code.rs");
const COMMAND: &str = include_str!("../../src/message/command.rs");
const CREDIT: &str = include_str!("../../src/message/credit.rs");
const USAGE: &str = include_str!("../../src/message/usage.rs");

const SOURCES: [&str; 8] = [
    COMMAND,
    CREDIT,
    include_str!("../../src/message/fleet.rs"),
    include_str!("../../src/message/ops.rs"),
    include_str!("../../src/message/policy.rs"),
    include_str!("../../src/message/register.rs"),
    include_str!("../../src/message/status.rs"),
    USAGE,
];

/// Rule of the schema, type in `src/message`.
pub(crate) const TYPES: [(&str, &str); 21] = [
    ("register-up", "RegisterRequest"),
    ("closes", "Closes"),
    ("register-down", "RegisterAnswer"),
    ("sim", "SimProfile"),
    ("policy", "Policy"),
    ("usage-up", "UsageBatch"),
    ("usage-down", "UsageAck"),
    ("credit-up", "CreditRequest"),
    ("held", "Held"),
    ("credit-down", "CreditAnswer"),
    ("command", "Command"),
    ("ack", "Ack"),
    ("status", "Status"),
    ("fleet-command", "FleetCommand"),
    ("fleet-reply", "FleetReply"),
    ("fleet-event", "Event"),
    ("fleet-summary", "Summary"),
    ("node-status", "NodeStatus"),
    ("statistics", "Statistics"),
    ("rejected", "Rejected"),
    ("sim", "SimProfile"),
];

/// Rules whose type in Rust is a tuple.
pub(crate) const TUPLES: [&str; 3] = ["flagged", "span", "window"];

/// Type in Rust, what the schema may call it.
const WORDS: [(&str, &[&str]); 34] = [
    ("Epoch", &["epoch"]),
    ("Boot", &["boot"]),
    ("Seq", &["seq"]),
    ("RequestNumber", &["request-number"]),
    ("Push", &["push"]),
    ("Octets", &["octets"]),
    ("UnixMillis", &["unix-ms"]),
    ("EntryNumber", &["uint"]),
    ("Code", &["code"]),
    ("Kind", &["kind"]),
    ("Reason", &["uint"]),
    ("Outcome", &["outcome"]),
    ("Body", &["body"]),
    ("FinalAction", &["action"]),
    ("SimProfile", &["sim"]),
    ("Policy", &["policy"]),
    ("Closes", &["closes"]),
    ("Held", &["held"]),
    ("Text", &["free-text"]),
    ("Iccid", &["id"]),
    ("ZoneId", &["id"]),
    ("CommandId", &["id"]),
    ("ChannelId", &["id"]),
    ("DeviceId", &["id"]),
    ("FleetId", &["id"]),
    ("NodeId", &["id"]),
    ("Blob", &["bstr .size (0..256)"]),
    ("Value", &["figures", "plain"]),
    ("bool", &["bool"]),
    ("u64", &["uint", "seconds"]),
    ("Vec<i64>", &["[* int64]"]),
    ("Vec<u64>", &["[+ octets]", "[* octets]"]),
    (
        "Vec<(u64, u64)>",
        &["[* flagged]", "[* span]", "[* window]"],
    ),
    ("Vec<Text>", &["[* free-text]"]),
];

pub(crate) type Fields = Vec<(String, String)>;

/// Rows of the table below a heading, as cells; the head and the line below it are left out.
pub(crate) fn table(heading: &str, nth: usize) -> Vec<Vec<String>> {
    let (_, rest) = PAGE
        .split_once(&format!("\n{heading}\n"))
        .unwrap_or_else(|| panic!("the page has no heading '{heading}'"));
    let level = heading.chars().take_while(|c| *c == '#').count();
    let end = (1..=level)
        .filter_map(|level| rest.find(&format!("\n{} ", "#".repeat(level))))
        .min()
        .unwrap_or(rest.len());
    let mut tables = vec![vec![]];
    for line in rest[..end].lines() {
        match line.strip_prefix("| ") {
            Some(row) => {
                let cells = row.trim_end().trim_end_matches('|').split(" | ");
                let cells = cells.map(|cell| cell.trim().trim_matches('`').to_owned());
                tables.last_mut().unwrap().push(cells.collect());
            }
            None if line.starts_with("|-") => tables.last_mut().unwrap().clear(),
            None if line.is_empty() => tables.push(vec![]),
            None => {}
        }
    }
    tables.retain(|table| !table.is_empty());
    tables
        .into_iter()
        .nth(nth)
        .unwrap_or_else(|| panic!("no table {nth} below '{heading}'"))
}

fn of_page(rule: &str) -> Fields {
    let rows = table(&format!("#### {rule}"), 0);
    rows.iter()
        .enumerate()
        .map(|(at, row)| {
            assert_eq!(row[0], at.to_string(), "{rule}: {row:?}");
            (row[1].clone(), row[2].clone())
        })
        .collect()
}

/// The members of an array of the schema, and whether it may grow.
pub(crate) fn of_schema(rule: &str) -> (Fields, bool) {
    let (_, rest) = SCHEMA
        .split_once(&format!("\n{rule} = ["))
        .unwrap_or_else(|| panic!("the schema has no array '{rule}'"));
    let plain: String = rest
        .lines()
        .map(|line| line.split(';').next().unwrap().trim())
        .collect::<Vec<_>>()
        .join(" ");
    let mut depth = 0;
    let mut members = vec![String::new()];
    for c in plain.chars() {
        match c {
            '[' | '(' => depth += 1,
            ']' if depth == 0 => break,
            ']' | ')' => depth -= 1,
            ',' if depth == 0 => {
                members.push(String::new());
                continue;
            }
            _ => {}
        }
        members.last_mut().unwrap().push(c);
    }
    let mut members: Vec<&str> = members.iter().map(|member| member.trim()).collect();
    members.retain(|member| !member.is_empty());
    let grows = members.last() == Some(&"* any");
    if grows {
        members.pop();
    }
    let fields = members
        .iter()
        .map(|member| {
            let (name, kind) = member.split_once(": ").unwrap_or((member, member));
            (name.to_owned(), kind.to_owned())
        })
        .collect();
    (fields, grows)
}

fn of_source(name: &str) -> Fields {
    let (versioned, plain) = (
        format!("    pub struct {name}[version] {{"),
        format!("    pub struct {name} {{"),
    );
    let (version, body) = SOURCES
        .iter()
        .find_map(|source| {
            source
                .split_once(&versioned)
                .map(|(_, body)| (true, body))
                .or_else(|| source.split_once(&plain).map(|(_, body)| (false, body)))
        })
        .unwrap_or_else(|| panic!("no type {name} in src/message"));
    let (body, _) = body.split_once("\n    }").unwrap();
    let head = version.then(|| ("version".to_owned(), "version".to_owned()));
    let fields = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub "))
        .map(|field| field.trim_end_matches(',').split_once(": ").unwrap())
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    head.into_iter().chain(fields).collect()
}

/// What the schema may call a Rust type.
fn words(kind: &str) -> Vec<String> {
    if kind == "version" {
        return vec![kind.to_owned()];
    }
    if kind == "Vec<ZoneId>" {
        return vec!["[* id]".to_owned()];
    }
    if let Some(inner) = kind
        .strip_prefix("Option<")
        .and_then(|rest| rest.strip_suffix('>'))
    {
        return words(inner)
            .iter()
            .map(|word| format!("{word} / null"))
            .collect();
    }
    let known: BTreeMap<_, _> = WORDS.into_iter().collect();
    let words = known
        .get(kind)
        .unwrap_or_else(|| panic!("a type that the documents have no word for: {kind}"));
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn every_field_is_the_same_on_the_page_in_the_schema_and_in_the_code() {
    for (rule, name) in TYPES {
        let (schema, grows) = of_schema(rule);
        assert!(grows, "{rule} can't grow");
        assert_eq!(of_page(rule), schema, "{rule}: page and schema");
        let source = of_source(name);
        let names = |fields: &Fields| -> Vec<String> {
            fields.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&schema), names(&source), "{rule}, {name}");
        for ((field, kind), (_, rust)) in schema.iter().zip(&source) {
            assert!(
                words(rust).contains(kind),
                "{rule}.{field} is '{kind}' in the schema and {rust} in {name}"
            );
        }
    }
    for rule in TUPLES {
        let (schema, grows) = of_schema(rule);
        assert!(!grows, "{rule} is closed");
        assert_eq!(of_page(rule), schema, "{rule}: page and schema");
    }
}

#[test]
fn every_array_of_the_code_and_of_the_schema_is_on_the_page() {
    let declared = SOURCES
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.strip_prefix("    pub struct "))
        .map(|line| line.split(['[', ' ']).next().unwrap());
    for name in declared {
        let known = TYPES.iter().any(|(_, known)| *known == name);
        assert!(
            known,
            "{name} has no rule: add it to this test, schema and page"
        );
    }
    let rules = SCHEMA
        .lines()
        .filter_map(|line| line.split_once(" = ["))
        .map(|(rule, _)| rule);
    for rule in rules {
        let body = table("#### command", 1);
        let spelled = ["terminate", "restrict", "throttle"].contains(&rule);
        let commanded = body
            .iter()
            .any(|row| row[1].to_lowercase() == rule.trim_start_matches("set-"));
        let tabled = PAGE.contains(&format!("\n#### {rule}\n"));
        assert!(spelled || commanded || tabled, "the page lacks '{rule}'");
    }
}

/// `pub const NAME: Self = Self(1);` and `pub const NAME: u64 = 1;`, in order.
fn constants(source: &str, kind: &str) -> Vec<(String, String)> {
    source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub const "))
        .filter_map(|line| line.split_once(&format!(": {kind} = ")))
        .map(|(name, value)| {
            let digits: String = value.chars().filter(char::is_ascii_digit).collect();
            (digits, name.to_owned())
        })
        .collect()
}

#[test]
fn reasons_and_flags_are_those_of_the_code() {
    let pairs = |rows: Vec<Vec<String>>| -> Vec<(String, String)> {
        rows.into_iter()
            .map(|row| (row[0].clone(), row[1].clone()))
            .collect()
    };
    assert_eq!(pairs(table("#### credit-up", 1)), constants(CREDIT, "Self"));
    let mut flags = constants(USAGE, "u64");
    flags.retain(|(_, name)| name != "ALL");
    assert_eq!(pairs(table("#### flagged", 1)), flags);
    assert_eq!(flag::ALL, 63, "a new flag: page and schema");
}

/// The numbers and names of a `wire_enum!`, in order.
fn variants(source: &str, name: &str) -> Vec<(String, String)> {
    let (_, body) = source
        .split_once(&format!("    pub enum {name} {{\n"))
        .unwrap();
    let (body, _) = body.split_once("\n    }").unwrap();
    body.lines()
        .filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = "))
        .map(|(name, number)| (number.to_owned(), name.to_lowercase()))
        .collect()
}

#[test]
fn enumerations_are_those_of_the_code() {
    for (source, name, rule, heading, at) in [
        (CREDIT, "Kind", "kind", "#### credit-up", 3),
        (COMMAND, "Outcome", "outcome", "#### ack", 4),
    ] {
        let variants = variants(source, name);
        assert!(variants.len() > 2, "{name}: {variants:?}");
        let numbers: Vec<&str> = variants.iter().map(|(number, _)| number.as_str()).collect();
        let declared = format!("\n{rule} = {} ", numbers.join(" / "));
        assert!(SCHEMA.contains(&declared), "the schema lacks: {declared}");
        let words: Vec<String> = variants
            .iter()
            .map(|(number, name)| format!("{number} {name}"))
            .collect();
        assert_eq!(table(heading, 0)[at][3], words.join(", "), "{name}");
    }
}

#[test]
fn bodies_of_commands_have_these_numbers_and_set_state_or_do_not() {
    let bodies = [
        Body::Reauthorise,
        Body::Revoke,
        Body::Suspend,
        Body::Resume,
        Body::Report,
        Body::Policy(Policy::DEFAULT),
        Body::Rotate(2),
    ];
    let rows = table("#### command", 1);
    assert_eq!(rows.len(), bodies.len());
    for (body, row) in bodies.iter().zip(rows) {
        let number = codec::encode(body).unwrap()[1];
        let shown = format!("{body:?}");
        assert!(row[0].starts_with(&format!("[{number}")), "{row:?}");
        assert!(shown.starts_with(&row[1]), "{row:?}");
        assert_eq!(row[2] == "yes", body.sets_state(), "{row:?}");
    }
}

#[test]
fn result_codes_are_those_of_the_code() {
    let mut listed: Vec<(String, String)> = table("## 10. Result codes", 0)
        .into_iter()
        .filter(|row| row[0].starts_with(|c: char| c.is_ascii_digit()))
        .map(|row| (row[0].clone(), row[1].clone()))
        .collect();
    let mut known: Vec<(String, String)> = constants(CODE, "Self")
        .into_iter()
        .map(|(number, _)| {
            let name = Code(number.parse().unwrap()).name();
            (number, name.to_owned())
        })
        .collect();
    listed.sort();
    known.sort();
    assert_eq!(listed, known);
    let of_credit = &table("#### credit-down", 0)[4][3];
    let (decisions, others) = of_credit.split_once("; not: ").unwrap();
    let decided = |list: &str, is: bool| {
        let numbers = list.split([' ', ',', ':']).filter_map(|n| n.parse().ok());
        let count = numbers
            .inspect(|n| assert_eq!(Code(*n).is_decision(), is, "{n}"))
            .count();
        assert!(count >= 3, "{list}");
    };
    decided(decisions, true);
    decided(others, false);
}

/// The rules named on-… of the schema: topic, message, envelope, retained.
pub(crate) fn topics_of_schema() -> Vec<(String, String, &'static str, bool)> {
    SCHEMA
        .lines()
        .filter(|line| line.starts_with("on-"))
        .filter_map(|line| line.split_once(';'))
        .map(|(rule, comment)| {
            let (_, form) = rule.split_once("= ").unwrap();
            let (envelope, message) = form.trim().trim_end_matches('>').split_once('<').unwrap();
            let mut words = comment.trim().split(',');
            (
                words.next().unwrap().to_owned(),
                message.to_owned(),
                if envelope == "sealed" {
                    "Mac0"
                } else {
                    "Sign1"
                },
                comment.contains("retained"),
            )
        })
        .collect()
}

#[test]
fn topics_are_the_same_on_the_page_in_the_schema_and_in_the_code() {
    let mut page: Vec<_> = table("## 2. Transport", 0)
        .into_iter()
        .map(|row| {
            let envelope = if row[2] == "Mac0" { "Mac0" } else { "Sign1" };
            (row[0].clone(), row[1].clone(), envelope, row[3] == "yes")
        })
        .collect();
    let mut schema = topics_of_schema();
    page.sort();
    schema.sort();
    assert_eq!(page, schema);
    let patterns: Vec<String> = crate::names::topics("x")
        .iter()
        .map(Topic::to_string)
        .collect();
    assert_eq!(patterns.len(), page.len());
    for (topic, ..) in page {
        let topic = ["device", "fleet", "key", "node"]
            .iter()
            .fold(topic, |topic, id| topic.replace(&format!("{{{id}}}"), "x"));
        assert!(patterns.contains(&topic), "{topic}");
    }
}

#[test]
fn limits_and_defaults_are_those_of_the_code() {
    let policy = Policy::DEFAULT;
    let said = [
        format!(
            "has at most {} octets, {} items",
            PAYLOAD.octets, PAYLOAD.items
        ),
        format!("nests at most {} deep", PAYLOAD.depth),
        format!("with its envelope has at most {MESSAGE_MAX} octets"),
        format!("A topic has at most {TOPIC_MAX} octets"),
        format!("1 to {ID_MAX} of `a-z`"),
        format!("at most {TEXT_MAX} octets of UTF-8"),
        format!("1 to {ROWS_MAX} rows"),
        format!("bstr .size (0..{REJECTED_COPY_MAX})"),
        format!(
            "version {}, {} s, {} s, {}, {}, {} s, {}",
            policy.version,
            policy.sample_s,
            policy.report_s,
            policy.own_charged,
            policy.bootstrap,
            policy.validity_s,
            policy.overhead_permille
        ),
    ];
    let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    for sentence in said {
        assert!(
            page.contains(&sentence),
            "the page does not say: {sentence}"
        );
    }
}
