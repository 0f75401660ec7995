//! The protocol as strangers have it: its documents against the code, and an implementation that shares nothing with it.

mod codec;
mod conformance;
mod demo;
mod documents;
mod recorded;
mod replayed;
mod schema;
mod skew;
mod sniffer;
mod stranger;
