//! The contract between edge and cloud: units, ids, topics, messages, codec and envelope.
//!
//! Both sides, the simulator and every test share these types, and nothing else. This crate does no
//! I/O, reads no clock, draws no random number and knows no async runtime: what it needs is given to it.
//!
//! | module | what |
//! |---|---|
//! | [`units`] | octets, times, sequence and request numbers: one type each, checked arithmetic |
//! | [`ids`] | names that may stand in a topic; their parser is their only constructor |
//! | [`topic`] | the topic tree `csim/v1/…`, both ways between text and type |
//! | [`codec`] | CBOR, bounded and canonical or refused |
//! | [`envelope`] | COSE_Mac0 and COSE_Sign1 with the topic as external data; key derivation |
//! | [`message`] | one file for each message |
//! | [`trace`] | one name for a request or a sample in every log |
//! | `tls` | what a connection trusts, and what its errors mean (feature `tls`) |
//!
//! What follows is the protocol for one who writes another device or cloud. `protocol.cddl` beside this crate describes
//! every payload; tests hold page, schema and code together.

#![doc = include_str!("../PROTOCOL.md")]
#![doc = include_str!("../SMALLEST_DEVICE.md")]

pub mod code;
pub mod codec;
pub mod envelope;
pub mod ids;
pub mod message;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topic;
pub mod trace;
pub mod units;

/// Version of the wire: the first element of every payload (DESIGN: fields are only ever appended).
pub const WIRE_VERSION: u64 = 1;
