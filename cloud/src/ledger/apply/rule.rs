//! Applying what entries say about the rules of packages and fleets.

use simquota_shared::ids::{DeviceId, FleetId, PackageId};
use simquota_shared::units::{Epoch, Octets, UnixMillis};

use super::{exists, missing};
use crate::ledger::account::{Account, Move, Pocket};
use crate::ledger::entry::{
    Cause, Crossed, DeviceCapsSet, Entry, FleetSuspension, FleetTold, Limit, LimitReached,
    LimitsSet, MoneyRefunded, Overdrawn, PackageBegan, PlanBegan, PlanTurned, Refunded, Subject,
    TermsSet, TopUpSet, ToppedUp, WindowsTurned,
};
use crate::ledger::fleet::{Fleet, Rule};
use crate::ledger::package::{Package, Terms};
use crate::ledger::plan::Plan;
use crate::ledger::{Alarm, Broken, Due, Ledger};

impl Ledger {
    pub(super) fn apply_rule(&mut self, entry: &Entry) -> Result<(), Broken> {
        match &entry.cause {
            Cause::TermsSet(set) => self.set_terms(set),
            Cause::PackageBegan(began) => self.begin_package(began),
            Cause::PlanBegan(began) => self.begin_plan(began),
            Cause::PlanTurned(turned) => self.turn_plan(turned),
            Cause::PlanEnded(ended) => {
                let plan = self.plan_mut(&ended.plan)?;
                if let Some(next) = plan.next.take() {
                    let due = Due::Plan(ended.plan.clone());
                    self.index.dues.remove(&(next, due));
                }
                Ok(())
            }
            Cause::Overdrawn(overdrawn) => self.overdraw(entry, overdrawn),
            Cause::Refunded(refunded) => self.refund(entry, refunded),
            Cause::Crossed(crossed) => self.cross(crossed),
            Cause::LimitsSet(set) => self.set_limits(entry, set),
            Cause::WindowsTurned(turned) => self.turn_windows(entry, turned),
            Cause::DeviceCapsSet(set) => self.set_device_caps(entry, set),
            Cause::LimitReached(reached) => self.reach_limit(entry, reached),
            Cause::ThresholdsSet(set) => {
                let fleet = fleet_of(entry)?.clone();
                self.account_mut(&fleet).percents = Some(set.percents.clone());
                self.rearm_fleet(&fleet);
                Ok(())
            }
            Cause::TopUpSet(set) => self.set_top_up(entry, set),
            Cause::ToppedUp(topped) => self.topped_up(entry, topped),
            Cause::FleetSuspension(suspension) => self.suspend_fleet(entry, suspension),
            Cause::FleetTold(told) => self.told_fleet(entry, told),
            Cause::MoneyRefunded(refunded) => self.repaid(entry, refunded),
            // All that they do is in their movements.
            _ => Ok(()),
        }
    }

    /// Money stays money, and within one fleet.
    pub(super) fn apply_money(&mut self, movement: &Move) -> Result<(), Broken> {
        let Move { from, to, octets } = movement;
        let (Account::Fleet(payer, from), Account::Fleet(payee, to)) = (from, to) else {
            return Err(Broken::Balance("money is not octets"));
        };
        if payer != payee {
            return Err(Broken::Balance("money does not go from fleet to fleet"));
        }
        let purse = &mut self.account_mut(payer).purse;
        purse.take(*from, octets.value())?;
        purse.put(*to, octets.value())
    }

    /// A package that gained octets is used to a lower share: its next threshold is another one.
    pub(super) fn rearm(&mut self, moves: &[Move]) -> Result<(), Broken> {
        for movement in moves {
            let Account::Package(id, Pocket::Volume | Pocket::Credited) = &movement.from else {
                continue;
            };
            let levels = match self.packages.get(id) {
                Some(package) => self.levels(&package.fleet),
                None => return Err(missing("package", id)),
            };
            self.package_mut(id)?.arm(&levels);
        }
        Ok(())
    }

    /// After a fleet chose other percentages: what a package is used beyond already is not told again.
    fn rearm_fleet(&mut self, fleet: &FleetId) {
        let levels = self.levels(fleet);
        for package in self.packages.values_mut() {
            if package.fleet == *fleet && !package.ended {
                package.level = u32::try_from(levels.len()).unwrap_or(u32::MAX);
                package.arm(&levels);
            }
        }
    }

    pub(super) fn forget_terms(&mut self, id: &PackageId) -> Result<(), Broken> {
        let package = self.package_mut(id)?;
        let from = package.terms.as_ref().and_then(|terms| terms.from);
        self.index.special.remove(id);
        if let Some(from) = from {
            self.index.dues.remove(&(from, Due::Begin(id.clone())));
        }
        self.note_unsettled(id);
        Ok(())
    }

    fn note_unsettled(&mut self, id: &PackageId) {
        if self.packages.get(id).is_some_and(Package::is_unsettled) {
            self.index.unsettled.insert(id.clone());
        } else {
            self.index.unsettled.remove(id);
        }
    }

    fn note_special(&mut self, id: &PackageId) {
        if self.packages.get(id).is_some_and(Package::is_special) {
            self.index.special.insert(id.clone());
        } else {
            self.index.special.remove(id);
        }
    }

    fn set_terms(&mut self, set: &TermsSet) -> Result<(), Broken> {
        let package = self.package_mut(&set.package)?;
        if package.terms.is_some() {
            return Err(exists("terms of package", &set.package));
        }
        package.terms = Some(Box::new(Terms {
            from: set.from,
            lasts_s: set.lasts_s,
            overage: set.overage,
            price: set.price,
            repaid: 0,
            plan: set.plan.clone(),
        }));
        if let Some(from) = set.from {
            let due = Due::Begin(set.package.clone());
            self.index.dues.insert((from, due));
        }
        self.note_special(&set.package);
        Ok(())
    }

    fn begin_package(&mut self, began: &PackageBegan) -> Result<(), Broken> {
        let package = self.package_mut(&began.package)?;
        let before = package.until;
        package.until = began.until;
        let from = package.terms.as_mut().and_then(|terms| {
            terms.lasts_s = None;
            terms.from.take()
        });
        if let Some(before) = before {
            self.index.ends.remove(&(before, began.package.clone()));
        }
        if let Some(until) = began.until {
            self.index.ends.insert((until, began.package.clone()));
        }
        if let Some(from) = from {
            let due = Due::Begin(began.package.clone());
            self.index.dues.remove(&(from, due));
        }
        self.note_special(&began.package);
        Ok(())
    }

    fn begin_plan(&mut self, began: &PlanBegan) -> Result<(), Broken> {
        let plan = Plan {
            terms: began.clone(),
            periods: 0,
            current: None,
            next: None,
        };
        match self.plans.insert(began.plan.clone(), plan) {
            Some(_) => Err(exists("plan", &began.plan)),
            None => Ok(()),
        }
    }

    fn turn_plan(&mut self, turned: &PlanTurned) -> Result<(), Broken> {
        let plan = self.plan_mut(&turned.plan)?;
        let before = plan.next.replace(turned.next);
        plan.periods = turned.period;
        plan.current = turned.package.clone();
        let due = Due::Plan(turned.plan.clone());
        if let Some(before) = before {
            self.index.dues.remove(&(before, due.clone()));
        }
        self.index.dues.insert((turned.next, due));
        Ok(())
    }

    fn overdraw(&mut self, entry: &Entry, overdrawn: &Overdrawn) -> Result<(), Broken> {
        let drawn: u64 = entry
            .moves
            .iter()
            .map(|movement| movement.octets.value())
            .sum();
        let package = self.package_mut(&overdrawn.package)?;
        let terms = package.terms.as_mut();
        let left = terms.and_then(|terms| {
            terms.overage = terms.overage.checked_sub(drawn)?;
            Some(())
        });
        self.note_special(&overdrawn.package);
        left.ok_or(Broken::Balance("a package's overage can't give that many"))
    }

    fn refund(&mut self, entry: &Entry, refunded: &Refunded) -> Result<(), Broken> {
        let sum = self.refunds.entry(refunded.of).or_default();
        *sum = sum
            .checked_add(refunded.octets.value())
            .ok_or(Broken::Balance("refunds overflow"))?;
        match entry.subject {
            // Forgiving may have been the last of its debt.
            Subject::Device(_) => self.settle_debt(entry),
            Subject::Fleet(_) | Subject::Platform => Ok(()),
        }
    }

    fn cross(&mut self, crossed: &Crossed) -> Result<(), Broken> {
        let fleet = match self.packages.get(&crossed.package) {
            Some(package) => package.fleet.clone(),
            None => return Err(missing("package", &crossed.package)),
        };
        let levels = self.levels(&fleet);
        let package = self.package_mut(&crossed.package)?;
        package.level = package.level.saturating_add(1);
        package.crossings = crossed.crossing;
        package.arm(&levels);
        if package.balances.used < package.alarm_at {
            let alarm = Alarm::Package(crossed.package.clone());
            self.index.alarms.remove(&alarm);
        }
        Ok(())
    }

    fn set_limits(&mut self, entry: &Entry, set: &LimitsSet) -> Result<(), Broken> {
        let id = fleet_of(entry)?.clone();
        let fleet = self.account_mut(&id);
        fleet.device = set.device.clone();
        fleet.pool = set.pool.clone();
        fleet.share = set.share;
        if fleet.counts() {
            for member in self.index.members.get(&id).into_iter().flatten() {
                if let Some(device) = self.devices.get_mut(member) {
                    device.spent.get_or_insert_default();
                }
            }
        }
        Ok(())
    }

    fn set_device_caps(&mut self, entry: &Entry, set: &DeviceCapsSet) -> Result<(), Broken> {
        let own = set.caps.day.is_some() || set.caps.month.is_some();
        let spent = self.subject_device(entry)?.spent.get_or_insert_default();
        spent.caps = own.then(|| set.caps.clone());
        Ok(())
    }

    fn turn_windows(&mut self, entry: &Entry, turned: &WindowsTurned) -> Result<(), Broken> {
        let id = fleet_of(entry)?.clone();
        let fleet = self.account_mut(&id);
        let before = fleet.has_windows().then_some(fleet.day.to);
        fleet.zone = turned.zone.clone();
        fleet.day = turned.day.clone();
        fleet.month = turned.month.clone();
        fleet.used.turn(&turned.day, &turned.month);
        if let Some(before) = before {
            let due = Due::Windows(id.clone());
            self.index.dues.remove(&(before, due));
        }
        self.index.dues.insert((turned.day.to, Due::Windows(id)));
        Ok(())
    }

    fn reach_limit(&mut self, entry: &Entry, reached: &LimitReached) -> Result<(), Broken> {
        match &entry.subject {
            Subject::Device(id) => {
                if let Some(spent) = &mut self.device_mut(id)?.spent {
                    match reached.limit {
                        Limit::Share => spent.pool.tell(reached.limit),
                        _ => spent.all.tell(reached.limit),
                    }
                }
                self.index.alarms.remove(&Alarm::Device(id.clone()));
            }
            Subject::Fleet(id) => {
                self.account_mut(id).used.tell(reached.limit);
                self.index.alarms.remove(&Alarm::Pool(id.clone()));
            }
            Subject::Platform => return Err(Broken::Balance("the platform has no limits")),
        }
        Ok(())
    }

    fn set_top_up(&mut self, entry: &Entry, set: &TopUpSet) -> Result<(), Broken> {
        let id = fleet_of(entry)?.clone();
        let fleet = self.account_mut(&id);
        match &set.top_up {
            Some(top_up) => {
                // A rule that is changed goes on counting: the ceiling is one of the month.
                let (month, times) = match fleet.rules.get(&set.rule) {
                    Some(rule) => (rule.month, rule.times),
                    None => (fleet.month.from, 0),
                };
                let rule = Rule {
                    top_up: top_up.clone(),
                    month,
                    times,
                };
                fleet.rules.insert(set.rule.clone(), rule);
            }
            None => drop(fleet.rules.remove(&set.rule)),
        }
        self.rearm_fleet(&id);
        Ok(())
    }

    fn topped_up(&mut self, entry: &Entry, topped: &ToppedUp) -> Result<(), Broken> {
        let id = match &entry.subject {
            Subject::Fleet(id) => id.clone(),
            Subject::Device(_) | Subject::Platform => {
                return Err(Broken::Balance("a top-up rule is a fleet's"));
            }
        };
        let fleet = self.account_mut(&id);
        let month = fleet.month.from;
        if topped.bought.is_some()
            && let Some(rule) = fleet.rules.get_mut(&topped.rule)
        {
            if rule.month != month {
                rule.month = month;
                rule.times = 0;
            }
            rule.times = rule.times.saturating_add(1);
        }
        Ok(())
    }

    fn suspend_fleet(&mut self, entry: &Entry, suspension: &FleetSuspension) -> Result<(), Broken> {
        let id = fleet_of(entry)?.clone();
        let fleet = self.account_mut(&id);
        fleet.suspended = suspension.suspended;
        fleet.telling = Some(None);
        self.index.telling.insert(id);
        Ok(())
    }

    fn told_fleet(&mut self, entry: &Entry, told: &FleetTold) -> Result<(), Broken> {
        let id = fleet_of(entry)?.clone();
        let fleet = self.account_mut(&id);
        fleet.telling = told.after.clone().map(Some);
        if fleet.telling.is_none() {
            self.index.telling.remove(&id);
        }
        Ok(())
    }

    fn repaid(&mut self, entry: &Entry, refunded: &MoneyRefunded) -> Result<(), Broken> {
        let amount: u64 = entry
            .moves
            .iter()
            .map(|movement| movement.octets.value())
            .sum();
        if let Some(terms) = &mut self.package_mut(&refunded.package)?.terms {
            terms.repaid = terms
                .repaid
                .checked_add(amount)
                .ok_or(Broken::Balance("a repayment overflows"))?;
        }
        self.note_unsettled(&refunded.package);
        Ok(())
    }

    /// Counts what a device used, where limits need it. Called before its position moves.
    pub(super) fn count_use(
        &mut self,
        entry: &Entry,
        id: &DeviceId,
        (epoch, to): (Epoch, Octets),
        ended: Option<UnixMillis>,
    ) -> Result<(), Broken> {
        let pool = self.out_of_pool(entry)?;
        let device = self
            .devices
            .get_mut(id)
            .ok_or_else(|| missing("device", id))?;
        let charged = device
            .epochs
            .get(&epoch)
            .map_or(Octets::ZERO, |axis| axis.charged);
        let fleet = self.accounts.entry(device.fleet.clone()).or_default();
        let Some(spent) = &mut device.spent else {
            return Ok(());
        };
        // A sample's time picks its day, between the report before and now (DESIGN section 11, number 3).
        let at = ended
            .unwrap_or(entry.at)
            .clamp(spent.reported.min(entry.at), entry.at);
        spent.reported = entry.at;
        spent.all.turn(&fleet.day, &fleet.month);
        spent.pool.turn(&fleet.day, &fleet.month);
        fleet.used.turn(&fleet.day, &fleet.month);
        spent.all.count(to.beyond(charged), at)?;
        spent.pool.count(pool, at)?;
        fleet.used.count(pool, at)?;
        if fleet.reached_by_device(spent).is_some() {
            self.index.alarms.insert(Alarm::Device(id.clone()));
        }
        if fleet.reached_by_pool().is_some() {
            let alarm = Alarm::Pool(device.fleet.clone());
            self.index.alarms.insert(alarm);
        }
        Ok(())
    }

    /// Octets that an entry debits from packages of a pool.
    fn out_of_pool(&self, entry: &Entry) -> Result<u64, Broken> {
        let debits = entry
            .moves
            .iter()
            .filter(|movement| match &movement.to {
                Account::Package(id, Pocket::Used) => self
                    .packages
                    .get(id)
                    .is_some_and(|package| package.device.is_none()),
                _ => false,
            })
            .try_fold(0u64, |sum, movement| {
                sum.checked_add(movement.octets.value())
            });
        debits.ok_or(Broken::Balance("a debit overflows"))
    }

    fn account_mut(&mut self, id: &FleetId) -> &mut Fleet {
        self.accounts.entry(id.clone()).or_default()
    }

    fn plan_mut(&mut self, id: &PackageId) -> Result<&mut Plan, Broken> {
        self.plans.get_mut(id).ok_or_else(|| missing("plan", id))
    }
}

fn fleet_of(entry: &Entry) -> Result<&FleetId, Broken> {
    match &entry.subject {
        Subject::Fleet(id) => Ok(id),
        Subject::Device(_) | Subject::Platform => {
            Err(Broken::Balance("an entry about a fleet names none"))
        }
    }
}
