//! An agent: its folder, its process, and what it says about itself.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde_json::Value;

use super::plan::Planned;
use super::process::{Follower, Process, itself, itself_within};

/// What the demo reads in `status.json`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Status {
    pub(super) pid: u32,
    pub(super) state: String,
    pub(super) registered: bool,
    pub(super) used: u64,
    pub(super) ceiling: u64,
    pub(super) remaining: u64,
    pub(super) acked: u64,
    pub(super) backlog: u64,
    pub(super) unsynced: u64,
    pub(super) gate_open: bool,
    pub(super) request: u64,
    pub(super) request_open: bool,
    pub(super) answer_code: Option<u16>,
    pub(super) final_unit: bool,
    pub(super) held: Option<(u64, u64, u64)>,
}

impl Status {
    /// Everything that was metered is in the ledger, and nothing of a grant is held.
    fn is_settled(&self) -> bool {
        self.backlog == 0 && self.unsynced == 0 && !self.request_open && self.held.is_none()
    }

    /// The first request was decided, whatever the answer.
    pub(super) fn is_answered(&self) -> bool {
        self.registered && self.request > 0 && self.answer_code.is_some()
    }
}

/// An agent.
pub(super) struct Agent {
    pub(super) planned: Planned,
    pub(super) folder: PathBuf,
    pub(super) config: PathBuf,
    pub(super) process: Option<Process>,
    pub(super) log: Follower,
    /// The latest; of the process that runs, or of the last one.
    pub(super) status: Status,
    /// The network namespace that it runs in, if not the demo's own.
    namespace: Option<String>,
    /// What the table shows as its state while no agent runs.
    pub(super) absent: &'static str,
    /// Rows of it were acknowledged before.
    pub(super) reported: bool,
    ended: bool,
}

impl Agent {
    /// Writes configuration and key.
    pub(super) fn prepare(
        planned: Planned,
        stage: &Path,
        config: &str,
        key: &str,
        namespace: Option<String>,
    ) -> anyhow::Result<Agent> {
        let folder = planned.folder(stage);
        let cannot = || format!("cannot write in {}: free some space", folder.display());
        std::fs::create_dir_all(&folder).with_context(cannot)?;
        let path = folder.join("edge.toml");
        std::fs::write(&path, config).with_context(cannot)?;
        // Nobody else may read a key; the agent refuses one that others can.
        OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(folder.join("edge.key"))
            .and_then(|mut file| writeln!(file, "{key}"))
            .with_context(cannot)?;
        Ok(Agent {
            planned,
            log: Follower::new(folder.join("agent.log")),
            config: path,
            folder,
            process: None,
            namespace,
            status: Status::default(),
            absent: "-",
            reported: false,
            ended: false,
        })
    }

    pub(super) fn start(&mut self) -> anyhow::Result<()> {
        let mut command = itself_within("edge", self.namespace.as_deref())?;
        command
            .args(["run", "--json", "--config"])
            .arg(&self.config);
        let process = Process::start("agent", &self.folder, &mut command);
        self.process = Some(process.with_context(|| self.planned.id.clone())?);
        self.ended = false;
        Ok(())
    }

    /// Reads the status file again. That of an earlier process is not taken for this one's.
    pub(super) fn look(&mut self) {
        let Some(process) = &self.process else { return };
        let text = std::fs::read(self.folder.join("data/status.json")).unwrap_or_default();
        if let Ok(status) = serde_json::from_slice::<Status>(&text)
            && status.pid == process.id()
        {
            self.status = status;
        }
    }

    /// The state for the table.
    pub(super) fn state(&self) -> &str {
        match &self.process {
            None => self.absent,
            Some(process) if process.id() != self.status.pid => "starting",
            Some(_) => &self.status.state,
        }
    }

    /// Whether it would have something to return now.
    pub(super) fn holds_quota(&self) -> bool {
        let least = self.planned.want / 3;
        self.status.gate_open && !self.status.request_open && self.status.remaining > least
    }

    /// `kill -9`.
    pub(super) fn kill9(&mut self) -> anyhow::Result<()> {
        if let Some(mut process) = self.process.take() {
            process.kill9()?;
        }
        self.absent = "killed";
        Ok(())
    }

    /// Fails if it has ended although nobody asked it to.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process
            && let Some(status) = process.exited()?
        {
            bail!(
                "{} ended by itself ({status}); {}",
                self.planned.id,
                process.tail()
            );
        }
        Ok(())
    }

    /// Whether it has ended in order, as it was asked to; then its last words are its status.
    pub(super) fn has_ended(&mut self) -> anyhow::Result<bool> {
        let Some(process) = &mut self.process else {
            return Ok(true);
        };
        let Some(status) = process.exited()? else {
            return Ok(false);
        };
        if !status.success() {
            bail!(
                "{} did not end in order ({status}); {}",
                self.planned.id,
                process.tail()
            );
        }
        let output = process.output()?;
        let last = output.lines().last().unwrap_or_default();
        self.status = serde_json::from_str(last).with_context(|| {
            format!(
                "{} ended without a last status; {}",
                self.planned.id,
                process.tail()
            )
        })?;
        self.process = None;
        self.absent = "stopped";
        self.ended = true;
        Ok(true)
    }

    /// Whether its end left nothing to report or to return.
    pub(super) fn is_settled(&self) -> bool {
        self.ended && self.status.is_settled()
    }

    /// What its store says, now that it does not run.
    pub(super) fn stored(&self) -> anyhow::Result<Value> {
        let output = itself("edge")?
            .args(["status", "--json", "--config"])
            .arg(&self.config)
            .output()
            .context("cannot start `simquota-edge status`")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            format!(
                "`simquota-edge status` of {}: {}",
                self.planned.id,
                said.trim()
            )
        })
    }
}
