//! Child processes with their output at hand, and waiting for facts.

mod log;

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use self::log::{Log, follow};
pub use self::log::{LogLine, Stream};

/// How long a test waits for any fact. Generous on purpose: it is reached only when something is broken.
pub const LIMIT: Duration = Duration::from_secs(30);

const POLL: Duration = Duration::from_millis(10);

/// Asks every 10 ms until there is an answer. For facts outside of this process (a port, a file, a row).
///
/// It blocks its thread, so what answers must run on another one.
///
/// # Errors
/// When `limit` has passed; the text names `what`.
pub fn await_fact<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(POLL);
    }
}

/// A running program whose output lines are kept. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: std::process::Child,
    log: Arc<Log>,
}

impl Child {
    /// Starts `program` with `args` and, added to this process's environment, `env`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn<A: AsRef<OsStr>>(
        program: &Path,
        args: &[A],
        env: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let name = program.file_name().unwrap_or(program.as_os_str());
        let mut command = Command::new(program);
        command.args(args).envs(env.iter().copied());
        Self::start(&name.to_string_lossy(), &mut command)
    }

    /// Starts a prepared command (working directory, cleared environment, …); `name` stands in messages.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(name: &str, command: &mut Command) -> anyhow::Result<Self> {
        let mut inner = command
            // Colour codes would stand between a pattern and the text.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}; is it built or installed?"))?;
        let log = Arc::new(Log::new());
        follow(&log, Stream::Stdout, inner.stdout.take());
        follow(&log, Stream::Stderr, inner.stderr.take());
        Ok(Self {
            name: name.to_owned(),
            inner,
            log,
        })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.inner.id()
    }

    /// How it ended, or nothing while it runs.
    ///
    /// # Errors
    /// When the system cannot say.
    pub fn exited(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.inner.try_wait()?)
    }

    /// Kills it without a warning (`kill -9`) and waits until it is gone. Nothing happens if it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill9(&mut self) -> anyhow::Result<()> {
        self.inner.kill()?;
        self.inner.wait()?;
        Ok(())
    }

    /// Asks it to end (SIGTERM) and returns at once. Nothing happens if it has ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)
    }

    /// The same by SIGINT, as Ctrl-C does.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn interrupt(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::INT)
    }

    fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        // Once it was waited for, its number may belong to another process.
        if self.inner.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = Pid::from_raw(self.inner.id().cast_signed()).context("a child has a pid")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    /// Waits until it has ended and its output is read to the end.
    ///
    /// # Errors
    /// When it still runs after `limit`; the text shows its last lines.
    pub fn wait_exit(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let inner = &mut self.inner;
        let status = await_fact(limit, &what, || inner.try_wait().transpose())
            .with_context(|| self.log.tail())??;
        // A grandchild may hold the pipes open: then what was read so far has to do.
        self.log.wait_closed(Duration::from_secs(1));
        Ok(status)
    }

    /// Waits for an output line, past or coming, that `fits`.
    ///
    /// # Errors
    /// When there is none within `limit`, or the program ended without it; the text shows its last lines.
    pub fn wait_line(
        &self,
        fits: impl FnMut(&str) -> bool,
        limit: Duration,
    ) -> anyhow::Result<LogLine> {
        self.wait_line_after(0, fits, limit)
    }

    /// [`wait_line`](Self::wait_line) among the lines after a [`mark`](Self::mark).
    ///
    /// # Errors
    /// As there.
    pub fn wait_line_after(
        &self,
        mark: u64,
        fits: impl FnMut(&str) -> bool,
        limit: Duration,
    ) -> anyhow::Result<LogLine> {
        self.log
            .wait(mark, fits, limit)
            .map_err(|why| anyhow!("{}: {why}\n{}", self.name, self.log.tail()))
    }

    /// How many lines there were so far.
    pub fn mark(&self) -> u64 {
        self.log.len()
    }

    /// The lines that are kept: the latest 100,000.
    pub fn lines(&self) -> Vec<LogLine> {
        self.log.lines()
    }

    /// The last lines, for messages of tests.
    pub fn tail(&self) -> String {
        self.log.tail()
    }

    /// Fails on a line of level ERROR, or a panic, that contains none of the `allowed` texts.
    ///
    /// # Panics
    /// That is how it fails.
    #[track_caller]
    #[allow(clippy::panic, reason = "an assertion of tests")]
    pub fn assert_no_errors(&self, allowed: &[&str]) {
        let unexpected: Vec<String> = self
            .log
            .errors()
            .into_iter()
            .filter(|line| !allowed.iter().any(|text| line.contains(text)))
            .collect();
        if !unexpected.is_empty() {
            let name = &self.name;
            panic!("unexpected errors of {name}:\n{}", unexpected.join("\n"));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = self.kill9();
    }
}
