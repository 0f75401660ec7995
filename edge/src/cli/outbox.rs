//! `simquota-edge outbox`: the rows that the cloud has not acknowledged.

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};
use simquota_shared::message::usage::flag;
use simquota_shared::units::Seq;

use super::status::Seen;
use super::table::{Column, Side, rows};
use super::{ConfigFile, print};
use crate::agent::{Load, Row};
use crate::io::store::Store;

/// Rows read from the store at a time.
const PAGE: usize = 1_000;

/// Show what the cloud has not acknowledged yet.
#[derive(Debug, Args)]
#[command(
    after_help = "While the agent runs the store is its own: only counts are shown then. Stop it to see the rows.

Examples:
  simquota-edge outbox
  simquota-edge outbox --json --limit 1000000 | jq 'map(.up + .down) | add'"
)]
pub(super) struct Outbox {
    #[command(flatten)]
    config: ConfigFile,
    /// Show at most so many rows, oldest first.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// A JSON array of rows; counts in an object while the agent runs.
    #[arg(long)]
    json: bool,
}

impl Outbox {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let places = self.config.read()?.places(&self.config.config);
        match Seen::look(&places)? {
            Seen::Running(status) => self.counts(&status)?,
            Seen::Stopped(folder) => {
                let (store, state) = Store::open(&folder.store())?;
                let (acked, backlog) =
                    state.map_or((Seq::ZERO, 0), |state| (state.acked, state.backlog()));
                let found = load(&store, acked, self.limit)?;
                self.show(&found, backlog)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn counts(&self, status: &Value) -> anyhow::Result<()> {
        let count = |key: &str| status.get(key).and_then(Value::as_u64).unwrap_or(0);
        if self.json {
            let counts = json!({
                "running": true, "backlog": count("backlog"), "acked": count("acked"), "last_row": count("last_row"),
            });
            return print(&counts.to_string());
        }
        if count("backlog") == 0 {
            return print("nothing waits: the cloud has acknowledged every row");
        }
        print(&format!(
            "{} rows wait, {} to {} (the agent runs and has the store; stop it to see them)",
            count("backlog"),
            count("acked").saturating_add(1),
            count("last_row"),
        ))
    }

    fn show(&self, found: &[Row], backlog: u64) -> anyhow::Result<()> {
        if self.json {
            let found: Vec<Value> = found.iter().map(object).collect();
            return print(&serde_json::to_string_pretty(&found)?);
        }
        if found.is_empty() {
            return print("nothing waits: the cloud has acknowledged every row");
        }
        let columns = [
            Column("row", Side::Right),
            Column("end", Side::Right),
            Column("SIM", Side::Left),
            Column("zone", Side::Left),
            Column("up", Side::Right),
            Column("down", Side::Right),
            Column("total", Side::Right),
            Column("flags", Side::Left),
        ];
        let lines: Vec<_> = found.iter().map(cells).collect();
        print(&rows(columns, &lines))?;
        let shown: u64 = found.iter().map(|row| row.count).sum();
        match backlog > shown {
            true => print(&format!("… {} more (--limit)", backlog - shown)),
            false => Ok(()),
        }
    }
}

fn load(store: &Store, acked: Seq, limit: usize) -> anyhow::Result<Vec<Row>> {
    let mut found: Vec<Row> = Vec::new();
    let mut from = Seq(acked.0.saturating_add(1));
    while found.len() < limit {
        let rows_max = PAGE.min(limit - found.len());
        let page = store.load(Load { from, rows_max })?;
        let Some(last) = page.last().map(Row::last) else {
            break;
        };
        from = Seq(last.0.saturating_add(1));
        found.extend(page);
    }
    Ok(found)
}

fn cells(row: &Row) -> [String; 8] {
    let number = match row.count {
        1 => row.seq.to_string(),
        _ => format!("{}-{}", row.seq, row.last()),
    };
    // Without a clock a row's time counts from the agent's start.
    let end = match row.clock {
        true => row.end.to_string(),
        false => format!("start {} +{} s", row.boot, row.end),
    };
    [
        number,
        end,
        row.iccid
            .as_ref()
            .map_or("-".to_owned(), ToString::to_string),
        row.zone.to_string(),
        row.up.to_string(),
        row.down.to_string(),
        row.total.to_string(),
        flags(row.flags).join(" "),
    ]
}

fn object(row: &Row) -> Value {
    json!({
        "row": row.seq.0,
        "count": row.count,
        "end": row.end,
        "clock": row.clock,
        "boot": row.boot.0,
        "iccid": row.iccid.as_ref().map(ToString::to_string),
        "zone": row.zone.to_string(),
        "up": row.up,
        "down": row.down,
        "own": row.own,
        "total": row.total.0,
        "unsure": row.unsure,
        "flags": flags(row.flags),
    })
}

fn flags(bits: u64) -> Vec<&'static str> {
    let names = [
        (flag::SWITCH, "switch"),
        (flag::SHUTDOWN, "shutdown"),
        (flag::RESET, "reset"),
        (flag::CLOCK_UNSURE, "clock-unsure"),
        (flag::OVERRUN, "overrun"),
        (flag::UNCLEAN, "unclean"),
    ];
    let set = names.into_iter().filter(|(bit, _)| bits & bit != 0);
    set.map(|(_, name)| name).collect()
}
