//! What an entry means, in words: for people who ask where each octet went.

use serde_cbor::Value;
use simquota_shared::message::usage::flag;
use simquota_shared::message::{Kind, Reason};
use simquota_shared::trace;
use simquota_shared::units::{Octets, human};

use super::account::{Account, Move, Pocket, Slot};
use super::entry::{
    AccessChange, AccessChanged, By, Cause, Credit, Entry, Late, Segment, Size, Usage, after,
};

mod estate;
mod rule;

pub use rule::{refusal, utc};

/// One row of an explanation: entry number, time, patent steps, words, movements.
#[must_use]
pub fn row(entry: &Entry) -> Value {
    let moves = entry
        .moves
        .iter()
        .map(|Move { from, to, octets }| {
            Value::Text(format!("{} -> {}: {octets}", from.name(), to.name()))
        })
        .collect();
    crate::charging::value_map([
        ("entry", Value::Integer(i128::from(entry.number.value()))),
        ("at", Value::Integer(i128::from(entry.at.value()))),
        ("steps", Value::Text(steps(entry))),
        ("cause", Value::Text(entry.cause.name().to_owned())),
        ("words", Value::Text(words(entry))),
        ("moves", Value::Array(moves)),
        (
            "trace",
            crate::charging::optional(trace(entry), Value::Text),
        ),
    ])
}

/// What the logs of device and cloud call what an entry answers or books, see [`simquota_shared::trace`].
#[must_use]
pub fn trace(entry: &Entry) -> Option<String> {
    match &entry.cause {
        Cause::Credit(credit) => Some(trace::credit(credit.epoch, credit.number)),
        Cause::Usage(usage) => Some(trace::usage(usage.epoch, usage.first, usage.last)),
        _ => None,
    }
}

/// The steps of the patent application (CN110446171A) that an entry shows.
#[must_use]
pub fn steps(entry: &Entry) -> String {
    let mut steps: Vec<&str> = Vec::new();
    match &entry.cause {
        Cause::Registered(_) => steps.extend(["S11", "S12"]),
        Cause::PackageBought(_) | Cause::PlanBegan(_) => steps.push("S13"),
        Cause::Credit(credit) => {
            if released(&entry.moves) > 0 {
                steps.extend(["S21", "S22", "S23"]);
            } else if credit.kind == Kind::Initial {
                steps.push("S21");
            }
            if credit.kind == Kind::Update {
                steps.extend(["S41", "S43"]);
            }
            if credit.code.is_success() && credit.kind != Kind::Final {
                steps.push("S31");
            }
            // Also where the octets before it were in a sample already, and none is left to carry the flag.
            if credit.reason == Reason::SWITCH {
                steps.push("S33");
            }
        }
        Cause::Usage(usage) => {
            steps.push("S32");
            if usage.flags & flag::SWITCH != 0 {
                steps.push("S33");
            }
            if usage.flags & flag::UNCLEAN != 0 {
                steps.push("S5");
            }
        }
        _ => {}
    }
    steps.join(" ")
}

/// What happened, in one line.
#[must_use]
pub fn words(entry: &Entry) -> String {
    match &entry.cause {
        Cause::FleetCreated(created) => format!("fleet {} was created", created.fleet),
        Cause::KeyCreated(created) => format!("key {} was admitted", created.key),
        Cause::EnrolmentCreated(created) => {
            format!(
                "enrolment key {} was admitted for fleet {}",
                created.enrolment, created.fleet
            )
        }
        Cause::SimsImported(imported) => format!("{} SIMs entered the pool", imported.sims.len()),
        Cause::Registered(registered) => format!(
            "registered: epoch {}, start {}, serial {}, SIM {} bound",
            registered.epoch, registered.boot, registered.serial, registered.iccid
        ),
        Cause::PackageBought(bought) => {
            format!(
                "package {} of {} was bought",
                bought.package,
                human(bought.volume)
            )
        }
        Cause::Covered(_) => format!(
            "uncovered octets got a package{}",
            paid_by(&entry.moves, Pocket::Reserved)
        ),
        Cause::DebtPaid(paid) => format!(
            "{} of debt were paid by package {}",
            human(Octets(sum(&entry.moves, |to| matches!(
                to,
                Account::Device(_, Slot::Paid)
            )))),
            paid.package
        ),
        Cause::Credit(credit) => credit_words(credit, &entry.moves),
        Cause::Pushed(pushed) => format!(
            "after a top-up the ceiling moved to {} unasked (push {} after answer {}){}",
            pushed.ceiling,
            pushed.push,
            pushed.number,
            size_words(pushed.size.as_ref())
        ),
        Cause::Usage(usage) => usage_words(usage, &entry.moves),
        Cause::Closed(closed) => format!(
            "epoch {} was closed by the one after it, at {} octets{}",
            closed.epoch,
            closed.total,
            paid_by(&entry.moves, Pocket::Used)
        ),
        Cause::Lapsed(lapsed) => format!(
            "the lease of epoch {} ran out: {} were released",
            lapsed.epoch,
            human(Octets(released(&entry.moves)))
        ),
        Cause::PackageEnded(ended) => format!(
            "package {} {}",
            ended.package,
            if ended.refunded {
                "was cancelled, its rest refunded"
            } else {
                "ended, its rest expired"
            }
        ),
        Cause::Credited(credited) => format!(
            "{} were credited to package {}: {}",
            human(Octets(sum(&entry.moves, |to| matches!(
                to,
                Account::Package(_, Pocket::Available)
            )))),
            credited.package,
            credited.why
        ),
        Cause::Suspension(suspension) => {
            if suspension.suspended {
                "suspended".to_owned()
            } else {
                "resumed".to_owned()
            }
        }
        Cause::Commanded(commanded) => format!("command {} was issued", commanded.number),
        Cause::CommandSettled(settled) => {
            format!(
                "command {} was settled with outcome {}",
                settled.number, settled.outcome
            )
        }
        Cause::PolicySet(set) => format!("policy {} was set", set.policy.version),
        Cause::AccessChanged(changed) => access_words(changed),
        Cause::Suspected(suspected) => {
            format!("look at this: {} ({})", suspected.words, suspected.reason)
        }
        Cause::CommandDone(done) => {
            format!(
                "command {} '{}' by key {}: {}",
                done.id, done.name, done.author, done.code
            )
        }
        _ => rule::words(entry),
    }
}

fn access_words(changed: &AccessChanged) -> String {
    let name = &changed.name;
    match changed.change {
        AccessChange::KeyRevoked => format!("key {name} was revoked"),
        AccessChange::EnrolmentRevoked => format!("enrolment key {name} was revoked"),
        AccessChange::EnrolmentUntil => format!("enrolment key {name} got an end"),
        AccessChange::DeviceBarred => format!("device {name} was shut out: {}", changed.why),
        AccessChange::GenerationBegun => format!(
            "device {name} went on to generation {} of its key",
            changed.generation.unwrap_or_default()
        ),
        AccessChange::DeviceReadmitted => format!("device {name} was readmitted"),
    }
}

fn credit_words(credit: &Credit, moves: &[Move]) -> String {
    let kind = match credit.kind {
        Kind::Initial => "initial",
        Kind::Update => "update",
        Kind::Final => "final",
    };
    let back = released(moves);
    let returned = if back > 0 {
        format!("the remainder of {} went back first; ", human(Octets(back)))
    } else {
        String::new()
    };
    let granted: u64 = credit
        .appended
        .iter()
        .map(|segment| segment.octets.value())
        .sum();
    let last = if credit.final_unit.is_some() {
        ", the last unit"
    } else {
        ""
    };
    let size = size_words(credit.size.as_ref());
    format!(
        "request {} ({kind}, {}) at {} octets: {returned}{}, {} set aside{}, ceiling {}{last}{size}",
        credit.number,
        credit.reason.name(),
        credit.used,
        credit.code,
        human(Octets(granted)),
        from_packages(&credit.appended),
        credit.ceiling
    )
}

/// Why a grant has its size. For example `; sized: to last 1800 s at its recent 36.00 kB an hour`.
fn size_words(size: Option<&Size>) -> String {
    let Some(Size {
        by,
        hourly,
        lasts_s,
    }) = size
    else {
        return String::new();
    };
    let rate = hourly.map(|octets| human(Octets(octets)));
    let why = match (by, rate) {
        (By::Asked, _) => "as it asked".to_owned(),
        (By::Rate, rate) => format!(
            "to last {lasts_s} s at its recent {} an hour",
            rate.unwrap_or_default()
        ),
        (By::Least, Some(rate)) => {
            format!("policy's least, {lasts_s} s at its recent {rate} an hour are less")
        }
        (By::Least, None) => "policy's least".to_owned(),
        (By::Most, Some(rate)) => {
            format!("policy's most, {lasts_s} s at its recent {rate} an hour are more")
        }
        (By::Most, None) => "policy's most".to_owned(),
        (By::Half, _) => "half of what is left".to_owned(),
        (By::Share, _) => "its share of the pool".to_owned(),
        (By::Limit, _) => "what the limits of day and month leave".to_owned(),
        (By::Left, _) => "all that is left".to_owned(),
        (By::Alone, _) => "a package that ends soon is granted alone".to_owned(),
        (By::Push, _) => "its part of what was gained".to_owned(),
    };
    format!("; sized: {why}")
}

fn usage_words(usage: &Usage, moves: &[Move]) -> String {
    let octets = usage.up.value().saturating_add(usage.down.value());
    let mut words = format!(
        "samples {}-{}: {} used (up {}, down {}), used total {}{}",
        usage.first,
        usage.last,
        human(Octets(octets)),
        usage.up,
        usage.down,
        usage.total,
        paid_by(moves, Pocket::Used)
    );
    let debt = sum(moves, |to| matches!(to, Account::Device(_, Slot::Debt)));
    if debt > 0 {
        words.push_str(&format!(", {} as debt", human(Octets(debt))));
    }
    for (bit, name) in [
        (flag::SWITCH, "left the SIM"),
        (flag::SHUTDOWN, "shutdown"),
        (flag::RESET, "counter began anew"),
        (flag::CLOCK_UNSURE, "time unsure"),
        (flag::OVERRUN, "past the ceiling"),
        (flag::UNCLEAN, "unexpected stop"),
    ] {
        if usage.flags & bit != 0 {
            words.push_str(&format!(" [{name}]"));
        }
    }
    if let Some(late) = &usage.late {
        words.push_str(&format!(" [{}]", late_words(late)));
    }
    words
}

/// For example `late: 1.00 kB after the lease, after the package's end`.
fn late_words(late: &Late) -> String {
    let after: Vec<&str> = [
        (after::LEASE, "after the lease"),
        (after::END, "after the package's end"),
        (after::FINAL, "after the device was done"),
    ]
    .into_iter()
    .filter(|(bit, _)| late.after & bit != 0)
    .map(|(_, words)| words)
    .collect();
    format!("late: {} {}", human(late.octets), after.join(", "))
}

fn from_packages(segments: &[Segment]) -> String {
    let names: Vec<String> = segments
        .iter()
        .map(|segment| match &segment.package {
            Some(package) => format!("{} of {package}", segment.octets),
            None => format!("{} uncovered", segment.octets),
        })
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(" ({})", names.join(", "))
    }
}

fn paid_by(moves: &[Move], target: Pocket) -> String {
    let names: Vec<String> = moves
        .iter()
        .filter_map(|movement| match (&movement.from, &movement.to) {
            (Account::Package(_, from), Account::Package(package, to)) if *to == target => Some(
                format!("{} by {package} ({})", movement.octets, from.name()),
            ),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        String::new()
    } else {
        format!(": {}", names.join(", "))
    }
}

/// Octets that came back from reservations.
fn released(moves: &[Move]) -> u64 {
    moves
        .iter()
        .filter(|movement| {
            matches!(movement.from, Account::Package(_, Pocket::Reserved))
                && !matches!(movement.to, Account::Package(_, Pocket::Used))
        })
        .map(|movement| movement.octets.value())
        .sum()
}

fn sum(moves: &[Move], to: impl Fn(&Account) -> bool) -> u64 {
    moves
        .iter()
        .filter(|movement| to(&movement.to))
        .map(|movement| movement.octets.value())
        .sum()
}
