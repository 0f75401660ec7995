//! The power goes at every commit of a life, before it, after it, and after the publish.

use simquota_shared::message::{Body, Kind};
use simquota_shared::units::Octets;

use super::*;

/// A life with everything in it, played until the power goes.
fn life(bench: &mut Bench) {
    bench.connect();
    if bench.dead {
        return;
    }
    bench.register();
    for round in 0..4u64 {
        if bench.dead {
            return;
        }
        if !bench.requests().is_empty() && bench.state().credit.outstanding.is_some() {
            bench.grant(10_000);
        }
        bench.use_octets(3_000, 2_500);
        bench.wait_s(70);
        bench.use_octets(2_000, 1_000);
        if !bench.dead {
            bench.acknowledge();
        }
        match round {
            0 => bench.command("c1", 1, Body::Reauthorise),
            1 => bench.give(Input::ZoneChanged("abroad".parse().unwrap())),
            2 => bench.command("c2", 2, Body::Revoke),
            _ => bench.give(Input::Shutdown),
        }
        bench.wait_s(20);
    }
}

#[test]
fn no_octet_is_lost_or_doubled_wherever_the_power_goes() {
    let mut whole = Bench::new();
    life(&mut whole);
    assert!(whole.commits > 12, "only {} commits", whole.commits);
    for commit in 2..=whole.commits {
        for cut in [Cut::BeforeStore, Cut::AfterStore, Cut::AfterPublish] {
            let mut bench = Bench::new();
            bench.power = Some((commit, cut));
            life(&mut bench);
            let before = bench.state();
            let said = bench.requests();
            bench.restart();
            let state = bench.state();
            let metered = bench.up + bench.down - 10_000;
            assert_eq!(state.used, Octets(metered), "commit {commit}, {cut:?}");
            assert_eq!(state.credit.ceiling, state.used);
            assert_eq!(state.boot.0, before.boot.0 + 1);
            assert!(state.next_seq >= before.next_seq);
            let sum: u64 = bench.rows().iter().map(|row| row.up + row.down).sum();
            assert_eq!(state.acked_total.0 + sum, metered);
            bench.connect();
            bench.register();
            let request = bench.last_request();
            assert_eq!(request.kind, Kind::Initial);
            assert!(
                said.iter().all(|old| old.number < request.number),
                "a number is never used twice"
            );
        }
    }
}

#[test]
fn after_a_cut_no_answer_to_an_earlier_number_is_taken() {
    let mut bench = Bench::open(10_000);
    bench.use_octets(8_500, 0);
    let update = bench.last_request();
    bench.restart();
    bench.connect();
    // The broker kept it.
    bench.give(Input::Credit(answer(&update, 30_000, bench.cloud_now())));
    bench.register();
    bench.give(Input::Credit(answer(&update, 30_000, bench.cloud_now())));
    assert!(!bench.gate().open);
    assert_eq!(bench.state().credit.ceiling, Octets(8_500));
}
