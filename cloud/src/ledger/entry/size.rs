//! Why a grant has its size.

use simquota_shared::{wire, wire_enum};

wire_enum! {
    /// What decided how much a grant is.
    pub enum By {
        /// What the device asked for.
        Asked = 0,
        /// Its recent rate, times how long a grant is to last.
        Rate = 1,
        /// The least that policy grants.
        Least = 2,
        /// The most that policy grants.
        Most = 3,
        /// Half of what is left: near the end grants are smaller.
        Half = 4,
        /// Its share of a pool.
        Share = 5,
        /// Limits of the day and the month.
        Limit = 6,
        /// All that was left.
        Left = 7,
        /// A package that ends soon is granted alone.
        Alone = 8,
        /// Its share of what a pool gained, with those who waited beside it.
        Push = 9,
    }
}

wire! {
    /// Why a grant has its size. `[by, octets an hour / null, seconds]`
    pub struct Size {
        /// What decided.
        pub by: By,
        /// The device's recent rate; none: not known, or not asked for by policy.
        pub hourly: Option<u64>,
        /// How long a grant was to last.
        pub lasts_s: u64,
    }
}
