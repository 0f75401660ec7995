//! Commands of managers and admins. The author is the key that sealed the command, never a field of it.
//!
//! A command that changes something is carried out once: the same id and body gets the stored answer for ever,
//! the same id with another body is refused, and a refused id stays refused.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::envelope::{GENERATIONS_MAX, Kid};
use simquota_shared::ids::{DeviceId, EnrolmentId, FleetId, KeyId, PackageId, Text, ZoneId};
use simquota_shared::message::ops::Blob;
use simquota_shared::message::{Body, FleetCommand, FleetReply, SimProfile};
use simquota_shared::topic::Topic;
use simquota_shared::units::{Octets, UnixMillis};

use super::query::{self, Address, Query};
use super::{Outgoing, Seal, Turn, Verdict, encoded};
use crate::ledger::Broken;
use crate::ledger::account::{Move, Pocket};
use crate::ledger::chain::digest;
use crate::ledger::entry::{
    AccessChanged, Cause, CommandDone, Credited, EnrolmentCreated, FleetCreated, KeyCreated,
    PackageBought, Role, SimsImported, Subject, Suspension,
};

use super::usage::pocket;

/// The most SIMs of one import command.
pub const SIMS_MAX: usize = 500;
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FleetCreate {
    fleet: FleetId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyCreate {
    key: KeyId,
    role: String,
    #[serde(default)]
    fleet: Option<FleetId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnrolmentCreate {
    enrolment: EnrolmentId,
    fleet: FleetId,
    devices: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimImport {
    sims: Vec<SimProfile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageBuy {
    #[serde(default)]
    device: Option<DeviceId>,
    volume: Octets,
    #[serde(default)]
    until: Option<UnixMillis>,
    #[serde(default)]
    days: Option<u64>,
    #[serde(default)]
    zones: Vec<ZoneId>,
    #[serde(default)]
    priority: Option<u64>,
    #[serde(default)]
    package: Option<PackageId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageOnly {
    package: PackageId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageCredit {
    package: PackageId,
    octets: Octets,
    why: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceOnly {
    device: DeviceId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceList {
    #[serde(default)]
    after: Option<DeviceId>,
    #[serde(default)]
    most: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explain {
    device: DeviceId,
    #[serde(default)]
    since: Option<UnixMillis>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Backup {
    name: KeyId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

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
        let body = digest(&encoded(&(&command.name, &command.args, command.expected))?);
        if let Some(done) = self.ledger.done.get(&(fleet.clone(), command.id.clone())) {
            if done.body == body.0 {
                let reply = done.reply.clone();
                self.send_reply(address, reply);
                return Ok(Verdict::Done);
            }
            let differs = if done.name == command.name.as_str() {
                "its arguments"
            } else {
                "its name"
            };
            let error = CommandError {
                code: Code::NUMBER_REUSED,
                name: "exists-with-different-body",
                words: format!(
                    "id {} was used for {} in entry {}, {differs} differ: use another id",
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
        };
        if command.dry {
            return match outcome {
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

    /// Commands that change nothing; `None` when it is not one of them.
    fn look(
        &self,
        scope: &Scope,
        address: &Address,
        command: &FleetCommand,
    ) -> Option<Result<Looked, CommandError>> {
        match (scope, command.name.as_str()) {
            (Scope::Ops, "audit") => Some(
                arguments::<Nothing>(&command.args)
                    .map(|Nothing {}| Looked::Query(Query::audit(address.clone()))),
            ),
            (Scope::Ops, "usage-by-sim") => Some(
                arguments::<Nothing>(&command.args)
                    .map(|Nothing {}| Looked::Query(Query::by_sim(address.clone()))),
            ),
            (Scope::Ops, "backup") => Some(
                arguments(&command.args)
                    .map(|Backup { name }| Looked::Query(Query::backup(address.clone(), name))),
            ),
            (Scope::Fleet(fleet), "device-list") => {
                Some(arguments(&command.args).map(|list: DeviceList| {
                    Looked::Value(query::devices(
                        self.ledger,
                        fleet,
                        list.after.as_ref(),
                        list.most,
                    ))
                }))
            }
            (Scope::Fleet(fleet), "package-list") => Some(
                arguments::<Nothing>(&command.args)
                    .map(|Nothing {}| Looked::Value(query::packages(self.ledger, fleet))),
            ),
            (Scope::Fleet(fleet), "device-show") => Some(
                arguments(&command.args)
                    .and_then(|only: DeviceOnly| self.own_device(fleet, &only.device))
                    .map(|id| Looked::Value(query::device(self.ledger, &id, self.now))),
            ),
            (Scope::Fleet(fleet), "explain") => {
                Some(arguments(&command.args).and_then(|explain: Explain| {
                    let device = self.own_device(fleet, &explain.device)?;
                    Ok(Looked::Query(Query::explain(
                        address.clone(),
                        device,
                        explain.since,
                    )))
                }))
            }
            _ => self
                .look_access(scope, command)
                .map(|found| found.map(Looked::Value)),
        }
    }

    /// Checks a command against the ledger, and says what is to be done. It changes nothing yet.
    fn prepare(&self, scope: &Scope, command: &FleetCommand) -> Result<Change, CommandError> {
        match (scope, command.name.as_str()) {
            (Scope::Ops, "fleet-create") => {
                let FleetCreate { fleet } = arguments(&command.args)?;
                if self.ledger.fleets.contains(&fleet) {
                    return refuse(
                        Code::RATING_FAILED,
                        "fleet-exists",
                        format!("fleet {fleet} exists already"),
                    );
                }
                Ok(Change::Fleet(FleetCreated { fleet }))
            }
            (Scope::Ops, "key-create") => self.prepare_key(arguments(&command.args)?),
            (Scope::Ops, "enrolment-create") => {
                let EnrolmentCreate {
                    enrolment,
                    fleet,
                    devices,
                } = arguments(&command.args)?;
                self.known_fleet(&fleet)?;
                if self.ledger.enrolments.contains_key(&enrolment) {
                    return refuse(
                        Code::RATING_FAILED,
                        "enrolment-exists",
                        format!("enrolment key {enrolment} exists already"),
                    );
                }
                Ok(Change::Enrolment(EnrolmentCreated {
                    enrolment,
                    fleet,
                    devices_max: devices,
                }))
            }
            (Scope::Ops, "sim-import") => self.prepare_sims(arguments(&command.args)?),
            (Scope::Fleet(fleet), "package-buy") => self.prepare_purchase(fleet, command),
            (Scope::Fleet(fleet), "package-cancel") => {
                let PackageOnly { package } = arguments(&command.args)?;
                self.own_package(fleet, &package)?;
                Ok(Change::Cancel(package))
            }
            (Scope::Fleet(fleet), "package-credit") => {
                let PackageCredit {
                    package,
                    octets,
                    why,
                } = arguments(&command.args)?;
                self.own_package(fleet, &package)?;
                if octets == Octets::ZERO {
                    return refuse(
                        Code::RATING_FAILED,
                        "no-octets",
                        "'octets' must be more than 0",
                    );
                }
                let after = self.ledger.packages.get(&package).and_then(|package| {
                    package
                        .balances
                        .volume
                        .checked_add(package.balances.credited.value())?
                        .checked_add(octets.value())
                });
                if after.is_none() {
                    return refuse(
                        Code::RATING_FAILED,
                        "too-much",
                        "'octets' is more than an account can hold",
                    );
                }
                Ok(Change::Credit {
                    package,
                    octets,
                    why,
                })
            }
            (Scope::Fleet(fleet), "device-suspend") => {
                let DeviceOnly { device } = arguments(&command.args)?;
                Ok(Change::Tell(
                    self.own_device(fleet, &device)?,
                    Body::Suspend,
                ))
            }
            (Scope::Fleet(fleet), "device-resume") => {
                let DeviceOnly { device } = arguments(&command.args)?;
                Ok(Change::Tell(self.own_device(fleet, &device)?, Body::Resume))
            }
            (Scope::Fleet(fleet), "device-revoke") => {
                let DeviceOnly { device } = arguments(&command.args)?;
                Ok(Change::Tell(self.own_device(fleet, &device)?, Body::Revoke))
            }
            (Scope::Fleet(fleet), "device-report") => {
                let DeviceOnly { device } = arguments(&command.args)?;
                Ok(Change::Tell(self.own_device(fleet, &device)?, Body::Report))
            }
            (Scope::Fleet(fleet), "device-reauthorise") => {
                let DeviceOnly { device } = arguments(&command.args)?;
                Ok(Change::Tell(
                    self.own_device(fleet, &device)?,
                    Body::Reauthorise,
                ))
            }
            (Scope::Fleet(fleet), "device-rotate-key") => {
                let DeviceOnly { device } = arguments(&command.args)?;
                let device = self.own_device(fleet, &device)?;
                let generation = self
                    .ledger
                    .devices
                    .get(&device)
                    .map(|found| found.generation);
                match generation.and_then(|generation| generation.checked_add(1)) {
                    Some(next) if next <= u64::from(GENERATIONS_MAX) => {
                        Ok(Change::Tell(device, Body::Rotate(next)))
                    }
                    _ => refuse(
                        Code::RATING_FAILED,
                        "no-more-generations",
                        format!("the key of {device} was rotated often enough: enrol it anew"),
                    ),
                }
            }
            (_, other) => match self.prepare_access(scope, command) {
                Some(change) => change.map(Change::Access),
                None => refuse(
                    Code::RATING_FAILED,
                    "unknown-command",
                    format!("'{other}' is not a command of this topic"),
                ),
            },
        }
    }

    fn prepare_key(&self, arguments: KeyCreate) -> Result<Change, CommandError> {
        let KeyCreate { key, role, fleet } = arguments;
        let role = match role.as_str() {
            "admin" => Role::Admin,
            "manager" => Role::Manager,
            "viewer" => Role::Viewer,
            _ => {
                return refuse(
                    Code::RATING_FAILED,
                    "bad-role",
                    "'role' is admin, manager or viewer",
                );
            }
        };
        if (role == Role::Admin) != fleet.is_none() {
            return refuse(
                Code::RATING_FAILED,
                "bad-fleet",
                "a manager or viewer has a fleet, an admin has none",
            );
        }
        if let Some(fleet) = &fleet {
            self.known_fleet(fleet)?;
        }
        if self.ledger.keys.contains_key(&key) {
            return refuse(
                Code::RATING_FAILED,
                "key-exists",
                format!("key {key} exists already"),
            );
        }
        Ok(Change::Key(KeyCreated { key, role, fleet }))
    }

    fn prepare_sims(&self, SimImport { sims }: SimImport) -> Result<Change, CommandError> {
        if sims.is_empty() || sims.len() > SIMS_MAX {
            return refuse(
                Code::RATING_FAILED,
                "too-many-sims",
                format!("one command imports 1 to {SIMS_MAX} SIMs"),
            );
        }
        let mut seen = std::collections::BTreeSet::new();
        for profile in &sims {
            if self.ledger.sims.contains_key(&profile.iccid) || !seen.insert(profile.iccid.clone())
            {
                return refuse(
                    Code::RATING_FAILED,
                    "sim-exists",
                    format!("SIM {} exists already", profile.iccid),
                );
            }
        }
        Ok(Change::Sims(SimsImported { sims }))
    }

    fn prepare_purchase(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let buy: PackageBuy = arguments(&command.args)?;
        self.known_fleet(fleet)?;
        if let Some(device) = &buy.device {
            self.own_device(fleet, device)?;
        }
        if buy.volume == Octets::ZERO {
            return refuse(
                Code::RATING_FAILED,
                "no-volume",
                "'volume' must be more than 0",
            );
        }
        let until = match (buy.until, buy.days) {
            (Some(_), Some(_)) => {
                return refuse(
                    Code::RATING_FAILED,
                    "two-ends",
                    "give 'until' or 'days', not both",
                );
            }
            (until, None) => until,
            (None, Some(days)) => {
                let ms = days
                    .checked_mul(DAY_MS)
                    .and_then(|ms| self.now.checked_add(ms));
                match ms {
                    Some(until) => Some(until),
                    None => return refuse(Code::RATING_FAILED, "bad-days", "'days' is too many"),
                }
            }
        };
        if until.is_some_and(|until| until <= self.now) {
            return refuse(
                Code::RATING_FAILED,
                "in-the-past",
                "the package would end before it begins",
            );
        }
        // Without a name of its own the package is called after the command: unique in the fleet for ever.
        let package = match buy.package {
            Some(package) => package,
            None => match format!("{fleet}-{}", command.id).parse() {
                Ok(package) => package,
                Err(_) => {
                    return refuse(
                        Code::RATING_FAILED,
                        "bad-package",
                        "name the package: fleet and command id are too long together",
                    );
                }
            },
        };
        if self.ledger.packages.contains_key(&package) {
            return refuse(
                Code::RATING_FAILED,
                "package-exists",
                format!("package {package} exists already"),
            );
        }
        Ok(Change::Buy(PackageBought {
            package,
            fleet: fleet.clone(),
            device: buy.device,
            volume: buy.volume,
            until,
            zones: buy.zones,
            priority: buy.priority.unwrap_or(100),
        }))
    }

    /// Does what was prepared. Nothing in it can be refused any more.
    fn perform(&mut self, change: Change) -> Result<Value, Broken> {
        match change {
            Change::Fleet(created) => {
                let result = query::map([("fleet", query::text(&created.fleet))]);
                self.record(Subject::Platform, Cause::FleetCreated(created), Vec::new())?;
                Ok(result)
            }
            Change::Key(created) => {
                let result = query::map([("key", query::text(&created.key))]);
                self.record(Subject::Platform, Cause::KeyCreated(created), Vec::new())?;
                Ok(result)
            }
            Change::Enrolment(created) => {
                let result = query::map([("enrolment", query::text(&created.enrolment))]);
                self.record(
                    Subject::Platform,
                    Cause::EnrolmentCreated(created),
                    Vec::new(),
                )?;
                Ok(result)
            }
            Change::Sims(imported) => {
                let count = imported.sims.len() as u64;
                self.record(Subject::Platform, Cause::SimsImported(imported), Vec::new())?;
                Ok(query::map([("sims", query::number(count))]))
            }
            Change::Buy(bought) => {
                let id = bought.package.clone();
                self.buy(bought)?;
                Ok(query::package(self.ledger, &id))
            }
            Change::Cancel(package) => {
                let refunded = self.end_package(&package, true)?;
                Ok(query::map([
                    ("package", query::text(&package)),
                    ("refunded", query::number(refunded.value())),
                ]))
            }
            Change::Credit {
                package,
                octets,
                why,
            } => self.credit_package(&package, octets, why),
            Change::Access(changed) => self.perform_access(changed),
            Change::Tell(device, body) => {
                let suspended = match body {
                    Body::Suspend => Some(true),
                    Body::Resume => Some(false),
                    _ => None,
                };
                if let Some(suspended) = suspended {
                    let cause = Cause::Suspension(Suspension { suspended });
                    self.record(Subject::Device(device.clone()), cause, Vec::new())?;
                }
                self.tell(&device, &body)?;
                let number = self
                    .ledger
                    .devices
                    .get(&device)
                    .map_or(0, |device| device.commands);
                Ok(query::map([
                    ("device", query::text(&device)),
                    ("number", query::number(number)),
                ]))
            }
        }
    }

    fn credit_package(
        &mut self,
        id: &PackageId,
        octets: Octets,
        why: Text,
    ) -> Result<Value, Broken> {
        let Some(package) = self.ledger.packages.get(id) else {
            return Ok(Value::Null);
        };
        let (fleet, device) = (package.fleet.clone(), package.device.clone());
        let subject = device
            .clone()
            .map_or_else(|| Subject::Fleet(fleet.clone()), Subject::Device);
        let moves = vec![Move {
            from: pocket(id, Pocket::Credited),
            to: pocket(id, Pocket::Available),
            octets,
        }];
        let cause = Cause::Credited(Credited {
            package: id.clone(),
            why,
        });
        self.record(subject, cause, moves)?;
        self.gained(id, &fleet, device.as_ref())?;
        Ok(query::package(self.ledger, id))
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

/// What a command that only looks returns.
enum Looked {
    Value(Value),
    Query(Query),
}

/// What a command changes, checked.
enum Change {
    Fleet(FleetCreated),
    Key(KeyCreated),
    Enrolment(EnrolmentCreated),
    Sims(SimsImported),
    Buy(PackageBought),
    Cancel(PackageId),
    Credit {
        package: PackageId,
        octets: Octets,
        why: Text,
    },
    Tell(DeviceId, Body),
    Access(AccessChanged),
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
