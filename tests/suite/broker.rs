//! What the design relies on in a broker, and what it must not rely on, held against both real brokers.
//! Everything here uses rumqttc directly, so it also pins what rumqttc does.

pub(crate) mod client;
mod contract;
mod pinned;
