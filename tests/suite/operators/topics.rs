//! Topics for operators: what the broker keeps, as a stranger reads it.

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_cloud::io::keys::KeyFolder;
use simquota_shared::codec::decode;
use simquota_shared::envelope::open_signed;
use simquota_shared::message::Summary;

use super::*;
use crate::broker::client::Client;

const SUMMARY: &str = "csim/v1/f/buses/summary";

#[tokio::test(flavor = "multi_thread")]
async fn a_fleets_totals_are_kept_by_the_broker_signed_and_follow_what_happens() {
    let world = World::start();
    let node = KeyFolder::open(&world.folder.path().join("cloud"))
        .unwrap()
        .node()
        .unwrap()
        .verifying_key();
    let (mut client, _) = Client::connect(&world.broker, "watcher").await;
    client.subscribe(SUMMARY).await;
    for volume in ["10MB", "5MB"] {
        world.cloud(&["package", "buy", "--fleet", "buses", "--volume", volume]);
    }
    loop {
        let octets = client
            .until(|packet| match packet {
                Packet::Publish(publish) if publish.topic.as_ref() == SUMMARY.as_bytes() => {
                    Some(publish.payload.to_vec())
                }
                _ => None,
            })
            .await;
        let (_, payload) = open_signed(&node, SUMMARY, &octets).unwrap();
        let summary: Summary = decode(&payload).unwrap();
        if summary.available.value() == 15_000_000 {
            break;
        }
    }
    // Nothing changes any more: who comes later hears what the broker keeps.
    let (mut late, _) = Client::connect(&world.broker, "late").await;
    late.subscribe(SUMMARY).await;
    let kept = late
        .until(|packet| match packet {
            Packet::Publish(publish) if publish.topic.as_ref() == SUMMARY.as_bytes() => {
                Some(publish.payload.to_vec())
            }
            _ => None,
        })
        .await;
    let (_, payload) = open_signed(&node, SUMMARY, &kept).unwrap();
    let summary: Summary = decode(&payload).unwrap();
    assert_eq!(summary.available.value(), 15_000_000);
}
