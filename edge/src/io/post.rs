//! The device's side of the envelope: what goes out is sealed, what comes in is verified and decoded.
//!
//! The broker is not trusted. A message counts only if its topic is one of this device's and its tag fits the
//! device's key and that very topic.

use simquota_shared::codec::{self, CodecError};
use simquota_shared::envelope::{EnvelopeError, GENERATIONS_MAX, Kid, Received, seal};
use simquota_shared::ids::DeviceId;
use simquota_shared::topic::{self, Down, Topic, TopicError};

use super::keyfile::Enrolment;
use crate::agent::{Input, Up};

/// Why a message from the broker counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a topic of the protocol.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// A topic of the protocol on which this device is told nothing.
    #[error("the topic is not one of this device's: check what the broker lets others publish")]
    NotOurs,
    /// Not a sealed message.
    #[error(transparent)]
    Envelope(EnvelopeError),
    /// Sealed, and not with this device's key.
    #[error(
        "the tag does not fit this device's key {own} (it names {named}): enrol the device again"
    )]
    Forged {
        /// The key that the message names.
        named: Kid,
        /// The key that the device has.
        own: Kid,
    },
    /// Verified, and not what it should be.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// Seals and opens.
#[derive(Clone, Debug)]
pub struct Post {
    /// As the key file has it.
    filed: Enrolment,
    /// What is sealed with.
    enrolment: Enrolment,
    /// The generation before: what was under way when the key was rotated still counts.
    before: Option<Enrolment>,
}

impl Post {
    /// The post of one device.
    #[must_use]
    pub fn new(enrolment: Enrolment) -> Post {
        Post {
            filed: enrolment.clone(),
            enrolment,
            before: None,
        }
    }

    /// Goes on under a later generation of the key. Never back, and never past the last that a cloud knows.
    pub fn rotate_to(&mut self, generation: u64) {
        let last = u64::from(GENERATIONS_MAX).min(generation);
        while u64::from(self.enrolment.kid.generation) < last {
            let Enrolment { device, kid, key } = &self.enrolment;
            let next = kid.generation.saturating_add(1);
            let rotated = Enrolment {
                device: device.clone(),
                kid: Kid {
                    name: kid.name.clone(),
                    generation: next,
                },
                key: key.next_generation(device, next),
            };
            self.before = Some(std::mem::replace(&mut self.enrolment, rotated));
        }
    }

    /// Which key is sealed with.
    #[must_use]
    pub const fn kid(&self) -> &Kid {
        &self.enrolment.kid
    }

    /// The device.
    #[must_use]
    pub const fn device(&self) -> &DeviceId {
        &self.enrolment.device
    }

    /// The password towards the broker. The user is the device. It stays that of the key file when the key is rotated:
    /// the broker's files are not rewritten for that.
    #[must_use]
    pub fn password(&self) -> String {
        self.filed.key.mqtt_password().to_string()
    }

    /// The filter for all that the cloud says to the device.
    #[must_use]
    pub fn subscription(&self) -> String {
        topic::filter::device_down(self.device())
    }

    /// The topic and the sealed message.
    ///
    /// # Errors
    /// When the payload is longer than any receiver takes: a defect of ours.
    pub fn seal(&self, up: Up, payload: &[u8]) -> Result<(String, Vec<u8>), EnvelopeError> {
        let device = self.device().clone();
        let topic = match up {
            Up::Status => Topic::Status(device),
            Up::Register => Topic::Up(device, topic::Up::Register),
            Up::Ack => Topic::Up(device, topic::Up::Ack),
            Up::Credit => Topic::Up(device, topic::Up::Credit),
            Up::Usage => Topic::Up(device, topic::Up::Usage),
        }
        .to_string();
        let Enrolment { kid, key, .. } = &self.enrolment;
        let message = seal(key, kid, &topic, payload)?;
        Ok((topic, message))
    }

    /// What a message says.
    ///
    /// # Errors
    /// [`Refused`]; nothing in it is to be believed then.
    pub fn open(&self, topic: &str, message: &[u8]) -> Result<Input, Refused> {
        let down = match topic.parse()? {
            Topic::Down(device, down) if device == *self.device() => down,
            _ => return Err(Refused::NotOurs),
        };
        let received = Received::parse(message).map_err(Refused::Envelope)?;
        let fits = |enrolment: &&Enrolment| enrolment.kid == received.kid;
        let before = self.before.as_ref().filter(fits);
        let Enrolment { kid, key, .. } = before.unwrap_or(&self.enrolment);
        let payload = received.verify(key, topic).map_err(|error| match error {
            EnvelopeError::Forged => Refused::Forged {
                named: received.kid.clone(),
                own: kid.clone(),
            },
            other => Refused::Envelope(other),
        })?;
        Ok(match down {
            Down::Register => Input::Register(codec::decode(payload)?),
            Down::Usage => Input::UsageAck(codec::decode(payload)?),
            Down::Credit => Input::Credit(codec::decode(payload)?),
            Down::Command => Input::Command(codec::decode(payload)?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]

    use simquota_shared::code::Code;
    use simquota_shared::envelope::Key;
    use simquota_shared::message::UsageAck;
    use simquota_shared::units::{Epoch, Octets, Seq, UnixMillis};

    use super::*;

    const TOPIC: &str = "csim/v1/d/tracker-1/down/usage";

    fn post(octet: u8) -> Post {
        Post::new(Enrolment {
            device: "tracker-1".parse().unwrap(),
            kid: Kid {
                name: "batch-a".to_owned(),
                generation: 1,
            },
            key: Key::new([octet; 32]),
        })
    }

    fn ack() -> UsageAck {
        UsageAck {
            epoch: Epoch(7),
            code: Code::SUCCESS,
            mark: Seq(3),
            total: Octets(9),
            first: Seq(1),
            now: UnixMillis(1),
            retry_s: None,
        }
    }

    fn sealed(octet: u8, topic: &str) -> Vec<u8> {
        let Enrolment { kid, key, .. } = post(octet).enrolment;
        seal(&key, &kid, topic, &codec::encode(&ack()).unwrap()).unwrap()
    }

    #[test]
    fn a_message_under_the_devices_key_and_topic_is_taken() {
        let input = post(1).open(TOPIC, &sealed(1, TOPIC)).unwrap();
        assert_eq!(input, Input::UsageAck(ack()));
    }

    #[test]
    fn what_goes_out_can_be_verified_by_the_cloud() {
        let (topic, message) = post(1).seal(Up::Credit, &[0x80]).unwrap();
        assert_eq!(topic, "csim/v1/d/tracker-1/up/credit");
        let received = Received::parse(&message).unwrap();
        assert_eq!(received.verify(&Key::new([1; 32]), &topic).unwrap(), [0x80]);
        let (topic, _) = post(1).seal(Up::Status, &[0x80]).unwrap();
        assert_eq!(topic, "csim/v1/d/tracker-1/status");
    }

    #[test]
    fn anything_else_is_refused_for_its_own_reason() {
        let post = post(1);
        let forged = post.open(TOPIC, &sealed(2, TOPIC)).unwrap_err();
        assert!(matches!(forged, Refused::Forged { .. }), "{forged}");
        // Moved to another topic of the device.
        let other = "csim/v1/d/tracker-1/down/credit";
        let moved = post.open(other, &sealed(1, TOPIC)).unwrap_err();
        assert!(matches!(moved, Refused::Forged { .. }), "{moved}");
        for topic in [
            "csim/v1/d/tracker-2/down/usage",
            "csim/v1/d/tracker-1/up/usage",
            "csim/v1/d/tracker-1/status",
        ] {
            let refused = post.open(topic, &sealed(1, topic)).unwrap_err();
            assert_eq!(refused, Refused::NotOurs, "{topic}");
        }
        let elsewhere = post.open("weather/today", &sealed(1, TOPIC)).unwrap_err();
        assert!(matches!(elsewhere, Refused::Topic(_)), "{elsewhere}");
        let message = sealed(1, TOPIC);
        for cut in 0..message.len() {
            let refused = post.open(TOPIC, &message[..cut]).unwrap_err();
            assert!(matches!(refused, Refused::Envelope(_)), "{cut}: {refused}");
        }
        let credit = sealed(1, other);
        let shape = post.open(other, &credit).unwrap_err();
        assert!(matches!(shape, Refused::Codec(_)), "{shape}");
    }
}
