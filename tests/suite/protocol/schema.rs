//! protocol.cddl over what is on a broker.

use cddl::ast::CDDL;
use cddl::validator::Validator as _;
use cddl::validator::cbor::CBORValidator;
use cddl::validator::cbor_value::decode_cbor;
use simquota_shared::topic::{Down, Topic, Up};

pub(crate) const TEXT: &str = include_str!("../../../shared/protocol.cddl");

/// The rules of all topics.
pub(crate) const RULES: [&str; 18] = [
    "on-up-register",
    "on-up-usage",
    "on-up-credit",
    "on-up-ack",
    "on-status",
    "on-down-register",
    "on-down-usage",
    "on-down-credit",
    "on-down-command",
    "on-fleet-command",
    "on-fleet-reply",
    "on-fleet-event",
    "on-fleet-summary",
    "on-ops-command",
    "on-ops-reply",
    "on-ops-node",
    "on-ops-statistics",
    "on-ops-rejected",
];

/// The rule of a topic.
pub(crate) fn rule(topic: &str) -> &'static str {
    match topic
        .parse()
        .unwrap_or_else(|error| panic!("{topic}: {error}"))
    {
        Topic::Up(_, Up::Register) => "on-up-register",
        Topic::Up(_, Up::Usage) => "on-up-usage",
        Topic::Up(_, Up::Credit) => "on-up-credit",
        Topic::Up(_, Up::Ack) => "on-up-ack",
        Topic::Status(_) => "on-status",
        Topic::Down(_, Down::Register) => "on-down-register",
        Topic::Down(_, Down::Usage) => "on-down-usage",
        Topic::Down(_, Down::Credit) => "on-down-credit",
        Topic::Down(_, Down::Command) => "on-down-command",
        Topic::FleetCommand(_) => "on-fleet-command",
        Topic::FleetReply(..) => "on-fleet-reply",
        Topic::FleetEvent(_) => "on-fleet-event",
        Topic::FleetSummary(_) => "on-fleet-summary",
        Topic::OpsCommand => "on-ops-command",
        Topic::OpsReply(_) => "on-ops-reply",
        Topic::OpsNode(_) => "on-ops-node",
        Topic::OpsStatistics(_) => "on-ops-statistics",
        Topic::OpsRejected => "on-ops-rejected",
    }
}

/// The rule of the payload on a topic.
pub(crate) fn message_of(rule: &str) -> &'static str {
    let line = TEXT.lines().find(|line| {
        let rest = line.strip_prefix(rule);
        rest.is_some_and(|rest| rest.starts_with(' '))
    });
    let (_, rest) = line.unwrap().split_once('<').unwrap();
    rest.split_once('>').unwrap().0
}

/// The schema with one of its rules as the root.
pub(crate) struct Schema(CDDL<'static>);

impl Schema {
    pub(crate) fn of(rule: &str) -> Self {
        // The syntax tree borrows the text and the validator borrows the tree: some tens of KB live until the end.
        // The validator only searches for a .regexp; a .pcre it anchors, as RFC 8610, 3.8.3 means a .regexp.
        let text = TEXT.replace(" .regexp ", " .pcre ");
        let text: &'static str = format!("root = {rule}\n{text}").leak();
        Self(cddl::cddl_from_str(text, true).unwrap())
    }

    pub(crate) fn valid(&self, octets: &[u8]) -> Result<(), String> {
        let value = decode_cbor(octets).map_err(|why| why.to_string())?;
        let mut validator = CBORValidator::new(&self.0, value, None);
        validator.validate().map_err(|why| why.to_string())
    }
}
