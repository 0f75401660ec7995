//! Late usage: what of a debit came after its lease, after its package's end or after the device said that it was done.
//!
//! It is charged as if it had come in time; here is only found out what is to be said of it. Octets up to the used total
//! that a *final* named are not late while that *final*'s lease runs: they are expected, and set aside (rule R6).

use simquota_shared::ids::PackageId;
use simquota_shared::message::Kind;
use simquota_shared::units::Octets;

use super::Turn;
use crate::ledger::device::Axis;
use crate::ledger::entry::{Late, after};

impl Turn<'_> {
    /// What is late of the octets from the charged position to `to`; none if nothing is.
    pub(super) fn late(&self, axis: &Axis, to: Octets) -> Option<Late> {
        let last = axis.last.as_ref()?;
        let debit = to.beyond(axis.charged);
        if debit == 0 {
            return None;
        }
        let mut stretches = Stretches {
            from: axis.charged,
            to,
            found: Vec::new(),
            after: 0,
        };
        if self.now >= axis.lease_until {
            stretches.add(axis.charged, to, after::LEASE);
        }
        let mut from = axis.charged;
        for segment in &axis.segments {
            if from >= to {
                break;
            }
            let end = Octets(from.value().saturating_add(segment.octets.value()));
            if segment.package.as_ref().is_some_and(|id| self.is_over(id)) {
                stretches.add(from, end, after::END);
            }
            from = end;
        }
        for late in &axis.late {
            let ended = if self.is_over(&late.package) {
                after::END
            } else {
                0
            };
            stretches.add(late.from, late.to, after::LEASE | ended);
        }
        if last.kind == Kind::Final {
            stretches.add(axis.ceiling, to, after::FINAL);
        }
        stretches.late()
    }

    fn is_over(&self, package: &PackageId) -> bool {
        self.ledger.packages.get(package).is_some_and(|package| {
            package.ended || package.until.is_some_and(|until| until <= self.now)
        })
    }
}

/// Late stretches of a debit. They may overlap: a position can be late for more than one reason.
struct Stretches {
    from: Octets,
    to: Octets,
    found: Vec<(Octets, Octets)>,
    after: u64,
}

impl Stretches {
    /// Adds the positions past `from` up to `to`, as far as they are of this debit.
    fn add(&mut self, from: Octets, to: Octets, after: u64) {
        let (from, to) = (from.max(self.from), to.min(self.to));
        if from < to {
            self.found.push((from, to));
            self.after |= after;
        }
    }

    fn late(mut self) -> Option<Late> {
        self.found.sort_unstable();
        let mut reached = self.from;
        let mut octets: u64 = 0;
        for (from, to) in &self.found {
            octets = octets.saturating_add(to.beyond((*from).max(reached)));
            reached = reached.max(*to);
        }
        (octets > 0).then_some(Late {
            octets: Octets(octets),
            after: self.after,
        })
    }
}
