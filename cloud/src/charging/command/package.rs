//! What managers command about packages: bought, cancelled, credited, debited, moved.

use serde::Deserialize;
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId, PackageId, Text, ZoneId};
use simquota_shared::message::FleetCommand;
use simquota_shared::units::{Octets, UnixMillis, human};

use super::refund::Refund;
use super::{Change, CommandError, arguments, refuse};
use crate::charging::purchase::Purchase;
use crate::charging::usage::pocket;
use crate::charging::{Turn, query};
use crate::ledger::Broken;
use crate::ledger::account::{Move, Pocket};
use crate::ledger::entry::{Cause, Credited, Debited, PackageBought, TermsSet};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageBuy {
    #[serde(default)]
    device: Option<DeviceId>,
    volume: Octets,
    #[serde(default)]
    from: Option<UnixMillis>,
    #[serde(default)]
    until: Option<UnixMillis>,
    #[serde(default)]
    days: Option<u64>,
    #[serde(default)]
    first_use_days: Option<u64>,
    #[serde(default)]
    zones: Vec<ZoneId>,
    #[serde(default)]
    priority: Option<u64>,
    #[serde(default)]
    overage: Octets,
    #[serde(default)]
    price: u64,
    #[serde(default)]
    package: Option<PackageId>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PackageOnly {
    pub(super) package: PackageId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageAmount {
    package: PackageId,
    octets: Octets,
    why: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PackageMove {
    from: PackageId,
    octets: Octets,
    why: Text,
    #[serde(default)]
    to: Option<PackageId>,
    #[serde(default)]
    device: Option<DeviceId>,
}

/// A change of packages, checked.
pub(super) enum PackageChange {
    Buy(Purchase),
    Cancel(PackageId),
    Credit(PackageId, Octets, Text),
    Debit(PackageId, Octets, Text),
    Move {
        from: PackageId,
        to: PackageId,
        octets: Octets,
        why: Text,
        /// The target is made for it.
        new: Option<Purchase>,
    },
    Refund(Refund),
}

impl Turn<'_> {
    pub(super) fn prepare_package(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<Change, CommandError> {
        let args = &command.args;
        let change = match command.name.as_str() {
            "package-buy" => PackageChange::Buy(self.purchase(fleet, command)?),
            "package-cancel" => {
                let PackageOnly { package } = arguments(args)?;
                self.own_package(fleet, &package)?;
                PackageChange::Cancel(package)
            }
            "package-credit" => {
                let PackageAmount {
                    package,
                    octets,
                    why,
                } = arguments(args)?;
                self.own_package(fleet, &package)?;
                self.creditable(&package, octets)?;
                PackageChange::Credit(package, octets, why)
            }
            "package-debit" => {
                let PackageAmount {
                    package,
                    octets,
                    why,
                } = arguments(args)?;
                self.own_package(fleet, &package)?;
                self.in_hand(&package, octets)?;
                PackageChange::Debit(package, octets, why)
            }
            "package-move" => self.prepare_move(fleet, command)?,
            "refund" => PackageChange::Refund(self.prepare_refund(fleet, arguments(args)?)?),
            other => return super::unknown(other),
        };
        Ok(Change::Package(change))
    }

    fn purchase(&self, fleet: &FleetId, command: &FleetCommand) -> Result<Purchase, CommandError> {
        let buy: PackageBuy = arguments(&command.args)?;
        if let Some(device) = &buy.device {
            self.live_device(fleet, device)?;
        }
        self.known_volume(buy.volume, buy.overage)?;
        if buy.days.is_some() && (buy.until.is_some() || buy.first_use_days.is_some()) {
            return refuse(
                Code::RATING_FAILED,
                "two-ends",
                "give 'days' alone, or 'until', or 'first_use_days', or these two",
            );
        }
        let begin = buy.from.map_or(self.now, |from| from.max(self.now));
        let until = match buy.days {
            Some(days) => match super::days_from(begin, days) {
                Some(until) => Some(until),
                None => return refuse(Code::RATING_FAILED, "bad-days", "'days' is too many"),
            },
            None => buy.until,
        };
        let lasts_s = buy.first_use_days.map(|days| days.saturating_mul(86_400));
        if lasts_s.is_some_and(|lasts| lasts == 0 || begin.plus_s(lasts).is_none()) {
            return refuse(
                Code::RATING_FAILED,
                "bad-days",
                "'first_use_days' is 0 or too many",
            );
        }
        if until.is_some_and(|until| until <= begin) {
            return refuse(
                Code::RATING_FAILED,
                "in-the-past",
                "the package would end before it begins",
            );
        }
        self.affordable(fleet, buy.price)?;
        let package = self.package_name(fleet, command, buy.package)?;
        let terms = TermsSet {
            package: package.clone(),
            from: buy.from.filter(|from| *from > self.now),
            lasts_s,
            overage: buy.overage,
            price: buy.price,
            plan: None,
        };
        let bought = PackageBought {
            package,
            fleet: fleet.clone(),
            device: buy.device,
            volume: buy.volume,
            until,
            zones: buy.zones,
            priority: buy.priority.unwrap_or(100),
        };
        Ok(Purchase { bought, terms })
    }

    fn prepare_move(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
    ) -> Result<PackageChange, CommandError> {
        let PackageMove {
            from,
            octets,
            why,
            to,
            device,
        } = arguments(&command.args)?;
        self.own_package(fleet, &from)?;
        self.in_hand(&from, octets)?;
        if let Some(to) = to {
            self.own_package(fleet, &to)?;
            if to == from || device.is_some() {
                return refuse(
                    Code::RATING_FAILED,
                    "bad-target",
                    "'to' is another package; 'device' is for a new one",
                );
            }
            self.creditable(&to, octets)?;
            return Ok(PackageChange::Move {
                from,
                to,
                octets,
                why,
                new: None,
            });
        }
        if let Some(device) = &device {
            self.live_device(fleet, device)?;
        }
        let to = self.package_name(fleet, command, None)?;
        let Some(source) = self.ledger.packages.get(&from) else {
            return refuse(Code::USER_UNKNOWN, "unknown-package", "it is gone");
        };
        // The new package is as good as the old one: its zones, its end, its place in the order.
        let mut purchase = Purchase::usual(PackageBought {
            package: to.clone(),
            fleet: fleet.clone(),
            device,
            volume: Octets::ZERO,
            until: source.until,
            zones: source.zones.clone(),
            priority: source.priority,
        });
        if let Some(terms) = &source.terms {
            purchase.terms.from = terms.from;
            purchase.terms.lasts_s = terms.lasts_s;
        }
        Ok(PackageChange::Move {
            from,
            to,
            octets,
            why,
            new: Some(purchase),
        })
    }

    /// Without a name of its own a package is called after the command: unique in the fleet for ever.
    pub(super) fn package_name(
        &self,
        fleet: &FleetId,
        command: &FleetCommand,
        name: Option<PackageId>,
    ) -> Result<PackageId, CommandError> {
        let package = match name {
            Some(package) => package,
            None => match format!("{fleet}-{}", command.id).parse() {
                Ok(package) => package,
                Err(_) => {
                    return refuse(
                        Code::RATING_FAILED,
                        "bad-package",
                        "name it: fleet and command id are too long together",
                    );
                }
            },
        };
        if self.ledger.packages.contains_key(&package) {
            return refuse(
                Code::RATING_FAILED,
                "package-exists",
                format!("package {package} exists already"),
            );
        }
        Ok(package)
    }

    pub(super) fn known_volume(&self, volume: Octets, overage: Octets) -> Result<(), CommandError> {
        if volume == Octets::ZERO {
            return refuse(
                Code::RATING_FAILED,
                "no-volume",
                "'volume' must be more than 0",
            );
        }
        if volume.checked_add(overage.value()).is_none() {
            return refuse(
                Code::RATING_FAILED,
                "too-much",
                "'volume' and 'overage' are more than an account can hold",
            );
        }
        Ok(())
    }

    pub(super) fn affordable(&self, fleet: &FleetId, price: u64) -> Result<(), CommandError> {
        let balance = self
            .ledger
            .accounts
            .get(fleet)
            .map_or(0, |account| account.purse.balance);
        if price <= balance {
            return Ok(());
        }
        refuse(
            Code::CREDIT_LIMIT_REACHED,
            "not-enough-money",
            format!("it costs {price}, the balance is {balance}"),
        )
    }

    /// Whether a package's accounts can take so many octets more.
    pub(super) fn creditable(
        &self,
        package: &PackageId,
        octets: Octets,
    ) -> Result<(), CommandError> {
        if octets == Octets::ZERO {
            return refuse(
                Code::RATING_FAILED,
                "no-octets",
                "'octets' must be more than 0",
            );
        }
        let after = self.ledger.packages.get(package).and_then(|package| {
            package
                .balances
                .volume
                .checked_add(package.balances.credited.value())?
                .checked_add(package.overage().value())?
                .checked_add(octets.value())
        });
        match after {
            Some(_) => Ok(()),
            None => refuse(
                Code::RATING_FAILED,
                "too-much",
                "'octets' is more than an account can hold",
            ),
        }
    }

    /// Whether so many octets of a package are available.
    fn in_hand(&self, package: &PackageId, octets: Octets) -> Result<(), CommandError> {
        if octets == Octets::ZERO {
            return refuse(
                Code::RATING_FAILED,
                "no-octets",
                "'octets' must be more than 0",
            );
        }
        let Some(found) = self.ledger.packages.get(package) else {
            return refuse(Code::USER_UNKNOWN, "unknown-package", "it is gone");
        };
        let balances = &found.balances;
        if octets <= balances.available {
            return Ok(());
        }
        refuse(
            Code::CREDIT_LIMIT_REACHED,
            "not-enough",
            format!(
                "package {package} has {} available, {} are reserved",
                human(balances.available),
                human(balances.reserved)
            ),
        )
    }

    pub(super) fn perform_package(&mut self, change: PackageChange) -> Result<Value, Broken> {
        match change {
            PackageChange::Buy(purchase) => {
                let id = purchase.bought.package.clone();
                self.buy(purchase)?;
                Ok(query::package(self.ledger, &id))
            }
            PackageChange::Cancel(package) => {
                let refunded = self.end_package(&package, true)?;
                let repaid = self.repay(&package)?;
                Ok(query::map([
                    ("package", query::text(&package)),
                    ("refunded", query::number(refunded.value())),
                    ("repaid", query::number(repaid)),
                ]))
            }
            PackageChange::Credit(package, octets, why) => {
                let moves = vec![Move {
                    from: pocket(&package, Pocket::Credited),
                    to: pocket(&package, Pocket::Available),
                    octets,
                }];
                let cause = Cause::Credited(Credited {
                    package: package.clone(),
                    why,
                });
                self.about(&package, cause, moves)?;
                self.gained_by(&package)?;
                Ok(query::package(self.ledger, &package))
            }
            PackageChange::Debit(package, octets, why) => {
                let moves = vec![Move {
                    from: pocket(&package, Pocket::Available),
                    to: pocket(&package, Pocket::Used),
                    octets,
                }];
                let cause = Cause::Debited(Debited {
                    package: package.clone(),
                    why,
                });
                self.about(&package, cause, moves)?;
                Ok(query::package(self.ledger, &package))
            }
            PackageChange::Move {
                from,
                to,
                octets,
                why,
                new,
            } => {
                if let Some(purchase) = new {
                    self.book(purchase)?;
                }
                self.move_octets(&from, &to, octets, why)?;
                self.gained_by(&to)?;
                Ok(Value::Array(vec![
                    query::package(self.ledger, &from),
                    query::package(self.ledger, &to),
                ]))
            }
            PackageChange::Refund(refund) => self.refund(refund),
        }
    }

    fn about(&mut self, package: &PackageId, cause: Cause, moves: Vec<Move>) -> Result<(), Broken> {
        match self.ledger.packages.get(package) {
            Some(found) => {
                let subject = found.subject();
                self.record(subject, cause, moves)
            }
            None => Ok(()),
        }
    }

    pub(super) fn gained_by(&mut self, package: &PackageId) -> Result<(), Broken> {
        let Some(found) = self.ledger.packages.get(package) else {
            return Ok(());
        };
        let (fleet, device) = (found.fleet.clone(), found.device.clone());
        self.gained(package, &fleet, device.as_ref())
    }
}
