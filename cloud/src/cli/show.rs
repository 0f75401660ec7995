//! Tables for people and JSON for programs, both from the same values.

use serde_cbor::Value;
use simquota_shared::units::{Octets, human};

/// A field of a row; `Null` when it has none of that name.
pub(super) fn field<'a>(row: &'a Value, name: &str) -> &'a Value {
    match row {
        Value::Map(map) => map
            .get(&Value::Text(name.to_owned()))
            .unwrap_or(&Value::Null),
        _ => &Value::Null,
    }
}

/// A field as text; `-` when there is none.
pub(super) fn text(row: &Value, name: &str) -> String {
    match field(row, name) {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) => {
            let texts: Vec<String> = items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => text.clone(),
                    other => json(other).to_string(),
                })
                .collect();
            if texts.is_empty() {
                "-".to_owned()
            } else {
                texts.join(" ")
            }
        }
        _ => "-".to_owned(),
    }
}

/// A field as an amount of octets.
pub(super) fn octets(row: &Value, name: &str) -> String {
    match number(field(row, name)) {
        Some(octets) => human(Octets(octets)),
        None => "-".to_owned(),
    }
}

/// A value as a number.
pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Integer(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

/// A field in milliseconds since 1970 as a date and time, UTC.
pub(super) fn time(row: &Value, name: &str) -> String {
    match number(field(row, name)) {
        Some(ms) => utc(ms),
        None => "-".to_owned(),
    }
}

/// `2026-11-22 10:30:00Z`. Source of the calendar: days are counted in eras of 400 years that begin in March, so that
/// the leap day is the last of its year.
fn utc(ms: u64) -> String {
    const DAYS_TO_1970: u64 = 719_468;
    const ERA: u64 = 146_097;
    let seconds = ms / 1000;
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let day = days + DAYS_TO_1970;
    let (era, of_era) = (day / ERA, day % ERA);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}Z")
}

/// A table with a head. A name that begins with `>` is a column of figures, set to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let names: Vec<String> = head
        .iter()
        .map(|name| name.trim_start_matches('>').to_owned())
        .collect();
    let width = |column: usize| {
        std::iter::once(&names)
            .chain(rows)
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut out = String::new();
    for row in std::iter::once(&names).chain(rows) {
        let cells = row
            .iter()
            .zip(head)
            .zip(&widths)
            .map(|((cell, head), width)| {
                if head.starts_with('>') {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Names and values below each other.
pub(super) fn list(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect()
}

/// All fields of a row below each other, in the order of their names; lists of rows as JSON.
pub(super) fn fields(row: &Value) -> String {
    let Value::Map(map) = row else {
        return json_line(row);
    };
    let pairs: Vec<(&str, String)> = map
        .iter()
        .filter_map(|(name, value)| match name {
            Value::Text(name) => Some((name.as_str(), shown(name, value, row))),
            _ => None,
        })
        .collect();
    list(&pairs)
}

fn shown(name: &str, value: &Value, row: &Value) -> String {
    const OCTETS: [&str; 15] = [
        "available",
        "debt",
        "device_day",
        "device_month",
        "octets",
        "overage",
        "pool_day",
        "pool_month",
        "refunded",
        "reserved",
        "rollover_max",
        "rollover_min",
        "share",
        "used",
        "volume",
    ];
    match value {
        Value::Integer(_) if OCTETS.contains(&name) => octets(row, name),
        Value::Integer(_) if matches!(name, "next" | "until" | "from") => time(row, name),
        _ => text(row, name),
    }
}

/// A value as JSON. Octet strings become hexadecimal digits.
pub(super) fn json(value: &Value) -> serde_json::Value {
    match value {
        Value::Bool(truth) => (*truth).into(),
        Value::Integer(number) => match (u64::try_from(*number), i64::try_from(*number)) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            // CBOR goes a bit further below zero than JSON's readers do.
            _ => number.to_string().into(),
        },
        Value::Float(number) => (*number).into(),
        Value::Text(text) => text.clone().into(),
        Value::Bytes(octets) => hex::encode(octets).into(),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Map(map) => map
            .iter()
            .map(|(key, value)| match key {
                Value::Text(key) => (key.clone(), json(value)),
                other => (json(other).to_string(), json(value)),
            })
            .collect(),
        _ => serde_json::Value::Null,
    }
}

/// A value as one line of JSON.
pub(super) fn json_line(value: &Value) -> String {
    format!("{}\n", json(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (ms, expected) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_400_000, "2000-02-29 00:00:00Z"),
            (1_709_251_199_999, "2024-02-29 23:59:59Z"),
            (1_735_689_600_000, "2025-01-01 00:00:00Z"),
            (4_107_542_400_000, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(utc(ms), expected);
        }
    }

    #[test]
    fn tables_are_as_wide_as_their_cells_and_figures_stand_right() {
        let rows = [
            vec!["tracker-1".to_owned(), "1.00 MB".to_owned(), "x".to_owned()],
            vec!["b".to_owned(), "999 B".to_owned(), String::new()],
        ];
        insta::assert_snapshot!(table(&["DEVICE", ">CHARGED", "STATE"], &rows));
    }

    #[test]
    fn values_become_json() {
        let value = crate::charging::value_map([
            ("a", Value::Integer(-1)),
            ("b", Value::Bytes(vec![1, 255])),
            ("c", Value::Array(vec![Value::Null, Value::Bool(true)])),
        ]);
        assert_eq!(
            json_line(&value),
            "{\"a\":-1,\"b\":\"01ff\",\"c\":[null,true]}\n"
        );
    }
}
