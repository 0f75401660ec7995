//! From counter to rows (section 11, numbers 8, 17, 23, 28).

use simquota_shared::message::usage::flag;
use simquota_shared::units::Octets;

use super::super::Notice;
use super::*;

fn flags(bench: &Bench) -> Vec<(u64, u64)> {
    let rows = bench.rows();
    rows.iter()
        .map(|row| (row.up + row.down, row.flags))
        .collect()
}

#[test]
fn a_sample_is_split_at_the_ceiling() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(6_000, 7_000);
    bench.wait_s(60);
    let rows = bench.rows();
    assert_eq!(flags(&bench), [(10_000, 0), (3_000, flag::OVERRUN)]);
    assert_eq!((rows[0].up, rows[0].down), (6_000, 4_000));
    assert_eq!((rows[1].up, rows[1].down), (0, 3_000));
    assert_eq!(rows[1].total, Octets(13_000));
}

#[test]
fn octets_under_a_new_ceiling_are_no_overrun() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(10_500, 0);
    bench.wait_s(2);
    bench.grant(10_000);
    bench.use_octets(8_000, 0);
    bench.wait_s(2);
    let expected = [(10_000, 0), (500, flag::OVERRUN), (8_000, 0)];
    assert_eq!(flags(&bench), expected);
}

#[test]
fn a_sample_ends_at_the_interval() {
    let mut bench = Bench::open(1_000_000);
    for _ in 0..6 {
        bench.traffic(100, 0);
        bench.wait_s(60);
    }
    bench.wait_s(300); // and then they are synced
    let rows = bench.rows();
    assert_eq!(rows.len(), 6);
    assert!(rows.iter().all(|row| row.up == 100));
    let steps: Vec<u64> = rows.windows(2).map(|w| w[1].end - w[0].end).collect();
    assert_eq!(steps, [60; 5]);
}

#[test]
fn a_new_counter_counts_from_zero() {
    let mut bench = Bench::open(1_000_000);
    bench.use_octets(500, 0);
    bench.identity = identity("kernel-1", 4);
    (bench.up, bench.down) = (70, 7);
    let reading = bench.reading();
    bench.give(reading);
    assert!(bench.noticed(|n| *n == Notice::CounterReset));
    assert_eq!(bench.agent.used(), Octets(577));
    // Durable at once: the old counter is gone, and the new position is known.
    assert_eq!(bench.state().used, Octets(577));
    bench.traffic(3, 0);
    bench.restart();
    assert_eq!(bench.state().used, Octets(580));
    let expected = [(500, 0), (77, flag::RESET), (3, flag::UNCLEAN)];
    assert_eq!(flags(&bench), expected);
}

#[test]
fn a_counter_that_went_back_began_anew() {
    let mut bench = Bench::open(1_000_000);
    bench.use_octets(500, 0);
    (bench.up, bench.down) = (20, 10);
    bench.use_octets(0, 0);
    assert_eq!(bench.agent.used(), Octets(530));
}

#[test]
fn a_reading_that_cannot_be_true_is_refused() {
    let mut bench = Bench::open(1_000_000);
    bench.use_octets(500, 0);
    (bench.up, bench.down) = (u64::MAX, u64::MAX);
    bench.use_octets(0, 0);
    assert!(bench.noticed(|n| *n == Notice::ReadingRefused));
    assert_eq!(bench.agent.used(), Octets(500));
}

#[test]
fn own_octets_are_a_share_and_alone_call_for_nothing() {
    let mut bench = Bench::open(1_000_000);
    let commits = bench.commits;
    for _ in 0..30 {
        bench.own += 60;
        bench.traffic(40, 20);
        bench.wait_s(60);
    }
    assert!(bench.rows().is_empty() && bench.batches().is_empty());
    assert_eq!(
        bench.commits, commits,
        "no flash is worn for control traffic"
    );
    bench.own += 60;
    bench.traffic(500, 60);
    bench.wait_s(700);
    let rows = bench.rows();
    assert_eq!(rows.len(), 2, "it rides with the next, in a row of its own");
    assert_eq!((rows[0].up + rows[0].down, rows[0].own), (1_800, 1_800));
    assert_eq!((rows[1].up + rows[1].down, rows[1].own), (560, 60));
    assert_eq!(bench.batches()[0].own, [1_800, 60]);
}

#[test]
fn octets_are_synced_when_enough_are_waiting() {
    let mut bench = Bench::open(1_000_000);
    bench.use_octets(60_000, 0);
    assert!(bench.rows().is_empty());
    bench.use_octets(6_000, 0);
    assert_eq!(bench.rows()[0].total, Octets(66_000));
}

#[test]
fn a_clock_step_ends_the_row_and_begins_a_batch() {
    let mut bench = Bench::open(1_000_000);
    bench.now.wall_ms = Some(1_700_000_000_000);
    bench.use_octets(100, 0);
    let zone = Input::Command(simquota_shared::message::Command {
        epoch: EPOCH,
        id: "r1".parse().unwrap(),
        number: 1,
        expires: simquota_shared::units::UnixMillis(u64::MAX),
        now: bench.cloud_now(),
        body: simquota_shared::message::Body::Report,
    });
    bench.wait_s(61);
    bench.use_octets(200, 0);
    bench.now.wall_ms = bench.now.wall_ms.map(|wall| wall - 5_000_000);
    bench.use_octets(300, 0);
    bench.give(zone);
    let rows = bench.rows();
    let seen: Vec<_> = rows
        .iter()
        .map(|row| (row.up, row.flags, row.apart))
        .collect();
    assert_eq!(
        seen[0],
        (100, 0, true),
        "the cloud's clock gave way to its own"
    );
    assert_eq!(seen[1], (200, flag::CLOCK_UNSURE, false));
    assert_eq!(seen[2], (300, 0, true));
    let batches = bench.batches();
    assert_eq!(batches.len(), 2);
    assert_eq!(batches[0].up, [100, 200]);
    assert_eq!(batches[1].up, [300]);
    assert!(batches[1].t0 < batches[0].t0);
}
