//! Everything that holds the contract still: what a message looks like, what is refused, and why.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod appendix_a;
mod asyncapi;
mod bounds;
mod cose;
mod document;
mod envelope;
mod golden;
mod hostile;
mod keys;
mod message;
mod names;
mod samples;
mod schema;
mod smallest;
mod source;
mod vectors;
