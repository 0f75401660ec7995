//! What devices show of themselves that managers want to hear of: each is an event, and moves nothing.

use super::*;
use crate::ledger::entry::Entry;

const SILENT_S: u64 = 86_400;

fn register(world: &mut World, device: &Device, epoch: u64, serial: &str, iccid: Option<&Iccid>) {
    let request = RegisterRequest {
        epoch: Epoch(epoch),
        boot: Boot(1),
        serial: Text::clipped(serial),
        model: Text::clipped("m"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: iccid.cloned(),
        closes: None,
    };
    world.turn(|turn| {
        let request = DeviceRequest::Register(request);
        turn.device(&device.id, &Kid::first(&"spring"), request)
            .unwrap()
    });
}

fn report(world: &mut World, device: &Device, first: u64, clock: u64, unsure: u64) {
    let batch = UsageBatch {
        epoch: Epoch(7),
        boot: Boot(1),
        iccid: device.iccid.clone(),
        zone: ZoneId::home(),
        first: Seq(first),
        clock,
        t0: 1,
        interval_s: 60,
        total: Octets(100 * first),
        dt: Vec::new(),
        up: vec![0],
        down: vec![100],
        own: Vec::new(),
        flags: Vec::new(),
        spans: Vec::new(),
        unsure: if unsure == 0 {
            Vec::new()
        } else {
            vec![(0, unsure)]
        },
    };
    world.turn(|turn| {
        let request = DeviceRequest::Usage(batch);
        turn.device(&device.id, &Kid::first(&"spring"), request)
            .unwrap()
    });
}

fn watch(world: &mut World) {
    while world
        .turn(|turn| turn.watch_silence(None, 100, |_| UnixMillis::ZERO).unwrap())
        .is_some()
    {}
}

#[test]
fn a_device_that_shows_up_as_two_is_told_once_a_day() {
    let mut world = World::new();
    let bus = world.device("bus-1");
    register(&mut world, &bus, 7, "another", None);
    register(&mut world, &bus, 7, "another", None);
    assert_eq!(world.events("two-devices").len(), 1);
    world.pass(24 * HOUR);
    register(&mut world, &bus, 7, "another", None);
    assert_eq!(world.events("two-devices").len(), 2);
    let quiet = |entry: &Entry| entry.cause.name() != "Suspected" || entry.moves.is_empty();
    assert!(world.journal.iter().all(quiet));
}

#[test]
fn a_sim_in_two_devices_is_a_conflict_and_a_new_life_a_reset() {
    let mut world = World::new();
    let (bus, van) = (world.device("bus-1"), world.device("van-1"));
    register(&mut world, &bus, 7, "bus-1", Some(&van.iccid));
    assert_eq!(world.events("sim-conflict").len(), 1);
    assert!(world.events("store-reset").is_empty());
    register(&mut world, &bus, 8, "bus-1", None);
    assert_eq!(world.events("store-reset").len(), 1);
}

#[test]
fn gaps_unsure_clocks_and_unsure_octets_are_told() {
    let mut world = World::new();
    let bus = world.device("bus-1");
    report(&mut world, &bus, 2, 1, 0);
    let gap = world.events("gap").remove(0);
    assert_eq!(word(&gap, "words"), "samples after 0 are missing before 2");
    assert!(world.events("clock-unsure").is_empty());
    report(&mut world, &bus, 1, 0, 0);
    assert_eq!(world.events("clock-unsure").len(), 1);
    assert!(world.events("unsure-octets").is_empty());
    report(&mut world, &bus, 2, 0, 4096);
    assert_eq!(world.events("unsure-octets").len(), 1);
    assert_eq!(world.events("clock-unsure").len(), 1, "once a day");
    assert_eq!(world.events("gap").len(), 1);
}

#[test]
fn silence_is_told_once_and_again_after_the_device_was_heard() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.pass(SILENT_S * 1000 - 1);
    watch(&mut world);
    assert!(world.events("silent").is_empty());
    world.pass(1);
    watch(&mut world);
    world.pass(48 * HOUR);
    watch(&mut world);
    assert_eq!(world.events("silent").len(), 1, "one silence, one event");
    world.initial(&mut bus, 100);
    world.pass(SILENT_S * 1000);
    watch(&mut world);
    assert_eq!(world.events("silent").len(), 2);
}

#[test]
fn what_is_not_covered_is_told_as_exhausted_and_as_debt() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.initial(&mut bus, 100);
    assert_eq!(world.events("exhausted").len(), 1);
    world.uses(&mut bus, 30);
    let debt = world.events("debt").remove(0);
    assert_eq!(amount(&debt, "octets"), 30);
}
