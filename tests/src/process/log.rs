//! The output of a child process: lines with their times, bounded.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Older lines go first. Lines of level ERROR are kept apart, so that a talkative program cannot hide them.
const LINES_MAX: usize = 100_000;
const ERRORS_MAX: usize = 1_000;
const TAIL: usize = 25;

/// Where a line was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Data.
    Stdout,
    /// Talk.
    Stderr,
}

/// One line of output.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// When it was read, since the start of the program.
    pub at: Duration,
    /// Where it was written.
    pub stream: Stream,
    /// The line without its end.
    pub text: String,
}

#[derive(Debug)]
pub(super) struct Log {
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the first line that is kept.
    first: u64,
    lines: VecDeque<LogLine>,
    errors: Vec<String>,
    open: u8,
}

impl Log {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.lock().next()
    }

    pub(super) fn lines(&self) -> Vec<LogLine> {
        self.lock().lines.iter().cloned().collect()
    }

    pub(super) fn errors(&self) -> Vec<String> {
        self.lock().errors.clone()
    }

    pub(super) fn tail(&self) -> String {
        let state = self.lock();
        let skipped = state.lines.len().saturating_sub(TAIL);
        let last = state.lines.iter().skip(skipped);
        let texts: Vec<&str> = last.map(|line| line.text.as_str()).collect();
        format!("its last lines:\n{}", texts.join("\n"))
    }

    /// Waits for a line from number `mark` on that `fits`.
    pub(super) fn wait(
        &self,
        mark: u64,
        mut fits: impl FnMut(&str) -> bool,
        limit: Duration,
    ) -> Result<LogLine, String> {
        let deadline = Instant::now() + limit;
        let mut next = mark;
        let mut state = self.lock();
        loop {
            let seen = usize::try_from(next.saturating_sub(state.first)).unwrap_or(usize::MAX);
            if let Some(line) = state.lines.iter().skip(seen).find(|line| fits(&line.text)) {
                return Ok(line.clone());
            }
            next = state.next();
            if state.open == 0 {
                return Err("its output ended without the line".to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("waited {limit:?} in vain for a line"));
            }
            state = self
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub(super) fn wait_closed(&self, limit: Duration) {
        let _closed = self
            .changed
            .wait_timeout_while(self.lock(), limit, |state| state.open > 0);
    }

    fn push(&self, stream: Stream, text: String) {
        let mut state = self.lock();
        if is_error(&text) && state.errors.len() < ERRORS_MAX {
            state.errors.push(text.clone());
        }
        if state.lines.len() == LINES_MAX {
            state.lines.pop_front();
            state.first += 1;
        }
        // Read under the lock, so that the times never go back.
        let at = self.started.elapsed();
        state.lines.push_back(LogLine { at, stream, text });
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }
}

/// Reads a stream to its end on a thread of its own.
pub(super) fn follow(log: &Arc<Log>, stream: Stream, pipe: Option<impl Read + Send + 'static>) {
    let Some(pipe) = pipe else { return };
    log.lock().open += 1;
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut octets = Vec::new();
        // Not `lines()`: one octet that is no UTF-8 must not end the reading and block the program.
        while lines.read_until(b'\n', &mut octets).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&octets);
            log.push(stream, text.trim_end().to_owned());
            octets.clear();
        }
        log.lock().open -= 1;
        log.changed.notify_all();
    });
}

/// A line of level ERROR, as tracing writes it (`ERROR …` behind a time or alone, or JSON), or a panic.
fn is_error(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let level = match words.next() {
        Some(time) if time.starts_with(|first: char| first.is_ascii_digit()) => words.next(),
        first => first,
    };
    level == Some("ERROR")
        || line.contains(r#""level":"ERROR""#)
        || (line.starts_with("thread '") && line.contains(" panicked at "))
}
