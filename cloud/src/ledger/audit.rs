//! The audit: every balance anew from the journal, every identity, every link of the hash chains.
//!
//! It keeps books of its own, account by account, from nothing but the entries' movements, and compares them
//! with the ledger that the same entries build.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use serde_cbor::Value;
use simquota_shared::units::EntryNumber;

use super::Ledger;
use super::account::{Account, Pocket, Slot};
use super::entry::Entry;

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// Entries read.
    pub entries: u64,
    /// The last entry's number.
    pub last: EntryNumber,
    /// Everything that is wrong, in words; empty is what it must be.
    pub faults: Vec<String>,
    /// Totals by account name, over all packages and devices.
    pub totals: BTreeMap<&'static str, u128>,
    /// Totals of money by account name, in minor units, over all fleets.
    pub money: BTreeMap<&'static str, u128>,
    /// Octets charged over all devices and epochs.
    pub charged: u128,
    /// Charged octets by device.
    pub devices: BTreeMap<String, u128>,
    /// Packages seen.
    pub packages: u64,
    /// Registrations of devices.
    pub fleets: u64,
}

/// Books account by account, from nothing but movements.
#[derive(Debug, Default)]
pub struct Books(BTreeMap<Account, i128>);

impl Books {
    /// Books what an entry moved.
    pub fn take(&mut self, entry: &Entry) {
        for movement in &entry.moves {
            let octets = i128::from(movement.octets.value());
            self.book(&movement.from, -octets);
            self.book(&movement.to, octets);
        }
    }

    fn book(&mut self, account: &Account, octets: i128) {
        match self.0.get_mut(account) {
            Some(booked) => *booked += octets,
            None => drop(self.0.insert(account.clone(), octets)),
        }
    }
}

/// An audit under way: it takes entry after entry.
#[derive(Debug, Default)]
pub struct Auditor {
    audit: Audit,
    ledger: Ledger,
    books: Books,
}

impl Auditor {
    /// Takes the next entry. False: it is the one that is wrong, and nothing can be said about those behind it.
    pub fn take(&mut self, entry: &Entry) -> bool {
        let taken = self.apply(entry);
        if taken {
            self.books.take(entry);
        }
        taken
    }

    /// Lends the books, to be kept elsewhere: entries that are then only [applied](Self::apply) must be booked there.
    pub fn lend_books(&mut self) -> Books {
        std::mem::take(&mut self.books)
    }

    /// Takes the books back.
    pub fn return_books(&mut self, books: Books) {
        self.books = books;
    }

    /// The same without the books.
    pub fn apply(&mut self, entry: &Entry) -> bool {
        if let Err(broken) = self.ledger.apply(entry) {
            return self.fault(format!("entry {}: {broken}", entry.number));
        }
        self.audit.entries += 1;
        self.audit.last = entry.number;
        true
    }

    /// Notes what is wrong; always false.
    pub fn fault(&mut self, fault: String) -> bool {
        self.audit.faults.push(fault);
        false
    }

    /// Compares the books with the ledger, and checks every identity.
    #[must_use]
    pub fn end(self) -> Audit {
        let Self {
            mut audit,
            ledger,
            books,
        } = self;
        audit.compare(&ledger, &books.0);
        audit.faults.extend(ledger.violations());
        audit.packages = ledger.packages.len() as u64;
        audit.fleets = ledger.fleets.len() as u64;
        for (id, device) in &ledger.devices {
            audit.charged += device.charged();
            audit.devices.insert(id.to_string(), device.charged());
        }
        audit
    }
}

impl Audit {
    /// Reads the whole journal.
    pub fn run<T, E>(entries: impl Iterator<Item = Result<T, E>>) -> Self
    where
        T: Borrow<Entry>,
        E: std::fmt::Display,
    {
        let mut auditor = Auditor::default();
        for entry in entries {
            let goes_on = match entry {
                Ok(entry) => auditor.take(entry.borrow()),
                Err(error) => auditor.fault(error.to_string()),
            };
            if !goes_on {
                break;
            }
        }
        auditor.end()
    }

    /// True when every identity holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.faults.is_empty()
    }

    fn compare(&mut self, ledger: &Ledger, books: &BTreeMap<Account, i128>) {
        let sum: i128 = books.values().sum();
        if sum != 0 {
            self.faults
                .push(format!("all accounts together are {sum}, not 0"));
        }
        for (account, booked) in books {
            let shown = shown(ledger, account);
            if shown != Some(*booked) {
                let name = account.name();
                self.faults.push(format!(
                    "account {name}: the journal says {booked}, the ledger {shown:?}"
                ));
            }
            let name = match account {
                Account::Package(_, pocket) => pocket.name(),
                Account::Device(_, slot) => slot.name(),
                Account::Fleet(_, purse) => {
                    *self.money.entry(purse.name()).or_default() += booked.unsigned_abs();
                    continue;
                }
            };
            *self.totals.entry(name).or_default() += booked.unsigned_abs();
        }
    }

    /// The audit as it goes over the wire.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let wide = |value: u128| {
            Value::Integer(
                i128::try_from(value)
                    .unwrap_or(i128::MAX)
                    .min(i128::from(u64::MAX)),
            )
        };
        let named = |totals: &BTreeMap<&'static str, u128>| {
            let rows = totals
                .iter()
                .map(|(name, octets)| (Value::Text((*name).to_owned()), wide(*octets)));
            Value::Map(rows.collect())
        };
        // A reply is bounded: the devices' own figures are in `device-list`.
        let faults = self
            .faults
            .iter()
            .take(20)
            .map(|fault| Value::Text(fault.clone()));
        crate::charging::value_map([
            ("entries", wide(u128::from(self.entries))),
            ("last", wide(u128::from(self.last.value()))),
            ("holds", Value::Bool(self.holds())),
            ("faults", Value::Array(faults.collect())),
            ("faults_in_all", wide(self.faults.len() as u128)),
            ("fleets", wide(u128::from(self.fleets))),
            ("devices", wide(self.devices.len() as u128)),
            ("packages", wide(u128::from(self.packages))),
            ("charged", wide(self.charged)),
            ("totals", named(&self.totals)),
            ("money", named(&self.money)),
        ])
    }
}

/// An account's balance as the ledger has it; sources are negative.
fn shown(ledger: &Ledger, account: &Account) -> Option<i128> {
    match account {
        Account::Package(id, pocket) => {
            let balance = i128::from(ledger.packages.get(id)?.balances.of(*pocket).value());
            Some(if matches!(pocket, Pocket::Volume | Pocket::Credited) {
                -balance
            } else {
                balance
            })
        }
        Account::Fleet(id, purse) => {
            let amount = i128::from(ledger.accounts.get(id)?.purse.of(*purse));
            Some(if account.is_source() { -amount } else { amount })
        }
        Account::Device(id, slot) => {
            let device = ledger.devices.get(id)?;
            let octets = |octets: simquota_shared::units::Octets| i128::from(octets.value());
            Some(match slot {
                Slot::Overdraft => {
                    -(octets(device.debt) + octets(device.paid) + octets(device.forgiven))
                }
                Slot::Debt => octets(device.debt),
                Slot::Paid => octets(device.paid),
                Slot::Forgiven => octets(device.forgiven),
                Slot::Own => -octets(device.control),
                Slot::Control => octets(device.control),
            })
        }
    }
}
