//! Answers: why a device is refused, what was there at a time, records of what moved.

use super::*;

#[test]
fn an_explanation_of_a_refusal_says_who_holds_what_until_when() {
    let mut world = World::new();
    let (mut bus, mut van) = (world.device("bus-1"), world.device("van-1"));
    world.buy("pool", None, 43_000_000, &[]);
    world.rules.grant_min = Octets(43_000_000);
    world.initial(&mut van, 40_000_000);
    world.buy(
        "roam",
        Some(&bus),
        7_000_000,
        &[("zones", Value::Array(vec![t("eu")]))],
    );
    world.initial(&mut bus, 1000);
    let Value::Array(rows) = world.order("explain", &[("device", t("bus-1"))]) else {
        panic!()
    };
    let last = word(rows.last().unwrap(), "words");
    assert_eq!(
        last,
        "refused now: 0 B available, 43.00 MB reserved by device van-1 until 2026-11-23T02:00:00Z, \
         7.00 MB in packages that do not serve zone home now"
    );
    world.finish(&mut van);
    world.initial(&mut bus, 1000);
    let shown = world.order("device-show", &[("device", t("bus-1"))]);
    assert_eq!(field(&shown, "refusal"), &Value::Null);
}

#[test]
fn an_explanation_of_a_refusal_names_the_limit() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1_000_000, &[]);
    world.order("fleet-limits", &[("device_day", n(5000))]);
    world.initial(&mut bus, 5000);
    world.uses(&mut bus, 5000);
    world.update(&mut bus, 5000);
    let shown = world.order("device-show", &[("device", t("bus-1"))]);
    assert_eq!(
        word(&shown, "refusal"),
        "the device's limit of the day is reached, 5.00 kB of 5.00 kB, anew from 2026-11-24T00:00:00Z, 995.00 kB available"
    );
    world.order("fleet-suspend", &[]);
    let shown = world.order("device-show", &[("device", t("bus-1"))]);
    assert_eq!(word(&shown, "refusal"), "fleet buses is suspended");
}

#[test]
fn an_explanation_may_begin_at_a_time() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    world.pass(HOUR);
    world.initial(&mut bus, 500);
    let since = [("device", t("bus-1")), ("since", n(ZERO + HOUR))];
    let Value::Array(rows) = world.order("explain", &since) else {
        panic!()
    };
    assert_eq!(rows.len(), 1);
    assert!(word(&rows[0], "words").contains("500 B set aside (500 of p)"));
}

#[test]
fn any_past_balance_can_be_seen_again() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    world.pass(HOUR);
    world.initial(&mut bus, 500);
    world.uses(&mut bus, 200);
    world.pass(HOUR);
    world.finish(&mut bus);
    let mut at = |at: u64| {
        let Value::Array(packages) =
            field(&world.order("balance", &[("at", n(at))]), "packages").clone()
        else {
            panic!()
        };
        let of = |name| amount(&packages[0], name);
        (of("available"), of("reserved"), of("used"))
    };
    assert_eq!(at(ZERO + HOUR - 1), (1000, 0, 0));
    assert_eq!(at(ZERO + HOUR), (500, 300, 200));
    assert_eq!(at(ZERO + 2 * HOUR), (800, 0, 200));
}

#[test]
fn an_export_goes_on_where_the_last_one_ended_and_adds_up_to_what_was_charged() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1_000_000, &[]);
    world.initial(&mut bus, 900_000);
    for _ in 0..10 {
        world.uses(&mut bus, 1000);
    }
    let export = |world: &mut World, from: u64| {
        let Value::Array(mut rows) = world.order("export", &[("from", n(from))]) else {
            panic!()
        };
        let end = rows.pop().unwrap();
        assert_eq!(field(&end, "next"), &Value::Null, "nothing follows");
        rows
    };
    let first = export(&mut world, 0);
    let last = amount(first.last().unwrap(), "entry");
    assert_eq!(export(&mut world, last + 1).len(), 0);
    world.uses(&mut bus, 500);
    let more = export(&mut world, last + 1);
    assert_eq!(more.len(), 1);
    assert_eq!(word(&more[0], "device"), "bus-1");
    assert_eq!(word(&more[0], "to"), "p:used");
    let debits = |rows: &[Value]| -> u64 {
        rows.iter()
            .filter(|row| word(row, "to") == "p:used")
            .map(|row| amount(row, "amount"))
            .sum()
    };
    assert_eq!(debits(&first) + debits(&more), 10_500);
    assert!(
        first
            .iter()
            .all(|row| !word(row, "to").ends_with(":reserved"))
    );
}
