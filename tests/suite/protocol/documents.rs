//! What others' tools say of asyncapi.yaml, and what the cloud says of the commands that PROTOCOL.md lists.

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
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|row| row.split_once(" | `"))
        .map(|(topic, rest)| (topic, rest.split('`').next().unwrap()))
        .collect()
}

/// A list in the documents that the service does not keep would mislead; what it has beyond the list is not seen here.
#[test]
fn the_commands_that_the_page_lists_are_known_to_the_cloud() {
    let admin: KeyId = "admin".parse().unwrap();
    let listed = listed();
    assert!(listed.len() >= 17, "{listed:?}");
    let rules = Rules::default();
    for (topic, name) in listed.into_iter().chain([("fleet", "no-such-command")]) {
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
        let reply: FleetReply = codec::decode(&turn.outgoing[0].payload).unwrap();
        let why = reply.why.unwrap();
        let unknown = why.as_str().starts_with("unknown-command");
        assert_eq!(unknown, name == "no-such-command", "{topic} {name}: {why}");
    }
}
