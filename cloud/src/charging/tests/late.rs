//! Late usage is charged, and said to be late: in the journal, in words, in records, as an event.

use super::*;
use crate::ledger::entry::{Cause, Late, after};
use crate::ledger::explain;

/// The last usage entry: what of it was late, and how that reads.
fn last_usage(world: &World) -> (Option<(u64, u64)>, String) {
    let entry = world
        .journal
        .iter()
        .rfind(|entry| matches!(entry.cause, Cause::Usage(_)))
        .unwrap();
    let Cause::Usage(usage) = &entry.cause else {
        panic!()
    };
    let late = usage.late.as_ref();
    (
        late.map(|late| (late.octets.value(), late.after)),
        explain::words(entry),
    )
}

#[test]
fn usage_within_its_lease_is_not_late() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.uses(&mut device, 10);
    assert_eq!(last_usage(&world).0, None, "nothing was ever decided");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 500);
    world.pass(HOUR);
    world.uses(&mut device, 400);
    let (late, words) = last_usage(&world);
    assert_eq!(late, None, "the validity is over, the lease is not");
    assert!(!words.contains("late"), "{words}");
    // The final names 500: they are expected, and set aside.
    device.used += 100;
    world.finish(&mut device);
    device.used -= 100;
    world.uses(&mut device, 100);
    assert_eq!(last_usage(&world).0, None);
    assert_eq!(world.events("late"), Vec::<Value>::new());
}

#[test]
fn usage_after_the_lease_is_charged_to_the_package_that_had_it_and_flagged() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 500);
    world.uses(&mut device, 100);
    world.pass(2 * HOUR);
    assert_eq!(world.balance("p"), (900, 0, 100), "the lease is over");
    world.uses(&mut device, 300);
    assert_eq!(world.balance("p"), (600, 0, 400), "charged");
    let (late, words) = last_usage(&world);
    assert_eq!(late, Some((300, after::LEASE)));
    assert!(words.contains("[late: 300 B after the lease]"), "{words}");
    let event = world.events("late").pop().unwrap();
    assert_eq!(
        (amount(&event, "octets"), word(&event, "after")),
        (300, "lease".to_owned())
    );
    let Value::Array(rows) = world.order("export", &[]) else {
        panic!()
    };
    let late: Vec<(u64, u64, String)> = rows
        .iter()
        .filter(|row| matches!(row, Value::Map(map) if map.get(&t("late")).is_some_and(|late| *late != Value::Null)))
        .map(|row| (amount(row, "amount"), amount(row, "late"), word(row, "late_after")))
        .collect();
    assert_eq!(late, [(300, 300, "lease".to_owned())], "the record says so");
}

#[test]
fn positions_of_a_lapsed_grant_stay_late_when_the_device_asks_first() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 10_000, &[]);
    world.initial(&mut device, 500);
    world.pass(2 * HOUR);
    // It comes back, having used 400 of the lapsed grant, and asks before it reports.
    device.used += 400;
    world.initial(&mut device, 1000);
    device.used -= 400;
    world.uses(&mut device, 700);
    assert_eq!(last_usage(&world).0, Some((500, after::LEASE)));
    assert_eq!(world.balance("p"), (8600, 700, 700));
}

#[test]
fn usage_after_the_end_of_its_package_is_flagged() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 1000, &[("until", n(ZERO + HOUR / 2))]);
    world.initial(&mut device, 500);
    world.pass(HOUR / 2);
    world.uses(&mut device, 200);
    assert_eq!(world.balance("p"), (0, 300, 200));
    assert_eq!(last_usage(&world).0, Some((200, after::END)));
    world.pass(HOUR);
    world.uses(&mut device, 50);
    let (late, words) = last_usage(&world);
    assert_eq!(late, Some((50, after::LEASE | after::END)));
    assert!(
        words.contains("[late: 50 B after the lease, after the package's end]"),
        "{words}"
    );
    assert_eq!(
        world.balance("p").2,
        250,
        "taken back from what had expired"
    );
    assert_eq!(world.ledger.devices[&device.id].debt, Octets::ZERO);
}

#[test]
fn usage_beyond_what_a_final_named_is_flagged() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.buy("p", Some(&device), 1000, &[]);
    world.initial(&mut device, 500);
    world.uses(&mut device, 100);
    device.used += 50;
    world.finish(&mut device);
    device.used -= 50;
    world.uses(&mut device, 80);
    assert_eq!(last_usage(&world).0, Some((30, after::FINAL)));
    assert_eq!(world.balance("p"), (820, 0, 180));
    world.uses(&mut device, 1000);
    assert_eq!(last_usage(&world).0, Some((1000, after::FINAL)));
    let event = world.events("debt").pop().unwrap();
    assert_eq!(
        (amount(&event, "octets"), amount(&event, "late")),
        (180, 1000)
    );
}

#[test]
fn an_entry_without_late_octets_is_written_as_before_there_was_such_a_field() {
    let mut world = World::new();
    let mut device = world.device("d-1");
    world.uses(&mut device, 10);
    let entry = world.journal.last().unwrap();
    let fields = |entry: &Entry| {
        let value: Value = serde_cbor::from_slice(&codec::encode(entry).unwrap()).unwrap();
        let Value::Array(entry) = value else { panic!() };
        let Value::Array(cause) = entry[4].clone() else {
            panic!()
        };
        let Value::Array(body) = cause[1].clone() else {
            panic!()
        };
        body.len()
    };
    assert_eq!(fields(entry), 12);
    let mut late = entry.clone();
    let Cause::Usage(usage) = &mut late.cause else {
        panic!()
    };
    usage.late = Some(Late {
        octets: Octets(10),
        after: after::LEASE,
    });
    assert_eq!(fields(&late), 13);
    let read: Entry = serde_cbor::from_slice(&codec::encode(&late).unwrap()).unwrap();
    assert_eq!(read, late);
    let read: Entry = serde_cbor::from_slice(&codec::encode(entry).unwrap()).unwrap();
    assert_eq!(&read, entry);
}
