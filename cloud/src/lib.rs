//! The cloud service: registers devices, hands out SIMs, sells packages, and books every octet in a durable
//! double-entry ledger.

pub mod charging;
pub mod ledger;
