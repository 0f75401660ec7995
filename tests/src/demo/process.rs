//! Child processes that are this program, with their logs in files.
//!
//! Files and not pipes (as in [`crate::process`]): a user reads along in another terminal, and an agent that is
//! killed and started again goes on in the same log.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::netns::entering;

/// Set for the demo's children, so that a command typed by a user does not end with its shell.
const CHILD_MARK: &str = "SIMQUOTA_DEMO_CHILD";
const TAIL_LINES: usize = 15;

/// In a child of the demo: end in order when the demo is gone, however it went.
pub(super) fn die_with_parent() {
    if std::env::var_os(CHILD_MARK).is_some() {
        // Without it the child outlives a demo that was killed; there is nothing better to do.
        let _ = set_parent_process_death_signal(Some(Signal::TERM));
    }
}

/// This program as `edge` or `cloud`, cut off from the terminal and from settings of the user's shell.
pub(super) fn itself(role: &str) -> anyhow::Result<Command> {
    itself_within(role, None)
}

/// The same in the network namespace that the kernel shows at this path.
pub(super) fn itself_within(role: &str, namespace: Option<&str>) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut command = match namespace {
        Some(path) => entering(path, &program.to_string_lossy()),
        None => Command::new(program),
    };
    command
        .arg(role)
        .env(CHILD_MARK, "1")
        .env("NO_COLOR", "1")
        .env_remove("RUST_LOG")
        .env_remove("SIMQUOTA_CLOUD_CONFIG")
        .stdin(Stdio::null())
        // Ctrl-C is for the demo, which ends its children in the right order.
        .process_group(0);
    Ok(command)
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    out: PathBuf,
}

impl Process {
    /// Starts it. Its stderr goes on in `NAME.log` of the folder, its stdout begins `NAME.out` anew.
    pub(super) fn start(
        name: &str,
        folder: &Path,
        command: &mut Command,
    ) -> anyhow::Result<Process> {
        let log = folder.join(format!("{name}.log"));
        let out = folder.join(format!("{name}.out"));
        let cannot = |path: &Path| format!("cannot write {}: free some space", path.display());
        let stderr = OpenOptions::new().create(true).append(true).open(&log);
        let stdout = File::create(&out).with_context(|| cannot(&out))?;
        let child = command
            .stderr(stderr.with_context(|| cannot(&log))?)
            .stdout(stdout)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {name}: raise the limit of processes, or take fewer --devices"
                )
            })?;
        Ok(Process {
            name: name.to_owned(),
            child,
            log,
            out,
        })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; nothing while it runs.
    pub(super) fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends a signal, unless it has ended: then its number may belong to another process.
    pub(super) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.child.id().cast_signed()).context("a child has a pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// `kill -9`, and waits until it is gone.
    pub(super) fn kill9(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// What it printed.
    pub(super) fn output(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.out)
            .with_context(|| format!("cannot read {}", self.out.display()))
    }

    /// Its last lines, for messages.
    pub(super) fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(TAIL_LINES));
        let last: Vec<&str> = last.copied().collect();
        format!(
            "the last lines of {}:\n{}",
            self.log.display(),
            last.join("\n")
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.kill9();
    }
}

/// Reads a log that is being written.
#[derive(Debug)]
pub(super) struct Follower {
    path: PathBuf,
    offset: u64,
    begun: Vec<u8>,
}

impl Follower {
    pub(super) fn new(path: PathBuf) -> Follower {
        Follower {
            path,
            offset: 0,
            begun: Vec::new(),
        }
    }

    /// The lines that were completed since this was last asked.
    pub(super) fn lines(&mut self) -> Vec<String> {
        // What can't be read now is read the next time.
        let Ok(mut file) = File::open(&self.path) else {
            return Vec::new();
        };
        let mut more = Vec::new();
        if file.seek(SeekFrom::Start(self.offset)).is_err() || file.read_to_end(&mut more).is_err()
        {
            return Vec::new();
        }
        self.offset += more.len() as u64;
        self.begun.append(&mut more);
        let Some(end) = self.begun.iter().rposition(|octet| *octet == b'\n') else {
            return Vec::new();
        };
        let rest = self.begun.split_off(end + 1);
        let whole = std::mem::replace(&mut self.begun, rest);
        String::from_utf8_lossy(&whole)
            .lines()
            .map(str::to_owned)
            .collect()
    }
}
