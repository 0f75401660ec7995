//! `d/{device}/status`: retained, with a last will that says offline. It never changes the ledger.

use crate::ids::{ChannelId, Text};
use crate::units::{Boot, Epoch};

crate::wire! {
    /// `[1, epoch, boot, connection, online, channel / null, agent, backlog]`
    pub struct Status[version] {
        /// The life of the device's store.
        pub epoch: Epoch,
        /// The agent's start.
        pub boot: Boot,
        /// Counts the connections of this boot, so that an old will is told from a new status.
        pub connection: u64,
        /// False in the last will.
        pub online: bool,
        /// The data channel in use.
        pub channel: Option<ChannelId>,
        /// The agent's name and version.
        pub agent: Text,
        /// Samples that the ledger has not acknowledged.
        pub backlog: u64,
    }
}
