//! The cloud service: registers devices, hands out SIMs, sells packages, and books every octet in a durable
//! double-entry ledger.
//!
//! [`ledger`] and [`charging`] are pure. [`io`] touches the world, [`config`] reads `cloud.toml`, and [`cli`] is
//! the program, so that another binary can run it too.

#![doc = include_str!("../THREATS.md")]
#![doc = include_str!("../OPERATIONS.md")]

pub mod charging;
pub mod cli;
pub mod config;
pub mod io;
pub mod ledger;
