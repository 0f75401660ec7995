//! From a delivery to what is shown of it: whose it is, whether that is true, and what it says.

use std::collections::BTreeMap;
use std::fmt::Debug;

use serde::de::DeserializeOwned;
use serde_cbor::Value;
use simquota_shared::codec;
use simquota_shared::envelope::{GENERATIONS_MAX, Key, Kid, Received, open_signed};
use simquota_shared::ids::DeviceId;
use simquota_shared::message::{
    Ack, Command, CreditAnswer, CreditRequest, Event, FleetCommand, FleetReply, NodeStatus,
    RegisterAnswer, RegisterRequest, Rejected, Statistics, Status, Summary, UsageAck, UsageBatch,
};
use simquota_shared::topic::{Down, Topic, Up};

use crate::cli::ask::Asker;
use crate::io::mqtt::Delivery;

/// Whether a message is what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Verdict {
    /// Its key is here, and fits.
    Verified,
    /// No key here can tell, for this reason.
    Unverified(String),
    /// It is forged or damaged, for this reason.
    Refused(String),
}

/// A message, looked at.
pub(in crate::cli) struct Seen {
    pub(in crate::cli) topic: String,
    /// The key that it names.
    pub(in crate::cli) kid: Option<String>,
    pub(in crate::cli) verdict: Verdict,
    /// As it came.
    pub(in crate::cli) message: Vec<u8>,
    /// What is in the envelope; all of it, if there is none.
    pub(in crate::cli) payload: Vec<u8>,
    /// The payload's fields.
    pub(in crate::cli) words: String,
}

/// Keys that are kept at hand; beyond them all are looked up anew.
const KEYS_MAX: usize = 20_000;

/// The keys at hand. One that was found is not looked up again: a key never changes, its generation does.
pub(in crate::cli) struct Reader {
    asker: Asker,
    /// A device's, or a person's.
    found: BTreeMap<(Option<DeviceId>, Kid), Key>,
}

impl Reader {
    pub(in crate::cli) fn new(asker: Asker) -> Self {
        Self {
            asker,
            found: BTreeMap::new(),
        }
    }

    pub(in crate::cli) fn read(&mut self, delivery: &Delivery) -> Seen {
        let name = delivery.topic().unwrap_or("(not text)");
        let message = delivery.payload();
        let (kid, verdict, payload) = match name.parse::<Topic>() {
            Err(error) => (None, Verdict::Refused(error.to_string()), message.to_vec()),
            // Whoever clears a retained message publishes an empty one.
            Ok(_) if message.is_empty() => (None, Verdict::Verified, Vec::new()),
            Ok(topic) if signed(&topic) => self.signature(name, message),
            Ok(topic) => self.tag(&topic, name, message),
        };
        let (words, verdict) = match name.parse::<Topic>() {
            Ok(_) if message.is_empty() => ("cleared".to_owned(), verdict),
            // The service tests on its own topics that its subscriptions deliver.
            Ok(topic) if !signed(&topic) && claimed(message).is_some() => {
                ("a test of the service's own".to_owned(), verdict)
            }
            Ok(topic) => match (words(&topic, &payload), verdict) {
                (Ok(words), verdict) => (words, verdict),
                (Err(why), Verdict::Refused(forged)) => {
                    (String::new(), Verdict::Refused(format!("{forged}; {why}")))
                }
                (Err(why), _) => (String::new(), Verdict::Refused(why)),
            },
            Err(_) => (String::new(), verdict),
        };
        Seen {
            topic: name.to_owned(),
            kid: kid.map(|kid| kid.to_string()),
            verdict,
            message: message.to_vec(),
            payload,
            words,
        }
    }

    /// A message under a key that its sender and its receiver have.
    fn tag(
        &mut self,
        topic: &Topic,
        name: &str,
        message: &[u8],
    ) -> (Option<Kid>, Verdict, Vec<u8>) {
        let received = match Received::parse(message) {
            Ok(received) => received,
            // The service's own test that its subscriptions deliver is signed.
            Err(_) if claimed(message).is_some() => return self.signature(name, message),
            Err(error) => return (None, Verdict::Refused(error.to_string()), message.to_vec()),
        };
        let kid = received.kid.clone();
        let device = match topic {
            Topic::Up(device, _) | Topic::Status(device) | Topic::Down(device, _) => Some(device),
            _ => None,
        };
        let key = self.key(device, &kid);
        let verdict = match key {
            None => Verdict::Unverified(format!("key {kid} is not here")),
            Some(key) => match received.verify(&key, name) {
                Ok(_) => Verdict::Verified,
                Err(error) => Verdict::Refused(error.to_string()),
            },
        };
        (Some(kid), verdict, received.unverified().to_vec())
    }

    /// A message that a service signed.
    fn signature(&self, name: &str, message: &[u8]) -> (Option<Kid>, Verdict, Vec<u8>) {
        let Some((kid, payload)) = claimed(message) else {
            let why = "it is no signed message".to_owned();
            return (None, Verdict::Refused(why), message.to_vec());
        };
        let verdict = match &self.asker.node {
            Some(node) if kid.name == self.asker.config.node.as_str() => {
                match open_signed(node, name, message) {
                    Ok(_) => Verdict::Verified,
                    Err(error) => Verdict::Refused(error.to_string()),
                }
            }
            _ => Verdict::Unverified(format!("the key of service {} is not here", kid.name)),
        };
        (Some(kid), verdict, payload)
    }

    fn key(&mut self, device: Option<&DeviceId>, kid: &Kid) -> Option<Key> {
        let whose = (device.cloned(), kid.clone());
        if let Some(key) = self.found.get(&whose) {
            return Some(key.clone());
        }
        let key = match device {
            Some(device) => self.device_key(device, kid),
            None => self.person_key(kid),
        }?;
        if self.found.len() >= KEYS_MAX {
            self.found.clear();
        }
        self.found.insert(whose, key.clone());
        Some(key)
    }

    fn device_key(&self, device: &DeviceId, kid: &Kid) -> Option<Key> {
        if kid.generation > GENERATIONS_MAX {
            return None;
        }
        let folder = self.asker.folder.as_ref()?;
        let batch = folder.enrolment(&Kid::first(&kid.name)).ok().flatten()?;
        let first = batch.for_device(device, 1);
        Some((2..=kid.generation).fold(first, |key, next| key.next_generation(device, next)))
    }

    fn person_key(&self, kid: &Kid) -> Option<Key> {
        if *kid == self.asker.kid {
            return Some(self.asker.key.clone());
        }
        self.asker.folder.as_ref()?.person(kid).ok().flatten()
    }
}

fn signed(topic: &Topic) -> bool {
    match topic {
        Topic::FleetEvent(_)
        | Topic::FleetSummary(_)
        | Topic::OpsNode(_)
        | Topic::OpsStatistics(_)
        | Topic::OpsRejected => true,
        Topic::Up(..)
        | Topic::Status(_)
        | Topic::Down(..)
        | Topic::FleetCommand(_)
        | Topic::FleetReply(..)
        | Topic::OpsCommand
        | Topic::OpsReply(_) => false,
    }
}

/// Key and payload of a COSE_Sign1 as it claims them, not verified.
fn claimed(message: &[u8]) -> Option<(Kid, Vec<u8>)> {
    const SIGN1: u8 = 0xd2;
    if message.first() != Some(&SIGN1) {
        return None;
    }
    let Value::Array(parts) = serde_cbor::from_slice(message).ok()? else {
        return None;
    };
    let [Value::Bytes(protected), _, Value::Bytes(payload), _] = parts.as_slice() else {
        return None;
    };
    let Value::Map(header) = serde_cbor::from_slice(protected).ok()? else {
        return None;
    };
    let Value::Bytes(kid) = header.get(&Value::Integer(4))? else {
        return None;
    };
    let (name, generation) = std::str::from_utf8(kid).ok()?.split_once('/')?;
    let kid = Kid {
        name: name.to_owned(),
        generation: generation.parse().ok()?,
    };
    Some((kid, payload.clone()))
}

fn words(topic: &Topic, payload: &[u8]) -> Result<String, String> {
    match topic {
        Topic::Up(_, Up::Register) => fields::<RegisterRequest>(payload),
        Topic::Up(_, Up::Usage) => fields::<UsageBatch>(payload),
        Topic::Up(_, Up::Credit) => fields::<CreditRequest>(payload),
        Topic::Up(_, Up::Ack) => fields::<Ack>(payload),
        Topic::Status(_) => fields::<Status>(payload),
        Topic::Down(_, Down::Register) => fields::<RegisterAnswer>(payload),
        Topic::Down(_, Down::Usage) => fields::<UsageAck>(payload),
        Topic::Down(_, Down::Credit) => fields::<CreditAnswer>(payload),
        Topic::Down(_, Down::Command) => fields::<Command>(payload),
        Topic::FleetCommand(_) | Topic::OpsCommand => fields::<FleetCommand>(payload),
        Topic::FleetReply(..) | Topic::OpsReply(_) => fields::<FleetReply>(payload),
        Topic::FleetEvent(_) => fields::<Event>(payload),
        Topic::FleetSummary(_) => fields::<Summary>(payload),
        Topic::OpsNode(_) => fields::<NodeStatus>(payload),
        Topic::OpsStatistics(_) => fields::<Statistics>(payload),
        Topic::OpsRejected => fields::<Rejected>(payload),
    }
}

fn fields<T: DeserializeOwned + Debug>(payload: &[u8]) -> Result<String, String> {
    match codec::decode::<T>(payload) {
        Ok(message) => Ok(plain(&format!("{message:?}"))),
        Err(error) => Err(error.to_string()),
    }
}

/// `Octets(5)` becomes `5`, `DeviceId("a")` becomes `"a"`: the field's name says what it is.
fn plain(debug: &str) -> String {
    let mut out = String::with_capacity(debug.len());
    let mut rest = debug;
    while let Some(open) = rest.find('(') {
        let (before, after) = rest.split_at(open);
        let name_begin = before
            .rfind(|c: char| !c.is_alphanumeric() && c != '_')
            .map_or(0, |at| at + 1);
        let (keep, name) = before.split_at(name_begin);
        out.push_str(keep);
        let inner = after.get(1..).unwrap_or_default();
        let end = inner.find(')');
        let body = end.and_then(|end| inner.get(..end)).unwrap_or_default();
        let digits = !body.is_empty() && body.chars().all(|c| c.is_ascii_digit() || c == '-');
        let quoted = body.len() > 1 && body.starts_with('"') && body.ends_with('"');
        if (digits || quoted) && !name.is_empty() {
            out.push_str(body);
            rest = inner.get(body.len() + 1..).unwrap_or_default();
        } else {
            out.push_str(name);
            out.push('(');
            rest = inner;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newtype_is_shown_as_what_is_in_it() {
        let debug = r#"A { device: DeviceId("t-1"), left: Some(Octets(5)), list: [Seq(1), Seq(2)], kind: Initial, why: Some(Text("a (b) c")) }"#;
        assert_eq!(
            plain(debug),
            r#"A { device: "t-1", left: Some(5), list: [1, 2], kind: Initial, why: Some(Text("a (b) c")) }"#
        );
    }
}
