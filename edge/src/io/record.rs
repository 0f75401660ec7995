//! Writes a trace file from a counter: the maker of what [`trace`](super::trace) plays.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::clock;
use super::counter::{Reading, Source, SourceError};
use super::trace::HEADER;

/// How long a request to stop may go unseen.
const STOP_WITHIN_MS: u64 = 200;

/// Why a recording ended early. What was written up to then is a whole trace.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The counter could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A line could not be written.
    #[error("cannot write the trace ({0}): free some space or give another file")]
    Write(#[from] io::Error),
    /// The counter went back without a new identity.
    #[error(
        "the counter of `{name}` went back while recording: record again once the interface is stable"
    )]
    WentBack {
        /// The interface.
        name: String,
    },
    /// The interval is zero.
    #[error("the interval is 0 ms: give at least 1")]
    Interval,
}

/// How often and how long to record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordOptions {
    /// Milliseconds between lines, at least 1.
    pub interval_ms: u64,
    /// Seconds to record; `None` until stopped.
    pub seconds: Option<u64>,
}

/// What a recording holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recorded {
    /// Lines after the header.
    pub lines: u64,
    /// Milliseconds from the first line to the last.
    pub length_ms: u64,
    /// IP octets sent.
    pub up: u64,
    /// IP octets received.
    pub down: u64,
}

/// Turns readings into lines of a trace; each is flushed before the next.
pub struct Recorder<W> {
    out: W,
    begun: Option<(u64, Reading)>,
    recorded: Recorded,
}

impl<W: Write> Recorder<W> {
    /// Begins a trace with its header line.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn new(mut out: W) -> Result<Recorder<W>, RecordError> {
        writeln!(out, "{HEADER}")?;
        out.flush()?;
        Ok(Recorder {
            out,
            begun: None,
            recorded: Recorded::default(),
        })
    }

    /// Writes one line: what was counted since the reading before. The first is the zero of time.
    ///
    /// # Errors
    /// When the line can't be written, or the counter went back under the same identity.
    pub fn sample(&mut self, now_ms: u64, reading: &Reading) -> Result<(), RecordError> {
        let begun_ms = self.begun.as_ref().map_or(now_ms, |(begun, _)| *begun);
        let (up, down) = match &self.begun {
            None => (0, 0),
            // Another life of the counter began from zero: all that it shows is new.
            Some((_, last)) if last.identity != reading.identity => (reading.up, reading.down),
            Some((_, last)) => reading
                .up
                .checked_sub(last.up)
                .zip(reading.down.checked_sub(last.down))
                .ok_or_else(|| RecordError::WentBack {
                    name: reading.identity.name.clone(),
                })?,
        };
        let at_ms = now_ms.saturating_sub(begun_ms);
        writeln!(self.out, "{}.{:03},{up},{down}", at_ms / 1000, at_ms % 1000)?;
        self.out.flush()?;
        self.begun = Some((begun_ms, reading.clone()));
        self.recorded.lines += 1;
        self.recorded.length_ms = at_ms;
        self.recorded.up += up;
        self.recorded.down += down;
        Ok(())
    }

    /// What was recorded up to now.
    #[must_use]
    pub fn recorded(&self) -> Recorded {
        self.recorded
    }
}

/// Samples `source` into `out` until the time is over or `stop` is set; the last line is taken then.
///
/// Blocks the thread. Lines keep to a fixed grid from the beginning, so that a slow line does not shift
/// those after it.
///
/// # Errors
/// When the counter can't be read or the file can't be written; the lines before are in the file.
pub fn record(
    source: &mut dyn Source,
    out: impl Write,
    options: RecordOptions,
    stop: &AtomicBool,
) -> Result<Recorded, RecordError> {
    let RecordOptions {
        interval_ms,
        seconds,
    } = options;
    if interval_ms == 0 {
        return Err(RecordError::Interval);
    }
    // The first reading comes before the header: a wrong interface leaves no file that looks like a trace.
    let begun_ms = clock::monotonic_ms();
    let first = source.read(begun_ms)?;
    let mut recorder = Recorder::new(out)?;
    recorder.sample(begun_ms, &first)?;
    let end_ms = seconds.map_or(u64::MAX, |s| {
        begun_ms.saturating_add(s.saturating_mul(1000))
    });
    let mut next_ms = begun_ms;
    loop {
        let now_ms = clock::monotonic_ms();
        let late = now_ms.saturating_sub(next_ms) / interval_ms;
        next_ms = next_ms
            .saturating_add(interval_ms.saturating_mul(late + 1))
            .min(end_ms);
        wait_until(next_ms, stop);
        let now_ms = clock::monotonic_ms();
        recorder.sample(now_ms, &source.read(now_ms)?)?;
        if now_ms >= end_ms || stop.load(Ordering::Relaxed) {
            return Ok(recorder.recorded());
        }
    }
}

fn wait_until(until_ms: u64, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let left_ms = until_ms.saturating_sub(clock::monotonic_ms());
        if left_ms == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(left_ms.min(STOP_WITHIN_MS)));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::io::counter::Identity;
    use crate::io::trace::{TraceOptions, TraceSource};

    fn reading(index: u32, up: u64, down: u64) -> Reading {
        Reading {
            identity: Identity {
                boot_id: "b".to_owned(),
                namespace: 1,
                index,
                name: "wwan0".to_owned(),
            },
            up,
            down,
            packets_up: 0,
            packets_down: 0,
        }
    }

    #[test]
    fn lines_are_differences_and_a_new_interface_counts_from_zero() {
        let mut out = Vec::new();
        let mut recorder = Recorder::new(&mut out).unwrap();
        recorder.sample(70_000, &reading(2, 500, 900)).unwrap();
        recorder.sample(71_005, &reading(2, 510, 900)).unwrap();
        recorder.sample(72_000, &reading(3, 7, 8)).unwrap();
        let recorded = recorder.recorded();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "seconds,up,down\n0.000,0,0\n1.005,10,0\n2.000,7,8\n"
        );
        assert_eq!((recorded.up, recorded.down, recorded.lines), (17, 8, 3));
    }

    #[test]
    fn a_counter_that_goes_back_ends_the_recording() {
        let mut recorder = Recorder::new(Vec::new()).unwrap();
        recorder.sample(0, &reading(2, 500, 900)).unwrap();
        let error = recorder.sample(1, &reading(2, 499, 900)).unwrap_err();
        assert!(error.to_string().contains("wwan0"), "{error}");
    }

    /// A counter that grows by 3 up and 5 down with each reading.
    struct Steps(u64);

    impl Source for Steps {
        fn read(&mut self, _now_ms: u64) -> Result<Reading, SourceError> {
            self.0 += 1;
            Ok(reading(2, self.0 * 3, self.0 * 5))
        }
        fn limit(&mut self, _position: Option<u64>) {}
        fn finished(&self) -> bool {
            false
        }
        fn close(&mut self) {}
    }

    #[test]
    fn what_is_recorded_can_be_played_to_the_octet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.csv");
        let options = RecordOptions {
            interval_ms: 20,
            seconds: Some(1),
        };
        let file = std::fs::File::create(&path).unwrap();
        let recorded = record(&mut Steps(0), file, options, &AtomicBool::new(false)).unwrap();
        assert!(recorded.length_ms >= 1000 && recorded.lines >= 2);
        assert_eq!(recorded.up, (recorded.lines - 1) * 3);
        let mut source = TraceSource::open(&TraceOptions {
            trace: path,
            state: dir.path().join("r.state"),
            speed: 1,
            repeat: false,
        })
        .unwrap();
        source.read(0).unwrap();
        let played = source.read(recorded.length_ms).unwrap();
        assert_eq!((played.up, played.down), (recorded.up, recorded.down));
        assert!(source.finished());
    }

    #[test]
    fn stopped_it_takes_a_last_line_at_once() {
        let stop = AtomicBool::new(true);
        let options = RecordOptions {
            interval_ms: 3_600_000,
            seconds: None,
        };
        let recorded = record(&mut Steps(0), Vec::new(), options, &stop).unwrap();
        assert_eq!((recorded.lines, recorded.up), (2, 3));
    }
}
