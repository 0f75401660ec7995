//! What is due at a time: plans turn, packages begin, days and months end, money of cancelled packages comes back,
//! devices of suspended fleets are told.

use simquota_shared::ids::{DeviceId, FleetId, PackageId, Text};
use simquota_shared::message::Body;
use simquota_shared::units::{Octets, UnixMillis};

use super::Turn;
use super::calendar;
use super::purchase::Purchase;
use super::usage::pocket;
use crate::ledger::account::{Account, Move, Pocket, Purse};
use crate::ledger::entry::{
    Cause, Credited, FleetTold, MoneyRefunded, Moved, PackageBegan, PackageBought, PlanBegan,
    PlanEnded, PlanTurned, Subject, WindowsTurned,
};
use crate::ledger::{Broken, Due};

impl Turn<'_> {
    /// Does what is due, at most `most`. True when more is.
    pub(super) fn turn_due(&mut self, most: usize) -> Result<bool, Broken> {
        for _ in 0..most {
            let Some((_, due)) = self
                .ledger
                .index
                .dues
                .first()
                .filter(|(at, _)| *at <= self.now)
                .cloned()
            else {
                return Ok(false);
            };
            match due {
                Due::Windows(fleet) => self.turn_windows(&fleet, None)?,
                Due::Plan(plan) => self.turn_plan(&plan)?,
                Due::Begin(package) => self.begin(&package)?,
            }
        }
        Ok(true)
    }

    /// A fleet's day and month are those of now, in its place or a new one. Whoever waits may ask again.
    pub(super) fn turn_windows(
        &mut self,
        fleet: &FleetId,
        zone: Option<Text>,
    ) -> Result<(), Broken> {
        let zone = zone.unwrap_or_else(|| {
            self.ledger.accounts.get(fleet).map_or_else(
                || Text::clipped(crate::ledger::fleet::ZONE),
                |account| account.zone.clone(),
            )
        });
        let (day, month) = calendar::windows(zone.as_str(), self.now)
            .ok_or(Broken::Balance("the calendar has no such day"))?;
        let cause = Cause::WindowsTurned(WindowsTurned { zone, day, month });
        self.record(Subject::Fleet(fleet.clone()), cause, Vec::new())?;
        self.nudge(fleet)
    }

    /// A package's first day has come.
    fn begin(&mut self, id: &PackageId) -> Result<(), Broken> {
        let Some(package) = self.ledger.packages.get(id) else {
            return Ok(());
        };
        let (fleet, device) = (package.fleet.clone(), package.device.clone());
        let cause = Cause::PackageBegan(PackageBegan {
            package: id.clone(),
            until: package.end_if_used(self.now),
        });
        self.record(package.subject(), cause, Vec::new())?;
        self.gained(id, &fleet, device.as_ref())
    }

    /// Begins a plan with its first period, which ends at the first turn.
    pub(super) fn begin_plan(&mut self, plan: PlanBegan) -> Result<(), Broken> {
        let id = plan.plan.clone();
        self.record(subject_of(&plan), Cause::PlanBegan(plan), Vec::new())?;
        self.next_period(&id, self.now)
    }

    /// The period that ran is over: the next one begins, if it can be paid for.
    fn turn_plan(&mut self, id: &PackageId) -> Result<(), Broken> {
        match self.ledger.plans.get(id).and_then(|plan| plan.next) {
            Some(turn) => self.next_period(id, turn),
            None => Ok(()),
        }
    }

    fn next_period(&mut self, id: &PackageId, begins: UnixMillis) -> Result<(), Broken> {
        let Some(plan) = self.ledger.plans.get(id).cloned() else {
            return Ok(());
        };
        let terms = plan.terms;
        let subject = subject_of(&terms);
        let period = plan
            .periods
            .checked_add(1)
            .ok_or(Broken::Balance("a plan has no more periods"))?;
        let Some(next) = calendar::next_turn(&terms.cadence, begins) else {
            let cause = Cause::PlanEnded(PlanEnded { plan: id.clone() });
            return self.record(subject, cause, Vec::new());
        };
        let balance = self
            .ledger
            .accounts
            .get(&terms.fleet)
            .map_or(0, |account| account.purse.balance);
        let package: Option<PackageId> = if balance >= terms.price {
            let name = format!("{id}-{period}");
            let name = name
                .parse()
                .map_err(|_| Broken::Balance("a period's id is not one"))?;
            Some(name).filter(|name| !self.ledger.packages.contains_key(name))
        } else {
            None
        };
        let cause = Cause::PlanTurned(PlanTurned {
            plan: id.clone(),
            period,
            package: package.clone(),
            next,
        });
        self.record(subject, cause, Vec::new())?;
        if let Some(package) = &package {
            let mut purchase = Purchase::usual(PackageBought {
                package: package.clone(),
                fleet: terms.fleet.clone(),
                device: terms.device.clone(),
                volume: terms.volume,
                until: Some(next),
                zones: terms.zones.clone(),
                priority: terms.priority,
            });
            purchase.terms.overage = terms.overage;
            purchase.terms.price = terms.price;
            purchase.terms.plan = Some(id.clone());
            self.book(purchase)?;
        }
        if let Some(before) = plan.current {
            self.end_period(&before, package.as_ref(), &terms)?;
        }
        match package {
            Some(package) => self.gained(&package, &terms.fleet, terms.device.as_ref()),
            None => Ok(()),
        }
    }

    /// What is available at the turn goes over, within the rollover's bounds; the rest expires. What is reserved
    /// stays with the old period, so that it is not carried over by holding it.
    fn end_period(
        &mut self,
        before: &PackageId,
        after: Option<&PackageId>,
        terms: &PlanBegan,
    ) -> Result<(), Broken> {
        let left = match self.ledger.packages.get(before) {
            Some(package) if !package.ended => package.balances.available,
            _ => return Ok(()),
        };
        if let (Some(after), Some(rollover)) = (after, &terms.rollover) {
            let subject = subject_of(terms);
            // The maximum wins over the minimum.
            let kept = left.max(rollover.min).min(rollover.max);
            let moved = kept.min(left);
            if moved > Octets::ZERO {
                self.move_octets(before, after, moved, Text::clipped("rollover"))?;
            }
            if kept > moved {
                let moves = vec![Move {
                    from: pocket(after, Pocket::Credited),
                    to: pocket(after, Pocket::Available),
                    octets: Octets(kept.beyond(moved)),
                }];
                let cause = Cause::Credited(Credited {
                    package: after.clone(),
                    why: Text::clipped("rollover minimum"),
                });
                self.record(subject, cause, moves)?;
            }
        }
        self.end_package(before, false).map(drop)
    }

    /// Available octets go from a package to another.
    pub(super) fn move_octets(
        &mut self,
        from: &PackageId,
        to: &PackageId,
        octets: Octets,
        why: Text,
    ) -> Result<(), Broken> {
        let Some(package) = self.ledger.packages.get(from) else {
            return Ok(());
        };
        let subject = package.subject();
        let moves = vec![
            Move {
                from: pocket(from, Pocket::Available),
                to: pocket(from, Pocket::MovedOut),
                octets,
            },
            Move {
                from: pocket(to, Pocket::Credited),
                to: pocket(to, Pocket::Available),
                octets,
            },
        ];
        let cause = Cause::Moved(Moved {
            from: from.clone(),
            to: to.clone(),
            why,
        });
        self.record(subject, cause, moves)
    }

    /// Gives money back for octets of cancelled packages that came back since.
    pub(super) fn settle_money(&mut self, most: usize) -> Result<(), Broken> {
        let due: Vec<PackageId> = self
            .ledger
            .index
            .unsettled
            .iter()
            .take(most)
            .cloned()
            .collect();
        for id in due {
            self.repay(&id)?;
            let over = self
                .ledger
                .packages
                .get(&id)
                .is_none_or(|package| !package.is_unsettled());
            if over {
                self.ledger.index.unsettled.remove(&id);
            }
        }
        Ok(())
    }

    /// Gives the money back that belongs to what a cancelled package refunded. Tells how much.
    pub(super) fn repay(&mut self, id: &PackageId) -> Result<u64, Broken> {
        let Some(package) = self.ledger.packages.get(id) else {
            return Ok(0);
        };
        let amount = package.repayable();
        if amount == 0 {
            return Ok(0);
        }
        let fleet = package.fleet.clone();
        let moves = vec![Move {
            from: Account::Fleet(fleet.clone(), Purse::Spent),
            to: Account::Fleet(fleet, Purse::Balance),
            octets: Octets(amount),
        }];
        let cause = Cause::MoneyRefunded(MoneyRefunded {
            package: id.clone(),
            settled: package.balances.reserved == Octets::ZERO,
        });
        self.record(package.subject(), cause, moves)?;
        Ok(amount)
    }

    /// Tells some devices of fleets that were suspended or resumed. True when more are to be told.
    pub(super) fn tell_fleets(&mut self, most: usize) -> Result<bool, Broken> {
        let Some(fleet) = self.ledger.index.telling.first().cloned() else {
            return Ok(false);
        };
        let Some((suspended, after)) = self.ledger.accounts.get(&fleet).and_then(|account| {
            let after = account.telling.clone()?;
            Some((account.suspended, after))
        }) else {
            return Ok(false);
        };
        let members: Vec<DeviceId> = self
            .ledger
            .index
            .members
            .get(&fleet)
            .into_iter()
            .flatten()
            .filter(|id| after.as_ref().is_none_or(|after| *id > after))
            .take(most)
            .cloned()
            .collect();
        let body = if suspended {
            Body::Suspend
        } else {
            Body::Resume
        };
        for id in &members {
            // Who was suspended alone stays so.
            let alone = self
                .ledger
                .devices
                .get(id)
                .is_some_and(|device| device.suspended);
            if !alone {
                self.tell(id, &body)?;
            }
        }
        let more = members.len() == most;
        let cause = Cause::FleetTold(FleetTold {
            after: members.last().filter(|_| more).cloned(),
        });
        self.record(Subject::Fleet(fleet), cause, Vec::new())?;
        Ok(more || !self.ledger.index.telling.is_empty())
    }
}

pub(super) fn subject_of(plan: &PlanBegan) -> Subject {
    match &plan.device {
        Some(device) => Subject::Device(device.clone()),
        None => Subject::Fleet(plan.fleet.clone()),
    }
}
