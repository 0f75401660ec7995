//! Money: prices in minor units, a balance per fleet, no floats.

use super::*;

fn deposit(world: &mut World, amount: u64) {
    world.ops(
        "money-deposit",
        &[
            ("fleet", t(FLEET)),
            ("amount", n(amount)),
            ("why", t("invoice 7")),
        ],
    );
}

fn purse(world: &World) -> (u64, u64) {
    let account = &world.ledger.accounts[&FLEET.parse().unwrap()];
    (account.purse.balance, account.purse.spent)
}

#[test]
fn a_purchase_is_paid_from_the_balance_or_refused() {
    let mut world = World::new();
    let order = [("volume", n(1000)), ("price", n(500))];
    let why = world.refused("package-buy", &order);
    assert!(
        why.starts_with("not-enough-money: it costs 500, the balance is 0"),
        "{why}"
    );
    deposit(&mut world, 800);
    world.buy("p", None, 1000, &[("price", n(500))]);
    assert_eq!(purse(&world), (300, 500));
    let why = world.refused("package-buy", &order);
    assert!(why.contains("the balance is 300"), "{why}");
    assert_eq!(world.ledger.packages.len(), 1);
}

#[test]
fn a_cancellation_gives_back_the_price_of_what_was_not_used_rounded_down() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    deposit(&mut world, 1000);
    world.buy("p", Some(&bus), 3000, &[("price", n(100))]);
    world.initial(&mut bus, 1500);
    world.uses(&mut bus, 1000);
    let done = world.order("package-cancel", &[("package", t("p"))]);
    assert_eq!(
        (amount(&done, "refunded"), amount(&done, "repaid")),
        (1500, 50)
    );
    world.finish(&mut bus);
    world.pass(1000);
    assert_eq!(purse(&world), (966, 34), "2000 of 3000 came back: 66");
    world.pass(1000);
    assert_eq!(world.count_of("MoneyRefunded"), 2);
    assert!(world.ledger.index.unsettled.is_empty());
}

#[test]
fn an_unused_package_brings_back_its_whole_price_and_goodwill_brings_none() {
    let mut world = World::new();
    deposit(&mut world, 100);
    world.buy("p", None, 10, &[("price", n(99))]);
    world.order(
        "package-credit",
        &[
            ("package", t("p")),
            ("octets", n(1000)),
            ("why", t("sorry")),
        ],
    );
    let done = world.order("package-cancel", &[("package", t("p"))]);
    assert_eq!(
        (amount(&done, "refunded"), amount(&done, "repaid")),
        (1010, 99)
    );
    assert_eq!(purse(&world), (100, 0));
}

#[test]
fn money_that_is_there_can_be_taken_out_and_no_more() {
    let mut world = World::new();
    deposit(&mut world, 100);
    let out = [("fleet", t(FLEET)), ("amount", n(101)), ("why", t("x"))];
    let command = world.command("out", "money-withdraw", &out);
    let reply = world.send(None, &command);
    assert!(reply.why.unwrap().as_str().starts_with("not-enough-money"));
    world.ops(
        "money-withdraw",
        &[("fleet", t(FLEET)), ("amount", n(100)), ("why", t("x"))],
    );
    assert_eq!(purse(&world), (0, 0));
    let most = [
        ("fleet", t(FLEET)),
        ("amount", n(u64::MAX)),
        ("why", t("x")),
    ];
    let command = world.command("most", "money-deposit", &most);
    assert!(
        world
            .send(None, &command)
            .why
            .unwrap()
            .as_str()
            .starts_with("too-much")
    );
}

#[test]
fn a_plan_and_a_rule_are_paid_each_time_and_stand_still_without_money() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    deposit(&mut world, 25);
    let plan = [
        ("plan", t("p")),
        ("volume", n(1000)),
        ("every", t("day")),
        ("price", n(10)),
    ];
    world.order("plan-begin", &plan);
    world.pass(DAY);
    assert_eq!(purse(&world), (5, 20));
    world.pass(DAY);
    assert_eq!(world.events("plan-unpaid").len(), 1);
    assert!(world.package("p-2").ended);
    deposit(&mut world, 10);
    world.pass(DAY);
    assert_eq!(world.available("p-4"), 1000, "paid again, numbered on");
    let rule = [
        ("rule", t("refill")),
        ("percent", n(50)),
        ("volume", n(1000)),
        ("most", n(9)),
        ("price", n(6)),
    ];
    world.order("top-up-set", &rule);
    world.initial(&mut bus, 600);
    world.uses(&mut bus, 600);
    let refused = world.events("top-up-refused");
    assert_eq!(word(&refused[0], "why"), "the balance is 5, it costs 6");
}
