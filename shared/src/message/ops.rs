//! `ops/node`, `ops/statistics`, `ops/rejected`: what operators watch. Signed by the cloud.

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Text};
use crate::units::{EntryNumber, UnixMillis};

/// Octets as they came, as a CBOR byte string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Octets;
        impl serde::de::Visitor<'_> for Octets {
            type Value = Blob;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E>(self, octets: &[u8]) -> Result<Blob, E> {
                Ok(Blob(octets.to_vec()))
            }
        }
        deserializer.deserialize_bytes(Octets)
    }
}

/// How much of a refused message is shown.
pub const REJECTED_COPY_MAX: usize = 256;

crate::wire! {
    /// A message that was refused. `[1, at, topic, reason, detail, copy, count]`
    pub struct Rejected[version] {
        /// When, in the cloud's time.
        pub at: UnixMillis,
        /// The topic that it came on.
        pub topic: Text,
        /// A short name, counted in the statistics.
        pub reason: Text,
        /// In words.
        pub detail: Text,
        /// Its first [`REJECTED_COPY_MAX`] octets.
        pub copy: Blob,
        /// How many were refused since the service started.
        pub count: u64,
    }
}

crate::wire! {
    /// A cloud service's state; retained, with a last will. `[1, node, online, at, agent, state]`
    pub struct NodeStatus[version] {
        /// Which.
        pub node: NodeId,
        /// False in the last will.
        pub online: bool,
        /// When, in the cloud's time.
        pub at: UnixMillis,
        /// The service's version.
        pub agent: Text,
        /// `serving`, or why not.
        pub state: Text,
    }
}

crate::wire! {
    /// Figures since the service started. `[1, node, at, entries, received, rejected, decided, devices]`
    pub struct Statistics[version] {
        /// Which service.
        pub node: NodeId,
        /// When, in the cloud's time.
        pub at: UnixMillis,
        /// The last journal entry.
        pub entries: EntryNumber,
        /// Messages received.
        pub received: u64,
        /// Messages refused.
        pub rejected: u64,
        /// Credit requests decided.
        pub decided: u64,
        /// Devices known.
        pub devices: u64,
    }
}
