//! `d/{device}/up/usage` and `down/usage`: a log with a cumulative acknowledgement. Patent steps S32, S33 and S5.
//!
//! A batch is columns: entry `i` of each column belongs to row `i`. It is of one SIM, one zone and one boot.

use crate::code::Code;
use crate::ids::{Iccid, ZoneId};
use crate::units::{Boot, Epoch, Octets, Seq, UnixMillis};

/// Flags of a row, as bits.
pub mod flag {
    /// The row ends where the device left this SIM (S33).
    pub const SWITCH: u64 = 1;
    /// The row ends with the agent's orderly end.
    pub const SHUTDOWN: u64 = 2;
    /// The interface's counter began anew within the row.
    pub const RESET: u64 = 4;
    /// The row's time is not to be trusted.
    pub const CLOCK_UNSURE: u64 = 8;
    /// The row's octets were metered past the ceiling in force (DESIGN section 11, number 23).
    pub const OVERRUN: u64 = 16;
    /// The service stopped unexpectedly (S5): the row is the first after an unclean start, or, with [`SWITCH`], it ends
    /// where the SIM's link was lost.
    pub const UNCLEAN: u64 = 32;
    /// All that is defined; other bits are ignored.
    pub const ALL: u64 = 63;
}

/// The most rows of a batch.
pub const ROWS_MAX: usize = 1000;

crate::wire! {
    /// Consecutive samples. `[1, epoch, boot, iccid, zone, first, clock, t0, interval_s, total, [dt], [up], [down],
    /// [own], [flags], [spans], [unsure]]`
    pub struct UsageBatch[version] {
        /// The life of the device's store.
        pub epoch: Epoch,
        /// The agent's start in which the rows were metered.
        pub boot: Boot,
        /// The SIM that carried the octets.
        pub iccid: Iccid,
        /// Where.
        pub zone: ZoneId,
        /// The number of the first sample.
        pub first: Seq,
        /// 1: `t0` is Unix time in seconds. 0: the device had no clock, `t0` counts seconds since the agent's start.
        pub clock: u64,
        /// The end of the first row.
        pub t0: u64,
        /// The nominal interval of samples.
        pub interval_s: u64,
        /// The used total after the last row.
        pub total: Octets,
        /// For each row but the first: seconds since the row before, less the interval.
        pub dt: Vec<i64>,
        /// IP octets sent, the agent's own included.
        pub up: Vec<u64>,
        /// IP octets received, the agent's own included.
        pub down: Vec<u64>,
        /// How many of `up + down` were the agent's own; empty: none were.
        pub own: Vec<u64>,
        /// `(row, bits of [flag])` where there are any.
        pub flags: Vec<(u64, u64)>,
        /// `(row, samples merged into it)` where it is more than one; numbers go on by count.
        pub spans: Vec<(u64, u64)>,
        /// `(row, octets)` declared as possibly used and not metered, after a power cut.
        pub unsure: Vec<(u64, u64)>,
    }
}

crate::wire! {
    /// Durable in the ledger up to `mark`. `[1, epoch, code, mark, total, first, retry_s / null, now]`
    pub struct UsageAck[version] {
        /// The epoch of the batch.
        pub epoch: Epoch,
        /// 2001; 3004 after `retry_s`; 5002, 5003, 5004.
        pub code: Code,
        /// Every sample up to this number is in the ledger: the device may delete it.
        pub mark: Seq,
        /// The used total at the mark.
        pub total: Octets,
        /// The first number of the batch that is answered.
        pub first: Seq,
        /// When to send again after 3004.
        pub retry_s: Option<u64>,
        /// The cloud's time.
        pub now: UnixMillis,
    }
}
