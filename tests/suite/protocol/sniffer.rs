//! Hears every message of the protocol on a broker, and holds it against the schema in the end.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{Event, MqttOptions};
use serde_cbor::Value;
use simquota_tests::broker::Broker;
use tokio::sync::oneshot;

use super::schema::{Schema, message_of, rule};
use crate::broker::client::{Client, options};

/// The topic that ends it; not one of the protocol's.
const END: &str = "csim/v1/end-of-the-test";

/// A subscriber of everything, on a thread of its own. It comes back to a broker that loses it.
pub(crate) struct Sniffer {
    messages: Receiver<(String, Vec<u8>)>,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Sniffer {
    /// Returns when it is subscribed.
    pub(crate) fn start(broker: &dyn Broker) -> Self {
        Self::with(options(broker, "sniffer"))
    }

    pub(crate) fn with(mut options: MqttOptions) -> Self {
        options.set_clean_start(true);
        let (sender, messages) = channel();
        let (ready, subscribed) = channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = listen(options, sender, ready) => {}
                    _ = stopped => {}
                }
            });
        });
        subscribed.recv().unwrap();
        Self {
            messages,
            stop,
            thread,
        }
    }

    /// Ends after the last message on a broker that is still there, and checks what was heard: how many messages there
    /// were on topics of each rule.
    pub(crate) fn check(self, broker: &dyn Broker) -> BTreeMap<&'static str, usize> {
        let options = options(broker, "sniffer-end");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (mut client, _) = Client::connect_with(options).await;
            client.publish(END, false, &["."]).await;
        });
        self.thread.join().unwrap();
        checked(self.messages).0
    }

    /// The same when the broker is gone, and the payloads themselves, in lines of rule and hexadecimal digits.
    pub(crate) fn check_after(self) -> (BTreeMap<&'static str, usize>, String) {
        // It may have ended by itself.
        let _ = self.stop.send(());
        self.thread.join().unwrap();
        checked(self.messages)
    }
}

async fn listen(options: MqttOptions, sender: Sender<(String, Vec<u8>)>, ready: Sender<()>) {
    let (mut client, _) = Client::connect_with(options).await;
    client.subscribe("csim/v1/#").await;
    ready.send(()).unwrap();
    loop {
        match client.events.poll().await {
            Ok(Event::Incoming(Packet::Publish(Publish { topic, payload, .. }))) => {
                if topic == END {
                    return;
                }
                let topic = String::from_utf8(topic.to_vec()).unwrap();
                sender.send((topic, payload.to_vec())).unwrap();
            }
            Ok(Event::Incoming(Packet::ConnAck(_))) => {
                let filter = rumqttc::v5::mqttbytes::QoS::AtLeastOnce;
                client.client.try_subscribe("csim/v1/#", filter).unwrap();
            }
            Ok(_) => {}
            // rumqttc tries again at once.
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
        }
    }
}

fn checked(messages: Receiver<(String, Vec<u8>)>) -> (BTreeMap<&'static str, usize>, String) {
    let mut lines = String::new();
    let mut counts = BTreeMap::new();
    let mut schemas = BTreeMap::new();
    for (topic, message) in messages {
        // How a retained message is cleared; and the service's own test of its subscriptions.
        if message.is_empty() || topic.starts_with("csim/v1/d/cloud-1/up/") {
            continue;
        }
        let rule = rule(&topic);
        let schema = schemas.entry(rule).or_insert_with(|| Schema::of(rule));
        if let Err(why) = schema.valid(&message) {
            panic!("{topic}: {why}: {}", hex(&message));
        }
        *counts.entry(rule).or_insert(0) += 1;
        // Behind the tag.
        let parts: Vec<Value> = serde_cbor::from_slice(&message[1..]).unwrap();
        let Value::Bytes(payload) = &parts[2] else {
            panic!("{topic}: no payload");
        };
        writeln!(lines, "{} {}", message_of(rule), hex(payload)).unwrap();
    }
    (counts, lines)
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
