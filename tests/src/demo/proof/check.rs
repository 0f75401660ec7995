//! What must be so at the end: each identity of the ledger, and each meter against what really passed.

use std::path::Path;

use serde_json::Value;

use super::super::cloud::{number, text};
use super::super::plan::{HERO, METER, MODEM};
use super::super::sim::SimSeen;
use super::{Line, Meters, Midway};

/// Something that must be so.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) says: String,
    pub(super) holds: bool,
}

fn total(rows: &[Value], name: &str) -> u64 {
    rows.iter().map(|row| number(row, name)).sum()
}

/// What the audit sums up over all accounts of a name.
fn booked(audit: &Value, name: &str) -> u64 {
    audit.get("totals").map_or(0, |totals| number(totals, name))
}

pub(super) fn all_but(broken: &[String], all: usize) -> String {
    match broken {
        [] => format!("all {all}"),
        broken => format!("not {}", broken.join(", ")),
    }
}

fn broken(rows: &[Value], name: &str, holds: impl Fn(&Value) -> bool) -> Vec<String> {
    let broken = rows.iter().filter(|row| !holds(row));
    broken.map(|row| text(row, name).to_owned()).collect()
}

pub(super) fn packages_balance(packages: &[Value]) -> Check {
    let sum =
        |row: &Value, names: &[&str]| -> u64 { names.iter().map(|name| number(row, name)).sum() };
    let right = [
        "available",
        "reserved",
        "used",
        "expired",
        "refunded",
        "moved_out",
    ];
    let broken = broken(packages, "package", |row| {
        sum(row, &["volume", "credited"]) == sum(row, &right)
    });
    let [volume, available, used] =
        ["volume", "available", "used"].map(|name| grouped(total(packages, name)));
    Check {
        name: "each package: volume + credited = available + reserved + used + expired + refunded + moved out",
        says: format!(
            "{}; bought {volume}, available {available}, used {used}",
            all_but(&broken, packages.len())
        ),
        holds: broken.is_empty(),
    }
}

pub(super) fn segments_back(rows: &[Value]) -> Check {
    let broken = broken(rows, "device", |row| {
        let open = number(row, "ceiling").saturating_sub(number(row, "charged_epoch"));
        number(row, "reserved") == open
    });
    Check {
        name: "each device: its segments = max(0, ceiling - charged)",
        says: all_but(&broken, rows.len()),
        holds: broken.is_empty(),
    }
}

pub(super) fn debits_add_up(rows: &[Value], audit: &Value) -> Check {
    let aside = booked(audit, "debt-forgiven") + booked(audit, "control");
    let paid = |row: &Value| number(row, "debited") + number(row, "paid") + number(row, "debt");
    // What was forgiven or is not charged is only known for all devices together.
    let broken = match aside {
        0 => broken(rows, "device", |row| number(row, "charged") == paid(row)),
        _ => Vec::new(),
    };
    let sum: u64 = rows.iter().map(paid).sum::<u64>() + aside;
    let charged = total(rows, "charged");
    let [debited, cleared, debt] =
        ["debited", "paid", "debt"].map(|name| grouped(total(rows, name)));
    Check {
        name: "each device: charged = debited from packages + debt paid + debt open + debt forgiven + control",
        says: format!(
            "{}; {} = {debited} + {cleared} + {debt} + {} + {}",
            all_but(&broken, rows.len()),
            grouped(charged),
            grouped(booked(audit, "debt-forgiven")),
            grouped(booked(audit, "control"))
        ),
        holds: broken.is_empty() && charged == sum,
    }
}

pub(super) fn packages_paid(packages: &[Value], rows: &[Value], audit: &Value) -> Check {
    let used = total(packages, "used");
    let unpaid = booked(audit, "debt") + booked(audit, "debt-forgiven") + booked(audit, "control");
    let charged = total(rows, "charged");
    Check {
        name: "what devices were charged = what packages were used + what none covered",
        says: format!(
            "{} = {} + {}",
            grouped(charged),
            grouped(used),
            grouped(unpaid)
        ),
        holds: charged == used + unpaid,
    }
}

pub(super) fn grants_returned(rows: &[Value], packages: &[Value]) -> Check {
    let (held, reserved) = (total(rows, "reserved"), total(packages, "reserved"));
    Check {
        name: "every grant was used or went back",
        says: format!("{} octets are still set aside", grouped(held.max(reserved))),
        holds: held == 0 && reserved == 0,
    }
}

/// `rows` where nothing was charged since the audit.
pub(super) fn journal(audit: &Value, rows: Option<&[Value]>) -> Check {
    let faults: Vec<&str> = audit
        .get("faults")
        .and_then(Value::as_array)
        .map(|faults| faults.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let whole = audit.get("holds") == Some(&Value::Bool(true));
    let same = rows.is_none_or(|rows| number(audit, "charged") == total(rows, "charged"));
    let entries = grouped(number(audit, "entries"));
    let says = match (whole, same) {
        (true, true) => {
            format!("{entries} entries, every balance and every link of the chains anew")
        }
        (true, false) => format!(
            "its {} charged octets are not those of the devices",
            grouped(number(audit, "charged"))
        ),
        (false, _) => faults.join("; "),
    };
    Check {
        name: "the journal adds up to 0 and to every balance",
        says,
        holds: whole && same,
    }
}

pub(super) fn traces_metered(lines: &[Line]) -> Check {
    let broken: Vec<String> = lines
        .iter()
        .filter(|line| line.passed.is_some_and(|passed| passed != line.metered))
        .filter(|line| line.id != MODEM)
        .map(|line| line.id.clone())
        .collect();
    let traces = lines
        .iter()
        .filter(|line| line.passed.is_some() && line.id != MODEM);
    let traces = traces.count();
    Check {
        name: "each trace: what passed was metered",
        says: all_but(&broken, traces),
        holds: broken.is_empty(),
    }
}

pub(super) fn lo_metered(lines: &[Line], meters: Meters) -> Check {
    let metered: u64 = lines
        .iter()
        .filter(|line| line.id == METER)
        .map(|line| line.metered)
        .sum();
    let least = meters.own;
    let most = meters.lo_kernel.unwrap_or(u64::MAX);
    let kernel = meters.lo_kernel.map_or("(not told)".to_owned(), grouped);
    Check {
        name: "lo: the demo's own payload <= metered <= what the kernel counted",
        says: format!("{} <= {} <= {kernel}", grouped(least), grouped(metered)),
        holds: least > 0 && least <= metered && metered <= most,
    }
}

pub(super) fn sim_metered(lines: &[Line], sim: SimSeen) -> Check {
    let metered: u64 = lines
        .iter()
        .filter(|line| line.id == MODEM)
        .map(|line| line.metered)
        .sum();
    let (before, after) = sim.passed;
    Check {
        name: "the SIM behind the gate: what the far end counted was metered, but for the agent's last words",
        says: format!(
            "{} <= {} <= {}",
            grouped(before),
            grouped(metered),
            grouped(after)
        ),
        holds: before > 0 && before <= metered && metered <= after,
    }
}

pub(super) fn midway(midway: &Midway) -> Check {
    let Midway {
        rows,
        packages,
        audit,
    } = midway;
    let parts = [
        packages_balance(packages),
        segments_back(rows),
        journal(audit, None),
    ];
    let open = rows.iter().filter(|row| number(row, "reserved") > 0);
    let broken: Vec<&str> = parts
        .iter()
        .filter(|part| !part.holds)
        .map(|part| part.name)
        .collect();
    Check {
        name: "these held with grants open too",
        says: match broken.as_slice() {
            [] => format!(
                "{} open grants, {} octets set aside, {} entries",
                open.count(),
                grouped(total(rows, "reserved")),
                grouped(number(audit, "entries"))
            ),
            broken => format!("not: {}", broken.join("; ")),
        },
        holds: broken.is_empty(),
    }
}

pub(super) fn remainder(returned: Option<String>) -> Check {
    Check {
        name: "the killed agent's remainder went back before its next grant",
        holds: returned.is_some(),
        says: returned.unwrap_or_else(|| format!("no entry says so; see `explain {HERO}`")),
    }
}

/// ERROR in a log means that a person must act: nothing in the story asks for that.
pub(super) fn errors(folder: &Path) -> Check {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let logs = files.flat_map(|file| [file.path(), file.path().join("agent.log")]);
    let logs = logs.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    let mut first = None;
    let mut count = 0;
    for path in logs {
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let bad = |line: &&str| {
            line.split_whitespace().nth(1) == Some("ERROR") || line.contains(" panicked at ")
        };
        for line in text.lines().filter(bad) {
            count += 1;
            first.get_or_insert_with(|| line.to_owned());
        }
    }
    Check {
        name: "no ERROR and no panic in any log",
        says: first.map_or("none".to_owned(), |first| {
            format!("{count}, the first: {first}")
        }),
        holds: count == 0,
    }
}

/// `1,234,567`
pub(super) fn grouped(octets: u64) -> String {
    let digits = octets.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
