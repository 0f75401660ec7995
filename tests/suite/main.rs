//! The one integration binary: a module for each suite.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod access;
mod auditor;
mod beyond;
mod broker;
mod bulk;
mod channels;
mod commands;
mod demo;
mod events;
mod flood;
mod flow;
mod flows;
mod forgery;
mod guarded;
mod hand;
mod keys;
mod kills;
mod lives;
mod mistakes;
mod month;
mod netns;
mod operators;
mod outside;
mod pool;
mod process;
mod protocol;
mod refused;
mod remainder;
mod resumption;
mod rights;
mod rules;
mod service;
mod simulator;
mod tampered;
mod tidy;
mod tls;
mod traces;
mod trouble;
mod unending;
mod watching;

pub(crate) use simquota_tests::world;

/// Named so that it is started last: tests start in the order of their names.
mod zz {
    #[test]
    fn names_what_did_not_run() {
        simquota_tests::missing::report();
    }
}
