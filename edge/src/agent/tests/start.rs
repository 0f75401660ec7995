//! Boot, bootstrap, registration (S11; section 11, numbers 18 and 27).

use simquota_shared::code::Code;
use simquota_shared::message::{Kind, Reason, RegisterAnswer};
use simquota_shared::units::{Boot, Epoch, Octets, Seq};

use super::super::{Disagreement, Durable, DurableError, Notice};
use super::*;

#[test]
fn a_first_start_commits_before_it_says_anything() {
    let bench = Bench::new();
    let state = bench.state();
    assert_eq!((state.epoch, state.boot), (EPOCH, Boot(1)));
    assert_eq!(
        state.used,
        Octets(0),
        "what was before the epoch is not its"
    );
    assert!(!bench.gate().open);
    assert!(bench.sent.is_empty());
}

#[test]
fn bootstrap_is_set_once_in_an_epoch() {
    let mut bench = Bench::new();
    assert_eq!(bench.gate().stop, Octets(64 * 1024));
    bench.use_octets(1_000, 1_000);
    bench.restart();
    assert_eq!(bench.state().used, Octets(2_000));
    assert_eq!(bench.gate().stop, Octets(64 * 1024), "not moved by a boot");
    assert_eq!(bench.gate().ceiling, Octets(2_000));
}

#[test]
fn nothing_is_asked_or_reported_before_the_registration() {
    let mut bench = Bench::new();
    bench.use_octets(10_000, 0);
    bench.connect();
    bench.wait_s(3);
    assert_eq!(bench.all(Up::Register).len(), 1);
    assert!(bench.requests().is_empty() && bench.batches().is_empty());
    bench.give(Input::Register(RegisterAnswer {
        boot: Boot(9),
        ..registered(Boot(1))
    }));
    bench.give(Input::Register(RegisterAnswer {
        epoch: Epoch(1),
        ..registered(Boot(1))
    }));
    assert!(
        bench.requests().is_empty(),
        "answers to other starts do nothing"
    );
    bench.register();
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::BOOT)
    );
    assert_eq!(request.used, Octets(10_000));
    assert_eq!(bench.batches().len(), 1);
}

#[test]
fn registration_is_sent_again_with_the_same_bytes() {
    let mut bench = Bench::new();
    bench.connect();
    bench.wait_s(5 + 10 + 20);
    let sent = bench.all(Up::Register);
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|one| *one == sent[0]));
    bench.give(Input::Disconnected);
    bench.connect();
    assert_eq!(bench.all(Up::Register).len(), 5, "at once when connected");
}

#[test]
fn a_refused_registration_waits_as_told() {
    let mut bench = Bench::new();
    bench.connect();
    bench.give(Input::Register(RegisterAnswer {
        code: Code::SERVICE_DENIED,
        retry_s: Some(900),
        ..registered(Boot(1))
    }));
    bench.wait_s(899);
    assert_eq!(bench.all(Up::Register).len(), 1);
    bench.wait_s(2);
    assert_eq!(bench.all(Up::Register).len(), 2);
}

#[test]
fn a_boot_gives_up_the_grant_and_tells_what_was_held() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(1_000, 2_000);
    bench.restart();
    let state = bench.state();
    assert_eq!(state.credit.ceiling, Octets(3_000));
    assert!(!bench.gate().open);
    bench.connect();
    bench.register();
    let request = bench.last_request();
    assert_eq!(request.number.0, 2);
    let held = request.held.expect("the remainder is told (S21)");
    assert_eq!((held.number.0, held.ceiling), (1, Octets(10_000)));
    bench.grant(5_000);
    assert!(
        bench.state().credit.held.is_none(),
        "its return is confirmed (S22)"
    );
}

#[test]
fn a_superseded_epoch_ends_and_tells_its_total() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(1_000, 2_000);
    bench.restart();
    bench.connect();
    bench.give(Input::Register(RegisterAnswer {
        code: Code::EPOCH_SUPERSEDED,
        ..registered(Boot(2))
    }));
    assert!(bench.noticed(|n| *n == Notice::NewEpochNeeded(Disagreement::Superseded)));
    bench.use_octets(500, 0);
    bench.wait_s(59);
    assert!(!bench.new_epoch, "rate-limited");
    bench.wait_s(2);
    assert!(bench.new_epoch);
    let next = bench.agent.successor(Epoch(78));
    let closes = next.closes.clone().unwrap();
    assert_eq!((closes.epoch, closes.total), (EPOCH, Octets(3_500)));
    assert_eq!(bench.state().used, Octets(3_500));
    assert_eq!(
        (next.boot, next.next_seq, next.used),
        (Boot(0), Seq(1), Octets(0))
    );

    bench.disk = Disk {
        state: Some(next.encode().unwrap()),
        ..Disk::default()
    };
    bench.new_epoch = false;
    bench.traffic(70, 0);
    bench.restart();
    assert_eq!(bench.state().epoch, Epoch(78));
    assert_eq!(
        bench.state().used,
        Octets(70),
        "no octet between the epochs is lost"
    );
}

#[test]
fn a_damaged_state_row_is_named() {
    let bench = Bench::new();
    let octets = bench.disk.state.clone().unwrap();
    assert_eq!(Durable::decode(&octets).unwrap(), bench.state());
    let cut = Durable::decode(&octets[..octets.len() - 1]);
    assert!(matches!(
        cut,
        Err(DurableError::Damaged { row: "state", .. })
    ));
    let other = Durable {
        version: 9,
        ..bench.state()
    };
    let other = Durable::decode(&other.encode().unwrap());
    assert_eq!(other, Err(DurableError::Version(9)));
}
