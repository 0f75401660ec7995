//! `expected`: a command is carried out only if what it is about still is as its author saw it. So two people who both
//! read, then change, do not undo each other.

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::message::FleetCommand;

use super::{CommandError, Scope, refuse};
use crate::charging::Turn;
use crate::ledger::entry::Subject;
use crate::ledger::explain::utc;
use crate::ledger::version::Object;

impl Turn<'_> {
    /// Refuses a command that expects another version of its object than there is.
    pub(super) fn as_expected(
        &self,
        scope: &Scope,
        command: &FleetCommand,
    ) -> Result<(), CommandError> {
        let Some(expected) = command.expected else {
            return Ok(());
        };
        let Some(object) = self.object_of(scope, command) else {
            return refuse(
                Code::RATING_FAILED,
                "no-versions",
                format!(
                    "'expected' names a version, and what {} is about has none: leave it out",
                    command.name
                ),
            );
        };
        // A device's policy has versions of its own: the device is told them.
        let policy = match (&object, command.name.as_str()) {
            (Object::Device(device), "device-policy") => {
                let found = self.ledger.devices.get(device);
                let own = found.and_then(|found| found.policy.as_ref());
                Some(own.unwrap_or(&self.rules.policy).version)
            }
            _ => None,
        };
        let version = policy.unwrap_or_else(|| self.ledger.version(&object).value());
        if version == expected {
            return Ok(());
        }
        let name = match (&object, policy) {
            (Object::Device(device), Some(_)) => format!("the policy of {device}"),
            (Object::Device(device), None) => format!("device {device}"),
            (Object::Fleet(fleet), _) => format!("fleet {fleet}"),
            (Object::Package(package), _) => format!("package {package}"),
            (Object::Plan(plan), _) => format!("plan {plan}"),
        };
        let by = match self.ledger.estate.versions.get(&object) {
            Some(last) if policy.is_none() => {
                format!(
                    " since {} ({} in entry {})",
                    utc(last.at),
                    last.cause,
                    last.entry
                )
            }
            _ => String::new(),
        };
        refuse(
            Code::RATING_FAILED,
            "other-version",
            format!("{name} has version {version}{by}, not {expected}: look at it again"),
        )
    }

    /// What a command changes, where that has a version.
    fn object_of(&self, scope: &Scope, command: &FleetCommand) -> Option<Object> {
        let text = |key: &str| match &command.args {
            Value::Map(map) => match map.get(&Value::Text(key.to_owned())) {
                Some(Value::Text(text)) => Some(text.as_str()),
                _ => None,
            },
            _ => None,
        };
        let device = || text("device")?.parse().ok().map(Object::Device);
        let package = |key| text(key)?.parse().ok().map(Object::Package);
        let fleet = || match scope {
            Scope::Fleet(fleet) => Some(Object::Fleet(fleet.clone())),
            Scope::Ops => text("fleet")?.parse().ok().map(Object::Fleet),
        };
        match command.name.as_str() {
            // Who buys for whom: the packages that there are, and the money, are theirs.
            "package-buy" | "plan-begin" => device().or_else(fleet),
            "package-cancel" | "package-credit" | "package-debit" => package("package"),
            "package-move" => package("from"),
            "plan-end" => text("plan")?.parse().ok().map(Object::Plan),
            "refund" => match self.named.as_ref().map(|entry| &entry.subject)? {
                Subject::Device(device) => Some(Object::Device(device.clone())),
                Subject::Fleet(fleet) => Some(Object::Fleet(fleet.clone())),
                Subject::Platform => None,
            },
            "money-deposit" | "money-withdraw" => fleet(),
            name if name.starts_with("device-") => device(),
            "fleet-create" => None,
            name if name.starts_with("fleet-") || name.starts_with("top-up-") => fleet(),
            _ => None,
        }
    }
}
