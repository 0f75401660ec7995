//! Everything that touches the world: clocks, key files, the store, the broker, and the loop that joins them.
//!
//! Nothing here decides about quota: that is [`crate::charging`], which is pure.
//!
//! | module | what |
//! |---|---|
//! | [`backup`] | the journal as one file, and back |
//! | [`clock`] | the only place that reads a clock |
//! | [`keys`] | the key folder: secrets never leave it |
//! | [`roster`] | whom the keys were made for, to write a broker's access control from |
//! | [`store`] | the journal and its checkpoints, durable |
//! | [`mqtt`] | a connection that comes back, acknowledgements in the order of delivery |
//! | [`tls`] | certificates and keys, read before each connection |
//! | [`verify`] | from octets to a request, or to a refusal with a reason |
//! | [`admission`] | how often a device may ask |
//! | `pipeline` | receive, verify, decide, commit, send, acknowledge |
//! | `query` | answers out of the journal, beside the pipeline |
//! | [`hooks`] | events to receivers over HTTP, each from a cursor of its own |
//! | [`http`] | health, readiness, metrics, the log's level, for whoever has a token |
//! | [`metrics`] | what is counted and timed, in Prometheus' words |
//! | [`serve`] | the service: starts all of it and stops it |

pub mod admission;
pub mod backup;
pub mod clock;
pub mod hooks;
pub mod http;
pub mod keys;
pub mod metrics;
pub mod mqtt;
#[cfg(test)]
mod peer;
mod pipeline;
mod query;
pub mod roster;
pub mod serve;
pub mod store;
pub mod tls;
pub mod verify;
