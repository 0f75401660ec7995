//! Hears every message of the protocol on a broker, and holds it against the schema in the end.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_tests::broker::Broker;

use super::schema::{Schema, rule};
use crate::broker::client::Client;

/// The topic that ends it; not one of the protocol's.
const END: &str = "csim/v1/end-of-the-test";

/// A subscriber of everything, on a thread of its own.
pub(crate) struct Sniffer {
    messages: Receiver<(String, Vec<u8>)>,
    thread: JoinHandle<()>,
}

impl Sniffer {
    pub(crate) fn start(broker: &dyn Broker) -> Self {
        let (sender, messages) = channel();
        let (ready, subscribed) = channel();
        let options = crate::broker::client::options(broker, "sniffer");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (mut client, _) = Client::connect_with(options).await;
                client.subscribe("csim/v1/#").await;
                ready.send(()).unwrap();
                loop {
                    let event = client.events.poll().await.expect("the connection broke");
                    if let rumqttc::v5::Event::Incoming(Packet::Publish(publish)) = event {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        if topic == END {
                            return;
                        }
                        sender.send((topic, publish.payload.to_vec())).unwrap();
                    }
                }
            });
        });
        subscribed.recv().unwrap();
        Self { messages, thread }
    }

    /// Ends, and checks what was heard: how many messages there were on topics of each rule.
    pub(crate) fn check(self, broker: &dyn Broker) -> BTreeMap<&'static str, usize> {
        let options = crate::broker::client::options(broker, "sniffer-end");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let (mut client, _) = Client::connect_with(options).await;
            client.publish(END, false, &["."]).await;
        });
        self.thread.join().unwrap();
        let mut counts = BTreeMap::new();
        let mut schemas = BTreeMap::new();
        for (topic, message) in self.messages {
            let rule = rule(&topic);
            let schema = schemas.entry(rule).or_insert_with(|| Schema::of(rule));
            if let Err(why) = schema.valid(&message) {
                panic!("{topic}: {why}: {}", hex(&message));
            }
            *counts.entry(rule).or_insert(0) += 1;
        }
        counts
    }
}

pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
