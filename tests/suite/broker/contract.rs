//! What both brokers must do.

use simquota_tests::broker::{Broker, EmbeddedBroker, Mosquitto};
use simquota_tests::missing::missing_part;
use simquota_tests::process::LIMIT;
use tokio::time::timeout;

use super::client::{Client, options, retained_will, text};

/// Declares each test of this file for both brokers.
macro_rules! on_both_brokers {
    ($($test:ident)*) => {
        mod rumqttd {
            $(#[tokio::test]
            async fn $test() {
                super::$test(&mut super::EmbeddedBroker::start().unwrap()).await;
            })*
        }
        mod mosquitto {
            $(#[tokio::test]
            async fn $test() {
                let Some(program) = super::Mosquitto::find() else {
                    return super::missing_part("mosquitto (broker contract)");
                };
                super::$test(&mut super::Mosquitto::start(&program).unwrap()).await;
            })*
        }
    };
}

on_both_brokers! {
    retained_message_reaches_a_late_subscriber_until_it_is_cleared
    retained_messages_and_sessions_survive_an_outage
    unacknowledged_messages_come_again_in_order
    session_is_kept_without_clean_start_only
    amnesia_forgets_session_and_retained_messages
    last_will_is_sent_on_a_kill_and_not_on_a_leave
    largest_batch_passes
    mqtt_3_1_1_and_5_understand_each_other
    what_was_pending_is_sent_again_into_a_kept_session
    what_was_pending_is_dropped_by_rumqttc_when_the_session_is_gone
}

/// `down/credit` and `status` are retained for devices and managers that connect later.
async fn retained_message_reaches_a_late_subscriber_until_it_is_cleared(broker: &mut dyn Broker) {
    let (mut cloud, _) = Client::connect(broker, "cloud").await;
    cloud.publish("d/1/credit", true, &["old", "grant"]).await;

    let (mut device, _) = Client::connect(broker, "device").await;
    device.subscribe("d/1/#").await;
    let credit = device.message().await;
    assert_eq!((text(&credit).as_str(), credit.retain), ("grant", true));

    cloud.publish("d/1/credit", true, &[""]).await;
    let (mut late, _) = Client::connect(broker, "late").await;
    late.subscribe("d/1/#").await;
    cloud.publish("d/1/end", false, &["end"]).await;
    assert_eq!(late.texts_until("end").await, Vec::<String>::new());
}

async fn retained_messages_and_sessions_survive_an_outage(broker: &mut dyn Broker) {
    let (mut cloud, _) = Client::connect(broker, "cloud").await;
    cloud.subscribe("d/+/up").await;
    let (mut device, _) = Client::connect(broker, "device").await;
    device.publish("d/1/status", true, &["online"]).await;
    drop(cloud);
    device.publish("d/1/up", false, &["while away"]).await;

    broker.outage().unwrap();
    broker.resume().unwrap();

    let (mut cloud, connected) = Client::connect(broker, "cloud").await;
    assert!(connected.session_present);
    assert_eq!(cloud.text().await, "while away");
    cloud.subscribe("d/+/status").await;
    assert_eq!(cloud.text().await, "online");
}

/// The cloud acknowledges after its commit. What it had not acknowledged when it was killed comes again.
async fn unacknowledged_messages_come_again_in_order(broker: &mut dyn Broker) {
    let mut manual = options(broker, "cloud");
    manual.set_manual_acks(true);
    let (mut cloud, _) = Client::connect_with(manual.clone()).await;
    cloud.subscribe("d/+/up").await;
    let (mut device, _) = Client::connect(broker, "device").await;
    let sent: Vec<String> = (0..15).map(|number| format!("{number}")).collect();
    let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
    device.publish("d/1/up", false, &sent[..10]).await;

    for expected in &sent[..10] {
        let message = cloud.message().await;
        assert_eq!(text(&message), *expected);
        if expected.parse::<u8>().unwrap() < 3 {
            cloud.client.try_ack(&message).unwrap();
        }
    }
    // This goes out behind the three acknowledgements. Its answer says that the broker has taken them.
    cloud.publish("elsewhere", false, &["flush"]).await;
    drop(cloud);
    device.publish("d/1/up", false, &sent[10..]).await;

    let (mut cloud, connected) = Client::connect_with(manual).await;
    assert!(connected.session_present);
    assert_eq!(cloud.texts(12).await, sent[3..]);
}

/// The trigger to resubscribe and to rewind to the oldest record that the cloud has not acknowledged.
async fn amnesia_forgets_session_and_retained_messages(broker: &mut dyn Broker) {
    let (mut device, connected) = Client::connect(broker, "device").await;
    assert!(!connected.session_present);
    device.subscribe("d/1/down").await;
    device.publish("d/1/status", true, &["online"]).await;

    broker.restart_with_amnesia().unwrap();

    device.broken().await;
    assert!(!device.connected().await.session_present);
    device.subscribe("d/1/status").await;
    // On the forgotten filter first: had it been kept, this would arrive.
    device.send("d/1/down", false, "unheard");
    device.send("d/1/status", false, "end");
    assert_eq!(device.texts_until("end").await, Vec::<String>::new());
}

/// `status` says `offline` by itself when a device loses power, and only then.
async fn last_will_is_sent_on_a_kill_and_not_on_a_leave(broker: &mut dyn Broker) {
    let (mut watcher, _) = Client::connect(broker, "watcher").await;
    watcher.subscribe("d/+/status").await;
    let mut with_will = options(broker, "device");
    with_will.set_last_will(retained_will("d/1/status", "lost power"));

    let (mut device, _) = Client::connect_with(with_will.clone()).await;
    device.publish("d/1/status", true, &["online"]).await;
    drop(device);
    assert_eq!(watcher.texts(2).await, ["online", "lost power"]);

    let (mut device, _) = Client::connect_with(with_will.clone()).await;
    device.publish("d/1/status", true, &["left"]).await;
    device.leave().await;
    // By the time that the same client is back, the broker has dealt with its last connection.
    let (mut device, _) = Client::connect_with(with_will).await;
    device.publish("d/1/status", true, &["back"]).await;
    assert_eq!(watcher.texts(2).await, ["left", "back"]);

    let (mut late, _) = Client::connect(broker, "late").await;
    late.subscribe("d/+/status").await;
    assert_eq!(late.text().await, "back");
}

/// The design allows payloads of 64 KiB; broker.toml has to let them through.
async fn largest_batch_passes(broker: &mut dyn Broker) {
    let (mut cloud, _) = Client::connect(broker, "cloud").await;
    cloud.subscribe("d/+/up").await;
    let (mut device, _) = Client::connect(broker, "device").await;
    let batch = vec![0xA5; 64 * 1024];
    device.send("d/1/up", false, batch.clone());
    device.acknowledged(1).await;
    assert_eq!(cloud.message().await.payload, batch);
}

/// Many modems speak only 3.1.1.
async fn mqtt_3_1_1_and_5_understand_each_other(broker: &mut dyn Broker) {
    use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};

    let (mut cloud, _) = Client::connect(broker, "cloud").await;
    cloud.subscribe("d/1/up").await;
    let options = MqttOptions::new("device", "127.0.0.1", broker.port_v4());
    let (device, mut events) = AsyncClient::new(options, 10);
    let once = QoS::AtLeastOnce;
    device.try_subscribe("d/1/down", once).unwrap();
    device.try_publish("d/1/up", once, false, "up").unwrap();
    let sent = async {
        while !matches!(
            events.poll().await.unwrap(),
            Event::Incoming(Incoming::PubAck(_))
        ) {}
    };
    timeout(LIMIT, sent).await.unwrap();
    assert_eq!(cloud.text().await, "up");

    cloud.publish("d/1/down", false, &["down"]).await;
    let down = async {
        loop {
            if let Event::Incoming(Incoming::Publish(publish)) = events.poll().await.unwrap() {
                return publish.payload;
            }
        }
    };
    assert_eq!(timeout(LIMIT, down).await.unwrap(), "down");
}

async fn what_was_pending_is_sent_again_into_a_kept_session(broker: &mut dyn Broker) {
    let (mut cloud, mut device) = break_with_five_pending(broker).await;
    broker.resume().unwrap();
    assert!(device.connected().await.session_present);
    device.acknowledged(5).await;
    assert!(cloud.connected().await.session_present);
    assert_eq!(cloud.texts(5).await, ["0", "1", "2", "3", "4"]);
}

/// Why the edge's own store, and not rumqttc, decides what is sent again: `publish` returned Ok for all five.
async fn what_was_pending_is_dropped_by_rumqttc_when_the_session_is_gone(broker: &mut dyn Broker) {
    let (mut cloud, mut device) = break_with_five_pending(broker).await;
    broker.restart_with_amnesia().unwrap();
    assert!(!cloud.connected().await.session_present);
    cloud.subscribe("d/+/up").await;
    assert!(!device.connected().await.session_present);
    assert!(device.events.pending.is_empty());
    device.publish("d/1/up", false, &["end"]).await;
    assert_eq!(cloud.texts_until("end").await, Vec::<String>::new());
}

/// A subscriber and a device, both cut off, the device with five messages that rumqttc took and could not send.
async fn break_with_five_pending(broker: &mut dyn Broker) -> (Client, Client) {
    let (mut cloud, _) = Client::connect(broker, "cloud").await;
    cloud.subscribe("d/+/up").await;
    let (mut device, _) = Client::connect(broker, "device").await;
    broker.outage().unwrap();
    for number in 0..5 {
        device.send("d/1/up", false, format!("{number}"));
    }
    device.broken().await;
    assert_eq!(device.events.pending.len(), 5);
    cloud.broken().await;
    (cloud, device)
}

/// MQTT 5 has an expiry too, but rumqttd ignores it: what keeps a session is the flag that 3.1.1 also has.
async fn session_is_kept_without_clean_start_only(broker: &mut dyn Broker) {
    for (clean, present_again) in [(false, true), (true, false)] {
        let mut options = options(broker, &format!("clean-{clean}"));
        options.set_clean_start(clean);
        let (first, connected) = Client::connect_with(options.clone()).await;
        assert!(!connected.session_present);
        drop(first);
        let (_, connected) = Client::connect_with(options).await;
        assert_eq!(connected.session_present, present_again);
    }
}
