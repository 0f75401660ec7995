//! Rows of the outbox as one `up/usage` message.

use simquota_shared::ids::Iccid;
use simquota_shared::message::UsageBatch;
use simquota_shared::units::{Boot, Epoch};

use super::durable::Row;

/// The most octets of a batch: on a slow link a credit request must not be held up behind it (DESIGN section 4).
pub const OCTETS_MAX: usize = 8 * 1024;

/// The most rows of a batch.
pub const ROWS_MAX: usize = 500;

/// What the message takes beside its columns: the envelope, two ids of the longest kind, numbers, array heads.
const FRAME_OCTETS: usize = 512;

/// The first rows as one batch, and how many of them it took. `None` when there are none.
///
/// A batch is of consecutive numbers, one SIM, one zone, one boot, and of one clock without a step in it. A row that
/// was metered before the first registration is of `iccid`, the SIM that the device was found to have.
///
/// Source: DESIGN section 4 ("Usage"), section 11, number 28.
#[must_use]
pub fn batch(
    epoch: Epoch,
    iccid: &Iccid,
    interval_s: u64,
    rows: &[Row],
) -> Option<(UsageBatch, usize)> {
    let first = rows.first()?;
    let sim = |row: &Row| row.iccid.as_ref().unwrap_or(iccid).clone();
    let mut batch = UsageBatch {
        epoch,
        boot: Boot(first.boot.0),
        iccid: sim(first),
        zone: first.zone.clone(),
        first: first.seq,
        clock: u64::from(first.clock),
        t0: first.end,
        interval_s,
        total: first.total,
        dt: Vec::new(),
        up: Vec::new(),
        down: Vec::new(),
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: Vec::new(),
    };
    let mut octets = FRAME_OCTETS;
    let mut previous: Option<&Row> = None;
    let mut taken = 0usize;
    for row in rows.iter().take(ROWS_MAX) {
        let index = u64::try_from(taken).unwrap_or(u64::MAX);
        let mut step = None;
        if let Some(previous) = previous {
            let joins = previous.last().next() == Some(row.seq)
                && !row.apart
                && row.boot == batch.boot
                && sim(row) == batch.iccid
                && row.zone == batch.zone
                && u64::from(row.clock) == batch.clock;
            step = time_step(previous.end, row.end, interval_s);
            if !joins || step.is_none() {
                break;
            }
        }
        octets = octets.saturating_add(row_octets(row, step, index));
        if octets > OCTETS_MAX && taken > 0 {
            break;
        }
        batch.dt.extend(step);
        batch.up.push(row.up);
        batch.down.push(row.down);
        batch.own.push(row.own);
        if row.flags != 0 {
            batch.flags.push((index, row.flags));
        }
        if row.count > 1 {
            batch.spans.push((index, row.count));
        }
        if row.unsure > 0 {
            batch.unsure.push((index, row.unsure));
        }
        batch.total = row.total;
        previous = Some(row);
        taken = taken.saturating_add(1);
    }
    if batch.own.iter().all(|own| *own == 0) {
        batch.own.clear();
    }
    Some((batch, taken))
}

/// Seconds between two rows, less the interval.
fn time_step(before: u64, after: u64, interval_s: u64) -> Option<i64> {
    let before = i64::try_from(before).ok()?;
    let after = i64::try_from(after).ok()?;
    after
        .checked_sub(before)?
        .checked_sub(i64::try_from(interval_s).ok()?)
}

/// What a row adds to the message.
fn row_octets(row: &Row, step: Option<i64>, index: u64) -> usize {
    let pair = |value: u64| match value {
        0 => 0,
        value => 1 + number_octets(index) + number_octets(value),
    };
    let step = step.map_or(0, |step| number_octets(step.unsigned_abs()));
    let span = if row.count > 1 { row.count } else { 0 };
    step + number_octets(row.up)
        + number_octets(row.down)
        + number_octets(row.own)
        + pair(row.flags)
        + pair(span)
        + pair(row.unsure)
}

/// The length of a CBOR number (RFC 8949, 3).
const fn number_octets(value: u64) -> usize {
    match value {
        0..=23 => 1,
        24..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}
