//! Which acknowledged rows are kept, for a cloud that was restored from an older backup.

use simquota_shared::units::Octets;

use crate::agent::Row;

/// Octets of a row's key.
const KEY_OCTETS: u64 = 16;

/// How long acknowledged rows are kept, and how many at most. Rows without a date are bounded by their size alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Seconds from a row's end.
    pub keep_s: u64,
    /// Octets of rows, before compression.
    pub octets: Octets,
}

impl Retention {
    /// What is acknowledged may go.
    pub const NONE: Retention = Retention {
        keep_s: 0,
        octets: Octets::ZERO,
    };

    /// Room for rows, from the newest on.
    pub(super) fn room(self, now_s: u64) -> Room {
        Room {
            since_s: now_s.saturating_sub(self.keep_s),
            left: self.octets.0,
        }
    }
}

/// What is left for older rows.
pub(super) struct Room {
    since_s: u64,
    left: u64,
}

impl Room {
    /// Whether a row is kept; after a no none that is older.
    pub(super) fn takes(&mut self, row: &Row, octets: usize) -> bool {
        let octets = u64::try_from(octets)
            .unwrap_or(u64::MAX)
            .saturating_add(KEY_OCTETS);
        let young = !row.clock || row.end >= self.since_s;
        let fits = octets <= self.left;
        self.left = self.left.saturating_sub(octets);
        young && fits
    }
}
