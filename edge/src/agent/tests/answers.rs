//! R1, R3, R5-R7: what an answer may change.

use simquota_shared::code::Code;
use simquota_shared::message::{CreditAnswer, FinalAction, Kind, Reason};
use simquota_shared::units::{Epoch, Octets, RequestNumber, UnixMillis};

use super::super::{Disagreement, Notice};
use super::*;

#[test]
fn raising_comes_after_the_commit() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let answer = answer(&bench.last_request(), 10_000, bench.cloud_now());
    let effects = bench.agent.step(Input::Credit(answer), bench.now);
    let lowered = effects.lower.unwrap();
    assert!(
        !lowered.open,
        "the bootstrap's stop was wider than the grant's"
    );
    assert_eq!(lowered.stop, Octets(30_000));
    assert_eq!(effects.store.unwrap().state.credit.ceiling, Octets(10_000));
    let raised = effects.raise.unwrap();
    assert!(raised.open);
    assert_eq!(
        (raised.ceiling, raised.stop),
        (Octets(10_000), Octets(30_000))
    );
}

#[test]
fn r1_another_epoch_changes_nothing() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let right = answer(&bench.last_request(), 10_000, bench.cloud_now());
    for epoch in [Epoch(76), Epoch(78)] {
        for code in [Code::SUCCESS, Code::EPOCH_SUPERSEDED, Code::NUMBER_REUSED] {
            bench.give(Input::Credit(CreditAnswer {
                epoch,
                code,
                ..right.clone()
            }));
        }
    }
    assert!(!bench.gate().open);
    assert!(!bench.noticed(|n| matches!(n, Notice::NewEpochNeeded(_))));
    bench.give(Input::Credit(right));
    assert!(bench.gate().open);
}

#[test]
fn r3_validity_counts_from_the_first_sending() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    bench.wait_s(1_000);
    assert!(bench.requests().len() > 5, "resent since");
    // The cloud decided late, and its times are its own.
    bench.grant(100_000);
    assert_eq!(bench.agent.status_view().valid_for_s, Some(2_600));
    bench.give(Input::Disconnected);
    bench.wait_s(2_599);
    assert!(bench.gate().open);
    bench.wait_s(1);
    assert!(!bench.gate().open, "offline: shut at the end of validity");
    assert!(bench.noticed(|n| *n == Notice::GrantExpired));
    bench.connect();
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::VALIDITY)
    );
}

#[test]
fn renews_at_four_fifths_of_validity_without_a_stall() {
    let mut bench = Bench::open(100_000);
    bench.wait_s(2_877);
    assert_eq!(bench.requests().len(), 1);
    bench.wait_s(2);
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Update, Reason::VALIDITY)
    );
    assert!(bench.gate().open);
    bench.grant(0);
    assert!(bench.agent.status_view().valid_for_s.unwrap() > 3_590);
}

#[test]
fn r3_server_time_only_from_a_quick_answer() {
    let mut bench = Bench::new();
    bench.connect();
    bench.wait_s(61);
    bench.register();
    assert!(
        !bench.noticed(|n| matches!(n, Notice::ClockSet(_))),
        "too late"
    );
    bench.use_octets(500, 0);
    bench.wait_s(8);
    bench.grant(10_000);
    assert!(bench.noticed(|n| matches!(n, Notice::ClockSet(_))));
    bench.use_octets(8_500, 0); // ends the row: threshold
    let rows = bench.rows();
    assert!(
        !rows[0].clock && rows[0].end < 120,
        "seconds since the start"
    );
    assert!(rows.last().unwrap().clock);
    assert_eq!(
        rows.last().unwrap().end,
        (CLOUD_MS + bench.now.mono_ms) / 1000 + 8,
        "counted from the first sending: 8 s of latency, and it is ahead by no more"
    );
}

#[test]
fn a_refused_update_keeps_the_ceiling_and_counts_as_a_decision() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let refused = CreditAnswer {
        code: Code::CREDIT_LIMIT_REACHED,
        ..answer(&bench.last_request(), 9_000, bench.cloud_now())
    };
    bench.give(Input::Credit(refused));
    assert_eq!(
        bench.state().credit.ceiling,
        Octets(10_000),
        "never lowered"
    );
    assert!(bench.gate().open, "what is left is used up");
    bench.wait_s(30);
    assert_eq!(bench.requests().len(), 2);
    bench.use_octets(1_500, 0);
    assert!(!bench.gate().open);
    bench.wait_s(5);
    assert_eq!(
        bench.last_request().reason,
        Reason::EXHAUSTED,
        "asked once more"
    );
    assert_eq!(bench.last_request().kind, Kind::Update);
}

#[test]
fn an_exhausted_device_does_not_spin() {
    let mut bench = Bench::open(1_000);
    let refuse = |bench: &mut Bench| {
        let refused = CreditAnswer {
            code: Code::CREDIT_LIMIT_REACHED,
            ..answer(&bench.last_request(), 1_000, bench.cloud_now())
        };
        bench.give(Input::Credit(refused));
    };
    bench.use_octets(1_000, 0);
    bench.wait_s(2);
    for _ in 0..3 {
        refuse(&mut bench);
        bench.wait_s(100);
    }
    let before = bench.requests().len();
    assert!(before <= 4, "{before} requests");
    bench.give(Input::Disconnected);
    bench.connect();
    bench.wait_s(5);
    assert_eq!(bench.last_request().reason, Reason::CONNECT);
    refuse(&mut bench);
    bench.wait_s(2_890);
    assert_eq!(bench.last_request().reason, Reason::VALIDITY);
}

#[test]
fn codes_that_decide_nothing_leave_the_request_as_it_is() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let busy = CreditAnswer {
        code: Code::TOO_BUSY,
        valid_until: None,
        retry_s: Some(33),
        ..answer(&bench.last_request(), 99_000, bench.cloud_now())
    };
    bench.give(Input::Credit(busy));
    assert!(!bench.gate().open);
    bench.wait_s(32);
    assert_eq!(bench.all(Up::Credit).len(), 1);
    bench.wait_s(2);
    let sent = bench.all(Up::Credit);
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0], sent[1]);
}

#[test]
fn an_unknown_epoch_is_registered_again() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    bench.wait_s(6);
    let unknown = CreditAnswer {
        code: Code::UNKNOWN_EPOCH,
        ..answer(&bench.last_request(), 0, bench.cloud_now())
    };
    bench.give(Input::Credit(unknown));
    assert!(!bench.gate().open);
    assert_eq!(bench.all(Up::Register).len(), 2);
    bench.register();
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::CONDITION)
    );
}

#[test]
fn an_answer_to_the_status_before_the_registration_is_no_news() {
    let mut bench = Bench::open(10_000);
    let unknown = |now| {
        let code = Code::UNKNOWN_EPOCH;
        let (mark, total, first) = (Seq::ZERO, Octets::ZERO, Seq::ZERO);
        Input::UsageAck(UsageAck {
            epoch: EPOCH,
            code,
            mark,
            total,
            first,
            retry_s: None,
            now,
        })
    };
    let registered = bench.agent.outbox.fresh_from.unwrap();
    bench.give(unknown(registered));
    assert!(bench.gate().open, "said when the status was answered");
    assert_eq!(bench.all(Up::Register).len(), 1);
    bench.wait_s(10);
    bench.give(unknown(bench.cloud_now()));
    assert!(!bench.gate().open, "said now");
    assert_eq!(bench.all(Up::Register).len(), 2);
}

#[test]
fn a_number_that_was_not_made_here_ends_the_epoch() {
    let mut bench = Bench::open(10_000);
    let ahead = CreditAnswer {
        number: RequestNumber(7),
        ..push(7, 0, 50_000, bench.cloud_now())
    };
    bench.give(Input::Credit(ahead));
    assert!(!bench.gate().open);
    let why = Notice::NewEpochNeeded(Disagreement::NumberReused);
    assert!(bench.noticed(|n| *n == why));
}

#[test]
fn r7_a_push_raises_the_ceiling_and_not_the_validity() {
    let mut bench = Bench::open(1_000);
    bench.use_octets(1_000, 0);
    bench.wait_s(5);
    let refused = CreditAnswer {
        code: Code::CREDIT_LIMIT_REACHED,
        ..answer(&bench.last_request(), 1_000, bench.cloud_now())
    };
    let number = refused.number.0;
    bench.give(Input::Credit(push(number, 1, 9_000, bench.cloud_now())));
    assert!(!bench.gate().open, "the answer comes first");
    bench.give(Input::Credit(refused));
    bench.wait_s(100);
    let valid = bench.agent.asking.valid.unwrap().until_ms;
    bench.give(Input::Credit(push(number, 2, 5_000, bench.cloud_now())));
    assert!(bench.gate().open);
    assert_eq!(bench.state().credit.ceiling, Octets(5_000));
    bench.give(Input::Credit(push(number, 1, 9_000, bench.cloud_now())));
    assert_eq!(
        bench.state().credit.ceiling,
        Octets(5_000),
        "older than (n, 2)"
    );
    bench.give(Input::Credit(push(number, 3, 4_000, bench.cloud_now())));
    assert_eq!(bench.state().credit.ceiling, Octets(5_000), "never lowered");
    assert_eq!(bench.agent.asking.valid.unwrap().until_ms, valid);
}

#[test]
fn what_is_slow_beyond_the_last_grant_ends_at_the_stop_and_leaves_the_connect_budget_alone() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let throttle = Some(FinalAction::Throttle(8_000));
    let last = CreditAnswer {
        final_unit: throttle.clone(),
        ..answer(&bench.last_request(), 1_000, bench.cloud_now())
    };
    bench.give(Input::Credit(last));
    bench.use_octets(1_000, 0);
    assert_eq!(bench.gate().final_unit, throttle);
    let stop = bench.state().credit.stop.0;
    bench.use_octets(stop - 1_000, 0);
    bench.wait_s(1_000);
    assert!(bench.gate().stop > Octets(stop), "a connect budget");
    assert_eq!(bench.gate().final_unit, None, "the agent's own");
}

#[test]
fn what_applies_beyond_the_last_grant_begins_with_the_last_packet_that_does_not_fit() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let throttle = Some(FinalAction::Throttle(8_000));
    let last = CreditAnswer {
        final_unit: throttle.clone(),
        ..answer(&bench.last_request(), 10_000, bench.cloud_now())
    };
    bench.give(Input::Credit(last));
    assert_eq!(
        (bench.gate().ended, bench.gate().final_unit.clone()),
        (false, None)
    );
    bench.use_octets(9_000, 0);
    // A gate that ends flows before it slows them would leave none to be slowed.
    assert!(bench.gate().open && bench.gate().ended);
    assert_eq!(bench.gate().final_unit, throttle);
}

#[test]
fn the_last_grant_says_so_and_what_applies_then() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let last = CreditAnswer {
        final_unit: Some(FinalAction::Terminate),
        ..answer(&bench.last_request(), 1_000, bench.cloud_now())
    };
    bench.give(Input::Credit(last));
    bench.use_octets(900, 0);
    bench.wait_s(5);
    assert_eq!(bench.requests().len(), 1, "asking early brings nothing");
    bench.use_octets(150, 0);
    assert!(!bench.gate().open);
    assert_eq!(bench.gate().final_unit, Some(FinalAction::Terminate));
    let reached = Notice::CeilingReached {
        ceiling: Octets(1_000),
        used: Octets(1_050),
    };
    let times = bench.notices.iter().filter(|n| **n == reached).count();
    assert_eq!(times, 1);
    bench.use_octets(10, 0);
    assert!(bench.noticed(|n| *n == Notice::FinalUnit(FinalAction::Terminate)));
    let ceilings = bench
        .notices
        .iter()
        .filter(|n| matches!(n, Notice::CeilingReached { .. }));
    assert_eq!(ceilings.count(), 1, "once for a ceiling");
}

#[test]
fn an_update_that_is_late_but_in_time_saves_the_cut() {
    let mut bench = Bench::open(100_000);
    bench.wait_s(2_879);
    let update = bench.last_request();
    let decided = UnixMillis(bench.cloud_now().0);
    bench.wait_s(718);
    bench.give(Input::Credit(answer(&update, 150_000, decided)));
    bench.wait_s(60);
    assert!(bench.gate().open);
    assert_eq!(bench.requests().last().unwrap().number, update.number);
}
