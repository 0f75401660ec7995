//! What others' tools say of asyncapi.yaml, and what the cloud says of the commands that PROTOCOL.md lists.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_cbor::Value;
use simquota_cloud::charging::{Rules, Turn};
use simquota_cloud::ledger::Ledger;
use simquota_shared::codec;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{KeyId, Text};
use simquota_shared::message::{FleetCommand, FleetReply};
use simquota_shared::units::UnixMillis;
use simquota_tests::missing::missing_part;
use simquota_tests::tools;

const PAGE: &str = include_str!("../../../shared/PROTOCOL.md");
const NOW: UnixMillis = UnixMillis(1_764_000_000_000);

#[test]
fn asyncapis_own_parser_takes_the_document_and_its_examples_fit() {
    let node = Command::new("node").arg("--version").output().is_ok();
    let (true, Some(modules)) = (node, tools::node_modules()) else {
        return missing_part("Node with @asyncapi/parser (AsyncAPI)");
    };
    let output = Command::new("node")
        .arg(tools::client("asyncapi.mjs"))
        .arg(modules)
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../shared/asyncapi.yaml"
        ))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    print!("asyncapi: {}", String::from_utf8_lossy(&output.stdout));
}

/// Topic and name of the commands that the page lists.
fn listed() -> Vec<(&'static str, &'static str)> {
    let (_, rest) = PAGE.split_once("## 11. A fleet manager").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" | "))
        .filter(|(_, rest)| rest.starts_with('`'))
        .flat_map(|(topics, rest)| {
            let names = rest.split(" | ").next().unwrap();
            let names = names.split(", ").map(|name| name.trim_matches('`'));
            names.flat_map(move |name| topics.split(", ").map(move |topic| (topic, name)))
        })
        .collect()
}

/// Whether the cloud knows a command of that name.
fn is_known(topic: &str, name: &str) -> bool {
    let admin: KeyId = "admin".parse().unwrap();
    let rules = Rules::default();
    let mut ledger = Ledger::default();
    let mut turn = Turn::new(&mut ledger, &rules, NOW);
    turn.bootstrap_admin(&admin).unwrap();
    let fleet = "acme".parse().unwrap();
    let create = FleetCommand {
        id: "c-0".parse().unwrap(),
        expires: NOW,
        expected: None,
        dry: false,
        name: "fleet-create".parse().unwrap(),
        args: Value::Map([(Value::Text("fleet".into()), Value::Text("acme".into()))].into()),
    };
    turn.command(None, &Kid::first(&admin), &create).unwrap();
    turn.outgoing.clear();
    let command = FleetCommand {
        id: "c-1".parse().unwrap(),
        expires: NOW,
        expected: None,
        dry: true,
        name: name.parse::<Text>().unwrap(),
        args: Value::Map([(Value::Text("no-such-argument".into()), Value::Null)].into()),
    };
    let fleet = (topic == "fleet").then_some(&fleet);
    turn.command(fleet, &Kid::first(&admin), &command).unwrap();
    let Some(outgoing) = turn.outgoing.first() else {
        return true; // It is looked up elsewhere.
    };
    let reply: FleetReply = codec::decode(&outgoing.payload).unwrap();
    reply
        .why
        .is_none_or(|why| !why.as_str().starts_with("unknown-command"))
}

#[test]
fn the_commands_that_the_page_lists_are_known_to_the_cloud() {
    assert!(!is_known("fleet", "no-such-command"));
    for (topic, name) in listed() {
        assert!(
            is_known(topic, name),
            "the cloud has no {topic} command {name}"
        );
    }
}

/// Every word in the code that a command could be called is tried: what the cloud takes must be on the page.
#[test]
fn the_commands_that_the_cloud_knows_are_on_the_page() {
    let charging = concat!(env!("CARGO_MANIFEST_DIR"), "/../cloud/src/charging");
    let folder = fs::read_dir(format!("{charging}/command")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let code: String = files
        .chain([format!("{charging}/access.rs").into()])
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let is_name = |word: &&str| {
        let plain = word
            .bytes()
            .all(|octet| octet.is_ascii_lowercase() || octet == b'-');
        plain && (3..=40).contains(&word.len())
    };
    let words: BTreeSet<&str> = code.split('"').filter(is_name).collect();
    let listed = listed();
    let mut known = 0;
    for name in words {
        for topic in ["fleet", "ops"] {
            if is_known(topic, name) {
                known += 1;
                assert!(
                    listed.contains(&(topic, name)),
                    "PROTOCOL.md, section 11, lacks the {topic} command {name}"
                );
            }
        }
    }
    assert_eq!(known, listed.len(), "{listed:?}");
}
