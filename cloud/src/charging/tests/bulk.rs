//! Commands to many devices.

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::message::Kind;

use super::{FLEET, World, amount, field, n, t, word};
use crate::ledger::entry::Cause;

fn args(pairs: &[(&str, Value)]) -> Value {
    let pairs = pairs.iter();
    Value::Map(
        pairs
            .map(|(name, value)| (t(name), value.clone()))
            .collect(),
    )
}

fn rows(value: Value) -> Vec<Value> {
    match value {
        Value::Array(rows) => rows,
        other => panic!("{other:?} is no list"),
    }
}

fn sweep_to_the_end(world: &mut World) -> usize {
    let mut sweeps = 1;
    while world.turn(|turn| turn.sweep(500).unwrap()) {
        sweeps += 1;
    }
    sweeps
}

#[test]
fn each_device_of_a_selection_is_done_once_and_its_outcome_is_kept() {
    let mut world = World::new();
    let devices: Vec<_> = (0..5).map(|n| world.device(&format!("d-{n}"))).collect();
    for device in &devices[..3] {
        let tags = Value::Array(vec![t("blue"), t("north")]);
        world.order("device-tag", &[("device", t(&device.id)), ("tags", tags)]);
    }
    world.order("device-shut-out", &[("device", t("d-1"))]);
    let blue = args(&[("tag", t("blue"))]);
    let command = world.command(
        "raise",
        "bulk",
        &[
            ("command", t("package-buy")),
            ("args", args(&[("volume", n(1000))])),
            ("select", blue),
        ],
    );
    let begun = world.send(Some(FLEET), &command);
    assert_eq!(
        (begun.code, amount(&begun.result, "of")),
        (Code::SUCCESS, 3)
    );
    // The same again is the same answer, and begins nothing.
    assert_eq!(world.send(Some(FLEET), &command), begun);
    assert_eq!(sweep_to_the_end(&mut world), 1);
    let shown = world.order("bulk-show", &[("bulk", t("raise"))]);
    assert_eq!((amount(&shown, "done"), amount(&shown, "refused")), (3, 0));
    let outcomes = rows(world.order("bulk-outcomes", &[("bulk", t("raise"))]));
    let named: Vec<String> = outcomes.iter().map(|row| word(row, "device")).collect();
    assert_eq!(named, ["d-0", "d-1", "d-2"]);
    let bought = world.ledger.packages.keys().map(ToString::to_string);
    let expected = ["buses-raise-1", "buses-raise-2", "buses-raise-3"];
    assert_eq!(bought.collect::<Vec<_>>(), expected);
}

#[test]
fn what_is_refused_for_one_does_not_stop_the_others() {
    let mut world = World::new();
    let mut devices: Vec<_> = (0..3).map(|n| world.device(&format!("d-{n}"))).collect();
    world.buy("p", Some(&devices[1]), 10_000, &[]);
    world.credit(&mut devices[1], Kind::Initial, 5_000);
    let list = Value::Array(vec![t("d-2"), t("d-0"), t("d-1"), t("d-0"), t("d-9")]);
    world.order(
        "bulk",
        &[("command", t("device-release-sim")), ("devices", list)],
    );
    sweep_to_the_end(&mut world);
    let Some(Cause::BulkWent(went)) = world.journal.last().map(|entry| &entry.cause) else {
        panic!("{:?}", world.journal.last());
    };
    let codes: Vec<(String, bool)> = went
        .parts
        .iter()
        .map(|part| (part.device.to_string(), part.code.is_success()))
        .collect();
    let expected = [("d-0", true), ("d-1", false), ("d-2", true), ("d-9", false)];
    assert_eq!(codes, expected.map(|(id, done)| (id.to_owned(), done)));
    let why = went.parts[1].why.as_ref().unwrap().as_str();
    assert!(why.starts_with("grant-open: "), "{why}");
}

#[test]
fn more_devices_than_a_commit_takes_are_done_commit_by_commit() {
    let mut world = World::new();
    let list: Vec<Value> = (0..250).map(|n| t(format!("d-{n:03}"))).collect();
    let args = [
        ("command", t("device-suspend")),
        ("devices", Value::Array(list)),
    ];
    let begun = world.order("bulk", &args);
    let id = word(&begun, "bulk");
    assert!(world.turn(|turn| turn.sweep(500).unwrap()), "more is to do");
    let shown = world.order("bulk-show", &[("bulk", t(&id))]);
    assert_eq!(
        (amount(&shown, "done"), amount(&shown, "refused")),
        (100, 100)
    );
    assert_eq!(field(&shown, "ended"), &Value::Null);
    assert_eq!(sweep_to_the_end(&mut world), 2);
    let outcomes = rows(world.order("bulk-outcomes", &[("bulk", t(&id))]));
    assert_eq!(outcomes.len(), 250);
}

#[test]
fn a_selection_is_by_tag_zone_model_state_and_what_remains() {
    let mut world = World::new();
    let mut devices: Vec<_> = (0..4).map(|n| world.device(&format!("d-{n}"))).collect();
    world.buy("p-1", Some(&devices[1]), 10_000, &[]);
    world.buy("p-2", Some(&devices[2]), 100_000, &[]);
    world.credit(&mut devices[1], Kind::Initial, 1_000);
    world.credit(&mut devices[3], Kind::Initial, 1_000);
    world.order("device-suspend", &[("device", t("d-0"))]);
    let mut found = |select: &[(&str, Value)]| {
        let mut command = world.command(
            "try",
            "bulk",
            &[("command", t("device-report")), ("select", args(select))],
        );
        command.dry = true;
        let entries = world.journal.len();
        let reply = world.send(Some(FLEET), &command);
        assert_eq!(world.journal.len(), entries, "a dry run writes nothing");
        match reply.why {
            Some(why) => why.to_string(),
            None => {
                let rows = rows(reply.result);
                let names: Vec<String> = rows.iter().map(|row| word(row, "device")).collect();
                names.join(" ")
            }
        }
    };
    assert_eq!(found(&[("all", Value::Bool(true))]), "d-0 d-1 d-2 d-3");
    assert_eq!(found(&[("state", t("granted"))]), "d-1");
    assert_eq!(found(&[("state", t("suspended"))]), "d-0");
    assert_eq!(found(&[("state", t("exhausted"))]), "d-3");
    assert_eq!(found(&[("zone", t("home"))]), "d-1 d-3");
    assert_eq!(found(&[("model", t("m"))]), "d-0 d-1 d-2 d-3");
    assert_eq!(found(&[("model", t("other"))]), "");
    assert_eq!(found(&[("below", n(20_000))]), "d-0 d-1 d-3");
    assert_eq!(
        found(&[("below", n(20_000)), ("zone", t("home"))]),
        "d-1 d-3"
    );
    assert!(found(&[]).starts_with("bad-selection: "));
    assert!(found(&[("all", Value::Bool(true)), ("zone", t("home"))]).starts_with("bad-selection"));
}

#[test]
fn what_can_not_be_for_many_is_refused_at_once() {
    let mut world = World::new();
    world.device("d-0");
    let all = ("select", args(&[("all", Value::Bool(true))]));
    let mut why = |name: &str, with: Value| {
        let why = world.refused("bulk", &[("command", t(name)), ("args", with), all.clone()]);
        why.split(':').next().unwrap().to_owned()
    };
    assert_eq!(why("bulk", args(&[])), "not-for-many");
    assert_eq!(why("device-replace", args(&[])), "not-for-many");
    assert_eq!(why("package-buy", args(&[])), "bad-arguments");
    let named = args(&[("volume", n(1)), ("package", t("p"))]);
    assert_eq!(why("package-buy", named), "bad-arguments");
    assert_eq!(
        why("device-suspend", args(&[("device", t("d-0"))])),
        "bad-arguments"
    );
    let both = [
        ("command", t("device-report")),
        ("devices", Value::Array(vec![t("d-0")])),
        all.clone(),
    ];
    assert!(world.refused("bulk", &both).starts_with("bad-arguments"));
}

#[test]
fn a_key_that_is_revoked_meanwhile_does_nothing_more() {
    let mut world = World::new();
    world.ops("key-create", &[("key", t("boss")), ("role", t("admin"))]);
    let list: Vec<Value> = (0..150).map(|n| t(format!("d-{n:03}"))).collect();
    for n in 0..20 {
        world.device(&format!("d-{n:03}"));
    }
    world.order(
        "bulk",
        &[
            ("command", t("device-report")),
            ("devices", Value::Array(list)),
        ],
    );
    assert!(world.turn(|turn| turn.sweep(500).unwrap()));
    world.ops("key-revoke", &[("key", t("admin"))]);
    sweep_to_the_end(&mut world);
    let Some(Cause::BulkWent(went)) = world.journal.last().map(|entry| &entry.cause) else {
        panic!("{:?}", world.journal.last());
    };
    let revoked = |why: &str| why.starts_with("revoked-key");
    assert_eq!(went.parts.len(), 50);
    let whys = went.parts.iter().map(|part| part.why.as_ref().unwrap());
    assert!(whys.into_iter().all(|why| revoked(why.as_str())));
}
