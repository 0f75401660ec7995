//! What a fleet has besides devices and packages: limits, rules, money. Fleets that have none of it have no record.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use simquota_shared::ids::{DeviceId, PackageId, Text};
use simquota_shared::units::{Octets, UnixMillis};

use super::Broken;
use super::account::Purse;
use super::entry::{Caps, Limit, TopUp, Window};

/// At which percentages of a package its fleet hears of it, unless it chose others.
pub const PERCENTS: [u64; 3] = [50, 80, 100];

/// The time zone of a fleet that named none.
pub const ZONE: &str = "UTC";

/// A fleet's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fleet {
    /// All of its devices are suspended.
    pub suspended: bool,
    /// Its devices are being told so; those up to this one were.
    pub telling: Option<Option<DeviceId>>,
    /// Where its days and months begin.
    pub zone: Text,
    /// The day that runs.
    pub day: Window,
    /// The month that runs.
    pub month: Window,
    /// Limits of each device.
    pub device: Caps,
    /// Limits of the pool.
    pub pool: Caps,
    /// The most that one device may use out of the pool in a month.
    pub share: Option<Octets>,
    /// Octets used out of the pool.
    pub used: Used,
    /// Percentages that it chose.
    pub percents: Option<Vec<u64>>,
    /// Rules that buy packages, and in which month how often they did.
    pub rules: BTreeMap<PackageId, Rule>,
    /// Its money.
    pub purse: Money,
}

/// A rule and its count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// It.
    pub top_up: TopUp,
    /// The begin of the month that `times` counts in.
    pub month: UnixMillis,
    /// How often it bought in that month.
    pub times: u64,
}

/// Octets used in a day and a month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Used {
    /// The begin of the day.
    pub day_from: UnixMillis,
    /// Octets in it.
    pub day: Octets,
    /// The begin of the month.
    pub month_from: UnixMillis,
    /// Octets in it.
    pub month: Octets,
    /// Limits that were told to be reached, in this day or month.
    told: u64,
}

impl Used {
    /// Begins anew where a day or month is over.
    pub fn turn(&mut self, day: &Window, month: &Window) {
        if self.day_from != day.from {
            self.day_from = day.from;
            self.day = Octets::ZERO;
            self.told &= !(bit(Limit::DeviceDay) | bit(Limit::PoolDay));
        }
        if self.month_from != month.from {
            self.month_from = month.from;
            self.month = Octets::ZERO;
            self.told &= !(bit(Limit::DeviceMonth) | bit(Limit::PoolMonth) | bit(Limit::Share));
        }
    }

    /// Counts octets that were used at a time: those of an earlier day are not this day's.
    ///
    /// # Errors
    /// [`Broken`] past `u64::MAX`.
    pub fn count(&mut self, octets: u64, at: UnixMillis) -> Result<(), Broken> {
        let overflow = Broken::Balance("a day's octets overflow");
        if at >= self.day_from {
            self.day = self.day.checked_add(octets).ok_or(overflow.clone())?;
        }
        if at >= self.month_from {
            self.month = self.month.checked_add(octets).ok_or(overflow)?;
        }
        Ok(())
    }

    /// Whether a limit was told to be reached.
    #[must_use]
    pub const fn told(&self, limit: Limit) -> bool {
        self.told & bit(limit) != 0
    }

    /// Remembers that it was.
    pub const fn tell(&mut self, limit: Limit) {
        self.told |= bit(limit);
    }
}

const fn bit(limit: Limit) -> u64 {
    1 << limit as u64
}

/// What a device used, where limits count it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// All of its octets.
    pub all: Used,
    /// Those out of the pool.
    pub pool: Used,
    /// When it last reported: no later sample is older than this.
    pub reported: UnixMillis,
    /// Caps of its own.
    pub caps: Option<Caps>,
}

/// A fleet's money, in minor units. Always: `deposited = balance + spent + withdrawn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Paid in.
    pub deposited: u64,
    /// Left.
    pub balance: u64,
    /// Paid for packages.
    pub spent: u64,
    /// Paid out again.
    pub withdrawn: u64,
}

impl Money {
    /// The balance of one account.
    #[must_use]
    pub const fn of(&self, purse: Purse) -> u64 {
        match purse {
            Purse::Deposited => self.deposited,
            Purse::Balance => self.balance,
            Purse::Spent => self.spent,
            Purse::Withdrawn => self.withdrawn,
        }
    }

    fn of_mut(&mut self, purse: Purse) -> &mut u64 {
        match purse {
            Purse::Deposited => &mut self.deposited,
            Purse::Balance => &mut self.balance,
            Purse::Spent => &mut self.spent,
            Purse::Withdrawn => &mut self.withdrawn,
        }
    }

    /// Money leaves an account; the source has no floor.
    ///
    /// # Errors
    /// [`Broken`] when the account does not hold it.
    pub fn take(&mut self, purse: Purse, amount: u64) -> Result<(), Broken> {
        let balance = self.of_mut(purse);
        let after = match purse {
            Purse::Deposited => balance.checked_add(amount),
            Purse::Balance | Purse::Spent | Purse::Withdrawn => balance.checked_sub(amount),
        };
        *balance = after.ok_or(Broken::Balance("a fleet's purse can't give that much"))?;
        Ok(())
    }

    /// Money arrives in an account.
    ///
    /// # Errors
    /// [`Broken`] past `u64::MAX`, or when the account is the source.
    pub fn put(&mut self, purse: Purse, amount: u64) -> Result<(), Broken> {
        if purse == Purse::Deposited {
            return Err(Broken::Balance("money can't go back into a source"));
        }
        let balance = self.of_mut(purse);
        *balance = balance
            .checked_add(amount)
            .ok_or(Broken::Balance("a fleet's purse overflows"))?;
        Ok(())
    }

    /// Whether the identity holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        let sum = [self.balance, self.spent, self.withdrawn]
            .iter()
            .map(|part| u128::from(*part))
            .sum::<u128>();
        u128::from(self.deposited) == sum
    }
}

impl Default for Fleet {
    fn default() -> Self {
        let always = Window {
            from: UnixMillis::ZERO,
            to: UnixMillis(u64::MAX),
        };
        let none = Caps {
            day: None,
            month: None,
        };
        Self {
            suspended: false,
            telling: None,
            zone: Text::clipped(ZONE),
            day: always.clone(),
            month: always,
            device: none.clone(),
            pool: none,
            share: None,
            used: Used::default(),
            percents: None,
            rules: BTreeMap::new(),
            purse: Money::default(),
        }
    }
}

impl Fleet {
    /// Whether anything of its devices' use is counted.
    #[must_use]
    pub fn counts(&self) -> bool {
        let any = |caps: &Caps| caps.day.is_some() || caps.month.is_some();
        any(&self.device) || any(&self.pool) || self.share.is_some()
    }

    /// Its days and months run: something needs them.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.day.to < UnixMillis(u64::MAX)
    }

    /// All percentages at which something happens, rising.
    #[must_use]
    pub fn levels(&self) -> Vec<u64> {
        let mut levels = self.percents.clone().unwrap_or_else(|| PERCENTS.to_vec());
        levels.extend(self.rules.values().map(|rule| rule.top_up.percent));
        levels.sort_unstable();
        levels.dedup();
        levels
    }

    /// Whether its managers want to hear of a percentage.
    #[must_use]
    pub fn hears(&self, percent: u64) -> bool {
        match &self.percents {
            Some(percents) => percents.contains(&percent),
            None => PERCENTS.contains(&percent),
        }
    }
}

/// A limit, how much of it is used, and when it begins anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Which.
    pub limit: Limit,
    /// Octets used.
    pub used: Octets,
    /// Of so many.
    pub of: Octets,
    /// When it begins anew.
    pub until: UnixMillis,
}

impl Fleet {
    /// The limits of a device, with what it used of them.
    pub fn limits_of_device(&self, spent: &Spent) -> impl Iterator<Item = Reached> {
        let caps = spent.caps.as_ref().unwrap_or(&self.device);
        let (mut all, mut pool) = (spent.all, spent.pool);
        all.turn(&self.day, &self.month);
        pool.turn(&self.day, &self.month);
        [
            (Limit::DeviceDay, all.day, caps.day, self.day.to),
            (Limit::DeviceMonth, all.month, caps.month, self.month.to),
            (Limit::Share, pool.month, self.share, self.month.to),
        ]
        .into_iter()
        .filter_map(reached)
    }

    /// The limits of the pool, with what was used of them.
    pub fn limits_of_pool(&self) -> impl Iterator<Item = Reached> {
        [
            (Limit::PoolDay, self.used.day, self.pool.day, self.day.to),
            (
                Limit::PoolMonth,
                self.used.month,
                self.pool.month,
                self.month.to,
            ),
        ]
        .into_iter()
        .filter_map(reached)
    }

    /// A limit that a device has used up, and that was not told yet.
    #[must_use]
    pub fn reached_by_device(&self, spent: &Spent) -> Option<Reached> {
        self.limits_of_device(spent).find(|limit| {
            let told = match limit.limit {
                Limit::Share => spent.pool.told(limit.limit),
                _ => spent.all.told(limit.limit),
            };
            limit.used >= limit.of && !told
        })
    }

    /// A limit that the pool has used up, and that was not told yet.
    #[must_use]
    pub fn reached_by_pool(&self) -> Option<Reached> {
        self.limits_of_pool()
            .find(|limit| limit.used >= limit.of && !self.used.told(limit.limit))
    }
}

fn reached(
    (limit, used, of, until): (Limit, Octets, Option<Octets>, UnixMillis),
) -> Option<Reached> {
    of.map(|of| Reached {
        limit,
        used,
        of,
        until,
    })
}
