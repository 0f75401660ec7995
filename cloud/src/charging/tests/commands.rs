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
    let mut versioned = world.command("versioned", "package-buy", &[("volume", n(1))]);
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
