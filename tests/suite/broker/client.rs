//! rumqttc, driven step by step: nothing happens between two calls of a test.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, LastWill, Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use simquota_tests::broker::Broker;
use simquota_tests::process::LIMIT;
use tokio::time::{sleep, timeout};

pub(crate) struct Client {
    pub(crate) client: AsyncClient,
    pub(crate) events: EventLoop,
}

/// The options that edge and cloud use too: the library's own are traps.
pub(crate) fn options(broker: &dyn Broker, id: &str) -> MqttOptions {
    let mut options = MqttOptions::new(id, "127.0.0.1", broker.port());
    options
        .set_clean_start(false)
        .set_session_expiry_interval(Some(3600))
        .set_max_packet_size(Some(1 << 20))
        .set_outgoing_inflight_upper_limit(100);
    let mut network = options.network_options();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    options
}

impl Client {
    /// Connects, with a session that is kept.
    pub(crate) async fn connect(broker: &dyn Broker, id: &str) -> (Self, ConnAck) {
        Self::connect_with(options(broker, id)).await
    }

    pub(crate) async fn connect_with(options: MqttOptions) -> (Self, ConnAck) {
        let (client, events) = AsyncClient::new(options, 500);
        let mut client = Self { client, events };
        let connected = client.connected().await;
        (client, connected)
    }

    /// Polls until connected. Errors before it are the broker being away.
    pub(crate) async fn connected(&mut self) -> ConnAck {
        let connected = async {
            loop {
                match self.events.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(connected))) => return connected,
                    Ok(_) => {}
                    // rumqttc tries again at once.
                    Err(_) => sleep(Duration::from_millis(20)).await,
                }
            }
        };
        timeout(LIMIT, connected).await.expect("no connection")
    }

    /// Polls until a packet is what is asked for.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(Packet) -> Option<T>) -> T {
        let found = async {
            loop {
                let event = self.events.poll().await.expect("the connection broke");
                if let Event::Incoming(packet) = event
                    && let Some(found) = wanted(packet)
                {
                    return found;
                }
            }
        };
        timeout(LIMIT, found).await.expect("the packet never came")
    }

    /// Polls until the connection breaks.
    pub(crate) async fn broken(&mut self) {
        let broken = async { while self.events.poll().await.is_ok() {} };
        timeout(LIMIT, broken).await.expect("still connected");
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.client
            .try_subscribe(filter, QoS::AtLeastOnce)
            .expect("a valid filter");
        self.until(|packet| matches!(packet, Packet::SubAck(_)).then_some(()))
            .await;
    }

    pub(crate) fn send(&self, topic: &str, retain: bool, payload: impl Into<Vec<u8>>) {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, retain, payload.into())
            .expect("room in the channel");
    }

    /// Publishes and waits for the broker to acknowledge all. A message that comes meanwhile is passed over: not
    /// for a client that awaits one.
    pub(crate) async fn publish(&mut self, topic: &str, retain: bool, payloads: &[&str]) {
        for payload in payloads {
            self.send(topic, retain, *payload);
        }
        self.acknowledged(payloads.len()).await;
    }

    pub(crate) async fn acknowledged(&mut self, mut count: usize) {
        while count > 0 {
            self.until(|packet| matches!(packet, Packet::PubAck(_)).then_some(()))
                .await;
            count -= 1;
        }
    }

    pub(crate) async fn message(&mut self) -> Publish {
        self.until(|packet| match packet {
            Packet::Publish(publish) => Some(publish),
            _ => None,
        })
        .await
    }

    /// The payload of the next message.
    pub(crate) async fn text(&mut self) -> String {
        text(&self.message().await)
    }

    pub(crate) async fn texts(&mut self, count: usize) -> Vec<String> {
        let mut texts = Vec::new();
        while texts.len() < count {
            texts.push(self.text().await);
        }
        texts
    }

    /// What comes until a message that says `end`, which is left out.
    pub(crate) async fn texts_until(&mut self, end: &str) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            match self.text().await {
                text if text == end => return texts,
                text => texts.push(text),
            }
        }
    }

    /// Leaves in order, by DISCONNECT, so that no last will is sent. Returns when the broker has closed the
    /// connection: a client that is back before that may be thrown out by rumqttd in place of its old self.
    pub(crate) async fn leave(mut self) {
        self.client.try_disconnect().expect("room in the channel");
        self.broken().await;
    }
}

pub(crate) fn text(publish: &Publish) -> String {
    String::from_utf8_lossy(&publish.payload).into_owned()
}

pub(crate) fn retained_will(topic: &str, payload: &str) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, true, None)
}
