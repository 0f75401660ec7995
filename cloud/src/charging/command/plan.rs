//! What managers command about plans: packages that come anew each day, week or month.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, PackageId, Text, ZoneId};
use simquota_shared::message::FleetCommand;
use simquota_shared::units::Octets;

use super::{Change, CommandError, arguments, refuse};
use crate::charging::{Turn, calendar, query};
use crate::ledger::Broken;
use crate::ledger::entry::{Cadence, Cause, Every, PlanBegan, PlanEnded, Rollover};

/// What a plan is called at most, so that its periods have names too.
const NAME_MAX: usize = 48;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanBegin {
    every: String,
    volume: Octets,
    #[serde(default)]
    plan: Option<PackageId>,
    #[serde(default)]
    device: Option<DeviceId>,
    #[serde(default)]
    on: Option<u64>,
    #[serde(default)]
    minute: u64,
    #[serde(default)]
    place: Option<Text>,
    #[serde(default)]
    zones: Vec<ZoneId>,
    #[serde(default)]
    priority: Option<u64>,
    #[serde(default)]
    overage: Octets,
    #[serde(default)]
    price: u64,
    #[serde(default)]
    rollover_min: Octets,
    #[serde(default)]
    rollover_max: Octets,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanOnly {
    plan: PackageId,
}

/// A change of plans, checked.
pub(super) enum PlanChange {
    Begin(PlanBegan),
    End(PackageId),
}

impl Turn<'_> {
    pub(super) fn prepare_plan(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        if command.name.as_str() == "plan-begin" {
            let begin = arguments(&command.args)?;
            return Ok(Change::Plan(PlanChange::Begin(
                self.new_plan(fleet, command, begin)?,
            )));
        }
        let PlanOnly { plan } = arguments(&command.args)?;
        match self.ledger.plans.get(&plan) {
            Some(found) if found.terms.fleet == *fleet && found.next.is_some() => {
                Ok(Change::Plan(PlanChange::End(plan)))
            }
            Some(found) if found.terms.fleet == *fleet => refuse(
                Code::RATING_FAILED,
                "plan-ended",
                format!("plan {plan} has ended"),
            ),
            _ => refuse(
                Code::USER_UNKNOWN,
                "unknown-plan",
                format!("fleet {fleet} has no plan {plan}"),
            ),
        }
    }

    fn new_plan(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
        begin: PlanBegin,
    ) -> Result<PlanBegan, CommandError> {
        if let Some(device) = &begin.device {
            self.own_device(fleet, device)?;
        }
        self.known_volume(begin.volume, begin.overage)?;
        let cadence = cadence(&begin)?;
        if calendar::next_turn(&cadence, self.now).is_none() {
            return super::fleet::unknown_place(&cadence.zone);
        }
        let rollover = match (begin.rollover_min, begin.rollover_max) {
            (Octets::ZERO, Octets::ZERO) => None,
            (min, max) if min <= max && begin.volume.checked_add(max.value()).is_some() => {
                Some(Rollover { min, max })
            }
            (_, _) => {
                return refuse(
                    Code::RATING_FAILED,
                    "bad-rollover",
                    "'rollover_min' is more than 'rollover_max', or that is more than an account can hold",
                );
            }
        };
        self.affordable(fleet, begin.price)?;
        let plan = self.package_name(fleet, command, begin.plan)?;
        if plan.as_str().len() > NAME_MAX {
            return refuse(
                Code::RATING_FAILED,
                "bad-plan",
                format!("name the plan with at most {NAME_MAX} characters"),
            );
        }
        let taken = self.ledger.plans.contains_key(&plan)
            || format!("{plan}-1")
                .parse::<PackageId>()
                .is_ok_and(|first| self.ledger.packages.contains_key(&first));
        if taken {
            return refuse(
                Code::RATING_FAILED,
                "plan-exists",
                format!("plan {plan}, or a package {plan}-1, exists already"),
            );
        }
        Ok(PlanBegan {
            plan,
            fleet: fleet.clone(),
            device: begin.device,
            volume: begin.volume,
            zones: begin.zones,
            priority: begin.priority.unwrap_or(100),
            overage: begin.overage,
            price: begin.price,
            cadence,
            rollover,
        })
    }

    pub(super) fn perform_plan(&mut self, change: PlanChange) -> Result<Value, Broken> {
        match change {
            PlanChange::Begin(began) => {
                let id = began.plan.clone();
                self.begin_plan(began)?;
                Ok(query::plan(self.ledger, &id))
            }
            PlanChange::End(plan) => {
                let subject = match self.ledger.plans.get(&plan) {
                    Some(found) => crate::charging::plan::subject_of(&found.terms),
                    None => return Ok(Value::Null),
                };
                let cause = Cause::PlanEnded(PlanEnded { plan: plan.clone() });
                self.record(subject, cause, Vec::new())?;
                Ok(query::plan(self.ledger, &plan))
            }
        }
    }
}

fn cadence(begin: &PlanBegin) -> Result<Cadence, CommandError> {
    let (every, days) = match begin.every.as_str() {
        "day" => (Every::Day, 0..=0),
        "week" => (Every::Week, 1..=7),
        "month" => (Every::Month, 1..=31),
        _ => {
            return refuse(
                Code::RATING_FAILED,
                "bad-every",
                "'every' is day, week or month",
            );
        }
    };
    let day = begin.on.unwrap_or(*days.start());
    if !days.contains(&day) || begin.minute >= calendar::DAY_MINUTES {
        return refuse(
            Code::RATING_FAILED,
            "bad-day",
            "'on' is 1 (Monday) to 7 for a week and 1 to 31 for a month, 'minute' is 0 to 1439",
        );
    }
    let zone = begin
        .place
        .clone()
        .unwrap_or_else(|| Text::clipped(crate::ledger::fleet::ZONE));
    Ok(Cadence {
        every,
        day,
        minute: begin.minute,
        zone,
    })
}
