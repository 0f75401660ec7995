//! `balance` and `export`: what was there at a time, and what moved.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_cbor::Value;
use simquota_shared::ids::FleetId;
use simquota_shared::units::{EntryNumber, UnixMillis};

use super::ask::Asker;
use super::package::{count, shown};
use super::{Common, print, show, time};
use crate::charging::value_map;
use crate::config::Config;
use crate::io::store::Store;
use crate::ledger::cdr;

#[derive(Debug, Args)]
pub(super) struct BalanceArgs {
    /// Which fleet; all whose manager's key is here when not given
    #[arg(long)]
    fleet: Option<FleetId>,
    /// When: 2026-11-22T10:30:00Z, or 90s, 30m, 2h, 3d ago
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    at: UnixMillis,
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// Which fleet; all whose manager's key is here when not given
    #[arg(long)]
    fleet: Option<FleetId>,
    /// From this entry on; the one after the last of the export before
    #[arg(long, value_name = "ENTRY", default_value_t = 0)]
    from: u64,
    /// How
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Read the store itself, which no service may have open; all fleets
    #[arg(long, conflicts_with = "fleet")]
    offline: bool,
    /// Read this store: a copy, for example of a backup; all fleets
    #[arg(long, value_name = "FOLDER", conflicts_with = "fleet")]
    store: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Values with commas between them, a head line first
    Csv,
    /// A JSON object in each line
    Jsonl,
}

pub(super) fn balance(common: &Common, balance: &BalanceArgs) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    for fleet in fleets(&asker, balance.fleet.as_ref()) {
        let args = value_map([("at", count(balance.at.value()))]);
        let found = asker.ask(Some(&fleet), "balance", args)?;
        if common.json {
            print(&show::json_line(&found))?;
            continue;
        }
        let entry = show::text(&found, "entry");
        print(&format!(
            "fleet {fleet} after entry {entry}, {}\n",
            show::time(&found, "at")
        ))?;
        let packages = show::field(&found, "packages").clone();
        shown(common, &packages, &packages)?;
    }
    Ok(())
}

fn fleets(asker: &Asker, given: Option<&FleetId>) -> Vec<FleetId> {
    given.map_or_else(|| asker.fleets(), |fleet| vec![fleet.clone()])
}

pub(super) fn export(common: &Common, export: &ExportArgs) -> anyhow::Result<()> {
    if export.format == Format::Csv {
        print(&format!("{}\n", cdr::COLUMNS.join(",")))?;
    }
    let mut last = export.from.saturating_sub(1);
    if export.offline || export.store.is_some() {
        let folder = match &export.store {
            Some(store) => store.clone(),
            None => Config::read(&common.config)?.store_folder(),
        };
        let store = Store::open_existing(&folder)?;
        let ledger = store.load()?;
        for entry in store.reader().entries(EntryNumber(export.from)) {
            let entry = entry?;
            let rows = cdr::rows(&entry, |id| {
                ledger.devices.get(id).map(|device| device.fleet.clone())
            });
            write(export.format, &rows, &mut last)?;
        }
    } else {
        let mut asker = Asker::open(common)?;
        let all = fleets(&asker, export.fleet.as_ref());
        for fleet in &all {
            let mut from = Some(export.from);
            while let Some(entry) = from {
                let args = value_map([("from", count(entry))]);
                let Value::Array(mut rows) = asker.ask(Some(fleet), "export", args)? else {
                    anyhow::bail!("the service's answer is no list: report this");
                };
                // The last row says where the next page begins.
                from = rows
                    .pop()
                    .and_then(|end| show::number(show::field(&end, "next")));
                write(export.format, &rows, &mut last)?;
            }
        }
    }
    eprintln!("go on with --from {}", last.saturating_add(1));
    Ok(())
}

fn write(format: Format, rows: &[Value], last: &mut u64) -> anyhow::Result<()> {
    let mut text = String::new();
    for row in rows {
        *last = show::number(show::field(row, "entry")).map_or(*last, |entry| entry.max(*last));
        match format {
            Format::Csv => text.push_str(&csv(row)),
            Format::Jsonl => text.push_str(&show::json_line(row)),
        }
    }
    Ok(print(&text)?)
}

/// A line of a table. No value has a comma or a quote: ids and names have neither.
fn csv(row: &Value) -> String {
    let cells = cdr::COLUMNS.map(|column| match show::field(row, column) {
        Value::Null => String::new(),
        _ => show::text(row, column),
    });
    format!("{}\n", cells.join(","))
}
