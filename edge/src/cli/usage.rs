//! `simquota-edge usage`: what was used, out of the rows that the store keeps.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use simquota_shared::units::{Octets, Seq, human};

use super::status::Seen;
use super::table::{Column, Side, rows};
use super::{ConfigFile, print};
use crate::agent::{Load, Row};
use crate::io::clock;
use crate::io::store::Store;

/// Rows read from the store at a time.
const PAGE: usize = 1_000;
const HOUR_S: u64 = 3_600;
const DAY_S: u64 = 24 * HOUR_S;

/// Show what was used, by hour or day (UTC).
#[derive(Debug, Args)]
#[command(
    after_help = "Shown are the rows of the present epoch that the store still keeps; the totals are of them alone.
While the agent runs the store is its own: only the total is shown then. Stop it to see more.

Examples:
  simquota-edge usage                     the last 30 days
  simquota-edge usage --since 48h --by hour
  simquota-edge usage --since 2026-11-01 --json | jq 'map(.up + .down) | add'"
)]
pub(super) struct Usage {
    #[command(flatten)]
    config: ConfigFile,
    /// From when on: a day (2026-11-01), or so long ago (90min, 48h, 30d).
    #[arg(long, value_name = "WHEN", default_value = "30d", value_parser = since)]
    since: Since,
    /// In steps of
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// A JSON array of steps; an object while the agent runs.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// Hours.
    Hour,
    /// Days.
    Day,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    /// Unix seconds.
    At(u64),
    /// Seconds ago.
    Ago(u64),
}

fn since(text: &str) -> Result<Since, String> {
    let wrong = || format!("`{text}` is no time: write a day such as 2026-11-01, or 48h or 30d");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_s = match text.get(digits.len()..) {
        Some("min") => 60,
        Some("h") => HOUR_S,
        Some("d") => DAY_S,
        _ => {
            return day_of(text)
                .map(|day| Since::At(day * DAY_S))
                .ok_or_else(wrong);
        }
    };
    let count: u64 = digits.parse().map_err(|_| wrong())?;
    count.checked_mul(unit_s).map(Since::Ago).ok_or_else(wrong)
}

/// The sums of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    up: u64,
    down: u64,
    own: u64,
    samples: u64,
}

impl Sum {
    fn add(&mut self, row: &Row) {
        self.up = self.up.saturating_add(row.up);
        self.down = self.down.saturating_add(row.down);
        self.own = self.own.saturating_add(row.own);
        self.samples = self.samples.saturating_add(row.count);
    }
}

impl Usage {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let places = self.config.read()?.places(&self.config.config);
        match Seen::look(&places)? {
            Seen::Running(status) => {
                let used = status.get("used").and_then(Value::as_u64).unwrap_or(0);
                match self.json {
                    true => print(&json!({ "running": true, "used": used }).to_string())?,
                    false => print(&format!(
                        "{} used in this epoch (the agent runs and has the store; stop it to see more)",
                        human(Octets(used))
                    ))?,
                }
            }
            Seen::Stopped(folder) => {
                let (store, _) = Store::open(&folder.store())?;
                let from_s = match self.since {
                    Since::At(at_s) => at_s,
                    Since::Ago(ago_s) => (clock::wall_ms() / 1000).saturating_sub(ago_s),
                };
                self.show(&self.sums(&store, from_s)?)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Steps by their beginning in Unix seconds; none are the rows of a device that had no clock.
    fn sums(&self, store: &Store, from_s: u64) -> anyhow::Result<BTreeMap<Option<u64>, Sum>> {
        let step_s = match self.by {
            By::Hour => HOUR_S,
            By::Day => DAY_S,
        };
        let mut sums: BTreeMap<Option<u64>, Sum> = BTreeMap::new();
        let mut from = Seq(1);
        loop {
            let page = store.load(Load {
                from,
                rows_max: PAGE,
            })?;
            let Some(last) = page.last().map(Row::last) else {
                return Ok(sums);
            };
            if last < from {
                bail!("the store repeats itself at row {last}: report this");
            }
            from = Seq(last.0.saturating_add(1));
            for row in page.iter().filter(|row| !row.clock || row.end >= from_s) {
                // A row's time is its end: one that ends with the hour belongs to it.
                let begin = row
                    .clock
                    .then(|| row.end.saturating_sub(1) / step_s * step_s);
                sums.entry(begin).or_default().add(row);
            }
        }
    }

    fn show(&self, sums: &BTreeMap<Option<u64>, Sum>) -> anyhow::Result<()> {
        if self.json {
            let steps: Vec<Value> = sums
                .iter()
                .map(|(begin, sum)| object(*begin, sum))
                .collect();
            return print(&serde_json::to_string_pretty(&steps)?);
        }
        if sums.is_empty() {
            return print("the store keeps no rows of that time");
        }
        let columns = [
            Column("from", Side::Left),
            Column("up", Side::Right),
            Column("down", Side::Right),
            Column("together", Side::Right),
            Column("own", Side::Right),
            Column("samples", Side::Right),
        ];
        print(&rows(
            columns,
            &sums
                .iter()
                .map(|(begin, sum)| self.cells(*begin, sum))
                .collect::<Vec<_>>(),
        ))
    }

    fn cells(&self, begin: Option<u64>, sum: &Sum) -> [String; 6] {
        let from = match (begin, self.by) {
            (None, _) => "unknown".to_owned(),
            (Some(at_s), By::Day) => date(at_s / DAY_S),
            (Some(at_s), By::Hour) => {
                format!("{} {:02}:00", date(at_s / DAY_S), at_s % DAY_S / HOUR_S)
            }
        };
        [
            from,
            sum.up.to_string(),
            sum.down.to_string(),
            human(Octets(sum.up.saturating_add(sum.down))),
            sum.own.to_string(),
            sum.samples.to_string(),
        ]
    }
}

fn object(begin: Option<u64>, sum: &Sum) -> Value {
    json!({
        "from": begin,
        "up": sum.up,
        "down": sum.down,
        "own": sum.own,
        "samples": sum.samples,
    })
}

/// A day since 1970-01-01 as a date.
///
/// Source: H. Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`: eras of 400 years that begin
/// on the first of March.
fn date(day: u64) -> String {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month < 10 {
        true => (year + era * 400, month + 3),
        false => (year + era * 400 + 1, month - 9),
    };
    format!("{year:04}-{month:02}-{day:02}")
}

/// The day since 1970-01-01 of `YYYY-MM-DD`; none if there is no such day.
fn day_of(text: &str) -> Option<u64> {
    let mut parts = text.splitn(3, '-').map(str::parse::<u64>);
    let (year, month, day) = (
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    );
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Found by its name: one algorithm instead of two that have to agree. A year has its days within 31 a month.
    let guess = (year - 1970) * 365 + (month - 1) * 28;
    let name = format!("{year:04}-{month:02}-{day:02}");
    (guess..guess + 2_100).find(|candidate| date(*candidate) == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn days_have_their_dates() {
        for (day, name) in [
            (0, "1970-01-01"),
            (58, "1970-02-28"),
            (11_016, "2000-02-29"),
            (20_758, "2026-11-01"),
            (47_540, "2100-02-28"),
            (47_541, "2100-03-01"),
        ] {
            assert_eq!(date(day), name);
            assert_eq!(day_of(name), Some(day), "{name}");
        }
        for wrong in [
            "2026-02-29",
            "2026-13-01",
            "2026-1",
            "yesterday",
            "1969-12-31",
        ] {
            assert_eq!(day_of(wrong), None, "{wrong}");
        }
        let last = day_of("9999-12-31").unwrap();
        assert_eq!(date(last), "9999-12-31");
    }

    #[test]
    fn a_time_is_a_day_or_so_long_ago() {
        assert_eq!(since("90min").unwrap(), Since::Ago(5_400));
        assert_eq!(since("48h").unwrap(), Since::Ago(172_800));
        assert_eq!(since("1970-01-02").unwrap(), Since::At(86_400));
        for wrong in ["", "h", "3weeks", "1970-01-32"] {
            assert!(since(wrong).unwrap_err().contains("48h"), "{wrong}");
        }
    }
}
