//! Times that people write.

use simquota_shared::units::UnixMillis;

use crate::io::clock;

/// `2026-11-22T10:30:00Z`, with any offset, or so long ago: `90s`, `30m`, `2h`, `3d`.
pub(super) fn parse(text: &str) -> Result<UnixMillis, String> {
    parse_at(text, clock::now())
}

fn parse_at(text: &str, now: UnixMillis) -> Result<UnixMillis, String> {
    let bad = || {
        format!(
            "'{text}' is no time: write 2026-11-22T10:30:00Z, or 90s, 30m, 2h, 3d for so long ago"
        )
    };
    let split = text.len().saturating_sub(1);
    if let (Some(digits), Some(unit)) = (text.get(..split), text.get(split..))
        && let Ok(count) = digits.parse::<u64>()
    {
        let unit_ms: u64 = match unit {
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let ago = count.checked_mul(unit_ms).ok_or_else(bad)?;
        return Ok(UnixMillis(now.value().saturating_sub(ago)));
    }
    let time: jiff::Timestamp = text.parse().map_err(|_| bad())?;
    u64::try_from(time.as_millisecond())
        .map(UnixMillis)
        .map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_time_is_a_date_or_so_long_ago() {
        let now = UnixMillis(1_800_000_000_000);
        let at = |text| parse_at(text, now).map(UnixMillis::value);
        assert_eq!(at("1970-01-01T00:00:01Z").unwrap(), 1000);
        assert_eq!(at("1970-01-01T01:00:01+01:00").unwrap(), 1000);
        assert_eq!(at("2h").unwrap(), 1_800_000_000_000 - 7_200_000);
        for bad in [
            "",
            "h",
            "2w",
            "-2h",
            "yesterday",
            "2026-13-01T00:00:00Z",
            "é",
        ] {
            assert!(at(bad).unwrap_err().contains("is no time"), "{bad}");
        }
    }
}
