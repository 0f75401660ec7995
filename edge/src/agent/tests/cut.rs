//! R2: only the device gives up a ceiling, and in which order (section 11, number 21).

use simquota_shared::message::{Kind, Reason};
use simquota_shared::units::{Octets, RequestNumber};

use super::super::Effects;
use super::*;

#[test]
fn the_gate_shuts_then_the_meter_is_read_then_all_is_durable_then_it_is_said() {
    let mut bench = Bench::open(10_000);
    bench.traffic(300, 0);
    let zone = Input::ZoneChanged("abroad".parse().unwrap());
    let first = bench.agent.step(zone, bench.now);
    assert!(first.read && !first.lower.as_ref().unwrap().open);
    assert_eq!(
        first,
        Effects {
            lower: first.lower.clone(),
            read: true,
            wake_at_ms: first.wake_at_ms,
            ..Effects::default()
        }
    );
    bench.traffic(40, 0); // still on its way when the gate was shut
    bench.now.mono_ms += 2_000;
    let second = bench.agent.step(bench.reading(), bench.now);
    let commit = second.store.clone().unwrap();
    let request = commit.state.credit.outstanding.clone().unwrap();
    assert_eq!(commit.state.credit.ceiling, Octets(340));
    assert_eq!((request.used, request.kind), (Octets(340), Kind::Initial));
    assert_eq!(request.reason, Reason::CONDITION);
    assert_eq!(commit.rows.len(), 1);
    assert_eq!(
        commit.rows[0].zone.as_str(),
        "home",
        "metered before the change"
    );
    assert_eq!(request.zone.as_str(), "abroad");
    bench.carry_out(second);
    assert_eq!(bench.last_request(), request);
}

#[test]
fn answers_from_before_the_cut_are_ignored() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let update = bench.last_request();
    assert_eq!(update.kind, Kind::Update);
    bench.wait_s(2);
    bench.give(Input::ZoneChanged("abroad".parse().unwrap()));
    assert_eq!(bench.last_request().number, RequestNumber(3));
    bench.give(Input::Credit(answer(&update, 30_000, bench.cloud_now())));
    bench.give(Input::Credit(push(1, 1, 40_000, bench.cloud_now())));
    bench.give(Input::Credit(push(2, 1, 40_000, bench.cloud_now())));
    assert_eq!(bench.state().credit.ceiling, Octets(8_500));
    assert!(!bench.gate().open);
}

#[test]
fn a_later_cut_keeps_what_an_earlier_one_held() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(1_000, 0);
    bench.wait_s(2);
    bench.give(Input::ZoneChanged("abroad".parse().unwrap()));
    let first = bench.last_request().held.unwrap();
    bench.wait_s(2);
    bench.give(Input::ZoneChanged("home".parse().unwrap()));
    let second = bench.last_request();
    assert_eq!(second.number, RequestNumber(3));
    assert_eq!(second.held, Some(first));
}

#[test]
fn nothing_is_held_when_nothing_was_left() {
    let mut bench = Bench::open(1_000);
    bench.use_octets(1_200, 0);
    bench.wait_s(2);
    bench.give(Input::ZoneChanged("abroad".parse().unwrap()));
    assert_eq!(bench.last_request().held, None);
}

#[test]
fn an_unanswered_request_is_sent_again_with_the_same_bytes_and_then_replaced() {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    bench.wait_s(10 + 20 + 40 + 60);
    let sent = bench.all(Up::Credit);
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|one| *one == sent[0]));
    bench.give(Input::Disconnected);
    bench.connect();
    assert_eq!(bench.all(Up::Credit).len(), 6, "at once when connected");
    bench.wait_s(3600);
    let request = bench.last_request();
    assert_eq!(request.number, RequestNumber(2));
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::ABANDONED)
    );
    let old = bench.requests()[0].clone();
    bench.give(Input::Credit(answer(&old, 10_000, bench.cloud_now())));
    assert!(!bench.gate().open, "the replaced one is given up");
}

#[test]
fn an_unanswered_final_is_replaced_by_a_final() {
    let mut bench = Bench::open(10_000);
    bench.command("c1", 1, simquota_shared::message::Body::Suspend);
    assert_eq!(bench.last_request().kind, Kind::Final);
    bench.wait_s(3605);
    let request = bench.last_request();
    assert_eq!((request.number.0, request.kind), (3, Kind::Final));
    assert_eq!(request.reason, Reason::ABANDONED);
}
