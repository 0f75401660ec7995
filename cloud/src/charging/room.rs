//! Room: how much a device may still get within the limits of the day and the month.
//!
//! Limits count what is used and what is reserved (DESIGN section 11, number 3). A grant is not valid past the
//! moment at which a limit begins anew.

use simquota_shared::units::{Octets, UnixMillis};

use super::Turn;
use crate::ledger::Owner;
use crate::ledger::device::{Axis, Device};
use crate::ledger::entry::{Limit, Segment};

/// What limits leave. Without limits it is endless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Octets in all.
    pub(super) all: u64,
    /// Octets out of the pool.
    pub(super) pool: u64,
    /// When the first limit begins anew.
    pub(super) until: Option<UnixMillis>,
}

impl Room {
    const ENDLESS: Self = Self {
        all: u64::MAX,
        pool: u64::MAX,
        until: None,
    };
}

impl Turn<'_> {
    /// The room that a device has after it keeps `kept` octets of its segments, gives the rest, `released`, back and
    /// gets `filled`.
    pub(super) fn room(
        &self,
        device: &Device,
        axis: &Axis,
        kept: Octets,
        released: &[Segment],
        filled: &[Segment],
    ) -> Room {
        let Some(spent) = &device.spent else {
            return Room::ENDLESS;
        };
        let Some(fleet) = self.ledger.accounts.get(&device.fleet) else {
            return Room::ENDLESS;
        };
        let (stays, _) = axis.split(kept);
        let held = sum(stays.iter().chain(filled));
        let held_of_pool = sum(stays
            .iter()
            .chain(filled)
            .filter(|segment| self.is_of_pool(segment)));
        let back = sum(released.iter().filter(|segment| self.is_of_pool(segment)));
        let new = sum(filled.iter().filter(|segment| self.is_of_pool(segment)));
        let mut room = Room::ENDLESS;
        for limit in fleet.limits_of_device(spent) {
            let used = limit.used.value();
            match limit.limit {
                Limit::Share => {
                    let left = limit.of.value().saturating_sub(used);
                    room.pool = room.pool.min(left.saturating_sub(held_of_pool));
                }
                _ => {
                    let left = limit.of.value().saturating_sub(used);
                    room.all = room.all.min(left.saturating_sub(held));
                }
            }
            room.until = Some(
                room.until
                    .map_or(limit.until, |until| until.min(limit.until)),
            );
        }
        let mut limits = fleet.limits_of_pool().peekable();
        if limits.peek().is_some() {
            let reserved = self
                .reserved_of_pool(&Owner::Pool(device.fleet.clone()))
                .saturating_sub(back)
                .saturating_add(new);
            for limit in limits {
                let left = limit.of.value().saturating_sub(limit.used.value());
                room.pool = room.pool.min(left.saturating_sub(reserved));
                room.until = Some(
                    room.until
                        .map_or(limit.until, |until| until.min(limit.until)),
                );
            }
        }
        room
    }

    fn is_of_pool(&self, segment: &Segment) -> bool {
        segment
            .package
            .as_ref()
            .and_then(|package| self.ledger.packages.get(package))
            .is_some_and(|package| package.device.is_none())
    }

    fn reserved_of_pool(&self, pool: &Owner) -> u64 {
        self.ledger
            .index
            .open
            .get(pool)
            .into_iter()
            .flatten()
            .filter_map(|id| self.ledger.packages.get(id))
            .fold(0, |sum: u64, package| {
                sum.saturating_add(package.balances.reserved.value())
            })
    }

    /// The device is suspended, or its fleet is.
    pub(super) fn is_suspended(&self, device: &Device) -> bool {
        device.suspended
            || self
                .ledger
                .accounts
                .get(&device.fleet)
                .is_some_and(|fleet| fleet.suspended)
    }
}

/// Octets of segments. What is beyond the axis is as good as all of it.
fn sum<'a>(segments: impl Iterator<Item = &'a Segment>) -> u64 {
    segments.fold(0, |sum, segment| sum.saturating_add(segment.octets.value()))
}
