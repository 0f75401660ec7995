//! The protocol as strangers have it: its documents against the code, and an implementation that shares nothing with it.

mod codec;
mod documents;
mod schema;
mod sniffer;
mod stranger;
