//! What managers command about a whole fleet: limits, thresholds, rules that buy, suspension.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, PackageId, Text};
use simquota_shared::message::FleetCommand;
use simquota_shared::units::Octets;

use super::device::cap;
use super::{Change, CommandError, arguments, refuse};
use crate::charging::{Turn, calendar, query};
use crate::ledger::Broken;
use crate::ledger::entry::{
    Caps, Cause, FleetSuspension, LimitsSet, Subject, ThresholdsSet, TopUp, TopUpSet,
};

/// Percentages that a fleet may choose.
const PERCENTS_MAX: usize = 10;
/// Rules that a fleet may have.
const RULES_MAX: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default)]
    device_day: Octets,
    #[serde(default)]
    device_month: Octets,
    #[serde(default)]
    pool_day: Octets,
    #[serde(default)]
    pool_month: Octets,
    #[serde(default)]
    share: Octets,
    #[serde(default)]
    place: Option<Text>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Thresholds {
    percents: Vec<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TopUpArguments {
    rule: PackageId,
    percent: u64,
    volume: Octets,
    most: u64,
    #[serde(default)]
    device: Option<DeviceId>,
    #[serde(default)]
    days: Option<u64>,
    #[serde(default)]
    price: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleOnly {
    rule: PackageId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A change of a fleet, checked.
pub(super) struct FleetChange {
    fleet: FleetId,
    what: What,
}

enum What {
    Limits(LimitsSet, Option<Text>),
    Thresholds(Vec<u64>),
    TopUp(TopUpSet),
    Suspension(bool),
}

impl Turn<'_> {
    pub(super) fn prepare_fleet(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let args = &command.args;
        let what = match command.name.as_str() {
            "fleet-limits" => limits(arguments(args)?)?,
            "fleet-thresholds" => thresholds(arguments(args)?)?,
            "fleet-suspend" => {
                let Nothing {} = arguments(args)?;
                What::Suspension(true)
            }
            "fleet-resume" => {
                let Nothing {} = arguments(args)?;
                What::Suspension(false)
            }
            "top-up-set" => self.top_up_rule(fleet, arguments(args)?)?,
            "top-up-remove" => {
                let RuleOnly { rule } = arguments(args)?;
                let known = self
                    .ledger
                    .accounts
                    .get(fleet)
                    .is_some_and(|account| account.rules.contains_key(&rule));
                if !known {
                    return refuse(
                        Code::USER_UNKNOWN,
                        "unknown-rule",
                        format!("fleet {fleet} has no rule {rule}"),
                    );
                }
                What::TopUp(TopUpSet { rule, top_up: None })
            }
            other => return super::unknown(other),
        };
        Ok(Change::Fleet(FleetChange {
            fleet: fleet.clone(),
            what,
        }))
    }

    fn top_up_rule(
        &self,
        fleet: &FleetId,
        arguments: TopUpArguments,
    ) -> Result<What, CommandError> {
        let TopUpArguments {
            rule,
            percent,
            volume,
            most,
            device,
            days,
            price,
        } = arguments;
        if let Some(device) = &device {
            self.live_device(fleet, device)?;
        }
        percentage(percent)?;
        if volume == Octets::ZERO || most == 0 {
            return refuse(
                Code::RATING_FAILED,
                "no-volume",
                "'volume' and 'most' must be more than 0",
            );
        }
        if days.is_some_and(|days| super::days_from(self.now, days).is_none()) {
            return refuse(Code::RATING_FAILED, "bad-days", "'days' is too many");
        }
        let rules = self
            .ledger
            .accounts
            .get(fleet)
            .map(|account| &account.rules);
        if rules.is_some_and(|rules| rules.len() >= RULES_MAX && !rules.contains_key(&rule)) {
            return refuse(
                Code::RATING_FAILED,
                "too-many-rules",
                format!("a fleet has at most {RULES_MAX} rules"),
            );
        }
        let top_up = TopUp {
            device,
            percent,
            volume,
            days,
            price,
            most,
        };
        Ok(What::TopUp(TopUpSet {
            rule,
            top_up: Some(top_up),
        }))
    }

    pub(super) fn perform_fleet(&mut self, change: FleetChange) -> Result<Value, Broken> {
        let FleetChange { fleet, what } = change;
        let subject = Subject::Fleet(fleet.clone());
        match what {
            What::Limits(set, place) => {
                match place {
                    Some(place) => self.turn_windows(&fleet, Some(place))?,
                    None => self.with_windows(&fleet)?,
                }
                self.record(subject, Cause::LimitsSet(set), Vec::new())?;
                self.nudge(&fleet)?;
            }
            What::Thresholds(percents) => {
                let cause = Cause::ThresholdsSet(ThresholdsSet { percents });
                self.record(subject, cause, Vec::new())?;
            }
            What::TopUp(set) => {
                // Its ceiling is one of the month.
                self.with_windows(&fleet)?;
                self.record(subject, Cause::TopUpSet(set), Vec::new())?;
            }
            What::Suspension(suspended) => {
                let cause = Cause::FleetSuspension(FleetSuspension { suspended });
                self.record(subject, cause, Vec::new())?;
            }
        }
        Ok(query::fleet(self.ledger, &fleet))
    }

    /// The fleet's days and months begin to run, if they don't yet.
    pub(super) fn with_windows(&mut self, fleet: &FleetId) -> Result<(), Broken> {
        let runs = self
            .ledger
            .accounts
            .get(fleet)
            .is_some_and(crate::ledger::fleet::Fleet::has_windows);
        if runs {
            Ok(())
        } else {
            self.turn_windows(fleet, None)
        }
    }
}

fn limits(arguments: Limits) -> Result<What, CommandError> {
    let Limits {
        device_day,
        device_month,
        pool_day,
        pool_month,
        share,
        place,
    } = arguments;
    if let Some(place) = &place
        && calendar::place(place.as_str()).is_none()
    {
        return unknown_place(place);
    }
    let set = LimitsSet {
        device: Caps {
            day: cap(device_day),
            month: cap(device_month),
        },
        pool: Caps {
            day: cap(pool_day),
            month: cap(pool_month),
        },
        share: cap(share),
    };
    Ok(What::Limits(set, place))
}

pub(super) fn unknown_place<T>(place: &Text) -> Result<T, CommandError> {
    refuse(
        Code::RATING_FAILED,
        "unknown-place",
        format!(
            "'{place}' is no time zone: name one of the IANA database, for example Europe/Berlin"
        ),
    )
}

fn thresholds(Thresholds { percents }: Thresholds) -> Result<What, CommandError> {
    if percents.len() > PERCENTS_MAX || !percents.is_sorted_by(|a, b| a < b) {
        return refuse(
            Code::RATING_FAILED,
            "bad-percents",
            format!("'percents' are at most {PERCENTS_MAX}, rising"),
        );
    }
    for percent in &percents {
        percentage(*percent)?;
    }
    Ok(What::Thresholds(percents))
}

fn percentage(percent: u64) -> Result<(), CommandError> {
    if (1..=100).contains(&percent) {
        return Ok(());
    }
    refuse(
        Code::RATING_FAILED,
        "bad-percent",
        format!("{percent} is no percentage: write 1 to 100"),
    )
}
