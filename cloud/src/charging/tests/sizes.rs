//! How much a grant is, with numbers, and that it says why.

use super::*;
use crate::ledger::entry::{Cause, Size};
use crate::ledger::explain;

const MINUTE: u64 = 60_000;

/// Grants of 1 kB to 1 MB that are to last half an hour.
fn world() -> World {
    let mut world = World::new();
    world.rules.grant_min = Octets(1000);
    world.rules.grant_max = Octets(1_000_000);
    world.rules.target_s = 1800;
    world
}

/// Why the last grant has its size: the end of its explanation.
fn why(world: &World) -> String {
    let words = world
        .journal
        .iter()
        .rev()
        .find(|entry| matches!(entry.cause, Cause::Credit(_) | Cause::Pushed(_)))
        .map(explain::words)
        .unwrap();
    match words.split_once("; sized: ") {
        Some((_, why)) => why.to_owned(),
        None => "nothing".to_owned(),
    }
}

/// What is in hand after an answer.
fn in_hand(answer: &CreditAnswer, device: &Device) -> u64 {
    answer.ceiling.value() - device.used
}

#[test]
fn a_grant_lasts_half_an_hour_at_the_recent_rate() {
    let mut world = world();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 100_000_000, &[]);
    let first = world.initial(&mut device, 50_000);
    assert_eq!(in_hand(&first, &device), 50_000);
    assert_eq!(why(&world), "as it asked", "nothing is known of it yet");

    // 100 octets a second: 180 000 in half an hour, whatever it asks for.
    world.pass(MINUTE);
    world.uses(&mut device, 6000);
    let answer = world.update(&mut device, 10_000);
    assert_eq!(in_hand(&answer, &device), 180_000);
    assert_eq!(
        why(&world),
        "to last 1800 s at its recent 360.00 kB an hour"
    );
    let answer = world.update(&mut device, 1_000_000);
    assert_eq!(in_hand(&answer, &device), 181_000, "it has enough");
    assert_eq!(
        why(&world),
        "policy's least, 1800 s at its recent 360.00 kB an hour are less"
    );

    // Ten minutes at a tenth of that: the minute before is forgotten.
    world.pass(10 * MINUTE);
    world.uses(&mut device, 6000);
    let slow = world.initial(&mut device, 1_000_000);
    assert_eq!(in_hand(&slow, &device), 18_000);
    // Nothing for ten minutes: the least.
    world.pass(10 * MINUTE);
    let idle = world.initial(&mut device, 1_000_000);
    assert_eq!(in_hand(&idle, &device), 1000);
    // What the request says that was used counts, though it is not reported yet.
    device.used += 600;
    world.pass(5 * MINUTE);
    let answer = world.initial(&mut device, 1_000_000);
    assert_eq!(
        in_hand(&answer, &device),
        1200,
        "600 in a quarter of an hour"
    );
    device.used -= 600;
    world.uses(&mut device, 600_000);
    let fast = world.initial(&mut device, 1);
    assert_eq!(in_hand(&fast, &device), 1_000_000);
    assert!(why(&world).starts_with("policy's most, 1800 s at"));
}

#[test]
fn a_burst_after_a_rest_is_followed_within_a_few_grants() {
    let mut world = world();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 1_000_000_000, &[]);
    world.pass(HOUR);
    world.uses(&mut device, 0);
    let mut sizes = Vec::new();
    let mut answer = world.initial(&mut device, 1_000_000);
    for _ in 0..6 {
        sizes.push(in_hand(&answer, &device));
        let all = in_hand(&answer, &device);
        world.pass(1000);
        world.uses(&mut device, all);
        answer = world.update(&mut device, 1_000_000);
    }
    assert_eq!(sizes, [1000, 3000, 11_994, 47_955, 191_739, 766_635]);
}

#[test]
fn grants_shrink_towards_the_end_and_nothing_is_left_behind() {
    let mut world = world();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 100_000, &[]);
    let mut answer = world.initial(&mut device, 40_000);
    let mut sizes = Vec::new();
    while answer.final_unit.is_none() {
        sizes.push(in_hand(&answer, &device));
        let all = in_hand(&answer, &device);
        world.uses(&mut device, all);
        answer = world.update(&mut device, 1_000_000);
        if sizes.len() == 1 {
            assert_eq!(why(&world), "half of what is left");
        }
    }
    assert_eq!(sizes, [40_000, 30_000, 15_000, 7500, 3750, 1875, 1000]);
    assert_eq!(in_hand(&answer, &device), 875);
    assert_eq!(why(&world), "all that is left");
    world.uses(&mut device, 875);
    assert_eq!(world.balance("p"), (0, 0, 100_000));
}

#[test]
fn a_grant_is_for_no_longer_than_it_may_be_valid() {
    let mut world = world();
    let mut device = world.device("d-1");
    let ends = ("until", n(ZERO + 30 * MINUTE));
    world.buy("p", Some(&device), 100_000_000, &[ends]);
    world.pass(10 * MINUTE);
    world.uses(&mut device, 60_000);
    let answer = world.initial(&mut device, 1);
    assert_eq!(in_hand(&answer, &device), 120_000, "20 minutes are left");
    assert_eq!(
        why(&world),
        "to last 1200 s at its recent 360.00 kB an hour"
    );
    world.pass(15 * MINUTE);
    world.uses(&mut device, 90_000);
    let answer = world.initial(&mut device, 1);
    assert_eq!(
        in_hand(&answer, &device),
        60_000,
        "ten minutes: it is valid for as long, past the end"
    );
    // A limit of the day ends it too.
    let mut world = self::world();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 100_000_000, &[]);
    world.order("fleet-limits", &[("device_day", n(1_000_000))]);
    world.pass(DAY - 15 * MINUTE);
    world.uses(&mut device, 0);
    device.used += 60_000;
    world.pass(MINUTE);
    let answer = world.initial(&mut device, 1);
    assert_eq!(why(&world).split(' ').nth(2), Some("840"));
    assert!(in_hand(&answer, &device) > 0);
}

#[test]
fn shares_limits_and_pushes_say_so() {
    let mut world = world();
    let (mut one, mut two) = (world.device("d-1"), world.device("d-2"));
    world.buy("pool", None, 10_000, &[]);
    world.initial(&mut one, 100_000);
    assert_eq!(why(&world), "its share of the pool");
    world.initial(&mut two, 100_000);
    assert_eq!(why(&world), "all that is left");
    world.buy("own", Some(&one), 100_000, &[]);
    world.order("device-limits", &[("device", t("d-1")), ("day", n(7000))]);
    world.update(&mut one, 100_000);
    assert_eq!(why(&world), "what the limits of day and month leave");
    world.uses(&mut two, 5000);
    assert_eq!(
        world.update(&mut two, 100_000).code,
        Code::CREDIT_LIMIT_REACHED
    );
    assert_eq!(why(&world), "nothing", "there is no size of nothing");
    world.buy("more", None, 2000, &[]);
    assert_eq!(why(&world), "its part of what was gained");
    let alone = ("until", n(ZERO + 5 * MINUTE));
    let mut three = world.device("d-3");
    world.buy("first", Some(&three), 500, &[alone]);
    world.buy("second", Some(&three), 5000, &[]);
    world.initial(&mut three, 3000);
    assert_eq!(why(&world), "a package that ends soon is granted alone");
}

#[test]
fn who_was_refused_goes_on_as_fast_as_before() {
    let mut world = world();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 60_000, &[]);
    world.initial(&mut device, 100_000);
    world.pass(10 * MINUTE);
    world.uses(&mut device, 60_000);
    let refused = world.update(&mut device, 100_000);
    assert_eq!(refused.code, Code::CREDIT_LIMIT_REACHED);
    world.pass(9 * MINUTE);
    world.buy("more", Some(&device), 10_000_000, &[]);
    let pushed = &world.heard(&device)[0];
    assert_eq!(in_hand(pushed, &device), 180_000);
    assert_eq!(
        why(&world),
        "to last 1800 s at its recent 360.00 kB an hour"
    );
    // Or refused for a day, and asking again.
    let mut world = self::world();
    let mut device = world.device("d-1");
    world.pass(10 * MINUTE);
    world.uses(&mut device, 60_000);
    world.initial(&mut device, 100_000);
    world.pass(DAY);
    world.buy("more", Some(&device), 10_000_000, &[]);
    let answer = world.initial(&mut device, 100_000);
    assert_eq!(in_hand(&answer, &device), 180_000);
    let answer = world.update(&mut device, 100_000);
    assert_eq!(in_hand(&answer, &device), 181_000, "and it stays so");
}

#[test]
fn what_was_written_before_sizes_were_is_read() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 100);
    let mut entry = world.journal.last().unwrap().clone();
    let Cause::Credit(credit) = &mut entry.cause else {
        panic!()
    };
    let size: Option<Size> = credit.size.take();
    assert!(size.is_some());
    let read: Entry = serde_cbor::from_slice(&codec::encode(&entry).unwrap()).unwrap();
    assert_eq!(read, entry);
    assert!(!explain::words(&read).contains("sized"));
    // A checkpoint without paces: the device is as one that was never seen.
    let mut checkpoint: Value = serde_cbor::value::to_value(&world.ledger).unwrap();
    let Value::Map(ledger) = &mut checkpoint else {
        panic!()
    };
    let Some(Value::Map(devices)) = ledger.get_mut(&t("devices")) else {
        panic!()
    };
    for device in devices.values_mut() {
        let Value::Map(device) = device else { panic!() };
        assert!(device.remove(&t("pace")).is_some());
    }
    let old: Ledger = serde_cbor::value::from_value(checkpoint).unwrap();
    let pace = old.devices[&device.id].pace;
    assert_eq!(pace.octets_in(HOUR), None);
}
