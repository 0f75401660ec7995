//! `carrier`: the carrier's records beside ours, SIM by SIM and day by day.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::Iccid;

use super::ask::{Asker, DryRun, Refused};
use super::package::count;
use super::{Common, print, show};
use crate::charging::value_map;

/// A SIM's day: octets by the carrier, octets by us.
type Days = BTreeMap<(Iccid, u64), (u64, u64)>;

pub(super) fn run(common: &Common, file: &Path, permille: u64, tell: bool) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let mut days = parse(&text).with_context(|| file.display().to_string())?;
    let Value::Array(rows) = Asker::open(common)?.ask(None, "usage-by-sim", value_map([]))? else {
        bail!("the service gave no rows: is it of this version?");
    };
    for row in &rows {
        let iccid: Iccid = show::text(row, "iccid").parse().context("a row's iccid")?;
        let day = show::number(show::field(row, "day")).unwrap_or(0);
        let ours = show::number(show::field(row, "octets")).unwrap_or(0);
        // Only days of which the carrier says something: it is late with the newest.
        if let Some(both) = days.get_mut(&(iccid, day)) {
            both.1 = ours;
        }
    }
    let apart: Vec<_> = days
        .iter()
        .filter(|(_, (theirs, ours))| drift(*theirs, *ours).unsigned_abs() > permille)
        .collect();
    let cells: Vec<Vec<String>> = days
        .iter()
        .map(|((iccid, day), (theirs, ours))| {
            vec![
                iccid.to_string(),
                date(*day),
                theirs.to_string(),
                ours.to_string(),
                drift(*theirs, *ours).to_string(),
            ]
        })
        .collect();
    if common.json {
        for ((iccid, day), (theirs, ours)) in &days {
            let row = serde_json::json!({
                "iccid": iccid.to_string(),
                "day": date(*day),
                "carrier": theirs,
                "ledger": ours,
                "drift_permille": drift(*theirs, *ours),
            });
            print(&format!("{row}\n"))?;
        }
    } else {
        let head = ["SIM", "DAY", ">CARRIER", ">LEDGER", ">DRIFT \u{2030}"];
        print(&show::table(&head, &cells))?;
    }
    if apart.is_empty() {
        return Ok(());
    }
    if tell {
        say_apart(common, &apart)?;
    }
    Err(Refused {
        code: Code::INVALID_VALUE,
        why: format!(
            "{} of {} days are more than {permille} \u{2030} apart: look at these devices' meters",
            apart.len(),
            days.len()
        ),
    }
    .into())
}

/// One of them, out of the map.
type Apart<'a> = (&'a (Iccid, u64), &'a (u64, u64));

/// Has an event made of each. A SIM that is in no device any more has no fleet that could hear of it.
fn say_apart(common: &Common, apart: &[Apart<'_>]) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    for ((iccid, day), (theirs, ours)) in apart {
        let args = value_map([
            ("iccid", Value::Text(iccid.to_string())),
            ("day", Value::Text(date(*day))),
            ("carrier", count(*theirs)),
            ("ledger", count(*ours)),
        ]);
        match asker.ask(None, "sim-drift", args) {
            Ok(_) => {}
            Err(error)
                if error.is::<DryRun>()
                    || error
                        .downcast_ref::<Refused>()
                        .is_some_and(|refused| refused.code == Code::USER_UNKNOWN) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// How far ours is from the carrier's, in thousandths of the carrier's; below 0 the meter reported too little.
/// Rounded towards 0, in favour of the device.
fn drift(theirs: u64, ours: u64) -> i64 {
    let apart = (i128::from(ours) - i128::from(theirs)) * 1000;
    let of = i128::from(theirs.max(1));
    i64::try_from(apart / of).unwrap_or(if ours < theirs { i64::MIN } else { i64::MAX })
}

/// Lines of `iccid,YYYY-MM-DD,octets`; a head line, empty lines and lines with `#` are passed over. Several lines of a
/// SIM's day are added up.
fn parse(text: &str) -> anyhow::Result<Days> {
    let mut days = Days::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || (index == 0 && line.starts_with("iccid,")) {
            continue;
        }
        let (key, octets) = parse_line(line).with_context(|| format!("line {}", index + 1))?;
        let both = days.entry(key).or_default();
        both.0 = both
            .0
            .checked_add(octets)
            .with_context(|| format!("line {}: the day's octets overflow", index + 1))?;
    }
    Ok(days)
}

fn parse_line(line: &str) -> anyhow::Result<((Iccid, u64), u64)> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [iccid, day, octets] = fields.as_slice() else {
        return Err(anyhow!("write iccid,YYYY-MM-DD,octets"));
    };
    let iccid = iccid.parse().with_context(|| format!("iccid '{iccid}'"))?;
    let number = day_number(day).with_context(|| format!("'{day}' is no day: write YYYY-MM-DD"))?;
    let octets = octets
        .parse()
        .with_context(|| format!("'{octets}' is not a number of octets"))?;
    Ok(((iccid, number), octets))
}

/// Days since 1970-01-01 of a date from then on.
/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn day_number(text: &str) -> Option<u64> {
    let mut parts = text.split('-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || !(1970..10_000).contains(&year) {
        return None;
    }
    let shifted = if month <= 2 {
        year.checked_sub(1)?
    } else {
        year
    };
    let month_from_march = (month.checked_add(9)?) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let number = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    // 2026-02-31 would be a day in March.
    (date(number) == text).then_some(number)
}

/// Source: as above, `civil_from_days`.
fn date(number: u64) -> String {
    let shifted = number.saturating_add(719_468);
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn days_go_both_ways_and_impossible_ones_are_refused() {
        for (text, number) in [
            ("1970-01-01", 0),
            ("2000-02-29", 11_016),
            ("2026-11-23", 20_780),
            ("2100-03-01", 47_541),
        ] {
            assert_eq!(day_number(text), Some(number));
            assert_eq!(date(number), text);
        }
        for text in [
            "1969-12-31",
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "today",
            "2026-01-01-1",
        ] {
            assert_eq!(day_number(text), None, "{text}");
        }
    }

    #[test]
    fn lines_of_a_day_add_up_and_mistakes_name_theirs() {
        let text = "iccid,day,octets\n89001,2026-11-23,400\n\n# later\n89001,2026-11-23,600\n";
        let days = parse(text).unwrap();
        assert_eq!(days.values().collect::<Vec<_>>(), [&(1000, 0)]);
        let error = format!("{:#}", parse("89001,yesterday,1\n").unwrap_err());
        assert_eq!(error, "line 1: 'yesterday' is no day: write YYYY-MM-DD");
    }

    #[test]
    fn drift_is_in_thousandths_of_the_carriers_and_favours_the_device() {
        assert_eq!(drift(1000, 1000), 0);
        assert_eq!(drift(1000, 900), -100);
        assert_eq!(drift(1000, 1001), 1);
        assert_eq!(drift(100_000, 99_999), 0);
        assert_eq!(drift(0, 5), 5000);
    }
}
