//! `watch` over a run of the demo.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rumqttc::v5::MqttOptions;
use rumqttc::v5::mqttbytes::v5::Packet;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use simquota_tests::process::{Child, LIMIT, await_fact};

use super::{DEMO, rows};
use crate::broker::client::Client;

/// Publishes that came over a connection, by topic.
type Counted = Arc<Mutex<BTreeMap<String, u64>>>;

/// A way to the broker on which what goes to the client is counted, packet by packet.
fn relay(port: u16) -> (u16, Counted) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap().port();
    let counted = Counted::default();
    let counts = Arc::clone(&counted);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let Ok(mut client) = client else { continue };
            // Away for a moment: the client tries again.
            let Ok(broker) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            client.set_nodelay(true).unwrap();
            let (mut up, mut to_broker) =
                (client.try_clone().unwrap(), broker.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut up, &mut to_broker);
                let _ = to_broker.shutdown(Shutdown::Both);
            });
            let mut from_broker = BufReader::new(broker);
            while let Some(packet) = packet(&mut from_broker) {
                if let Some(topic) = topic(&packet) {
                    *counts.lock().unwrap().entry(topic).or_default() += 1;
                }
                if client.write_all(&packet).is_err() {
                    break;
                }
            }
            let _ = client.shutdown(Shutdown::Both);
        }
    });
    (here, counted)
}

/// One packet, whole. Source: MQTT 5, 2.1.1.
fn packet(from: &mut impl Read) -> Option<Vec<u8>> {
    let mut packet = vec![0; 2];
    from.read_exact(&mut packet).ok()?;
    let mut length = usize::from(packet[1] & 0x7f);
    let mut shift = 7;
    while packet.last()? & 0x80 != 0 {
        let mut more = [0];
        from.read_exact(&mut more).ok()?;
        packet.push(more[0]);
        length |= usize::from(more[0] & 0x7f) << shift;
        shift += 7;
    }
    let head = packet.len();
    packet.resize(head + length, 0);
    from.read_exact(&mut packet[head..]).ok()?;
    Some(packet)
}

/// The topic of a PUBLISH.
fn topic(packet: &[u8]) -> Option<String> {
    if packet[0] >> 4 != 3 {
        return None;
    }
    let head = 1 + packet[1..].iter().position(|octet| octet & 0x80 == 0)? + 1;
    let length = usize::from(u16::from_be_bytes([packet[head], packet[head + 1]]));
    String::from_utf8(packet[head + 2..head + 2 + length].to_vec()).ok()
}

/// The demo's folder, once it has keys, and the port of its broker.
fn demo_in(folder: &Path) -> Option<(PathBuf, u16)> {
    let made = std::fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let demo = made.map(|entry| entry.path()).find(|path| {
        let keys = path.join("cloud/keys");
        keys.join("person/admin.1.key").is_file() && path.join("cloud.log").is_file()
    })?;
    let config = std::fs::read_to_string(demo.join("cloud.toml")).ok()?;
    let line = config.lines().find(|line| line.starts_with("port = "))?;
    Some((demo, line.strip_prefix("port = ")?.parse().ok()?))
}

/// Kills, an amnesia of the broker, a top-up: the whole story. What is counted on the watcher's own connection is what it
/// shows, message by message.
#[test]
fn every_message_of_a_demo_is_shown_decoded_and_a_flipped_bit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(DEMO);
    command
        .args(["--devices", "4", "--seconds", "6", "--seed", "9", "--keep"])
        .env("TMPDIR", folder.path());
    let mut demo = Child::start("demo", &mut command).unwrap();
    let (data, port) = await_fact(LIMIT, "the demo's keys", || demo_in(folder.path())).unwrap();
    let (through, counted) = relay(port);
    // The watcher's configuration is the demo's, by the way that counts.
    let config = crate::world::read(&data.join("cloud.toml"))
        .replace(&format!("port = {port}"), &format!("port = {through}"))
        .replace(
            "data = \"cloud\"",
            &format!("data = {:?}", data.join("cloud")),
        );
    let path = folder.path().join("watch.toml");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new(DEMO);
    command
        .args(["cloud", "--config"])
        .arg(&path)
        .args(["--json", "watch"])
        .env("NO_COLOR", "1");
    let watcher = Child::start("watch", &mut command).unwrap();
    demo.wait_line(|line| line.contains("it goes on until Ctrl-C"), 4 * LIMIT)
        .unwrap();

    // One bit of a message that the watcher has seen verified, over a connection of its own.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let forged = runtime.block_on(async {
        let mut options = MqttOptions::new("by-hand", "127.0.0.1", port);
        options.set_max_packet_size(Some(1 << 20));
        let (mut client, _) = Client::connect_with(options).await;
        client.subscribe("csim/v1/d/+/up/usage").await;
        let (topic, mut octets) = client
            .until(|packet| match packet {
                Packet::Publish(publish) => Some((publish.topic, publish.payload.to_vec())),
                _ => None,
            })
            .await;
        let topic = String::from_utf8(topic.to_vec()).unwrap();
        *octets.last_mut().unwrap() ^= 1;
        client.send(&topic, false, octets);
        client
            .until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()))
            .await;
        topic
    });
    let refused = watcher
        .wait_line(|line| line.contains("\"refused\""), LIMIT)
        .unwrap();
    let refused: Value = serde_json::from_str(&refused.text).unwrap();
    assert_eq!(refused["topic"], forged.as_str());
    assert!(!refused["why"].as_str().unwrap().is_empty(), "{refused}");

    let pid = Pid::from_raw(i32::try_from(demo.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(
        demo.wait_exit(4 * LIMIT).unwrap().success(),
        "{}",
        demo.tail()
    );
    // The broker is gone: nothing more comes.
    let total = || counted.lock().unwrap().values().sum::<u64>();
    await_fact(LIMIT, "all of it to be shown", || {
        (rows(&watcher).len() as u64 == total()).then_some(())
    })
    .unwrap_or_else(|error| {
        panic!(
            "{error}: {} shown, {} on the wire",
            rows(&watcher).len(),
            total()
        )
    });
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
    let mut forgeries = 0;
    for row in rows(&watcher) {
        let topic = row["topic"].as_str().unwrap().to_owned();
        match row["verdict"].as_str().unwrap() {
            "verified" => assert!(row["octets"] == 0 || !row["payload"].is_null(), "{row}"),
            "refused" if topic == forged => forgeries += 1,
            other => panic!("{other}: {row}"),
        }
        *shown.entry(topic).or_default() += 1;
    }
    assert_eq!(shown, *counted.lock().unwrap(), "topic by topic");
    assert_eq!(forgeries, 1);
    println!(
        "demo: {} messages on {} topics, all of them shown decoded",
        total(),
        shown.len()
    );
    assert!(total() > 100, "{shown:?}");
    for topic in [
        "/up/register",
        "/up/usage",
        "/up/credit",
        "/down/credit",
        "/status",
        "/event",
    ] {
        assert!(
            shown.keys().any(|name| name.ends_with(topic)),
            "{topic}: {shown:?}"
        );
    }
}
