//! Commands: once for each id, refused by name, and all of them in the journal.

use simquota_shared::code::Code;

use super::*;

#[test]
fn the_same_id_and_body_gets_the_stored_answer_for_ever() {
    let mut world = World::new();
    let args = [("volume", n(1000)), ("package", t("p"))];
    let command = world.command("top-up", "package-buy", &args);
    let first = world.send(Some(FLEET), &command);
    let entries = world.journal.len();
    let said = world.said.clone();
    for _ in 0..100 {
        world.now += HOUR;
        assert_eq!(world.send(Some(FLEET), &command), first);
        assert_eq!(world.said, said, "octet for octet");
    }
    assert_eq!((world.journal.len(), world.available("p")), (entries, 1000));
}

#[test]
fn the_same_id_with_another_body_is_refused_and_told_what_differs() {
    let mut world = World::new();
    let args = [("volume", n(1000)), ("package", t("p"))];
    let command = world.command("x", "package-buy", &args);
    world.send(Some(FLEET), &command);
    let entries = world.journal.len();
    for (name, args, says) in [
        (
            "package-buy",
            vec![("volume", n(2000)), ("package", t("p"))],
            "used for package-buy in entry 9, 'volume' differs",
        ),
        (
            "package-buy",
            vec![("volume", n(1000)), ("package", t("p")), ("days", n(3))],
            "'days' was not given",
        ),
        (
            "package-buy",
            vec![("volume", n(1000))],
            "1 arguments are missing now",
        ),
        (
            "package-cancel",
            vec![("package", t("p"))],
            "not for package-cancel",
        ),
    ] {
        let command = world.command("x", name, &args);
        let reply = world.send(Some(FLEET), &command);
        let why = reply.why.unwrap().to_string();
        assert_eq!(reply.code, Code::NUMBER_REUSED);
        assert!(why.starts_with("exists-with-different-body"), "{why}");
        assert!(why.contains(says), "{why}");
    }
    assert_eq!((world.journal.len(), world.available("p")), (entries, 1000));
}

#[test]
fn a_refused_id_stays_refused_though_it_could_be_done_now() {
    let mut world = World::new();
    let command = world.command("early", "package-cancel", &[("package", t("p"))]);
    let first = world.send(Some(FLEET), &command);
    assert!(!first.code.is_success());
    world.buy("p", None, 1000, &[]);
    assert_eq!(world.send(Some(FLEET), &command), first);
    assert_eq!(world.available("p"), 1000);
}

#[test]
fn bad_commands_are_refused_by_name_change_nothing_and_stand_in_the_trail() {
    let mut world = World::new();
    world.device("bus-1");
    world.buy("p", None, 1000, &[]);
    world.ops("fleet-create", &[("fleet", t("trams"))]);
    let order = |name: &'static str, args: Vec<(&'static str, Value)>| (name, args);
    let bad = [
        (
            order("package-buy", vec![("volume", Value::Integer(-5))]),
            "bad-arguments",
        ),
        (
            order("package-buy", vec![("volume", t("many"))]),
            "bad-arguments",
        ),
        (order("package-buy", vec![("volume", n(0))]), "no-volume"),
        (
            order("package-buy", vec![("volume", n(1)), ("colour", t("red"))]),
            "bad-arguments",
        ),
        (
            order("package-buy", vec![("volume", n(1)), ("days", n(u64::MAX))]),
            "bad-days",
        ),
        (
            order(
                "package-buy",
                vec![("volume", n(u64::MAX)), ("overage", n(1))],
            ),
            "too-much",
        ),
        (
            order("package-buy", vec![("volume", n(1)), ("until", n(ZERO))]),
            "in-the-past",
        ),
        (
            order("package-buy", vec![("volume", n(1)), ("package", t("p"))]),
            "package-exists",
        ),
        (
            order(
                "package-buy",
                vec![("volume", n(1)), ("device", t("tram-1"))],
            ),
            "unknown-device",
        ),
        (
            order("package-cancel", vec![("package", t("q"))]),
            "unknown-package",
        ),
        (
            order(
                "package-credit",
                vec![
                    ("package", t("p")),
                    ("octets", n(u64::MAX)),
                    ("why", t("x")),
                ],
            ),
            "too-much",
        ),
        (
            order(
                "package-debit",
                vec![("package", t("p")), ("octets", n(1001)), ("why", t("x"))],
            ),
            "not-enough",
        ),
        (
            order("device-suspend", vec![("device", t("tram-1"))]),
            "unknown-device",
        ),
        (order("fleet-explode", vec![]), "unknown-command"),
        (order("explode", vec![]), "unknown-command"),
    ];
    let (before, packages) = (world.journal.len(), world.ledger.packages.clone());
    for ((name, args), refusal) in &bad {
        let why = world.refused(name, args);
        assert!(why.starts_with(refusal), "{name} {args:?}: {why}");
    }
    let mut late = world.command("late", "package-buy", &[("volume", n(1))]);
    late.expires = UnixMillis(world.now - 1);
    let reply = world.send(Some(FLEET), &late);
    assert!(reply.why.unwrap().as_str().starts_with("expired"));
    let many = [("command", t("device-suspend")), ("select", select_all())];
    let mut versioned = world.command("versioned", "bulk", &many);
    versioned.expected = Some(3);
    let reply = world.send(Some(FLEET), &versioned);
    assert!(reply.why.unwrap().as_str().starts_with("no-versions"));
    let foreign = world.command("foreign", "package-cancel", &[("package", t("p"))]);
    let reply = world.send(Some("trams"), &foreign);
    assert!(reply.why.unwrap().as_str().starts_with("unknown-package"));
    let nowhere = world.command("nowhere", "package-buy", &[("volume", n(1))]);
    let reply = world.send(Some("ferries"), &nowhere);
    assert!(reply.why.unwrap().as_str().starts_with("unknown-fleet"));
    assert_eq!(world.ledger.packages, packages, "nothing changed");
    let made = &world.journal[before..];
    assert_eq!(made.len(), bad.len() + 4, "one entry for each");
    assert!(made.iter().all(|entry| entry.moves.is_empty()));
    let Value::Array(trail) = world.order("explain", &[]) else {
        panic!()
    };
    let refusals = trail
        .iter()
        .filter(|row| word(row, "words").contains("refused") || word(row, "words").contains("50"))
        .count();
    assert!(refusals >= bad.len(), "{refusals} in the fleet's own trail");
}

#[test]
fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let mut world = World::new();
    let mut command = world.command("dry", "package-buy", &[("volume", n(1000))]);
    command.dry = true;
    let before = world.journal.len();
    assert_eq!(world.send(Some(FLEET), &command).code, Code::SUCCESS);
    assert_eq!(world.journal.len(), before);
    command.dry = false;
    assert_eq!(
        world.send(Some(FLEET), &command).code,
        Code::SUCCESS,
        "its id is still free"
    );
}

#[test]
fn a_policy_is_set_at_the_version_that_was_looked_at() {
    let mut world = World::new();
    let bus = world.device("bus-1");
    let show = |world: &mut World| world.order("device-show", &[("device", t("bus-1"))]);
    assert_eq!(field(&show(&mut world), "policy"), &Value::Null);
    let id = world.next_id();
    let args = [("device", t("bus-1")), ("report_s", n(7200))];
    let mut command = world.command(&id, "device-policy", &args);
    command.expected = Some(7);
    let why = world.send(Some(FLEET), &command).why.unwrap().to_string();
    assert!(
        why.starts_with("other-version: the policy of bus-1 has version 1, not 7"),
        "{why}"
    );
    command.id = world.next_id().parse().unwrap();
    command.expected = Some(1);
    assert_eq!(world.send(Some(FLEET), &command).code, Code::SUCCESS);
    assert_eq!(amount(&show(&mut world), "policy"), 2);
    let policy = world.ledger.devices[&bus.id].policy.clone().unwrap();
    assert_eq!((policy.report_s, policy.sample_s), (7200, 60));
    let pending = world.ledger.devices[&bus.id]
        .pending
        .values()
        .next()
        .unwrap();
    let told: Command = codec::decode(&pending.message).unwrap();
    assert_eq!(told.body, simquota_shared::message::Body::Policy(policy));
    // Of two that looked at the same version, the second is refused.
    command.id = world.next_id().parse().unwrap();
    assert_eq!(world.send(Some(FLEET), &command).code, Code::RATING_FAILED);
    let why = world.refused(
        "device-policy",
        &[("device", t("bus-1")), ("sample_s", n(0))],
    );
    assert!(why.starts_with("bad-policy"), "{why}");
}

#[test]
fn a_carriers_drift_is_an_event_of_the_device_that_has_the_sim() {
    let mut world = World::new();
    let bus = world.device("bus-1");
    let iccid = bus.iccid.to_string();
    let args = [
        ("iccid", t(&iccid)),
        ("day", t("2026-11-22")),
        ("carrier", n(2000)),
        ("ledger", n(900)),
    ];
    world.ops("sim-drift", &args);
    world.ops("sim-drift", &args);
    let drift = world.events("drift");
    assert_eq!(drift.len(), 1, "once a day");
    assert_eq!(
        word(&drift[0], "words"),
        "2026-11-22: the carrier has 2000 octets, the ledger 900"
    );
}

fn select_all() -> Value {
    crate::charging::value_map([("all", Value::Bool(true))])
}

/// The version in a row.
fn version(row: &Value) -> u64 {
    amount(row, "version")
}

/// One command at a version; why not.
fn at(
    world: &mut World,
    expected: u64,
    name: &str,
    args: &[(&str, Value)],
) -> Result<Value, String> {
    let id = world.next_id();
    let mut command = world.command(&id, name, args);
    command.expected = Some(expected);
    let fleet = (!name.starts_with("money-")).then_some(FLEET);
    let reply = world.send(fleet, &command);
    match reply.why {
        None => Ok(reply.result),
        Some(why) => Err(why.to_string()),
    }
}

#[test]
fn of_two_that_saw_the_same_version_the_second_is_refused_whatever_it_is_about() {
    let mut world = World::new();
    let mut bus = world.device("bus-1");
    world.ops(
        "money-deposit",
        &[("fleet", t(FLEET)), ("amount", n(10)), ("why", t("x"))],
    );
    world.buy("p", None, 10_000, &[]);
    world.buy("q", None, 10_000, &[]);
    world.order(
        "plan-begin",
        &[
            ("plan", t("monthly")),
            ("every", t("month")),
            ("volume", n(5)),
        ],
    );
    let device = || ("device", t("bus-1"));
    let package = |id| [("package", t(id)), ("octets", n(1)), ("why", t("x"))];
    let tags = Value::Array(vec![t("blue")]);
    // How its version is shown, and a command that changes it again and again.
    type Order<'a> = (&'a str, Vec<(&'a str, Value)>);
    let cases: [(Order<'_>, Order<'_>); 12] = [
        (
            ("device-show", vec![device()]),
            ("device-suspend", vec![device()]),
        ),
        (
            ("device-show", vec![device()]),
            ("device-resume", vec![device()]),
        ),
        (
            ("device-show", vec![device()]),
            ("device-limits", vec![device(), ("day", n(9))]),
        ),
        (
            ("device-show", vec![device()]),
            ("device-tag", vec![device(), ("tags", tags)]),
        ),
        (
            ("device-show", vec![device()]),
            ("package-buy", vec![device(), ("volume", n(1))]),
        ),
        (
            ("package-show", vec![("package", t("p"))]),
            ("package-credit", package("p").to_vec()),
        ),
        (
            ("package-show", vec![("package", t("p"))]),
            ("package-debit", package("p").to_vec()),
        ),
        (
            ("package-show", vec![("package", t("p"))]),
            (
                "package-move",
                vec![
                    ("from", t("p")),
                    ("to", t("q")),
                    ("octets", n(1)),
                    ("why", t("x")),
                ],
            ),
        ),
        (
            ("fleet-show", vec![]),
            ("fleet-limits", vec![("pool_day", n(99_000))]),
        ),
        (("fleet-show", vec![]), ("fleet-suspend", vec![])),
        (
            ("fleet-show", vec![]),
            ("package-buy", vec![("volume", n(1))]),
        ),
        (
            ("fleet-show", vec![]),
            (
                "money-deposit",
                vec![("fleet", t(FLEET)), ("amount", n(1)), ("why", t("x"))],
            ),
        ),
    ];
    for ((show, about), (name, args)) in cases {
        let seen = version(&world.order(show, &about));
        at(&mut world, seen, name, &args).unwrap_or_else(|why| panic!("{name}: {why}"));
        let now = version(&world.order(show, &about));
        assert!(now > seen, "{name} makes another version: {seen}, {now}");
        let why = at(&mut world, seen, name, &args).unwrap_err();
        assert!(why.starts_with("other-version: "), "{name}: {why}");
        assert!(
            why.contains(&format!(" has version {now} since ")),
            "{name}: {why}"
        );
        assert!(
            why.contains(&format!(", not {seen}: look at it again")),
            "{name}: {why}"
        );
        assert_eq!(
            version(&world.order(show, &about)),
            now,
            "{name}: nothing changed"
        );
    }
    // Traffic is no change.
    world.order("fleet-resume", &[]);
    let seen = version(&world.order("device-show", &[device()]));
    world.credit(&mut bus, Kind::Initial, 1_000);
    world.uses(&mut bus, 700);
    assert_eq!(version(&world.order("device-show", &[device()])), seen);
    // A refund is about whose deduction it was, and a plan has a version of its own.
    let deduction = world
        .journal
        .iter()
        .rev()
        .find(|entry| entry.cause.name() == "Usage");
    let refund = [
        ("entry", n(deduction.unwrap().number.value())),
        ("octets", n(5)),
        ("why", t("x")),
    ];
    at(&mut world, seen, "refund", &refund).unwrap();
    assert!(
        at(&mut world, seen, "refund", &refund)
            .unwrap_err()
            .contains("device bus-1 has version")
    );
    let Value::Array(plans) = world.order("plan-list", &[]) else {
        panic!("no rows");
    };
    let seen = version(&plans[0]);
    assert!(at(&mut world, seen + 1, "plan-end", &[("plan", t("monthly"))]).is_err());
    at(&mut world, seen, "plan-end", &[("plan", t("monthly"))]).unwrap();
    let why = at(&mut world, 1, "package-cancel", &[("package", t("p"))]).unwrap_err();
    assert!(
        why.starts_with("other-version: package p has version"),
        "{why}"
    );
    // Without one it is carried out as ever.
    world.order("package-cancel", &[("package", t("p"))]);
}

#[test]
fn lists_are_taken_page_by_page() {
    let mut world = World::new();
    for name in ["a", "b", "c"] {
        world.device(name);
        world.buy(name, None, 1_000, &[]);
    }
    let pages = |world: &mut World, list: &str, key: &str, ops: bool| {
        let mut found = Vec::new();
        loop {
            let mut args = vec![("most", n(2))];
            if let Some(last) = found.last() {
                args.push(("after", t(last)));
            }
            let page = match ops {
                true => world.ops(list, &args),
                false => world.order(list, &args),
            };
            let Value::Array(rows) = page else {
                panic!("no rows")
            };
            assert!(rows.len() <= 2);
            let full = rows.len() == 2;
            found.extend(rows.iter().map(|row| word(row, key)));
            if !full {
                return found;
            }
        }
    };
    assert_eq!(
        pages(&mut world, "device-list", "device", false),
        ["a", "b", "c"]
    );
    assert_eq!(
        pages(&mut world, "package-list", "package", false),
        ["a", "b", "c"]
    );
    let sims = world.ledger.sims.len();
    assert_eq!(pages(&mut world, "sim-list", "iccid", true).len(), sims);
    let fleets: Vec<String> = world
        .ledger
        .fleets
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(pages(&mut world, "fleet-list", "fleet", true), fleets);
    let iccid = world
        .ledger
        .devices
        .values()
        .next()
        .unwrap()
        .iccid
        .to_string();
    let sim = world.ops("sim-show", &[("iccid", t(&iccid))]);
    assert_eq!(word(&sim, "device"), "a");
    assert_eq!(
        word(
            &world.order("package-show", &[("package", t("b"))]),
            "package"
        ),
        "b"
    );
    let why = world.refused("package-show", &[("package", t("z"))]);
    assert!(why.starts_with("unknown-package"), "{why}");
}
