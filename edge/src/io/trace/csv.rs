//! Reads trace files: `seconds,up,down`, octets since the line before.

use std::path::Path;

use super::TraceError;

/// The header line; a file without it is read just the same.
pub(crate) const HEADER: &str = "seconds,up,down";

/// Bounds on what is loaded into memory: a year of half-minute samples fits several times.
const FILE_OCTETS_MAX: u64 = 256 * 1024 * 1024;
const LINES_MAX: usize = 8_000_000;

/// One line: these octets have flowed by this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Microseconds since the trace's beginning.
    pub(super) at_us: u64,
    pub(super) up: u64,
    pub(super) down: u64,
}

/// A whole trace, never empty.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) lines: Vec<Line>,
    /// Time of the last line, in microseconds: after it a repeated trace begins again.
    pub(super) length_us: u64,
    /// Tells traces apart, so that a state file is not used with another trace.
    pub(super) fingerprint: u64,
}

impl Trace {
    pub(super) fn load(path: &Path) -> Result<Trace, TraceError> {
        let cannot = |source| TraceError::Open {
            path: path.to_owned(),
            source,
        };
        let octets = std::fs::metadata(path).map_err(cannot)?.len();
        if octets > FILE_OCTETS_MAX {
            return Err(TraceError::TooLarge {
                path: path.to_owned(),
            });
        }
        let text = std::fs::read(path).map_err(cannot)?;
        let text = std::str::from_utf8(&text).map_err(|_| TraceError::NotText {
            path: path.to_owned(),
        })?;
        Trace::parse(path, text)
    }

    fn parse(path: &Path, text: &str) -> Result<Trace, TraceError> {
        let wrong = |line, reason| TraceError::Line {
            path: path.to_owned(),
            line,
            reason,
        };
        let mut lines: Vec<Line> = Vec::new();
        let mut header_allowed = true;
        let mut sum: u64 = 0;
        for (number, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            if std::mem::take(&mut header_allowed) && text == HEADER {
                continue;
            }
            let line = parse_line(text).map_err(|reason| wrong(number, reason))?;
            if lines.last().is_some_and(|before| before.at_us > line.at_us) {
                return Err(wrong(number, "the time goes back"));
            }
            sum = sum
                .checked_add(line.up)
                .and_then(|sum| sum.checked_add(line.down))
                .ok_or_else(|| wrong(number, "the sum of octets exceeds 64 bits"))?;
            if lines.len() == LINES_MAX {
                return Err(TraceError::TooLarge {
                    path: path.to_owned(),
                });
            }
            lines.push(line);
        }
        let Some(last) = lines.last() else {
            return Err(TraceError::Empty {
                path: path.to_owned(),
            });
        };
        Ok(Trace {
            length_us: last.at_us,
            fingerprint: fingerprint(&lines),
            lines,
        })
    }
}

fn parse_line(text: &str) -> Result<Line, &'static str> {
    let mut fields = text.split(',').map(str::trim);
    let (Some(seconds), Some(up), Some(down), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err("expected three fields: seconds,up,down");
    };
    Ok(Line {
        at_us: micros(seconds).ok_or("`seconds` must be a decimal number such as 12.5")?,
        up: octets(up).ok_or("`up` must be a whole number of octets")?,
        down: octets(down).ok_or("`down` must be a whole number of octets")?,
    })
}

fn octets(text: &str) -> Option<u64> {
    // `parse` alone would take a leading plus sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then_some(())?;
    text.parse().ok()
}

/// Decimal seconds to microseconds, in integers. Digits beyond the sixth are cut off.
fn micros(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = octets(whole)?;
    if fraction.is_empty() || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let fraction: u64 = fraction
        .bytes()
        .chain(std::iter::repeat(b'0'))
        .take(6)
        .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    whole.checked_mul(1_000_000)?.checked_add(fraction)
}

fn fingerprint(lines: &[Line]) -> u64 {
    let mut sum = super::state::Checksum::new();
    for line in lines {
        for value in [line.at_us, line.up, line.down] {
            sum.add(&value.to_le_bytes());
        }
    }
    sum.value()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use super::*;

    fn parse(text: &str) -> Result<Trace, TraceError> {
        Trace::parse(Path::new("t.csv"), text)
    }

    #[test]
    fn header_comments_and_blank_lines_are_optional() {
        let with =
            parse("# made by record\nseconds,up,down\r\n0.000,0,0\n\n0.550,1,329507\n").unwrap();
        let without = parse("0,0,0\n 0.55 , 1 , 329507").unwrap();
        assert_eq!(with.lines, without.lines);
        assert_eq!(with.fingerprint, without.fingerprint);
        assert_eq!(
            with.lines[1],
            Line {
                at_us: 550_000,
                up: 1,
                down: 329_507
            }
        );
        assert_eq!(with.length_us, 550_000);
    }

    #[test]
    fn each_mistake_names_its_line_and_what_is_wrong() {
        for (text, line, reason) in [
            ("seconds,up,down\n1,2\n", ":2:", "three fields"),
            ("seconds,up,down\n1,2,3,4\n", ":2:", "three fields"),
            ("1,2,3\nseconds,up,down\n", ":2:", "`seconds`"),
            ("1,2,3\n\n#\n2,-1,0\n", ":4:", "`up`"),
            ("1,2,+3\n", ":1:", "`down`"),
            ("1,2,3.5\n", ":1:", "`down`"),
            ("1,2,\n", ":1:", "`down`"),
            ("1.,2,3\n", ":1:", "`seconds`"),
            ("1e3,2,3\n", ":1:", "`seconds`"),
            ("-1,2,3\n", ":1:", "`seconds`"),
            ("99999999999999999999,2,3\n", ":1:", "`seconds`"),
            ("18446744073709551,2,3\n", ":1:", "`seconds`"),
            ("2,1,1\n1.999999,1,1\n", ":2:", "goes back"),
            ("1,18446744073709551615,0\n2,1,0\n", ":2:", "64 bits"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains("t.csv") && error.contains(line) && error.contains(reason),
                "{text:?} gave {error:?}"
            );
        }
        assert!(
            parse("seconds,up,down\n")
                .unwrap_err()
                .to_string()
                .contains("no lines")
        );
    }

    #[test]
    fn another_trace_has_another_fingerprint() {
        let one = parse("1,2,3\n").unwrap().fingerprint;
        for other in ["1,3,2\n", "2,2,3\n", "1,2,3\n1,0,0\n"] {
            assert_ne!(one, parse(other).unwrap().fingerprint);
        }
    }

    #[test]
    fn digits_beyond_microseconds_are_cut_off() {
        assert_eq!(micros("0.30000000000000004"), Some(300_000));
        assert_eq!(micros("0.9999999"), Some(999_999));
        assert_eq!(micros("7"), Some(7_000_000));
    }
}
