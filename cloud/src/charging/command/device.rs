//! What managers command about a device.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::GENERATIONS_MAX;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::message::{Body, FleetCommand};
use simquota_shared::units::Octets;

use super::{Change, CommandError, arguments, refuse};
use crate::charging::{Turn, query};
use crate::ledger::Broken;
use crate::ledger::entry::{Caps, Cause, DeviceCapsSet, Subject, Suspension};

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

/// A change of a device, checked.
pub(super) enum DeviceChange {
    Tell(DeviceId, Body),
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
            "device-rotate-key" => return self.prepare_rotation(fleet, command),
            other => return super::unknown(other),
        };
        let DeviceOnly { device } = arguments(&command.args)?;
        let device = self.live_device(fleet, &device)?;
        Ok(Change::Device(DeviceChange::Tell(device, body)))
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
