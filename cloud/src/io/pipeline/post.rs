//! Sealing and sending. What can't be sent in time is counted and dropped: the devices' timers bring it back.

use ed25519_dalek::SigningKey;
use simquota_shared::envelope::{self, Kid};
use simquota_shared::ids::{DeviceId, NodeId};
use simquota_shared::topic::{Down, Topic, Up};

use super::inbox::Lane;
use crate::charging::{Outgoing, Seal};
use crate::io::mqtt::{Deadline, Delivery, Line, SendError};
use crate::io::verify::Verifier;

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It is on its way.
    Gone,
    /// There was no place for it in time. Whoever gives it up counts it.
    NotNow,
    /// It can't be sent at all.
    Never,
}

/// Both connections, and the keys for what goes out.
pub(super) struct Post {
    pub(super) control: Line,
    pub(super) usage: Line,
    pub(super) node: NodeId,
    pub(super) node_key: SigningKey,
    /// Messages that were not sent, since the start.
    pub(super) unsent: u64,
}

impl Post {
    fn line(&self, lane: Lane) -> &Line {
        match lane {
            Lane::Control => &self.control,
            Lane::Usage => &self.usage,
        }
    }

    /// Sends a message, waiting for a place until the deadline.
    pub(super) fn send(
        &mut self,
        outgoing: &Outgoing,
        verifier: &mut Verifier,
        now_ms: u64,
        deadline: Deadline,
    ) -> Sent {
        let Outgoing {
            topic,
            payload,
            retain,
            seal,
        } = outgoing;
        let text = topic.to_string();
        let sealed = match (seal, topic) {
            (Seal::Signed, _) => self.signed(&text, payload),
            (Seal::Mac(kid), Topic::Down(device, _)) => verifier
                .device_key(device, kid, now_ms)
                .map_err(|refusal| refusal.detail)
                .and_then(|key| sealed(&key, kid, &text, payload)),
            (Seal::Mac(kid), _) => verifier
                .person_key(kid, now_ms)
                .map_err(|refusal| refusal.detail)
                .and_then(|key| sealed(&key, kid, &text, payload)),
        };
        let message = match sealed {
            Ok(message) => message,
            Err(why) => {
                self.count_unsent();
                tracing::warn!(topic = text, why, "message not sealed, not sent");
                return Sent::Never;
            }
        };
        // Acknowledgements of usage go back over the session that brought it, so that none is in a grant's way.
        let lane = match topic {
            Topic::Down(_, Down::Usage) => Lane::Usage,
            _ => Lane::Control,
        };
        match self.line(lane).publish(&text, message, *retain, deadline) {
            Ok(()) => Sent::Gone,
            Err(SendError::Full | SendError::Offline) => Sent::NotNow,
            Err(error @ SendError::TooLarge { .. }) => {
                self.count_unsent();
                // The broker's limit is below what the protocol needs: it stays so until someone raises it.
                tracing::error!(topic = text, %error, "message not sent");
                Sent::Never
            }
        }
    }

    pub(super) fn count_unsent(&mut self) {
        self.unsent = self.unsent.saturating_add(1);
    }

    pub(super) fn signed(&self, topic: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
        envelope::sign(&self.node_key, &Kid::first(&self.node), topic, payload)
            .map_err(|error| error.to_string())
    }

    /// Sends a message to ourselves through a lane's subscription.
    pub(super) fn probe(&self, lane: Lane) -> Result<(), String> {
        let device: DeviceId = self
            .node
            .as_str()
            .parse()
            .map_err(|error| format!("{error}"))?;
        let up = match lane {
            Lane::Control => Up::Ack,
            Lane::Usage => Up::Usage,
        };
        let topic = Topic::Up(device, up).to_string();
        let message = self.signed(&topic, &[0])?;
        self.line(lane)
            .publish(&topic, message, false, Deadline::within_ms(0))
            .map_err(|error| error.to_string())
    }

    /// Acknowledges deliveries to the broker, in the order in which they came.
    pub(super) fn acknowledge(&self, deliveries: &[(Lane, Delivery)], deadline: Deadline) {
        for (lane, delivery) in deliveries {
            self.line(*lane).acknowledge(delivery, deadline);
        }
    }

    /// Whether the lane's connection stands.
    pub(super) fn is_connected(&self, lane: Lane) -> bool {
        self.line(lane).is_connected()
    }

    /// Says goodbye on both.
    pub(super) fn disconnect(&self) {
        self.usage.disconnect();
        self.control.disconnect();
    }
}

fn sealed(key: &envelope::Key, kid: &Kid, topic: &str, payload: &[u8]) -> Result<Vec<u8>, String> {
    envelope::seal(key, kid, topic, payload).map_err(|error| error.to_string())
}
