//! What managers command about a device.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::GENERATIONS_MAX;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::message::{Body, FleetCommand, Policy};
use simquota_shared::units::Octets;

use super::{Change, CommandError, arguments, refuse};
use crate::charging::{Turn, query};
use crate::ledger::Broken;
use crate::ledger::entry::{Caps, Cause, DeviceCapsSet, PolicySet, Subject, Suspension};

const DAY_S: u64 = 86_400;
const YEAR_S: u64 = 365 * DAY_S;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceOnly {
    pub(super) device: DeviceId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceLimits {
    device: DeviceId,
    #[serde(default)]
    day: Octets,
    #[serde(default)]
    month: Octets,
}

/// What is not given stays as it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DevicePolicy {
    device: DeviceId,
    #[serde(default)]
    sample_s: Option<u64>,
    #[serde(default)]
    report_s: Option<u64>,
    #[serde(default)]
    own_charged: Option<bool>,
    #[serde(default)]
    bootstrap: Option<Octets>,
    #[serde(default)]
    validity_s: Option<u64>,
    #[serde(default)]
    overhead_permille: Option<u64>,
}

/// A change of a device, checked.
pub(super) enum DeviceChange {
    Tell(DeviceId, Body),
    Policy(DeviceId, Policy),
    Caps(FleetId, DeviceId, Caps),
}

/// 0 is no limit.
pub(super) fn cap(octets: Octets) -> Option<Octets> {
    Some(octets).filter(|octets| *octets > Octets::ZERO)
}

impl Turn<'_> {
    pub(super) fn prepare_device(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let body = match command.name.as_str() {
            "device-suspend" => Body::Suspend,
            "device-resume" => Body::Resume,
            "device-revoke" => Body::Revoke,
            "device-report" => Body::Report,
            "device-reauthorise" => Body::Reauthorise,
            "device-limits" => {
                let DeviceLimits { device, day, month } = arguments(&command.args)?;
                let device = self.live_device(fleet, &device)?;
                let caps = Caps {
                    day: cap(day),
                    month: cap(month),
                };
                return Ok(Change::Device(DeviceChange::Caps(
                    fleet.clone(),
                    device,
                    caps,
                )));
            }
            "device-policy" => return self.prepare_policy(fleet, command),
            "device-rotate-key" => return self.prepare_rotation(fleet, command),
            other => return super::unknown(other),
        };
        let DeviceOnly { device } = arguments(&command.args)?;
        let device = self.live_device(fleet, &device)?;
        Ok(Change::Device(DeviceChange::Tell(device, body)))
    }

    fn prepare_policy(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let change: DevicePolicy = arguments(&command.args)?;
        let device = self.live_device(fleet, &change.device)?;
        let found = self.ledger.devices.get(&device);
        let own = found.and_then(|found| found.policy.as_ref());
        let before = own.unwrap_or(&self.rules.policy);
        // A device goes by the highest that it has heard of, the platform's too.
        let version = before.version.max(self.rules.policy.version);
        let policy = Policy {
            version: version.saturating_add(1),
            sample_s: change.sample_s.unwrap_or(before.sample_s),
            report_s: change.report_s.unwrap_or(before.report_s),
            own_charged: change.own_charged.unwrap_or(before.own_charged),
            bootstrap: change.bootstrap.unwrap_or(before.bootstrap),
            validity_s: change.validity_s.unwrap_or(before.validity_s),
            overhead_permille: change.overhead_permille.unwrap_or(before.overhead_permille),
        };
        let within = (1..=DAY_S).contains(&policy.sample_s)
            && (1..=YEAR_S).contains(&policy.report_s)
            && (self.rules.validity_min_s.max(1)..=YEAR_S).contains(&policy.validity_s)
            && policy.overhead_permille <= 1000;
        if !within {
            return refuse(
                Code::RATING_FAILED,
                "bad-policy",
                format!(
                    "'sample_s' is 1 to {DAY_S}, 'report_s' 1 to {YEAR_S}, 'validity_s' {} to {YEAR_S}, 'overhead_permille' 0 to 1000",
                    self.rules.validity_min_s.max(1)
                ),
            );
        }
        Ok(Change::Device(DeviceChange::Policy(device, policy)))
    }

    /// Both sides derive the key of the next generation: none goes over the wire.
    fn prepare_rotation(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let DeviceOnly { device } = arguments(&command.args)?;
        let device = self.live_device(fleet, &device)?;
        let found = self.ledger.devices.get(&device);
        let next = found.and_then(|found| found.generation.checked_add(1));
        match next {
            Some(next) if next <= u64::from(GENERATIONS_MAX) => Ok(Change::Device(
                DeviceChange::Tell(device, Body::Rotate(next)),
            )),
            _ => refuse(
                Code::RATING_FAILED,
                "no-more-generations",
                format!("the key of {device} was rotated often enough: enrol it anew"),
            ),
        }
    }

    pub(super) fn perform_device(&mut self, change: DeviceChange) -> Result<Value, Broken> {
        match change {
            DeviceChange::Tell(device, body) => self.tell_by_command(&device, &body),
            DeviceChange::Policy(device, policy) => {
                let cause = Cause::PolicySet(PolicySet {
                    policy: policy.clone(),
                });
                self.record(Subject::Device(device.clone()), cause, Vec::new())?;
                self.tell_by_command(&device, &Body::Policy(policy))
            }
            DeviceChange::Caps(fleet, device, caps) => {
                self.with_windows(&fleet)?;
                let cause = Cause::DeviceCapsSet(DeviceCapsSet { caps });
                self.record(Subject::Device(device.clone()), cause, Vec::new())?;
                self.nudge(&fleet)?;
                Ok(query::device(self.ledger, &device, self.now))
            }
        }
    }

    fn tell_by_command(&mut self, device: &DeviceId, body: &Body) -> Result<Value, Broken> {
        let suspended = match body {
            Body::Suspend => Some(true),
            Body::Resume => Some(false),
            _ => None,
        };
        if let Some(suspended) = suspended {
            let cause = Cause::Suspension(Suspension { suspended });
            self.record(Subject::Device(device.clone()), cause, Vec::new())?;
        }
        // In a suspended fleet it is told with the others, when the fleet is resumed.
        let held = *body == Body::Resume
            && self
                .ledger
                .devices
                .get(device)
                .is_some_and(|device| self.is_suspended(device));
        if !held {
            self.tell(device, body)?;
        }
        let number = self
            .ledger
            .devices
            .get(device)
            .map_or(0, |device| device.commands);
        Ok(query::map([
            ("device", query::text(device)),
            ("number", query::number(number)),
        ]))
    }
}
