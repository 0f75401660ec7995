//! What the suites, the demo, the simulator and the benchmarks share: brokers, processes, free ports.

pub mod bench;
pub mod broker;
pub mod certificates;
pub mod conformance;
pub mod demo;
pub mod device;
pub mod disk;
pub mod late;
pub mod missing;
pub mod netns;
pub mod port;
pub mod process;
pub mod prove;
#[allow(
    clippy::indexing_slicing,
    reason = "an index into JSON that is not there gives null"
)]
pub mod sbom;
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)]
pub mod sim;
pub mod tools;
pub mod world;
