//! Kills at random moments: agents and the cloud by `kill -9`, the broker with its memory lost. Afterwards every octet
//! that was durably metered is charged, exactly once.

use simquota_tests::broker::Broker as _;
use simquota_tests::process::{LIMIT, await_fact};

use crate::world::{World, octets, steady};

const ROUNDS: u64 = 20;

/// Where in a round the blow falls; from a fixed seed, so that a failure can be had again.
fn moments(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

#[test]
fn agents_cloud_and_broker_die_twenty_times_each_and_nothing_is_lost_or_doubled() {
    let mut world = World::start();
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "10GB"]);
    let trace = steady(600, 20_000);
    let mut devices: Vec<_> = (0..3)
        .map(|n| world.device(&format!("tracker-{n}"), &trace, 10, "2 MB"))
        .collect();
    for device in &mut devices {
        device.start();
    }
    for device in &devices {
        device.await_status("is granted", |status| status["ceiling"].as_u64() > Some(0));
    }
    let mut draw = moments(4);
    for round in 0..ROUNDS {
        // Each blow falls while traffic is metered: a little after the used total of some device moved on.
        let n = draw(3) as usize;
        let before = devices[n]
            .status()
            .and_then(|status| status["used"].as_u64())
            .unwrap_or(0);
        let further = before + draw(120_000);
        let trace_over = octets(&trace);
        devices[n].await_status("goes on", |status| {
            status["used"].as_u64() >= Some(further.min(trace_over))
        });
        devices[n].process.as_mut().unwrap().kill9().unwrap();
        world.broker.restart_with_amnesia().unwrap();
        world.cloud.as_mut().unwrap().kill9().unwrap();
        world.start_cloud();
        devices[n].start();
        println!("round {round}: tracker-{n} killed at {further} octets or later");
    }
    for device in &mut devices {
        // The trace ends, everything is reported and returned, and the process ends by itself.
        let process = device.process.as_mut().unwrap();
        await_fact(4 * LIMIT, &format!("{} ends in order", device.id), || {
            process.exited().unwrap().filter(|status| status.success())
        })
        .unwrap();
    }
    world.audit();
    for device in &devices {
        let (shown, stored) = (world.show(device), device.stored());
        assert_eq!(
            shown["charged"].as_u64(),
            Some(octets(&trace)),
            "{}: {shown}\n{stored}",
            device.id
        );
        assert_eq!(shown["charged"], stored["used"], "{}", device.id);
        assert_eq!(
            shown["epochs"], 1,
            "{}: kills alone end no epoch",
            device.id
        );
        assert_eq!(
            shown["reserved"], 0,
            "{}: everything was returned",
            device.id
        );
    }
}
