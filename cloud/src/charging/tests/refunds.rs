//! Refunds, deductions, goodwill, octets that move: counter-entries only, never beyond, never twice.

use super::*;

#[test]
fn a_deduction_is_given_back_by_its_entry_never_beyond_it_and_never_twice() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    world.initial(&mut bus, 500);
    world.uses(&mut bus, 300);
    let entry = world.last_of("Usage");
    let refund = |octets: u64| {
        vec![
            ("entry", n(entry)),
            ("octets", n(octets)),
            ("why", t("the tunnel")),
        ]
    };
    let why = world.refused("refund", &refund(301));
    assert!(why.starts_with("beyond-the-deduction"), "{why}");
    world.order("refund", &refund(100));
    let balances = world.package("p").balances;
    assert_eq!(
        (balances.used, balances.credited, balances.available),
        (Octets(300), Octets(100), Octets(600)),
        "used never shrinks"
    );
    let why = world.refused("refund", &refund(201));
    assert!(why.contains("100 were given back: 200 are left"), "{why}");
    world.order("refund", &[("entry", n(entry)), ("why", t("the rest"))]);
    let why = world.refused("refund", &refund(1));
    assert!(why.starts_with("already-refunded"), "{why}");
    assert_eq!(world.package("p").balances.credited, Octets(300));
}

#[test]
fn only_a_deduction_of_the_own_fleet_is_one() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("p", Some(&bus), 1000, &[]);
    let bought = world.last_of("PackageBought");
    let why = world.refused("refund", &[("entry", n(bought)), ("why", t("x"))]);
    assert!(why.starts_with("no-deduction"), "{why}");
    world.initial(&mut bus, 100);
    world.uses(&mut bus, 100);
    let usage = world.last_of("Usage");
    world.ops("fleet-create", &[("fleet", t("trams"))]);
    let command = world.command("other", "refund", &[("entry", n(usage)), ("why", t("x"))]);
    let reply = world.send(Some("trams"), &command);
    assert!(reply.why.unwrap().as_str().starts_with("unknown-entry"));
    let why = world.refused("refund", &[("entry", n(99_999)), ("why", t("x"))]);
    assert!(why.starts_with("unknown-entry"), "{why}");
}

#[test]
fn a_deduction_that_became_debt_lowers_the_debt() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.uses(&mut bus, 500);
    let entry = world.last_of("Usage");
    world.order(
        "refund",
        &[("entry", n(entry)), ("octets", n(200)), ("why", t("x"))],
    );
    let device = &world.ledger.devices[&bus.id];
    assert_eq!((device.debt, device.forgiven), (Octets(300), Octets(200)));
    world.buy("p", Some(&bus), 1000, &[]);
    assert_eq!(world.balance("p"), (700, 0, 300));
    let why = world.refused("refund", &[("entry", n(entry)), ("why", t("x"))]);
    assert!(why.starts_with("debt-was-paid"), "{why}");
    let paid = world.last_of("DebtPaid");
    world.order("refund", &[("entry", n(paid)), ("why", t("x"))]);
    assert_eq!(world.available("p"), 1000);
}

#[test]
fn all_debt_forgiven_is_no_debt() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.uses(&mut bus, 500);
    let entry = world.last_of("Usage");
    world.order("refund", &[("entry", n(entry)), ("why", t("x"))]);
    assert!(world.ledger.index.debtors.is_empty());
    world.buy("p", Some(&bus), 1000, &[]);
    assert_eq!(world.available("p"), 1000);
}

#[test]
fn a_refund_of_an_ended_package_needs_another_one() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("old", Some(&bus), 1000, &[("days", n(1))]);
    world.initial(&mut bus, 100);
    world.uses(&mut bus, 100);
    world.pass(DAY);
    let entry = world.last_of("Usage");
    let why = world.refused("refund", &[("entry", n(entry)), ("why", t("x"))]);
    assert!(why.starts_with("package-ended"), "{why}");
    world.buy("new", Some(&bus), 1000, &[]);
    world.order(
        "refund",
        &[("entry", n(entry)), ("package", t("new")), ("why", t("x"))],
    );
    assert_eq!(world.available("new"), 1100);
}

#[test]
fn octets_move_between_pool_and_device_and_only_available_ones() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.buy("pool", None, 1000, &[("days", n(30))]);
    world.initial(&mut bus, 300);
    let moving = |octets: u64| {
        vec![
            ("from", t("pool")),
            ("device", t("bus-1")),
            ("octets", n(octets)),
            ("why", t("a long trip")),
        ]
    };
    let why = world.refused("package-move", &moving(701));
    assert!(why.contains("700 B available, 300 B are reserved"), "{why}");
    let rows = world.order("package-move", &moving(200));
    let Value::Array(rows) = rows else { panic!() };
    let made = word(&rows[1], "package");
    assert_eq!(word(&rows[1], "device"), "bus-1");
    assert_eq!(world.available(&made), 200);
    assert_eq!(world.package(&made).until, world.package("pool").until);
    assert_eq!(world.package("pool").balances.moved_out, Octets(200));
    let back = [
        ("from", t(&made)),
        ("to", t("pool")),
        ("octets", n(200)),
        ("why", t("back")),
    ];
    world.order("package-move", &back);
    assert_eq!(world.available("pool"), 700);
    assert_eq!(world.package("pool").balances.credited, Octets(200));
}

#[test]
fn octets_that_move_reach_who_waits() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    let mut van = world.device("van-1");
    world.buy("own", Some(&van), 1000, &[]);
    assert!(!world.initial(&mut bus, 300).code.is_success());
    let moving = [
        ("from", t("own")),
        ("device", t("bus-1")),
        ("octets", n(400)),
        ("why", t("help")),
    ];
    world.order("package-move", &moving);
    assert_eq!(world.heard(&bus)[0].ceiling, Octets(300));
    world.initial(&mut van, 100);
}

#[test]
fn a_deduction_by_command_takes_what_is_available_and_can_be_given_back() {
    let mut world = World::new();
    world.buy("p", None, 1000, &[]);
    let debit = |octets: u64| {
        vec![
            ("package", t("p")),
            ("octets", n(octets)),
            ("why", t("a test drive")),
        ]
    };
    world.order("package-debit", &debit(400));
    assert_eq!(world.balance("p"), (600, 0, 400));
    let why = world.refused("package-debit", &debit(601));
    assert!(why.starts_with("not-enough"), "{why}");
    let entry = world.last_of("Debited");
    world.order("refund", &[("entry", n(entry)), ("why", t("x"))]);
    assert_eq!(world.balance("p"), (1000, 0, 400));
}
