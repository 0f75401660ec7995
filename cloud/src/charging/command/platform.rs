//! What admins command: fleets, keys, SIMs, money.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, EnrolmentId, FleetId, Iccid, KeyId, Text};
use simquota_shared::message::{FleetCommand, SimProfile};
use simquota_shared::units::Octets;

use super::{Change, CommandError, SIMS_MAX, arguments, refuse};
use crate::charging::{Turn, query};
use crate::ledger::Broken;
use crate::ledger::account::{Account, Move, Purse};
use crate::ledger::entry::{
    Cause, EnrolmentCreated, FleetCreated, KeyCreated, MoneyMoved, Role, SimsImported, Subject,
    reason,
};

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
struct MoneyMove {
    fleet: FleetId,
    amount: u64,
    why: Text,
}

/// What a carrier counted of a SIM on a day, and what the ledger has of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimDrift {
    iccid: Iccid,
    day: Text,
    carrier: u64,
    ledger: u64,
}

/// A change of the platform, checked.
pub(super) enum PlatformChange {
    Fleet(FleetCreated),
    Key(KeyCreated),
    Enrolment(EnrolmentCreated),
    Sims(SimsImported),
    Drift(DeviceId, String),
    Money {
        fleet: FleetId,
        from: Purse,
        to: Purse,
        amount: u64,
        why: Text,
    },
}

impl Turn<'_> {
    pub(super) fn prepare_platform(&self, command: &FleetCommand) -> Result<Change, CommandError> {
        let args = &command.args;
        let change = match command.name.as_str() {
            "fleet-create" => {
                let FleetCreate { fleet } = arguments(args)?;
                if self.ledger.fleets.contains(&fleet) {
                    return refuse(
                        Code::RATING_FAILED,
                        "fleet-exists",
                        format!("fleet {fleet} exists already"),
                    );
                }
                PlatformChange::Fleet(FleetCreated { fleet })
            }
            "key-create" => self.prepare_key(arguments(args)?)?,
            "enrolment-create" => self.prepare_enrolment(arguments(args)?)?,
            "sim-import" => self.prepare_sims(arguments(args)?)?,
            "sim-drift" => self.prepare_drift(arguments(args)?)?,
            "money-deposit" => {
                self.prepare_money(arguments(args)?, Purse::Deposited, Purse::Balance)?
            }
            "money-withdraw" => {
                self.prepare_money(arguments(args)?, Purse::Balance, Purse::Withdrawn)?
            }
            other => return super::unknown(other),
        };
        Ok(Change::Platform(change))
    }

    fn prepare_drift(&self, drift: SimDrift) -> Result<PlatformChange, CommandError> {
        let SimDrift {
            iccid,
            day,
            carrier,
            ledger,
        } = drift;
        let sim = self.ledger.sims.get(&iccid);
        let Some(device) = sim.and_then(|sim| sim.device.clone()) else {
            return refuse(
                Code::USER_UNKNOWN,
                "no-device",
                format!("no device has the SIM {iccid} now"),
            );
        };
        let words = format!("{day}: the carrier has {carrier} octets, the ledger {ledger}");
        Ok(PlatformChange::Drift(device, words))
    }

    fn prepare_enrolment(
        &self,
        arguments: EnrolmentCreate,
    ) -> Result<PlatformChange, CommandError> {
        let EnrolmentCreate {
            enrolment,
            fleet,
            devices,
        } = arguments;
        self.known_fleet(&fleet)?;
        if self.ledger.enrolments.contains_key(&enrolment) {
            return refuse(
                Code::RATING_FAILED,
                "enrolment-exists",
                format!("enrolment key {enrolment} exists already"),
            );
        }
        Ok(PlatformChange::Enrolment(EnrolmentCreated {
            enrolment,
            fleet,
            devices_max: devices,
        }))
    }

    fn prepare_money(
        &self,
        MoneyMove { fleet, amount, why }: MoneyMove,
        from: Purse,
        to: Purse,
    ) -> Result<PlatformChange, CommandError> {
        self.known_fleet(&fleet)?;
        if amount == 0 {
            return refuse(
                Code::RATING_FAILED,
                "no-amount",
                "'amount' must be more than 0",
            );
        }
        let purse = self
            .ledger
            .accounts
            .get(&fleet)
            .map(|account| account.purse)
            .unwrap_or_default();
        if from == Purse::Balance && purse.balance < amount {
            return refuse(
                Code::CREDIT_LIMIT_REACHED,
                "not-enough-money",
                format!("the balance is {}", purse.balance),
            );
        }
        if from == Purse::Deposited && purse.deposited.checked_add(amount).is_none() {
            return refuse(
                Code::RATING_FAILED,
                "too-much",
                "'amount' is more than an account can hold",
            );
        }
        Ok(PlatformChange::Money {
            fleet,
            from,
            to,
            amount,
            why,
        })
    }

    fn prepare_key(&self, arguments: KeyCreate) -> Result<PlatformChange, CommandError> {
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
        Ok(PlatformChange::Key(KeyCreated { key, role, fleet }))
    }

    fn prepare_sims(&self, SimImport { sims }: SimImport) -> Result<PlatformChange, CommandError> {
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
        Ok(PlatformChange::Sims(SimsImported { sims }))
    }

    pub(super) fn perform_platform(&mut self, change: PlatformChange) -> Result<Value, Broken> {
        let (result, cause) = match change {
            PlatformChange::Drift(device, words) => {
                self.suspect(&device, reason::DRIFT, &words)?;
                return Ok(query::map([("device", query::text(&device))]));
            }
            PlatformChange::Fleet(created) => (
                query::map([("fleet", query::text(&created.fleet))]),
                Cause::FleetCreated(created),
            ),
            PlatformChange::Key(created) => (
                query::map([("key", query::text(&created.key))]),
                Cause::KeyCreated(created),
            ),
            PlatformChange::Enrolment(created) => (
                query::map([("enrolment", query::text(&created.enrolment))]),
                Cause::EnrolmentCreated(created),
            ),
            PlatformChange::Sims(imported) => (
                query::map([("sims", query::number(imported.sims.len() as u64))]),
                Cause::SimsImported(imported),
            ),
            PlatformChange::Money {
                fleet,
                from,
                to,
                amount,
                why,
            } => {
                let moves = vec![Move {
                    from: Account::Fleet(fleet.clone(), from),
                    to: Account::Fleet(fleet.clone(), to),
                    octets: Octets(amount),
                }];
                let cause = Cause::MoneyMoved(MoneyMoved { why });
                self.record(Subject::Fleet(fleet.clone()), cause, moves)?;
                return Ok(query::fleet(self.ledger, &fleet));
            }
        };
        self.record(Subject::Platform, cause, Vec::new())?;
        Ok(result)
    }
}
