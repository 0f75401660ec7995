//! What calls for a look at a device, and how often that is said.

use simquota_shared::message::Closes;

use super::*;
use crate::ledger::entry::{Cause, reason};

fn register(epoch: u64, closes: Option<(u64, u64)>) -> DeviceRequest {
    DeviceRequest::Register(RegisterRequest {
        epoch: Epoch(epoch),
        boot: Boot(1),
        serial: Text::clipped("bus-1"),
        model: Text::clipped("m"),
        firmware: Text::clipped("1"),
        capabilities: Vec::new(),
        iccid: None,
        closes: closes.map(|(epoch, total)| Closes {
            epoch: Epoch(epoch),
            total: Octets(total),
        }),
    })
}

/// A request in the epoch that all devices begin with.
fn request(device: &Device, number: u64) -> DeviceRequest {
    DeviceRequest::Credit(CreditRequest {
        epoch: Epoch(7),
        number: RequestNumber(number),
        kind: Kind::Update,
        used: Octets(0),
        want: Octets(100),
        reason: Reason::THRESHOLD,
        zone: device.zone.clone(),
        held: None,
    })
}

/// All that was suspected, but for the new stores that most tests here begin with.
fn reasons(world: &World) -> Vec<String> {
    let suspected = world.journal.iter().filter_map(|entry| match &entry.cause {
        Cause::Suspected(suspected) => Some(suspected.reason.to_string()),
        _ => None,
    });
    suspected.filter(|one| one != reason::STORE_RESET).collect()
}

#[test]
fn a_reason_is_told_once_a_day_and_copies_raise_none() {
    let mut world = World::new();
    let mut device = world.device("bus-1");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 500);
    world.say(&device.id, register(8, None));
    let mut refused = |number| {
        let request = request(&device, number);
        let verdict = world.turn(|turn| {
            turn.device(&device.id, &Kid::first(&"spring"), request)
                .unwrap()
        });
        assert!(matches!(verdict, Verdict::Refused(_)), "{verdict:?}");
        reasons(&world)
    };
    assert_eq!(refused(1), [""; 0], "its number was decided");
    assert_eq!(refused(2), ["superseded-epoch"]);
    assert_eq!(refused(3), ["superseded-epoch"]);
    world.now += 24 * HOUR + 1;
    let request = request(&device, 4);
    world.turn(|turn| {
        turn.device(&device.id, &Kid::first(&"spring"), request)
            .unwrap()
    });
    assert_eq!(reasons(&world), ["superseded-epoch"; 2]);
    let show = world.order("device-show", &[("device", t("bus-1"))]);
    let Value::Array(shown) = field(&show, "suspicions") else {
        panic!("{show:?}");
    };
    let latest = shown
        .iter()
        .find(|row| word(row, "reason") == "superseded-epoch");
    assert_eq!(amount(latest.unwrap(), "at"), world.now);
    assert_eq!(world.events("two-devices").len(), 2);
}

#[test]
fn a_store_that_went_back_is_named_and_not_paid_back() {
    let mut world = World::new();
    let mut device = world.device("bus-1");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 500);
    world.uses(&mut device, 300);
    world.say(&device.id, register(8, Some((7, 100))));
    assert_eq!(reasons(&world), ["store-went-back"]);
    let closed = world.events("epoch-closed").remove(0);
    assert_eq!(
        (amount(&closed, "total"), amount(&closed, "octets")),
        (300, 0)
    );
    assert_eq!(world.balance("p"), (700, 0, 300));
}

#[test]
fn of_two_stores_under_one_key_both_are_charged_and_the_second_is_named() {
    let mut world = World::new();
    let mut device = world.device("bus-1");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 500);
    world.uses(&mut device, 300);
    // Another store begins, and the first one, which lives on, ends its own epoch with what it has used since.
    world.say(&device.id, register(8, None));
    world.say(&device.id, register(9, Some((7, 420))));
    assert_eq!(reasons(&world), ["second-store"]);
    let closed = world.events("epoch-closed").remove(0);
    assert_eq!(
        (amount(&closed, "total"), amount(&closed, "octets")),
        (420, 120)
    );
    assert_eq!(world.balance("p"), (580, 0, 420));
    // Told again, it moves nothing.
    world.say(&device.id, register(9, Some((7, 420))));
    assert_eq!(world.balance("p"), (580, 0, 420));
}

#[test]
fn a_policy_that_freezes_does_so_at_the_second_store() {
    let mut world = World::new();
    world.rules.freeze = true;
    let device = world.device("bus-1");
    world.say(&device.id, register(8, None));
    world.say(&device.id, register(9, Some((7, 0))));
    assert_eq!(world.events("shut-out").len(), 1);
    let show = world.order("device-show", &[("device", t("bus-1"))]);
    assert_eq!(word(&show, "state"), "shut-out");
}
