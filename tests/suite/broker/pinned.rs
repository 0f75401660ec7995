//! Facts of one broker that the design or this harness allows for. When one of these fails after an update,
//! the world got better (or worse): look at what was built around it.

use std::time::{Duration, Instant};

use simquota_tests::broker::{Broker, EmbeddedBroker, Mosquitto, SHIPPED_CONFIG};
use simquota_tests::missing::missing_part;

use super::client::{Client, text};

const DEVICES: usize = 150;

/// Messages that a new wildcard subscriber gets when 150 devices have a retained status.
async fn retained_statuses(broker: &dyn Broker) -> usize {
    let (mut devices, _) = Client::connect(broker, "devices").await;
    for device in 0..DEVICES {
        devices.send(&format!("d/{device}/status"), true, "online");
    }
    devices.acknowledged(DEVICES).await;
    let (mut cloud, _) = Client::connect(broker, "cloud").await;
    cloud.subscribe("d/+/status").await;
    devices.publish("d/0/status", false, &["end"]).await;
    cloud.texts_until("end").await.len()
}

/// So nothing may need the retained statuses of a whole fleet: devices speak up again after each connect.
#[tokio::test]
async fn rumqttd_sends_at_most_100_retained_messages_to_a_wildcard() {
    let broker = EmbeddedBroker::start().unwrap();
    assert_eq!(retained_statuses(&broker).await, 100);
}

#[tokio::test]
async fn mosquitto_sends_all_retained_messages_to_a_wildcard() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (retained messages)");
    };
    let broker = Mosquitto::start(&program).unwrap();
    assert_eq!(retained_statuses(&broker).await, DEVICES);
}

/// mosquitto that is killed comes back with the database of its last peaceful end.
#[tokio::test]
async fn mosquitto_killed_loses_what_came_since_its_last_save() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (kill)");
    };
    let mut broker = Mosquitto::start(&program).unwrap();
    let (mut device, _) = Client::connect(&broker, "device").await;
    device.publish("d/1/status", true, &["saved"]).await;
    broker.outage().unwrap();
    broker.resume().unwrap();
    device.broken().await;
    device.connected().await;
    device.publish("d/1/status", true, &["lost"]).await;
    broker.kill().unwrap();
    broker.restart().unwrap();

    let (mut cloud, _) = Client::connect(&broker, "cloud").await;
    cloud.subscribe("d/+/status").await;
    assert_eq!(cloud.text().await, "saved");
}

/// Nagle's algorithm against delayed acknowledgements makes 88 ms of each round trip when one side leaves it on.
/// This is the one time that a test asserts: what it looks for is ten times its limit, and what it measures a
/// tenth.
#[tokio::test]
async fn round_trip_over_mosquitto_takes_less_than_5_ms() {
    let Some(program) = Mosquitto::find() else {
        return missing_part("mosquitto (round trip)");
    };
    let broker = Mosquitto::start(&program).unwrap();
    let (mut cloud, _) = Client::connect(&broker, "cloud").await;
    cloud.subscribe("d/1/up").await;
    let (mut device, _) = Client::connect(&broker, "device").await;
    device.subscribe("d/1/down").await;

    let echo = tokio::spawn(async move {
        loop {
            let request = text(&cloud.message().await);
            cloud.send("d/1/down", false, request);
        }
    });
    let mut trips = Vec::new();
    for number in 0..50 {
        let asked = Instant::now();
        device.send("d/1/up", false, format!("{number}"));
        assert_eq!(device.text().await, format!("{number}"));
        trips.push(asked.elapsed());
    }
    echo.abort();
    trips.sort();
    let median = trips[trips.len() / 2];
    assert!(median < Duration::from_millis(5), "median {median:?}");
}

/// It has no access control: it may listen on loopback only, and a console or metrics port would be open to all.
#[test]
fn shipped_configuration_stays_on_loopback() {
    let config: rumqttd::Config = toml::from_str(SHIPPED_CONFIG).unwrap();
    let servers = config.v4.iter().chain(&config.v5).flatten();
    let listens: Vec<_> = servers.map(|(_, server)| server.listen).collect();
    assert_eq!(listens.len(), 2);
    assert!(listens.iter().all(|address| address.ip().is_loopback()));
    assert!(config.ws.is_none() && config.console.is_none());
    assert!(config.prometheus.is_none() && config.metrics.is_none());
}
