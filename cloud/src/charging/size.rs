//! How much a grant is: what was asked, the device's recent rate, policy, limits, and what is left.
//!
//! A grant is to last `grant.target_s` at the rate of the device's charged samples and of what its request says that it
//! used since; no longer than the grant may be valid or its packages and limits last, so that little is stranded at an end. Until
//! a minute of its samples was seen, it is what was asked for. It is never less than policy's least while that much is
//! left, and never more than policy's most. An *update* gets at most half of what is left: grants shrink towards the end.

use simquota_shared::message::Policy;
use simquota_shared::units::{Octets, UnixMillis};

use super::Turn;
use super::room::Room;
use super::rules::Rules;
use super::shelf::{Bounds, Shelf};
use crate::ledger::device::{Axis, Device};
use crate::ledger::entry::{By, Size};
use crate::ledger::pace::Pace;

/// What a grant is sized by.
pub(super) struct Wish {
    /// What the device asked for.
    pub(super) want: Octets,
    /// What it has in hand, from the position of its request to its ceiling.
    pub(super) in_hand: u64,
    /// It goes on under a grant.
    pub(super) renews: bool,
    /// How fast it goes.
    pub(super) pace: Pace,
}

impl Turn<'_> {
    /// The bounds of a grant, and what of them decides, unless less is left.
    pub(super) fn bounds(
        &self,
        device: &Device,
        wish: &Wish,
        room: &Room,
        shelf: &Shelf,
    ) -> (Bounds, Size) {
        let index = &self.ledger.index;
        let members = index
            .members
            .get(&device.fleet)
            .map_or(1, |members| members.len() as u64);
        let holds = device.axis().is_some_and(Axis::has_lease);
        let leased = index.leased.get(&device.fleet).copied().unwrap_or_default();
        // Who has nothing yet shares with those who have nothing either: when all ask at once, the last one gets what
        // is left and nothing stays behind. Who has a grant leaves as much for each of the others.
        let sharers = if holds {
            members
        } else {
            members.saturating_sub(leased)
        };
        let lasts_s = self.lasts_s(self.policy_of(device), room, shelf);
        let (octets, size) = sized(self.rules, wish, lasts_s, room, shelf);
        let bounds = Bounds {
            octets,
            pool_octets: room.pool,
            sharers,
            share_min: self.rules.grant_min.value(),
            validity_min_s: self.rules.validity_min_s,
        };
        (bounds, size)
    }

    /// How long a grant is to last: the policy's time, or less where the grant can't be valid for that long.
    fn lasts_s(&self, policy: &Policy, room: &Room, shelf: &Shelf) -> u64 {
        let target_s = self.rules.target_s.min(policy.validity_s);
        let end: Option<UnixMillis> = shelf.first_end().into_iter().chain(room.until).min();
        match end {
            Some(end) => {
                let left_s = end.beyond(self.now) / 1000;
                target_s.min(left_s.max(self.rules.validity_min_s))
            }
            None => target_s,
        }
    }
}

fn sized(rules: &Rules, wish: &Wish, lasts_s: u64, room: &Room, shelf: &Shelf) -> (u64, Size) {
    let hourly = match rules.target_s {
        0 => None,
        _ => wish.pace.octets_in(3_600_000),
    };
    let size = |by| Size {
        by,
        hourly,
        lasts_s,
    };
    if wish.want == Octets::ZERO {
        return (0, size(By::Asked));
    }
    let least = rules.grant_min.value();
    let most = rules.grant_max.value().max(least);
    let paced = match hourly {
        Some(_) => wish.pace.octets_in(lasts_s.saturating_mul(1000)),
        None => None,
    };
    let (mut octets, mut by) = match paced {
        Some(octets) => (octets.saturating_sub(wish.in_hand), By::Rate),
        None => (wish.want.value(), By::Asked),
    };
    if octets < least {
        (octets, by) = (least, By::Least);
    }
    if octets > most {
        (octets, by) = (most, By::Most);
    }
    if rules.target_s > 0 && wish.renews {
        // Rounded up: the last octet is granted, too.
        let half = shelf.in_all().div_ceil(2).max(least);
        if half < octets {
            (octets, by) = (half, By::Half);
        }
    }
    if room.all < octets {
        (octets, by) = (room.all, By::Limit);
    }
    (octets, size(by))
}
