//! Limits of the day and the month, of devices and of the pool; a device's share; suspension of a fleet.

use simquota_shared::code::Code;
use simquota_shared::message::Body;

use super::*;

#[test]
fn a_devices_day_counts_what_is_used_and_what_is_reserved_and_begins_anew() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 100_000, &[]);
    world.order("fleet-limits", &[("device_day", n(1000))]);
    let answer = world.initial(&mut bus, 5000);
    assert_eq!(answer.ceiling, Octets(1000));
    world.uses(&mut bus, 400);
    let answer = world.update(&mut bus, 5000);
    assert_eq!(answer.ceiling, Octets(1000), "400 used and 600 reserved");
    world.uses(&mut bus, 600);
    assert_eq!(world.update(&mut bus, 100).code, Code::CREDIT_LIMIT_REACHED);
    let reached = world.events("limit");
    assert_eq!(reached.len(), 1, "once");
    assert_eq!(word(&reached[0], "limit"), "device-day");
    world.uses(&mut bus, 50);
    assert_eq!(
        world.events("limit").len(),
        1,
        "an overrun is no other crossing"
    );
    world.pass(DAY - 60_000);
    assert_eq!(
        world.initial(&mut bus, 100).code,
        Code::CREDIT_LIMIT_REACHED
    );
    world.pass(60_000);
    let pushed = world.heard(&bus);
    assert_eq!(pushed[0].ceiling, Octets(1150), "who waits is pushed");
    world.uses(&mut bus, 1000);
    assert_eq!(world.events("limit").len(), 2);
}

#[test]
fn a_grant_is_not_valid_past_the_limits_reset() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 100_000, &[]);
    world.order("device-limits", &[("device", t("bus-1")), ("day", n(1000))]);
    world.pass(DAY - 20 * 60_000);
    let answer = world.initial(&mut bus, 500);
    assert_eq!(answer.valid_until, Some(UnixMillis(ZERO + DAY)));
    world.pass(15 * 60_000);
    let answer = world.update(&mut bus, 500);
    assert_eq!(
        answer.valid_until,
        Some(UnixMillis(world.now + 600_000)),
        "the least validity wins"
    );
}

#[test]
fn a_device_may_have_caps_of_its_own() {
    let mut world = World::new();
    let (mut bus, mut van) = (world.device("bus-1"), world.device("van-1"));
    world.buy("b", Some(&bus), 100_000, &[]);
    world.buy("v", Some(&van), 100_000, &[]);
    world.order("fleet-limits", &[("device_month", n(1000))]);
    world.order(
        "device-limits",
        &[("device", t("van-1")), ("month", n(3000))],
    );
    assert_eq!(world.initial(&mut bus, 5000).ceiling, Octets(1000));
    assert_eq!(world.initial(&mut van, 5000).ceiling, Octets(3000));
    world.order("device-limits", &[("device", t("van-1"))]);
    assert_eq!(
        world.initial(&mut van, 5000).ceiling,
        Octets(1000),
        "the fleet's hold again"
    );
}

#[test]
fn late_octets_go_to_their_own_day() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 100_000, &[]);
    world.order("fleet-limits", &[("device_day", n(1000))]);
    world.uses(&mut bus, 100);
    world.pass(DAY + HOUR);
    world.uses_at(&mut bus, 700, ZERO + 20 * HOUR);
    assert_eq!(world.initial(&mut bus, 5000).ceiling, Octets(800 + 1000));
    world.uses_at(&mut bus, 200, ZERO + 20 * HOUR);
    let spent = world.ledger.devices[&bus.id].spent.clone().unwrap();
    assert_eq!(
        spent.all.day,
        Octets(200),
        "no sample is older than the report before: today's limit can't be evaded by dating back"
    );
}

#[test]
fn the_pool_has_a_limit_and_each_device_a_share_of_it() {
    let mut world = World::new();
    let (mut bus, mut van) = (world.device("bus-1"), world.device("van-1"));
    world.buy("pool", None, 100_000, &[]);
    world.buy("own", Some(&van), 500, &[]);
    world.order(
        "fleet-limits",
        &[("pool_month", n(1000)), ("share", n(700))],
    );
    assert_eq!(
        world.initial(&mut bus, 5000).ceiling,
        Octets(700),
        "its share"
    );
    assert_eq!(
        world.initial(&mut van, 5000).ceiling,
        Octets(800),
        "its own, and what is left of the pool's month"
    );
    world.uses(&mut bus, 700);
    world.uses(&mut van, 800);
    let mut told: Vec<String> = world
        .events("limit")
        .iter()
        .map(|e| word(e, "limit"))
        .collect();
    told.sort();
    assert_eq!(told, ["pool-month", "share"]);
    let shown = world.order("device-show", &[("device", t("bus-1"))]);
    assert_eq!(world.update(&mut bus, 100).code, Code::CREDIT_LIMIT_REACHED);
    assert!(matches!(field(&shown, "limits"), Value::Array(limits) if limits.len() == 1));
    world.order("fleet-limits", &[]);
    assert_eq!(
        world.heard(&bus)[0].ceiling,
        Octets(800),
        "limits were lifted"
    );
}

#[test]
fn a_fleets_day_is_that_of_its_place() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 100_000, &[]);
    world.order(
        "fleet-limits",
        &[("device_day", n(1000)), ("place", t("Asia/Tokyo"))],
    );
    world.initial(&mut bus, 1000);
    world.uses(&mut bus, 1000);
    world.pass(15 * HOUR - 1);
    assert_eq!(
        world.initial(&mut bus, 100).code,
        Code::CREDIT_LIMIT_REACHED
    );
    world.pass(1);
    assert!(!world.heard(&bus).is_empty(), "midnight in Tokyo");
    let why = world.refused("fleet-limits", &[("place", t("Tokyo"))]);
    assert!(why.starts_with("unknown-place"), "{why}");
}

#[test]
fn a_suspended_fleet_is_denied_told_and_told_again_when_resumed() {
    let mut world = World::new();
    let (mut bus, mut van) = (world.device("bus-1"), world.device("van-1"));
    let lone = world.device("lone-1");
    world.buy("pool", None, 100_000, &[]);
    world.initial(&mut bus, 100);
    world.order("device-suspend", &[("device", t("lone-1"))]);
    world.order("fleet-suspend", &[]);
    let mut told = Vec::new();
    while world.turn(|turn| turn.sweep(1).unwrap()) {
        for device in [&bus, &van, &lone] {
            told.extend(
                world
                    .told(device)
                    .into_iter()
                    .map(|command| (device.id.clone(), command.body)),
            );
        }
    }
    let suspended: Vec<_> = told
        .iter()
        .filter(|(_, body)| *body == Body::Suspend)
        .collect();
    assert_eq!(
        suspended.len(),
        2,
        "a device a step, the lone one was told before: {told:?}"
    );
    assert_eq!(world.initial(&mut van, 100).code, Code::SERVICE_DENIED);
    world.order("device-resume", &[("device", t("lone-1"))]);
    assert!(world.told(&lone).is_empty(), "its fleet is still suspended");
    world.order("device-suspend", &[("device", t("lone-1"))]);
    world.order("fleet-resume", &[]);
    world.pass(0);
    assert_eq!(world.initial(&mut van, 100).code, Code::SUCCESS);
    let resumed = |device: &Device| {
        world.ledger.devices[&device.id]
            .pending
            .values()
            .map(|pending| codec::decode::<Command>(&pending.message).unwrap().body)
            .any(|body| body == Body::Resume)
    };
    assert!(resumed(&bus) && resumed(&van));
    assert!(world.ledger.devices[&lone.id].suspended);
}
