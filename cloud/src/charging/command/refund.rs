//! Refunds of deductions: the entry is named, and its counter-entry never gives back more than it took, over all
//! refunds of it.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{FleetId, PackageId, Text};
use simquota_shared::message::FleetCommand;
use simquota_shared::units::{EntryNumber, Octets};

use super::{CommandError, arguments, refuse};
use crate::charging::usage::{device_account, pocket};
use crate::charging::{Turn, query};
use crate::ledger::Broken;
use crate::ledger::account::{Account, Move, Pocket, Slot};
use crate::ledger::entry::{Cause, Entry, Refunded, Subject};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RefundArguments {
    entry: EntryNumber,
    why: Text,
    #[serde(default)]
    octets: Option<Octets>,
    #[serde(default)]
    package: Option<PackageId>,
}

/// A refund, checked.
pub(super) struct Refund {
    subject: Subject,
    refunded: Refunded,
    moves: Vec<Move>,
}

/// The entry that a command is about. The shell reads it from the journal and shows it to the turn.
#[must_use]
pub fn named_entry(command: &FleetCommand) -> Option<EntryNumber> {
    if command.name.as_str() != "refund" {
        return None;
    }
    arguments::<RefundArguments>(&command.args)
        .ok()
        .map(|refund| refund.entry)
}

impl Turn<'_> {
    /// A refund names the entry of a deduction. It never gives back more than that took, over all refunds of it.
    pub(super) fn prepare_refund(
        &self,
        fleet: &FleetId,
        refund: RefundArguments,
    ) -> Result<Refund, CommandError> {
        let RefundArguments {
            entry: number,
            why,
            octets,
            package: target,
        } = refund;
        let Some(entry) = self.entry_of(fleet, number) else {
            return refuse(
                Code::USER_UNKNOWN,
                "unknown-entry",
                format!("fleet {fleet} has no entry {number}"),
            );
        };
        let deductions = deductions(entry);
        let total: u64 = deductions.iter().map(|(_, octets)| octets).sum();
        let before = self
            .ledger
            .refunds
            .get(&number)
            .copied()
            .unwrap_or_default();
        let left = total.saturating_sub(before.value());
        let octets = octets.unwrap_or(Octets(left));
        let (code, name, words) = if total == 0 {
            (
                Code::RATING_FAILED,
                "no-deduction",
                format!(
                    "entry {number} deducts nothing: it is {}",
                    entry.cause.name()
                ),
            )
        } else if left == 0 {
            (
                Code::RATING_FAILED,
                "already-refunded",
                format!("all {total} octets of entry {number} were given back"),
            )
        } else if octets == Octets::ZERO || octets > Octets(left) {
            (
                Code::RATING_FAILED,
                "beyond-the-deduction",
                format!(
                    "entry {number} deducted {total} octets, {before} were given back: {left} are left"
                ),
            )
        } else {
            let moves =
                self.counter_moves(fleet, &deductions, (before, octets), target.as_ref())?;
            return Ok(Refund {
                subject: entry.subject.clone(),
                refunded: Refunded {
                    of: number,
                    octets,
                    why,
                },
                moves,
            });
        };
        refuse(code, name, words)
    }

    /// The entry that was shown, if it is the one and the fleet's.
    fn entry_of(&self, fleet: &FleetId, number: EntryNumber) -> Option<&Entry> {
        let entry = self
            .named
            .as_ref()
            .filter(|entry| entry.number == number)
            .or_else(|| self.entries.iter().find(|entry| entry.number == number))?;
        let own = match &entry.subject {
            Subject::Device(id) => self.ledger.devices.get(id)?.fleet == *fleet,
            Subject::Fleet(id) => id == fleet,
            Subject::Platform => false,
        };
        own.then_some(entry)
    }

    /// The octets after the first `before` of a deduction, given back to whoever they came from.
    fn counter_moves(
        &self,
        fleet: &FleetId,
        deductions: &[(Account, u64)],
        (before, octets): (Octets, Octets),
        target: Option<&PackageId>,
    ) -> Result<Vec<Move>, CommandError> {
        let (mut skip, mut left) = (before.value(), octets.value());
        let mut moves: Vec<Move> = Vec::new();
        for (account, deducted) in deductions {
            let skipped = skip.min(*deducted);
            skip -= skipped;
            let part = left.min(deducted - skipped);
            if part == 0 {
                continue;
            }
            left -= part;
            match account {
                Account::Package(package, _) => {
                    let open = self.own_package(fleet, package).is_ok();
                    let package = match target {
                        Some(target) => target,
                        None if open => package,
                        None => {
                            return refuse(
                                Code::RATING_FAILED,
                                "package-ended",
                                format!("package {package} has ended: name another with 'package'"),
                            );
                        }
                    };
                    self.own_package(fleet, package)?;
                    self.creditable(package, octets)?;
                    moves.push(Move {
                        from: pocket(package, Pocket::Credited),
                        to: pocket(package, Pocket::Available),
                        octets: Octets(part),
                    });
                }
                Account::Device(device, _) => {
                    let debt = self
                        .ledger
                        .devices
                        .get(device)
                        .map_or(Octets::ZERO, |device| device.debt);
                    if debt < Octets(part) {
                        return refuse(
                            Code::RATING_FAILED,
                            "debt-was-paid",
                            format!(
                                "{part} octets became debt, and {debt} of that is unpaid: name the entry of the payment"
                            ),
                        );
                    }
                    moves.push(Move {
                        from: device_account(device, Slot::Debt),
                        to: device_account(device, Slot::Forgiven),
                        octets: Octets(part),
                    });
                }
                Account::Fleet(_, _) => {}
            }
        }
        Ok(moves)
    }

    pub(super) fn refund(&mut self, refund: Refund) -> Result<Value, Broken> {
        let Refund {
            subject,
            refunded,
            moves,
        } = refund;
        let gained: Vec<PackageId> = moves
            .iter()
            .filter_map(|movement| match &movement.to {
                Account::Package(id, Pocket::Available) => Some(id.clone()),
                _ => None,
            })
            .collect();
        let result = query::map([
            ("entry", query::number(refunded.of.value())),
            ("refunded", query::number(refunded.octets.value())),
            (
                "packages",
                Value::Array(gained.iter().map(query::text).collect()),
            ),
        ]);
        self.record(subject, Cause::Refunded(refunded), moves)?;
        for package in gained {
            self.gained_by(&package)?;
        }
        Ok(result)
    }
}

/// What an entry deducted, and from whom: octets that packages paid, and octets that became debt.
fn deductions(entry: &Entry) -> Vec<(Account, u64)> {
    let deducts = matches!(
        entry.cause,
        Cause::Usage(_) | Cause::Closed(_) | Cause::DebtPaid(_) | Cause::Debited(_)
    );
    entry
        .moves
        .iter()
        .filter(|movement| {
            deducts
                && matches!(
                    movement.to,
                    Account::Package(_, Pocket::Used) | Account::Device(_, Slot::Debt)
                )
        })
        .map(|movement| (movement.to.clone(), movement.octets.value()))
        .collect()
}
