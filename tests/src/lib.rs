//! What the suites, the demo, the simulator and the benchmarks share: brokers, processes, free ports.

pub mod bench;
pub mod broker;
pub mod demo;
pub mod missing;
pub mod netns;
pub mod port;
pub mod process;
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
pub mod sim;
