//! Everything that touches the world: clocks, counters, links, the broker.
//!
//! The agent's decisions live elsewhere and are pure; nothing here decides about quota.

pub mod channel;
pub mod clock;
pub mod counter;
pub mod folder;
pub mod gate;
pub mod hook;
pub mod keyfile;
pub mod link;
pub mod mirror;
pub mod mqtt;
mod netlink;
pub mod post;
pub mod record;
pub mod recover;
pub mod service;
pub mod store;
pub mod tls;
pub mod trace;
