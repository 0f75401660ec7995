//! Tags, SIMs, replacement, the end of service.

use serde_cbor::Value;
use simquota_shared::code::Code;
use simquota_shared::ids::Text;
use simquota_shared::message::{Kind, RegisterAnswer, RegisterRequest};
use simquota_shared::units::{Boot, Epoch};

use super::{World, amount, field, n, t, word};
use crate::charging::{DeviceRequest, Verdict};
use simquota_shared::envelope::Kid;

/// It starts again; what it is told, or why not.
fn starts_again(world: &mut World, name: &str, boot: u64) -> Result<RegisterAnswer, &'static str> {
    let request = RegisterRequest {
        epoch: Epoch(7),
        boot: Boot(boot),
        serial: Text::clipped(name),
        model: Text::clipped("m"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: None,
        closes: None,
    };
    let id = name.parse().unwrap();
    let request = DeviceRequest::Register(request);
    let verdict = world.turn(|turn| turn.device(&id, &Kid::first(&"spring"), request).unwrap());
    match verdict {
        Verdict::Refused(refusal) => Err(refusal.reason),
        _ => {
            let answer = world.said.last().unwrap();
            Ok(simquota_shared::codec::decode(&answer.payload).unwrap())
        }
    }
}

fn iccid(world: &World, name: &str) -> Option<String> {
    let id = name.parse().unwrap();
    world.ledger.sim_of(&id).map(ToString::to_string)
}

#[test]
fn a_device_takes_the_place_of_another_with_sim_balance_and_history() {
    let mut world = World::new();
    let mut old = world.device("old");
    let mut new = world.device("new");
    world.buy("p", Some(&old), 10_000, &[]);
    world.order("device-limits", &[("device", t("old")), ("day", n(9_000))]);
    let tags = Value::Array(vec![t("blue")]);
    world.order("device-tag", &[("device", t("old")), ("tags", tags)]);
    world.credit(&mut old, Kind::Initial, 4_000);
    let both = [("device", t("old")), ("by", t("new"))];
    let why = world.refused("device-replace", &both);
    assert!(why.starts_with("grant-open: "), "{why}");
    world.uses(&mut old, 3_000);
    world.credit(&mut old, Kind::Final, 0);
    let (sim, spare) = (iccid(&world, "old"), iccid(&world, "new"));
    let row = world.order("device-replace", &both);
    assert_eq!(word(&row, "replaces"), "old");
    assert_eq!(amount(&row, "available"), 7_000);
    assert_eq!(iccid(&world, "new"), sim, "the SIM moved");
    assert_eq!(iccid(&world, "old"), None);
    let free = world.ledger.index.free_sims.iter();
    assert!(
        free.map(ToString::to_string)
            .any(|free| Some(free) == spare)
    );
    // It hears of its SIM when it registers, and is granted what was the other's.
    let told = starts_again(&mut world, "new", 2).unwrap();
    assert_eq!(told.sim.unwrap().iccid.to_string(), sim.unwrap());
    let granted = world.credit(&mut new, Kind::Initial, 5_000);
    assert_eq!(
        (granted.code, granted.ceiling.value()),
        (Code::SUCCESS, 5_000)
    );
    // What happened to the old one is the new one's history.
    let Value::Array(rows) = world.order("explain", &[("device", t("new"))]) else {
        panic!("no rows");
    };
    let causes: Vec<String> = rows.iter().map(|row| word(row, "cause")).collect();
    assert!(causes.iter().any(|cause| cause == "Usage"), "{causes:?}");
    // The old one is granted nothing more; what it still has to report is charged.
    let shown = world.order("device-show", &[("device", t("old"))]);
    assert_eq!(word(&shown, "state"), "decommissioned");
    assert_eq!(
        starts_again(&mut world, "old", 2).unwrap_err(),
        "decommissioned"
    );
    let refused = world.credit(&mut old, Kind::Initial, 1_000);
    assert_eq!(refused.code, Code::SERVICE_DENIED);
    world.uses(&mut old, 500);
    let charged = world.order("device-show", &[("device", t("old"))]);
    assert_eq!(amount(&charged, "charged"), 3_500);
    let why = world.refused("device-resume", &[("device", t("old"))]);
    assert!(why.starts_with("decommissioned: "), "{why}");
}

#[test]
fn a_sim_goes_back_to_the_pool_and_another_is_bound() {
    let mut world = World::new();
    let _one = world.device("one");
    let _two = world.device("two");
    let (first, second) = (iccid(&world, "one").unwrap(), iccid(&world, "two").unwrap());
    world.order("device-release-sim", &[("device", t("one"))]);
    assert_eq!(iccid(&world, "one"), None);
    let why = world.refused("device-release-sim", &[("device", t("one"))]);
    assert!(why.starts_with("no-sim: "), "{why}");
    let taken = [("device", t("one")), ("iccid", t(&second))];
    let why = world.refused("device-assign-sim", &taken);
    assert!(why.starts_with("no-free-sim: "), "{why}");
    // The other one takes it; the first gets another when it registers.
    let row = world.order(
        "device-assign-sim",
        &[("device", t("two")), ("iccid", t(&first))],
    );
    assert_eq!(word(&row, "iccid"), first);
    let told = starts_again(&mut world, "one", 1).unwrap();
    let bound = told.sim.unwrap().iccid.to_string();
    assert_eq!(iccid(&world, "one").as_ref(), Some(&bound));
    assert_eq!(bound, second, "the first free one");
}

#[test]
fn a_decommissioned_device_gives_its_sim_back_and_is_not_selected() {
    let mut world = World::new();
    world.device("one");
    let sim = iccid(&world, "one").unwrap();
    let row = world.order(
        "device-decommission",
        &[("device", t("one")), ("why", t("scrapped"))],
    );
    assert_eq!(word(&row, "state"), "decommissioned");
    assert_eq!(field(&row, "iccid"), &Value::Null);
    let free = world.ledger.index.free_sims.iter();
    assert!(free.map(ToString::to_string).any(|free| free == sim));
    let buy = [("device", t("one")), ("volume", n(1))];
    assert!(
        world
            .refused("package-buy", &buy)
            .starts_with("decommissioned: ")
    );
    assert_eq!(
        starts_again(&mut world, "one", 2).unwrap_err(),
        "decommissioned"
    );
}

#[test]
fn tags_are_short_words() {
    let mut world = World::new();
    world.device("one");
    for bad in ["", "Blue", "a b", &"x".repeat(33)] {
        let tags = Value::Array(vec![t(bad)]);
        let why = world.refused("device-tag", &[("device", t("one")), ("tags", tags)]);
        assert!(why.starts_with("bad-tags: "), "{bad}: {why}");
    }
    let tags = Value::Array(vec![t("b"), t("a"), t("b")]);
    let row = world.order("device-tag", &[("device", t("one")), ("tags", tags)]);
    assert_eq!(field(&row, "tags"), &Value::Array(vec![t("a"), t("b")]));
    let row = world.order(
        "device-tag",
        &[("device", t("one")), ("tags", Value::Array(Vec::new()))],
    );
    assert_eq!(field(&row, "tags"), &Value::Array(Vec::new()));
}
