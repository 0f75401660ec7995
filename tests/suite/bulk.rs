//! A command to ten thousand devices, killed in the middle: each device exactly once.

use std::collections::BTreeMap;

use rumqttc::v5::mqttbytes::v5::Packet;
use serde_cbor::Value;
use simquota_cloud::charging::{DeviceRequest, Rules, Turn, Verdict};
use simquota_cloud::io::store::Store;
use simquota_cloud::ledger::Ledger;
use simquota_cloud::ledger::entry::Cause;
use simquota_shared::envelope::Kid;
use simquota_shared::ids::Text;
use simquota_shared::message::FleetCommand;
use simquota_shared::units::{EntryNumber, UnixMillis};
use simquota_tests::process::{LIMIT, await_fact};

use crate::broker::client::Client;
use crate::refused::registration;
use crate::world::World;

const DEVICES: usize = 10_000;
const EVENTS: &str = "csim/v1/f/buses/event";

fn store(world: &World) -> (Store, Ledger) {
    let folder = world.folder.path().join("cloud").join("ledger");
    let store = Store::open(&folder).unwrap();
    let ledger = store.load().unwrap();
    (store, ledger)
}

fn stop(world: &mut World) {
    let mut cloud = world.cloud.take().unwrap();
    cloud.terminate().unwrap();
    cloud.wait_exit(LIMIT).unwrap();
}

/// Devices, registered as the service would, without a broker between.
fn fill(world: &mut World) {
    stop(world);
    let (mut store, mut ledger) = store(world);
    let rules = Rules::default();
    let now = ledger.now;
    let admin = Kid::first(&"admin");
    let text = |text: String| Value::Text(text);
    let mut commands = vec![(
        "enrolment-create",
        vec![
            ("enrolment", text("many".to_owned())),
            ("fleet", text("buses".to_owned())),
            ("devices", Value::Integer(DEVICES as i128)),
        ],
    )];
    for hundred in 0..DEVICES.div_ceil(500) {
        let sims = (0..500).map(|n| {
            let n = hundred * 500 + n;
            Value::Array(vec![
                text(format!("8999{n:015}")),
                text(format!("90199{n:010}")),
                text("operator".to_owned()),
                Value::Array(vec![text("home".to_owned())]),
                text("iot".to_owned()),
            ])
        });
        commands.push(("sim-import", vec![("sims", Value::Array(sims.collect()))]));
    }
    for (index, (name, args)) in commands.into_iter().enumerate() {
        let args = args
            .into_iter()
            .map(|(name, value)| (text(name.to_owned()), value));
        let command = FleetCommand {
            id: format!("fill-{index}").parse().unwrap(),
            expires: UnixMillis(now.value() + 3_600_000),
            expected: None,
            dry: false,
            name: Text::clipped(name),
            args: Value::Map(args.collect()),
        };
        let mut turn = Turn::new(&mut ledger, &rules, now);
        assert_eq!(turn.command(None, &admin, &command).unwrap(), Verdict::Done);
        let entries = std::mem::take(&mut turn.entries);
        store.commit(&entries).unwrap();
    }
    let kid = Kid::first(&"many");
    for batch in 0..DEVICES / 1000 {
        let mut turn = Turn::new(&mut ledger, &rules, now);
        for n in 0..1000 {
            let id = format!("many-{:05}", batch * 1000 + n).parse().unwrap();
            let request = DeviceRequest::Register(registration());
            assert_eq!(turn.device(&id, &kid, request).unwrap(), Verdict::Done);
        }
        let entries = std::mem::take(&mut turn.entries);
        store.commit(&entries).unwrap();
    }
    store.checkpoint(&ledger).unwrap();
    drop(store);
}

async fn next_event(client: &mut Client) {
    client
        .until(|packet| match packet {
            Packet::Publish(publish) if publish.topic.as_ref() == EVENTS.as_bytes() => Some(()),
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_devices_each_exactly_once_over_a_kill() {
    let mut world = World::start();
    fill(&mut world);
    let (mut client, _) = Client::connect(&world.broker, "watcher").await;
    client.subscribe(EVENTS).await;
    world.start_cloud();
    let begun = world.cloud(&[
        "--id",
        "all-of-them",
        "bulk",
        "buy",
        "--fleet",
        "buses",
        "--model",
        "hand",
        "--volume",
        "1MB",
        "--no-wait",
    ]);
    assert_eq!(begun[0]["of"], DEVICES);
    // The first event: some of it is durable. It is killed there.
    next_event(&mut client).await;
    world.cloud.as_mut().unwrap().kill9().unwrap();
    world.cloud = None;
    let (halfway, ledger) = store(&world);
    let key = ("buses".parse().unwrap(), "all-of-them".parse().unwrap());
    let done = ledger.estate.bulks[&key].done;
    assert!(
        (1..DEVICES as u64).contains(&done),
        "killed in the middle, not after {done}"
    );
    drop((halfway, ledger));
    world.start_cloud();
    await_fact(LIMIT, "the bulk command to end", || {
        let (rows, _, _) = world.command(&["bulk", "show", "all-of-them", "--fleet", "buses"]);
        rows.first().filter(|row| !row["ended"].is_null()).cloned()
    })
    .unwrap();
    let outcomes = world.cloud(&["bulk", "outcomes", "all-of-them", "--fleet", "buses"]);
    let outcomes = outcomes[0].as_array().unwrap();
    assert_eq!(outcomes.len(), DEVICES, "outcomes are complete");
    assert!(
        outcomes
            .iter()
            .all(|row| row["code"] == 2001 && row["why"].is_null())
    );
    // The same command again is the same command: nothing more is done.
    world.cloud(&[
        "--id",
        "all-of-them",
        "bulk",
        "buy",
        "--fleet",
        "buses",
        "--model",
        "hand",
        "--volume",
        "1MB",
        "--no-wait",
    ]);
    world.audit();
    stop(&mut world);
    // What the journal says, read by nobody but this test.
    let (after, _) = store(&world);
    let mut bought: BTreeMap<String, u64> = BTreeMap::new();
    let mut told: BTreeMap<String, u64> = BTreeMap::new();
    for entry in after.reader().entries(EntryNumber::ZERO) {
        match entry.unwrap().cause {
            Cause::PackageBought(package) => {
                *bought
                    .entry(package.device.unwrap().to_string())
                    .or_default() += 1;
            }
            Cause::BulkWent(went) => {
                for part in went.parts {
                    *told.entry(part.device.to_string()).or_default() += 1;
                }
            }
            _ => {}
        }
    }
    assert_eq!(bought.len(), DEVICES);
    assert!(bought.values().all(|count| *count == 1));
    assert_eq!(told, bought);
}
