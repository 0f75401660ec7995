//! Events of a fleet: entries of the journal, published at least once, also over a kill of the service.

use std::collections::BTreeMap;

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_cloud::io::keys::KeyFolder;
use simquota_shared::codec::decode;
use simquota_shared::envelope::open_signed;
use simquota_shared::message::Event;

use crate::broker::client::Client;
use crate::world::World;

const EVENTS: &str = "csim/v1/f/buses/event";

/// Reads events until `whole` says that they are all there. Each is verified under the node's key.
async fn events_until(
    client: &mut Client,
    world: &World,
    seen: &mut BTreeMap<u64, String>,
    whole: impl Fn(&BTreeMap<u64, String>) -> bool,
) {
    let node = KeyFolder::open(&world.folder.path().join("cloud"))
        .unwrap()
        .node()
        .unwrap()
        .verifying_key();
    while !whole(seen) {
        let octets = client
            .until(|packet| match packet {
                Packet::Publish(publish) if publish.topic.as_ref() == EVENTS.as_bytes() => {
                    Some(publish.payload.to_vec())
                }
                _ => None,
            })
            .await;
        let (_, payload) = open_signed(&node, EVENTS, &octets).unwrap();
        let event: Event = decode(&payload).unwrap();
        let told = format!("{} {:?}", event.kind, event.args);
        let before = seen.insert(event.entry.value(), told.clone());
        assert!(
            before.is_none_or(|before| before == told),
            "one id, one event"
        );
    }
}

fn kinds(seen: &BTreeMap<u64, String>) -> Vec<&str> {
    seen.values()
        .filter_map(|told| told.split(' ').next())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_crossing_is_one_event_with_one_id_also_over_a_kill() {
    let mut world = World::start();
    let (mut client, _) = Client::connect(&world.broker, "watcher").await;
    client.subscribe(EVENTS).await;
    let mut seen = BTreeMap::new();
    world.cloud(&[
        "package",
        "buy",
        "--fleet",
        "buses",
        "--volume",
        "10MB",
        "--package",
        "p",
    ]);
    let debit = |world: &World, volume: &str| {
        world.cloud(&[
            "package", "debit", "p", "--fleet", "buses", "--volume", volume, "--why", "use",
        ]);
    };
    debit(&world, "6MB");
    events_until(&mut client, &world, &mut seen, |seen| !seen.is_empty()).await;
    assert_eq!(kinds(&seen), ["threshold"]);
    // The answer to the command is out, and so it is durable; whether the events were, nobody knows.
    debit(&world, "4MB");
    world.cloud.as_mut().unwrap().kill9().unwrap();
    world.start_cloud();
    world.cloud(&["package", "cancel", "p", "--fleet", "buses"]);
    events_until(&mut client, &world, &mut seen, |seen| seen.len() == 4).await;
    assert_eq!(
        kinds(&seen),
        ["threshold", "threshold", "threshold", "package-cancelled"]
    );
    let trail = world.cloud(&["explain", "--fleet", "buses"]).remove(0);
    for (entry, told) in &seen {
        let row = trail
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["entry"].as_u64() == Some(*entry));
        assert!(row.is_some(), "{told}: its id is an entry's number");
    }
    world.audit();
}
