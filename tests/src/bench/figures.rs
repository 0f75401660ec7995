//! Medians, percentiles, and numbers for people.

/// The middle of some numbers; of an even count the mean of the two in the middle. 0 of none.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(at(middle.saturating_sub(1)), at(middle))
    } else {
        at(middle)
    }
}

/// Waiting times, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Times(Vec<u64>);

impl Times {
    pub(super) fn push(&mut self, time: std::time::Duration) {
        self.0
            .push(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All of them together.
    pub(super) fn total(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0.iter().sum())
    }

    /// p50, p99 and the longest, in milliseconds.
    pub(super) fn spread(&mut self) -> Spread {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = |permille: usize| {
            let nanos = self.0.get(last * permille / 1000).copied().unwrap_or(0);
            millis(nanos)
        };
        Spread {
            p50_ms: at(500),
            p99_ms: at(990),
            max_ms: at(1000),
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

/// How long something took.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Spread {
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Spread {
    /// The medians of rounds, and the longest of all.
    pub(super) fn median(rounds: &[Spread]) -> Spread {
        Spread {
            p50_ms: median(rounds.iter().map(|round| round.p50_ms)),
            p99_ms: median(rounds.iter().map(|round| round.p99_ms)),
            max_ms: rounds.iter().map(|round| round.max_ms).fold(0.0, f64::max),
        }
    }
}

/// A count as a number to divide by.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub(super) fn number(count: u64) -> f64 {
    count as f64
}

/// `part / whole`; 0 where there is no whole.
pub(super) fn ratio(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

/// A whole number with separators: `1,234,567`.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_counts() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median([]).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times = Times::default();
        for ms in (0..=1000).rev() {
            times.push(Duration::from_millis(ms));
        }
        let spread = times.spread();
        assert!((spread.p50_ms - 500.0).abs() < 1e-9);
        assert!((spread.p99_ms - 990.0).abs() < 1e-9);
        assert!((spread.max_ms - 1000.0).abs() < 1e-9);
    }

    #[test]
    fn large_numbers_have_separators() {
        assert_eq!(grouped(0.4), "0");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }
}
