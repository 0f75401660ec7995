//! The one integration binary: a module for each suite.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod broker;
mod demo;
mod kills;
mod mistakes;
mod netns;
mod pool;
mod process;
mod refused;
mod remainder;
mod simulator;
mod tidy;
mod traces;
mod world;

/// Named so that it is started last: tests start in the order of their names.
mod zz {
    #[test]
    fn names_what_did_not_run() {
        simquota_tests::missing::report();
    }
}
