//! Idle, leaving the SIM (S33), the orderly end, the connect budget, the status.

use simquota_shared::message::usage::flag;
use simquota_shared::message::{CreditAnswer, Kind, Reason};
use simquota_shared::units::Octets;

use super::super::Notice;
use super::*;

/// Granted with a holding time of 300 s.
fn holding() -> Bench {
    let mut bench = Bench::new();
    bench.connect();
    bench.register();
    let answer = CreditAnswer {
        hold_s: 300,
        ..answer(&bench.last_request(), 10_000, bench.cloud_now())
    };
    bench.give(Input::Credit(answer));
    bench
}

#[test]
fn an_idle_device_gives_back_and_asks_with_its_next_packet() {
    let mut bench = holding();
    bench.use_octets(1_000, 0);
    bench.wait_s(200);
    bench.own += 100;
    bench.use_octets(100, 0); // the agent's own is no traffic
    bench.wait_s(101);
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Final, Reason::HOLDING)
    );
    assert_eq!(request.held.unwrap().ceiling, Octets(10_000));
    assert!(!bench.gate().open);
    bench.grant(0);
    assert_eq!(bench.agent.status_view().state, "idle");
    bench.give(Input::Disconnected);
    bench.connect();
    bench.wait_s(9_000);
    assert_eq!(bench.requests().len(), 2, "nothing is wanted");
    bench.use_octets(0, 60);
    bench.wait_s(2);
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Initial, Reason::TRAFFIC)
    );
}

#[test]
fn a_packet_in_the_last_moment_keeps_the_grant() {
    let mut bench = holding();
    bench.use_octets(1_000, 0);
    bench.wait_s(299);
    bench.traffic(50, 0);
    bench.wait_s(2);
    assert_eq!(bench.requests().len(), 1);
    assert!(bench.gate().open);
    bench.wait_s(295);
    assert_eq!(bench.requests().len(), 1);
}

#[test]
fn idle_offline_keeps_the_grant_until_it_can_be_given_back() {
    let mut bench = holding();
    bench.give(Input::Disconnected);
    bench.wait_s(1_000);
    assert!(bench.gate().open);
    bench.connect();
    assert_eq!(bench.last_request().kind, Kind::Final);
}

#[test]
fn traffic_before_the_answer_replaces_the_final_at_once() {
    let mut bench = holding();
    bench.wait_s(301);
    assert_eq!(bench.last_request().kind, Kind::Final);
    bench.wait_s(2);
    bench.give(Input::GateBlocked);
    let request = bench.last_request();
    assert_eq!((request.number.0, request.kind), (3, Kind::Initial));
}

#[test]
fn leaving_the_sim_stores_the_last_usage_and_meters_no_more() {
    let mut bench = Bench::open(10_000);
    bench.give(Input::Disconnected);
    bench.traffic(700, 0);
    bench.give(Input::LeaveSim);
    let rows = bench.rows();
    assert_eq!((rows[0].up, rows[0].flags), (700, flag::SWITCH));
    let request = bench.state().credit.outstanding.unwrap();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Final, Reason::SWITCH)
    );
    bench.give(Input::Connected(Some("wifi".parse().unwrap())));
    assert_eq!(bench.last_request(), request);
    assert_eq!(
        bench.batches()[0].total,
        Octets(700),
        "over the other channel (S5)"
    );
    bench.use_octets(90_000, 0);
    bench.wait_s(100);
    assert_eq!(bench.agent.used(), Octets(700));
    bench.acknowledge();
    bench.grant(0);
    bench.give(Input::ReturnSim);
    assert_eq!(bench.last_request().kind, Kind::Initial);
    assert_eq!(
        bench.last_request().used,
        Octets(700),
        "what Wi-Fi carried is not the SIM's"
    );
    bench.use_octets(5, 0);
    assert_eq!(bench.agent.used(), Octets(705));
}

#[test]
fn a_sim_interface_that_comes_back_as_the_same_hides_nothing() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(700, 0);
    bench.give(Input::LoseSim(None));
    // Renamed, say: it is the SIM's under another name.
    bench.use_octets(300, 0);
    assert_eq!(bench.agent.used(), Octets(700));
    bench.restart();
    bench.connect();
    bench.register();
    assert_eq!(bench.last_request().used, Octets(1_000));
    bench.grant(10_000);
    bench.give(Input::LoseSim(None));
    bench.traffic(50, 0);
    bench.grant(0);
    bench.wait_s(2);
    bench.give(Input::ReturnSim);
    assert_eq!(bench.last_request().used, Octets(1_050));
}

#[test]
fn a_lost_sim_ends_its_row_with_what_the_link_said_last() {
    let mut bench = Bench::open(10_000);
    bench.traffic(700, 0);
    let last = Reading {
        identity: bench.identity.clone(),
        up: bench.up + 50,
        down: bench.down,
        own: 0,
        dropped: 0,
    };
    bench.up += 50;
    bench.give(Input::LoseSim(Some(last)));
    let rows = bench.rows();
    let row = rows.last().unwrap();
    assert_eq!(row.flags, flag::SWITCH | flag::UNCLEAN, "S33 and S5");
    assert_eq!(bench.agent.used(), Octets(750));
    assert_eq!(bench.last_request().reason, Reason::SWITCH);
}

#[test]
fn a_sim_interface_that_was_made_anew_counts_from_its_beginning() {
    let mut bench = Bench::open(10_000);
    bench.give(Input::LeaveSim);
    bench.identity = identity("kernel-1", 9);
    (bench.up, bench.down) = (30, 0);
    bench.wait_s(2);
    bench.give(Input::ReturnSim);
    assert_eq!(bench.last_request().used, Octets(30));
}

#[test]
fn an_orderly_end_reports_gives_back_and_is_clean() {
    let mut bench = Bench::open(10_000);
    bench.traffic(700, 0);
    bench.give(Input::Shutdown);
    assert!(!bench.done && !bench.gate().open);
    let request = bench.last_request();
    assert_eq!(
        (request.kind, request.reason),
        (Kind::Final, Reason::SHUTDOWN)
    );
    assert_eq!(bench.rows()[0].flags, flag::SHUTDOWN);
    bench.acknowledge();
    assert!(!bench.done);
    bench.traffic(20, 0);
    bench.grant(0);
    assert!(bench.done);
    let state = bench.state();
    assert!(state.clean);
    assert_eq!(state.used, Octets(720));
    assert!(!bench.statuses().last().unwrap().online);
    bench.restart();
    bench.use_octets(10, 0);
    bench.give(Input::Shutdown);
    assert_eq!(bench.rows().last().unwrap().flags & flag::UNCLEAN, 0);
}

#[test]
fn an_end_without_a_network_is_durable_and_takes_five_seconds() {
    let mut bench = Bench::open(10_000);
    bench.give(Input::Disconnected);
    bench.use_octets(700, 0);
    bench.give(Input::Shutdown);
    bench.wait_s(4);
    assert!(!bench.done);
    bench.wait_s(2);
    assert!(bench.done);
    assert_eq!(bench.state().used, Octets(700));
    bench.restart();
    bench.connect();
    bench.register();
    let request = bench.last_request();
    assert_eq!(request.kind, Kind::Initial);
    assert_eq!(
        request.held.unwrap().ceiling,
        Octets(10_000),
        "returned before the new grant"
    );
}

#[test]
fn another_sim_registers_again_and_splits_the_rows() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(100, 0);
    bench.wait_s(6);
    bench.give(Input::SimChanged("8931-2".parse().unwrap()));
    assert!(!bench.gate().open);
    let all = bench.all(Up::Register);
    let again: RegisterRequest = codec::decode(all.last().unwrap()).unwrap();
    assert_eq!(again.iccid.unwrap().as_str(), "8931-2");
    assert_eq!(bench.rows()[0].iccid.as_ref().unwrap().as_str(), "8931-1");
    assert_eq!(bench.requests().len(), 1);
}

#[test]
fn at_the_stop_there_is_one_connect_budget_a_quarter_of_an_hour() {
    let mut bench = Bench::new();
    bench.own += 70_000;
    bench.use_octets(70_000, 0);
    assert_eq!(bench.gate().stop, Octets(65_536));
    bench.wait_s(905);
    assert_eq!(bench.gate().stop, Octets(70_000 + 8_192));
    bench.wait_s(2_000);
    assert_eq!(
        bench.gate().stop,
        Octets(70_000 + 8_192),
        "not used up, not raised"
    );
    assert!(bench.noticed(|n| matches!(n, Notice::ConnectBudget(_))));
}

#[test]
fn what_the_gate_dropped_does_not_eat_the_allowance() {
    let mut bench = Bench::open(100_000);
    bench.use_octets(0, 100_000);
    let left = |bench: &Bench| bench.gate().stop.0 - bench.agent.used().0;
    assert_eq!(left(&bench), 20_000);
    // The far end sends on: delivered, and dropped. The meter shows some of it a reading before the gate does.
    bench.dropped = 40_000;
    bench.use_octets(0, 50_000);
    bench.dropped = 50_000;
    bench.use_octets(0, 0);
    assert_eq!(left(&bench), 20_000);
    // What passed has to fit, whoever was stopped beside it.
    bench.own += 6_000;
    bench.use_octets(6_000, 0);
    assert_eq!(left(&bench), 14_000);
    bench.use_octets(0, 0);
    bench.dropped += 1_000_000;
    bench.use_octets(0, 0);
    assert_eq!(left(&bench), 14_000, "no more than the meter shows");
}

#[test]
fn what_the_gate_dropped_while_no_agent_ran_does_not_eat_the_allowance() {
    let mut bench = Bench::open(100_000);
    bench.use_octets(0, 90_000);
    // The table outlives the agent.
    bench.traffic(0, 10_000);
    bench.traffic(0, 300_000);
    bench.dropped = 300_000;
    bench.restart();
    assert_eq!(bench.agent.used(), Octets(400_000));
    assert_eq!(bench.gate().stop, Octets(420_000));
    // Its own table begins to count anew.
    bench.dropped = 0;
    bench.use_octets(0, 0);
    bench.dropped = 5_000;
    bench.use_octets(0, 5_000);
    assert_eq!(bench.gate().stop, Octets(425_000));
}

#[test]
fn what_is_delivered_while_an_answer_is_under_way_does_not_eat_the_allowance() {
    let mut bench = Bench::open(100_000);
    bench.restart();
    bench.connect();
    bench.register();
    // The cloud reckons from the used total of the request.
    let request = bench.last_request();
    bench.dropped = 50_000;
    bench.use_octets(0, 50_000);
    bench.give(Input::Credit(answer(&request, 10_000, bench.cloud_now())));
    assert_eq!(bench.gate().stop, Octets(10_000 + 20_000 + 50_000));
    // Another cut, another reckoning.
    bench.wait_s(2);
    bench.give(Input::ZoneChanged("abroad".parse().unwrap()));
    let request = bench.last_request();
    bench.give(Input::Credit(answer(&request, 60_000, bench.cloud_now())));
    assert_eq!(bench.gate().stop, Octets(60_000 + 20_000));
}

#[test]
fn a_will_is_told_from_a_newer_status() {
    let mut bench = Bench::new();
    assert_eq!(bench.agent.next_connection(), 1);
    let will: Status = codec::decode(&bench.agent.will(1)).unwrap();
    bench.connect();
    let status = bench.statuses().pop().unwrap();
    assert_eq!((will.connection, will.online), (1, false));
    assert_eq!((status.connection, status.online), (1, true));
    assert_eq!(status.channel.unwrap().as_str(), "sim");
    assert!(bench.sent[0].1.retain);
    assert_eq!(bench.agent.next_connection(), 2);
}

#[test]
fn a_failed_commit_shuts_the_gate_and_ends_this_agent() {
    let mut bench = Bench::open(10_000);
    bench.give(Input::StoreFailed);
    assert!(!bench.gate().open);
    bench.use_octets(1_000, 0);
    bench.restart();
    assert_eq!(bench.state().used, Octets(1_000));
}
