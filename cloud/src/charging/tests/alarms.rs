//! Thresholds: one event for each crossing; and rules that buy because of them.

use super::*;

#[test]
fn each_threshold_is_told_once_and_again_after_the_use_fell_below_it() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    world.initial(&mut bus, 1000);
    world.uses(&mut bus, 499);
    assert!(world.events("threshold").is_empty());
    world.uses(&mut bus, 1);
    world.uses(&mut bus, 299);
    assert_eq!(world.events("threshold").len(), 1);
    world.uses(&mut bus, 201);
    let percents: Vec<u64> = world
        .events("threshold")
        .iter()
        .map(|e| amount(e, "percent"))
        .collect();
    assert_eq!(percents, [50, 80, 100], "two at once are two");
    world.order(
        "package-credit",
        &[
            ("package", t("p")),
            ("octets", n(1000)),
            ("why", t("goodwill")),
        ],
    );
    world.initial(&mut bus, 1000);
    world.uses(&mut bus, 599);
    assert_eq!(
        world.events("threshold").len(),
        3,
        "1000 of 2000 stay above 50 %"
    );
    world.uses(&mut bus, 1);
    let last = world.events("threshold").pop().unwrap();
    assert_eq!(
        (amount(&last, "percent"), amount(&last, "crossing")),
        (80, 4)
    );
}

#[test]
fn a_fleet_chooses_its_percentages() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    world.initial(&mut bus, 1000);
    world.uses(&mut bus, 300);
    world.order(
        "fleet-thresholds",
        &[("percents", Value::Array(vec![n(10), n(90)]))],
    );
    world.uses(&mut bus, 599);
    assert!(
        world.events("threshold").is_empty(),
        "10 % was passed before"
    );
    world.uses(&mut bus, 1);
    assert_eq!(amount(&world.events("threshold")[0], "percent"), 90);
    for bad in [
        vec![n(0)],
        vec![n(101)],
        vec![n(50), n(50)],
        vec![n(50), n(40)],
    ] {
        let why = world.refused("fleet-thresholds", &[("percents", Value::Array(bad))]);
        assert!(why.starts_with("bad-percent"), "{why}");
    }
}

fn rule(world: &mut World, more: &[(&str, Value)]) {
    let mut args = vec![
        ("rule", t("refill")),
        ("percent", n(75)),
        ("volume", n(1000)),
        ("most", n(2)),
    ];
    args.extend(more.iter().map(|(name, value)| (*name, value.clone())));
    world.order("top-up-set", &args);
}

#[test]
fn a_rule_buys_in_the_commit_that_crosses_up_to_its_ceiling_of_the_month() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    rule(&mut world, &[]);
    world.buy("pool", None, 1000, &[]);
    world.initial(&mut bus, 1000);
    let before = world.journal.len();
    world.uses(&mut bus, 750);
    let causes: Vec<&str> = world.journal[before..]
        .iter()
        .map(|e| e.cause.name())
        .collect();
    assert_eq!(
        causes,
        ["Usage", "Crossed", "Crossed", "ToppedUp", "PackageBought"]
    );
    assert!(
        world
            .events("threshold")
            .iter()
            .all(|e| amount(e, "percent") != 75),
        "only the rule waits for 75 %"
    );
    let bought = word(&world.events("topped-up")[0], "bought");
    assert!(bought.starts_with("refill-"), "{bought}");
    assert_eq!(world.available(&bought), 1000);
    // Each package that a rule bought crosses in its turn.
    for _ in 0..5 {
        let granted = world.initial(&mut bus, 1000).ceiling.value() - bus.used;
        if granted > 0 {
            world.uses(&mut bus, granted);
        }
    }
    assert_eq!(world.events("topped-up").len(), 2);
    assert_eq!(
        world.events("top-up-refused").len(),
        1,
        "one crossing, one refusal"
    );
    let fleet = world.order("fleet-show", &[]);
    let Value::Array(rules) = field(&fleet, "rules") else {
        panic!()
    };
    assert_eq!(amount(&rules[0], "times"), 2);
    // 2026-12-01
    world.pass(8 * DAY);
    world.buy("december", None, 1000, &[]);
    world.initial(&mut bus, 900);
    world.uses(&mut bus, 900);
    assert_eq!(world.events("topped-up").len(), 3);
}

#[test]
fn a_rule_for_a_device_does_not_look_at_the_pool_and_goes_when_it_is_removed() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    rule(&mut world, &[("device", t("bus-1"))]);
    world.buy("pool", None, 1000, &[]);
    world.initial(&mut bus, 1000);
    world.uses(&mut bus, 1000);
    assert!(world.events("topped-up").is_empty());
    world.buy("own", Some(&bus), 1000, &[]);
    world.initial(&mut bus, 800);
    world.uses(&mut bus, 800);
    assert_eq!(world.events("topped-up").len(), 1);
    world.order("top-up-remove", &[("rule", t("refill"))]);
    let why = world.refused("top-up-remove", &[("rule", t("refill"))]);
    assert!(why.starts_with("unknown-rule"), "{why}");
    world.initial(&mut bus, 1200);
    world.uses(&mut bus, 1200);
    assert_eq!(world.events("topped-up").len(), 1);
}

#[test]
fn a_top_up_reaches_the_device_that_waits_without_its_asking() {
    let mut world = World::new();
    world.rules.grant_min = Octets(1000);
    let (mut bus, mut van) = (world.device("bus-1"), world.device("van-1"));
    rule(&mut world, &[("percent", n(100))]);
    world.buy("pool", None, 1000, &[]);
    world.initial(&mut bus, 1000);
    assert!(!world.initial(&mut van, 1000).code.is_success());
    world.uses(&mut bus, 1000);
    let pushed = world.heard(&van);
    assert_eq!(pushed[0].ceiling, Octets(1000), "in the same step");
}
