//! Who is believed: revoking keys, closing batches, shutting a device out, and freezing one that is two.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, EnrolmentId, KeyId, Text};
use simquota_shared::message::{Body, FleetCommand, RegisterRequest};
use simquota_shared::topic::Down;
use simquota_shared::units::UnixMillis;

use super::command::{CommandError, Scope, arguments, refuse};
use super::{DeviceRequest, Turn, Verdict, encoded, query};
use crate::ledger::entry::{AccessChange, AccessChanged, Cause, Role, Subject, Suspension};
use crate::ledger::{Broken, Ledger};

/// For counting a device's new epochs.
const DAY_MS: u64 = 86_400_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOnly {
    key: KeyId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentOnly {
    enrolment: EnrolmentId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentClose {
    enrolment: EnrolmentId,
    #[serde(default)]
    until: Option<UnixMillis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bar {
    device: DeviceId,
    #[serde(default)]
    why: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Turn<'_> {
    /// Whether a device is not believed, whatever it says. A registration is answered, so that an honest agent waits
    /// instead of asking again and again.
    pub(super) fn not_believed(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &DeviceRequest,
    ) -> Result<Option<Verdict>, Broken> {
        let revoked = kid
            .name
            .parse::<EnrolmentId>()
            .is_ok_and(|enrolment| self.ledger.access.enrolments.contains(&enrolment));
        let (reason, detail) = match self.ledger.access.barred.get(id) {
            _ if revoked => (
                "revoked-key",
                format!("enrolment key {kid} of device {id} was revoked"),
            ),
            Some(why) => ("shut-out", format!("device {id} is shut out: {why}")),
            None => return self.generation(id, kid, request),
        };
        if let DeviceRequest::Register(request) = request {
            let answer = self.registration(id, request, Code::SERVICE_DENIED, true);
            self.say(id, kid, Down::Register, encoded(&answer)?, false);
        }
        Ok(Some(Verdict::refused(reason, detail)))
    }

    /// Generations only go forward: the first message under the next one ends those before. A device that lost its
    /// store begins a new life with the key in its file.
    fn generation(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &DeviceRequest,
    ) -> Result<Option<Verdict>, Broken> {
        let Some(device) = self.ledger.devices.get(id) else {
            return Ok(None);
        };
        let (now, before) = (u64::from(kid.generation), device.generation);
        let current = request.epoch() == device.epoch;
        let begins = match request {
            DeviceRequest::Register(request) => !device.epochs.contains_key(&request.epoch),
            _ => false,
        };
        // What comes late out of a life that is over ends no key of the one that goes on.
        if now > before && current {
            let begun = AccessChanged {
                generation: Some(now),
                ..changed(AccessChange::GenerationBegun, id, None, "")
            };
            let subject = Subject::Device(id.clone());
            self.record(subject, Cause::AccessChanged(begun), Vec::new())?;
        } else if now < before && !begins {
            self.set_right(id, kid, request, before)?;
            let detail = format!("device {id} is at generation {before} of its key, not {now}");
            return Ok(Some(Verdict::refused("old-generation", detail)));
        }
        Ok(None)
    }

    /// An honest device whose flash was rolled back has forgotten the rotation: it is told again, under the generation
    /// that it still has. Whoever has that key can derive those after it, so nothing is given away.
    fn set_right(
        &mut self,
        id: &DeviceId,
        kid: &Kid,
        request: &DeviceRequest,
        generation: u64,
    ) -> Result<(), Broken> {
        let Some(device) = self.ledger.devices.get(id) else {
            return Ok(());
        };
        match request {
            DeviceRequest::Register(request) if request.epoch != device.epoch => {
                let answer = self.registration(id, request, Code::EPOCH_SUPERSEDED, false);
                self.say(id, kid, Down::Register, encoded(&answer)?, false);
                Ok(())
            }
            // The outcome of an order is no reason to give it again.
            DeviceRequest::Ack(_) => Ok(()),
            _ => self.tell_rotation(id, kid, generation),
        }
    }

    /// Freezes a device that shows up as two, if that is the policy.
    pub(super) fn freeze(&mut self, id: &DeviceId, reason: &str) -> Result<(), Broken> {
        // A name that is not known has nothing to protect, and must not fill the journal.
        if self.rules.freeze && self.ledger.devices.contains_key(id) {
            self.bar(id, Text::clipped(&format!("frozen: {reason}")))?;
        }
        Ok(())
    }

    /// Whether a device began more epochs in a day than it may.
    pub(super) fn too_many_epochs(&self, id: &DeviceId, request: &RegisterRequest) -> bool {
        let begins = self
            .ledger
            .devices
            .get(id)
            .is_some_and(|device| !device.epochs.contains_key(&request.epoch));
        let since = UnixMillis(self.now.value().saturating_sub(DAY_MS));
        begins && self.ledger.access.epochs_since(id, since) >= self.rules.epochs_a_day
    }

    /// Commands of this room; `None` when it is not one of them.
    pub(super) fn prepare_access(
        &self,
        scope: &Scope,
        command: &FleetCommand,
    ) -> Option<Result<AccessChanged, CommandError>> {
        let args = &command.args;
        Some(match (scope, command.name.as_str()) {
            (Scope::Ops, "key-revoke") => arguments(args).and_then(|only| self.revoke_key(only)),
            (Scope::Ops, "enrolment-revoke") => {
                arguments(args).and_then(|EnrolmentOnly { enrolment }| {
                    self.known_enrolment(&enrolment)?;
                    Ok(changed(
                        AccessChange::EnrolmentRevoked,
                        &enrolment,
                        None,
                        "",
                    ))
                })
            }
            (Scope::Ops, "enrolment-close") => {
                arguments(args).and_then(|EnrolmentClose { enrolment, until }| {
                    self.known_enrolment(&enrolment)?;
                    let until = until.unwrap_or(self.now);
                    Ok(changed(
                        AccessChange::EnrolmentUntil,
                        &enrolment,
                        Some(until),
                        "",
                    ))
                })
            }
            (_, "device-shut-out") => arguments(args).and_then(|Bar { device, why }| {
                self.device_within(scope, &device)?;
                let why = why.unwrap_or_else(|| Text::clipped("by command"));
                Ok(changed(
                    AccessChange::DeviceBarred,
                    &device,
                    None,
                    why.as_str(),
                ))
            }),
            (_, "device-readmit") => arguments(args).and_then(|Bar { device, why: _ }| {
                self.device_within(scope, &device)?;
                if !self.ledger.access.barred.contains_key(&device) {
                    let words = format!("device {device} is not shut out");
                    return refuse(Code::RATING_FAILED, "not-shut-out", words);
                }
                Ok(changed(AccessChange::DeviceReadmitted, &device, None, ""))
            }),
            _ => return None,
        })
    }

    /// Lists of this room; `None` when it is not one of them.
    pub(super) fn look_access(
        &self,
        scope: &Scope,
        command: &FleetCommand,
    ) -> Option<Result<Value, CommandError>> {
        let nothing = || arguments::<Nothing>(&command.args);
        match (scope, command.name.as_str()) {
            (Scope::Ops, "key-list") => Some(nothing().map(|_| keys(self.ledger))),
            (Scope::Ops, "enrolment-list") => Some(nothing().map(|_| enrolments(self.ledger))),
            _ => None,
        }
    }

    /// Does what was prepared.
    pub(super) fn perform_access(&mut self, changed: AccessChanged) -> Result<Value, Broken> {
        let name = changed.name.clone();
        if changed.change == AccessChange::DeviceBarred {
            let device: DeviceId = name
                .as_str()
                .parse()
                .map_err(|_| Broken::Name("device", name.to_string(), "is not an id"))?;
            self.bar(&device, changed.why)?;
        } else {
            let subject = match changed.change {
                AccessChange::DeviceReadmitted => name.as_str().parse().map(Subject::Device),
                _ => Ok(Subject::Platform),
            };
            let subject = subject.unwrap_or(Subject::Platform);
            self.record(subject, Cause::AccessChanged(changed), Vec::new())?;
        }
        Ok(query::map([("name", query::text(&name))]))
    }

    /// An honest agent is told to shut its gate; a dishonest one is not believed any more, and what it was granted ends
    /// with its validity. It stays suspended when it is readmitted, until it is resumed.
    fn bar(&mut self, id: &DeviceId, why: Text) -> Result<(), Broken> {
        let subject = || Subject::Device(id.clone());
        let suspension = Suspension { suspended: true };
        self.record(subject(), Cause::Suspension(suspension), Vec::new())?;
        let barred = AccessChanged {
            why,
            ..changed(AccessChange::DeviceBarred, id, None, "")
        };
        self.record(subject(), Cause::AccessChanged(barred), Vec::new())?;
        self.tell(id, &Body::Suspend)
    }

    fn revoke_key(&self, KeyOnly { key }: KeyOnly) -> Result<AccessChanged, CommandError> {
        let Some(found) = self.ledger.keys.get(&key) else {
            let words = format!("key {key} does not exist");
            return refuse(Code::USER_UNKNOWN, "unknown-key", words);
        };
        let others = self.ledger.keys.iter().any(|(id, other)| {
            *id != key && other.role == Role::Admin && !self.ledger.access.keys.contains(id)
        });
        if found.role == Role::Admin && !others {
            let words = format!("{key} is the last admin key: create another first");
            return refuse(Code::RATING_FAILED, "last-admin", words);
        }
        Ok(changed(AccessChange::KeyRevoked, &key, None, ""))
    }

    fn known_enrolment(&self, enrolment: &EnrolmentId) -> Result<(), CommandError> {
        if self.ledger.enrolments.contains_key(enrolment) {
            return Ok(());
        }
        let words = format!("enrolment key {enrolment} does not exist");
        refuse(Code::USER_UNKNOWN, "unknown-enrolment", words)
    }

    /// A fleet's own device; on `ops`, anybody's.
    fn device_within(&self, scope: &Scope, device: &DeviceId) -> Result<(), CommandError> {
        let found = self.ledger.devices.get(device);
        let within = found.is_some_and(|found| match scope {
            Scope::Ops => true,
            Scope::Fleet(fleet) => found.fleet == *fleet,
        });
        if within {
            return Ok(());
        }
        let words = format!("there is no device {device} here");
        refuse(Code::USER_UNKNOWN, "unknown-device", words)
    }
}

fn changed(
    change: AccessChange,
    name: &impl std::fmt::Display,
    until: Option<UnixMillis>,
    why: &str,
) -> AccessChanged {
    AccessChanged {
        change,
        name: Text::clipped(&name.to_string()),
        until,
        why: Text::clipped(why),
        generation: None,
    }
}

fn keys(ledger: &Ledger) -> Value {
    let rows = ledger.keys.iter().map(|(id, key)| {
        let role = match key.role {
            Role::Admin => "admin",
            Role::Manager => "manager",
            Role::Viewer => "viewer",
        };
        query::map([
            ("key", query::text(id)),
            ("role", Value::Text(role.to_owned())),
            ("fleet", key.fleet.as_ref().map_or(Value::Null, query::text)),
            ("revoked", Value::Bool(ledger.access.keys.contains(id))),
        ])
    });
    Value::Array(rows.collect())
}

fn enrolments(ledger: &Ledger) -> Value {
    let rows = ledger.enrolments.iter().map(|(id, enrolment)| {
        let until = ledger.access.until.get(id);
        query::map([
            ("enrolment", query::text(id)),
            ("fleet", query::text(&enrolment.fleet)),
            ("devices", query::number(enrolment.devices)),
            ("devices_max", query::number(enrolment.devices_max)),
            (
                "until",
                until.map_or(Value::Null, |until| query::number(until.value())),
            ),
            (
                "revoked",
                Value::Bool(ledger.access.enrolments.contains(id)),
            ),
        ])
    });
    Value::Array(rows.collect())
}
