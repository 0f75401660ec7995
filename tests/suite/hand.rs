//! A device, or a person, made by hand: its messages one by one, over plain MQTT.

use rumqttc::v5::mqttbytes::v5::Packet;
use simquota_shared::codec::{decode, encode};
use simquota_shared::envelope::{Key, Kid, Received, seal};
use simquota_shared::ids::DeviceId;
use simquota_shared::topic::{Down, Topic, Up};

use crate::broker::client::Client;
use crate::world::Device;

/// A device made by hand, over plain MQTT.
pub(crate) struct Hand {
    pub(crate) id: DeviceId,
    pub(crate) kid: Kid,
    pub(crate) key: Key,
}

impl Hand {
    pub(crate) fn of(device: &Device) -> Self {
        let text = crate::world::read(&device.folder.join("edge.key"));
        let mut parts = text.trim().split(':').skip(1);
        let id = parts.next().unwrap().parse().unwrap();
        let (name, generation) = parts.next().unwrap().split_once('/').unwrap();
        let kid = Kid {
            name: name.to_owned(),
            generation: generation.parse().unwrap(),
        };
        Self {
            id,
            kid,
            key: Key::from_hex(parts.next().unwrap()).unwrap(),
        }
    }

    pub(crate) fn up(&self, up: Up) -> String {
        Topic::Up(self.id.clone(), up).to_string()
    }

    pub(crate) fn sealed<T: serde::Serialize>(&self, up: Up, message: &T) -> Vec<u8> {
        seal(
            &self.key,
            &self.kid,
            &self.up(up),
            &encode(message).unwrap(),
        )
        .unwrap()
    }
}

/// The next message of a kind to the device, decoded, and its payload.
pub(crate) async fn answer<T: serde::de::DeserializeOwned>(
    client: &mut Client,
    hand: &Hand,
    down: Down,
) -> (T, Vec<u8>) {
    let topic = Topic::Down(hand.id.clone(), down).to_string();
    let octets = client
        .until(|packet| match packet {
            Packet::Publish(publish) if publish.topic.as_ref() == topic.as_bytes() => {
                Some(publish.payload.to_vec())
            }
            _ => None,
        })
        .await;
    let received = Received::parse(&octets).unwrap();
    let payload = received.verify(&hand.key, &topic).unwrap().to_vec();
    (decode(&payload).unwrap(), payload)
}
