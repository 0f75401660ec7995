//! The patent's remainder: a device that ends with quota in hand gives it back before it gets a new grant.

use serde_json::Value;
use simquota_tests::broker::Broker as _;
use simquota_tests::process::LIMIT;

use crate::world::{Device, World, steady};

/// A device that has used a little of its grant and holds the rest.
fn holding(world: &World, id: &str) -> Device {
    world.cloud(&["package", "buy", "--fleet", "buses", "--volume", "100MB"]);
    let mut device = world.device(id, &steady(3600, 500), 1, "4 MB");
    device.start();
    device.await_status("holds quota and reported", |status| {
        status["remaining"].as_u64() > Some(1_000_000) && status["acked"].as_u64() > Some(0)
    });
    device
}

/// The entries of its credit requests, once a start after `before` starts was granted anew.
fn credits(world: &World, device: &Device, before: u64) -> Vec<Value> {
    device.await_status("is granted anew", |status| {
        status["boot"].as_u64() > Some(before) && status["remaining"].as_u64() > Some(0)
    });
    let rows = match world.cloud(&["explain", &device.id]).as_slice() {
        [Value::Array(rows)] => rows.clone(),
        rows => rows.to_vec(),
    };
    rows.into_iter()
        .filter(|row| row["cause"] == "Credit")
        .collect()
}

/// One entry releases the remainder and reserves anew, in this order.
fn assert_returned_first(row: &Value) {
    let words = row["words"].as_str().unwrap();
    assert!(
        words.contains("went back first") && words.contains("(initial, boot)"),
        "{words}"
    );
    assert_eq!(row["steps"], "S21 S22 S23 S31", "{row}");
    let moves: Vec<&str> = row["moves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one.as_str().unwrap())
        .collect();
    assert!(
        moves[0].contains(":reserved -> ") && moves[0].contains(":available"),
        "{moves:?}"
    );
    assert!(
        moves[1].contains(":available -> ") && moves[1].contains(":reserved"),
        "{moves:?}"
    );
}

#[test]
fn an_agent_that_was_killed_returns_the_remainder_before_it_gets_a_new_grant() {
    let world = World::start();
    let mut device = holding(&world, "tracker-k");
    device.process.as_mut().unwrap().kill9().unwrap();
    device.start();
    let rows = credits(&world, &device, 1);
    assert_returned_first(rows.last().unwrap());
    world.audit();
}

#[test]
fn an_agent_that_was_stopped_without_a_network_does_so_too() {
    let mut world = World::start();
    let mut device = holding(&world, "tracker-s");
    world.broker.outage().unwrap();
    device.process.as_mut().unwrap().terminate().unwrap();
    device
        .process
        .as_mut()
        .unwrap()
        .wait_exit(2 * LIMIT)
        .unwrap();
    let stored = device.stored();
    assert_eq!(
        stored["ceiling"], stored["used"],
        "the ceiling was given up, durably: {stored}"
    );
    world.broker.resume().unwrap();
    device.start();
    let rows = credits(&world, &device, 1);
    assert_returned_first(rows.last().unwrap());
    world.audit();
}
