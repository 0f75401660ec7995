//! Everything that touches the world: clocks, counters, links, the broker.
//!
//! The agent's decisions live elsewhere and are pure; nothing here decides about quota.

pub mod clock;
pub mod counter;
pub mod link;
pub mod mqtt;
mod netlink;
pub mod record;
pub mod trace;
