//! What entries about rules mean, and why a device was refused.

use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, PackageId};
use simquota_shared::message::Kind;
use simquota_shared::units::{Octets, UnixMillis, human};

use super::sum;
use crate::ledger::account::{Account, Pocket};
use crate::ledger::entry::{
    Caps, Cause, Entry, Every, FleetTold, Limit, PlanBegan, TermsSet, ToppedUp,
};
use crate::ledger::fleet::Reached;
use crate::ledger::{Ledger, Owner};

/// Reservations of others that a refusal names at most.
const HOLDERS_MAX: usize = 3;

/// What an entry about a rule says, in one line. Empty for other entries.
pub(super) fn words(entry: &Entry) -> String {
    let octets = |pocket: Pocket| {
        let into = |to: &Account| matches!(to, Account::Package(_, of) if *of == pocket);
        human(Octets(sum(&entry.moves, into)))
    };
    match &entry.cause {
        Cause::TermsSet(set) => terms(set),
        Cause::PackageBegan(began) => format!(
            "package {} began{}",
            began.package,
            until(", valid until ", began.until)
        ),
        Cause::PlanBegan(began) => plan(began),
        Cause::PlanTurned(turned) => match &turned.package {
            Some(package) => format!(
                "plan {} turned: period {} is package {package}, the next turn is {}",
                turned.plan,
                turned.period,
                utc(turned.next)
            ),
            None => format!(
                "plan {} turned, and period {} was not paid for: the fleet's balance was too low",
                turned.plan, turned.period
            ),
        },
        Cause::PlanEnded(ended) => format!("plan {} ended", ended.plan),
        Cause::Overdrawn(overdrawn) => format!(
            "{} of permitted overage were added to package {}",
            octets(Pocket::Available),
            overdrawn.package
        ),
        Cause::Moved(moved) => format!(
            "{} went from package {} to package {}: {}",
            octets(Pocket::MovedOut),
            moved.from,
            moved.to,
            moved.why
        ),
        Cause::Debited(debited) => format!(
            "{} were deducted from package {} by command: {}",
            octets(Pocket::Used),
            debited.package,
            debited.why
        ),
        Cause::Refunded(refunded) => format!(
            "{} of the deduction in entry {} were given back: {}",
            human(refunded.octets),
            refunded.of,
            refunded.why
        ),
        Cause::Crossed(crossed) => format!(
            "package {} is used to {} % (crossing {})",
            crossed.package, crossed.percent, crossed.crossing
        ),
        Cause::LimitsSet(set) => format!(
            "limits: each device {}, the pool {}, a device's share of the pool {}",
            caps(&set.device),
            caps(&set.pool),
            set.share
                .map_or_else(|| "without".to_owned(), |share| human(share) + " a month")
        ),
        Cause::WindowsTurned(turned) => format!(
            "the day ends {}, the month {} ({})",
            utc(turned.day.to),
            utc(turned.month.to),
            turned.zone
        ),
        Cause::DeviceCapsSet(set) => format!("limits of its own: {}", caps(&set.caps)),
        Cause::LimitReached(reached) => format!(
            "{} was reached: {} of {}, anew from {}",
            limit_name(reached.limit),
            human(reached.used),
            human(reached.of),
            utc(reached.until)
        ),
        Cause::ThresholdsSet(set) => format!("thresholds: {:?} %", set.percents),
        Cause::TopUpSet(set) => match &set.top_up {
            Some(top_up) => format!(
                "rule {}: at {} % buy {}, at most {} times a month",
                set.rule,
                top_up.percent,
                human(top_up.volume),
                top_up.most
            ),
            None => format!("rule {} was taken back", set.rule),
        },
        Cause::ToppedUp(topped) => topped_up(topped),
        Cause::FleetSuspension(suspension) => if suspension.suspended {
            "all devices were suspended"
        } else {
            "all devices were resumed"
        }
        .to_owned(),
        Cause::FleetTold(FleetTold { after }) => match after {
            Some(after) => format!("devices up to {after} were told"),
            None => "all devices were told".to_owned(),
        },
        Cause::MoneyMoved(moved) => format!("money moved: {}", moved.why),
        Cause::MoneyRefunded(refunded) => {
            format!(
                "the price of what package {} had left was given back",
                refunded.package
            )
        }
        _ => super::estate::words(entry),
    }
}

fn terms(set: &TermsSet) -> String {
    let mut words = format!("package {}:", set.package);
    let mut say = |text: String| {
        words.push(' ');
        words.push_str(&text);
    };
    if let Some(from) = set.from {
        say(format!("from {}", utc(from)));
    }
    if let Some(lasts_s) = set.lasts_s {
        say(format!("valid for {lasts_s} s from its first use"));
    }
    if set.overage > Octets::ZERO {
        say(format!("{} of overage permitted", human(set.overage)));
    }
    if set.price > 0 {
        say(format!("paid with {}", set.price));
    }
    if let Some(plan) = &set.plan {
        say(format!("of plan {plan}"));
    }
    words
}

fn plan(began: &PlanBegan) -> String {
    let cadence = &began.cadence;
    let when = match cadence.every {
        Every::Day => "each day".to_owned(),
        Every::Week => format!("on day {} of each week", cadence.day),
        Every::Month => format!("on day {} of each month", cadence.day),
    };
    let rolls = match &began.rollover {
        Some(rollover) => format!(
            ", what is left goes over from {} up to {}",
            human(rollover.min),
            human(rollover.max)
        ),
        None => String::new(),
    };
    format!(
        "plan {} began: {} {when} at {:02}:{:02} in {}{rolls}",
        began.plan,
        human(began.volume),
        cadence.minute / 60,
        cadence.minute % 60,
        cadence.zone
    )
}

fn topped_up(topped: &ToppedUp) -> String {
    match &topped.bought {
        Some(bought) => format!(
            "rule {}: package {bought} was bought because of package {}",
            topped.rule, topped.package
        ),
        None => format!(
            "rule {}: nothing was bought because of package {}: {}",
            topped.rule, topped.package, topped.why
        ),
    }
}

fn caps(caps: &Caps) -> String {
    match (caps.day, caps.month) {
        (None, None) => "without".to_owned(),
        (Some(day), None) => format!("{} a day", human(day)),
        (None, Some(month)) => format!("{} a month", human(month)),
        (Some(day), Some(month)) => format!("{} a day and {} a month", human(day), human(month)),
    }
}

/// A limit's name, for people.
#[must_use]
pub(crate) const fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::DeviceDay => "the device's limit of the day",
        Limit::DeviceMonth => "the device's limit of the month",
        Limit::Share => "the device's share of the pool",
        Limit::PoolDay => "the pool's limit of the day",
        Limit::PoolMonth => "the pool's limit of the month",
    }
}

fn until(lead: &str, until: Option<UnixMillis>) -> String {
    until.map_or_else(String::new, |until| format!("{lead}{}", utc(until)))
}

/// A time for people, UTC: `2026-11-22T10:30:00Z`.
#[must_use]
pub fn utc(at: UnixMillis) -> String {
    i64::try_from(at.value())
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(
            || format!("{at} ms"),
            |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        )
}

/// Why a device is refused now, in words; none when its last answer was a grant.
///
/// For example `3.00 MB available, 40.00 MB reserved by device bus-2 until 2026-11-22T12:04:00Z`.
#[must_use]
pub fn refusal(ledger: &Ledger, id: &DeviceId, now: UnixMillis) -> Option<String> {
    let device = ledger.devices.get(id)?;
    if device.suspended {
        return Some("the device is suspended".to_owned());
    }
    let account = ledger.accounts.get(&device.fleet);
    if account.is_some_and(|fleet| fleet.suspended) {
        return Some(format!("fleet {} is suspended", device.fleet));
    }
    let last = device.axis()?.last.as_ref()?;
    if last.code != Code::CREDIT_LIMIT_REACHED || last.kind == Kind::Final {
        return None;
    }
    let mut words: Vec<String> = Vec::new();
    if let (Some(fleet), Some(spent)) = (account, &device.spent) {
        let full = |limit: &Reached| limit.used >= limit.of;
        let limits = fleet.limits_of_device(spent).chain(fleet.limits_of_pool());
        words.extend(limits.filter(full).map(|limit| {
            format!(
                "{} is reached, {} of {}, anew from {}",
                limit_name(limit.limit),
                human(limit.used),
                human(limit.of),
                utc(limit.until)
            )
        }));
    }
    let mut available: u64 = 0;
    let mut elsewhere: u64 = 0;
    let mut holders: Vec<(DeviceId, Octets, UnixMillis)> = Vec::new();
    let open = [Owner::Device(id.clone()), Owner::Pool(device.fleet.clone())]
        .into_iter()
        .filter_map(|owner| ledger.index.open.get(&owner))
        .flatten();
    for (name, package) in open.filter_map(|name| Some((name, ledger.packages.get(name)?))) {
        let left = package.balances.available.value();
        if package.serves(&last.zone, now) {
            available = available.saturating_add(left);
            holders.extend(holders_of(ledger, name, &device.fleet, id));
        } else {
            elsewhere = elsewhere.saturating_add(left);
        }
    }
    words.push(format!("{} available", human(Octets(available))));
    holders.sort_by_key(|(_, octets, _)| std::cmp::Reverse(*octets));
    let more = holders.len().saturating_sub(HOLDERS_MAX);
    words.extend(
        holders
            .iter()
            .take(HOLDERS_MAX)
            .map(|(holder, octets, lease)| {
                format!(
                    "{} reserved by device {holder} until {}",
                    human(*octets),
                    utc(*lease)
                )
            }),
    );
    if more > 0 {
        words.push(format!("{more} more devices hold reservations"));
    }
    if elsewhere > 0 {
        words.push(format!(
            "{} in packages that do not serve zone {} now",
            human(Octets(elsewhere)),
            last.zone
        ));
    }
    Some(words.join(", "))
}

/// Who else of a fleet has octets of a package reserved, and until when.
fn holders_of(
    ledger: &Ledger,
    package: &PackageId,
    fleet: &simquota_shared::ids::FleetId,
    not: &DeviceId,
) -> Vec<(DeviceId, Octets, UnixMillis)> {
    let members = ledger.index.members.get(fleet).into_iter().flatten();
    let mut holders = Vec::new();
    for id in members.filter(|id| *id != not) {
        let axes = ledger.devices.get(id).into_iter();
        for axis in axes.flat_map(|device| device.epochs.values()) {
            let octets: u64 = axis
                .segments
                .iter()
                .filter(|segment| segment.package.as_ref() == Some(package))
                .map(|segment| segment.octets.value())
                .sum();
            if octets > 0 {
                holders.push((id.clone(), Octets(octets), axis.lease_until));
            }
        }
    }
    holders
}
