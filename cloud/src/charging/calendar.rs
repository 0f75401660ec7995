//! The calendar: when days, weeks and months begin in a place. Pure: the rules of all places are part of the program.
//!
//! A wall-clock time that a change to summer time leaves out is taken as much later; one that comes twice is its first.

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan};
use simquota_shared::units::UnixMillis;

use crate::ledger::entry::{Cadence, Every, Window};

/// Minutes of a day.
pub(super) const DAY_MINUTES: u64 = 24 * 60;

/// A place's time, by its name in the IANA database.
#[must_use]
pub(super) fn place(name: &str) -> Option<TimeZone> {
    // Not the system's database: the same journal must come to the same decisions on any machine.
    TimeZoneDatabase::bundled().get(name).ok()
}

/// The first turn of a plan after a time; none past the calendar's end, or for a place that does not exist.
///
/// A month without the day turns on its last one.
#[must_use]
pub(super) fn next_turn(cadence: &Cadence, after: UnixMillis) -> Option<UnixMillis> {
    let place = place(cadence.zone.as_str())?;
    let today = local_date(&place, after)?;
    let minute = i8::try_from(cadence.minute % 60).ok()?;
    let hour = i8::try_from(cadence.minute / 60).ok()?;
    let time = Time::new(hour, minute, 0, 0).ok()?;
    let day = i8::try_from(cadence.day).ok()?;
    let mut date = match cadence.every {
        Every::Day => today,
        Every::Week => {
            let weekday = Weekday::from_monday_one_offset(day).ok()?;
            let ahead = i64::from(today.weekday().until(weekday));
            today.checked_add(ahead.days()).ok()?
        }
        Every::Month => in_month(today, day)?,
    };
    // Two steps are enough: the first may fall into today before now, and a clock change moves it by hours.
    for _ in 0..3 {
        let turn = at(&place, date, time)?;
        if turn > after {
            return Some(turn);
        }
        date = match cadence.every {
            Every::Day => date.tomorrow().ok()?,
            Every::Week => date.checked_add(7.days()).ok()?,
            Every::Month => in_month(date.first_of_month().checked_add(1.month()).ok()?, day)?,
        };
    }
    None
}

/// The day and the month that a time lies in.
#[must_use]
pub(super) fn windows(zone: &str, now: UnixMillis) -> Option<(Window, Window)> {
    let place = place(zone)?;
    let today = local_date(&place, now)?;
    let first = today.first_of_month();
    let begin = |date: Date| at(&place, date, Time::midnight());
    let day = Window {
        from: begin(today)?,
        to: begin(today.tomorrow().ok()?)?,
    };
    let month = Window {
        from: begin(first)?,
        to: begin(first.checked_add(1.month()).ok()?)?,
    };
    Some((day, month))
}

fn in_month(date: Date, day: i8) -> Option<Date> {
    let day = day.min(date.days_in_month());
    date.with().day(day).build().ok()
}

fn local_date(place: &TimeZone, at: UnixMillis) -> Option<Date> {
    let time = Timestamp::from_millisecond(i64::try_from(at.value()).ok()?).ok()?;
    Some(place.to_datetime(time).date())
}

fn at(place: &TimeZone, date: Date, time: Time) -> Option<UnixMillis> {
    let moment = place
        .to_ambiguous_timestamp(date.to_datetime(time))
        .compatible()
        .ok()?;
    u64::try_from(moment.as_millisecond()).ok().map(UnixMillis)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use simquota_shared::ids::Text;

    use super::*;
    use crate::ledger::explain::utc;

    fn ms(text: &str) -> UnixMillis {
        let time: Timestamp = text.parse().unwrap();
        UnixMillis(u64::try_from(time.as_millisecond()).unwrap())
    }

    fn turns(every: Every, day: u64, minute: u64, zone: &str, after: &str, count: usize) -> String {
        let cadence = Cadence {
            every,
            day,
            minute,
            zone: Text::clipped(zone),
        };
        let mut at = ms(after);
        let mut found = Vec::new();
        for _ in 0..count {
            at = next_turn(&cadence, at).unwrap();
            found.push(utc(at));
        }
        found.join(" ")
    }

    #[test]
    fn a_day_begins_at_its_place_and_a_clock_change_makes_it_shorter() {
        assert_eq!(
            turns(Every::Day, 0, 0, "Europe/Berlin", "2026-03-28T12:00:00Z", 3),
            "2026-03-28T23:00:00Z 2026-03-29T22:00:00Z 2026-03-30T22:00:00Z"
        );
        // 02:30 does not exist on that day: it is taken as 03:30, summer time.
        assert_eq!(
            turns(
                Every::Day,
                0,
                150,
                "Europe/Berlin",
                "2026-03-28T12:00:00Z",
                2
            ),
            "2026-03-29T01:30:00Z 2026-03-30T00:30:00Z"
        );
    }

    #[test]
    fn a_week_turns_on_its_day() {
        assert_eq!(
            turns(Every::Week, 1, 0, "Asia/Tokyo", "2026-11-22T15:00:00Z", 2),
            "2026-11-29T15:00:00Z 2026-12-06T15:00:00Z"
        );
    }

    #[test]
    fn a_month_without_the_day_turns_on_its_last() {
        assert_eq!(
            turns(Every::Month, 31, 0, "UTC", "2027-01-31T00:00:00Z", 3),
            "2027-02-28T00:00:00Z 2027-03-31T00:00:00Z 2027-04-30T00:00:00Z"
        );
    }

    #[test]
    fn windows_are_the_places_own_day_and_month() {
        let (day, month) = windows("America/New_York", ms("2026-11-01T12:00:00Z")).unwrap();
        assert_eq!(
            (utc(day.from), utc(day.to)),
            (
                "2026-11-01T04:00:00Z".to_owned(),
                "2026-11-02T05:00:00Z".to_owned()
            ),
            "25 hours: the clock goes back in that night"
        );
        assert_eq!(utc(month.to), "2026-12-01T05:00:00Z");
        assert!(windows("Moon/Crater", ms("2026-11-01T12:00:00Z")).is_none());
    }
}
