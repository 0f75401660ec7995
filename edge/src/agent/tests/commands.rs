//! Commands (section 4; section 11, number 26).

use simquota_shared::message::{Body, Command, Kind, Outcome, Policy, Reason};
use simquota_shared::units::{Epoch, Octets, UnixMillis};

use super::*;

fn outcomes(bench: &Bench) -> Vec<Outcome> {
    bench.acks().iter().map(|ack| ack.outcome).collect()
}

#[test]
fn suspend_cuts_stores_acknowledges_and_only_a_resume_asks_again() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(1_000, 0);
    bench.command("c1", 1, Body::Suspend);
    let state = bench.state();
    assert!(state.suspended && !bench.gate().open);
    assert_eq!(state.credit.ceiling, Octets(1_000));
    assert_eq!(outcomes(&bench), [Outcome::Applied]);
    let request = bench.last_request();
    assert_eq!((request.kind, request.want), (Kind::Final, Octets(0)));
    bench.grant(0);
    bench.give(Input::GateBlocked);
    bench.use_octets(500, 0);
    bench.give(Input::Disconnected);
    bench.connect();
    bench.wait_s(4_000);
    assert_eq!(bench.requests().len(), 2, "quiet");
    bench.command("c2", 2, Body::Resume);
    assert_eq!(bench.last_request().kind, Kind::Initial);
    bench.grant(5_000);
    assert!(bench.gate().open);
}

#[test]
fn a_suspended_device_asks_at_its_start_and_a_2001_opens() {
    let mut bench = Bench::open(10_000);
    bench.command("c1", 1, Body::Suspend);
    bench.restart();
    assert!(bench.state().suspended);
    bench.connect();
    bench.register();
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::BOOT)
    );
    bench.grant(5_000);
    assert!(!bench.state().suspended && bench.gate().open);
}

#[test]
fn suspend_and_resume_cannot_swap() {
    let mut bench = Bench::open(10_000);
    bench.command("c2", 2, Body::Resume);
    bench.command("c1", 1, Body::Suspend);
    assert_eq!(outcomes(&bench), [Outcome::Applied, Outcome::Superseded]);
    assert!(!bench.state().suspended);
    bench.command("c0", 0, Body::Report);
    assert_eq!(outcomes(&bench)[2], Outcome::Applied, "sets no state");
}

#[test]
fn a_repeat_gets_the_stored_outcome_also_after_a_boot() {
    let mut bench = Bench::open(10_000);
    bench.command("c1", 1, Body::Suspend);
    bench.command("c2", 2, Body::Resume);
    bench.restart();
    bench.connect();
    bench.command("c1", 1, Body::Suspend);
    assert_eq!(outcomes(&bench), [Outcome::Applied; 3]);
    assert!(!bench.state().suspended, "not applied again");
}

#[test]
fn r1_a_command_of_another_epoch_is_not_heard() {
    let mut bench = Bench::open(10_000);
    bench.give(Input::Command(Command {
        epoch: Epoch(1),
        id: "c1".parse().unwrap(),
        number: 1,
        expires: UnixMillis(u64::MAX),
        now: UnixMillis(0),
        body: Body::Suspend,
    }));
    assert!(bench.acks().is_empty() && bench.gate().open);
}

#[test]
fn expiry_is_judged_only_with_a_clock() {
    let late = |bench: &mut Bench, id: &str| {
        bench.give(Input::Command(Command {
            epoch: EPOCH,
            id: id.parse().unwrap(),
            number: 1,
            expires: UnixMillis(CLOUD_MS - 1),
            now: UnixMillis(CLOUD_MS - 2),
            body: Body::Report,
        }));
    };
    let mut bench = Bench::new();
    bench.connect();
    late(&mut bench, "c1");
    bench.register();
    late(&mut bench, "c2");
    assert_eq!(outcomes(&bench), [Outcome::Applied, Outcome::Expired]);
}

#[test]
fn a_revoked_device_asks_again_with_its_next_packet() {
    let mut bench = Bench::open(10_000);
    bench.command("c1", 1, Body::Revoke);
    assert_eq!(bench.last_request().kind, Kind::Final);
    bench.grant(0);
    bench.wait_s(100);
    assert_eq!(bench.requests().len(), 2);
    bench.give(Input::GateBlocked);
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::TRAFFIC)
    );
}

#[test]
fn reauthorise_asks_now_and_only_once() {
    let mut bench = Bench::open(10_000);
    bench.wait_s(2);
    bench.command("c1", 1, Body::Reauthorise);
    bench.command("c2", 2, Body::Reauthorise);
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Update, Reason::FORCED)
    );
    assert_eq!(bench.requests().len(), 2);
    assert!(bench.gate().open);
}

#[test]
fn report_now_takes_the_open_sample_too() {
    let mut bench = Bench::open(1_000_000);
    bench.traffic(700, 0);
    bench.command("c1", 1, Body::Report);
    assert_eq!(bench.batches()[0].total, Octets(700));
}

#[test]
fn an_older_policy_is_superseded() {
    let mut bench = Bench::open(10_000);
    let policy = |version, report_s| Policy {
        version,
        report_s,
        ..Policy::DEFAULT
    };
    bench.command("c1", 1, Body::Policy(policy(5, 30)));
    bench.command("c2", 2, Body::Policy(policy(4, 99)));
    assert_eq!(outcomes(&bench), [Outcome::Applied, Outcome::Superseded]);
    assert_eq!(bench.state().policy.report_s, 30);
    bench.command("c3", 3, Body::Rotate(2));
    assert_eq!(bench.state().key_generation, 2);
}

#[test]
fn outcomes_are_bounded() {
    let mut bench = Bench::open(10_000);
    for number in 1..200 {
        bench.command(&format!("c{number}"), number, Body::Report);
    }
    assert_eq!(bench.state().outcomes.len(), super::super::OUTCOMES_MAX);
    assert!(bench.disk.state.unwrap().len() < 8_192);
}
