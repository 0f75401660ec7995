//! A package of prepaid octets and its accounts.

use serde::{Deserialize, Serialize};
use simquota_shared::ids::{DeviceId, FleetId, PackageId, ZoneId};
use simquota_shared::units::{EntryNumber, Octets, UnixMillis};

use super::Broken;
use super::account::Pocket;

/// What only some packages have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Not to be used before this; none: it has come, or there was none.
    pub from: Option<UnixMillis>,
    /// How long it is valid once it is used; none: it runs already, or its end was fixed.
    pub lasts_s: Option<u64>,
    /// Octets that may still be used beyond what was bought.
    pub overage: Octets,
    /// What it cost, in minor units.
    pub price: u64,
    /// Of that, what was given back.
    pub repaid: u64,
    /// The plan that it is a period of.
    pub plan: Option<PackageId>,
}

/// The balances of a package. What is always true (DESIGN section 5):
/// `volume + credited = available + reserved + used + expired + refunded + moved_out`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Balances {
    /// Bought.
    pub volume: Octets,
    /// Credited later.
    pub credited: Octets,
    /// May be granted.
    pub available: Octets,
    /// Set aside for grants.
    pub reserved: Octets,
    /// Debited.
    pub used: Octets,
    /// Not used in time.
    pub expired: Octets,
    /// Given back to the buyer.
    pub refunded: Octets,
    /// Moved to another package.
    pub moved_out: Octets,
}

impl Balances {
    /// The balance of one account.
    #[must_use]
    pub const fn of(&self, pocket: Pocket) -> Octets {
        match pocket {
            Pocket::Volume => self.volume,
            Pocket::Credited => self.credited,
            Pocket::Available => self.available,
            Pocket::Reserved => self.reserved,
            Pocket::Used => self.used,
            Pocket::Expired => self.expired,
            Pocket::Refunded => self.refunded,
            Pocket::MovedOut => self.moved_out,
        }
    }

    fn of_mut(&mut self, pocket: Pocket) -> &mut Octets {
        match pocket {
            Pocket::Volume => &mut self.volume,
            Pocket::Credited => &mut self.credited,
            Pocket::Available => &mut self.available,
            Pocket::Reserved => &mut self.reserved,
            Pocket::Used => &mut self.used,
            Pocket::Expired => &mut self.expired,
            Pocket::Refunded => &mut self.refunded,
            Pocket::MovedOut => &mut self.moved_out,
        }
    }

    /// Octets leave an account. A source has no floor: it counts how much came out of it.
    ///
    /// # Errors
    /// [`Broken`] when the account does not hold them.
    pub fn take(&mut self, pocket: Pocket, octets: Octets) -> Result<(), Broken> {
        let source = matches!(pocket, Pocket::Volume | Pocket::Credited);
        let balance = self.of_mut(pocket);
        let after = if source {
            balance.checked_add(octets.value())
        } else {
            balance.checked_sub(octets.value())
        };
        *balance = after.ok_or(Broken::Balance(
            "a package's account can't give that many octets",
        ))?;
        Ok(())
    }

    /// Octets arrive in an account.
    ///
    /// # Errors
    /// [`Broken`] past `u64::MAX`, or when the account is a source.
    pub fn put(&mut self, pocket: Pocket, octets: Octets) -> Result<(), Broken> {
        if matches!(pocket, Pocket::Volume | Pocket::Credited) {
            return Err(Broken::Balance("octets can't go back into a source"));
        }
        let balance = self.of_mut(pocket);
        *balance = balance
            .checked_add(octets.value())
            .ok_or(Broken::Balance("a package's account overflows"))?;
        Ok(())
    }

    /// Whether the identity holds.
    #[must_use]
    pub fn hold(&self) -> bool {
        let sum = |parts: &[Octets]| {
            parts
                .iter()
                .try_fold(0u128, |sum, part| sum.checked_add(u128::from(part.value())))
        };
        sum(&[self.volume, self.credited])
            == sum(&[
                self.available,
                self.reserved,
                self.used,
                self.expired,
                self.refunded,
                self.moved_out,
            ])
    }
}

/// A package: what was bought, by whom, and its balances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// Its fleet.
    pub fleet: FleetId,
    /// The device that owns it; none: the fleet's pool.
    pub device: Option<DeviceId>,
    /// When it was bought, as the journal's entry: earlier ones are used first.
    pub bought: EntryNumber,
    /// Valid until; none: without end.
    pub until: Option<UnixMillis>,
    /// Where it is valid; empty: everywhere.
    pub zones: Vec<ZoneId>,
    /// The lower, the earlier it is used.
    pub priority: u64,
    /// Its end was booked: nothing becomes available any more.
    pub ended: bool,
    /// It ended by cancellation: what comes back is refunded.
    pub cancelled: bool,
    /// Its accounts.
    pub balances: Balances,
    /// What only some packages have.
    pub terms: Option<Box<Terms>>,
    /// When so many octets are used, the next threshold is crossed.
    pub alarm_at: Octets,
    /// Thresholds crossed and not fallen below again.
    pub level: u32,
    /// How often one was crossed.
    pub crossings: u64,
}

impl Package {
    /// Whether octets of it may be reserved in a zone at a time.
    #[must_use]
    pub fn serves(&self, zone: &ZoneId, now: UnixMillis) -> bool {
        !self.ended
            && self.until.is_none_or(|until| now < until)
            && self.has_begun(now)
            && (self.zones.is_empty() || self.zones.contains(zone))
    }

    /// Whether its first day has come.
    #[must_use]
    pub fn has_begun(&self, now: UnixMillis) -> bool {
        match &self.terms {
            Some(terms) => terms.from.is_none_or(|from| from <= now),
            None => true,
        }
    }

    /// Its end if it is used now: one that lasts from its first use on begins to run.
    #[must_use]
    pub fn end_if_used(&self, now: UnixMillis) -> Option<UnixMillis> {
        let lasts = self
            .terms
            .as_ref()
            .and_then(|terms| now.plus_s(terms.lasts_s?));
        match (lasts, self.until) {
            (Some(lasts), Some(until)) => Some(lasts.min(until)),
            (lasts, until) => lasts.or(until),
        }
    }

    /// Octets that may still be used beyond what was bought.
    #[must_use]
    pub fn overage(&self) -> Octets {
        self.terms
            .as_ref()
            .filter(|_| !self.ended)
            .map_or(Octets::ZERO, |terms| terms.overage)
    }

    /// Something has to be booked before it is used: its begin, or octets beyond what was bought.
    #[must_use]
    pub fn is_special(&self) -> bool {
        !self.ended
            && self
                .terms
                .as_ref()
                .is_some_and(|terms| terms.lasts_s.is_some() || terms.overage > Octets::ZERO)
    }

    /// Finds the next threshold: `levels` are percentages of all that it ever had, rising. Thresholds that its use
    /// fell below are armed again.
    pub fn arm(&mut self, levels: &[u64]) {
        let all =
            u128::from(self.balances.volume.value()) + u128::from(self.balances.credited.value());
        let at = |level: u32| match levels.get(level as usize) {
            // Rounded up: a threshold is not crossed before it is reached.
            Some(percent) if all > 0 => Octets(
                u64::try_from((all * u128::from(*percent)).div_ceil(100)).unwrap_or(u64::MAX),
            ),
            _ => Octets(u64::MAX),
        };
        while let Some(below) = self.level.checked_sub(1)
            && self.balances.used < at(below)
        {
            self.level = below;
        }
        self.alarm_at = at(self.level);
    }

    /// What of its price belongs to the octets that were refunded, and was not given back yet. Rounded down: the
    /// buyer pays for a begun unit.
    #[must_use]
    pub fn repayable(&self) -> u64 {
        let Some(terms) = self.terms.as_ref().filter(|_| self.cancelled) else {
            return 0;
        };
        let volume = u128::from(self.balances.volume.value());
        // Credited octets cost nothing: they never bring more than the price.
        let refunded = u128::from(self.balances.refunded.value()).min(volume);
        let due = (u128::from(terms.price) * refunded).checked_div(volume);
        u64::try_from(due.unwrap_or_default())
            .unwrap_or(u64::MAX)
            .saturating_sub(terms.repaid)
    }

    /// Where octets go that come back from a reservation.
    #[must_use]
    pub const fn returns_to(&self) -> Pocket {
        match (self.ended, self.cancelled) {
            (false, _) => Pocket::Available,
            (true, false) => Pocket::Expired,
            (true, true) => Pocket::Refunded,
        }
    }
}
