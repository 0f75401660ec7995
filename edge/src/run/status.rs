//! What the running agent shows of itself: `status.json`, and [`Control::status`](super::Control::status).

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use simquota_shared::units::{Octets, human};

use crate::agent::StatusView;
use crate::io::gate::GateKind;

/// At most once in so many milliseconds.
const WRITE_MS: u64 = 1_000;

/// The status. The agent's own part is laid flat beside the rest.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// The program's version.
    pub version: &'static str,
    /// Its process.
    pub pid: u32,
    /// When this was true, by the system's clock (Unix milliseconds).
    pub time_ms: u64,
    /// The id of the device's key.
    pub key_id: String,
    /// The broker, as `host:port`.
    pub broker: String,
    /// Why the broker is not reached.
    pub broker_error: Option<String>,
    /// What is metered.
    pub source: String,
    /// Why it can't be read.
    pub source_error: Option<String>,
    /// The trace is at its end, or the meter was closed.
    pub source_finished: bool,
    /// The gate.
    pub gate: GateKind,
    /// Octets that passed since the start and that a gate in the kernel would have stopped.
    pub passed_gate: u64,
    /// How often the gate's table was made again because somebody else had touched it.
    pub gate_remade: u64,
    /// Why the gate could not be set.
    pub gate_error: Option<String>,
    /// Messages refused since the start: not ours, forged or damaged.
    pub refused_messages: u64,
    /// Why the store takes no writes.
    pub store_error: Option<String>,
    /// Why the SIM's hook did not do its work, the last time.
    pub sim_hook_error: Option<String>,
    /// The agent.
    #[serde(flatten)]
    pub agent: StatusView,
}

impl Snapshot {
    /// For the service manager: what a person wants to know first.
    pub(super) fn line(&self) -> String {
        let agent = &self.agent;
        let trouble = [
            &self.store_error,
            &self.source_error,
            &self.gate_error,
            &self.broker_error,
        ];
        let trouble = trouble.into_iter().flatten().next();
        let left = human(Octets(agent.remaining));
        let waits = agent.backlog;
        let state = agent.state;
        match trouble {
            Some(trouble) => format!("{state}, {left} left, {waits} rows wait; {trouble}"),
            None => format!("{state}, {left} left, {waits} rows wait"),
        }
    }

    /// The same, but for what changes with time alone.
    fn timeless(&self) -> Snapshot {
        let mut timeless = self.clone();
        timeless.time_ms = 0;
        timeless.agent.valid_for_s = timeless.agent.valid_for_s.map(|_| 0);
        timeless
    }
}

/// The file.
#[derive(Debug)]
pub(super) struct StatusFile {
    path: PathBuf,
    written: Option<(u64, Snapshot)>,
    failed: bool,
}

impl StatusFile {
    pub(super) const fn new(path: PathBuf) -> StatusFile {
        StatusFile {
            path,
            written: None,
            failed: false,
        }
    }

    /// Milliseconds until a change may be written.
    pub(super) fn rest_ms(&self, now_ms: u64) -> u64 {
        self.written.as_ref().map_or(0, |(at_ms, _)| {
            at_ms.saturating_add(WRITE_MS).saturating_sub(now_ms)
        })
    }

    /// Whether the file says anything else than this.
    pub(super) fn differs(&self, snapshot: &Snapshot) -> bool {
        let written = self.written.as_ref();
        written.is_none_or(|(_, written)| *written != snapshot.timeless())
    }

    /// Writes it. That it can't be written keeps nobody from running.
    pub(super) fn write(&mut self, now_ms: u64, snapshot: &Snapshot) {
        self.written = Some((now_ms, snapshot.timeless()));
        let result = replace(&self.path, snapshot);
        let failed = result.is_err();
        if let Err(error) = result
            && !self.failed
        {
            tracing::warn!(file = %self.path.display(), %error, "status was not written");
        }
        self.failed = failed;
    }
}

/// A reader sees the old file or the new one, never half of it. Not synced: after a power cut it is of no use anyway.
fn replace(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(snapshot)?;
    text.push(b'\n');
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}
