//! S32 and S5: rows go out, and stay until the ledger has them.

use simquota_shared::code::Code;
use simquota_shared::message::{CreditAnswer, UsageAck};
use simquota_shared::units::{Epoch, Octets, Seq};

use super::super::{Disagreement, Notice};
use super::*;

/// Rows as they come: one each minute, of 100 octets.
fn minutes(bench: &mut Bench, count: u64) {
    for _ in 0..count {
        bench.traffic(100, 0);
        bench.wait_s(60);
    }
}

fn marked(bench: &Bench, mark: u64, first: u64) -> UsageAck {
    UsageAck {
        total: Octets(mark * 100),
        ..ack(&bench.state(), Seq(mark), first)
    }
}

#[test]
fn reports_come_at_the_interval_and_rows_go_with_the_mark() {
    let mut bench = Bench::open(1_000_000);
    minutes(&mut bench, 9);
    assert!(bench.batches().is_empty());
    minutes(&mut bench, 1);
    let batches = bench.batches();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].first, Seq(1));
    let sent = batches[0].up.len() as u64;
    assert_eq!(bench.rows().len() as u64, sent, "PUBACK deletes nothing");
    bench.give(Input::UsageAck(marked(&bench, sent, 1)));
    assert!(bench.rows().is_empty());
    assert_eq!(bench.state().acked, Seq(sent));
}

#[test]
fn the_threshold_reports_early() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    assert_eq!(bench.batches().len(), 1);
    assert_eq!(bench.batches()[0].total, Octets(8_500));
    let order: Vec<Up> = bench.sent.iter().rev().take(2).map(|(_, m)| m.up).collect();
    assert_eq!(order, [Up::Usage, Up::Credit], "the request goes first");
}

#[test]
fn an_acknowledgement_of_another_epoch_deletes_nothing() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let other = UsageAck {
        epoch: Epoch(76),
        ..ack(&bench.state(), Seq(1), 1)
    };
    bench.give(Input::UsageAck(other));
    bench.wait_s(700);
    assert_eq!(bench.rows().len(), 1);
    assert_eq!(bench.state().acked, Seq(0));
}

#[test]
fn without_an_answer_the_batch_comes_again() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    bench.wait_s(10);
    assert_eq!(bench.batches().len(), 2);
    bench.wait_s(20);
    assert_eq!(bench.batches().len(), 3);
    bench.wait_s(40);
    let all = bench.all(Up::Usage);
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|one| *one == all[0]));
}

#[test]
fn a_gap_goes_back_to_the_mark_once_in_a_while() {
    let mut bench = Bench::open(100_000_000);
    bench.give(Input::Disconnected);
    minutes(&mut bench, 1_200);
    bench.connect();
    let firsts =
        |bench: &Bench| -> Vec<u64> { bench.batches().iter().map(|b| b.first.0).collect() };
    assert_eq!(firsts(&bench), [1, 501, 1001]);
    bench.give(Input::UsageAck(marked(&bench, 0, 501)));
    assert_eq!(firsts(&bench), [1, 501, 1001, 1, 501, 1001]);
    bench.give(Input::UsageAck(marked(&bench, 0, 1001)));
    assert_eq!(firsts(&bench).len(), 6, "the same mark again, at once");
    bench.give(Input::UsageAck(marked(&bench, 500, 1)));
    bench.give(Input::UsageAck(marked(&bench, 500, 1001)));
    assert_eq!(firsts(&bench)[6..], [501, 1001], "another mark");
}

#[test]
fn no_more_than_four_batches_are_in_flight() {
    let mut bench = Bench::open(100_000_000);
    bench.give(Input::Disconnected);
    minutes(&mut bench, 3_000);
    bench.connect();
    assert_eq!(bench.batches().len(), 4);
    bench.give(Input::UsageAck(marked(&bench, 500, 1)));
    assert_eq!(bench.batches().len(), 5);
    assert_eq!(bench.batches()[4].first, Seq(2_001));
}

#[test]
fn a_busy_cloud_is_left_alone_for_as_long_as_it_says() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let busy = UsageAck {
        code: Code::TOO_BUSY,
        retry_s: Some(120),
        ..marked(&bench, 0, 1)
    };
    bench.give(Input::UsageAck(busy));
    bench.wait_s(119);
    assert_eq!(bench.batches().len(), 1);
    bench.wait_s(2);
    assert_eq!(bench.batches().len(), 2);
}

#[test]
fn a_mark_above_the_last_row_ends_the_epoch() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    bench.give(Input::UsageAck(marked(&bench, 2, 1)));
    assert!(bench.noticed(|n| *n == Notice::NewEpochNeeded(Disagreement::AckAhead)));
    assert_eq!(bench.rows().len(), 1);
}

#[test]
fn a_total_that_is_not_ours_ends_the_epoch() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let other = UsageAck {
        total: Octets(8_400),
        ..marked(&bench, 1, 1)
    };
    bench.give(Input::UsageAck(other));
    assert!(bench.noticed(|n| *n == Notice::NewEpochNeeded(Disagreement::TotalDiffers)));
}

#[test]
fn the_same_batch_damaged_twice_ends_the_epoch() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let damaged = UsageAck {
        code: Code::INVALID_VALUE,
        ..marked(&bench, 0, 1)
    };
    bench.give(Input::UsageAck(damaged.clone()));
    bench.give(Input::UsageAck(damaged.clone()));
    let why = Notice::NewEpochNeeded(Disagreement::DamagedTwice);
    assert!(!bench.noticed(|n| *n == why), "a repeat of the same answer");
    bench.wait_s(11);
    bench.give(Input::UsageAck(damaged));
    assert!(bench.noticed(|n| *n == why));
}

/// A cloud that was restored: its mark is 2, ours was 10.
fn fallen() -> Bench {
    let mut bench = Bench::open(100_000_000);
    minutes(&mut bench, 10);
    let sent = bench.state().last_seq().0;
    bench.give(Input::UsageAck(marked(&bench, sent, 1)));
    minutes(&mut bench, 10);
    let first = sent + 1;
    assert_eq!(bench.batches().last().unwrap().first, Seq(first));
    bench.give(Input::UsageAck(marked(&bench, 2, first)));
    assert_eq!(bench.state().acked, Seq(sent), "one alone is an old repeat");
    for _ in 0..2 {
        bench.wait_s(11);
        bench.give(Input::UsageAck(marked(&bench, 2, first)));
    }
    bench
}

#[test]
fn a_mark_that_fell_goes_back_to_rows_that_are_there() {
    let mut bench = Bench::open(100_000_000);
    minutes(&mut bench, 10);
    let sent = bench.state().last_seq().0;
    let kept = bench.disk.rows.clone();
    bench.give(Input::UsageAck(marked(&bench, sent, 1)));
    minutes(&mut bench, 10);
    let first = sent + 1;
    for _ in 0..3 {
        bench.disk.rows.extend(kept.clone());
        bench.give(Input::UsageAck(marked(&bench, 2, first)));
        bench.wait_s(11);
    }
    assert!(bench.noticed(|n| matches!(n, Notice::MarkFell { .. })));
    assert!(bench.batches().iter().any(|batch| batch.first == Seq(3)));
    assert!(!bench.noticed(|n| matches!(n, Notice::NewEpochNeeded(_))));
}

/// The same, said now.
fn said(bench: &Bench, mark: u64, first: u64) -> UsageAck {
    UsageAck {
        now: bench.cloud_now(),
        ..marked(bench, mark, first)
    }
}

/// Restored from a backup, the cloud stands at its last entry until its clock gets there (seed 5429).
#[test]
fn a_device_with_nothing_to_send_asks_for_a_mark_that_fell_until_the_cloud_says_it_later() {
    let mut bench = Bench::open(100_000_000);
    minutes(&mut bench, 10);
    let sent = bench.state().last_seq().0;
    let kept = bench.disk.rows.clone();
    bench.give(Input::UsageAck(said(&bench, sent, 1)));
    bench.disk.rows.extend(kept);
    bench.wait_s(1);
    let fallen = said(&bench, 2, 0);
    let before = bench.statuses().len();
    bench.give(Input::UsageAck(fallen.clone()));
    assert_eq!(bench.statuses().len(), before + 1, "asked at once");
    for asked in 2..=5 {
        bench.wait_s(200);
        bench.give(Input::UsageAck(fallen.clone()));
        assert!(bench.statuses().len() >= before + asked, "and again");
        assert_eq!(bench.state().acked, Seq(sent), "the cloud's time stands");
    }
    let later = said(&bench, 2, 0);
    assert!(later.now > fallen.now);
    bench.give(Input::UsageAck(later));
    assert!(bench.noticed(|n| matches!(n, Notice::MarkFell { .. })));
    assert!(bench.batches().iter().any(|batch| batch.first == Seq(3)));
    let settled = bench.statuses().len();
    bench.wait_s(3_000);
    assert_eq!(bench.statuses().len(), settled, "nothing is left to ask");
}

#[test]
fn a_mark_said_before_what_was_acted_upon_is_asked_for_and_settled_by_the_answer() {
    let mut bench = Bench::open(100_000_000);
    minutes(&mut bench, 10);
    let old = said(&bench, 2, 1);
    bench.wait_s(1);
    let sent = bench.state().last_seq().0;
    bench.give(Input::UsageAck(said(&bench, sent, 1)));
    let before = bench.statuses().len();
    bench.give(Input::UsageAck(old));
    assert_eq!(bench.statuses().len(), before, "no hurry for a repeat");
    bench.wait_s(11);
    assert_eq!(bench.statuses().len(), before + 1);
    bench.give(Input::UsageAck(said(&bench, sent, 0)));
    bench.wait_s(3_000);
    assert_eq!(bench.statuses().len(), before + 1);
    assert_eq!(bench.state().acked, Seq(sent));
}

#[test]
fn a_mark_that_fell_below_the_oldest_row_ends_the_epoch() {
    let bench = fallen();
    assert!(bench.noticed(|n| *n == Notice::NewEpochNeeded(Disagreement::RowsGone)));
}

#[test]
fn control_rows_ride_with_the_next_report_only() {
    let mut bench = Bench::open(1_000);
    bench.use_octets(1_000, 0);
    bench.acknowledge();
    let before = bench.batches().len();
    bench.own += 500;
    bench.use_octets(500, 0);
    let refused = CreditAnswer {
        code: Code::CREDIT_LIMIT_REACHED,
        ..answer(&bench.last_request(), 1_000, bench.cloud_now())
    };
    bench.give(Input::Credit(refused));
    bench.wait_s(2_000);
    assert_eq!(bench.batches().len(), before);
}
