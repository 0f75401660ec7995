//! Commands of managers and admins. The author is the key that sealed the command, never a field of it.
//!
//! A command that changes something is carried out once: the same id and body gets the stored answer for ever,
//! the same id with another body is refused, and a refused id stays refused. Each command that an allowed key sealed
//! stands in the journal with its outcome, refused ones too.
//!
//! | room | what is commanded there |
//! |---|---|
//! | `platform` | fleets, keys, SIMs, money: admins |
//! | `package` | packages bought, cancelled, credited, debited, moved |
//! | `refund` | deductions given back |
//! | `plan` | packages that come anew |
//! | `fleet` | limits, thresholds, top-up rules, suspension |
//! | `device` | what a device is told, its caps |
//! | `estate` | tags, SIMs, replacement, the end of service |
//! | `bulk` | one command to many devices |
//! | `look` | what changes nothing |
//! | `body` | which command an id stands for |
//! | `version` | what is changed only as its author saw it |

mod body;
mod bulk;
mod device;
mod estate;
mod fleet;
mod look;
mod package;
mod plan;
mod platform;
mod refund;
mod version;

use serde::de::DeserializeOwned;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::{DeviceId, FleetId, KeyId, PackageId, Text};
use simquota_shared::message::ops::Blob;
use simquota_shared::message::{FleetCommand, FleetReply};
use simquota_shared::topic::Topic;

use super::query::{self, Address};
use super::{Outgoing, Seal, Turn, Verdict, encoded};
use crate::ledger::Broken;
use crate::ledger::entry::{AccessChanged, Cause, CommandDone, KeyCreated, Role, Subject};

use device::DeviceChange;
use estate::EstateChange;
use fleet::FleetChange;
use look::Looked;
use package::PackageChange;
use plan::PlanChange;
use platform::PlatformChange;
pub use refund::named_entry;

/// The most SIMs of one import command.
pub const SIMS_MAX: usize = 500;
/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// On which topic a command came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `ops/command`
    Ops,
    /// `f/{fleet}/command`
    Fleet(FleetId),
}

/// Why a command is not carried out. The answer's `why` is this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {words}")]
pub struct CommandError {
    /// The result code.
    pub code: Code,
    /// A short name that stays the same.
    pub name: &'static str,
    /// In words.
    pub words: String,
}

pub(super) fn refuse<T>(
    code: Code,
    name: &'static str,
    words: impl Into<String>,
) -> Result<T, CommandError> {
    Err(CommandError {
        code,
        name,
        words: words.into(),
    })
}

impl Turn<'_> {
    /// Admits the first admin key, made by `init`, when the ledger has none yet.
    ///
    /// # Errors
    /// [`Broken`] when the ledger must be reloaded.
    pub fn bootstrap_admin(&mut self, key: &KeyId) -> Result<(), Broken> {
        if !self.ledger.keys.is_empty() {
            return Ok(());
        }
        let cause = KeyCreated {
            key: key.clone(),
            role: Role::Admin,
            fleet: None,
        };
        self.record(Subject::Platform, Cause::KeyCreated(cause), Vec::new())
    }

    pub(super) fn carry_out(
        &mut self,
        fleet: Option<&FleetId>,
        kid: &Kid,
        command: &FleetCommand,
    ) -> Result<Verdict, Broken> {
        let author = kid.name.parse::<KeyId>().ok();
        let Some((author, key)) =
            author.and_then(|id| self.ledger.keys.get(&id).map(|key| (id, key.clone())))
        else {
            return Ok(Verdict::refused(
                "unknown-key",
                format!("no key {kid} is admitted"),
            ));
        };
        if self.ledger.access.keys.contains(&author) {
            return Ok(Verdict::refused(
                "revoked-key",
                format!("key {kid} was revoked"),
            ));
        }
        let scope = fleet.cloned().map_or(Scope::Ops, Scope::Fleet);
        let address = Address {
            scope: scope.clone(),
            author: author.clone(),
            kid: kid.clone(),
            id: command.id.clone(),
        };
        let allowed = match (&scope, key.role, &key.fleet) {
            (_, Role::Admin, _) => true,
            (Scope::Fleet(fleet), Role::Manager | Role::Viewer, Some(own)) => fleet == own,
            (Scope::Fleet(_), _, None) | (Scope::Ops, _, _) => false,
        };
        if !allowed {
            let why = format!("not-allowed: key {author} has no say here");
            self.reply(&address, Code::SERVICE_DENIED, Value::Null, Some(&why))?;
            return Ok(Verdict::refused("not-allowed", why));
        }
        if let Some(answer) = self.look(&scope, &address, command) {
            return match answer {
                Ok(Looked::Value(value)) => {
                    self.reply_rows(&address, value)?;
                    Ok(Verdict::Done)
                }
                Ok(Looked::Query(query)) => Ok(Verdict::Query(query)),
                Err(error) => self.refused(&address, &error),
            };
        }
        if key.role == Role::Viewer {
            let error = CommandError {
                code: Code::SERVICE_DENIED,
                name: "viewer",
                words: format!("key {author} may look and do nothing: use a manager's key"),
            };
            return self.refused(&address, &error);
        }
        self.change(&scope, &address, command)
    }

    fn refused(&mut self, address: &Address, error: &CommandError) -> Result<Verdict, Broken> {
        self.reply(address, error.code, Value::Null, Some(&error.to_string()))?;
        Ok(Verdict::Done)
    }

    /// Carries out a command that changes something, once.
    fn change(
        &mut self,
        scope: &Scope,
        address: &Address,
        command: &FleetCommand,
    ) -> Result<Verdict, Broken> {
        let fleet = match scope {
            Scope::Ops => None,
            Scope::Fleet(fleet) => Some(fleet.clone()),
        };
        let body = body::of(command)?;
        if let Some(done) = self.ledger.done.get(&(fleet.clone(), command.id.clone())) {
            if done.body == body.0 {
                let reply = done.reply.clone();
                self.send_reply(address, reply);
                return Ok(Verdict::Done);
            }
            let differs = body::differences(done, command, &body);
            let error = CommandError {
                code: Code::NUMBER_REUSED,
                name: "exists-with-different-body",
                words: format!(
                    "id {} was used for {} in entry {}, {differs}: use another id",
                    command.id, done.name, done.entry
                ),
            };
            return self.refused(address, &error);
        }
        let outcome = if command.expires < self.now {
            refuse(
                Code::SERVICE_DENIED,
                "expired",
                "the command came after its expiry: send it with a new id",
            )
        } else {
            self.prepare(scope, command)
                .and_then(|change| self.as_expected(scope, command).map(|()| change))
        };
        if command.dry {
            return match outcome {
                Ok(Change::Bulk(fleet, name, args, devices)) => {
                    let rows = self.dry_bulk(&fleet, command, &name, &args, &devices);
                    self.reply_rows(address, rows)?;
                    Ok(Verdict::Done)
                }
                Ok(_) => {
                    self.reply(
                        address,
                        Code::SUCCESS,
                        query::map([("dry", Value::Bool(true))]),
                        None,
                    )?;
                    Ok(Verdict::Done)
                }
                Err(error) => self.refused(address, &error),
            };
        }
        let (code, result, why) = match outcome {
            Ok(Change::Bulk(fleet, name, args, devices)) => {
                let by = (command.id.clone(), address.author.clone());
                let begun = self.perform_bulk(&fleet, by, name, args, devices)?;
                (Code::SUCCESS, begun, None)
            }
            Ok(change) => (Code::SUCCESS, self.perform(change)?, None),
            Err(error) => (error.code, Value::Null, Some(error.to_string())),
        };
        let reply = encoded(&reply_of(address, code, 0, true, result, why.as_deref()))?;
        let cause = Cause::CommandDone(CommandDone {
            id: command.id.clone(),
            fleet: fleet.clone(),
            author: address.author.clone(),
            name: command.name.clone(),
            body,
            code,
            reply: Blob(reply.clone()),
        });
        let subject = fleet.map_or(Subject::Platform, Subject::Fleet);
        self.record(subject, cause, Vec::new())?;
        self.send_reply(address, reply);
        Ok(Verdict::Done)
    }

    fn reply(
        &mut self,
        address: &Address,
        code: Code,
        result: Value,
        why: Option<&str>,
    ) -> Result<(), Broken> {
        let payload = encoded(&reply_of(address, code, 0, true, result, why))?;
        self.send_reply(address, payload);
        Ok(())
    }

    fn reply_rows(&mut self, address: &Address, value: Value) -> Result<(), Broken> {
        for outgoing in query::parts(address, value)? {
            self.outgoing.push(outgoing);
        }
        Ok(())
    }

    fn send_reply(&mut self, address: &Address, payload: Vec<u8>) {
        self.outgoing.push(Outgoing {
            topic: address.topic(),
            payload,
            retain: false,
            seal: Seal::Mac(address.kid.clone()),
        });
    }

    /// Checks a command against the ledger, and says what is to be done. It changes nothing yet.
    fn prepare(&self, scope: &Scope, command: &FleetCommand) -> Result<Change, CommandError> {
        if let Some(change) = self.prepare_access(scope, command) {
            return change.map(Change::Access);
        }
        let Scope::Fleet(fleet) = scope else {
            return self.prepare_platform(command);
        };
        self.known_fleet(fleet)?;
        if let Some(change) = self.prepare_estate(fleet, command) {
            return change;
        }
        match command.name.as_str() {
            "bulk" => self.prepare_bulk(fleet, command),
            "plan-begin" | "plan-end" => self.prepare_plan(fleet, command),
            "refund" => self.prepare_package(fleet, command),
            name if name.starts_with("package-") => self.prepare_package(fleet, command),
            name if name.starts_with("device-") => self.prepare_device(fleet, command),
            name if name.starts_with("fleet-") || name.starts_with("top-up-") => {
                self.prepare_fleet(fleet, command)
            }
            other => unknown(other),
        }
    }

    /// Does what was prepared. Nothing in it can be refused any more.
    fn perform(&mut self, change: Change) -> Result<Value, Broken> {
        match change {
            Change::Platform(change) => self.perform_platform(change),
            Change::Package(change) => self.perform_package(change),
            Change::Plan(change) => self.perform_plan(change),
            Change::Device(change) => self.perform_device(change),
            Change::Access(change) => self.perform_access(change),
            Change::Fleet(change) => self.perform_fleet(change),
            Change::Estate(change) => self.perform_estate(change),
            // It is taken by `change` alone: a bulk command is no part of another one.
            Change::Bulk(..) => Ok(Value::Null),
        }
    }

    fn known_fleet(&self, fleet: &FleetId) -> Result<(), CommandError> {
        if self.ledger.fleets.contains(fleet) {
            return Ok(());
        }
        refuse(
            Code::USER_UNKNOWN,
            "unknown-fleet",
            format!("fleet {fleet} does not exist: create it first"),
        )
    }

    /// Another fleet's device is as unknown as none: nobody learns what others have.
    fn own_device(&self, fleet: &FleetId, device: &DeviceId) -> Result<DeviceId, CommandError> {
        match self.ledger.devices.get(device) {
            Some(found) if found.fleet == *fleet => Ok(device.clone()),
            _ => refuse(
                Code::USER_UNKNOWN,
                "unknown-device",
                format!("fleet {fleet} has no device {device}"),
            ),
        }
    }

    fn own_package(&self, fleet: &FleetId, package: &PackageId) -> Result<(), CommandError> {
        match self.ledger.packages.get(package) {
            Some(found) if found.fleet == *fleet && !found.ended => Ok(()),
            Some(found) if found.fleet == *fleet => refuse(
                Code::RATING_FAILED,
                "package-ended",
                format!("package {package} has ended"),
            ),
            _ => refuse(
                Code::USER_UNKNOWN,
                "unknown-package",
                format!("fleet {fleet} has no package {package}"),
            ),
        }
    }
}

/// What a command changes, checked.
enum Change {
    Platform(PlatformChange),
    Package(PackageChange),
    Plan(PlanChange),
    Device(DeviceChange),
    Access(AccessChanged),
    Fleet(FleetChange),
    Estate(EstateChange),
    /// In which fleet, which command, its arguments, to whom.
    Bulk(FleetId, Text, Vec<u8>, Vec<DeviceId>),
}

fn unknown<T>(name: &str) -> Result<T, CommandError> {
    refuse(
        Code::RATING_FAILED,
        "unknown-command",
        format!("'{name}' is not a command of this topic"),
    )
}

pub(super) fn arguments<T: DeserializeOwned>(args: &Value) -> Result<T, CommandError> {
    serde_cbor::value::from_value(args.clone()).map_err(|error| CommandError {
        code: Code::RATING_FAILED,
        name: "bad-arguments",
        words: error.to_string(),
    })
}

pub(super) fn reply_of(
    address: &Address,
    code: Code,
    part: u64,
    last: bool,
    result: Value,
    why: Option<&str>,
) -> FleetReply {
    FleetReply {
        id: address.id.clone(),
        code,
        part,
        last,
        result,
        why: why.map(Text::clipped),
    }
}

impl Address {
    pub(super) fn topic(&self) -> Topic {
        match &self.scope {
            Scope::Ops => Topic::OpsReply(self.author.clone()),
            Scope::Fleet(fleet) => Topic::FleetReply(fleet.clone(), self.author.clone()),
        }
    }
}

/// The time so many days after another.
fn days_from(
    begin: simquota_shared::units::UnixMillis,
    days: u64,
) -> Option<simquota_shared::units::UnixMillis> {
    days.checked_mul(DAY_MS)
        .and_then(|ms| begin.checked_add(ms))
}
