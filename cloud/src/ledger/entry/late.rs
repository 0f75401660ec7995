//! Usage that came late: charged all the same, and never without a word of it.

use simquota_shared::units::Octets;
use simquota_shared::wire;

wire! {
    /// How much of a debit came late, and after what (DESIGN section 5, "Late usage"). `[octets, after]`
    pub struct Late {
        /// Octets that came late.
        pub octets: Octets,
        /// After what: bits of [`after`].
        pub after: u64,
    }
}

/// After what usage was late, as bits.
pub mod after {
    /// The lease of the last decision was over, or the octets' positions were in a grant that had lapsed.
    pub const LEASE: u64 = 1;
    /// A package that had ended paid for it.
    pub const END: u64 = 2;
    /// It lies beyond the used total that a *final* named: the device said that it was done.
    pub const FINAL: u64 = 4;
    /// Each bit and its name, in exports and events.
    pub const NAMES: [(u64, &str); 3] = [(LEASE, "lease"), (END, "end"), (FINAL, "final")];
}

impl Late {
    /// After what, for exports and events: `lease`, `end`, `final`, joined by `+`.
    #[must_use]
    pub fn names(&self) -> String {
        let set = after::NAMES.iter().filter(|(bit, _)| self.after & bit != 0);
        set.map(|(_, name)| *name).collect::<Vec<_>>().join("+")
    }
}
