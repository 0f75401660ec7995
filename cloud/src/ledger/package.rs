//! A package of prepaid octets and its accounts.

use serde::{Deserialize, Serialize};
use simquota_shared::ids::{DeviceId, FleetId, ZoneId};
use simquota_shared::units::{EntryNumber, Octets, UnixMillis};

use super::Broken;
use super::account::Pocket;

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
}

impl Package {
    /// Whether octets of it may be reserved in a zone at a time.
    #[must_use]
    pub fn serves(&self, zone: &ZoneId, now: UnixMillis) -> bool {
        !self.ended
            && self.until.is_none_or(|until| now < until)
            && (self.zones.is_empty() || self.zones.contains(zone))
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
