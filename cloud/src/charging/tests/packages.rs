//! Packages: when they are valid, in which order they are used, what happens beyond them.

use simquota_shared::code::Code;

use super::*;

#[test]
fn a_package_lasts_from_its_first_use() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("week", Some(&bus), 10_000, &[("first_use_days", n(7))]);
    world.pass(30 * DAY);
    assert_eq!(
        world.available("week"),
        10_000,
        "it does not run before it is used"
    );
    let begun = world.now;
    let answer = world.initial(&mut bus, 1000);
    assert_eq!(answer.code, Code::SUCCESS);
    let until = UnixMillis(begun + 7 * DAY);
    assert_eq!(world.package("week").until, Some(until));
    world.uses(&mut bus, 1000);
    world.pass(3 * DAY);
    world.initial(&mut bus, 1000);
    assert_eq!(world.package("week").until, Some(until), "it begins once");
    world.pass(4 * DAY);
    assert!(world.package("week").ended);
    assert_eq!(world.count_of("PackageBegan"), 1);
    assert_eq!(
        world.initial(&mut bus, 1000).code,
        Code::CREDIT_LIMIT_REACHED
    );
}

#[test]
fn a_grant_is_valid_no_longer_than_a_package_that_begins_with_it() {
    let mut world = World::new();
    world.rules.policy.validity_s = 30 * 86_400;
    let mut bus = world.device("bus-1");
    world.buy("day", Some(&bus), 10_000, &[("first_use_days", n(1))]);
    let answer = world.initial(&mut bus, 1000);
    assert_eq!(answer.valid_until, Some(UnixMillis(world.now + DAY)));
}

#[test]
fn a_package_that_has_not_begun_is_begun_last() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("asleep", Some(&bus), 1000, &[("first_use_days", n(1))]);
    world.buy("awake", Some(&bus), 1000, &[("days", n(365))]);
    world.initial(&mut bus, 1000);
    assert_eq!(world.balance("awake"), (0, 1000, 0));
    assert_eq!(world.count_of("PackageBegan"), 0);
    world.update(&mut bus, 0);
    assert_eq!(
        world.balance("asleep"),
        (1000, 0, 0),
        "nothing was missing yet"
    );
    world.update(&mut bus, 1000);
    assert_eq!(world.balance("asleep"), (0, 1000, 0));
}

#[test]
fn first_use_by_debt_and_by_overrun_begins_it_too() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.uses(&mut bus, 300);
    world.buy("week", Some(&bus), 1000, &[("first_use_days", n(7))]);
    assert_eq!(world.balance("week"), (700, 0, 300), "debt was paid");
    assert!(world.package("week").until.is_some());
    world.buy(
        "other",
        Some(&bus),
        1000,
        &[("first_use_days", n(7)), ("priority", n(1))],
    );
    world.uses(&mut bus, 100);
    assert_eq!(world.balance("other"), (900, 0, 100), "overrun was paid");
    assert_eq!(world.count_of("PackageBegan"), 2);
}

#[test]
fn a_package_with_a_first_day_waits_for_it_and_then_reaches_who_waits() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    let from = world.now + 300_000;
    world.buy(
        "later",
        Some(&bus),
        1000,
        &[("from", n(from)), ("days", n(1))],
    );
    assert_eq!(world.package("later").until, Some(UnixMillis(from + DAY)));
    assert_eq!(
        world.initial(&mut bus, 100).code,
        Code::CREDIT_LIMIT_REACHED
    );
    world.pass(299_999);
    assert!(world.heard(&bus).is_empty());
    world.pass(1);
    let pushed = world.heard(&bus);
    assert_eq!(pushed.len(), 1, "unasked");
    assert_eq!(pushed[0].ceiling, Octets(100));
}

#[test]
fn a_zone_has_packages_of_its_own() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy(
        "roam",
        Some(&bus),
        1000,
        &[("zones", Value::Array(vec![t("eu"), t("uk")]))],
    );
    assert_eq!(
        world.initial(&mut bus, 100).code,
        Code::CREDIT_LIMIT_REACHED
    );
    bus.zone = "uk".parse().unwrap();
    assert_eq!(world.initial(&mut bus, 100).code, Code::SUCCESS);
}

#[test]
fn the_order_is_own_before_pool_then_priority_then_end_then_purchase() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("pool", None, 100, &[("priority", n(1))]);
    world.buy("late", Some(&bus), 100, &[("days", n(20))]);
    world.buy("soon", Some(&bus), 100, &[("days", n(10))]);
    world.buy(
        "soon-too",
        Some(&bus),
        100,
        &[("until", n(world.now + 10 * DAY))],
    );
    world.buy("first", Some(&bus), 100, &[("priority", n(7))]);
    world.initial(&mut bus, 500);
    let axis = world.ledger.devices[&bus.id].axis().unwrap();
    let order: Vec<String> = axis
        .segments
        .iter()
        .map(|segment| segment.package.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(order, ["first", "soon", "soon-too", "late", "pool"]);
}

#[test]
fn permitted_overage_is_the_last_that_is_used_and_is_booked_when_it_is() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("soft", Some(&bus), 1000, &[("overage", n(300))]);
    world.buy("pool", None, 500, &[]);
    let answer = world.initial(&mut bus, 1200);
    assert_eq!(answer.ceiling, Octets(1200));
    assert_eq!(
        world.balance("pool"),
        (300, 200, 0),
        "the pool before any overage"
    );
    assert_eq!(world.count_of("Overdrawn"), 0);
    world.uses(&mut bus, 1200);
    let answer = world.update(&mut bus, 200);
    assert_eq!(answer.ceiling, Octets(1400));
    assert!(answer.final_unit.is_none(), "it is not the last");
    let answer = world.update(&mut bus, 1000);
    assert_eq!(
        (answer.code, answer.ceiling),
        (Code::SUCCESS, Octets(1800)),
        "what is left, and the overage"
    );
    assert!(answer.final_unit.is_some());
    assert_eq!(world.package("soft").balances.credited, Octets(300));
    assert_eq!(
        world.update(&mut bus, 1000).code,
        Code::CREDIT_LIMIT_REACHED
    );
    world.uses(&mut bus, 700);
    assert_eq!(world.balance("soft"), (0, 0, 1300));
    assert_eq!(world.ledger.devices[&bus.id].debt, Octets(100));
}

#[test]
fn overage_that_comes_back_unused_is_available_and_drawn_only_once() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("soft", Some(&bus), 100, &[("overage", n(50))]);
    world.initial(&mut bus, 100);
    world.uses(&mut bus, 100);
    world.update(&mut bus, 50);
    assert_eq!(world.balance("soft"), (0, 50, 100));
    world.finish(&mut bus);
    assert_eq!(world.balance("soft"), (50, 0, 100));
    world.initial(&mut bus, 80);
    assert_eq!(
        world.balance("soft"),
        (0, 50, 100),
        "there is no more of it"
    );
    assert_eq!(world.count_of("Overdrawn"), 1);
}

#[test]
fn a_cancelled_package_refunds_what_is_unused_and_what_comes_back_later() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    world.initial(&mut bus, 400);
    world.uses(&mut bus, 100);
    let done = world.order("package-cancel", &[("package", t("p"))]);
    assert_eq!(amount(&done, "refunded"), 600);
    world.finish(&mut bus);
    let balances = world.package("p").balances;
    assert_eq!(
        (balances.used, balances.refunded),
        (Octets(100), Octets(900))
    );
}
