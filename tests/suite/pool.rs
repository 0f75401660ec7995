//! Two devices, one package of 10 MB in a pool: never more than that is granted in all.

use serde_json::Value;

use crate::world::{World, octets, steady};

/// The figure after `name` in a line of an explanation.
fn credits(rows: &[Value]) -> impl Iterator<Item = &str> {
    rows.iter()
        .filter(|row| row["cause"] == "Credit")
        .filter_map(|row| row["words"].as_str())
}

#[test]
fn a_pool_grants_what_it_has_and_a_top_up_reaches_whoever_waits() {
    const POOL: u64 = 10_000_000;
    let world = World::start();
    world.cloud(&[
        "package", "buy", "--fleet", "buses", "--volume", "10MB", "--id", "ten",
    ]);
    let trace = steady(60, 200_000);
    assert!(2 * octets(&trace) > POOL, "the two want more than there is");
    let mut devices = [
        world.device("tracker-a", &trace, 20, "4 MB"),
        world.device("tracker-b", &trace, 20, "4 MB"),
    ];
    for device in &mut devices {
        device.start();
    }
    for device in &devices {
        device.await_status("is refused", |status| {
            status["answer_code"] == 4012 && status["remaining"] == 0 && status["backlog"] == 0
        });
    }
    let mut used = 0;
    for device in &devices {
        let shown = world.show(device);
        used += shown["charged"].as_u64().unwrap() + shown["reserved"].as_u64().unwrap();
        let rows: Vec<Value> = explain(&world, &device.id);
        let words: Vec<&str> = credits(&rows).collect();
        let last = words.last().unwrap();
        assert!(
            last.contains("4012") && last.contains("0 B set aside"),
            "{last}"
        );
    }
    assert_eq!(
        used, POOL,
        "all of the pool was used, and not an octet more"
    );
    let all: Vec<Value> = devices
        .iter()
        .flat_map(|device| explain(&world, &device.id))
        .collect();
    let final_units =
        credits(&all).filter(|words| words.contains("2001") && words.contains("the last unit"));
    assert!(
        final_units.count() > 0,
        "the last of it was said to be the last"
    );

    // Nobody asks, and both flow again.
    let before: Vec<u64> = devices
        .iter()
        .map(|device| device.status().unwrap()["request"].as_u64().unwrap())
        .collect();
    world.cloud(&[
        "package", "buy", "--fleet", "buses", "--volume", "100MB", "--id", "more",
    ]);
    for (device, before) in devices.iter().zip(before) {
        device.await_status("flows again", |status| {
            status["used"].as_u64() > Some(0) && status["gate_open"] == true
        });
        let pushed = explain(&world, &device.id)
            .into_iter()
            .find(|row| row["cause"] == "Pushed");
        let pushed = pushed
            .unwrap_or_else(|| panic!("{}: nothing was pushed after request {before}", device.id));
        assert!(
            pushed["words"].as_str().unwrap().contains("unasked"),
            "{pushed}"
        );
    }
    for device in &mut devices {
        let process = device.process.as_mut().unwrap();
        process.wait_exit(simquota_tests::process::LIMIT).unwrap();
    }
    for device in &devices {
        assert_eq!(
            world.show(device)["charged"].as_u64(),
            Some(octets(&trace)),
            "{}",
            device.id
        );
    }
    world.audit();
}

fn explain(world: &World, device: &str) -> Vec<Value> {
    let values = world.cloud(&["explain", device]);
    match values.as_slice() {
        [Value::Array(rows)] => rows.clone(),
        rows => rows.to_vec(),
    }
}
