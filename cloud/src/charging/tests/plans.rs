//! Plans: packages that come anew on a day, in a place.

use simquota_shared::code::Code;

use super::*;

fn begin(world: &mut World, more: &[(&str, Value)]) -> Value {
    let mut args = vec![("plan", t("p")), ("volume", n(1000)), ("every", t("day"))];
    args.extend(more.iter().map(|(name, value)| (*name, value.clone())));
    world.order("plan-begin", &args)
}

#[test]
fn each_period_is_a_package_that_ends_at_the_turn() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    let plan = begin(&mut world, &[("device", t("bus-1"))]);
    assert_eq!(amount(&plan, "next"), ZERO + DAY);
    assert_eq!(world.package("p-1").until, Some(UnixMillis(ZERO + DAY)));
    world.initial(&mut bus, 300);
    world.uses(&mut bus, 300);
    world.pass(DAY);
    assert_eq!(world.package("p-1").balances.expired, Octets(700));
    assert_eq!(world.available("p-2"), 1000);
    world.pass(3 * DAY);
    assert_eq!(
        world.available("p-5"),
        1000,
        "turns that were missed are made up for"
    );
    assert!(world.package("p-4").ended);
    world.order("plan-end", &[("plan", t("p"))]);
    world.pass(DAY);
    assert_eq!(world.count_of("PlanTurned"), 5);
    assert!(
        world.package("p-5").ended,
        "the last period ends as it would"
    );
}

#[test]
fn what_is_left_goes_over_between_minimum_and_maximum() {
    for (used, over) in [(0, 250), (800, 200), (1000, 100)] {
        let mut world = World::new();
        let mut bus = world.device("bus-1");
        begin(
            &mut world,
            &[
                ("device", t("bus-1")),
                ("rollover_min", n(100)),
                ("rollover_max", n(250)),
            ],
        );
        if used > 0 {
            world.initial(&mut bus, used);
            world.uses(&mut bus, used);
            world.finish(&mut bus);
        }
        world.pass(DAY);
        assert_eq!(world.available("p-2"), 1000 + over, "{used} used");
        assert_eq!(world.package("p-2").balances.credited, Octets(over));
    }
}

#[test]
fn what_is_reserved_at_the_turn_does_not_go_over() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    begin(
        &mut world,
        &[("device", t("bus-1")), ("rollover_max", n(1000))],
    );
    world.pass(DAY - 60_000);
    world.initial(&mut bus, 400);
    world.pass(60_000);
    assert_eq!(world.available("p-2"), 1600, "600 were available");
    world.uses(&mut bus, 100);
    world.finish(&mut bus);
    let balances = world.package("p-1").balances;
    assert_eq!(
        (balances.used, balances.expired),
        (Octets(100), Octets(300))
    );
}

#[test]
fn a_month_turns_on_its_day_in_its_place() {
    let mut world = World::new();
    let plan = begin(
        &mut world,
        &[
            ("every", t("month")),
            ("on", n(31)),
            ("minute", n(90)),
            ("place", t("Asia/Tokyo")),
        ],
    );
    // 2026-11-30 01:30 in Tokyo.
    assert_eq!(amount(&plan, "next"), ZERO + 6 * DAY + 16 * HOUR + HOUR / 2);
}

#[test]
fn who_waits_at_the_turn_is_pushed_the_new_period() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    begin(&mut world, &[("device", t("bus-1"))]);
    world.initial(&mut bus, 1000);
    world.uses(&mut bus, 1000);
    world.pass(DAY - 60_000);
    assert_eq!(
        world.initial(&mut bus, 500).code,
        Code::CREDIT_LIMIT_REACHED
    );
    world.pass(60_000);
    assert_eq!(world.heard(&bus)[0].ceiling, Octets(1500));
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_by_name() {
    let mut world = World::new();
    let base = |more: &[(&'static str, Value)]| {
        let mut args = vec![("plan", t("p")), ("volume", n(1000)), ("every", t("week"))];
        args.extend(more.iter().cloned());
        args
    };
    for (more, name) in [
        (vec![("every", t("year"))], "bad-every"),
        (vec![("on", n(8))], "bad-day"),
        (vec![("minute", n(1440))], "bad-day"),
        (vec![("place", t("Europe/Atlantis"))], "unknown-place"),
        (
            vec![("rollover_min", n(2)), ("rollover_max", n(1))],
            "bad-rollover",
        ),
        (vec![("price", n(1))], "not-enough-money"),
        (vec![("device", t("bus-9"))], "unknown-device"),
        (vec![("volume", n(0))], "no-volume"),
        (vec![("plan", t("x".repeat(60)))], "bad-plan"),
    ] {
        let why = world.refused("plan-begin", &base(&more));
        assert!(why.starts_with(name), "{more:?}: {why}");
    }
    assert_eq!(world.ledger.plans.len(), 0);
    assert!(
        world
            .refused("plan-end", &[("plan", t("p"))])
            .starts_with("unknown-plan")
    );
}
