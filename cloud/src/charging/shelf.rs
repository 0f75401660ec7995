//! The shelf: the packages that may pay for a device's octets now, in the order in which they do.
//!
//! Order (DESIGN section 5): those that cover the zone and are valid now, by priority, then earliest end, then
//! purchase; the device's own before its fleet's pool.

use simquota_shared::ids::{DeviceId, FleetId, PackageId, ZoneId};
use simquota_shared::units::{Octets, UnixMillis};

use crate::ledger::entry::{By, Segment};
use crate::ledger::package::Package;
use crate::ledger::{Ledger, Owner};

/// One package on the shelf.
#[derive(Clone, Debug)]
struct Item {
    id: PackageId,
    left: u64,
    /// Octets that may be used beyond that, when nothing else is left.
    overage: u64,
    until: Option<UnixMillis>,
    pool: bool,
}

/// Packages in order, and what is left in each while a decision takes from them.
#[derive(Clone, Debug)]
pub(super) struct Shelf {
    items: Vec<Item>,
    now: UnixMillis,
}

/// How a grant is bounded, besides by what is left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Octets, sized by rate and policy and within the device's limits.
    pub octets: u64,
    /// Of these at most so many out of the pool.
    pub pool_octets: u64,
    /// A pool that this many devices share gives each at most its share, but never less than `share_min`.
    pub sharers: u64,
    /// See `sharers`.
    pub share_min: u64,
    /// A package that ends sooner than this is granted alone.
    pub validity_min_s: u64,
}

impl Shelf {
    /// The shelf of a device, in a zone, at a time.
    pub(super) fn of(
        ledger: &Ledger,
        device: &DeviceId,
        fleet: &FleetId,
        zone: &ZoneId,
        now: UnixMillis,
    ) -> Self {
        let mut items = Vec::new();
        for owner in [Owner::Device(device.clone()), Owner::Pool(fleet.clone())] {
            let mut owned: Vec<(&PackageId, &Package)> = ledger
                .index
                .open
                .get(&owner)
                .into_iter()
                .flatten()
                .filter_map(|id| ledger.packages.get(id).map(|package| (id, package)))
                .filter(|(_, package)| package.serves(zone, now))
                .collect();
            owned.sort_by_key(|(_, package)| {
                (
                    package.priority,
                    package.until.unwrap_or(UnixMillis(u64::MAX)),
                    package.bought,
                )
            });
            items.extend(owned.into_iter().map(|(id, package)| Item {
                id: id.clone(),
                left: package.balances.available.value(),
                overage: package.overage().value(),
                until: package.end_if_used(now),
                pool: package.device.is_none(),
            }));
        }
        Self { items, now }
    }

    /// Puts released octets back, so that the same decision may grant them again.
    pub(super) fn put_back(&mut self, package: &PackageId, octets: u64) {
        if let Some(item) = self.items.iter_mut().find(|item| item.id == *package) {
            item.left += octets;
        }
    }

    /// Nothing is left, permitted overage included.
    pub(super) fn is_empty(&self) -> bool {
        self.items
            .iter()
            .all(|item| item.left == 0 && item.overage == 0)
    }

    /// Octets left on the shelf, without permitted overage.
    pub(super) fn left(&self) -> u64 {
        self.items
            .iter()
            .fold(0, |sum, item| sum.saturating_add(item.left))
    }

    /// Octets left on the shelf, with permitted overage.
    pub(super) fn in_all(&self) -> u64 {
        self.items
            .iter()
            .fold(self.left(), |sum, item| sum.saturating_add(item.overage))
    }

    /// When the first package that a grant would be taken from ends.
    pub(super) fn first_end(&self) -> Option<UnixMillis> {
        self.items.iter().find(|item| item.left > 0)?.until
    }

    /// Takes up to `octets`, in order, whatever the ends of the packages.
    pub(super) fn take_any(&mut self, mut octets: u64) -> Vec<Segment> {
        let mut taken = Vec::new();
        for item in &mut self.items {
            let part = item.left.min(octets);
            if part > 0 {
                item.left -= part;
                octets -= part;
                taken.push(Segment {
                    package: Some(item.id.clone()),
                    octets: Octets(part),
                });
            }
        }
        for item in self.items.iter_mut().filter(|item| item.overage > 0) {
            let part = item.overage.min(octets);
            if part > 0 {
                item.overage -= part;
                octets -= part;
                taken.push(Segment {
                    package: Some(item.id.clone()),
                    octets: Octets(part),
                });
            }
        }
        taken
    }

    /// Takes up to `octets` from one package.
    pub(super) fn take_from(&mut self, package: &PackageId, octets: u64) -> u64 {
        match self.items.iter_mut().find(|item| item.id == *package) {
            Some(item) => {
                let part = item.left.min(octets);
                item.left -= part;
                part
            }
            None => 0,
        }
    }

    /// Takes a grant. When it is less than the bounds' octets, with the reason why.
    pub(super) fn grant(&mut self, bounds: Bounds) -> (Vec<Segment>, Option<By>) {
        let mut wanted = bounds.octets;
        let pool_left: u64 = self
            .items
            .iter()
            .filter(|item| item.pool)
            .fold(0, |sum, item| sum.saturating_add(item.left));
        // Rounded up: what is left in the end goes to whoever asks, not to nobody.
        let mut share = pool_left
            .div_ceil(bounds.sharers.max(1))
            .max(bounds.share_min);
        let shared_by = if bounds.pool_octets < share {
            By::Limit
        } else {
            By::Share
        };
        share = share.min(bounds.pool_octets);
        let mut less = By::Left;
        let soon = self.now.plus_s(bounds.validity_min_s);
        let mut taken: Vec<Segment> = Vec::new();
        for item in &mut self.items {
            let mut part = item.left.min(wanted);
            if item.pool && share < part {
                part = share;
                less = shared_by;
            }
            if part == 0 {
                continue;
            }
            let ends_soon = item
                .until
                .is_some_and(|until| soon.is_some_and(|soon| until < soon));
            if ends_soon && !taken.is_empty() {
                less = By::Alone;
                break;
            }
            item.left -= part;
            wanted -= part;
            if item.pool {
                share -= part;
            }
            taken.push(Segment {
                package: Some(item.id.clone()),
                octets: Octets(part),
            });
            if ends_soon {
                return (taken, (wanted > 0).then_some(By::Alone));
            }
        }
        if wanted > 0 {
            wanted = self.grant_overage(wanted, bounds.pool_octets, &mut taken);
        }
        (taken, (wanted > 0).then_some(less))
    }

    /// What is still wanted when nothing else is left, out of permitted overage; what is wanted after that.
    fn grant_overage(&mut self, mut wanted: u64, mut pool: u64, taken: &mut Vec<Segment>) -> u64 {
        if self.items.iter().any(|item| item.left > 0) {
            return wanted;
        }
        for segment in taken.iter() {
            let of_pool = self
                .items
                .iter()
                .any(|item| item.pool && Some(&item.id) == segment.package.as_ref());
            if of_pool {
                pool = pool.saturating_sub(segment.octets.value());
            }
        }
        for item in self.items.iter_mut().filter(|item| item.overage > 0) {
            let most = if item.pool { pool } else { u64::MAX };
            let part = item.overage.min(wanted).min(most);
            if part == 0 {
                continue;
            }
            item.overage -= part;
            wanted -= part;
            if item.pool {
                pool -= part;
            }
            taken.push(Segment {
                package: Some(item.id.clone()),
                octets: Octets(part),
            });
        }
        wanted
    }
}
