//! What has to stand in the journal before a package is used: its begin, and octets beyond what was bought.

use std::collections::BTreeMap;

use simquota_shared::ids::PackageId;
use simquota_shared::units::Octets;

use super::Turn;
use super::usage::pocket;
use crate::ledger::Broken;
use crate::ledger::account::{Account, Move, Pocket};
use crate::ledger::entry::{Cause, Overdrawn, PackageBegan};

impl Turn<'_> {
    /// Books what the movements of the entry that comes next rest upon, in the same commit. First use is the first
    /// reservation or debit; permitted overage is credited when it is needed (DESIGN section 11, numbers 5 and 25).
    pub(super) fn prelude(&mut self, moves: &[Move]) -> Result<(), Broken> {
        let mut taken: BTreeMap<PackageId, (u64, u64)> = BTreeMap::new();
        for movement in moves {
            match (&movement.from, &movement.to) {
                (
                    Account::Package(id, Pocket::Available),
                    Account::Package(_, Pocket::Reserved | Pocket::Used),
                ) if self.ledger.index.special.contains(id) => {
                    let (out, _) = taken.entry(id.clone()).or_default();
                    *out = out
                        .checked_add(movement.octets.value())
                        .ok_or(Broken::Balance("a reservation overflows"))?;
                }
                (_, Account::Package(id, Pocket::Available))
                    if self.ledger.index.special.contains(id) =>
                {
                    let (_, back) = taken.entry(id.clone()).or_default();
                    *back = back
                        .checked_add(movement.octets.value())
                        .ok_or(Broken::Balance("a release overflows"))?;
                }
                _ => {}
            }
        }
        for (id, (out, back)) in taken {
            if out > 0 {
                self.begin_if_first(&id)?;
                self.overdraw(&id, out, back)?;
            }
        }
        Ok(())
    }

    fn begin_if_first(&mut self, id: &PackageId) -> Result<(), Broken> {
        let Some(package) = self.ledger.packages.get(id) else {
            return Ok(());
        };
        let dormant = package
            .terms
            .as_ref()
            .is_some_and(|terms| terms.lasts_s.is_some());
        if !dormant {
            return Ok(());
        }
        let cause = Cause::PackageBegan(PackageBegan {
            package: id.clone(),
            until: package.end_if_used(self.now),
        });
        let subject = package.subject();
        self.append(subject, cause, Vec::new())
    }

    /// `out` octets are about to leave what is available, and `back` come in before that.
    fn overdraw(&mut self, id: &PackageId, out: u64, back: u64) -> Result<(), Broken> {
        let Some(package) = self.ledger.packages.get(id) else {
            return Ok(());
        };
        let available = package.balances.available.value().saturating_add(back);
        let missing = out.saturating_sub(available);
        if missing == 0 {
            return Ok(());
        }
        let moves = vec![Move {
            from: pocket(id, Pocket::Credited),
            to: pocket(id, Pocket::Available),
            octets: Octets(missing),
        }];
        let cause = Cause::Overdrawn(Overdrawn {
            package: id.clone(),
        });
        let subject = package.subject();
        self.append(subject, cause, moves)
    }
}
