//! The columns of `up/usage` (section 4, section 11, number 28) and merging.

use simquota_shared::message::usage::flag;
use simquota_shared::units::{Boot, Octets, Seq};

use super::super::{BATCH_OCTETS_MAX, BATCH_ROWS_MAX, batch};
use super::*;

fn row(seq: u64) -> Row {
    Row {
        seq: Seq(seq),
        count: 1,
        end: 1_800_000_000 + seq * 60,
        clock: true,
        apart: false,
        boot: Boot(1),
        iccid: Some("8931-1".parse().unwrap()),
        zone: "home".parse().unwrap(),
        up: 100,
        down: 900,
        own: 0,
        flags: 0,
        unsure: 0,
        total: Octets(seq * 1_000),
    }
}

fn built(rows: &[Row]) -> (UsageBatch, usize) {
    batch(EPOCH, &"8931-1".parse().unwrap(), 60, rows).unwrap()
}

#[test]
fn columns_hold_what_the_rows_say() {
    let mut rows = [row(5), row(6), row(7)];
    rows[1].end += 2;
    rows[1].own = 50;
    rows[2].flags = flag::OVERRUN;
    rows[2].unsure = 9;
    let (batch, taken) = built(&rows);
    assert_eq!(taken, 3);
    assert_eq!(
        (batch.first, batch.clock, batch.t0),
        (Seq(5), 1, rows[0].end)
    );
    assert_eq!((batch.total, batch.dt), (Octets(7_000), vec![2, -2]));
    assert_eq!((batch.up, batch.down), (vec![100; 3], vec![900; 3]));
    assert_eq!(
        (batch.own, batch.flags),
        (vec![0, 50, 0], vec![(2, flag::OVERRUN)])
    );
    assert_eq!((batch.spans, batch.unsure), (vec![], vec![(2, 9)]));
    assert!(built(&[row(1)]).0.own.is_empty());
    assert!(super::super::batch(EPOCH, &"8931-1".parse().unwrap(), 60, &[]).is_none());
}

#[test]
fn a_batch_is_of_one_kind() {
    let changes: [fn(&mut Row); 6] = [
        |row| row.apart = true,
        |row| row.boot = Boot(2),
        |row| row.iccid = Some("8931-2".parse().unwrap()),
        |row| row.zone = "abroad".parse().unwrap(),
        |row| row.clock = false,
        |row| row.seq = Seq(9),
    ];
    for change in changes {
        let mut rows = [row(1), row(2), row(3)];
        change(&mut rows[1]);
        assert_eq!(built(&rows).1, 1);
    }
}

#[test]
fn a_batch_is_bounded_in_rows_and_octets() {
    let rows: Vec<Row> = (1..=2_000).map(row).collect();
    assert_eq!(built(&rows).1, BATCH_ROWS_MAX);
    let wide: Vec<Row> = rows
        .into_iter()
        .map(|row| Row {
            up: u64::MAX / 4,
            down: u64::MAX / 4,
            own: u64::MAX / 4,
            flags: flag::ALL,
            unsure: u64::MAX / 4,
            ..row
        })
        .collect();
    let (batch, taken) = built(&wide);
    let octets = codec::encode(&batch).unwrap().len();
    assert!(octets <= BATCH_OCTETS_MAX, "{octets} octets");
    assert!(taken > 150, "only {taken} rows");
}

#[test]
fn merged_rows_keep_their_sums_and_numbers() {
    let merged = row(1).merged(&row(2)).unwrap().merged(&row(3)).unwrap();
    assert_eq!(
        (merged.seq, merged.last(), merged.count),
        (Seq(1), Seq(3), 3)
    );
    assert_eq!(
        (merged.up, merged.total, merged.end),
        (300, Octets(3_000), row(3).end)
    );
    let (batch, taken) = built(&[merged, row(4)]);
    assert_eq!((taken, batch.spans), (2, vec![(0, 3)]));
    let overrun = Row {
        flags: flag::OVERRUN,
        ..row(2)
    };
    assert!(row(1).merged(&overrun).is_none());
    assert!(row(1).merged(&row(3)).is_none());
}
