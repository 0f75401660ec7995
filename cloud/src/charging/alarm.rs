//! Alarms: thresholds and limits that were crossed, told once each, and rules that buy because of them. All of it is
//! decided in the commit that crosses.

use simquota_shared::ids::{DeviceId, FleetId, PackageId, Text};
use simquota_shared::units::UnixMillis;

use super::Turn;
use super::purchase::Purchase;
use crate::ledger::chain::digest;
use crate::ledger::entry::{Cause, Crossed, LimitReached, PackageBought, Subject, ToppedUp};
use crate::ledger::fleet::{Fleet, Reached, Rule};
use crate::ledger::{Alarm, Broken};

const DAY_MS: u64 = 86_400_000;

impl Turn<'_> {
    /// Tells what the decisions before crossed. What rules do because of it may cross something again.
    pub(super) fn ring(&mut self) -> Result<(), Broken> {
        while let Some(alarm) = self.ledger.index.alarms.pop_first() {
            match alarm {
                Alarm::Package(id) => self.cross(&id)?,
                Alarm::Device(id) => self.device_limits(&id)?,
                Alarm::Pool(id) => self.pool_limits(&id)?,
            }
        }
        Ok(())
    }

    fn cross(&mut self, id: &PackageId) -> Result<(), Broken> {
        loop {
            let Some(package) = self
                .ledger
                .packages
                .get(id)
                .filter(|package| package.balances.used >= package.alarm_at)
            else {
                return Ok(());
            };
            let fleet = package.fleet.clone();
            let levels = self.ledger.levels(&fleet);
            let Some(percent) = levels.get(package.level as usize).copied() else {
                return Ok(());
            };
            let crossing = package.crossings.saturating_add(1);
            let account = self.ledger.accounts.get(&fleet);
            let told = account.map_or_else(
                || Fleet::default().hears(percent),
                |account| account.hears(percent),
            );
            let (subject, device) = (package.subject(), package.device.clone());
            let rules: Vec<(PackageId, Rule)> = account
                .into_iter()
                .flat_map(|account| &account.rules)
                .filter(|(_, rule)| rule.top_up.percent == percent && rule.top_up.device == device)
                .map(|(name, rule)| (name.clone(), rule.clone()))
                .collect();
            let cause = Cause::Crossed(Crossed {
                package: id.clone(),
                percent,
                crossing,
                told,
            });
            self.record(subject, cause, Vec::new())?;
            for (name, rule) in rules {
                self.top_up(&fleet, &name, &rule, (id, crossing))?;
            }
        }
    }

    /// A rule has its turn: it buys, unless its month's ceiling is reached or the money is not there.
    fn top_up(
        &mut self,
        fleet: &FleetId,
        name: &PackageId,
        rule: &Rule,
        (package, crossing): (&PackageId, u64),
    ) -> Result<(), Broken> {
        let top_up = &rule.top_up;
        let bought = top_up_id(name, package, crossing)?;
        let account = self.ledger.accounts.get(fleet);
        let month = account.map_or(UnixMillis::ZERO, |account| account.month.from);
        let times = if rule.month == month { rule.times } else { 0 };
        let balance = account.map_or(0, |account| account.purse.balance);
        let why = if times >= top_up.most {
            format!("{times} times in this month is the most")
        } else if balance < top_up.price {
            format!("the balance is {balance}, it costs {}", top_up.price)
        } else if self.ledger.packages.contains_key(&bought) {
            format!("package {bought} exists already")
        } else {
            String::new()
        };
        let buys = why.is_empty();
        let cause = Cause::ToppedUp(ToppedUp {
            rule: name.clone(),
            package: package.clone(),
            bought: buys.then(|| bought.clone()),
            why: Text::clipped(&why),
        });
        self.record(Subject::Fleet(fleet.clone()), cause, Vec::new())?;
        if !buys {
            return Ok(());
        }
        let until = top_up
            .days
            .and_then(|days| self.now.checked_add(days.checked_mul(DAY_MS)?));
        let (zones, priority) = self
            .ledger
            .packages
            .get(package)
            .map_or((Vec::new(), 100), |package| {
                (package.zones.clone(), package.priority)
            });
        let mut purchase = Purchase::usual(PackageBought {
            package: bought,
            fleet: fleet.clone(),
            device: top_up.device.clone(),
            volume: top_up.volume,
            until,
            zones,
            priority,
        });
        purchase.terms.price = top_up.price;
        self.buy(purchase)
    }

    fn device_limits(&mut self, id: &DeviceId) -> Result<(), Broken> {
        while let Some(reached) = self.reached_by_device(id) {
            self.record(
                Subject::Device(id.clone()),
                limit_reached(&reached),
                Vec::new(),
            )?;
        }
        Ok(())
    }

    fn reached_by_device(&self, id: &DeviceId) -> Option<Reached> {
        let device = self.ledger.devices.get(id)?;
        let fleet = self.ledger.accounts.get(&device.fleet)?;
        fleet.reached_by_device(device.spent.as_ref()?)
    }

    fn pool_limits(&mut self, id: &FleetId) -> Result<(), Broken> {
        while let Some(reached) = self
            .ledger
            .accounts
            .get(id)
            .and_then(Fleet::reached_by_pool)
        {
            self.record(
                Subject::Fleet(id.clone()),
                limit_reached(&reached),
                Vec::new(),
            )?;
        }
        Ok(())
    }
}

fn limit_reached(reached: &Reached) -> Cause {
    Cause::LimitReached(LimitReached {
        limit: reached.limit,
        used: reached.used,
        of: reached.of,
        until: reached.until,
    })
}

/// The id of what a rule buys: made of rule, package and crossing, so that the same crossing never buys twice.
fn top_up_id(rule: &PackageId, package: &PackageId, crossing: u64) -> Result<PackageId, Broken> {
    const RULE_MAX: usize = 40;
    let whole = format!("{rule}/{package}/{crossing}");
    let hash = hex::encode(digest(whole.as_bytes()).0);
    let rule: String = rule.as_str().chars().take(RULE_MAX).collect();
    format!("{rule}-{hash}")
        .parse()
        .map_err(|_| Broken::Balance("a top-up's id is not one"))
}
