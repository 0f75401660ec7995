//! `simquota-edge status`: from the running agent's status file, or from the store of one that is stopped.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use simquota_shared::units::{Octets, human};

use super::table::pairs;
use super::{ConfigFile, print};
use crate::agent::Durable;
use crate::config::Places;
use crate::io::clock;
use crate::io::folder::{Folder, FolderError};
use crate::io::store::Store;

/// Show how the agent is, running or not.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  simquota-edge status
  simquota-edge status --config bus.toml --json | jq .remaining")]
pub(super) struct Status {
    #[command(flatten)]
    config: ConfigFile,
    /// One JSON object.
    #[arg(long)]
    json: bool,
}

/// What can be seen of an agent from outside.
pub(super) enum Seen {
    /// It runs; what it last wrote about itself.
    Running(Value),
    /// It does not; the folder is ours as long as this lives.
    Stopped(Folder),
}

impl Seen {
    /// Looks whether the agent runs.
    pub(super) fn look(places: &Places) -> anyhow::Result<Seen> {
        match Folder::take_existing(&places.data) {
            Ok(folder) => Ok(Seen::Stopped(folder)),
            Err(FolderError::Locked { .. }) => read(&places.status).map(Seen::Running),
            Err(other) => Err(other.into()),
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let named = || {
        format!(
            "the agent runs, but {} says nothing yet: try again in a second",
            path.display()
        )
    };
    let text = std::fs::read(path).with_context(named)?;
    serde_json::from_slice(&text).with_context(named)
}

impl Status {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let places = self.config.read()?.places(&self.config.config);
        let shown = match Seen::look(&places)? {
            Seen::Running(mut shown) => {
                if let Some(fields) = shown.as_object_mut() {
                    fields.insert("running".to_owned(), json!(true));
                }
                shown
            }
            Seen::Stopped(folder) => {
                let (_, state) = Store::open(&folder.store())?;
                stopped(state.as_ref())
            }
        };
        match self.json {
            true => print(&serde_json::to_string_pretty(&shown)?)?,
            false => print(&pairs(&lines(&shown, clock::wall_ms())))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The same names as those of a running agent, as far as the store knows.
fn stopped(state: Option<&Durable>) -> Value {
    let Some(state) = state else {
        return json!({ "running": false, "state": "never started" });
    };
    let credit = &state.credit;
    json!({
        "running": false,
        "state": if state.clean { "stopped" } else { "stopped without an orderly end" },
        "epoch": state.epoch.0,
        "boot": state.boot.0,
        "iccid": state.iccid.as_ref().map(ToString::to_string),
        "zone": state.zone.to_string(),
        "used": state.used.0,
        "ceiling": credit.ceiling.0,
        "remaining": credit.ceiling.beyond(state.used),
        "request": credit.number.0,
        "request_open": credit.outstanding.is_some(),
        "balance": credit.balance.0,
        "last_row": state.last_seq().0,
        "acked": state.acked.0,
        "backlog": state.backlog(),
        "suspended": state.suspended,
        "armed": state.armed.0,
        "unsure": state.unsure,
    })
}

fn lines(shown: &Value, now_ms: u64) -> Vec<(&'static str, String)> {
    let number = |key: &str| shown.get(key).and_then(Value::as_u64);
    let text = |key: &str| shown.get(key).and_then(Value::as_str);
    let yes = |key: &str| shown.get(key).and_then(Value::as_bool).unwrap_or(false);
    let octets = |key: &str| number(key).map_or("-".to_owned(), |octets| human(Octets(octets)));
    let mut lines = Vec::new();
    if let Some(device) = text("device") {
        lines.push(("device", device.to_owned()));
    }
    let since = number("time_ms").map_or(0, |at_ms| now_ms.saturating_sub(at_ms) / 1000);
    let process = match (yes("running"), number("pid")) {
        (true, Some(pid)) => format!(" (process {pid}, as of {since} s ago)"),
        _ => String::new(),
    };
    lines.push((
        "state",
        format!("{}{process}", text("state").unwrap_or("-")),
    ));
    if let Some(broker) = text("broker") {
        let how = match (yes("connected"), yes("registered")) {
            (true, true) => "connected, registered".to_owned(),
            (true, false) => "connected, not registered yet".to_owned(),
            (false, _) => format!(
                "not connected ({})",
                text("broker_error").unwrap_or("trying")
            ),
        };
        lines.push(("broker", format!("{broker}: {how}")));
    }
    if let Some(source) = text("source") {
        let error = text("source_error").map_or(String::new(), |error| format!(": {error}"));
        lines.push(("source", format!("{source}{error}")));
    }
    if number("epoch").is_none() {
        return lines;
    }
    lines.push((
        "SIM",
        format!(
            "{}, zone {}",
            text("iccid").unwrap_or("none yet"),
            text("zone").unwrap_or("-")
        ),
    ));
    lines.push((
        "used",
        format!(
            "{} in epoch {}, start {}",
            octets("used"),
            number("epoch").unwrap_or(0),
            number("boot").unwrap_or(0)
        ),
    ));
    let valid = match number("valid_for_s") {
        Some(left_s) => format!(", valid for {} s", left_s.saturating_sub(since)),
        None => String::new(),
    };
    let last = if yes("final_unit") {
        ", the last one"
    } else {
        ""
    };
    lines.push((
        "grant",
        format!("{} left{valid}{last}", octets("remaining")),
    ));
    lines.push(("balance", octets("balance")));
    lines.push((
        "backlog",
        format!(
            "{} of {} rows are not acknowledged",
            number("backlog").unwrap_or(0),
            number("last_row").unwrap_or(0)
        ),
    ));
    for (name, key) in [
        ("past gate", "passed_gate"),
        ("refused", "refused_messages"),
    ] {
        if let Some(count) = number(key).filter(|count| *count > 0) {
            let count = match key {
                "passed_gate" => human(Octets(count)),
                _ => format!("{count} messages"),
            };
            lines.push((name, count));
        }
    }
    if let Some(times) = number("gate_remade").filter(|times| *times > 0) {
        lines.push((
            "gate",
            format!("made again {times} times after somebody else touched it"),
        ));
    }
    if let Some(error) = text("gate_error") {
        lines.push(("gate", error.to_owned()));
    }
    if let Some(error) = text("store_error") {
        lines.push(("store", error.to_owned()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use simquota_shared::ids::ZoneId;
    use simquota_shared::units::{Epoch, Seq};

    use super::*;

    #[test]
    fn a_running_agent_and_a_stopped_one_are_shown() {
        let running = json!({
            "running": true, "device": "tracker-1", "pid": 4711, "time_ms": 1_000, "state": "open",
            "broker": "localhost:1883", "broker_error": null, "connected": true, "registered": true,
            "source": "interface wwan0", "source_error": null, "iccid": "8901", "zone": "home",
            "epoch": 77, "boot": 2, "used": 1_200_000, "remaining": 800_000, "valid_for_s": 3_400,
            "final_unit": true, "balance": 9_000_000, "backlog": 3, "last_row": 40,
            "passed_gate": 1_500, "refused_messages": 2, "store_error": null,
        });
        insta::assert_snapshot!(pairs(&lines(&running, 4_000)));
        let state = Durable {
            used: Octets(5_000),
            next_seq: Seq(4),
            clean: false,
            ..Durable::fresh(Epoch(77), None, ZoneId::home())
        };
        insta::assert_snapshot!(pairs(&lines(&stopped(Some(&state)), 0)));
        insta::assert_snapshot!(pairs(&lines(&stopped(None), 0)));
    }
}
