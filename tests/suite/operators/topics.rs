//! Topics for operators: what the broker keeps, as a stranger reads it.

use std::process::Command;

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_cloud::io::keys::KeyFolder;
use simquota_shared::codec::decode;
use simquota_shared::envelope::open_signed;
use simquota_shared::message::Summary;

use simquota_tests::missing::missing_part;
use simquota_tests::process::{Child, await_fact};

use super::*;
use crate::broker::client::Client;
use crate::watching;
use crate::world::steady;

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

/// The lines that the operators' page offers for copying.
fn examples() -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../cloud/OPERATIONS.md");
    let page = fs::read_to_string(page).unwrap();
    let lines = page
        .lines()
        .filter(|line| line.starts_with("mosquitto_sub "));
    lines.map(str::to_owned).collect()
}

/// As they stand there, but for the broker's address and for ending after one message.
#[test]
fn the_pages_examples_can_be_pasted_and_hear_something() {
    if Command::new("mosquitto_sub")
        .arg("--help")
        .output()
        .is_err()
    {
        return missing_part("mosquitto_sub and mosquitto_pub (examples of the operators' page)");
    }
    let world = World::start();
    let port = world.broker.port_v5().to_string();
    let examples = examples();
    assert!(examples.len() >= 4, "{examples:?}");
    for example in examples {
        let here = format!("mosquitto_sub -V 5 -h 127.0.0.1 -p {port} -C 1 ");
        let line = example.replacen("mosquitto_sub ", &here, 1);
        let mut shell = Command::new("sh");
        let mut subscriber = Child::start("mosquitto_sub", shell.args(["-c", &line])).unwrap();
        let ended = await_fact(LIMIT, &example, || {
            // What each of them waits for: a refusal and an event; the others are kept by the broker.
            let nonsense = ["-V", "5", "-h", "127.0.0.1", "-p", &port, "-q", "1"];
            let sent = Command::new("mosquitto_pub")
                .args(nonsense)
                .args(["-t", "csim/v1/d/nobody/up/register", "-m", "nonsense"])
                .status()
                .unwrap();
            assert!(sent.success());
            world.cloud(&["fleet", "suspend", "buses"]);
            subscriber.exited().unwrap()
        })
        .unwrap_or_else(|error| panic!("{error}: {}", subscriber.tail()));
        assert!(ended.success(), "{example}: {}", subscriber.tail());
        let heard = |line: &str| line.len() > 4;
        subscriber.wait_line(heard, LIMIT).unwrap();
    }
}

#[test]
fn what_devices_show_of_themselves_is_told_on_their_fleets_topic() {
    let mut world = World::start();
    restart_with(&mut world, "[registration]\nsilent_s = 1\n");
    let watcher = watching::watch(&world, &["--json"]);
    let hears = |kind: &str| {
        let kind = format!("\"{kind}\"");
        watcher
            .wait_line(
                |line| line.contains("f/buses/event") && line.contains(&kind),
                LIMIT,
            )
            .unwrap();
    };
    // Nothing was bought: it asks and is refused, until it is heard no more.
    let mut device = world.device("t-1", &steady(5, 100), 5, "1 kB");
    device.start();
    hears("exhausted");
    device.process.as_mut().unwrap().kill9().unwrap();
    hears("silent");
    // Its flash is replaced: a new life.
    fs::remove_dir_all(&device.data).unwrap();
    device.start();
    hears("store-reset");
    let shown = world.show(&device);
    let reasons: Vec<&str> = shown["suspicions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["reason"].as_str().unwrap())
        .collect();
    assert!(
        reasons.contains(&"silent") && reasons.contains(&"store-reset"),
        "{reasons:?}"
    );
}
