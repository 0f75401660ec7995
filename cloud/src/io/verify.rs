//! From octets to a request: topic, envelope, key, tag, payload. Each failure is a refusal with a reason.
//!
//! Everything is bounded before it is looked at: the topic's length, the message's, then (by the envelope and the
//! codec) depth and count. A key that nobody has is looked for on disk at most once a second.

use std::collections::HashMap;
use std::hash::Hash;

use ed25519_dalek::VerifyingKey;
use serde::de::DeserializeOwned;
use simquota_shared::codec;
use simquota_shared::envelope::{GENERATIONS_MAX, Key, Kid, MESSAGE_MAX, Received, open_signed};
use simquota_shared::ids::{DeviceId, FleetId, NodeId};
use simquota_shared::message::{Event, FleetCommand};
use simquota_shared::topic::{TOPIC_MAX, Topic, Up};
use simquota_shared::units::EntryNumber;

use super::keys::{KeyError, KeyFolder};
use crate::charging::{DeviceRequest, Refusal};

/// How long a key that is not there, or can't be used, is not looked for again.
const ABSENT_MS: u64 = 1000;
/// Keys kept in memory, of each kind.
const KEYS_MAX: usize = 65_536;

/// What a message turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// A device speaks.
    Device {
        /// Who.
        id: DeviceId,
        /// Under which key.
        kid: Kid,
        /// What.
        request: DeviceRequest,
    },
    /// A manager or an admin commands.
    Command {
        /// On which fleet's topic; none: on `ops`.
        fleet: Option<FleetId>,
        /// Under which key.
        kid: Kid,
        /// What.
        command: FleetCommand,
    },
    /// An event of our own, given back by the broker.
    Event(EntryNumber),
    /// Our own test that subscriptions deliver.
    Probe,
    /// An empty retained message: someone cleared the topic.
    Nothing,
}

fn refused(reason: &'static str, detail: impl Into<String>) -> Refusal {
    Refusal {
        reason,
        detail: detail.into(),
    }
}

/// A bounded map that forgets what was not used for long: when the young half is full, it becomes the old one.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    half: usize,
}

impl<K: Eq + Hash + Clone, V: Clone> Recent<K, V> {
    fn new(most: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            half: most / 2,
        }
    }

    fn find(&mut self, key: &K) -> Option<V> {
        if let Some(found) = self.young.get(key) {
            return Some(found.clone());
        }
        let found = self.old.remove(key)?;
        self.keep(key.clone(), found.clone());
        Some(found)
    }

    fn keep(&mut self, key: K, value: V) {
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

/// Whose key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    Enrolment,
    Person,
}

/// A key that was looked for on disk.
#[derive(Clone)]
enum Sought {
    Found(Key),
    /// Not there, or not usable for the reason given; looked for again after this.
    Absent {
        again_ms: u64,
        why: Option<String>,
    },
}

/// Verifies and decodes what comes in, and knows the keys for what goes out.
pub struct Verifier {
    folder: KeyFolder,
    node: NodeId,
    node_key: VerifyingKey,
    sought: Recent<(Holder, Kid), Sought>,
    /// Derived keys: the derivation costs four hashes.
    devices: Recent<(DeviceId, Kid), Key>,
}

impl Verifier {
    /// Keys come out of `folder`; a probe of our own is one that `node` signed.
    #[must_use]
    pub fn new(folder: KeyFolder, node: NodeId, node_key: VerifyingKey) -> Self {
        Self {
            folder,
            node,
            node_key,
            sought: Recent::new(KEYS_MAX),
            devices: Recent::new(KEYS_MAX),
        }
    }

    /// Reads one message. `now_ms` is monotonic.
    ///
    /// # Errors
    /// The refusal, for `ops/rejected`.
    pub fn read(&mut self, topic: &str, payload: &[u8], now_ms: u64) -> Result<Said, Refusal> {
        if topic.len() > TOPIC_MAX || payload.len() > MESSAGE_MAX {
            let octets = payload.len();
            return Err(refused(
                "too-large",
                format!("{octets} octets, at most {MESSAGE_MAX} are looked at"),
            ));
        }
        let parsed: Topic = topic
            .parse()
            .map_err(|error| refused("topic", format!("{error}")))?;
        if payload.is_empty() {
            return match parsed {
                Topic::Status(_) => Ok(Said::Nothing),
                _ => Err(refused("empty", "the message is empty")),
            };
        }
        match parsed {
            Topic::Up(id, up) => {
                if id.as_str() == self.node.as_str()
                    && open_signed(&self.node_key, topic, payload).is_ok()
                {
                    return Ok(Said::Probe);
                }
                self.device(id, Some(up), topic, payload, now_ms)
            }
            Topic::Status(id) => self.device(id, None, topic, payload, now_ms),
            Topic::FleetCommand(fleet) => self.command(Some(fleet), topic, payload, now_ms),
            Topic::OpsCommand => self.command(None, topic, payload, now_ms),
            Topic::FleetEvent(_) => self.event(topic, payload),
            _ => Err(refused("topic", "nobody speaks to the cloud on this topic")),
        }
    }

    fn device(
        &mut self,
        id: DeviceId,
        up: Option<Up>,
        topic: &str,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Said, Refusal> {
        let received = parsed(payload)?;
        let key = self.device_key(&id, &received.kid, now_ms)?;
        let body = opened(&received, &key, topic)?;
        let request = match up {
            Some(Up::Register) => DeviceRequest::Register(decoded(body)?),
            Some(Up::Usage) => DeviceRequest::Usage(decoded(body)?),
            Some(Up::Credit) => DeviceRequest::Credit(decoded(body)?),
            Some(Up::Ack) => DeviceRequest::Ack(decoded(body)?),
            None => DeviceRequest::Status(decoded(body)?),
        };
        Ok(Said::Device {
            id,
            kid: received.kid,
            request,
        })
    }

    /// Another service's events on the same broker are nothing to us.
    fn event(&self, topic: &str, payload: &[u8]) -> Result<Said, Refusal> {
        match open_signed(&self.node_key, topic, payload) {
            Ok((kid, body)) if kid.name == self.node.as_str() => {
                let event: Event = decoded(&body)?;
                Ok(Said::Event(event.entry))
            }
            _ => Ok(Said::Nothing),
        }
    }

    fn command(
        &mut self,
        fleet: Option<FleetId>,
        topic: &str,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Said, Refusal> {
        let received = parsed(payload)?;
        let key = self.person_key(&received.kid, now_ms)?;
        let command = decoded(opened(&received, &key, topic)?)?;
        Ok(Said::Command {
            fleet,
            kid: received.kid,
            command,
        })
    }

    /// The key of a device, derived from its batch's, and generation by generation from the one before.
    ///
    /// # Errors
    /// A refusal when the batch's key is not there.
    pub fn device_key(&mut self, id: &DeviceId, kid: &Kid, now_ms: u64) -> Result<Key, Refusal> {
        let name = (id.clone(), kid.clone());
        if let Some(key) = self.devices.find(&name) {
            return Ok(key);
        }
        if kid.generation > GENERATIONS_MAX {
            return Err(refused(
                "unknown-key",
                format!("a key has at most {GENERATIONS_MAX} generations, not {kid}"),
            ));
        }
        let batch = self.seek(Holder::Enrolment, &Kid::first(&kid.name), now_ms)?;
        let first = batch.for_device(id, 1);
        let key = (2..=kid.generation).fold(first, |key, next| key.next_generation(id, next));
        self.devices.keep(name, key.clone());
        Ok(key)
    }

    /// The key of a manager, viewer or admin.
    ///
    /// # Errors
    /// A refusal when it is not there.
    pub fn person_key(&mut self, kid: &Kid, now_ms: u64) -> Result<Key, Refusal> {
        self.seek(Holder::Person, kid, now_ms)
    }

    fn seek(&mut self, holder: Holder, kid: &Kid, now_ms: u64) -> Result<Key, Refusal> {
        let name = (holder, kid.clone());
        let known = self.sought.find(&name).filter(|sought| match sought {
            Sought::Found(_) => true,
            Sought::Absent { again_ms, .. } => now_ms < *again_ms,
        });
        let sought = known.unwrap_or_else(|| {
            let read = match holder {
                Holder::Enrolment => self.folder.enrolment(kid),
                Holder::Person => self.folder.person(kid),
            };
            let sought = found(read, now_ms);
            self.sought.keep(name, sought.clone());
            sought
        });
        match sought {
            Sought::Found(key) => Ok(key),
            Sought::Absent { why: None, .. } => Err(refused(
                "unknown-key",
                format!("there is no key {kid} here"),
            )),
            // The reason names a path of this machine: it is for the log, not for the topic.
            Sought::Absent { why: Some(_), .. } => Err(refused(
                "unusable-key",
                format!("key {kid} can't be used, the service's log says why"),
            )),
        }
    }
}

fn found(read: Result<Option<Key>, KeyError>, now_ms: u64) -> Sought {
    let again_ms = now_ms.saturating_add(ABSENT_MS);
    match read {
        Ok(Some(key)) => Sought::Found(key),
        Ok(None) => Sought::Absent {
            again_ms,
            why: None,
        },
        Err(error) => {
            // A person must act: the key is there and the service may not, or can't, read it.
            tracing::error!(%error, "key not usable");
            Sought::Absent {
                again_ms,
                why: Some(error.to_string()),
            }
        }
    }
}

fn parsed(payload: &[u8]) -> Result<Received, Refusal> {
    Received::parse(payload).map_err(|error| refused("envelope", error.to_string()))
}

fn opened<'a>(received: &'a Received, key: &Key, topic: &str) -> Result<&'a [u8], Refusal> {
    received
        .verify(key, topic)
        .map_err(|error| refused("forged", error.to_string()))
}

fn decoded<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    codec::decode(body).map_err(|error| refused("damaged", error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use simquota_shared::envelope::{seal, sign};
    use simquota_shared::message::Status;
    use simquota_shared::units::{Boot, Epoch};

    use super::*;

    struct Room {
        _data: tempfile::TempDir,
        folder: KeyFolder,
        verifier: Verifier,
    }

    fn room() -> Room {
        let data = tempfile::tempdir().unwrap();
        let folder = KeyFolder::create(data.path()).unwrap();
        folder.make_node().unwrap();
        folder.make_enrolment(&"batch".parse().unwrap()).unwrap();
        let node_key = folder.node().unwrap().verifying_key();
        let verifier = Verifier::new(folder.clone(), "cloud-1".parse().unwrap(), node_key);
        Room {
            _data: data,
            folder,
            verifier,
        }
    }

    fn status() -> Vec<u8> {
        let status = Status {
            epoch: Epoch(1),
            boot: Boot(1),
            connection: 1,
            online: true,
            channel: None,
            agent: "a".parse().unwrap(),
            backlog: 0,
        };
        codec::encode(&status).unwrap()
    }

    const TOPIC: &str = "csim/v1/d/dev-1/status";

    fn sealed(room: &Room, topic: &str, body: &[u8]) -> Vec<u8> {
        let kid = Kid::first(&"batch");
        let batch = room.folder.enrolment(&kid).unwrap().unwrap();
        let key = batch.for_device(&"dev-1".parse().unwrap(), 1);
        seal(&key, &kid, topic, body).unwrap()
    }

    fn reason(room: &mut Room, topic: &str, payload: &[u8]) -> &'static str {
        room.verifier.read(topic, payload, 0).unwrap_err().reason
    }

    #[test]
    fn a_device_is_heard_under_its_derived_key() {
        let mut room = room();
        let message = sealed(&room, TOPIC, &status());
        // Twice: the second time the derived key comes out of memory.
        for _ in 0..2 {
            let said = room.verifier.read(TOPIC, &message, 0).unwrap();
            assert!(
                matches!(said, Said::Device { id, request: DeviceRequest::Status(_), .. }
                if id.as_str() == "dev-1")
            );
        }
    }

    #[test]
    fn each_thing_that_is_wrong_has_its_reason() {
        let mut room = room();
        let message = sealed(&room, TOPIC, &status());
        let other = "csim/v1/d/dev-2/status";
        assert_eq!(reason(&mut room, other, &message), "forged");
        assert_eq!(
            reason(&mut room, "csim/v1/d/dev-1/down/credit", &message),
            "topic"
        );
        assert_eq!(reason(&mut room, "other", &message), "topic");
        assert_eq!(reason(&mut room, "csim/v1/d/Dev/status", &message), "topic");
        let half = message.get(..message.len() / 2).unwrap();
        assert_eq!(reason(&mut room, TOPIC, half), "envelope");
        assert_eq!(
            reason(&mut room, TOPIC, &vec![0; MESSAGE_MAX + 1]),
            "too-large"
        );
        assert_eq!(
            reason(&mut room, &"a".repeat(TOPIC_MAX + 1), &message),
            "too-large"
        );
        assert_eq!(reason(&mut room, "csim/v1/ops/command", &[]), "empty");
        assert_eq!(room.verifier.read(TOPIC, &[], 0).unwrap(), Said::Nothing);
        let damaged = sealed(&room, TOPIC, &[0x80]);
        assert_eq!(reason(&mut room, TOPIC, &damaged), "damaged");
        assert_eq!(
            reason(&mut room, "csim/v1/ops/command", &message),
            "unknown-key"
        );
    }

    #[test]
    fn a_new_key_file_is_found_a_second_after_it_was_missed() {
        let mut room = room();
        let id = "late".parse().unwrap();
        let kid = Kid::first(&id);
        assert!(room.verifier.person_key(&kid, 0).is_err());
        room.folder.make_person(&id).unwrap();
        assert!(room.verifier.person_key(&kid, ABSENT_MS - 1).is_err());
        assert!(room.verifier.person_key(&kid, ABSENT_MS).is_ok());
    }

    #[test]
    fn a_probe_is_ours_only_under_the_nodes_signature() {
        let mut room = room();
        let topic = "csim/v1/d/cloud-1/up/usage";
        let node = room.folder.node().unwrap();
        let probe = sign(&node, &Kid::first(&"cloud-1"), topic, &[1]).unwrap();
        assert_eq!(room.verifier.read(topic, &probe, 0).unwrap(), Said::Probe);
        let elsewhere = "csim/v1/d/cloud-1/up/ack";
        assert_eq!(reason(&mut room, elsewhere, &probe), "envelope");
    }

    #[test]
    fn the_key_cache_is_bounded_and_keeps_what_is_used() {
        let mut recent: Recent<u32, u32> = Recent::new(8);
        recent.keep(0, 0);
        for number in 1..100 {
            assert_eq!(recent.find(&0), Some(0), "{number}");
            recent.keep(number, number);
            assert!(recent.young.len() + recent.old.len() <= 8);
        }
        assert_eq!(recent.find(&1), None);
    }
}
