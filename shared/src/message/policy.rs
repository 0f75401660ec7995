//! What the cloud asks of a device's agent. Part of the registration answer and of a command.

use crate::units::Octets;

crate::wire! {
    /// The policy of a device. `[version, sample_s, report_s, own_charged, bootstrap, validity_s, overhead_permille]`
    pub struct Policy {
        /// Raised with each change; a lower one than the device has is not applied.
        pub version: u64,
        /// Seconds from one usage sample to the next.
        pub sample_s: u64,
        /// Seconds from one report to the next (patent step S32: the preset interval).
        pub report_s: u64,
        /// Whether the agent's own octets are charged to a package, or to the account `control`.
        pub own_charged: bool,
        /// Octets that a device may use in all before its first accepted answer of an epoch.
        pub bootstrap: Octets,
        /// How long a grant is valid, and so the lease: twice this (RFC 8506, 8.33 and 13).
        pub validity_s: u64,
        /// The share of the metered octets that reports may cost, in thousandths.
        pub overhead_permille: u64,
    }
}

impl Policy {
    /// What a device goes by until the cloud has told it anything.
    pub const DEFAULT: Self = Self {
        version: 0,
        sample_s: 60,
        report_s: 600,
        own_charged: true,
        bootstrap: Octets(64 * 1024),
        validity_s: 3600,
        overhead_permille: 10,
    };
}
