//! What an admin does: fleets, SIMs, enrolment keys.

use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use serde_cbor::Value;
use simquota_shared::ids::{EnrolmentId, FleetId, Iccid, KeyId, ZoneId};
use simquota_shared::message::SimProfile;

use super::ask::{Asker, MANAGER, Refused};
use super::device::pages;
use super::{Common, print, show};
use crate::charging::{SIMS_MAX, value_map};
use crate::io::keys::Made;
use crate::io::roster::{self, Line};
use crate::ledger::entry::Role;

fn word(value: &impl ToString) -> Value {
    Value::Text(value.to_string())
}

/// True for the refusal of something that is there already.
fn exists(error: &anyhow::Error, name: &str) -> bool {
    error
        .downcast_ref::<Refused>()
        .is_some_and(|refused| refused.why.starts_with(name))
}

/// Creates the fleet and admits its manager's key. A run that stopped half-way is completed by the next one.
pub(super) fn create_fleet(common: &Common, fleet: &FleetId) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let manager: KeyId = format!("{fleet}{MANAGER}")
        .parse()
        .context("the fleet's name is too long for its manager's key")?;
    let args = value_map([("fleet", word(fleet))]);
    let there = match asker.ask(None, "fleet-create", args) {
        Ok(_) => None,
        Err(error) if exists(&error, "fleet-exists") => Some(error),
        Err(error) => return Err(error),
    };
    if common.dry_run
        && let Some(error) = there
    {
        return Err(error);
    }
    // The file first: an admitted key that nobody has would be of no use.
    asker.keys()?.make_person(&manager)?;
    let line = Line::Person(manager.clone(), Role::Manager, Some(fleet.clone()));
    roster::note(&asker.config.data, &line)?;
    let args = value_map([
        ("fleet", word(fleet)),
        ("key", word(&manager)),
        ("role", word(&"manager")),
    ]);
    match (asker.ask(None, "key-create", args), there) {
        (Ok(_), _) => {}
        (Err(error), Some(there)) if exists(&error, "key-exists") => return Err(there),
        (Err(error), _) => return Err(error),
    }
    if common.json {
        let row = value_map([("fleet", word(fleet)), ("key", word(&manager))]);
        print(&show::json_line(&row))?;
    } else {
        print(&format!(
            "fleet {fleet} created, its manager's key is {manager}\n"
        ))?;
    }
    Ok(())
}

/// Fleets, or SIMs.
pub(super) fn list(common: &Common, of: &str) -> anyhow::Result<()> {
    let rows = pages(&mut Asker::open(common)?, None, of)?;
    if common.json {
        return Ok(print(&show::json_line(&Value::Array(rows)))?);
    }
    let (head, names): (&[&str], &[&str]) = match of {
        "sim" => (
            &["SIM", "IMSI", "OPERATOR", "ZONES", "APN", "DEVICE"],
            &["iccid", "imsi", "operator", "zones", "apn", "device"],
        ),
        _ => (
            &["FLEET", ">DEVICES", "SUSPENDED", ">VERSION"],
            &["fleet", "devices", "suspended", "version"],
        ),
    };
    let cells = |row| names.iter().map(|name| show::text(row, name)).collect();
    let cells: Vec<Vec<String>> = rows.iter().map(cells).collect();
    Ok(print(&show::table(head, &cells))?)
}

pub(super) fn show_sim(common: &Common, iccid: &Iccid) -> anyhow::Result<()> {
    let args = value_map([("iccid", word(iccid))]);
    let row = Asker::open(common)?.ask(None, "sim-show", args)?;
    Ok(print(&match common.json {
        true => show::json_line(&row),
        false => show::fields(&row),
    })?)
}

pub(super) fn create_batch(
    common: &Common,
    batch: &EnrolmentId,
    fleet: &FleetId,
    devices: u64,
) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    let keys = asker.keys()?;
    let made = match common.dry_run {
        true => Made::Existed,
        false => keys.make_enrolment(batch)?,
    };
    let args = value_map([
        ("enrolment", word(batch)),
        ("fleet", word(fleet)),
        ("devices", Value::Integer(i128::from(devices))),
    ]);
    match asker.ask(None, "enrolment-create", args) {
        Ok(_) => {}
        Err(error) => {
            // Only a clear no says that the key was not admitted; without an answer it may have been.
            if made == Made::New && error.is::<Refused>() {
                keys.remove_enrolment(batch)?;
            }
            return Err(error);
        }
    }
    if common.json {
        let row = value_map([
            ("batch", word(batch)),
            ("fleet", word(fleet)),
            ("devices", Value::Integer(i128::from(devices))),
        ]);
        print(&show::json_line(&row))?;
    } else {
        print(&format!(
            "batch {batch} admits {devices} devices to fleet {fleet}; next: `simquota-cloud enrol DEVICE --batch {batch}`\n"
        ))?;
    }
    Ok(())
}

pub(super) fn import_sims(common: &Common, file: &Path) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
    let sims = parse_sims(&text).with_context(|| file.display().to_string())?;
    if sims.is_empty() {
        bail!("{} has no SIMs: write a line for each", file.display());
    }
    let mut asker = Asker::open(common)?;
    for chunk in sims.chunks(SIMS_MAX) {
        let rows: Result<Vec<Value>, _> = chunk.iter().map(serde_cbor::value::to_value).collect();
        asker.ask(
            None,
            "sim-import",
            value_map([("sims", Value::Array(rows?))]),
        )?;
    }
    let count = sims.len();
    if common.json {
        print(&format!("{}\n", serde_json::json!({ "sims": count })))?;
    } else {
        print(&format!("{count} SIMs are in the pool\n"))?;
    }
    Ok(())
}

/// Lines of `iccid,imsi,operator,zones,apn`; a head line, empty lines and lines with `#` are passed over.
fn parse_sims(text: &str) -> anyhow::Result<Vec<SimProfile>> {
    let mut sims = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || (index == 0 && line.starts_with("iccid,")) {
            continue;
        }
        let sim = parse_sim(line).with_context(|| format!("line {}", index + 1))?;
        sims.push(sim);
    }
    Ok(sims)
}

fn parse_sim(line: &str) -> anyhow::Result<SimProfile> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [iccid, imsi, operator, zones, apn] = fields.as_slice() else {
        return Err(anyhow!(
            "{} fields instead of 5: write iccid,imsi,operator,zones,apn",
            fields.len()
        ));
    };
    let zones: Result<Vec<ZoneId>, _> = zones
        .split(';')
        .map(str::trim)
        .filter(|zone| !zone.is_empty())
        .map(str::parse)
        .collect();
    Ok(SimProfile {
        iccid: iccid.parse().with_context(|| format!("iccid '{iccid}'"))?,
        imsi: imsi.parse().with_context(|| format!("imsi '{imsi}'"))?,
        operator: operator.parse().context("operator")?,
        zones: zones.context("zones")?,
        apn: apn.parse().context("apn")?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn sims_are_read_from_lines_and_mistakes_name_theirs() {
        let text = "iccid,imsi,operator,zones,apn\n\n# pool\n89001,90140,Cloud Mobile, home;roam ,internet\n89002,90141,,,\n";
        let sims = parse_sims(text).unwrap();
        assert_eq!(sims.len(), 2);
        assert_eq!(sims[0].zones.len(), 2);
        assert_eq!(sims[0].operator.as_str(), "Cloud Mobile");
        assert!(sims[1].zones.is_empty());
        let error = format!("{:#}", parse_sims("89001,90140\n").unwrap_err());
        assert_eq!(
            error,
            "line 1: 2 fields instead of 5: write iccid,imsi,operator,zones,apn"
        );
        let error = format!("{:#}", parse_sims("\n89 001,90140,o,home,a\n").unwrap_err());
        assert!(error.starts_with("line 2: iccid '89 001'"), "{error}");
    }
}
