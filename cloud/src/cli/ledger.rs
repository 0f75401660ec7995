//! `audit` and `explain`: what the journal says.

use std::io::{self, IsTerminal as _};
use std::path::Path;

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::{DeviceId, FleetId};
use simquota_shared::units::{Octets, UnixMillis, human};

use super::ask::{Asker, Refused};
use super::device::find_fleet;
use super::package::{count, with};
use super::{Common, print, show};
use crate::charging::value_map;
use crate::config::Config;
use crate::io::audit::{self, Progress};
use crate::io::clock;

pub(super) fn audit(common: &Common) -> anyhow::Result<()> {
    let found = Asker::open(common)?.ask(None, "audit", value_map([]))?;
    shown(common, &found)
}

pub(super) fn audit_offline(common: &Common) -> anyhow::Result<()> {
    let config = Config::read(&common.config)?;
    audit_store(common, &config.store_folder())
}

/// Audits a store that no service has open: the own one, or a copy. Says on stderr how far it is.
pub(super) fn audit_store(common: &Common, folder: &Path) -> anyhow::Result<()> {
    let mut told = Teller::new();
    let proof = audit::audit(folder, |progress| told.tell(progress))?;
    told.end();
    for note in &proof.notes {
        eprintln!("note: {note}");
    }
    shown(common, &proof.audit.to_value())
}

/// How far an audit is, about once a second: over itself on a terminal, else a line each.
struct Teller {
    began_ms: u64,
    next_ms: u64,
    terminal: bool,
    over: bool,
}

const TELL_MS: u64 = 1000;

impl Teller {
    fn new() -> Self {
        let began_ms = clock::monotonic_ms();
        Self {
            began_ms,
            next_ms: began_ms,
            terminal: io::stderr().is_terminal(),
            over: false,
        }
    }

    fn tell(&mut self, progress: Progress) {
        let now_ms = clock::monotonic_ms();
        if now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms.saturating_add(TELL_MS);
        let text = match progress {
            Progress::Files => "audit: every file against its checksum".to_owned(),
            Progress::Entries(done, all) => format!(
                "audit: {done} of {all} entries, {} s",
                now_ms.saturating_sub(self.began_ms) / 1000
            ),
        };
        if self.terminal {
            eprint!("\r\x1b[K{text}");
            self.over = true;
        } else {
            eprintln!("{text}");
        }
    }

    fn end(&self) {
        if self.over {
            eprint!("\r\x1b[K");
        }
    }
}

fn shown(common: &Common, found: &Value) -> anyhow::Result<()> {
    let holds = show::field(found, "holds") == &Value::Bool(true);
    if common.json {
        print(&show::json_line(found))?;
    } else {
        print(&audit_text(found, holds))?;
    }
    if holds {
        return Ok(());
    }
    Err(Refused {
        code: Code::INVALID_VALUE,
        why: format!(
            "the journal does not hold: {} faults, see above; stop the service and restore a backup",
            show::text(found, "faults_in_all")
        ),
    }
    .into())
}

fn audit_text(found: &Value, holds: bool) -> String {
    let mut pairs = vec![
        ("entries", show::text(found, "entries")),
        ("fleets", show::text(found, "fleets")),
        ("devices", show::text(found, "devices")),
        ("packages", show::text(found, "packages")),
        ("charged", show::octets(found, "charged")),
    ];
    if let Value::Map(totals) = show::field(found, "totals") {
        for (name, octets) in totals {
            if let (Value::Text(name), Some(octets)) = (name, show::number(octets)) {
                pairs.push((name, human(Octets(octets))));
            }
        }
    }
    if let Value::Map(totals) = show::field(found, "money") {
        for (name, amount) in totals {
            if let (Value::Text(name), Some(amount)) = (name, show::number(amount)) {
                pairs.push((name, format!("{amount} in minor units")));
            }
        }
    }
    let verdict = if holds {
        "every identity holds".to_owned()
    } else {
        "DOES NOT HOLD".to_owned()
    };
    pairs.push(("verdict", verdict));
    let mut text = show::list(&pairs);
    if let Value::Array(faults) = show::field(found, "faults") {
        for fault in faults {
            if let Value::Text(fault) = fault {
                text.push_str(&format!("fault: {fault}\n"));
            }
        }
    }
    text
}

pub(super) fn explain(
    common: &Common,
    device: Option<DeviceId>,
    fleet: Option<FleetId>,
    since: Option<UnixMillis>,
) -> anyhow::Result<()> {
    let mut asker = Asker::open(common)?;
    // None: the platform.
    let fleet = match (fleet, &device) {
        (Some(fleet), _) => Some(fleet),
        (None, Some(device)) => Some(find_fleet(&mut asker, device)?),
        (None, None) => None,
    };
    let optional = [
        (
            "device",
            device.map(|device| Value::Text(device.to_string())),
        ),
        ("since", since.map(|since| count(since.value()))),
    ];
    let rows = asker.ask(fleet.as_ref(), "explain", with(value_map([]), optional))?;
    if common.json {
        return Ok(print(&show::json_line(&rows))?);
    }
    let Value::Array(rows) = rows else {
        return Ok(());
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| match show::field(row, "error") {
            Value::Text(error) => vec![
                "-".to_owned(),
                "-".to_owned(),
                "-".to_owned(),
                error.clone(),
            ],
            _ => vec![
                show::text(row, "entry"),
                show::time(row, "at"),
                show::text(row, "steps"),
                show::text(row, "words"),
            ],
        })
        .collect();
    Ok(print(&show::table(
        &[">ENTRY", "TIME", "STEPS", "WHAT HAPPENED"],
        &cells,
    ))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::audit::Audit;

    #[test]
    fn an_audit_says_what_it_found() {
        let mut audit = Audit::default();
        audit.totals.insert("used", 5_000_000);
        audit.charged = 5_000_000;
        let holds = audit_text(&audit.to_value(), true);
        audit
            .faults
            .push("account x: the journal says 1, the ledger 2".to_owned());
        let broken = audit_text(&audit.to_value(), false);
        insta::assert_snapshot!(format!("{holds}\n{broken}"));
    }
}
