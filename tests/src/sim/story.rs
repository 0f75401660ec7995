//! What happened, in lines that a person can follow. Kept only when somebody is going to read it.

use std::collections::VecDeque;
use std::fmt::Write as _;

use super::plan::{DAY, HOUR, MINUTE};

/// The last lines of a run.
#[derive(Clone, Debug, Default)]
pub struct Story {
    lines: VecDeque<String>,
    most: usize,
}

impl Story {
    /// Keeps the last `most` lines; 0 keeps none and costs nothing.
    #[must_use]
    pub fn last(most: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            most,
        }
    }

    pub(super) const fn kept(&self) -> bool {
        self.most > 0
    }

    pub(super) fn tell(&mut self, now: u64, who: &str, what: &str) {
        if self.lines.len() == self.most {
            self.lines.pop_front();
        }
        let mut line = String::with_capacity(64);
        let _ = write!(
            line,
            "{}d{:02}:{:02}:{:02}.{:03} {who:<6} {what}",
            now / DAY,
            now % DAY / HOUR,
            now % HOUR / MINUTE,
            now % MINUTE / 1000,
            now % 1000
        );
        self.lines.push_back(line);
    }

    /// The lines, oldest first.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(String::as_str)
    }
}
