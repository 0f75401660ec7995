//! The simulator: many devices, a cloud and a bad network in one thread, in virtual time, from one seed.
//!
//! It runs the real pure code ([`simquota_edge::agent`], [`simquota_cloud::charging`]) in the real order of the shell
//! ([`simquota_edge::shell::carry_out`]). Everything else is made here: kernels with counters and gates, disks
//! that lose what was not synced, a broker that forgets, clocks that step, power cuts between any two steps.
//! Two runs of a seed give the same bytes.
//!
//! **After every event** (`check`): every identity of the ledger; a device with a valid grant never holds a
//! ceiling above the one that the cloud backs with segments; the kernel never lets traffic pass a ceiling that is not
//! durable; charged never exceeds metered; the same request gets the same answer; nothing is deleted on a device that
//! the ledger does not hold; nothing is sent that is not durable; each octet is paid by the package that its position
//! was reserved from.
//! **After quiescence**: charged = durably metered, and what was really used beyond that is what power cuts and lost
//! stores took; outboxes are empty; commands are settled; no reservation without a live lease; nobody without quota
//! while balance exists; the journal's audit holds.

#![doc = include_str!("FOUND.md")]

mod check;
mod cloud;
mod device;
mod dice;
mod many;
mod mutant;
mod plan;
pub mod plot;
mod rule;
mod run;
mod story;

pub use many::{Many, many};
pub use mutant::Mutant;
pub use plan::Size;
pub use run::{Failure, Figures, Outcome, run};
pub use story::Story;
